//! What is to be done about a pod: a pure function of its spec, what is observed, and the time.

use super::model::{Observed, PreStop, Record, Sandbox, Setup, State, grace, is_deleted};
use super::phase::{comes_back, phase};
use crate::util::{Def, Role};
use knarr_api::core::v1::Pod;
use std::time::{Duration, SystemTime};

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Make sandbox, network and volumes.
    Setup,
    /// Start a container.
    Start(String),
    /// Stop a container.
    Kill {
        /// Its name.
        name: String,
        /// For the event; empty for the usual one.
        message: String,
        /// Grace.
        grace: Duration,
    },
    /// Run a container's preStop hook ahead of the container's turn to end.
    PreStop {
        /// Its name.
        name: String,
        /// How long it may take.
        grace: Duration,
    },
    /// Give the pod as a whole up.
    Fail {
        /// Reason.
        reason: &'static str,
        /// Message.
        message: String,
    },
    /// Take sandbox, network and (when the pod is final) volumes down.
    TearDown,
    /// Tell the API that nothing of the pod is left.
    Delete,
    /// Forget the pod.
    Forget,
}

/// What to do now, and when to look again though nothing happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) actions: Vec<Action>,
    pub(crate) wake_at: Option<SystemTime>,
    /// Containers that must wait after a crash, and how long the delay is as a whole.
    pub(crate) held: Vec<(String, Duration)>,
}

impl Plan {
    fn wake(&mut self, at: SystemTime) {
        self.wake_at = Some(self.wake_at.map_or(at, |w| w.min(at)));
    }
}

/// Whether nothing of the pod is to be started any more.
pub(crate) fn is_stopping(pod: &Pod, defs: &[Def], observed: &Observed) -> bool {
    is_deleted(pod)
        || observed.gone
        || observed.failed.is_some()
        || matches!(phase(pod, defs, observed, false), "Succeeded" | "Failed")
}

/// Plans.
pub(crate) fn plan(pod: &Pod, defs: &[Def], observed: &Observed, now: SystemTime) -> Plan {
    let mut plan = Plan::default();
    if !is_stopping(pod, defs, observed)
        && let Some(seconds) = pod.spec.as_ref().and_then(|s| s.active_deadline_seconds)
        && let Some(start) = observed.start_time
    {
        let deadline = start + Duration::from_secs(seconds.max(0).unsigned_abs());
        if deadline <= now {
            let message = "Pod was active on the node longer than the specified deadline".to_owned();
            plan.actions.push(Action::Fail { reason: "DeadlineExceeded", message });
            return plan;
        }
        plan.wake(deadline);
    }
    if is_stopping(pod, defs, observed) {
        stop(pod, defs, observed, now, &mut plan);
        return plan;
    }
    match observed.sandbox {
        Sandbox::Lost => {
            if !observed.tearing_down
                && !observed.containers.values().any(|r| r.starting || r.killing.is_some())
            {
                plan.actions.push(Action::TearDown);
            }
            return plan;
        }
        Sandbox::None if observed.tearing_down => return plan,
        Sandbox::None | Sandbox::Ready => {}
    }
    match observed.setup {
        Setup::Done if observed.restarting_all => {
            let running =
                |d: &&Def| record(observed, d).is_some_and(|r| r.is_running() && r.killing.is_none());
            for def in defs.iter().filter(|d| d.role != Role::Ephemeral).filter(running).rev() {
                let (name, message) = (def.spec.name.clone(), "killing".to_owned());
                plan.actions.push(Action::Kill { name, message, grace: Duration::ZERO });
            }
        }
        Setup::Done => {
            containers(pod, defs, observed, now, &mut plan);
            if observed.held_by_resize {
                plan.actions.retain(|a| !matches!(a, Action::Start(_)));
            }
        }
        Setup::Running => {}
        Setup::Needed => plan.actions.push(Action::Setup),
        Setup::Failed(at) if at <= now => plan.actions.push(Action::Setup),
        Setup::Failed(at) => plan.wake(at),
    }
    plan
}

