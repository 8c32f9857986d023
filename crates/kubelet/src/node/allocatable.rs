//! What pods may use together (node allocatable, the reserve-compute-resources page): what the machine has less what is
//! reserved for the system. The kernel holds them to it by the cgroup that all pods are in; eviction comes before that, by the
//! same threshold as for the whole machine.

use super::machine;
use crate::config::Capacity;
use crate::container::resources::shares;
use crate::eviction::node_ref;
use crate::eviction::threshold::{Housekeeping, Resource, Signal};
use crate::kubelet::Shared;
use knarr_runtime::spec::Resources;
use std::sync::Arc;
use std::time::Duration;

/// The cgroup of all pods, below the runtime's.
pub(crate) const PODS_CGROUP: &str = "kubepods";
/// Pods that use more than the new limit are evicted in the meantime.
const RETRY: Duration = Duration::from_secs(60);

/// Why these reserves are not possible; upstream's words.
pub(crate) fn objection(keep: &Housekeeping, capacity: &Capacity) -> Option<String> {
    let beyond = |name: &str, reserved: u64, capacity: u64, text: &dyn Fn(u64) -> String| {
        (reserved > capacity).then(|| {
            let (reserved, capacity) = (text(reserved), text(capacity));
            format!(
                "Resource {name:?} has a reservation of {reserved} but capacity of {capacity}. Expected capacity >= \
                 reservation."
            )
        })
    };
    let bytes = |amount| Resource::Memory.amount(amount).to_string();
    let (memory, disk) = (capacity.memory_bytes, capacity.ephemeral_storage_bytes);
    let wrong = [
        beyond("cpu", keep.reserved_cpu_millicores, capacity.cpu_millicores, &|cpu| format!("{cpu}m")),
        beyond(
            "memory",
            keep.reserved_memory_bytes.saturating_add(keep.hard(Signal::MemoryAvailable, memory)),
            memory,
            &bytes,
        ),
        beyond(
            "ephemeral-storage",
            keep.reserved_ephemeral_storage_bytes.saturating_add(keep.hard(Signal::NodeFsAvailable, disk)),
            disk,
            &bytes,
        ),
    ];
    let wrong: Vec<String> = wrong.into_iter().flatten().collect();
    (!wrong.is_empty()).then(|| format!("invalid Node Allocatable configuration. {}", wrong.join(" ")))
}

/// The limits of all pods together. What must stay free for eviction is no part of them: pods are evicted before the kernel
/// kills.
fn limits(keep: &Housekeeping, capacity: &Capacity, pids: Option<u64>) -> Resources {
    let signed = |amount: u64| i64::try_from(amount).unwrap_or(i64::MAX);
    let cpu = capacity.cpu_millicores.saturating_sub(keep.reserved_cpu_millicores);
    Resources {
        cpu_shares: Some(shares(signed(cpu))),
        memory_limit_bytes: Some(signed(capacity.memory_bytes.saturating_sub(keep.reserved_memory_bytes))),
        pids_limit: pids.map(signed),
        ..Resources::default()
    }
}

/// Sets the limits, again until the kernel takes them: it does not while pods use more.
pub(crate) async fn enforce(kubelet: Arc<Shared>) {
    let config = &kubelet.config;
    let pids = machine::pids().map(|(_, most)| most);
    let limits = limits(&config.housekeeping, &machine::capacity(config), pids);
    let node = node_ref(config);
    while let Err(error) = config.runtime.limit_at(PODS_CGROUP, &limits) {
        let message = format!("Failed to update Node Allocatable Limits [\"{PODS_CGROUP}\"]: {error}");
        tracing::warn!("{message}");
        kubelet.recorder.warning(&node, "FailedNodeAllocatableEnforcement", message);
        kubelet.ctx.clock.sleep(RETRY).await;
    }
    let message = "Updated Node Allocatable limit across pods";
    kubelet.recorder.normal(&node, "NodeAllocatableEnforced", message);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capacity() -> Capacity {
        Capacity {
            cpu_millicores: 2000,
            memory_bytes: 4 << 30,
            ephemeral_storage_bytes: 100 << 30,
            pods: 110,
        }
    }

    #[test]
    fn limits_are_the_capacity_less_what_is_reserved() {
        for (reserve, shares, memory) in
            [("", 2048, 4_i64 << 30), ("cpu=500m,memory=1Gi", 1536, 3 << 30), ("cpu=5,memory=5Gi", 2, 0)]
        {
            let mut keep = Housekeeping::default();
            keep.reserve(reserve).unwrap();
            let limits = limits(&keep, &capacity(), Some(1000));
            assert_eq!(
                (limits.cpu_shares, limits.memory_limit_bytes, limits.pids_limit),
                (Some(shares), Some(memory), Some(1000)),
                "{reserve}"
            );
        }
    }

    #[test]
    fn more_than_there_is_cannot_be_reserved() {
        for (reserve, expected) in [
            ("cpu=2,memory=3Gi", None),
            (
                // With the 100Mi that must stay free.
                "memory=4Gi",
                Some(
                    "Resource \"memory\" has a reservation of 4196Mi but capacity of 4Gi. Expected capacity >= reservation.",
                ),
            ),
            (
                "cpu=3",
                Some(
                    "Resource \"cpu\" has a reservation of 3000m but capacity of 2000m. Expected capacity >= reservation.",
                ),
            ),
        ] {
            let mut keep = Housekeeping::default();
            keep.reserve(reserve).unwrap();
            let expected = expected.map(|text| format!("invalid Node Allocatable configuration. {text}"));
            assert_eq!(objection(&keep, &capacity()), expected, "{reserve}");
        }
    }
}
