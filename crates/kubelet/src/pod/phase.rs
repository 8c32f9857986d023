//! The phase of a pod (pod-lifecycle's table), and whether a container is started again.

use super::model::{Ended, Observed, Record, State};
use crate::util::{Def, Role, restart_policy};
use knarr_api::core::v1::Pod;

/// A container as its status will show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shown<'a> {
    /// Not running; how it ended before, if it ran.
    Waiting(Option<&'a Ended>),
    Running,
    Terminated(&'a Ended),
}

/// How a record is shown.
pub(crate) fn shown(record: Option<&Record>) -> Shown<'_> {
    let Some(record) = record else { return Shown::Waiting(None) };
    match &record.state {
        State::Running(_) => Shown::Running,
        State::Ended(ended) if record.waiting.is_some() => Shown::Waiting(Some(ended)),
        State::Ended(ended) => Shown::Terminated(ended),
        State::None => Shown::Waiting(record.last.as_ref()),
    }
}

/// The reason that containers show which end to be started anew together.
pub(crate) const RESTARTING_ALL: &str = "RestartingAllContainers";

/// The action of the first of the container's rules that is about the exit code.
pub(crate) fn matching_rule(def: &Def, exit_code: i32) -> Option<&str> {
    let mut rules = def.spec.restart_policy_rules.iter().flatten();
    let rule = rules.find(|rule| {
        rule.exit_codes.as_ref().is_some_and(|codes| {
            let listed = codes.values.iter().flatten().any(|v| *v == exit_code);
            (codes.operator == "In") == listed
        })
    });
    rule.map(|rule| rule.action.as_str())
}

/// Whether a container that ended so is to be started again (restart policies of pod and container, and the
/// container's rules, KEP-5307).
pub(crate) fn should_restart(pod: &Pod, def: &Def, exit_code: i32) -> bool {
    match def.role {
        Role::Sidecar => return true,
        Role::Ephemeral => return false,
        Role::Init | Role::Main => {}
    }
    if let Some(action) = matching_rule(def, exit_code) {
        return matches!(action, "Restart" | "RestartAllContainers");
    }
    match def.spec.restart_policy.as_deref().unwrap_or(restart_policy(pod)) {
        "Never" => false,
        "OnFailure" => exit_code != 0,
        // An init container that succeeded is done, even where the pod's policy is Always.
        _ => def.role == Role::Main || exit_code != 0,
    }
}

/// Whether a container that ended so comes back: by its policies, or because it was ended to be started anew.
pub(crate) fn comes_back(pod: &Pod, def: &Def, record: Option<&Record>, exit_code: i32) -> bool {
    let wished = |r: &Record| {
        let last = r.last.as_ref().filter(|_| r.state == State::None);
        r.ended_by_wish || last.is_some_and(|l| l.reason == RESTARTING_ALL)
    };
    record.is_some_and(wished) || should_restart(pod, def, exit_code)
}

