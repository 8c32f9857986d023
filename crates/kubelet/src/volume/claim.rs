//! Volumes behind claims: persistentVolumeClaim and generic ephemeral volumes. The claim and its volume are read once
//! for a pod, when the Node authorizer lets this node see them; what was found stays while the pod does. Kinds of
//! volumes: local and hostPath. Others need a driver and are refused.

use super::device::{DEFAULT_TYPE, Device};
use super::host_path;
use crate::kubelet::Shared;
use knarr_api::Kind;
use knarr_api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use knarr_api::volume::{self, claim_name, claim_phase, claim_ref, is_for_pod, reaches};
use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

const PROTECTION: &str = "kubernetes.io/pvc-protection";
/// A group that may use the volume, given to every container of the pod.
const GROUP: &str = "pv.beta.kubernetes.io/gid";

/// The volumes found, by pod UID and the volume's name in the pod.
#[derive(Default)]
pub(crate) struct Claims(Mutex<HashMap<(String, String), Arc<PersistentVolume>>>);

impl Claims {
    /// Where the file system is that a pod has by a claim, by the volume's name in the pod, of those kinds that upstream
    /// measures: a local volume that is no device to the pod.
    pub(crate) fn place(&self, root: &Path, uid: &str, name: &str) -> Option<PathBuf> {
        let all = self.0.lock().expect("claim lock is never poisoned");
        let persistent = all.get(&(uid.to_owned(), name.to_owned())).filter(|volume| !is_block(volume))?;
        let source = persistent.spec.as_ref()?.local.as_ref()?;
        let mounted = super::volume_dir(root, uid, "local-volume", persistent.name());
        Some(if mounted.exists() { mounted } else { PathBuf::from(&source.path) })
    }

    /// Forgets those of a pod.
    pub(crate) fn release(&self, uid: &str) {
        self.0.lock().expect("claim lock is never poisoned").retain(|key, _| key.0 != uid);
    }
}

/// What is behind a claim.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) path: PathBuf,
    pub(super) read_only: bool,
    /// Whether it is a block device rather than a directory.
    pub(super) block: bool,
    /// Whether it is to be given to the pod's fsGroup.
    pub(super) owned: bool,
    /// The volume's group, if it has one.
    pub(super) group: Option<u32>,
    /// The device whose file system it is, with the volume's name: it has to be mounted for the pod.
    pub(super) device: Option<(String, Device)>,
}

/// The volume behind a claim, or why it cannot be used: the whole message of the event.
pub(super) async fn find(kubelet: &Arc<Shared>, pod: &Pod, volume: &Volume) -> Result<Found, String> {
    let persistent = match resolve(kubelet, pod, volume).await {
        Ok(persistent) => persistent,
        Err(why) => {
            let name = &volume.name;
            return Err(format!(
                "Unable to attach or mount volumes: unmounted volumes=[{name}], unattached volumes=[], failed \
                 to process volumes=[{name}]: {why}"
            ));
        }
    };
    let node = kubelet.nodes.get("", &kubelet.config.node_name);
    if let Some(node) = node {
        let none = BTreeMap::new();
        let labels = node.metadata.labels.as_ref().unwrap_or(&none);
        if !reaches(&persistent, labels, node.name()) {
            let name = persistent.name();
            return Err(format!(
                "MountVolume.NodeAffinity check failed for volume \"{name}\" : no matching NodeSelectorTerms"
            ));
        }
    }
    let asked = volume.persistent_volume_claim.as_ref().and_then(|c| c.read_only) == Some(true);
    mount(&persistent, asked)
}

