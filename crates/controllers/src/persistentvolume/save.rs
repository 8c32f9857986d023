//! What the binder writes. Each step is saved before the next, volume first, so that whatever stops it, the next round
//! finishes it.

use super::Binder;
use knarr_api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use knarr_api::volume::{self, BIND_COMPLETED, BOUND_BY_CONTROLLER};
use knarr_client::Error;
use knarr_client::recorder::reference;

/// A warning that goes with a change of phase.
pub(super) struct Because {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Binder {
    /// Binds both and marks both as bound; what is already so is left alone.
    pub(super) async fn bind(
        &self,
        volume: &PersistentVolume,
        claim: &PersistentVolumeClaim,
    ) -> Result<(), Error> {
        let volume = match volume::bound_to_claim(volume, claim) {
            Some(changed) => self.client.update(&changed).await?,
            None => volume.clone(),
        };
        let volume = self.set_volume_phase(volume, "Bound", None).await?;
        let claim = match claim_with_volume(claim, &volume) {
            Some(changed) => self.client.update(&changed).await?,
            None => claim.clone(),
        };
        self.set_claim_phase(&claim, "Bound", Some(&volume)).await
    }

    /// Takes a promise back: one of ours altogether; of one that a user made, only what we added.
    pub(super) async fn unbind(&self, volume: &PersistentVolume) -> Result<(), Error> {
        let mut changed = volume.clone();
        let ours = volume::annotation(&volume.metadata, BOUND_BY_CONTROLLER).is_some();
        let spec = changed.spec.get_or_insert_default();
        if ours {
            spec.claim_ref = None;
            if let Some(annotations) = &mut changed.metadata.annotations {
                annotations.remove(BOUND_BY_CONTROLLER);
            }
        } else if let Some(reference) = &mut spec.claim_ref {
            reference.uid = None;
        }
        let volume = self.client.update(&changed).await?;
        self.set_volume_phase(volume, "Available", None).await.map(drop)
    }

    pub(super) async fn set_volume_phase(
        &self,
        mut volume: PersistentVolume,
        phase: &str,
        because: Option<Because>,
    ) -> Result<PersistentVolume, Error> {
        if volume.status.as_ref().is_some_and(|s| s.phase.as_deref() == Some(phase)) {
            return Ok(volume);
        }
        let status = volume.status.get_or_insert_default();
        status.phase = Some(phase.to_owned());
        status.message = because.as_ref().map(|b| b.message.clone());
        // The server says when it was.
        status.last_phase_transition_time = None;
        let saved = self.client.update_status(&volume).await?;
        if let Some(Because { reason, message }) = because {
            self.recorder.warning(&reference(&saved), reason, message);
        }
        Ok(saved)
    }

    /// Sets the phase and, of a claim with a volume, what it has got.
    pub(super) async fn set_claim_phase(
        &self,
        claim: &PersistentVolumeClaim,
        phase: &str,
        volume: Option<&PersistentVolume>,
    ) -> Result<(), Error> {
        let mut changed = claim.clone();
        let status = changed.status.get_or_insert_default();
        let moves = status.phase.as_deref() != Some(phase);
        let was_pending = volume::claim_phase(claim) == "Pending";
        status.phase = Some(phase.to_owned());
        match volume.and_then(|v| v.spec.as_ref()) {
            None => {
                status.access_modes = None;
                status.capacity = None;
                status.current_volume_attributes_class_name = None;
            }
            Some(spec) => {
                status.access_modes = spec.access_modes.clone();
                // Of a bound claim it is the expansion's.
                if moves {
                    status.capacity = spec.capacity.clone();
                }
                if was_pending && phase == "Bound" {
                    status.current_volume_attributes_class_name = spec.volume_attributes_class_name.clone();
                }
            }
        }
        if changed.status != claim.status {
            self.client.update_status(&changed).await?;
        }
        Ok(())
    }

    /// A claim that lost its volume.
    pub(super) async fn lose(
        &self,
        claim: &PersistentVolumeClaim,
        reason: &str,
        message: &str,
    ) -> Result<(), Error> {
        if volume::claim_phase(claim) != "Lost" {
            self.set_claim_phase(claim, "Lost", None).await?;
            self.recorder.warning(&reference(claim), reason, message);
        }
        Ok(())
    }
}

/// The claim bound to the volume; `None` if it is already.
fn claim_with_volume(
    claim: &PersistentVolumeClaim,
    volume: &PersistentVolume,
) -> Option<PersistentVolumeClaim> {
    let mut changed = claim.clone();
    let annotations = changed.metadata.annotations.get_or_insert_default();
    let name = volume.metadata.name.clone();
    let chosen = claim.spec.as_ref().is_none_or(|s| s.volume_name != name);
    if chosen {
        annotations.entry(BOUND_BY_CONTROLLER.to_owned()).or_insert_with(|| "yes".to_owned());
        changed.spec.get_or_insert_default().volume_name = name;
    }
    let had = annotations.insert(BIND_COMPLETED.to_owned(), "yes".to_owned()).is_some();
    (chosen || !had).then_some(changed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_api::Kind;
    use serde_json::json;

    #[test]
    fn a_claim_says_who_chose_its_volume() {
        let volume = PersistentVolume::from_value(&json!({"metadata": {"name": "v"}, "spec": {}})).unwrap();
        let claim = |spec: serde_json::Value| {
            PersistentVolumeClaim::from_value(&json!({"metadata": {"name": "c"}, "spec": spec})).unwrap()
        };
        let chosen = claim_with_volume(&claim(json!({})), &volume).expect("it changes");
        assert_eq!(volume::annotation(&chosen.metadata, BOUND_BY_CONTROLLER), Some("yes"));
        assert_eq!(volume::volume_name(&chosen), "v");
        assert!(claim_with_volume(&chosen, &volume).is_none());
        let asked = claim_with_volume(&claim(json!({"volumeName": "v"})), &volume).expect("it changes");
        assert_eq!(volume::annotation(&asked.metadata, BOUND_BY_CONTROLLER), None);
        assert!(volume::is_fully_bound(&asked));
    }
}