/// The phase that the containers give the pod. `stopped`: nothing will be started again.
pub(crate) fn phase(pod: &Pod, defs: &[Def], observed: &Observed, stopped: bool) -> &'static str {
    if observed.failed.is_some() {
        return "Failed";
    }
    let has_run = |def: &Def| {
        let record = observed.containers.get(&def.spec.name);
        record.is_some_and(Record::has_run)
    };
    let initialized = defs.iter().any(|d| d.role == Role::Main && has_run(d));
    let mut pending_init = false;
    let (mut running, mut waiting, mut ended, mut final_ends, mut succeeded) = (0, 0, 0, 0, 0);
    for def in defs {
        let record = observed.containers.get(&def.spec.name);
        let shown = shown(record);
        match (def.role, shown) {
            (Role::Ephemeral, _) => {}
            (Role::Init, Shown::Running | Shown::Waiting(None)) => pending_init = true,
            (Role::Init, Shown::Terminated(e) | Shown::Waiting(Some(e))) => {
                if e.exit_code != 0 {
                    if !observed.restarting_all && !comes_back(pod, def, record, e.exit_code) {
                        return "Failed";
                    }
                    pending_init |= !initialized;
                }
            }
            (Role::Sidecar, Shown::Running) => {
                running += 1;
                pending_init |= !initialized && !record.is_some_and(|r| r.started);
            }
            (Role::Sidecar, Shown::Waiting(None)) => {
                pending_init |= !initialized;
                waiting += usize::from(!initialized);
            }
            (Role::Sidecar, _) => {}
            (Role::Main, Shown::Running) => running += 1,
            (Role::Main, Shown::Waiting(None)) => waiting += 1,
            (Role::Main, Shown::Terminated(e) | Shown::Waiting(Some(e))) => {
                ended += 1;
                final_ends += usize::from(!comes_back(pod, def, record, e.exit_code));
                succeeded += usize::from(e.exit_code == 0);
            }
        }
    }
    let outcome = if ended == succeeded { "Succeeded" } else { "Failed" };
    if stopped {
        // Containers that never ran did not succeed.
        return if waiting == 0 && !pending_init && ended > 0 { outcome } else { "Failed" };
    }
    let mains = defs.iter().filter(|d| d.role == Role::Main).count();
    if ended == mains && final_ends == ended && ended > 0 && !observed.restarting_all {
        return outcome;
    }
    if pending_init || waiting > 0 {
        return "Pending";
    }
    if running > 0 || ended > 0 { "Running" } else { "Pending" }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::util::defs;
    use knarr_api::Kind;
    use serde_json::json;
    use std::time::{Duration, SystemTime};

    pub(crate) fn pod(spec: serde_json::Value) -> Pod {
        Pod::from_value(&json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec}))
            .unwrap()
    }

    pub(crate) fn t(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
    }

    pub(crate) fn ended(code: i32, at: u64) -> State {
        State::Ended(Ended {
            id: "c".into(),
            exit_code: code,
            reason: if code == 0 { "Completed" } else { "Error" }.into(),
            message: String::new(),
            started_at: Some(t(at)),
            finished_at: t(at),
        })
    }

    pub(crate) fn record(state: State) -> Record {
        let running = matches!(state, State::Running(_));
        Record {
            state,
            started: running,
            hook_done: true,
            startup_passed: true,
            readiness: true,
            ..Default::default()
        }
    }

    pub(crate) fn observed(records: &[(&str, State)]) -> Observed {
        let mut observed = Observed {
            sandbox: crate::pod::model::Sandbox::Ready,
            setup: crate::pod::model::Setup::Done,
            ..Default::default()
        };
        for (name, state) in records {
            observed.containers.insert((*name).into(), record(state.clone()));
        }
        observed
    }

    #[test]
    fn phases_follow_the_containers() {
        let run = State::Running(t(0));
        type Case = (&'static str, serde_json::Value, Vec<(&'static str, State)>, &'static str);
        let cases: Vec<Case> = vec![
            ("nothing started", json!("Always"), vec![], "Pending"),
            ("one of two started", json!("Always"), vec![("a", run.clone())], "Pending"),
            ("both run", json!("Always"), vec![("a", run.clone()), ("b", run.clone())], "Running"),
            ("one ended, Never", json!("Never"), vec![("a", ended(1, 0)), ("b", run.clone())], "Running"),
            (
                "both succeeded, Never",
                json!("Never"),
                vec![("a", ended(0, 0)), ("b", ended(0, 0))],
                "Succeeded",
            ),
            ("one failed, Never", json!("Never"), vec![("a", ended(0, 0)), ("b", ended(2, 0))], "Failed"),
            ("both ended, Always", json!("Always"), vec![("a", ended(0, 0)), ("b", ended(1, 0))], "Running"),
            (
                "succeeded, OnFailure",
                json!("OnFailure"),
                vec![("a", ended(0, 0)), ("b", ended(0, 0))],
                "Succeeded",
            ),
            (
                "failed, OnFailure",
                json!("OnFailure"),
                vec![("a", ended(0, 0)), ("b", ended(1, 0))],
                "Running",
            ),
        ];
        for (what, policy, records, phase_name) in cases {
            let pod = pod(json!({"restartPolicy": policy, "containers": [{"name": "a"}, {"name": "b"}]}));
            assert_eq!(phase(&pod, &defs(&pod), &observed(&records), false), phase_name, "{what}");
        }
    }

    #[test]
    fn a_failed_init_container_fails_the_pod_only_where_nothing_restarts_it() {
        for (policy, expected) in [("Never", "Failed"), ("Always", "Pending"), ("OnFailure", "Pending")] {
            let pod = pod(
                json!({"restartPolicy": policy, "initContainers": [{"name": "i"}], "containers": [{"name": "a"}]}),
            );
            assert_eq!(
                phase(&pod, &defs(&pod), &observed(&[("i", ended(1, 0))]), false),
                expected,
                "{policy}"
            );
        }
    }

    #[test]
    fn a_pod_whose_containers_restart_together_is_not_over() {
        let pod = pod(json!({"restartPolicy": "Never", "containers": [{"name": "a"}, {"name": "b"}]}));
        let mut seen = observed(&[("a", ended(42, 0)), ("b", ended(137, 0))]);
        assert_eq!(phase(&pod, &defs(&pod), &seen, false), "Failed");
        seen.restarting_all = true;
        assert_eq!(phase(&pod, &defs(&pod), &seen, false), "Running");
    }

    #[test]
    fn a_stopped_pod_is_always_in_a_final_phase() {
        let pod = pod(json!({"containers": [{"name": "a"}]}));
        let defs = defs(&pod);
        assert_eq!(phase(&pod, &defs, &observed(&[]), true), "Failed");
        assert_eq!(phase(&pod, &defs, &observed(&[("a", ended(0, 0))]), true), "Succeeded");
        assert_eq!(phase(&pod, &defs, &observed(&[("a", ended(137, 0))]), true), "Failed");
    }

    #[test]
    fn a_containers_own_policy_and_rules_come_before_the_pods() {
        let pod = pod(json!({"restartPolicy": "Never", "containers": [
            {"name": "a", "restartPolicy": "Never", "restartPolicyRules": [
                {"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]},
            {"name": "b", "restartPolicy": "Always"}]}));
        let defs = defs(&pod);
        assert!(should_restart(&pod, &defs[0], 42) && !should_restart(&pod, &defs[0], 1));
        assert!(should_restart(&pod, &defs[1], 0));
    }
}
