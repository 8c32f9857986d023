//! persistentvolume-expander: of a claim that asks for more than it has, somebody else is told to be waited for. No
//! volume is expanded in here: what upstream's controller expanded itself is CSI's, and directories of the local-path
//! class have no size of their own, which their provisioner says.

use crate::framework::{Next, Reconcile, Start, run};
use knarr_api::Kind;
use knarr_api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use knarr_api::volume;
use knarr_base::clock::BoxFuture;
use knarr_client::informer::{Change, Key};
use knarr_client::recorder::reference;
use knarr_client::{Error, Informer, Recorder, WorkQueue};
use knarr_meta::quantity::Quantity;
use std::sync::Arc;

struct Expander {
    recorder: Recorder,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
}

/// Starts the controller.
pub fn start(start: Start) {
    let controller = Arc::new(Expander {
        recorder: Recorder::new(start.client.clone(), "volume_expand", ""),
        claims: start.informers.get(),
        volumes: start.informers.get(),
    });
    let queue = WorkQueue::new(start.ctx.clone());
    let on_claim = queue.clone();
    controller.claims.on_change(move |change: &Change<PersistentVolumeClaim>| {
        if let (Some(old), Some(new)) = (&change.old, &change.new)
            && volume::requested(new) > volume::requested(old)
        {
            on_claim.add(Key::of(&new.metadata));
        }
    });
    let ready = {
        let c = controller.clone();
        async move {
            c.claims.synced().await;
            c.volumes.synced().await;
        }
    };
    run(&start, "persistentvolume-expander", 1, queue, ready, controller);
}

/// Bytes that a claim has got.
pub fn granted(claim: &PersistentVolumeClaim) -> Quantity {
    let held = claim.status.as_ref().and_then(|s| s.capacity.as_ref()).and_then(|c| c.get("storage"));
    held.and_then(|q| Quantity::parse(&q.0).ok()).unwrap_or_default()
}

impl Reconcile for Expander {
    fn sync<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Next, Error>> {
        Box::pin(async move {
            let Some(claim) = self.claims.get_key(key) else { return Ok(Next::Done) };
            let volume = self.volumes.get("", volume::volume_name(&claim));
            let bound = volume.is_some_and(|v| {
                volume::claim_ref(&v).is_some_and(|r| r.uid.as_deref() == Some(claim.uid()))
            });
            if bound && volume::requested(&claim) > granted(&claim) {
                let message = "waiting for an external controller to expand this PVC";
                self.recorder.normal(&reference(&*claim), "ExternalExpanding", message);
            }
            Ok(Next::Done)
        })
    }
}
