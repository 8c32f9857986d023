//! pv-protection: a volume stays as long as it is bound to a claim.

use super::{Step, protect, release, step};
use crate::framework::{Next, Reconcile, Start, run};
use knarr_api::core::v1::PersistentVolume;
use knarr_base::clock::BoxFuture;
use knarr_client::informer::{Change, Key};
use knarr_client::{Error, Informer, WorkQueue};
use std::sync::Arc;

const FINALIZER: &str = "kubernetes.io/pv-protection";

struct Volumes {
    start: Start,
    volumes: Informer<PersistentVolume>,
}

/// Starts the controller.
pub fn start(start: Start) {
    let volumes = start.informers.get::<PersistentVolume>();
    let queue = WorkQueue::new(start.ctx.clone());
    let on_volume = queue.clone();
    volumes.on_change(move |change: &Change<PersistentVolume>| {
        if change.new.as_ref().is_some_and(|volume| step(&**volume, FINALIZER) != Step::Keep) {
            on_volume.add(Key::of(&change.object().metadata));
        }
    });
    let ready = {
        let volumes = volumes.clone();
        async move { volumes.synced().await }
    };
    let controller = Arc::new(Volumes { start: start.clone(), volumes });
    run(&start, "pv-protection", 1, queue, ready, controller);
}

impl Reconcile for Volumes {
    fn sync<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Next, Error>> {
        Box::pin(async move {
            let Some(volume) = self.volumes.get_key(key) else { return Ok(Next::Done) };
            let is_bound = volume.status.as_ref().is_some_and(|s| s.phase.as_deref() == Some("Bound"));
            match step(&*volume, FINALIZER) {
                Step::Protect => protect(&self.start.client, &*volume, FINALIZER).await?,
                Step::Release if !is_bound => release(&self.start.client, &*volume, FINALIZER).await?,
                _ => {}
            }
            Ok(Next::Done)
        })
    }
}
