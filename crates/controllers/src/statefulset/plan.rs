//! What to do next for a StatefulSet: pods are made in order of their ordinals and deleted in reverse; unless its
//! pods are managed in parallel, one at a time and only while all others are well.

use super::pods::ordinal_of;
use crate::framework::history::revision_of;
use crate::framework::pods::{availability, is_ready, phase};
use knarr_api::IntOrString;
use knarr_api::apps::v1::{StatefulSet, StatefulSetStatus};
use knarr_api::core::v1::Pod;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// One step.
#[derive(Clone, Debug)]
pub enum Action {
    /// Make the pod of this ordinal, of the current revision or of the update.
    Create(i32, bool),
    /// Delete this pod.
    Delete(Arc<Pod>),
}

/// What follows from a look at the set and its pods.
#[derive(Debug, Default)]
pub struct Plan {
    /// Steps, in order.
    pub actions: Vec<Action>,
    /// The status before them.
    pub status: StatefulSetStatus,
    /// When a pod will become available that is waited for.
    pub check_again: Option<Duration>,
}

fn terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Plans. `current` and `update` are names of revisions.
pub fn plan(set: &StatefulSet, pods: &[Arc<Pod>], current: &str, update: &str, now: SystemTime) -> Plan {
    let spec = set.spec.clone().unwrap_or_default();
    let start = spec.ordinals.as_ref().and_then(|o| o.start).unwrap_or_default();
    let replicas = spec.replicas.unwrap_or(1);
    let wanted = start..start.saturating_add(replicas);
    let min_ready =
        Duration::from_secs(u64::try_from(spec.min_ready_seconds.unwrap_or_default()).unwrap_or_default());
    let by_ordinal: BTreeMap<i32, &Arc<Pod>> =
        pods.iter().filter_map(|pod| Some((ordinal_of(set, pod)?, pod))).collect();

    let running_ready = |pod: &Pod| phase(pod) == "Running" && is_ready(pod);
    let mut plan = Plan::default();
    let mut status = set.status.clone().unwrap_or_default();
    let some = |n: usize| Some(n as i32).filter(|n| *n != 0);
    let all = || by_ordinal.values();
    let of = |revision: &str| {
        all().filter(|p| !terminating(p) && revision_of(&p.metadata) == Some(revision)).count()
    };
    status.observed_generation = set.metadata.generation;
    status.replicas = by_ordinal.len() as i32;
    status.ready_replicas = some(all().filter(|p| running_ready(p)).count());
    status.available_replicas =
        Some(all().filter(|p| running_ready(p) && availability(p, min_ready, now).is_ok()).count() as i32);
    status.current_replicas = some(of(current));
    status.updated_replicas = some(of(update));
    status.current_revision = Some(current.to_owned());
    status.update_revision = Some(update.to_owned());
    let rolling = spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref()).unwrap_or("RollingUpdate")
        == "RollingUpdate";
    if rolling
        && status.updated_replicas == some(by_ordinal.len())
        && status.ready_replicas == some(by_ordinal.len())
    {
        status.current_revision = Some(update.to_owned());
        status.current_replicas = status.updated_replicas;
    }
    plan.status = status;
    if set.metadata.deletion_timestamp.is_some() {
        return plan;
    }

    let parallel = spec.pod_management_policy.as_deref() == Some("Parallel");
    let rolling_update = spec.update_strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
    let partition = rolling_update.and_then(|r| r.partition).unwrap_or_default().saturating_add(start);
    let mut wait = |pod: &Pod| match availability(pod, min_ready, now) {
        _ if !running_ready(pod) => true,
        Ok(()) => false,
        Err(left) => {
            if let Some(left) = left {
                plan.check_again = Some(plan.check_again.map_or(left, |c| c.min(left)));
            }
            true
        }
    };
    // First all wanted pods, in order.
    for ordinal in wanted.clone() {
        let go_on = match by_ordinal.get(&ordinal) {
            None => {
                plan.actions.push(Action::Create(ordinal, rolling && ordinal < partition));
                false
            }
            Some(pod) if matches!(phase(pod), "Failed" | "Succeeded") => {
                // Its successor comes once it is gone.
                if !terminating(pod) {
                    plan.actions.push(Action::Delete((*pod).clone()));
                }
                false
            }
            Some(pod) => !terminating(pod) && !wait(pod),
        };
        if !go_on && !parallel {
            return plan;
        }
    }
    // Then those that are too many, in reverse.
    let condemned: Vec<&Arc<Pod>> =
        by_ordinal.iter().rev().filter(|(o, _)| !wanted.contains(o)).map(|(_, p)| *p).collect();
    let first_unhealthy = condemned.iter().rev().find(|p| terminating(p) || !running_ready(p)).copied();
    for pod in &condemned {
        if terminating(pod) {
            if parallel {
                continue;
            }
            return plan;
        }
        let uid = |pod: &Pod| pod.metadata.uid.clone();
        if !parallel && wait(pod) && first_unhealthy.is_none_or(|first| uid(first) != uid(pod)) {
            return plan;
        }
        plan.actions.push(Action::Delete((*pod).clone()));
        if !parallel {
            return plan;
        }
    }
    if !rolling || !plan.actions.is_empty() {
        return plan;
    }
    // At last the update, in reverse too.
    let most = match rolling_update.and_then(|r| r.max_unavailable.as_ref()) {
        Some(IntOrString::Int(n)) => *n,
        Some(IntOrString::String(text)) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or_default();
            i32::try_from(percent * i64::from(replicas) / 100).unwrap_or(i32::MAX)
        }
        None => 1,
    };
    let mut unavailable = 0;
    for (_, pod) in by_ordinal.iter().rev().filter(|(o, _)| **o >= partition && wanted.contains(o)) {
        let outdated = revision_of(&pod.metadata) != Some(update);
        if outdated && !terminating(pod) {
            plan.actions.push(Action::Delete((*pod).clone()));
            unavailable += 1;
        } else if terminating(pod) || wait(pod) {
            unavailable += 1;
        }
        if unavailable >= most.max(1) {
            break;
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_api::Kind;
    use serde_json::{Value, json};

    fn set(spec: Value) -> StatefulSet {
        let mut all = json!({ "replicas": 3, "selector": {}, "template": {} });
        all.as_object_mut().expect("an object").extend(spec.as_object().expect("an object").clone());
        StatefulSet::from_value(&json!({ "metadata": { "name": "web" }, "spec": all })).expect("a set")
    }

    /// `r` is ready, `p` pending, `f` failed, `t` terminating; in capitals of the update's revision, else the current.
    fn pods(states: &str) -> Vec<Arc<Pod>> {
        let pod = |(ordinal, state): (usize, char)| {
            let revision = if state.is_uppercase() { "new" } else { "old" };
            let phase = match state.to_ascii_lowercase() {
                'p' => "Pending",
                'f' => "Failed",
                _ => "Running",
            };
            let deleted =
                if state.eq_ignore_ascii_case(&'t') { json!("2026-01-01T00:00:00Z") } else { Value::Null };
            Arc::new(
                Pod::from_value(&json!({
                    "metadata": { "name": format!("web-{ordinal}"), "uid": format!("{ordinal}"), "deletionTimestamp": deleted,
                        "labels": { "controller-revision-hash": revision } },
                    "status": { "phase": phase, "conditions": [{ "type": "Ready",
                        "status": if phase == "Running" { "True" } else { "False" } }] },
                }))
                .expect("a pod"),
            )
        };
        states.chars().enumerate().filter(|(_, s)| *s != '.').map(pod).collect()
    }

    fn steps(spec: Value, states: &str) -> String {
        let plan = plan(&set(spec), &pods(states), "old", "new", SystemTime::UNIX_EPOCH);
        let text = |action: &Action| match action {
            Action::Create(ordinal, current) => format!("+{ordinal}{}", if *current { "old" } else { "" }),
            Action::Delete(pod) => format!("-{}", pod.name().trim_start_matches("web-")),
        };
        plan.actions.iter().map(text).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn pods_come_in_order_and_go_in_reverse() {
        let parallel = json!({ "podManagementPolicy": "Parallel" });
        let by_hand = json!({ "updateStrategy": { "type": "OnDelete" } });
        let half = json!({ "updateStrategy": { "rollingUpdate": { "partition": 2 } } });
        let two = json!({ "updateStrategy": { "rollingUpdate": { "maxUnavailable": 2 } } });
        for (spec, states, wanted) in [
            (json!({}), "", "+0"),
            (json!({}), "P", ""),
            (json!({}), "R", "+1"),
            (json!({}), "RFR", "-1"),
            (json!({}), "RTR", ""),
            (json!({}), "R.R", "+1"),
            (json!({}), "RRRRR", "-4"),
            (json!({}), "RRRRT", ""),
            (json!({}), "RRPRR", ""),
            (json!({}), "RRRPR", "-4"),
            (json!({}), "RRRPP", ""),
            (json!({}), "RRRRP", "-4"),
            (json!({}), "RRR", ""),
            (json!({}), "rrr", "-2"),
            (json!({}), "rr.", "+2"),
            (json!({}), "rrP", ""),
            (json!({}), "rrR", "-1"),
            (parallel.clone(), "", "+0 +1 +2"),
            (parallel, "PPPPP", "-4 -3"),
            (by_hand, "rrr", ""),
            (half.clone(), "rrr", "-2"),
            (half.clone(), "rrR", ""),
            (half, "r.R", "+1old"),
            (two, "rrr", "-2 -1"),
            (json!({ "ordinals": { "start": 1 }, "replicas": 2 }), ".RR", ""),
            (json!({ "ordinals": { "start": 1 }, "replicas": 2 }), "RRR", "-0"),
        ] {
            assert_eq!(steps(spec.clone(), states), wanted, "{spec} {states}");
        }
    }
}
