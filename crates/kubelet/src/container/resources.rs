//! Quality-of-service classes, cgroups and limits (pod-qos, node-allocatable and resource-management pages).

use crate::pod::sizes::{Part, of_containers, total};
use crate::util::{milli, resource, value};
use knarr_api::core::v1::{Container, Pod, ResourceRequirements};
use knarr_meta::quantity::Quantity as Amount;
use knarr_runtime::spec::Resources;

/// The kernel's own bounds for cpu.shares.
const LEAST_SHARES: u64 = 2;
const MOST_SHARES: u64 = 262_144;
/// CFS period in microseconds, and the shortest quota the kernel takes.
const PERIOD_US: u64 = 100_000;
const LEAST_QUOTA_US: i64 = 1000;

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub(crate) fn qos_class(pod: &Pod) -> &'static str {
    if let Some(class) = pod.status.as_ref().and_then(|s| s.qos_class.as_deref()) {
        match class {
            "Guaranteed" => return "Guaranteed",
            "BestEffort" => return "BestEffort",
            "Burstable" => return "Burstable",
            _ => {}
        }
    }
    let Some(spec) = &pod.spec else { return "BestEffort" };
    if let Some(own) = &spec.resources {
        return own_class(own);
    }
    let containers: Vec<&Container> = spec.init_containers.iter().flatten().chain(&spec.containers).collect();
    let mut any = false;
    let mut guaranteed = true;
    for container in containers {
        for name in ["cpu", "memory"] {
            let resources = container.resources.as_ref();
            let request = resources.and_then(|r| resource(&r.requests, name)).map_or(0, milli);
            let limit = resources.and_then(|r| resource(&r.limits, name)).map_or(0, milli);
            any |= request > 0 || limit > 0;
            guaranteed &= limit > 0 && (request == limit || request == 0);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// The class of a pod that says itself what it needs (KEP-2837).
fn own_class(own: &ResourceRequirements) -> &'static str {
    let amount = |list: &Option<_>, name| resource(list, name).map_or(0, milli);
    let of = |name| (amount(&own.requests, name), amount(&own.limits, name));
    let both = [of("cpu"), of("memory")];
    if both.iter().all(|(request, limit)| *request == 0 && *limit == 0) {
        return "BestEffort";
    }
    match both.iter().all(|(request, limit)| *limit > 0 && request == limit) {
        true => "Guaranteed",
        false => "Burstable",
    }
}

/// The pod's cgroup below the runtime's root.
pub(crate) fn pod_cgroup(pod: &Pod, uid: &str) -> String {
    match qos_class(pod) {
        "Guaranteed" => format!("kubepods/pod{uid}"),
        class => format!("kubepods/{}/pod{uid}", class.to_lowercase()),
    }
}

/// cpu.shares for a request.
pub(crate) fn shares(millicores: i64) -> u64 {
    (millicores.max(0).unsigned_abs() * 1024 / 1000).clamp(LEAST_SHARES, MOST_SHARES)
}

fn quota(millicores: i64) -> i64 {
    (millicores * PERIOD_US as i64 / 1000).max(LEAST_QUOTA_US)
}

/// Limits of a container; the pod's own hold where the container has none (KEP-2837).
pub(crate) fn container(pod: &Pod, container: &Container) -> Resources {
    let wanted = container.resources.as_ref();
    let own = pod.spec.as_ref().and_then(|s| s.resources.as_ref());
    let limit = |name| {
        let amount = if name == "cpu" { milli } else { value };
        let of = |r: Option<&ResourceRequirements>| {
            r.and_then(|r| resource(&r.limits, name)).map(amount).filter(|a| *a > 0)
        };
        of(wanted).or_else(|| of(own))
    };
    let cpu_limit = limit("cpu");
    let cpu_request = wanted.and_then(|r| resource(&r.requests, "cpu")).map(milli);
    let mut resources = Resources {
        cpu_shares: Some(shares(cpu_request.or(cpu_limit).unwrap_or_default())),
        cpu_quota_us: cpu_limit.map(quota),
        cpu_period_us: cpu_limit.map(|_| PERIOD_US),
        memory_limit_bytes: limit("memory"),
        ..Resources::default()
    };
    let limits = |r: Option<&ResourceRequirements>| r.and_then(|r| r.limits.clone()).unwrap_or_default();
    for (name, amount) in limits(own).into_iter().chain(limits(wanted)) {
        if let Some(size) = name.strip_prefix("hugepages-") {
            // cgroups name sizes in powers of 1024 without the `i`: 2Mi pages are `2MB`.
            let size = size.trim_end_matches('i').to_owned() + "B";
            resources.hugepages.insert(size, value(&amount).max(0).unsigned_abs());
        }
    }
    resources
}

/// Limits of a pod's cgroup as a whole: set where every container has one, or the pod itself.
pub(crate) fn pod(pod: &Pod) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    if qos_class(pod) == "BestEffort" {
        return Resources { cpu_shares: Some(LEAST_SHARES), ..Resources::default() };
    }
    let (requests, limits) = (total(pod, Part::Requests), total(pod, Part::Limits));
    let some = |r: &Option<ResourceRequirements>, name: &str| {
        r.as_ref().and_then(|r| resource(&r.limits, name)).is_some_and(|q| milli(q) > 0)
    };
    let declared = |name: &str| {
        let mut all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        some(&spec.resources, name) || all.all(|c| some(&c.resources, name))
    };
    let limit = |name: &str, amount: fn(&Amount) -> i64| {
        limits.get(name).filter(|_| declared(name)).map(amount).filter(|a| *a > 0)
    };
    let cpu = limit("cpu", Amount::milli_value);
    Resources {
        cpu_shares: Some(shares(requests.get("cpu").map_or(0, Amount::milli_value))),
        cpu_quota_us: cpu.map(quota),
        cpu_period_us: cpu.map(|_| PERIOD_US),
        memory_limit_bytes: limit("memory", Amount::value),
        ..Resources::default()
    }
}

