//! Which pod is evicted first, and in what words: upstream's order (over its requests, priority, how far over) and
//! messages.

use super::judge::Readings;
use super::threshold::{Resource, Signal, Threshold};
use super::usage::{Disk, PodUsage};
use crate::pod::sizes::{Part, total};
use knarr_api::Kind;
use knarr_api::core::v1::Pod;
use knarr_client::Annotations;
use knarr_meta::quantity::Quantity;
use std::cmp::Reverse;
use std::sync::Arc;

/// What of a pod counts where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) rootfs: bool,
    pub(crate) logs: bool,
    pub(crate) volumes: bool,
}

/// What of a pod is on the file system of the signal; `dedicated`: images and containers have one of their own.
pub(crate) fn counted(signal: Signal, dedicated: bool) -> Counted {
    let of_images = matches!(
        signal,
        Signal::ImageFsAvailable
            | Signal::ImageFsInodesFree
            | Signal::ContainerFsAvailable
            | Signal::ContainerFsInodesFree
    );
    Counted {
        rootfs: !dedicated || of_images,
        logs: !dedicated || !of_images,
        volumes: !dedicated || !of_images,
    }
}

/// What a pod uses on the counted file systems.
pub(crate) fn disk(usage: &PodUsage, counted: Counted) -> Disk {
    let mut sum = Disk::default();
    for container in usage.containers.values() {
        if counted.rootfs {
            sum += container.rootfs;
        }
        if counted.logs {
            sum += container.logs;
        }
    }
    if counted.volumes {
        usage.volumes.values().for_each(|volume| sum += *volume);
    }
    sum
}

fn request(pod: &Pod, name: &str) -> u64 {
    total(pod, Part::Requests).get(name).map_or(0, |q| u64::try_from(q.value()).unwrap_or(0))
}

fn priority(pod: &Pod) -> i32 {
    pod.spec.as_ref().and_then(|s| s.priority).unwrap_or_default()
}

/// Puts pods into the order of eviction. A pod of which nothing is known goes first.
pub(crate) fn rank(pods: &mut [(Arc<Pod>, Option<PodUsage>)], resource: Resource, counted: Counted) {
    // Within its requests, priority, how little over them; unknown before known.
    let key = |(pod, usage): &(Arc<Pod>, Option<PodUsage>)| {
        let Some(usage) = usage else { return (false, false, i32::MIN, Reverse(0)) };
        let (used, asked) = match resource {
            Resource::Memory => (usage.memory_bytes, request(pod, "memory")),
            Resource::EphemeralStorage => (disk(usage, counted).bytes, request(pod, "ephemeral-storage")),
            Resource::Inodes => (disk(usage, counted).inodes, 0),
            Resource::Pids => (usage.pids, 0),
        };
        // Nobody asks for processes: priority and number alone decide.
        let within = resource != Resource::Pids && used <= asked;
        (true, within, priority(pod), Reverse(i128::from(used) - i128::from(asked)))
    };
    pods.sort_by_cached_key(key);
}

/// Why the pod is evicted, in words and as annotations of the event.
pub(crate) fn message(
    resource: Resource,
    pod: &Pod,
    usage: Option<&PodUsage>,
    due: &[Threshold],
    readings: &Readings,
) -> (String, Annotations) {
    let name = resource.name();
    let mut text = format!("The node was low on resource: {name}. ");
    let of_resource = due.iter().filter(|t| t.signal.resource() == resource);
    if let Some((threshold, reading)) = of_resource.filter_map(|t| Some((t, readings.get(&t.signal)?))).next()
    {
        let quantity = resource.amount(threshold.value.of(reading.capacity));
        let available = resource.amount(reading.available);
        text += &format!("Threshold quantity: {quantity}, available: {available}. ");
    }
    let mut annotations = Annotations::new();
    let (Some(usage), Some(spec)) = (usage, &pod.spec) else { return (text, annotations) };
    let mut blame = |kind: &str, who: &str, used: u64, asked: &Quantity| {
        let used = resource.amount(used).to_string();
        text +=
            &format!("{kind} {who} was using {used}, request is {asked}, has larger consumption of {name}. ");
        used
    };
    let mut annotate = |key: &str, value: String| drop(annotations.insert(key.to_owned(), value));
    let own = spec.resources.as_ref().and_then(|r| crate::util::resource(&r.requests, name));
    if let Some(asked) = own.filter(|_| resource == Resource::Memory) {
        let asked = Quantity::parse(&asked.0).unwrap_or_default();
        let used = blame("Pod", pod.name(), usage.memory_bytes, &asked);
        annotate("offending_pod", pod.name().to_owned());
        annotate("offending_pod_usage", used);
    }
    let mut offending = (Vec::new(), Vec::new());
    let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    for container in all {
        let Some(used) = usage.containers.get(&container.name) else { continue };
        let used = match resource {
            Resource::Memory => used.memory_bytes,
            Resource::EphemeralStorage => used.rootfs.bytes + used.logs.bytes,
            Resource::Inodes | Resource::Pids => continue,
        };
        let asked = container.resources.as_ref().and_then(|r| crate::util::resource(&r.requests, name));
        let asked = asked.and_then(|q| Quantity::parse(&q.0).ok()).unwrap_or_default();
        if i128::from(used) > i128::from(asked.value()) {
            offending.0.push(container.name.clone());
            offending.1.push(blame("Container", &container.name, used, &asked));
        }
    }
    annotate("offending_containers", offending.0.join(","));
    annotate("offending_containers_usage", offending.1.join(","));
    annotate("starved_resource", name.to_owned());
    (text, annotations)
}

