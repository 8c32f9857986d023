//! Questions about pods that several controllers ask.

use super::time::system_time;
use knarr_api::Kind;
use knarr_api::core::v1::{Pod, PodCondition, Taint, Toleration};
use std::time::{Duration, SystemTime};

/// The phase, `Pending` when unset.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending")
}

/// Whether the pod is neither ended nor on its way out.
pub fn is_active(pod: &Pod) -> bool {
    !matches!(phase(pod), "Succeeded" | "Failed") && pod.metadata.deletion_timestamp.is_none()
}

/// Whether the pod is on its way out and has not ended.
pub fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some() && !matches!(phase(pod), "Succeeded" | "Failed")
}

/// One of the pod's conditions.
pub fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == kind)
}

/// Whether the pod is ready.
pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|c| c.status == "True")
}

/// Since when the pod has been ready, if it is.
pub fn ready_since(pod: &Pod) -> Option<SystemTime> {
    let ready = condition(pod, "Ready").filter(|c| c.status == "True")?;
    ready.last_transition_time.as_ref().map(system_time)
}

/// Whether the pod has been ready for `min_ready`; if not yet, how long to wait.
pub fn availability(pod: &Pod, min_ready: Duration, now: SystemTime) -> Result<(), Option<Duration>> {
    if !is_ready(pod) {
        return Err(None);
    }
    if min_ready.is_zero() {
        return Ok(());
    }
    let since = ready_since(pod).ok_or(None)?;
    let ready_for = now.duration_since(since).unwrap_or_default();
    if ready_for >= min_ready { Ok(()) } else { Err(Some(min_ready - ready_for)) }
}

/// Whether a toleration covers a taint.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (effect, key) = (text(&toleration.effect), text(&toleration.key));
    (effect.is_empty() || effect == taint.effect)
        && (key.is_empty() || key == taint.key)
        && match toleration.operator.as_deref() {
            Some("Exists") => true,
            None | Some("" | "Equal") => !key.is_empty() && text(&toleration.value) == text(&taint.value),
            Some(_) => false,
        }
}

/// How many times the containers of the pod have been restarted, at most.
pub fn most_restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.as_ref());
    statuses.into_iter().flatten().map(|s| s.restart_count).max().unwrap_or_default()
}

/// The order in which pods are given up when there are too many, first to go first (upstream's
/// ActivePodsWithRanks). `crowd` is how many pods of the same set share the pod's node.
pub fn deletion_rank(pod: &Pod, crowd: usize) -> impl Ord + use<> {
    let scheduled = pod.spec.as_ref().is_some_and(|s| s.node_name.as_deref().is_some_and(|n| !n.is_empty()));
    let phase = match phase(pod) {
        "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    let cost =
        pod.metadata.annotations.as_ref().and_then(|a| a.get("controller.kubernetes.io/pod-deletion-cost"));
    let cost: i32 = cost.and_then(|c| c.parse().ok()).unwrap_or_default();
    // Among ready pods those that became ready last go first; on a logarithmic scale in upstream, exact here.
    let newest_first = |t: Option<SystemTime>| std::cmp::Reverse(t);
    (
        scheduled,
        phase,
        is_ready(pod),
        cost,
        std::cmp::Reverse(crowd),
        newest_first(ready_since(pod)),
        std::cmp::Reverse(most_restarts(pod)),
        newest_first(pod.metadata.creation_timestamp.as_ref().map(system_time)),
        pod.name().to_owned(),
    )
}
