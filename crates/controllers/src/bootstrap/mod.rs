//! Bootstrap tokens: secrets in kube-system by which nodes join. One controller deletes those that have expired, the
//! other signs `cluster-info` in kube-public with each, so that a node that knows a token can trust what it reads there.
//! <https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/>

mod cleaner;
mod signer;

pub use cleaner::start as start_cleaner;
pub use signer::start as start_signer;

use crate::framework::Start;
use knarr_api::core::v1::Secret;
use knarr_client::Informer;
use std::time::{Duration, SystemTime};

const NAMESPACE: &str = "kube-system";
const TYPE: &str = "bootstrap.kubernetes.io/token";

/// The secrets that hold tokens.
fn tokens(start: &Start) -> Informer<Secret> {
    start.informers.filtered::<Secret>(NAMESPACE, "", &format!("type={TYPE}"))
}

/// A text of a secret's data, empty when it is not there.
fn data(secret: &Secret, key: &str) -> String {
    let bytes = secret.data.as_ref().and_then(|data| data.get(key));
    bytes.map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned()).unwrap_or_default()
}

/// How long the token is good: `None` for ever, zero when it has expired or when nobody can tell.
fn left(secret: &Secret, now: SystemTime) -> Option<Duration> {
    let expiration = data(secret, "expiration");
    if expiration.is_empty() {
        return None;
    }
    let end = knarr_meta::time::parse(&expiration);
    Some(end.ok().and_then(|end| end.duration_since(now).ok()).unwrap_or_default())
}