async fn resolve(kubelet: &Arc<Shared>, pod: &Pod, volume: &Volume) -> Result<Arc<PersistentVolume>, String> {
    let key = (pod.uid().to_owned(), volume.name.clone());
    let held = kubelet.claims.0.lock().expect("claim lock is never poisoned").get(&key).cloned();
    if let Some(held) = held {
        return Ok(held);
    }
    let name = claim_name(pod, volume).ok_or("the volume has no claim")?;
    let failed = |why: String| format!("error processing PVC {}/{name}: {why}", pod.namespace());
    let claim = kubelet.client.get::<PersistentVolumeClaim>(pod.namespace(), &name).await;
    let claim = claim.map_err(|e| failed(format!("failed to fetch PVC from API server: {e}")))?;
    let bound_to = usable(&claim).map_err(failed)?;
    if volume.ephemeral.is_some() {
        is_for_pod(pod, &claim)?;
    }
    let persistent = kubelet.client.get::<PersistentVolume>("", bound_to).await;
    let persistent =
        persistent.map_err(|e| failed(format!("failed to fetch PV {bound_to} from API server: {e}")))?;
    belongs(&persistent, &claim).map_err(failed)?;
    if let Some(why) = misused(pod, volume, &persistent) {
        return Err(why);
    }
    let persistent = Arc::new(persistent);
    let mut all = kubelet.claims.0.lock().expect("claim lock is never poisoned");
    all.insert(key, persistent.clone());
    Ok(persistent)
}

/// Name of the volume that a claim is bound to.
fn usable(claim: &PersistentVolumeClaim) -> Result<&str, String> {
    let protected = claim.metadata.finalizers.iter().flatten().any(|f| f == PROTECTION);
    if claim.metadata.deletion_timestamp.is_some() && !protected {
        return Err("PVC is being deleted".to_owned());
    }
    if claim_phase(claim) != "Bound" {
        return Err("PVC is not bound".to_owned());
    }
    match volume::volume_name(claim) {
        "" => Err("PVC has empty pvc.Spec.VolumeName".to_owned()),
        name => Ok(name),
    }
}

fn belongs(persistent: &PersistentVolume, claim: &PersistentVolumeClaim) -> Result<(), String> {
    let name = persistent.name();
    let Some(reference) = claim_ref(persistent) else {
        return Err(format!(
            "found PV object {name} but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim"
        ));
    };
    let uid = reference.uid.as_deref().unwrap_or_default();
    if uid != claim.uid() {
        return Err(format!(
            "found PV object {name} but its pv.Spec.ClaimRef.UID {uid} does not point to claim.UID {}",
            claim.uid()
        ));
    }
    Ok(())
}

fn is_block(persistent: &PersistentVolume) -> bool {
    persistent.spec.as_ref().and_then(|s| s.volume_mode.as_deref()) == Some("Block")
}

/// A file system used as a device, or the other way round.
fn misused(pod: &Pod, volume: &Volume, persistent: &PersistentVolume) -> Option<String> {
    let mode = if is_block(persistent) { "Block" } else { "Filesystem" };
    let defs = crate::util::defs(pod);
    let mounted =
        || defs.iter().any(|d| d.spec.volume_mounts.iter().flatten().any(|m| m.name == volume.name));
    let device =
        || defs.iter().any(|d| d.spec.volume_devices.iter().flatten().any(|m| m.name == volume.name));
    let place = match mode {
        "Block" if mounted() => "volumeMounts",
        "Filesystem" if device() => "volumeDevices",
        _ => return None,
    };
    Some(format!("volume {} has volumeMode {mode}, but is specified in {place}", volume.name))
}

