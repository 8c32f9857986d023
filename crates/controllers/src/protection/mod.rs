//! Protection of what is in use (KEP "storage object in use protection"): claims, volumes and volume attributes classes
//! carry a finalizer, which goes when they are being deleted and nobody uses them.

mod claims;
mod classes;
mod volumes;

pub use claims::start as start_claims;
pub use classes::start as start_classes;
pub use volumes::start as start_volumes;

use knarr_api::Kind;
use knarr_client::{Client, Error};

/// What is to happen to an object's finalizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// It is being deleted: if nobody uses it, the finalizer goes.
    Release,
    /// It has none yet.
    Protect,
    /// Nothing.
    Keep,
}

fn step<K: Kind>(object: &K, finalizer: &str) -> Step {
    let meta = object.meta();
    let has = meta.finalizers.iter().flatten().any(|f| f == finalizer);
    match (meta.deletion_timestamp.is_some(), has) {
        (true, true) => Step::Release,
        (false, false) => Step::Protect,
        _ => Step::Keep,
    }
}

async fn protect<K: Kind>(client: &Client, object: &K, finalizer: &str) -> Result<(), Error> {
    let mut changed = object.clone();
    changed.meta_mut().finalizers.get_or_insert_default().push(finalizer.to_owned());
    client.update(&changed).await.map(drop)
}

async fn release<K: Kind>(client: &Client, object: &K, finalizer: &str) -> Result<(), Error> {
    let mut changed = object.clone();
    changed.meta_mut().finalizers.get_or_insert_default().retain(|f| f != finalizer);
    match client.update(&changed).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}
