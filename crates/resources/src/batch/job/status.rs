//! What a job's status may say and how it may change: validateJobStatus and ValidateJobStatusUpdate.

use super::indexes;
use crate::util::{Errs, Flag, Items, Number, Text};
use knarr_api::batch::v1::{Job, JobStatus};
use knarr_meta::field::{ErrorList, FieldError, Path};

/// An invalid value that is not shown.
fn add_omitted(errs: &mut ErrorList, path: &Path, detail: &str) {
    errs.push(FieldError { value: None, ..knarr_meta::field::invalid(path, "", detail) });
}

fn is(status: &JobStatus, kind: &str) -> bool {
    status.conditions.items().iter().any(|c| c.type_ == kind && c.status == "True")
}

/// Errors of a changed status.
pub fn update(new: &Job, old: &Job) -> ErrorList {
    let mut errs = ErrorList::default();
    let (spec, empty) = (new.spec.clone().unwrap_or_default(), JobStatus::default());
    let (status, was) = (new.status.as_ref().unwrap_or(&empty), old.status.as_ref().unwrap_or(&empty));
    let path = Path::new("status");
    for (field, count) in [
        ("active", status.active),
        ("succeeded", status.succeeded),
        ("failed", status.failed),
        ("ready", status.ready),
        ("terminating", status.terminating),
    ] {
        errs.add_negative(&path.child(field), count.number());
    }
    if let Some(uncounted) = &status.uncounted_terminated_pods {
        let path = path.child("uncountedTerminatedPods");
        let (succeeded, failed) = (uncounted.succeeded.items(), uncounted.failed.items());
        let mut seen: Vec<&String> = Vec::new();
        for (field, uids) in [("succeeded", succeeded), ("failed", failed)] {
            for (i, uid) in uids.iter().enumerate() {
                let path = path.child(field).index(i);
                if uid.is_empty() {
                    errs.add_invalid(&path, uid, "must not be empty");
                } else if seen.contains(&uid) {
                    errs.add_duplicate(&path, uid);
                } else {
                    seen.push(uid);
                }
            }
        }
    }
    conditions(&mut errs, status, was, &path.child("conditions"));
    let complete = is(status, "Complete");
    let finished = complete || is(status, "Failed");
    let at = path.child("completionTime");
    match &status.completion_time {
        Some(time) if !complete => {
            errs.add_invalid(&at, time, "cannot set completionTime when there is no Complete=True condition");
        }
        None if complete => errs.add_required(&at, "completionTime is required for Complete jobs"),
        _ => {}
    }
    if let (Some(start), Some(end)) = (&status.start_time, &status.completion_time)
        && end.0 < start.0
    {
        errs.add_invalid(&at, end, "must be equal to or after `startTime`");
    }
    if finished {
        if status.active.number() > 0 {
            errs.add_invalid(&path.child("active"), status.active, "active>0 is invalid for finished job");
        }
        if status.start_time.is_none() {
            errs.add_required(&path.child("startTime"), "startTime is required for finished job");
        }
        let uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
        if !uncounted.failed.items().is_empty() || !uncounted.succeeded.items().is_empty() {
            let path = path.child("uncountedTerminatedPods");
            let value = serde_json::to_value(&uncounted).unwrap_or_default();
            errs.add_invalid(&path, value, "must be empty for finished job");
        }
        if status.terminating.number() > 0 {
            let detail = "terminating>0 is invalid for finished job";
            errs.add_invalid(&path.child("terminating"), status.terminating, detail);
        }
    }
    let indexed = spec.completion_mode.text() == "Indexed";
    let (completed, failed) = (status.completed_indexes.text(), status.failed_indexes.as_deref());
    if let Some(completions) = spec.completions {
        for (field, set) in [("completedIndexes", completed), ("failedIndexes", failed.unwrap_or_default())] {
            if let Err(problem) = indexes::parse(set, completions) {
                let detail = format!("error parsing {field}: {problem}");
                errs.add_invalid(&path.child(field), set, detail);
            }
        }
    }
    if !completed.is_empty() && !indexed {
        let detail = "cannot set non-empty completedIndexes when non-indexed completion mode";
        errs.add_invalid(&path.child("completedIndexes"), completed, detail);
    }
    if let Some(failed) = failed
        && spec.backoff_limit_per_index.is_none()
    {
        let detail = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
        errs.add_invalid(&path.child("failedIndexes"), failed, detail);
    }
    if status.ready.number() > status.active.number() {
        errs.add_invalid(&path.child("ready"), status.ready, "cannot set more ready pods than active");
    }
    for (field, new, old) in
        [("failed", status.failed, was.failed), ("succeeded", status.succeeded, was.succeeded)]
    {
        if new.number() < old.number() {
            let detail = format!("cannot decrease the {field} counter");
            errs.add_invalid(&path.child(field), new.number(), detail);
        }
    }
    if let (Some(new), Some(old)) = (&status.completion_time, &was.completion_time)
        && new != old
    {
        errs.add_invalid(&at, new, "field is immutable");
    }
    if was.start_time.is_some() && was.start_time != status.start_time && !spec.suspend.on() {
        let detail = "field is immutable for unsuspended job once set";
        errs.add_invalid(&path.child("startTime"), &status.start_time, detail);
    }
    errs
}

fn conditions(errs: &mut ErrorList, new: &JobStatus, old: &JobStatus, path: &Path) {
    let [complete, failed, target, met] =
        ["Complete", "Failed", "FailureTarget", "SuccessCriteriaMet"].map(|kind| is(new, kind));
    for (wrong, detail) in [
        (complete && failed, "cannot set Complete=True and Failed=true conditions"),
        (complete && target, "cannot set Complete=True and FailureTarget=true conditions"),
        (failed && !target, "cannot set Failed=True condition without the FailureTarget=true condition"),
        (
            complete && !met,
            "cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
        ),
        (met && failed, "cannot set SuccessCriteriaMet=True and Failed=true conditions"),
        (met && target, "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions"),
    ] {
        if wrong {
            add_omitted(errs, path, detail);
        }
    }
    for kind in ["Failed", "Complete", "FailureTarget"] {
        if is(old, kind) && !is(new, kind) {
            add_omitted(errs, path, &format!("cannot disable the terminal {kind}=True condition"));
        }
    }
    if is(old, "SuccessCriteriaMet") && !met {
        add_omitted(errs, path, "cannot disable the SuccessCriteriaMet=True condition");
    }
}
