//! A deployment's status: numbers, whether it is available, and whether its rollout makes progress.

use super::rolling::bounds;
use super::sizes::Sizes;
use super::{replicas, revision};
use crate::framework::time::{api_time, system_time};
use knarr_api::Kind;
use knarr_api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use std::time::{Duration, SystemTime};

/// Whether the rollout is over: all pods are of the new template and available, and no old one is left.
pub fn is_complete(deployment: &Deployment, sizes: &Sizes) -> bool {
    let wanted = replicas(deployment);
    sizes.updated == wanted && sizes.replicas == wanted && sizes.available == wanted
}

/// The status that the deployment should have.
pub fn status(
    deployment: &Deployment,
    sizes: &Sizes,
    new: Option<&ReplicaSet>,
    now: SystemTime,
) -> DeploymentStatus {
    let old = deployment.status.clone().unwrap_or_default();
    let some = |n: i32| (n > 0).then_some(n);
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: some(sizes.replicas),
        updated_replicas: some(sizes.updated),
        ready_replicas: some(sizes.ready),
        available_replicas: some(sizes.available),
        terminating_replicas: sizes.terminating,
        unavailable_replicas: some(sizes.wanted - sizes.available),
        ..old.clone()
    };
    let limits = bounds(deployment);
    let mut conditions = old.conditions.clone().unwrap_or_default();
    let available = if sizes.available >= limits.replicas - limits.max_unavailable {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    set(&mut conditions, "Available", available.0, available.1, available.2.to_owned(), false, now);
    progress(deployment, &old, sizes, new, &mut conditions, now);
    let failure = new.and_then(|n| {
        n.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == "ReplicaFailure").cloned()
    });
    match failure {
        Some(c) => {
            let (reason, message) = (c.reason.unwrap_or_default(), c.message.unwrap_or_default());
            set(&mut conditions, "ReplicaFailure", &c.status, &reason, message, false, now);
        }
        None => conditions.retain(|c| c.type_ != "ReplicaFailure"),
    }
    status.conditions = Some(conditions);
    status
}

/// Keeps the Progressing condition, by which `kubectl rollout status` goes.
fn progress(
    deployment: &Deployment,
    old: &DeploymentStatus,
    sizes: &Sizes,
    new: Option<&ReplicaSet>,
    conditions: &mut Vec<DeploymentCondition>,
    now: SystemTime,
) {
    let Some(spec) = &deployment.spec else { return };
    if spec.progress_deadline_seconds.is_none_or(|s| s == i32::MAX) {
        conditions.retain(|c| c.type_ != "Progressing");
        return;
    }
    let current = conditions.iter().find(|c| c.type_ == "Progressing").cloned();
    let current_reason = current.as_ref().and_then(|c| c.reason.clone()).unwrap_or_default();
    if spec.paused == Some(true) {
        set(
            conditions,
            "Progressing",
            "Unknown",
            "DeploymentPaused",
            "Deployment is paused".to_owned(),
            false,
            now,
        );
        return;
    }
    if current_reason == "DeploymentPaused" {
        set(
            conditions,
            "Progressing",
            "Unknown",
            "DeploymentResumed",
            "Deployment is resumed".to_owned(),
            false,
            now,
        );
        return;
    }
    let subject = match new {
        Some(new) => format!("ReplicaSet \"{}\"", new.name()),
        None => format!("Deployment \"{}\"", deployment.name()),
    };
    let was = |n: Option<i32>| n.unwrap_or_default();
    // A rollout that is over stays over until there is a new template: pods that come and go, and scaling, are none.
    if current_reason == "NewReplicaSetAvailable" && sizes.replicas == sizes.updated {
        return;
    }
    let complete = is_complete(deployment, sizes) && new.is_some();
    let newest_changed = new.is_some_and(|new| {
        let noted = deployment.metadata.annotations.as_ref().and_then(|a| a.get(super::REVISION));
        noted.is_none_or(|r| *r != revision(new).to_string())
    });
    let advanced = sizes.updated > was(old.updated_replicas)
        || sizes.replicas - sizes.updated < was(old.replicas) - was(old.updated_replicas)
        || sizes.ready > was(old.ready_replicas)
        || sizes.available > was(old.available_replicas);
    if complete {
        // Once said, it stays said until a new rollout begins.
        let message = format!("{subject} has successfully progressed.");
        let restamp = current_reason != "NewReplicaSetAvailable";
        set(conditions, "Progressing", "True", "NewReplicaSetAvailable", message, restamp, now);
    } else if current.is_none() || (newest_changed && current_reason == "NewReplicaSetAvailable") {
        let message = match new {
            Some(new) => format!("Created new replica set \"{}\"", new.name()),
            None => format!("{subject} is progressing."),
        };
        set(conditions, "Progressing", "True", "NewReplicaSetCreated", message, true, now);
    } else if advanced {
        set(
            conditions,
            "Progressing",
            "True",
            "ReplicaSetUpdated",
            format!("{subject} is progressing."),
            true,
            now,
        );
    } else if overdue(deployment, current.as_ref(), now) {
        let message = format!("{subject} has timed out progressing.");
        set(conditions, "Progressing", "False", "ProgressDeadlineExceeded", message, false, now);
    }
}