fn record<'a>(observed: &'a Observed, def: &Def) -> Option<&'a Record> {
    observed.containers.get(&def.spec.name)
}

fn stop(pod: &Pod, defs: &[Def], observed: &Observed, now: SystemTime, plan: &mut Plan) {
    let grace = grace(pod, observed);
    let mut busy = observed.setup == Setup::Running || observed.tearing_down;
    let mut kill = |def: &Def, record: &Record, left: Duration| {
        let grace = match record.killing {
            None => left,
            // A shorter grace than the one under way wins: `kubectl delete --force` on a pod that is stopping.
            Some(under_way) if grace < under_way => grace,
            Some(_) => return,
        };
        plan.actions.push(Action::Kill { name: def.spec.name.clone(), message: String::new(), grace });
    };
    let live = |def: &&Def| record(observed, def).is_some_and(|r| r.is_running() || r.starting);
    let (mut workload, mut hooks) = (false, Vec::new());
    for def in defs.iter().filter(|d| d.role != Role::Sidecar).filter(live) {
        let record = record(observed, def).expect("it is live");
        workload = true;
        if record.is_running() {
            kill(def, record, grace);
        }
    }
    // Sidecars end after what they serve, the last first, in what is left of the pod's grace.
    let sidecars: Vec<&Def> = defs.iter().filter(|d| d.role == Role::Sidecar).filter(live).collect();
    for def in &sidecars {
        // Hooks begin when the pod's end does: a sidecar may have to tell others before its turn comes.
        let hook = def.spec.lifecycle.as_ref().is_some_and(|l| l.pre_stop.is_some());
        let due = |r: &&Record| r.is_running() && r.killing.is_none() && r.pre_stop == PreStop::Due;
        if hook && !grace.is_zero() && record(observed, def).filter(due).is_some() {
            hooks.push(Action::PreStop { name: def.spec.name.clone(), grace });
        }
    }
    if !workload
        && hooks.is_empty()
        && let Some(def) = sidecars.last()
        && let Some(record) =
            record(observed, def).filter(|r| r.is_running() && r.pre_stop != PreStop::Running)
    {
        let elapsed = observed.ending_since.and_then(|since| now.duration_since(since).ok());
        kill(def, record, grace.saturating_sub(elapsed.unwrap_or_default()));
    }
    plan.actions.append(&mut hooks);
    busy |= workload || !sidecars.is_empty();
    if busy {
        return;
    }
    if !observed.released {
        plan.actions.push(Action::TearDown);
    } else if observed.gone {
        plan.actions.push(Action::Forget);
    } else if is_deleted(pod) && !observed.deleting {
        plan.actions.push(Action::Delete);
    }
}

fn containers(pod: &Pod, defs: &[Def], observed: &Observed, now: SystemTime, plan: &mut Plan) {
    let has_run = |d: &Def| record(observed, d).is_some_and(|r| r.state != State::None);
    // Once the ordinary containers run, init containers are history; sidecars are kept running.
    let initialized = defs.iter().any(|d| d.role == Role::Main && has_run(d));
    // Debugging may be wanted of a pod that does not get through its init containers.
    for def in defs.iter().filter(|d| d.role == Role::Ephemeral) {
        keep_running(pod, def, record(observed, def), now, plan);
    }
    for def in defs.iter().filter(|d| matches!(d.role, Role::Init | Role::Sidecar)) {
        if def.role == Role::Init && initialized {
            continue;
        }
        let here = record(observed, def);
        let done = match def.role {
            Role::Sidecar => {
                here.is_some_and(|r| r.is_running() && r.started) || (initialized && has_run(def))
            }
            _ => here.and_then(Record::ended).is_some_and(|e| e.exit_code == 0),
        };
        if !done || def.role == Role::Sidecar {
            keep_running(pod, def, here, now, plan);
        }
        if !done {
            return;
        }
    }
    for def in defs.iter().filter(|d| d.role == Role::Main) {
        keep_running(pod, def, record(observed, def), now, plan);
    }
}

