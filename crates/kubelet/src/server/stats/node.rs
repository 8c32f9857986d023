//! What /metrics tells of the node besides what it counts: its name, evictions, and the file systems of claimed volumes
//! (upstream's volume_stats_* collector). Dashboards and alerts ask for these names.

use super::disk::{self, FileSystem};
use super::exposition::Exposition;
use crate::kubelet::Shared;
use knarr_api::Kind;
use knarr_api::volume::claim_name;
use std::collections::BTreeMap;

/// File systems by namespace and name of the claim.
type Claimed = BTreeMap<(String, String), FileSystem>;

/// Name, help, and the value of a file system.
type Family = (&'static str, &'static str, fn(&FileSystem) -> u64);

/// The text.
pub(in crate::server) fn metrics(kubelet: &Shared) -> String {
    text(&kubelet.config.node_name, &kubelet.metrics.evictions(), &claimed(kubelet))
}

fn claimed(kubelet: &Shared) -> Claimed {
    let entries: Vec<_> =
        kubelet.pods.lock().expect("pod lock is never poisoned").values().cloned().collect();
    let mut all = Claimed::new();
    for entry in entries {
        let pod = entry.view().pod;
        for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            let Some(claim) = claim_name(&pod, volume) else { continue };
            let place = kubelet.claims.place(&kubelet.config.root_dir, pod.uid(), &volume.name);
            let found = place.and_then(|place| disk::file_system(&place));
            all.extend(found.map(|found| ((pod.namespace().to_owned(), claim), found)));
        }
    }
    all
}

fn text(node: &str, evictions: &BTreeMap<&'static str, u64>, claimed: &Claimed) -> String {
    let mut out = Exposition::default();
    out.counter("kubelet_evictions", "[ALPHA] Cumulative number of pod evictions by eviction signal");
    for (signal, count) in evictions {
        out.sample(&[("eviction_signal", signal)], *count as f64, None);
    }
    out.gauge("kubelet_node_name", "[ALPHA] The node's name. The count is always 1.");
    out.sample(&[("node", node)], 1.0, None);
    let families: [Family; 6] = [
        ("kubelet_volume_stats_available_bytes", "[ALPHA] Number of available bytes in the volume", |fs| {
            fs.available_bytes
        }),
        ("kubelet_volume_stats_capacity_bytes", "[ALPHA] Capacity in bytes of the volume", |fs| {
            fs.capacity_bytes
        }),
        ("kubelet_volume_stats_inodes", "[ALPHA] Maximum number of inodes in the volume", |fs| fs.inodes),
        ("kubelet_volume_stats_inodes_free", "[ALPHA] Number of free inodes in the volume", |fs| {
            fs.inodes_free
        }),
        ("kubelet_volume_stats_inodes_used", "[ALPHA] Number of used inodes in the volume", |fs| {
            fs.inodes.saturating_sub(fs.inodes_free)
        }),
        ("kubelet_volume_stats_used_bytes", "[ALPHA] Number of used bytes in the volume", |fs| fs.used_bytes),
    ];
    for (name, help, value) in families {
        out.gauge(name, help);
        for ((namespace, claim), fs) in claimed {
            let labels = [("namespace", namespace.as_str()), ("persistentvolumeclaim", claim)];
            out.sample(&labels, value(fs) as f64, None);
        }
    }
    out.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_its_evictions_and_its_claims_are_told() {
        let fs = FileSystem {
            capacity_bytes: 100,
            available_bytes: 30,
            used_bytes: 60,
            inodes: 50,
            inodes_free: 20,
        };
        let claimed = Claimed::from([(("n".to_owned(), "data".to_owned()), fs)]);
        let text = text("alpha", &BTreeMap::from([("memory.available", 2)]), &claimed);
        let of_claim = |name: &str, value: u64| {
            format!("kubelet_volume_stats_{name}{{namespace=\"n\",persistentvolumeclaim=\"data\"}} {value}")
        };
        for line in [
            "# TYPE kubelet_evictions counter".to_owned(),
            "kubelet_evictions{eviction_signal=\"memory.available\"} 2".to_owned(),
            "kubelet_node_name{node=\"alpha\"} 1".to_owned(),
            of_claim("available_bytes", 30),
            of_claim("capacity_bytes", 100),
            of_claim("used_bytes", 60),
            of_claim("inodes", 50),
            of_claim("inodes_free", 20),
            of_claim("inodes_used", 30),
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in {text}");
        }
    }
}
