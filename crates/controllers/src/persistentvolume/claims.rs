//! What becomes of a claim.

use super::Binder;
use super::save::Because;
use crate::framework::pods::phase;
use knarr_api::Kind;
use knarr_api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use knarr_api::storage::v1::StorageClass;
use knarr_api::volume::{self, BOUND_BY_CONTROLLER, SELECTED_NODE, annotation};
use knarr_client::Error;
use knarr_client::recorder::reference;
use std::sync::Arc;

/// Provisioners with this prefix are upstream's own, of which none is left that makes volumes.
const IN_TREE: &str = "kubernetes.io/";

impl Binder {
    /// A claim whose binding was finished once.
    pub(super) async fn sync_bound_claim(&self, claim: &PersistentVolumeClaim) -> Result<(), Error> {
        let name = volume::volume_name(claim);
        if name.is_empty() {
            let message = "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!";
            return self.lose(claim, "ClaimLost", message).await;
        }
        let Some(volume) = self.volume_for_certain(claim, name).await? else {
            let message = "Bound claim has lost its PersistentVolume. Data on the volume is lost!";
            return self.lose(claim, "ClaimLost", message).await;
        };
        match volume::claim_ref(&volume).map(|r| r.uid.as_deref().unwrap_or_default()) {
            None => self.bind(&volume, claim).await,
            Some(uid) if uid == claim.uid() => self.bind(&volume, claim).await,
            Some(_) => {
                let message = "Two claims are bound to the same volume, this one is bound incorrectly";
                self.lose(claim, "ClaimMisbound", message).await
            }
        }
    }

    /// A volume by name; before a claim is called lost, not from a copy.
    async fn volume_for_certain(
        &self,
        claim: &PersistentVolumeClaim,
        name: &str,
    ) -> Result<Option<Arc<PersistentVolume>>, Error> {
        if let Some(volume) = self.volumes.get("", name) {
            return Ok(Some(volume));
        }
        if volume::claim_phase(claim) == "Lost" {
            return Ok(None);
        }
        Ok(self.client.get_opt::<PersistentVolume>("", name).await?.map(Arc::new))
    }

    /// A claim that has no volume yet.
    pub(super) async fn sync_unbound_claim(&self, claim: &PersistentVolumeClaim) -> Result<(), Error> {
        match volume::volume_name(claim) {
            "" => self.find_volume(claim).await,
            name => self.bind_by_name(claim, name).await,
        }
    }

    async fn find_volume(&self, claim: &PersistentVolumeClaim) -> Result<(), Error> {
        let class = self.class_of(claim);
        let delayed = volume::waits_for_consumer(class.as_deref());
        let volumes = self.volumes.list("");
        if let Some(found) = volume::find_match(claim, volumes.iter().map(|v| &**v), None, delayed) {
            return self.bind(found, claim).await;
        }
        if self.assign_default_class(claim).await? {
            return Ok(());
        }
        let about = reference(claim);
        if delayed && annotation(&claim.metadata, SELECTED_NODE).is_none() {
            let (reason, message) = waiting_for(&self.unscheduled_users(claim));
            self.recorder.normal(&about, reason, message);
        } else if !volume::class_of_claim(claim).is_empty() {
            return self.ask_provisioner(claim, class.as_deref()).await;
        } else {
            let message = "no persistent volumes available for this claim and no storage class is set";
            self.recorder.normal(&about, "FailedBinding", message);
        }
        self.set_claim_phase(claim, "Pending", None).await
    }

    async fn bind_by_name(&self, claim: &PersistentVolumeClaim, name: &str) -> Result<(), Error> {
        let Some(volume) = self.volumes.get("", name) else {
            return self.set_claim_phase(claim, "Pending", None).await;
        };
        let about = reference(claim);
        if volume::claim_ref(&volume).is_none() {
            if let Err(why) = volume::check(&volume, claim) {
                let message = format!("Cannot bind to requested volume {name:?}: {why}");
                self.recorder.warning(&about, "VolumeMismatch", message);
                return self.set_claim_phase(claim, "Pending", None).await;
            }
            return self.bind(&volume, claim).await;
        }
        if volume::is_for_claim(&volume, claim) {
            return self.bind(&volume, claim).await;
        }
        let message = format!("volume {name:?} already bound to a different claim.");
        self.recorder.warning(&about, "FailedBinding", message);
        if annotation(&claim.metadata, BOUND_BY_CONTROLLER).is_some() {
            // Somebody took the mark of a finished binding off; it is not for us to choose again.
            tracing::warn!(claim = claim.name(), volume = name, "the claim is bound to a volume of another");
        }
        self.set_claim_phase(claim, "Pending", None).await
    }

