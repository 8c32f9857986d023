//! VolumeZone: a volume with the labels of a zone or region is used there only.

use crate::cache::{NodeInfo, PodInfo, Snapshot};
use crate::framework::{Plugin, Reason};
use knarr_api::core::v1::PersistentVolume;
use knarr_api::volume::volume_name;
use std::collections::BTreeMap;

/// Labels of zones and regions, as they are and as they were; a node that has none takes everything.
const TOPOLOGY: [(&str, &str); 2] = [
    ("topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"),
    ("topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"),
];
/// Between the zones of a volume that is in several.
const SEPARATOR: &str = "__";

pub struct VolumeZone;

impl Plugin for VolumeZone {
    fn name(&self) -> &'static str {
        "VolumeZone"
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo, all: &Snapshot) -> Vec<Reason> {
        let claims = all.volumes.claims_of(pod).unwrap_or_default();
        let mut volumes = claims.iter().filter_map(|claim| all.volumes.volume(volume_name(claim)));
        if volumes.all(|volume| is_there(volume, node.labels())) {
            return Vec::new();
        }
        vec!["node(s) had no available volume zone".to_owned()]
    }
}

fn is_there(volume: &PersistentVolume, node: &BTreeMap<String, String>) -> bool {
    let Some(labels) = &volume.metadata.labels else { return true };
    let has_any = TOPOLOGY.iter().flat_map(|(a, b)| [a, b]).any(|key| node.contains_key(*key));
    !has_any
        || TOPOLOGY.iter().all(|(key, old)| {
            let of =
                |labels: &BTreeMap<String, String>| labels.get(*key).or_else(|| labels.get(*old)).cloned();
            let Some(wanted) = of(labels) else { return true };
            of(node).is_some_and(|own| wanted.split(SEPARATOR).any(|w| w == own))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_api::Kind;
    use serde_json::json;

    #[test]
    fn zones_are_compared_where_nodes_have_any() {
        let zone = "topology.kubernetes.io/zone";
        let old = "failure-domain.beta.kubernetes.io/zone";
        for (volume, node, there) in [
            (json!({}), json!({zone: "a"}), true),
            (json!({zone: "a"}), json!({zone: "a"}), true),
            (json!({zone: "b__a"}), json!({zone: "a"}), true),
            (json!({zone: "b"}), json!({zone: "a"}), false),
            (json!({old: "b"}), json!({zone: "a"}), false),
            (json!({zone: "b"}), json!({}), true),
            (json!({"topology.kubernetes.io/region": "r"}), json!({zone: "a"}), false),
        ] {
            let object = json!({"metadata": {"labels": volume}});
            let volume = PersistentVolume::from_value(&object).unwrap();
            let labels: BTreeMap<String, String> = serde_json::from_value(node.clone()).unwrap();
            assert_eq!(is_there(&volume, &labels), there, "{object} {node}");
        }
    }
}
