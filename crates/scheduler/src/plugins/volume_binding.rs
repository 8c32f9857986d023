//! VolumeBinding: a pod goes where its volumes can be reached, or where there are volumes for its claims or some can be
//! made; its claims are bound before it is (volume binding modes, KEP-490).

use crate::cache::{NodeInfo, PodInfo, Snapshot};
use crate::framework::{Plugin, Reason};
use knarr_api::volume::is_fully_bound;

pub struct VolumeBinding;

impl Plugin for VolumeBinding {
    fn name(&self) -> &'static str {
        "VolumeBinding"
    }

    fn pre_filter(&self, pod: &PodInfo, all: &Snapshot) -> Option<Reason> {
        let claims = match all.volumes.claims_of(pod) {
            Ok(claims) => claims,
            Err(reason) => return Some(reason),
        };
        let ready = claims.iter().all(|claim| is_fully_bound(claim) || all.volumes.is_delayed(claim));
        (!ready).then(|| "pod has unbound immediate PersistentVolumeClaims".to_owned())
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo, all: &Snapshot) -> Vec<Reason> {
        match all.volumes.plan(pod, node) {
            Ok(_) => Vec::new(),
            Err(conflicts) => conflicts.into_iter().map(|c| c.reason().to_owned()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_api::Kind;
    use knarr_api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
    use knarr_api::storage::v1::StorageClass;
    use serde_json::{Value, json};
    use std::sync::Arc;

    fn object<K: Kind>(value: Value) -> Arc<K> {
        Arc::new(K::from_value(&value).unwrap())
    }

    fn pod(name: &str, claims: &[&str]) -> PodInfo {
        let volume = |claim: &&str| json!({"name": claim, "persistentVolumeClaim": {"claimName": claim}});
        let volumes: Vec<Value> = claims.iter().map(volume).collect();
        PodInfo::new(object::<Pod>(json!({"metadata": {"name": name, "namespace": "ns", "uid": name},
            "spec": {"containers": [], "volumes": volumes}})))
    }

    fn cluster(claims: &[(&str, Value)], volumes: &[(&str, Value)], provisioner: &str) -> Snapshot {
        let mut all = Snapshot::default();
        for node in ["alpha", "beta"] {
            let labels = json!({"kubernetes.io/hostname": node});
            all.set_node(object::<Node>(json!({"metadata": {"name": node, "labels": labels}})));
        }
        for (name, more) in claims {
            let mut claim = json!({"metadata": {"name": name, "namespace": "ns", "uid": name}, "spec": {
                "accessModes": ["ReadWriteOnce"], "storageClassName": "late",
                "resources": {"requests": {"storage": "1Gi"}}}});
            for (field, value) in more.as_object().unwrap() {
                claim[field].as_object_mut().unwrap().extend(value.as_object().unwrap().clone());
            }
            let key = ("ns".to_owned(), (*name).to_owned());
            all.volumes.set_claim(key, Some(object::<PersistentVolumeClaim>(claim)));
        }
        for (name, more) in volumes {
            let mut spec = json!({"accessModes": ["ReadWriteOnce"], "storageClassName": "late",
                "capacity": {"storage": "1Gi"}});
            spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let volume = json!({"metadata": {"name": name}, "spec": spec, "status": {"phase": "Available"}});
            all.volumes.set_volume(name, Some(object::<PersistentVolume>(volume)));
        }
        let class = json!({"metadata": {"name": "late"}, "provisioner": provisioner,
            "volumeBindingMode": "WaitForFirstConsumer"});
        all.volumes.set_class("late", Some(object::<StorageClass>(class)));
        all
    }

    fn on(node: &str) -> Value {
        json!({"nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
            {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]}}})
    }

    fn bound(volume: &str) -> Value {
        let done = json!({"annotations": {"pv.kubernetes.io/bind-completed": "yes"}});
        json!({"metadata": done, "spec": {"volumeName": volume}})
    }

    fn reasons(all: &Snapshot, pod: &PodInfo, node: &str) -> Vec<Reason> {
        let node = all.nodes().iter().find(|n| n.name() == node).unwrap();
        VolumeBinding.filter(pod, node, all)
    }

    #[test]
    fn claims_that_cannot_be_waited_for_are_told_before_any_node() {
        let all = cluster(
            &[
                ("late", json!({})),
                ("now", json!({"spec": {"storageClassName": ""}})),
                ("asked", json!({"spec": {"volumeName": "v"}})),
                ("going", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})),
            ],
            &[],
            "p",
        );
        let unbound = Some("pod has unbound immediate PersistentVolumeClaims");
        for (claim, expected) in [
            ("late", None),
            ("now", unbound),
            ("asked", unbound),
            ("none", Some("persistentvolumeclaim \"none\" not found")),
            ("going", Some("persistentvolumeclaim \"going\" is being deleted")),
        ] {
            let found = VolumeBinding.pre_filter(&pod("a", &[claim]), &all);
            assert_eq!(found.as_deref(), expected, "{claim}");
        }
    }

    const NO_MATCH: &str = "node(s) didn't find available persistent volumes to bind";
    const ELSEWHERE: &str = "node(s) didn't match PersistentVolume's node affinity";
    const GONE: &str = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";

    #[test]
    fn a_pod_goes_where_its_volumes_are_or_can_be() {
        let volumes = [("v", on("alpha"))];
        let nobody = "kubernetes.io/no-provisioner";
        let chosen = json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": "beta"}}});
        type Reasons = &'static [&'static str];
        let cases: [(&str, Value, &str, Reasons, Reasons); 5] = [
            ("bound", bound("v"), nobody, &[], &[ELSEWHERE]),
            ("bound to what is gone", bound("w"), nobody, &[GONE], &[GONE]),
            ("unbound, by hand", json!({}), nobody, &[], &[NO_MATCH]),
            ("unbound, made", json!({}), "p", &[], &[]),
            ("being made", chosen, "p", &[NO_MATCH], &[]),
        ];
        for (what, claim, provisioner, alpha, beta) in cases {
            let all = cluster(&[("c", claim)], &volumes, provisioner);
            let pod = pod("a", &["c"]);
            assert_eq!(reasons(&all, &pod, "alpha"), alpha, "{what}");
            assert_eq!(reasons(&all, &pod, "beta"), beta, "{what}");
        }
    }

    #[test]
    fn a_volume_is_promised_once() {
        let claims = [("c", json!({})), ("d", json!({}))];
        let mut all = cluster(&claims, &[("v", json!({}))], "kubernetes.io/no-provisioner");
        let (first, second) = (pod("a", &["c"]), pod("b", &["d"]));
        assert!(!reasons(&all, &pod("x", &["c", "d"]), "alpha").is_empty(), "one volume is not two");
        let plan = all.volumes.plan(&first, &all.nodes()[0]).unwrap();
        all.volumes.promise(&plan);
        assert!(reasons(&all, &first, "alpha").is_empty());
        assert!(!reasons(&all, &second, "alpha").is_empty());
        all.volumes.break_promise(&plan);
        assert!(reasons(&all, &second, "alpha").is_empty());
    }
}
