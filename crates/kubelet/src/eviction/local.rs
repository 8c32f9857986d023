//! Limits of local ephemeral storage (the ephemeral-storage page): of an emptyDir, of a pod, of a container. A pod that
//! goes beyond one is evicted, however much the node has left.

use super::usage::PodUsage;
use crate::pod::sizes::{Part, total};
use knarr_api::core::v1::{Container, Pod};
use knarr_meta::quantity::Quantity;

fn limit(container: &Container) -> Option<Quantity> {
    let limits = &container.resources.as_ref()?.limits;
    let limit = Quantity::parse(&crate::util::resource(limits, "ephemeral-storage")?.0).ok()?;
    Some(limit).filter(|limit| !limit.is_zero())
}

fn size_limits(pod: &Pod) -> impl Iterator<Item = (&str, Quantity)> {
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    volumes.filter_map(|volume| {
        let limit = volume.empty_dir.as_ref()?.size_limit.as_ref()?;
        let limit = Quantity::parse(&limit.0).ok().filter(|limit| limit.sign() > 0)?;
        Some((volume.name.as_str(), limit))
    })
}

/// Whether the pod has any limit that must be watched. A volume in memory holds its own limit.
pub(crate) fn is_limited(pod: &Pod) -> bool {
    size_limits(pod).next().is_some() || total(pod, Part::Limits).contains_key("ephemeral-storage")
}

/// Which limit the pod is beyond: upstream's name of the signal, and its words. `dedicated`: what containers write is on another file
/// system than the node's, and does not count for them.
pub(crate) fn exceeded(pod: &Pod, usage: &PodUsage, dedicated: bool) -> Option<(&'static str, String)> {
    let over = |used: u64, limit: &Quantity| i128::from(used) * 1_000_000_000 > limit.nano_value();
    for (name, limit) in size_limits(pod) {
        if usage.volumes.get(name).is_some_and(|used| over(used.bytes, &limit)) {
            let limit = limit.to_string();
            let text = format!("Usage of EmptyDir volume {name:?} exceeds the limit {limit:?}. ");
            return Some(("emptydirfs.limit", text));
        }
    }
    if let Some(limit) = total(pod, Part::Limits).get("ephemeral-storage") {
        let counted = super::rank::Counted { rootfs: !dedicated, logs: true, volumes: true };
        if over(super::rank::disk(usage, counted).bytes, limit) {
            let text = "Pod ephemeral local storage usage exceeds the total limit of containers";
            return Some(("ephemeralpodfs.limit", format!("{text} {limit}. ")));
        }
    }
    for container in pod.spec.iter().flat_map(|s| &s.containers) {
        let Some((limit, used)) = limit(container).zip(usage.containers.get(&container.name)) else {
            continue;
        };
        let used = used.logs.bytes + if dedicated { 0 } else { used.rootfs.bytes };
        if over(used, &limit) {
            let (name, limit) = (&container.name, limit.to_string());
            let text = format!("Container {name} exceeded its local ephemeral storage limit {limit:?}. ");
            return Some(("ephemeralcontainerfs.limit", text));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::usage::{ContainerUsage, Disk};
    use super::*;
    use crate::pod::phase::tests::pod;
    use serde_json::{Value, json};
    use std::collections::BTreeMap;

    #[test]
    fn limits_are_told_in_upstreams_words() {
        let limited =
            |limit: &str| json!({"name": "c", "resources": {"limits": {"ephemeral-storage": limit}}});
        let other = |limit: &str| json!({"name": "d", "resources": {"limits": {"ephemeral-storage": limit}}});
        let volumes = json!([{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}, {"name": "w", "emptyDir": {}}]);
        let mib = 1 << 20;
        let disk = |bytes| Disk { bytes, inodes: 1 };
        // (spec, in v, in w, written by c, logged by c, message)
        type Case<'a> = (Value, u64, u64, u64, u64, Option<&'a str>);
        let cases: [Case<'_>; 7] = [
            (json!({"containers": [{"name": "c"}], "volumes": volumes}), mib, 9 * mib, mib, mib, None),
            (
                json!({"containers": [{"name": "c"}], "volumes": volumes}),
                mib + 1,
                0,
                0,
                0,
                Some("Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". "),
            ),
            (json!({"containers": [limited("4Mi")], "volumes": volumes}), mib, mib, mib, mib, None),
            (
                json!({"containers": [limited("4Mi")], "volumes": volumes}),
                mib,
                2 * mib,
                mib,
                mib,
                Some("Pod ephemeral local storage usage exceeds the total limit of containers 4Mi. "),
            ),
            (
                json!({"containers": [limited("2Mi"), other("8Mi")]}),
                0,
                0,
                2 * mib,
                mib,
                Some("Container c exceeded its local ephemeral storage limit \"2Mi\". "),
            ),
            // Where another container has no limit there is still the sum of those that have one.
            (
                json!({"containers": [limited("2Mi"), {"name": "d"}]}),
                0,
                3 * mib,
                0,
                0,
                Some("Pod ephemeral local storage usage exceeds the total limit of containers 2Mi. "),
            ),
            (json!({"containers": [{"name": "c"}]}), mib, mib, mib, mib, None),
        ];
        for (spec, v, w, rootfs, logs, expected) in cases {
            let pod = pod(spec.clone());
            let container = ContainerUsage { memory_bytes: 0, rootfs: disk(rootfs), logs: disk(logs) };
            let usage = PodUsage {
                containers: BTreeMap::from([("c".to_owned(), container)]),
                volumes: BTreeMap::from([("v".to_owned(), disk(v)), ("w".to_owned(), disk(w))]),
                ..PodUsage::default()
            };
            assert_eq!(exceeded(&pod, &usage, false).as_ref().map(|(_, text)| &**text), expected, "{spec}");
            assert_eq!(is_limited(&pod), spec != json!({"containers": [{"name": "c"}]}), "{spec}");
        }
    }

    #[test]
    fn on_a_file_system_of_their_own_what_containers_write_does_not_count() {
        let pod = pod(
            json!({"containers": [{"name": "c", "resources": {"limits": {"ephemeral-storage": "1Mi"}}}]}),
        );
        let container =
            ContainerUsage { rootfs: Disk { bytes: 2 << 20, inodes: 1 }, ..ContainerUsage::default() };
        let usage =
            PodUsage { containers: BTreeMap::from([("c".to_owned(), container)]), ..PodUsage::default() };
        let signal = exceeded(&pod, &usage, false).map(|(signal, _)| signal);
        assert_eq!(signal, Some("ephemeralpodfs.limit"));
        assert_eq!(exceeded(&pod, &usage, true), None);
    }
}
