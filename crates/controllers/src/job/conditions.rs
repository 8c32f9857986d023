//! A Job's conditions.

use crate::framework::time::api_time;
use knarr_api::batch::v1::{Job, JobCondition};
use std::time::SystemTime;

/// A condition that holds.
pub fn condition(kind: &str, reason: &str, message: &str, now: SystemTime) -> JobCondition {
    JobCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        last_probe_time: api_time(now),
        last_transition_time: api_time(now),
        reason: Some(reason.to_owned()).filter(|r| !r.is_empty()),
        message: Some(message.to_owned()).filter(|m| !m.is_empty()),
    }
}

/// Sets a condition; one that never held is not written as not holding. Returns whether anything changed.
pub fn set(
    conditions: &mut Vec<JobCondition>,
    kind: &str,
    holds: bool,
    reason: &str,
    message: &str,
    now: SystemTime,
) -> bool {
    let mut new = condition(kind, reason, message, now);
    if !holds {
        new.status = "False".to_owned();
    }
    match conditions.iter_mut().find(|c| c.type_ == kind) {
        Some(held) => {
            let same = held.status == new.status && held.reason == new.reason && held.message == new.message;
            if !same {
                *held = new;
            }
            !same
        }
        None if holds => {
            conditions.push(new);
            true
        }
        None => false,
    }
}

/// Whether the condition ends a Job.
pub fn is_final(condition: &JobCondition) -> bool {
    matches!(condition.type_.as_str(), "Complete" | "Failed") && condition.status == "True"
}

/// The condition by which the Job is over.
pub fn finished(job: &Job) -> Option<&JobCondition> {
    job.status.as_ref()?.conditions.as_ref()?.iter().find(|c| is_final(c))
}
