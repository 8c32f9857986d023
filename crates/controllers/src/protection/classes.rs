//! volumeattributesclass-protection: a class of volume attributes stays as long as a claim or a volume names it.

use super::{Step, protect, release, step};
use crate::framework::{Next, Reconcile, Start, run};
use knarr_api::Kind;
use knarr_api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use knarr_api::storage::v1::VolumeAttributesClass;
use knarr_base::clock::BoxFuture;
use knarr_client::informer::{Change, Key};
use knarr_client::{Error, Informer, ListOptions, WorkQueue};
use std::sync::Arc;

const FINALIZER: &str = "kubernetes.io/vac-protection";

struct Classes {
    start: Start,
    classes: Informer<VolumeAttributesClass>,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
}

/// Starts the controller.
pub fn start(start: Start) {
    let informers = &start.informers;
    let controller = Classes {
        classes: informers.get(),
        claims: informers.get(),
        volumes: informers.get(),
        start: start.clone(),
    };
    let queue = WorkQueue::new(start.ctx.clone());
    let on_class = queue.clone();
    controller.classes.on_change(move |change: &Change<VolumeAttributesClass>| {
        if change.new.as_ref().is_some_and(|class| step(&**class, FINALIZER) != Step::Keep) {
            on_class.add(Key::of(&change.object().metadata));
        }
    });
    // A class that somebody named may be free now.
    let on_claim = queue.clone();
    controller.claims.on_change(move |change: &Change<PersistentVolumeClaim>| {
        let old = change.old.iter().flat_map(|claim| of_claim(claim));
        old.for_each(|name| on_claim.add(Key::new("", name)));
    });
    let on_volume = queue.clone();
    controller.volumes.on_change(move |change: &Change<PersistentVolume>| {
        let old = change.old.iter().filter_map(|volume| of_volume(volume));
        old.for_each(|name| on_volume.add(Key::new("", name)));
    });
    let controller = Arc::new(controller);
    let ready = {
        let c = controller.clone();
        async move {
            c.classes.synced().await;
            c.claims.synced().await;
            c.volumes.synced().await;
        }
    };
    run(&start, "volumeattributesclass-protection", 1, queue, ready, controller);
}

/// The classes that a claim has, had, or is to have.
fn of_claim(claim: &PersistentVolumeClaim) -> impl Iterator<Item = &str> {
    let status = claim.status.as_ref();
    let wanted = claim.spec.as_ref().and_then(|s| s.volume_attributes_class_name.as_deref());
    let current = status.and_then(|s| s.current_volume_attributes_class_name.as_deref());
    let target = status.and_then(|s| s.modify_volume_status.as_ref());
    let target = target.and_then(|m| m.target_volume_attributes_class_name.as_deref());
    [wanted, current, target].into_iter().flatten().filter(|name| !name.is_empty())
}

fn of_volume(volume: &PersistentVolume) -> Option<&str> {
    volume.spec.as_ref()?.volume_attributes_class_name.as_deref().filter(|name| !name.is_empty())
}

impl Classes {
    async fn is_used(&self, name: &str) -> Result<bool, Error> {
        let by_claim = |claim: &PersistentVolumeClaim| of_claim(claim).any(|class| class == name);
        let by_volume = |volume: &PersistentVolume| of_volume(volume) == Some(name);
        if self.claims.list("").iter().any(|c| by_claim(c))
            || self.volumes.list("").iter().any(|v| by_volume(v))
        {
            return Ok(true);
        }
        // Before what cannot be undone, not from a copy.
        let (client, all) = (&self.start.client, ListOptions::default());
        Ok(client.list::<PersistentVolumeClaim>("", &all).await?.items.iter().any(by_claim)
            || client.list::<PersistentVolume>("", &all).await?.items.iter().any(by_volume))
    }
}

impl Reconcile for Classes {
    fn sync<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Next, Error>> {
        Box::pin(async move {
            let Some(class) = self.classes.get_key(key) else { return Ok(Next::Done) };
            match step(&*class, FINALIZER) {
                Step::Protect => protect(&self.start.client, &*class, FINALIZER).await?,
                Step::Release if !self.is_used(class.name()).await? => {
                    release(&self.start.client, &*class, FINALIZER).await?;
                }
                _ => {}
            }
            Ok(Next::Done)
        })
    }
}