#[cfg(test)]
mod tests {
    use super::super::judge::Reading;
    use super::super::threshold::thresholds;
    use super::super::usage::ContainerUsage;
    use super::*;
    use serde_json::json;
    use std::collections::BTreeMap;

    const ALL: Counted = Counted { rootfs: true, logs: true, volumes: true };

    fn pod(name: &str, priority: i32, memory: &str) -> Arc<Pod> {
        let requests = if memory.is_empty() { json!({}) } else { json!({"memory": memory}) };
        let value = json!({"metadata": {"name": name, "namespace": "n", "uid": name}, "spec": {
            "priority": priority, "containers": [{"name": "c", "resources": {"requests": requests}}]}});
        Arc::new(Pod::from_value(&value).unwrap())
    }

    fn uses(memory: u64, pids: u64, bytes: u64) -> Option<PodUsage> {
        let rootfs = Disk { bytes, inodes: bytes };
        let container = ContainerUsage { memory_bytes: memory, rootfs, logs: Disk::default() };
        let containers = BTreeMap::from([("c".to_owned(), container)]);
        Some(PodUsage { memory_bytes: memory, pids, containers, volumes: BTreeMap::new() })
    }

    #[test]
    fn pods_go_in_upstreams_order() {
        let pods = || {
            vec![
                (pod("guarded", 0, "1Gi"), uses(900 << 20, 5, 1)),
                (pod("important", 1000, "1Mi"), uses(3 << 30, 100, 5)),
                (pod("greedy", 0, "1Gi"), uses(2 << 30, 50, 3)),
                (pod("free", 0, ""), uses(10 << 20, 70, 4)),
                (pod("unknown", 5000, ""), None),
            ]
        };
        for (resource, expected) in [
            (Resource::Memory, ["unknown", "greedy", "free", "important", "guarded"]),
            (Resource::Pids, ["unknown", "free", "greedy", "guarded", "important"]),
            (Resource::EphemeralStorage, ["unknown", "free", "greedy", "guarded", "important"]),
        ] {
            let mut pods = pods();
            rank(&mut pods, resource, ALL);
            let names: Vec<&str> = pods.iter().map(|(pod, _)| pod.name()).collect();
            assert_eq!(names, expected, "{resource:?}");
        }
    }

    #[test]
    fn images_file_system_counts_what_is_written_into_root_file_systems() {
        let counted = |signal, dedicated| {
            let c = counted(signal, dedicated);
            (c.rootfs, c.logs, c.volumes)
        };
        assert_eq!(counted(Signal::NodeFsAvailable, false), (true, true, true));
        assert_eq!(counted(Signal::NodeFsInodesFree, true), (false, true, true));
        assert_eq!(counted(Signal::ImageFsAvailable, true), (true, false, false));
    }

    #[test]
    fn messages_are_upstreams() {
        let due = thresholds("memory.available<100Mi,nodefs.available<10%", "", "", "").unwrap();
        let reading = |available, capacity| Reading { available, capacity };
        let readings = Readings::from([
            (Signal::MemoryAvailable, reading(95_432 << 10, 1 << 30)),
            (Signal::NodeFsAvailable, reading(5, 1_000)),
        ]);
        let pod = pod("p", 0, "10Mi");
        for (resource, usage, expected, annotated) in [
            (
                Resource::Memory,
                uses(20 << 20, 0, 0),
                "The node was low on resource: memory. Threshold quantity: 100Mi, available: 95432Ki. \
                 Container c was using 20Mi, request is 10Mi, has larger consumption of memory. ",
                Some(("c", "20Mi", "memory")),
            ),
            (
                Resource::Memory,
                uses(5 << 20, 0, 0),
                "The node was low on resource: memory. Threshold quantity: 100Mi, available: 95432Ki. ",
                Some(("", "", "memory")),
            ),
            (
                Resource::EphemeralStorage,
                uses(0, 0, 4096),
                "The node was low on resource: ephemeral-storage. Threshold quantity: 100, available: 5. \
                 Container c was using 4Ki, request is 0, has larger consumption of ephemeral-storage. ",
                Some(("c", "4Ki", "ephemeral-storage")),
            ),
            (Resource::Pids, None, "The node was low on resource: pids. ", None),
        ] {
            let (text, annotations) = message(resource, &pod, usage.as_ref(), &due, &readings);
            assert_eq!(text, expected);
            let annotated = annotated.map(|(containers, usage, resource)| {
                let all = [
                    ("offending_containers", containers),
                    ("offending_containers_usage", usage),
                    ("starved_resource", resource),
                ];
                all.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
            });
            assert_eq!(annotations, annotated.unwrap_or_default());
        }
    }
}
