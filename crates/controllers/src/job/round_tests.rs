//! Rounds over Jobs, by tables: what is done to pods, and what the status says once it is done.

use super::*;
use knarr_api::Kind;
use serde_json::{Value, json};

fn at(second: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(second)
}

fn job(spec: &Value, status: &Value) -> Job {
    let mut full =
        json!({ "template": { "spec": { "restartPolicy": "Never", "containers": [] } }, "backoffLimit": 6 });
    full.as_object_mut().expect("an object").extend(spec.as_object().expect("an object").clone());
    Job::from_value(
        &json!({ "metadata": { "name": "j", "namespace": "n", "uid": "j" }, "spec": full, "status": status }),
    )
    .expect("a job")
}

/// One letter a pod, its place the index: `p` pending, `r` running and ready, `s` succeeded, `f` failed, `d` running
/// and being deleted; capitals have been counted already.
fn pods(states: &str) -> Vec<Arc<Pod>> {
    let pod = |(place, state): (usize, char)| {
        let phase = match state.to_ascii_lowercase() {
            'p' => "Pending",
            's' => "Succeeded",
            'f' => "Failed",
            _ => "Running",
        };
        let finalizers =
            if state.is_uppercase() { json!([]) } else { json!([super::super::pods::FINALIZER]) };
        let deleted = if state == 'd' { json!("1970-01-01T00:00:00Z") } else { Value::Null };
        Arc::new(
            Pod::from_value(&json!({
                "metadata": { "name": format!("p{place}"), "uid": format!("p{place}"), "finalizers": finalizers,
                    "deletionTimestamp": deleted, "creationTimestamp": "1970-01-01T00:01:40Z",
                    "annotations": { "batch.kubernetes.io/job-completion-index": place.to_string() } },
                "status": { "phase": phase, "conditions": [{ "type": "Ready",
                    "status": if state == 'r' { "True" } else { "False" }, "lastTransitionTime": "1970-01-01T00:01:40Z" }] },
            }))
            .expect("a pod"),
        )
    };
    states.chars().enumerate().filter(|(_, s)| *s != '.').map(pod).collect()
}

fn names(action: &Action) -> String {
    match action {
        Action::Nothing => "nothing".to_owned(),
        Action::DeleteActive => "delete active".to_owned(),
        Action::Delete(pods) => {
            let names: Vec<&str> = pods.iter().map(|p| p.name()).collect();
            format!("delete {}", names.join(" "))
        }
        Action::Create(indexes) => {
            let each = |i: &Option<i32>| i.map_or("any".to_owned(), |i| i.to_string());
            format!("create {}", indexes.iter().map(each).collect::<Vec<_>>().join(" "))
        }
    }
}

/// The action of a round at second 200, a hundred after every pod ended.
fn action(spec: &Value, status: &Value, states: &str) -> String {
    let mut round =
        Round::new(job(spec, status), pods(states), &HashSet::new(), &Failures::default(), at(200));
    names(&round.action(true))
}

#[test]
fn pods_are_made_and_given_up_as_the_spec_says() {
    let three = json!({ "completions": 3, "parallelism": 2 });
    let queue = json!({ "parallelism": 2 });
    let indexed = json!({ "completions": 3, "parallelism": 3, "completionMode": "Indexed" });
    let per_index = json!({ "completions": 3, "parallelism": 3, "completionMode": "Indexed", "backoffLimitPerIndex": 0,
        "backoffLimit": 100 });
    let suspended = json!({ "completions": 1, "parallelism": 1, "suspend": true });
    let patient = json!({ "completions": 1, "parallelism": 1, "podReplacementPolicy": "Failed" });
    let none = json!({});
    for (spec, status, states, wanted) in [
        (&three, &none, "", "create any any"),
        (&three, &none, "pr", "nothing"),
        (&three, &none, "ss", "create any"),
        (&three, &none, "SS", "create any any"), // counted pods say nothing, the status does
        (&three, &json!({ "succeeded": 2 }), "SS", "create any"),
        (&three, &none, "prr", "delete p0"),
        (&three, &none, "fr", "create any"),
        (&queue, &none, "sr", "nothing"),
        (&queue, &none, "fr", "create any"),
        (&indexed, &none, "", "create 0 1 2"),
        (&indexed, &none, "s.r", "create 1"),
        (&indexed, &json!({ "completedIndexes": "0,1" }), "SS", "create 2"),
        (&indexed, &none, "rrrr", "delete p3"),
        (&per_index, &none, "f..", "create 1 2"),
        (&suspended, &none, "r", "delete p0"),
        (&suspended, &none, "", "nothing"),
        (&patient, &none, "d", "nothing"),
        (&json!({ "completions": 1, "parallelism": 1 }), &none, "d", "create any"),
        (&json!({ "completions": 2, "parallelism": 2, "backoffLimit": 0 }), &none, "fr", "delete active"),
        (
            &json!({ "completions": 2, "parallelism": 2, "activeDeadlineSeconds": 50 }),
            &json!({ "startTime": "1970-01-01T00:01:40Z" }),
            "rr",
            "delete active",
        ),
        (
            &json!({ "completions": 2, "parallelism": 2, "activeDeadlineSeconds": 500 }),
            &json!({ "startTime": "1970-01-01T00:01:40Z" }),
            "rr",
            "nothing",
        ),
    ] {
        assert_eq!(action(spec, status, states), wanted, "{spec} {status} {states}");
    }
}

