//! What pods use: their number, processors, memory, local storage, huge pages and extended resources.

use crate::amounts::{Amounts, add, whole};
use crate::names::{HUGE_PAGES, REQUESTS, extended_in_quota, is_extended};
use crate::scopes::meets;
use crate::totals::{Part, has_pod_level, of_spec, pod_level, total};
use knarr_api::core::v1::{Affinity, Pod, PodAffinityTerm, ScopedResourceSelectorRequirement};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

const COUNT: &str = "count/pods";
const NAMES: &[&str] = &[
    COUNT,
    "pods",
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
];
/// What each container must say when a quota limits it: a mistake of old that upstream keeps, for these alone.
const MUST_BE_SET: &[&str] =
    &["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];

/// Whether a quota's name is about pods.
pub fn matches(name: &str) -> bool {
    NAMES.contains(&name)
        || name.starts_with(HUGE_PAGES)
        || name.strip_prefix(REQUESTS).is_some_and(|n| n.starts_with(HUGE_PAGES))
        || extended_in_quota(name).is_some()
}

/// Whether every container says what `required` demands; upstream's words if not.
pub fn constraints(required: &BTreeSet<String>, pod: &Pod) -> Result<(), String> {
    if has_pod_level(pod) {
        return Ok(());
    }
    let required: Vec<&str> = MUST_BE_SET.iter().copied().filter(|name| required.contains(*name)).collect();
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let spec = pod.spec.iter();
    for container in spec.flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten())) {
        let set = compute(&of_spec(container, Part::Requests), &of_spec(container, Part::Limits));
        for name in required.iter().filter(|name| !set.contains_key(**name)) {
            missing.entry(name).or_default().insert(&container.name);
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let of_resource = |(name, containers): (&&str, &BTreeSet<&str>)| {
        format!("{name} for: {}", containers.iter().copied().collect::<Vec<_>>().join(","))
    };
    Err(format!("must specify {}", missing.iter().map(of_resource).collect::<Vec<_>>().join("; ")))
}

/// What a pod uses. One that has ended uses nothing but its place among the stored objects.
pub fn usage(pod: &Pod, now: SystemTime) -> Amounts {
    let mut used = Amounts::from([(COUNT.to_owned(), whole(1))]);
    if counts(pod, now) {
        add(&mut used, &compute(&total(pod, Part::Requests), &total(pod, Part::Limits)));
    }
    used
}

/// Amounts as quotas name them.
fn compute(requests: &Amounts, limits: &Amounts) -> Amounts {
    let mut used = Amounts::from([("pods".to_owned(), whole(1))]);
    for (name, amount) in requests {
        let plain =
            matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") || name.starts_with(HUGE_PAGES);
        if plain {
            used.insert(name.clone(), amount.clone());
        }
        if plain || is_extended(name) {
            used.insert(format!("{REQUESTS}{name}"), amount.clone());
        }
    }
    for (name, amount) in limits {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            used.insert(format!("limits.{name}"), amount.clone());
        }
    }
    used
}

/// Whether a pod counts beyond its being stored: it has not ended, and is not stuck on its way out (its node may be
/// lost for good).
pub fn counts(pod: &Pod, now: SystemTime) -> bool {
    if matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Failed" | "Succeeded")) {
        return false;
    }
    let meta = &pod.metadata;
    let (Some(at), Some(grace)) = (&meta.deletion_timestamp, meta.deletion_grace_period_seconds) else {
        return true;
    };
    let at = Duration::from_nanos(u64::try_from(at.0.as_nanosecond()).unwrap_or_default());
    let grace = Duration::from_secs(u64::try_from(grace).unwrap_or_default());
    now <= SystemTime::UNIX_EPOCH + at + grace
}

/// Whether the pod has a deadline, which is what the scope `Terminating` means.
pub fn is_terminating(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s| s.active_deadline_seconds).is_some_and(|seconds| seconds >= 0)
}

/// Whether a pod is in a scope.
pub fn in_scope(scope: &ScopedResourceSelectorRequirement, pod: &Pod) -> bool {
    match scope.scope_name.as_str() {
        "Terminating" => is_terminating(pod),
        "NotTerminating" => !is_terminating(pod),
        "BestEffort" => is_best_effort(pod),
        "NotBestEffort" => !is_best_effort(pod),
        "PriorityClass" => {
            let class = pod.spec.as_ref().and_then(|s| s.priority_class_name.as_deref());
            meets(scope, class.filter(|class| !class.is_empty()))
        }
        "CrossNamespacePodAffinity" => {
            pod.spec.as_ref().and_then(|s| s.affinity.as_ref()).is_some_and(looks_beyond_namespace)
        }
        _ => false,
    }
}

fn is_best_effort(pod: &Pod) -> bool {
    if let Some(class) = pod.status.as_ref().and_then(|s| s.qos_class.as_deref()).filter(|c| !c.is_empty()) {
        return class == "BestEffort";
    }
    let Some(spec) = &pod.spec else { return true };
    let some = |amounts: &Amounts| {
        amounts.iter().any(|(name, amount)| matches!(name.as_str(), "cpu" | "memory") && amount.sign() > 0)
    };
    let parts = [Part::Requests, Part::Limits];
    if spec.resources.is_some() {
        return !parts.into_iter().any(|part| some(&pod_level(pod, part)));
    }
    let mut containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    !containers.any(|container| parts.into_iter().any(|part| some(&of_spec(container, part))))
}

fn looks_beyond_namespace(affinity: &Affinity) -> bool {
    let beyond = |term: &PodAffinityTerm| {
        term.namespaces.as_ref().is_some_and(|n| !n.is_empty()) || term.namespace_selector.is_some()
    };
    let required = [
        affinity
            .pod_affinity
            .as_ref()
            .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()),
        affinity
            .pod_anti_affinity
            .as_ref()
            .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()),
    ];
    let preferred = [
        affinity
            .pod_affinity
            .as_ref()
            .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()),
        affinity
            .pod_anti_affinity
            .as_ref()
            .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()),
    ];
    required.into_iter().flatten().flatten().any(beyond)
        || preferred.into_iter().flatten().flatten().any(|weighted| beyond(&weighted.pod_affinity_term))
}

/// Whether the change of a pod may set something free or take something: it ended, its deadline came or went, or a
/// resize was carried out.
pub fn frees(old: &Pod, new: &Pod, now: SystemTime) -> bool {
    let resources = |pod: &Pod| {
        let status = pod.status.clone().unwrap_or_default();
        let all = status.container_statuses.into_iter().chain(status.init_container_statuses).flatten();
        all.map(|s| (s.name, s.resources)).collect::<Vec<_>>()
    };
    is_terminating(old) != is_terminating(new) || (counts(old, now) && !counts(new, now)) || {
        let (before, after) = (resources(old), resources(new));
        before.iter().any(|(name, had)| after.iter().any(|(n, has)| n == name && has != had))
    }
}
