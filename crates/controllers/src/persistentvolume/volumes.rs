//! What becomes of a volume.

use super::Binder;
use super::save::Because;
use crate::framework::Next;
use knarr_api::Kind;
use knarr_api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use knarr_api::volume::{self, PROVISIONED_BY, annotation};
use knarr_client::Error;
use knarr_client::informer::Key;
use knarr_client::recorder::reference;

impl Binder {
    pub(super) async fn sync_volume(&self, volume: &PersistentVolume) -> Result<Next, Error> {
        let of = volume::claim_ref(volume);
        let uid = of.and_then(|r| r.uid.as_deref()).filter(|uid| !uid.is_empty());
        let (Some(of), Some(uid)) = (of, uid) else {
            // Free, or kept for a claim that is not bound yet.
            self.set_volume_phase(volume.clone(), "Available", None).await?;
            return Ok(Next::Done);
        };
        let (namespace, name) =
            (of.namespace.as_deref().unwrap_or_default(), of.name.as_deref().unwrap_or_default());
        let Some(claim) = self.claim_for_certain(volume, namespace, name, uid).await? else {
            let volume = self.released(volume).await?;
            self.reclaim(volume).await?;
            return Ok(Next::Done);
        };
        match volume::volume_name(&claim) {
            "" if volume::modes_mismatch(volume, &claim) => {
                let what = "due to incompatible volumeMode.";
                let text = format!(
                    "Cannot bind PersistentVolume to requested PersistentVolumeClaim {name:?} {what}"
                );
                self.recorder.warning(&reference(volume), "VolumeMismatch", text);
                let by = volume.name();
                let text =
                    format!("Cannot bind PersistentVolume {by:?} to requested PersistentVolumeClaim {what}");
                self.recorder.warning(&reference(&claim), "VolumeMismatch", text);
            }
            // The claim's turn finishes it.
            "" => self.queue.add(Key::new(namespace, name)),
            bound if bound == volume.name() => {
                self.set_volume_phase(volume.clone(), "Bound", None).await?;
            }
            // Bound elsewhere meanwhile.
            _ if annotation(&volume.metadata, PROVISIONED_BY).is_some() && policy(volume) == "Delete" => {
                let volume = self.released(volume).await?;
                self.reclaim(volume).await?;
            }
            _ => self.unbind(volume).await?,
        }
        Ok(Next::Done)
    }

    /// The claim that the volume is bound to, `None` if it is gone; before that is said, not from a copy.
    async fn claim_for_certain(
        &self,
        volume: &PersistentVolume,
        namespace: &str,
        name: &str,
        uid: &str,
    ) -> Result<Option<PersistentVolumeClaim>, Error> {
        let held = self.claims.get(namespace, name);
        if let Some(claim) = held.filter(|claim| claim.uid() == uid) {
            return Ok(Some((*claim).clone()));
        }
        if matches!(volume::volume_phase(volume), "Released" | "Failed") {
            return Ok(None);
        }
        let live = self.client.get_opt::<PersistentVolumeClaim>(namespace, name).await?;
        Ok(live.filter(|claim| claim.uid() == uid))
    }

    async fn released(&self, volume: &PersistentVolume) -> Result<PersistentVolume, Error> {
        if matches!(volume::volume_phase(volume), "Released" | "Failed") {
            return Ok(volume.clone());
        }
        self.set_volume_phase(volume.clone(), "Released", None).await
    }

    /// Does what the volume's policy says.
    async fn reclaim(&self, volume: PersistentVolume) -> Result<(), Error> {
        let because = match policy(&volume) {
            "Retain" => return Ok(()),
            "Recycle" => Because {
                reason: "VolumeFailedRecycle",
                message: "No recycler plugin found for the volume!".to_owned(),
            },
            "Delete" => {
                let by = annotation(&volume.metadata, PROVISIONED_BY).unwrap_or_default();
                if !by.is_empty() && !by.starts_with("kubernetes.io/") {
                    // Its provisioner sees that it is released.
                    return Ok(());
                }
                Self::no_deleter(&volume)
            }
            _ => Because {
                reason: "VolumeUnknownReclaimPolicy",
                message: "Volume has unrecognized PersistentVolumeReclaimPolicy".to_owned(),
            },
        };
        self.set_volume_phase(volume, "Failed", Some(because)).await.map(drop)
    }
}

fn policy(volume: &PersistentVolume) -> &str {
    let policy = volume.spec.as_ref().and_then(|s| s.persistent_volume_reclaim_policy.as_deref());
    policy.unwrap_or("Retain")
}
