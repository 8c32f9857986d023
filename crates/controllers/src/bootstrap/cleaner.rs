//! token-cleaner: deletes bootstrap tokens when they expire, by a timer each.

use super::{left, tokens};
use crate::framework::{Next, Reconcile, Start, run};
use knarr_api::core::v1::Secret;
use knarr_base::clock::BoxFuture;
use knarr_client::informer::{Change, Key};
use knarr_client::{DeleteOptions, Error, Informer, WorkQueue};
use std::sync::Arc;

struct Cleaner {
    start: Start,
    secrets: Informer<Secret>,
}

/// Starts the controller.
pub fn start(start: Start) {
    let secrets = tokens(&start);
    let queue = WorkQueue::new(start.ctx.clone());
    let on_secret = queue.clone();
    secrets.on_change(move |change: &Change<Secret>| {
        if change.new.is_some() {
            on_secret.add(Key::of(&change.object().metadata));
        }
    });
    let ready = {
        let secrets = secrets.clone();
        async move { secrets.synced().await }
    };
    let controller = Arc::new(Cleaner { start: start.clone(), secrets });
    run(&start, "token-cleaner", 1, queue, ready, controller);
}

impl Reconcile for Cleaner {
    fn sync<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Next, Error>> {
        Box::pin(async move {
            let Some(secret) = self.secrets.get_key(key) else { return Ok(Next::Done) };
            match left(&secret, self.start.ctx.clock.now()) {
                None => return Ok(Next::Done),
                Some(left) if !left.is_zero() => return Ok(Next::After(left)),
                Some(_) => {}
            }
            let options = DeleteOptions {
                uid: secret.metadata.uid.clone(),
                resource_version: secret.metadata.resource_version.clone(),
                ..DeleteOptions::default()
            };
            match self.start.client.delete::<Secret>(&key.namespace, &key.name, &options).await {
                Err(error) if !error.is_not_found() => Err(error),
                _ => Ok(Next::Done),
            }
        })
    }
}
