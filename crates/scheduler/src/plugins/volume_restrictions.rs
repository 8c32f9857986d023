//! VolumeRestrictions: a claim with ReadWriteOncePod has one pod in the whole cluster (KEP-2485), and disks that only
//! one node can write to are not used twice on a node.

use crate::cache::{NodeInfo, PodInfo, Snapshot};
use crate::framework::{Plugin, Reason};
use knarr_api::Kind;
use knarr_api::core::v1::{PersistentVolumeClaim, Volume};

pub struct VolumeRestrictions;

impl Plugin for VolumeRestrictions {
    fn name(&self) -> &'static str {
        "VolumeRestrictions"
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo, all: &Snapshot) -> Vec<Reason> {
        let disks = || pod.spec().volumes.iter().flatten();
        let held = || node.pods.values().flat_map(|p| p.spec().volumes.iter().flatten());
        if disks().any(|wanted| held().any(|held| excludes(wanted, held))) {
            return vec!["node(s) had no available disk".to_owned()];
        }
        let namespace = pod.pod.namespace();
        let alone: Vec<&str> = claims(pod)
            .filter(|name| all.volumes.claim(namespace, name).is_some_and(|claim| is_for_one_pod(claim)))
            .collect();
        if alone.is_empty() {
            return Vec::new();
        }
        let taken = all.placed().any(|(_, other)| {
            other.pod.namespace() == namespace && claims(other).any(|name| alone.contains(&name))
        });
        if !taken {
            return Vec::new();
        }
        vec!["node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod".to_owned()]
    }
}

fn claims(pod: &PodInfo) -> impl Iterator<Item = &str> {
    let volumes = pod.spec().volumes.iter().flatten();
    volumes.filter_map(|v| v.persistent_volume_claim.as_ref()).map(|source| source.claim_name.as_str())
}

fn is_for_one_pod(claim: &PersistentVolumeClaim) -> bool {
    let modes = claim.spec.as_ref().and_then(|s| s.access_modes.as_ref());
    modes.into_iter().flatten().any(|mode| mode == "ReadWriteOncePod")
}

/// Whether two pods of a node cannot have both.
fn excludes(a: &Volume, b: &Volume) -> bool {
    let read_only = |x: Option<bool>, y: Option<bool>| x == Some(true) && y == Some(true);
    if let (Some(a), Some(b)) = (&a.iscsi, &b.iscsi) {
        return a.iqn == b.iqn && !read_only(a.read_only, b.read_only);
    }
    if let (Some(a), Some(b)) = (&a.gce_persistent_disk, &b.gce_persistent_disk) {
        return a.pd_name == b.pd_name && !read_only(a.read_only, b.read_only);
    }
    if let (Some(a), Some(b)) = (&a.aws_elastic_block_store, &b.aws_elastic_block_store) {
        return a.volume_id == b.volume_id;
    }
    if let (Some(a), Some(b)) = (&a.rbd, &b.rbd) {
        let pool = |p: &Option<String>| p.clone().unwrap_or_else(|| "rbd".to_owned());
        return a.monitors.iter().any(|m| b.monitors.contains(m))
            && pool(&a.pool) == pool(&b.pool)
            && a.image == b.image
            && !read_only(a.read_only, b.read_only);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_api::core::v1::{Node, Pod};
    use serde_json::{Value, json};
    use std::sync::Arc;

    #[test]
    fn what_is_for_one_pod_is_not_given_to_two() {
        let pod = |name: &str, volume: Value| {
            let pod = json!({"metadata": {"name": name, "namespace": "ns", "uid": name},
                "spec": {"containers": [], "volumes": [volume]}});
            Arc::new(PodInfo::new(Arc::new(Pod::from_value(&pod).unwrap())))
        };
        let claim = |name: &str| json!({"name": "v", "persistentVolumeClaim": {"claimName": name}});
        let iscsi = |read_only: bool| json!({"name": "v", "iscsi": {"iqn": "q", "lun": 0, "targetPortal": "t", "readOnly": read_only}});
        let in_use = "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod";
        let no_disk = "node(s) had no available disk";
        for (held, wanted, here, elsewhere) in [
            (claim("alone"), claim("alone"), Some(in_use), Some(in_use)),
            (claim("shared"), claim("shared"), None, None),
            (iscsi(false), iscsi(true), Some(no_disk), None),
            (iscsi(true), iscsi(true), None, None),
        ] {
            let mut all = Snapshot::default();
            for node in ["alpha", "beta"] {
                all.set_node(Arc::new(Node::from_value(&json!({"metadata": {"name": node}})).unwrap()));
            }
            for (name, mode) in [("alone", "ReadWriteOncePod"), ("shared", "ReadWriteOnce")] {
                let claim = json!({"metadata": {"name": name}, "spec": {"accessModes": [mode]}});
                let claim = PersistentVolumeClaim::from_value(&claim).unwrap();
                all.volumes.set_claim(("ns".to_owned(), name.to_owned()), Some(Arc::new(claim)));
            }
            all.place(pod("first", held.clone()), "alpha");
            let second = pod("second", wanted);
            for (node, expected) in all.nodes().iter().zip([here, elsewhere]) {
                let found = VolumeRestrictions.filter(&second, node, &all);
                assert_eq!(found.first().map(String::as_str), expected, "{held}");
            }
        }
    }
}
