//! A volume that nobody needs any more.

use super::{FINALIZER, LocalPath, ON_NODE};
use knarr_api::Kind;
use knarr_api::core::v1::PersistentVolume;
use knarr_api::volume::{self, annotation};
use knarr_client::recorder::reference;
use knarr_client::{DeleteOptions, Error};

/// What is to happen to a volume.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Keep,
    /// The object may go, the directory stays.
    LetGo,
    /// The directory goes, then the object.
    Remove,
}

fn step(volume: &PersistentVolume) -> Step {
    let policy = volume.spec.as_ref().and_then(|s| s.persistent_volume_reclaim_policy.as_deref());
    let held = volume.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER);
    let leaves = volume.metadata.deletion_timestamp.is_some();
    match (policy, volume::volume_phase(volume)) {
        (_, "Bound") => Step::Keep,
        (Some("Delete"), "Released" | "Failed") if held || !leaves => Step::Remove,
        (Some("Delete"), _) if leaves && held => Step::Remove,
        _ if leaves && held => Step::LetGo,
        _ => Step::Keep,
    }
}

impl LocalPath {
    pub(super) async fn sync_volume(&self, volume: &PersistentVolume) -> Result<(), Error> {
        let step = step(volume);
        if step == Step::Keep {
            return Ok(());
        }
        let node = annotation(&volume.metadata, ON_NODE).unwrap_or_default();
        // What was on a node that is gone for good is gone with it.
        if step == Step::Remove
            && self.nodes.get("", node).is_some()
            && let Err(error) = self.remove_directory(node, volume.name()).await
        {
            let message = format!("the directory on node {node} cannot be removed: {error}");
            self.recorder.warning(&reference(volume), "VolumeFailedDelete", message);
            return Err(error);
        }
        let mut changed = volume.clone();
        let finalizers = changed.metadata.finalizers.get_or_insert_default();
        let before = finalizers.len();
        finalizers.retain(|f| f != FINALIZER);
        if finalizers.len() != before {
            match self.client.update(&changed).await {
                Err(error) if error.is_not_found() => return Ok(()),
                other => drop(other?),
            }
        }
        if step == Step::Remove && volume.metadata.deletion_timestamp.is_none() {
            let options = DeleteOptions::default();
            match self.client.delete::<PersistentVolume>("", volume.name(), &options).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_is_released_for_deletion_is_removed() {
        let volume = |phase: &str, policy: &str, leaves: bool, held: bool| {
            let mut meta = json!({"name": "v"});
            if held {
                meta["finalizers"] = json!([FINALIZER]);
            }
            if leaves {
                meta["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            PersistentVolume::from_value(&json!({"metadata": meta, "status": {"phase": phase},
                "spec": {"persistentVolumeReclaimPolicy": policy}}))
            .unwrap()
        };
        for (phase, policy, leaves, held, expected) in [
            ("Bound", "Delete", false, true, Step::Keep),
            ("Bound", "Delete", true, true, Step::Keep),
            ("Released", "Delete", false, true, Step::Remove),
            ("Released", "Delete", true, true, Step::Remove),
            ("Released", "Delete", true, false, Step::Keep),
            ("Released", "Retain", false, true, Step::Keep),
            ("Released", "Retain", true, true, Step::LetGo),
            ("Pending", "Delete", false, true, Step::Keep),
            ("Available", "Delete", true, true, Step::Remove),
        ] {
            let volume = volume(phase, policy, leaves, held);
            assert_eq!(step(&volume), expected, "{phase} {policy} {leaves} {held}");
        }
    }
}
