//! Following claims, volumes and classes; and what is done about a pod's claims before it is bound.

use super::Scheduler;
use crate::volumes::Plan;
use knarr_api::Kind;
use knarr_api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use knarr_api::storage::v1::StorageClass;
use knarr_api::volume::{self, SELECTED_NODE, annotation};
use knarr_base::clock::timeout;
use knarr_client::{Change, Informers};
use std::sync::Arc;
use std::time::Duration;

/// Volumes must be bound or made by then (upstream's bindTimeoutSeconds).
const LIMIT: Duration = Duration::from_secs(600);

impl Scheduler {
    /// Follows what volumes depend on; resolves when all of it is known.
    pub(super) fn follow_volumes(
        self: &Arc<Self>,
        informers: &Informers,
    ) -> impl Future<Output = ()> + Send + use<> {
        let claims = informers.get::<PersistentVolumeClaim>();
        let volumes = informers.get::<PersistentVolume>();
        let classes = informers.get::<StorageClass>();
        let this = self.clone();
        claims.on_change(move |change: &Change<PersistentVolumeClaim>| {
            let object = change.object();
            let key = (object.namespace().to_owned(), object.name().to_owned());
            this.state().all.volumes.set_claim(key, change.new.clone());
            this.storage_changed();
        });
        let this = self.clone();
        volumes.on_change(move |change: &Change<PersistentVolume>| {
            this.state().all.volumes.set_volume(change.object().name(), change.new.clone());
            this.storage_changed();
        });
        let this = self.clone();
        classes.on_change(move |change: &Change<StorageClass>| {
            this.state().all.volumes.set_class(change.object().name(), change.new.clone());
            this.storage_changed();
        });
        async move {
            claims.synced().await;
            volumes.synced().await;
            classes.synced().await;
        }
    }

    fn storage_changed(&self) {
        self.state().queue.cluster_changed();
        self.stored.send_modify(|n| *n += 1);
        self.wake.notify_one();
    }

    /// Does what the plan says and waits until all of it is bound.
    pub(super) async fn bind_volumes(&self, uid: &str, node: &str, plan: &Plan) -> Result<(), String> {
        if plan.is_empty() {
            return Ok(());
        }
        let failed = |e: knarr_client::Error| format!("binding volumes: {e}");
        for (volume, claim) in &plan.bind {
            if let Some(changed) = volume::bound_to_claim(volume, claim) {
                self.client.update(&changed).await.map_err(failed)?;
            }
        }
        for claim in &plan.provision {
            if annotation(&claim.metadata, SELECTED_NODE) == Some(node) {
                continue;
            }
            let mut changed = (**claim).clone();
            let annotations = changed.metadata.annotations.get_or_insert_default();
            annotations.insert(SELECTED_NODE.to_owned(), node.to_owned());
            self.client.update(&changed).await.map_err(failed)?;
        }
        let mut changes = self.stored.subscribe();
        let bound = async {
            loop {
                changes.borrow_and_update();
                if self.are_bound(uid, node, plan)? {
                    return Ok(());
                }
                if changes.changed().await.is_err() {
                    return Err("binding volumes: context canceled".to_owned());
                }
            }
        };
        let waited = timeout(&*self.ctx.clock, LIMIT, bound).await;
        waited.unwrap_or_else(|| Err("binding volumes: context deadline exceeded".to_owned()))
    }

    /// Whether all claims are bound to volumes that the node reaches; an error if they never will be.
    fn are_bound(&self, uid: &str, node: &str, plan: &Plan) -> Result<bool, String> {
        let state = self.state();
        if !state.all.is_placed(uid) {
            return Err("binding volumes: pod does not exist any more".to_owned());
        }
        let info = state.all.node(node).ok_or(format!("binding volumes: failed to get node {node:?}"))?;
        let volumes = &state.all.volumes;
        let mut all = true;
        for asked in plan.claims() {
            let claim = volumes.claim(asked.namespace(), asked.name());
            let Some(claim) = claim.filter(|c| c.uid() == asked.uid()) else {
                return Err(format!(
                    "binding volumes: error getting PVC \"{}/{}\"",
                    asked.namespace(),
                    asked.name()
                ));
            };
            if !volume::is_fully_bound(claim) {
                let being_made = plan.provision.iter().any(|p| p.uid() == claim.uid());
                // Until our own write is seen, there is no annotation that could have been taken away.
                let seen = claim.resource_version() != asked.resource_version();
                if being_made && seen && annotation(&claim.metadata, SELECTED_NODE).is_none() {
                    return Err(format!("binding volumes: provisioning failed for PVC {:?}", claim.name()));
                }
                all = false;
                continue;
            }
            match volumes.volume(volume::volume_name(claim)) {
                Some(volume) if volume::reaches(volume, info.labels(), node) => {}
                Some(volume) => {
                    return Err(format!(
                        "binding volumes: pv {:?} node affinity doesn't match node {node:?}: no matching \
                         NodeSelectorTerms",
                        volume.name()
                    ));
                }
                None => all = false,
            }
        }
        Ok(all)
    }
}