fn keep_running(pod: &Pod, def: &Def, record: Option<&Record>, now: SystemTime, plan: &mut Plan) {
    let name = def.spec.name.clone();
    let Some(record) = record else { return plan.actions.push(Action::Start(name)) };
    if record.starting || record.killing.is_some() {
        return;
    }
    match &record.state {
        State::Running(_) => {
            if let Some(restart) = &record.restart {
                let pods = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds).unwrap_or(30);
                let grace = restart.grace.unwrap_or(Duration::from_secs(pods.max(0).unsigned_abs()));
                plan.actions.push(Action::Kill { name, message: restart.message.clone(), grace });
            }
            return;
        }
        State::None => {}
        State::Ended(ended) => {
            if !comes_back(pod, def, Some(record), ended.exit_code) {
                return;
            }
            if let Some(until) = record.held_until(ended.finished_at)
                && until > now
            {
                let delay = record.backoff.map_or(Duration::ZERO, |b| b.delay);
                plan.held.push((name, delay));
                return plan.wake(until);
            }
        }
    }
    match record.retry_at {
        Some(at) if at > now => plan.wake(at),
        _ => plan.actions.push(Action::Start(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::model::Restart;
    use crate::pod::phase::tests::{ended, observed, pod, t};
    use crate::util::defs;
    use serde_json::json;

    fn start(name: &str) -> Action {
        Action::Start(name.into())
    }

    fn kill(name: &str, seconds: u64) -> Action {
        Action::Kill { name: name.into(), message: String::new(), grace: Duration::from_secs(seconds) }
    }

    fn actions(pod: &Pod, observed: &Observed, now: u64) -> Vec<Action> {
        plan(pod, &defs(pod), observed, t(now)).actions
    }

    #[test]
    fn containers_start_in_order_of_their_roles() {
        let pod = pod(
            json!({"initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}, {"name": "j"}],
            "containers": [{"name": "a"}, {"name": "b"}]}),
        );
        let run = State::Running(t(0));
        type Step = (Vec<(&'static str, State)>, Vec<Action>);
        let steps: Vec<Step> = vec![
            (vec![], vec![start("i")]),
            (vec![("i", run.clone())], vec![]),
            (vec![("i", ended(1, 0))], vec![start("i")]),
            (vec![("i", ended(0, 0))], vec![start("s")]),
            (vec![("i", ended(0, 0)), ("s", run.clone())], vec![start("j")]),
            (vec![("i", ended(0, 0)), ("s", run.clone()), ("j", ended(0, 0))], vec![start("a"), start("b")]),
            (vec![("i", ended(0, 0)), ("s", ended(0, 0)), ("j", ended(0, 0))], vec![start("s")]),
            (vec![("s", ended(0, 0)), ("a", run.clone()), ("b", ended(0, 0))], vec![start("s"), start("b")]),
        ];
        for (records, expected) in steps {
            assert_eq!(actions(&pod, &observed(&records), 0), expected, "{records:?}");
        }
    }

    #[test]
    fn a_sidecar_that_has_not_started_holds_back_what_follows() {
        let pod = pod(
            json!({"initContainers": [{"name": "s", "restartPolicy": "Always"}], "containers": [{"name": "a"}]}),
        );
        let mut observed = observed(&[("s", State::Running(t(0)))]);
        observed.containers.get_mut("s").unwrap().started = false;
        assert_eq!(actions(&pod, &observed, 0), []);
    }

    #[test]
    fn setup_comes_first_and_is_tried_again_later() {
        let pod = pod(json!({"containers": [{"name": "a"}]}));
        let mut observed = Observed::default();
        assert_eq!(actions(&pod, &observed, 0), [Action::Setup]);
        observed.setup = Setup::Running;
        assert_eq!(actions(&pod, &observed, 0), []);
        observed.setup = Setup::Failed(t(5));
        assert_eq!(plan(&pod, &defs(&pod), &observed, t(4)).wake_at, Some(t(5)));
        assert_eq!(actions(&pod, &observed, 5), [Action::Setup]);
        observed.sandbox = Sandbox::Lost;
        assert_eq!(actions(&pod, &observed, 5), [Action::TearDown]);
    }

    #[test]
    fn a_crashing_container_waits_for_its_delay() {
        let pod = pod(json!({"containers": [{"name": "a"}]}));
        let mut observed = observed(&[("a", ended(1, 0))]);
        assert_eq!(actions(&pod, &observed, 0), [start("a")]);
        let record = observed.containers.get_mut("a").unwrap();
        record.count_restart(t(0));
        record.state = ended(1, 2);
        let held = plan(&pod, &defs(&pod), &observed, t(3));
        assert_eq!(held.actions, []);
        assert_eq!((held.held, held.wake_at), (vec![("a".to_owned(), Duration::from_secs(10))], Some(t(12))));
        assert_eq!(actions(&pod, &observed, 12), [start("a")]);
    }

    #[test]
    fn restart_policies_hold() {
        for (policy, code, restarts) in
            [("Always", 0, true), ("OnFailure", 0, false), ("OnFailure", 1, true), ("Never", 1, false)]
        {
            let pod = pod(json!({"restartPolicy": policy, "containers": [{"name": "a"}, {"name": "b"}]}));
            let expected = if restarts { vec![start("a")] } else { vec![] };
            let seen = observed(&[("a", ended(code, 0)), ("b", State::Running(t(0)))]);
            assert_eq!(actions(&pod, &seen, 0), expected, "{policy} {code}");
        }
    }

    #[test]
    fn a_failed_liveness_probe_kills_with_its_own_message_and_grace() {
        let pod = pod(json!({"containers": [{"name": "a"}]}));
        let mut seen = observed(&[("a", State::Running(t(0)))]);
        let record = seen.containers.get_mut("a").unwrap();
        record.restart =
            Some(Restart { message: "m".into(), grace: Some(Duration::from_secs(3)), again: true });
        let expected = Action::Kill { name: "a".into(), message: "m".into(), grace: Duration::from_secs(3) };
        assert_eq!(actions(&pod, &seen, 0), [expected]);
        seen.containers.get_mut("a").unwrap().killing = Some(Duration::from_secs(3));
        assert_eq!(actions(&pod, &seen, 0), []);
    }

    #[test]
    fn a_deleted_pod_is_stopped_sidecars_last_then_taken_down_then_deleted() {
        let mut pod = pod(
            json!({"initContainers": [{"name": "s", "restartPolicy": "Always"}, {"name": "u", "restartPolicy": "Always"}],
            "containers": [{"name": "a"}]}),
        );
        pod.metadata.deletion_timestamp =
            Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
        pod.metadata.deletion_grace_period_seconds = Some(7);
        let run = State::Running(t(0));
        let mut seen = observed(&[("s", run.clone()), ("u", run.clone()), ("a", run.clone())]);
        assert_eq!(actions(&pod, &seen, 0), [kill("a", 7)]);
        seen.containers.get_mut("a").unwrap().killing = Some(Duration::from_secs(7));
        assert_eq!(actions(&pod, &seen, 0), []);
        pod.metadata.deletion_grace_period_seconds = Some(0);
        assert_eq!(actions(&pod, &seen, 0), [kill("a", 0)]);
        for (name, expected) in [("a", kill("u", 0)), ("u", kill("s", 0)), ("s", Action::TearDown)] {
            seen.containers.get_mut(name).unwrap().state = ended(137, 0);
            assert_eq!(actions(&pod, &seen, 0), [expected]);
        }
        seen.tearing_down = true;
        assert_eq!(actions(&pod, &seen, 0), []);
        (seen.tearing_down, seen.released) = (false, true);
        assert_eq!(actions(&pod, &seen, 0), [Action::Delete]);
        seen.deleting = true;
        assert_eq!(actions(&pod, &seen, 0), []);
        seen.gone = true;
        assert_eq!(actions(&pod, &seen, 0), [Action::Forget]);
    }

    #[test]
    fn a_finished_pod_gives_its_sandbox_back_and_stays() {
        let pod = pod(
            json!({"restartPolicy": "Never", "initContainers": [{"name": "s", "restartPolicy": "Always"}],
            "containers": [{"name": "a"}]}),
        );
        let mut seen = observed(&[("a", ended(0, 0)), ("s", State::Running(t(0)))]);
        assert_eq!(actions(&pod, &seen, 0), [kill("s", 30)]);
        seen.containers.get_mut("s").unwrap().state = ended(0, 0);
        assert_eq!(actions(&pod, &seen, 0), [Action::TearDown]);
        seen.released = true;
        assert_eq!(actions(&pod, &seen, 0), []);
    }

    #[test]
    fn a_sidecars_hook_begins_with_the_pods_end_and_is_waited_for() {
        let hook = json!({"preStop": {"sleep": {"seconds": 1}}});
        let mut pod =
            pod(json!({"initContainers": [{"name": "s", "restartPolicy": "Always", "lifecycle": hook}],
            "containers": [{"name": "a"}]}));
        pod.metadata.deletion_timestamp =
            Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
        pod.metadata.deletion_grace_period_seconds = Some(30);
        let mut seen = observed(&[("a", State::Running(t(0))), ("s", State::Running(t(0)))]);
        let hook = Action::PreStop { name: "s".into(), grace: Duration::from_secs(30) };
        assert_eq!(actions(&pod, &seen, 0), [kill("a", 30), hook]);
        seen.containers.get_mut("s").unwrap().pre_stop = PreStop::Running;
        seen.containers.get_mut("a").unwrap().state = ended(0, 0);
        assert_eq!(actions(&pod, &seen, 0), []);
        seen.containers.get_mut("s").unwrap().pre_stop = PreStop::Done;
        assert_eq!(actions(&pod, &seen, 0), [kill("s", 30)]);
    }

    #[test]
    fn sidecars_have_what_is_left_of_the_grace() {
        let mut pod = pod(
            json!({"initContainers": [{"name": "s", "restartPolicy": "Always"}], "containers": [{"name": "a"}]}),
        );
        pod.metadata.deletion_timestamp =
            Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
        pod.metadata.deletion_grace_period_seconds = Some(30);
        let mut seen = observed(&[("a", ended(0, 0)), ("s", State::Running(t(0)))]);
        seen.ending_since = Some(t(0));
        assert_eq!(actions(&pod, &seen, 12), [kill("s", 18)]);
        seen.containers.get_mut("s").unwrap().killing = Some(Duration::from_secs(18));
        assert_eq!(actions(&pod, &seen, 13), []);
        pod.metadata.deletion_grace_period_seconds = Some(1);
        assert_eq!(actions(&pod, &seen, 13), [kill("s", 1)]);
    }

    #[test]
    fn the_active_deadline_fails_the_pod() {
        let pod = pod(json!({"activeDeadlineSeconds": 5, "containers": [{"name": "a"}]}));
        let mut seen = observed(&[("a", State::Running(t(0)))]);
        seen.start_time = Some(t(0));
        assert_eq!(plan(&pod, &defs(&pod), &seen, t(1)).wake_at, Some(t(5)));
        assert!(matches!(actions(&pod, &seen, 5)[..], [Action::Fail { reason: "DeadlineExceeded", .. }]));
    }
}