    /// Gives the default class to a claim that names none (KEP-3333). Whether it did.
    async fn assign_default_class(&self, claim: &PersistentVolumeClaim) -> Result<bool, Error> {
        if volume::claim_has_class(claim) {
            return Ok(false);
        }
        let classes = self.classes.list("");
        let Some(class) = volume::default_class(classes.iter().map(|c| &**c)) else { return Ok(false) };
        let mut changed = claim.clone();
        changed.spec.get_or_insert_default().storage_class_name = class.metadata.name.clone();
        self.client.update(&changed).await?;
        Ok(true)
    }

    /// Pods that use the claim and have no node yet, sorted by name.
    fn unscheduled_users(&self, claim: &PersistentVolumeClaim) -> Vec<String> {
        let pods = self.pods.list(claim.namespace());
        let users = pods.iter().filter(|pod| {
            let spec = pod.spec.as_ref();
            let volumes = spec.iter().flat_map(|s| s.volumes.iter().flatten());
            let mut names = volumes.filter_map(|v| volume::claim_name(pod, v));
            !matches!(phase(pod), "Succeeded" | "Failed")
                && spec.and_then(|s| s.node_name.as_deref()).unwrap_or_default().is_empty()
                && names.any(|name| name == claim.name())
        });
        let mut names: Vec<String> = users.map(|pod| pod.name().to_owned()).collect();
        names.sort();
        names
    }

    /// Writes down who is to make a volume, which is all that a provisioner waits for.
    async fn ask_provisioner(
        &self,
        claim: &PersistentVolumeClaim,
        class: Option<&StorageClass>,
    ) -> Result<(), Error> {
        let about = reference(claim);
        let Some(class) = class else {
            let name = volume::class_of_claim(claim);
            let message = format!("storageclass.storage.k8s.io {name:?} not found");
            self.recorder.warning(&about, "ProvisioningFailed", message);
            return Ok(());
        };
        let provisioner = &class.provisioner;
        if provisioner.starts_with(IN_TREE) {
            let message = format!("no volume plugin matched name: {provisioner}");
            self.recorder.warning(&about, "ProvisioningFailed", message);
            return Ok(());
        }
        let keys = [volume::STORAGE_PROVISIONER, volume::BETA_STORAGE_PROVISIONER];
        let mut changed = claim.clone();
        let annotations = changed.metadata.annotations.get_or_insert_default();
        let missing = keys.into_iter().filter(|key| annotations.get(*key) != Some(provisioner));
        let missing: Vec<&str> = missing.collect();
        if !missing.is_empty() {
            missing.iter().for_each(|key| drop(annotations.insert((*key).to_owned(), provisioner.clone())));
            self.client.update(&changed).await?;
        }
        let message = format!(
            "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by \
             the system administrator. If volume creation is delayed, please verify that the provisioner is \
             running and correctly registered."
        );
        self.recorder.normal(&about, "ExternalProvisioning", message);
        Ok(())
    }

    /// Nobody can delete what is behind the volume.
    pub(super) fn no_deleter(volume: &PersistentVolume) -> Because {
        Because {
            reason: "VolumeFailedDelete",
            message: format!(
                "error getting deleter volume plugin for volume {:?}: no deletable volume plugin matched",
                volume.name()
            ),
        }
    }
}

/// Reason and message of a claim that waits.
fn waiting_for(pods: &[String]) -> (&'static str, String) {
    match pods {
        [] => {
            let message = "waiting for first consumer to be created before binding";
            ("WaitForFirstConsumer", message.to_owned())
        }
        [pod] => ("WaitForPodScheduled", format!("waiting for pod {pod} to be scheduled")),
        pods => ("WaitForPodScheduled", format!("waiting for pods {} to be scheduled", pods.join(","))),
    }
}
