//! persistentvolume-binder: claims get volumes and volumes know their claims (upstream's
//! pkg/controller/volume/persistentvolume). One worker does both, so that a volume is never promised twice from one
//! copy; a promise that somebody else outran is refused by the API server and made anew.
//!
//! - [`claims`]: what becomes of a claim: bound, lost, waiting for a consumer, or for a provisioner.
//! - [`volumes`]: what becomes of a volume: available, bound, released and reclaimed.

mod claims;
mod save;
mod volumes;

use crate::framework::{Next, Reconcile, Start, run};
use knarr_api::Kind;
use knarr_api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use knarr_api::storage::v1::StorageClass;
use knarr_api::volume;
use knarr_base::clock::BoxFuture;
use knarr_client::informer::{Change, Key};
use knarr_client::{Client, Error, Informer, Recorder, WorkQueue};
use std::sync::Arc;
use std::time::Duration;

/// Claims that wait are looked at this often though nothing happened; upstream's resync.
const SAFETY_NET: Duration = Duration::from_secs(60);

struct Binder {
    client: Client,
    recorder: Recorder,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    classes: Informer<StorageClass>,
    pods: Informer<Pod>,
    queue: WorkQueue<Key>,
}

/// Starts the controller.
pub fn start(start: Start) {
    let informers = &start.informers;
    let binder = Arc::new(Binder {
        recorder: Recorder::new(start.client.clone(), "persistentvolume-controller", ""),
        client: start.client.clone(),
        claims: informers.get(),
        volumes: informers.get(),
        classes: informers.get(),
        pods: informers.get(),
        queue: WorkQueue::new(start.ctx.clone()),
    });
    watch(&binder);
    let ready = {
        let b = binder.clone();
        async move {
            b.claims.synced().await;
            b.volumes.synced().await;
            b.classes.synced().await;
            b.pods.synced().await;
        }
    };
    let queue = binder.queue.clone();
    run(&start, "persistentvolume-binder", 1, queue, ready, binder);
}

fn watch(binder: &Arc<Binder>) {
    let b = binder.clone();
    binder.claims.on_change(move |change: &Change<PersistentVolumeClaim>| {
        let claim = change.object();
        b.queue.add(Key::of(&claim.metadata));
        if !volume::volume_name(claim).is_empty() {
            b.queue.add(Key::new("", volume::volume_name(claim)));
        }
        // A volume that was promised to a claim that is gone must be told, even if the claim never knew of it.
        if change.new.is_none() {
            let promised = b.volumes.list("").into_iter().filter(|v| volume::is_for_claim(v, claim));
            promised.for_each(|v| b.queue.add(Key::of(&v.metadata)));
        }
    });
    let b = binder.clone();
    binder.volumes.on_change(move |change: &Change<PersistentVolume>| {
        let object = change.object();
        b.queue.add(Key::of(&object.metadata));
        match volume::claim_ref(object) {
            Some(of) => b.queue.add(Key::new(
                of.namespace.as_deref().unwrap_or_default(),
                of.name.as_deref().unwrap_or_default(),
            )),
            // It may be what a claim waits for.
            None => b.wake_claims(|claim| {
                let named = volume::volume_name(claim);
                named == object.name() || (named.is_empty() && volume::covers_access_modes(object, claim))
            }),
        }
        if change.new.is_none() {
            b.wake_claims(|claim| volume::volume_name(claim) == object.name());
        }
    });
    let b = binder.clone();
    binder.classes.on_change(move |change: &Change<StorageClass>| {
        let class = change.object().name();
        b.wake_claims(|claim| {
            !volume::is_fully_bound(claim)
                && (volume::class_of_claim(claim) == class || !volume::claim_has_class(claim))
        });
    });
    let b = binder.clone();
    binder.pods.on_change(move |change: &Change<Pod>| {
        // Whether anybody waits for a claim is told in its events.
        if change.old.is_none() || change.new.is_none() {
            let pod = change.object();
            let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
            let names = volumes.filter_map(|v| volume::claim_name(pod, v));
            let waits = |key: &Key| b.claims.get_key(key).is_some_and(|c| !volume::is_fully_bound(&c));
            names.map(|n| Key::new(pod.namespace(), &n)).filter(waits).for_each(|key| b.queue.add(key));
        }
    });
}

impl Binder {
    fn wake_claims(&self, which: impl Fn(&PersistentVolumeClaim) -> bool) {
        let claims = self.claims.list("").into_iter().filter(|claim| which(claim));
        claims.for_each(|claim| self.queue.add(Key::of(&claim.metadata)));
    }

    fn class_of(&self, claim: &PersistentVolumeClaim) -> Option<Arc<StorageClass>> {
        self.classes.get("", volume::class_of_claim(claim))
    }
}

impl Reconcile for Binder {
    fn sync<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Next, Error>> {
        Box::pin(async move {
            if key.namespace.is_empty() {
                if let Some(volume) = self.volumes.get_key(key) {
                    return self.sync_volume(&volume).await;
                }
            } else if let Some(claim) = self.claims.get_key(key) {
                if volume::annotation(&claim.metadata, volume::BIND_COMPLETED).is_some() {
                    self.sync_bound_claim(&claim).await?;
                } else {
                    self.sync_unbound_claim(&claim).await?;
                    return Ok(Next::After(SAFETY_NET));
                }
            }
            Ok(Next::Done)
        })
    }
}
