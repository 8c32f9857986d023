//! Whether a pod fits the node when it arrives (upstream's lifecycle predicates): a pod bound by hand, or by a
//! scheduler that knew less, is refused, not squeezed in.

use crate::config::Capacity;
use crate::pod::sizes::{Part, total};
use knarr_api::core::v1::Pod;
use knarr_meta::quantity::Quantity;

/// What a pod asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Requests {
    cpu_millicores: i64,
    memory_bytes: i64,
    ephemeral_storage_bytes: i64,
}

impl Requests {
    pub(crate) fn of(pod: &Pod) -> Self {
        let sum = total(pod, Part::Requests);
        Self {
            cpu_millicores: sum.get("cpu").map_or(0, Quantity::milli_value),
            memory_bytes: sum.get("memory").map_or(0, Quantity::value),
            ephemeral_storage_bytes: sum.get("ephemeral-storage").map_or(0, Quantity::value),
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            cpu_millicores: self.cpu_millicores + other.cpu_millicores,
            memory_bytes: self.memory_bytes + other.memory_bytes,
            ephemeral_storage_bytes: self.ephemeral_storage_bytes + other.ephemeral_storage_bytes,
        }
    }
}

/// Reason and message of a refusal; `others` are the pods that are here and not at their end.
pub(crate) fn refusal(
    pod: &Pod,
    others: impl Iterator<Item = Requests>,
    allocatable: &Capacity,
) -> Option<(String, String)> {
    let (mut count, mut used) = (0, Requests::default());
    for other in others {
        count += 1;
        used = used.plus(other);
    }
    let wanted = Requests::of(pod);
    let signed = |amount: u64| i64::try_from(amount).unwrap_or(i64::MAX);
    let rows = [
        ("pods", 1, count, i64::from(allocatable.pods)),
        ("cpu", wanted.cpu_millicores, used.cpu_millicores, signed(allocatable.cpu_millicores)),
        ("memory", wanted.memory_bytes, used.memory_bytes, signed(allocatable.memory_bytes)),
        (
            "ephemeral-storage",
            wanted.ephemeral_storage_bytes,
            used.ephemeral_storage_bytes,
            signed(allocatable.ephemeral_storage_bytes),
        ),
    ];
    let (name, wanted, used, capacity) =
        rows.into_iter().find(|(_, wanted, used, capacity)| *wanted > 0 && used + wanted > *capacity)?;
    let message = format!(
        "Node didn't have enough resource: {name}, requested: {wanted}, used: {used}, capacity: {capacity}"
    );
    Some((format!("OutOf{name}"), message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::phase::tests::pod;
    use serde_json::{Value, json};

    fn of(pods: &[&Pod]) -> impl Iterator<Item = Requests> {
        pods.iter().map(|p| Requests::of(p)).collect::<Vec<_>>().into_iter()
    }

    fn asks(cpu: &str) -> Value {
        json!({"resources": {"requests": {"cpu": cpu, "memory": "1Gi"}}, "name": "c"})
    }

    #[test]
    fn a_pod_that_does_not_fit_is_refused_by_the_resource_that_lacks() {
        let node =
            Capacity { cpu_millicores: 2000, memory_bytes: 3 << 30, ephemeral_storage_bytes: 1, pods: 3 };
        let small = pod(json!({"containers": [asks("500m")]}));
        let big = pod(json!({"containers": [asks("1600m")]}));
        assert_eq!(refusal(&big, of(&[]), &node), None);
        let (reason, message) = refusal(&big, of(&[&small]), &node).unwrap();
        assert_eq!(reason, "OutOfcpu");
        assert_eq!(
            message,
            "Node didn't have enough resource: cpu, requested: 1600, used: 500, capacity: 2000"
        );
        let none = pod(json!({"containers": [{"name": "c"}]}));
        assert_eq!(refusal(&none, of(&[&small, &small]), &node), None);
        assert_eq!(refusal(&none, of(&[&none, &none, &none]), &node).unwrap().0, "OutOfpods");
        assert_eq!(refusal(&small, of(&[&small, &small,]), &node), None);
    }

    #[test]
    fn init_containers_count_by_the_largest_and_sidecars_with_all() {
        let mut sidecar = asks("100m");
        sidecar["restartPolicy"] = "Always".into();
        let pod = pod(
            json!({"initContainers": [asks("300m"), sidecar, asks("700m")], "containers": [asks("200m"), asks("50m")]}),
        );
        let requests = Requests::of(&pod);
        assert_eq!((requests.cpu_millicores, requests.memory_bytes), (800, 3 << 30));
    }
}