fn mount(persistent: &PersistentVolume, asked_read_only: bool) -> Result<Found, String> {
    let name = persistent.name();
    let spec = persistent.spec.as_ref();
    let failed = |what: &str, why: &str| Err(format!("{what} failed for volume \"{name}\" : {why}"));
    let group = volume::annotation(&persistent.metadata, GROUP).and_then(|g| g.parse().ok());
    let found = |path: PathBuf, owned: bool| Found {
        path,
        read_only: asked_read_only,
        block: is_block(persistent),
        owned: owned && !asked_read_only,
        group,
        device: None,
    };
    if let Some(source) = spec.and_then(|s| s.host_path.as_ref()) {
        return match host_path::check(source) {
            Ok(path) => Ok(found(path, false)),
            Err(why) => failed("MountVolume.SetUp", &why),
        };
    }
    let Some(source) = spec.and_then(|s| s.local.as_ref()) else {
        return Err(format!(
            "Unable to attach or mount volumes: failed to get Plugin from volumeSpec for volume \"{name}\" err=no \
             volume plugin matched"
        ));
    };
    let path = PathBuf::from(&source.path);
    let Ok(meta) = std::fs::metadata(&path) else {
        let why = format!("path \"{}\" does not exist", source.path);
        return failed("MountVolume.NewMounter initialization", &why);
    };
    let kind = meta.file_type();
    match (is_block(persistent), kind.is_dir(), kind.is_block_device()) {
        (false, true, _) => Ok(found(path, true)),
        (true, _, true) => Ok(found(path, false)),
        (false, _, true) => {
            let device = Device {
                path: path.clone(),
                fs_type: source
                    .fs_type
                    .clone()
                    .filter(|t| !t.is_empty())
                    .unwrap_or_else(|| DEFAULT_TYPE.to_owned()),
                read_only: asked_read_only,
                options: spec.and_then(|s| s.mount_options.clone()).unwrap_or_default(),
            };
            Ok(Found { device: Some((name.to_owned(), device)), ..found(path, true) })
        }
        (true, ..) => failed("MapVolume.SetUpDevice", "only block devices can be given as devices"),
        _ => failed("MountVolume.SetUp", "only directory and block device are supported"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn claim(meta: Value, phase: &str, volume: &str) -> PersistentVolumeClaim {
        Kind::from_value(
            &json!({"metadata": meta, "spec": {"volumeName": volume}, "status": {"phase": phase}}),
        )
        .unwrap()
    }

    #[test]
    fn only_a_bound_claim_that_stays_is_used() {
        let leaves = |finalizers: &[&str]| json!({"uid": "u", "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": finalizers});
        for (claim, expected) in [
            (claim(json!({}), "Bound", "v"), Ok("v")),
            (claim(json!({}), "Pending", "v"), Err("PVC is not bound")),
            (claim(json!({}), "Bound", ""), Err("PVC has empty pvc.Spec.VolumeName")),
            (claim(leaves(&[]), "Bound", "v"), Err("PVC is being deleted")),
            (claim(leaves(&[PROTECTION]), "Bound", "v"), Ok("v")),
        ] {
            assert_eq!(usable(&claim).map_err(|e| e.clone()), expected.map_err(str::to_owned));
        }
    }

    #[test]
    fn a_volume_is_where_it_says_or_the_event_says_why_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        std::fs::write(&file, "").unwrap();
        let try_mount = |spec: Value, read_only: bool| {
            let volume = json!({"metadata": {"name": "v", "annotations": {GROUP: "77"}}, "spec": spec});
            mount(&Kind::from_value(&volume).unwrap(), read_only)
        };
        let found = try_mount(json!({"local": {"path": dir.path()}}), false).unwrap();
        assert_eq!((found.path.as_path(), found.owned, found.group), (dir.path(), true, Some(77)));
        let found = try_mount(json!({"local": {"path": dir.path()}}), true).unwrap();
        assert!(found.read_only && !found.owned);
        assert!(!try_mount(json!({"hostPath": {"path": dir.path()}}), false).unwrap().owned);
        for (spec, text) in [
            (
                json!({"local": {"path": "/no/such"}}),
                "MountVolume.NewMounter initialization failed for volume \"v\" : path \"/no/such\" does not exist",
            ),
            (json!({"local": {"path": file}}), "only directory and block device are supported"),
            (json!({"local": {"path": dir.path()}, "volumeMode": "Block"}), "only block devices"),
            (json!({"nfs": {"path": "/x", "server": "s"}}), "no volume plugin matched"),
        ] {
            let why = try_mount(spec, false).unwrap_err();
            assert!(why.contains(text), "{why}");
        }
    }
}