#[test]
fn failures_are_waited_out() {
    let spec = json!({ "completions": 2, "parallelism": 2 });
    let mut round =
        Round::new(job(&spec, &json!({})), pods("fr"), &HashSet::new(), &Failures::default(), at(103));
    assert_eq!(
        (names(&round.action(true)), round.check_again),
        ("nothing".to_owned(), Some(Duration::from_secs(7)))
    );
    let mut unsettled =
        Round::new(job(&spec, &json!({})), pods(""), &HashSet::new(), &Failures::default(), at(103));
    assert_eq!(names(&unsettled.action(false)), "nothing");
}

#[test]
fn pods_pass_through_the_status_before_they_are_counted() {
    let spec = json!({ "completions": 2, "parallelism": 2 });
    let mut round =
        Round::new(job(&spec, &json!({})), pods("sf"), &HashSet::new(), &Failures::default(), at(200));
    let action = round.action(true);
    round.conclude(&action, Outcome { created: 1, ..Outcome::default() }, true);
    let (released, changed) = round.count();
    assert_eq!((released.len(), changed), (2, true));
    let status = |round: &Round| round.job.status.clone().expect("a status");
    let uncounted = status(&round).uncounted_terminated_pods.expect("uncounted pods");
    assert_eq!((uncounted.succeeded, uncounted.failed), (Some(vec!["p0".into()]), Some(vec!["p1".into()])));
    assert_eq!(status(&round).succeeded, None);
    assert!(round.settle(&HashSet::from(["p0".to_owned(), "p1".to_owned()])));
    assert_eq!(
        (status(&round).succeeded, status(&round).failed, status(&round).active),
        (Some(1), Some(1), Some(1))
    );
    assert!(round.finish().is_none());
}

#[test]
fn a_job_ends_only_when_nothing_of_it_is_left() {
    for (spec, status, states, kinds) in [
        (json!({ "completions": 1 }), json!({}), "s", vec!["SuccessCriteriaMet", "Complete"]),
        (json!({ "completions": 1 }), json!({ "succeeded": 1 }), "S", vec!["SuccessCriteriaMet", "Complete"]),
        (json!({ "completions": 1, "backoffLimit": 0 }), json!({}), "f", vec!["FailureTarget", "Failed"]),
        (
            json!({ "completions": 2, "parallelism": 2, "backoffLimit": 0 }),
            json!({}),
            "fd",
            vec!["FailureTarget"],
        ),
        (json!({ "completions": 1 }), json!({}), "r", vec![]),
    ] {
        let mut round =
            Round::new(job(&spec, &status), pods(states), &HashSet::new(), &Failures::default(), at(200));
        let action = round.action(true);
        round.conclude(&action, Outcome::default(), true);
        let (released, _) = round.count();
        round.settle(&released.iter().map(|p| uid(p)).collect());
        round.finish();
        let conditions = round.job.status.and_then(|s| s.conditions).unwrap_or_default();
        let held: Vec<String> = conditions.into_iter().map(|c| c.type_).collect();
        assert_eq!(held, kinds, "{spec} {states}");
    }
}
