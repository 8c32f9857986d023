//! How many pods of a budget may be disrupted now.

use crate::framework::pods::is_ready;
use crate::framework::time::{api_time, system_time};
use knarr_api::IntOrString;
use knarr_api::Kind;
use knarr_api::core::v1::Pod;
use knarr_api::meta::v1::Condition;
use knarr_api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// A pod that was evicted and is still there after this long will not go.
const DELETION_TIMEOUT: Duration = Duration::from_secs(120);

/// How many pods a budget is reckoned from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// The sizes of the sets that the pods belong to.
    Scale(i32),
    /// Those sizes cannot be told, for this reason.
    Unknown(String),
}

/// What follows.
#[derive(Debug)]
pub struct Plan {
    /// The status.
    pub status: PodDisruptionBudgetStatus,
    /// When to look again at evicted pods that are still there.
    pub check_again: Option<Duration>,
}

/// Whether the budget is reckoned from the sizes of sets, rather than from the pods there are.
pub fn needs_scale(budget: &PodDisruptionBudget) -> bool {
    let spec = budget.spec.as_ref();
    !matches!(
        spec.map(|s| (&s.max_unavailable, &s.min_available)),
        None | Some((None, None | Some(IntOrString::Int(_))))
    )
}

/// A number, or a percentage rounded up.
fn resolve(value: &IntOrString, of: i32) -> i32 {
    match value {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or_default();
            i32::try_from((percent * i64::from(of) + 99) / 100).unwrap_or(i32::MAX)
        }
    }
}

/// Plans the status of a budget for the pods that it selects.
pub fn plan(budget: &PodDisruptionBudget, pods: &[Arc<Pod>], expected: &Expected, now: SystemTime) -> Plan {
    let spec = budget.spec.clone().unwrap_or_default();
    let old = budget.status.clone().unwrap_or_default();
    let mut check_again: Option<Duration> = None;
    let mut disrupted = old.disrupted_pods.clone().unwrap_or_default();
    disrupted.retain(|name, since| {
        let there = pods.iter().any(|p| p.name() == name && p.metadata.deletion_timestamp.is_none());
        let left = (system_time(since) + DELETION_TIMEOUT).duration_since(now).unwrap_or_default();
        let kept = there && !left.is_zero();
        if kept {
            check_again = Some(check_again.map_or(left, |c| c.min(left)));
        }
        kept
    });
    let mut status = PodDisruptionBudgetStatus {
        observed_generation: budget.metadata.generation,
        disrupted_pods: Some(disrupted.clone()).filter(|d| !d.is_empty()),
        ..old.clone()
    };
    let scale = match expected {
        Expected::Scale(scale) => *scale,
        Expected::Unknown(why) => {
            // Nothing may be disrupted that cannot be reckoned.
            status.disruptions_allowed = Some(0);
            let condition = condition(budget, false, "SyncFailed", why, now);
            status.conditions = Some(with(old.conditions, condition));
            return Plan { status, check_again };
        }
    };
    let (count, least) = match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => (scale, (scale - resolve(most, scale)).max(0)),
        (None, Some(least @ IntOrString::String(_))) => (scale, resolve(least, scale)),
        (None, Some(least)) => (pods.len() as i32, resolve(least, 0)),
        (None, None) => (pods.len() as i32, 1),
    };
    let is_healthy = |pod: &&Arc<Pod>| {
        pod.metadata.deletion_timestamp.is_none() && !disrupted.contains_key(pod.name()) && is_ready(pod)
    };
    let healthy = pods.iter().filter(is_healthy).count() as i32;
    let allowed = if count > 0 { (healthy - least).max(0) } else { 0 };
    status.current_healthy = Some(healthy);
    status.desired_healthy = Some(least);
    status.expected_pods = Some(count);
    status.disruptions_allowed = Some(allowed);
    let reason = if allowed > 0 { "SufficientPods" } else { "InsufficientPods" };
    status.conditions = Some(with(old.conditions, condition(budget, allowed > 0, reason, "", now)));
    Plan { status, check_again }
}