fn overdue(deployment: &Deployment, progressing: Option<&DeploymentCondition>, now: SystemTime) -> bool {
    let Some(condition) = progressing.filter(|c| c.status != "False") else { return false };
    remaining(deployment, condition, now).is_some_and(|left| left.is_zero())
}

fn remaining(deployment: &Deployment, condition: &DeploymentCondition, now: SystemTime) -> Option<Duration> {
    let limit = deployment.spec.as_ref()?.progress_deadline_seconds.filter(|s| *s != i32::MAX)?;
    let since = system_time(condition.last_update_time.as_ref()?);
    let limit = Duration::from_secs(u64::try_from(limit).ok()?);
    Some(limit.saturating_sub(now.duration_since(since).unwrap_or_default()))
}

/// When to look again whether the rollout is stuck.
pub fn deadline(deployment: &Deployment, now: SystemTime) -> Option<Duration> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    let condition = conditions.iter().find(|c| c.type_ == "Progressing" && c.status == "True")?;
    if condition.reason.as_deref() == Some("NewReplicaSetAvailable") {
        return None;
    }
    remaining(deployment, condition, now).map(|left| left + Duration::from_secs(1))
}

fn set(
    conditions: &mut Vec<DeploymentCondition>,
    kind: &str,
    status: &str,
    reason: &str,
    message: String,
    restamp: bool,
    now: SystemTime,
) {
    let new = |transition| DeploymentCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.clone()),
        last_update_time: api_time(now),
        last_transition_time: transition,
    };
    match conditions.iter_mut().find(|c| c.type_ == kind) {
        Some(held) => {
            let same = held.status == status && held.reason.as_deref() == Some(reason);
            if same && !restamp {
                return;
            }
            let transition =
                if held.status == status { held.last_transition_time.clone() } else { api_time(now) };
            *held = new(transition);
        }
        None => conditions.push(new(api_time(now))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployment(status: serde_json::Value) -> Deployment {
        let value = json!({
            "metadata": { "name": "d", "generation": 2, "annotations": { super::super::REVISION: "1" } },
            "spec": { "replicas": 2, "progressDeadlineSeconds": 600, "selector": {}, "template": {} },
            "status": status,
        });
        Deployment::from_value(&value).expect("a deployment")
    }

    fn new_set() -> ReplicaSet {
        let value = json!({ "metadata": { "name": "d-1", "annotations": { super::super::REVISION: "1" } }, "spec": { "selector": {} } });
        ReplicaSet::from_value(&value).expect("a set")
    }

    fn reasons(status: &DeploymentStatus) -> Vec<&str> {
        status.conditions.iter().flatten().filter_map(|c| c.reason.as_deref()).collect()
    }

    #[test]
    fn a_rollout_goes_from_created_over_updated_to_available() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let sizes = |replicas, updated, available| Sizes {
            replicas,
            updated,
            ready: available,
            available,
            terminating: None,
            wanted: 2,
        };
        let first = status(&deployment(json!({})), &sizes(0, 0, 0), Some(&new_set()), now);
        assert_eq!(reasons(&first), ["MinimumReplicasUnavailable", "NewReplicaSetCreated"]);
        let mut d = deployment(json!({}));
        d.status = Some(first);
        let second = status(&d, &sizes(2, 2, 0), Some(&new_set()), now);
        assert_eq!(reasons(&second), ["MinimumReplicasUnavailable", "ReplicaSetUpdated"]);
        d.status = Some(second);
        assert_eq!(deadline(&d, now), Some(Duration::from_secs(601)));
        let stuck = status(&d, &sizes(2, 2, 0), Some(&new_set()), now + Duration::from_secs(601));
        assert_eq!(reasons(&stuck), ["MinimumReplicasUnavailable", "ProgressDeadlineExceeded"]);
        let done = status(&d, &sizes(2, 2, 2), Some(&new_set()), now);
        assert_eq!(reasons(&done), ["MinimumReplicasAvailable", "NewReplicaSetAvailable"]);
        d.status = Some(done.clone());
        assert_eq!(status(&d, &sizes(2, 2, 2), Some(&new_set()), now + Duration::from_secs(60)), done);
    }
}