/// How readily the kernel kills the container when memory runs out (node-pressure-eviction's table, KEP-2837).
pub(crate) fn oom_score_adj(pod: &Pod, container: &Container, node_memory_bytes: u64) -> i32 {
    let critical = pod.spec.as_ref().and_then(|s| s.priority).is_some_and(|p| p >= 2_000_000_000);
    match qos_class(pod) {
        _ if critical => return -997,
        "Guaranteed" => return -997,
        "BestEffort" => return 1000,
        _ => {}
    }
    let Some(spec) = &pod.spec else { return 999 };
    let request =
        |c: &Container| c.resources.as_ref().and_then(|r| resource(&r.requests, "memory")).map_or(0, value);
    // What the pod asks for beyond its containers is theirs in equal parts.
    let own = spec.resources.as_ref().and_then(|r| resource(&r.requests, "memory")).map_or(0, value);
    let count = (spec.containers.len() + spec.init_containers.as_ref().map_or(0, Vec::len)).max(1) as i64;
    let rest = if own == 0 {
        0
    } else {
        (own - of_containers(pod, Part::Requests).get("memory").map_or(0, Amount::value)) / count
    };
    let score = |bytes: i64| 1000 - 1000 * i128::from(bytes + rest) / i128::from(node_memory_bytes.max(1));
    let mut adjust = score(request(container));
    let sidecar = container.restart_policy.as_deref() == Some("Always")
        && spec.init_containers.iter().flatten().any(|c| c.name == container.name);
    if sidecar {
        // A sidecar does not go before what it serves.
        adjust = adjust.min(score(spec.containers.iter().map(request).min().unwrap_or_default()));
    }
    adjust.clamp(3, 999) as i32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::phase::tests::pod as make;
    use serde_json::{Value, json};

    fn pod_of(resources: &[Value]) -> Pod {
        let containers: Vec<Value> = resources
            .iter()
            .enumerate()
            .map(|(i, r)| json!({"name": format!("c{i}"), "resources": r}))
            .collect();
        make(json!({ "containers": containers }))
    }

    #[test]
    fn classes_and_cgroups() {
        let full =
            json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1Gi"}});
        for (resources, class, cgroup) in [
            (vec![json!({})], "BestEffort", "kubepods/besteffort/podu"),
            (vec![full.clone()], "Guaranteed", "kubepods/podu"),
            (vec![full, json!({})], "Burstable", "kubepods/burstable/podu"),
            (vec![json!({"requests": {"cpu": "1m"}})], "Burstable", "kubepods/burstable/podu"),
        ] {
            let pod = pod_of(&resources);
            assert_eq!((qos_class(&pod), pod_cgroup(&pod, "u").as_str()), (class, cgroup));
        }
    }

    #[test]
    fn limits_become_shares_quota_and_bytes() {
        let pod = pod_of(&[
            json!({"limits": {"cpu": "500m", "memory": "64Mi", "hugepages-2Mi": "4Mi"}, "requests": {"cpu": "250m"}}),
        ]);
        let limits = container(&pod, &pod.spec.as_ref().unwrap().containers[0]);
        assert_eq!(
            (limits.cpu_shares, limits.cpu_quota_us, limits.cpu_period_us),
            (Some(256), Some(50_000), Some(100_000))
        );
        assert_eq!(limits.memory_limit_bytes, Some(64 << 20));
        assert_eq!(limits.hugepages["2MB"], 4 << 20);
        assert_eq!(container(&pod, &Container::default()).cpu_shares, Some(2));
    }

    #[test]
    fn the_pod_is_limited_only_where_every_container_is() {
        let limited = json!({"limits": {"memory": "64Mi"}});
        assert_eq!(pod(&pod_of(&[limited.clone(), limited.clone()])).memory_limit_bytes, Some(128 << 20));
        assert_eq!(pod(&pod_of(&[limited, json!({})])).memory_limit_bytes, None);
    }

    #[test]
    fn oom_scores_follow_the_class_and_the_request() {
        let node = 4u64 << 30;
        let burstable = pod_of(&[json!({"requests": {"memory": "1Gi"}})]);
        let container = &burstable.spec.as_ref().unwrap().containers[0];
        assert_eq!(oom_score_adj(&burstable, container, node), 750);
        assert_eq!(oom_score_adj(&pod_of(&[json!({})]), container, node), 1000);
    }
}