fn condition(
    budget: &PodDisruptionBudget,
    holds: bool,
    reason: &str,
    message: &str,
    now: SystemTime,
) -> Condition {
    Condition {
        type_: "DisruptionAllowed".to_owned(),
        status: if holds { "True" } else { "False" }.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: budget.metadata.generation,
        last_transition_time: api_time(now).expect("the clock is after 1970"),
    }
}

fn with(held: Option<Vec<Condition>>, mut new: Condition) -> Vec<Condition> {
    let mut conditions = held.unwrap_or_default();
    match conditions.iter_mut().find(|c| c.type_ == new.type_) {
        Some(held) => {
            if held.status == new.status {
                new.last_transition_time = held.last_transition_time.clone();
            }
            *held = new;
        }
        None => conditions.push(new),
    }
    conditions
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pods(ready: usize, unready: usize) -> Vec<Arc<Pod>> {
        let pod = |index: usize| {
            let status = if index < ready { "True" } else { "False" };
            let pod = json!({ "metadata": { "name": format!("p{index}") },
                "status": { "conditions": [{ "type": "Ready", "status": status }] } });
            Arc::new(Pod::from_value(&pod).expect("a pod"))
        };
        (0..ready + unready).map(pod).collect()
    }

    fn budget(spec: Value, status: Value) -> PodDisruptionBudget {
        PodDisruptionBudget::from_value(
            &json!({ "metadata": { "name": "b" }, "spec": spec, "status": status }),
        )
        .expect("a budget")
    }

    #[test]
    fn what_may_be_missing_is_reckoned_from_pods_or_sets() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let none = json!({});
        let disrupted = |name: &str, minute: u8| json!({ "disruptedPods": { name: format!("1970-01-01T00:{minute:02}:00Z") } });
        for (spec, status, pods, scale, wanted) in [
            (json!({ "minAvailable": 2 }), none.clone(), pods(3, 0), 0, [3, 3, 2, 1]),
            (json!({ "minAvailable": 2 }), none.clone(), pods(2, 1), 0, [3, 2, 2, 0]),
            (json!({ "minAvailable": "50%" }), none.clone(), pods(3, 0), 5, [5, 3, 3, 0]),
            (json!({ "maxUnavailable": 1 }), none.clone(), pods(5, 0), 5, [5, 5, 4, 1]),
            (json!({ "maxUnavailable": "30%" }), none.clone(), pods(5, 0), 5, [5, 5, 3, 2]),
            (json!({ "minAvailable": 0 }), none.clone(), pods(0, 0), 0, [0, 0, 0, 0]),
            (json!({ "minAvailable": 1 }), disrupted("p0", 16), pods(2, 0), 0, [2, 1, 1, 0]),
            (json!({ "minAvailable": 1 }), disrupted("p0", 2), pods(2, 0), 0, [2, 2, 1, 1]),
            (json!({ "minAvailable": 1 }), disrupted("gone", 16), pods(2, 0), 0, [2, 2, 1, 1]),
        ] {
            let plan = plan(&budget(spec.clone(), status.clone()), &pods, &Expected::Scale(scale), now);
            let s = plan.status;
            let numbers = [s.expected_pods, s.current_healthy, s.desired_healthy, s.disruptions_allowed];
            assert_eq!(numbers, wanted.map(Some), "{spec} {status}");
        }
        let unknown = plan(
            &budget(json!({ "maxUnavailable": 1 }), none),
            &pods(3, 0),
            &Expected::Unknown("why".into()),
            now,
        );
        assert_eq!(unknown.status.disruptions_allowed, Some(0));
        assert_eq!(unknown.status.conditions.expect("one")[0].reason, "SyncFailed");
        assert!(needs_scale(&budget(json!({ "maxUnavailable": 1 }), json!({}))));
        assert!(!needs_scale(&budget(json!({ "minAvailable": 1 }), json!({}))));
    }
}
