//! The status of a pod as the API shows it: phase, conditions, container statuses (KEP-3085 for
//! PodReadyToStartContainers, KEP-5067 for observedGeneration).

use super::model::{Ended, Observed, Record, Sandbox, State};
use super::phase::{Shown, phase, shown};
use super::resize;
use super::sizes::{self, Size};
use crate::util::{Def, Role, host_network};
use knarr_api::Kind;
use knarr_api::core::v1::{Pod, PodCondition};
use knarr_meta::time::rfc3339;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::time::SystemTime;

/// How container identifiers begin.
pub(crate) const ID_PREFIX: &str = "knarr://";

/// The status. `before` is the one last written; its transition times are kept where nothing changed.
pub(crate) fn status(
    pod: &Pod,
    defs: &[Def],
    observed: &Observed,
    stopped: bool,
    node_ip: IpAddr,
    before: &Value,
    now: SystemTime,
) -> Value {
    // A pod that was given up is not failed before its containers have ended.
    let failed = observed.failed.as_ref().filter(|_| stopped);
    let phase = match &observed.failed {
        Some(_) if failed.is_none() => {
            phase(pod, defs, &Observed { failed: None, ..observed.clone() }, stopped)
        }
        _ => phase(pod, defs, observed, stopped),
    };
    let mut lists = [Vec::new(), Vec::new(), Vec::new()];
    let initialized = is_initialized(defs, observed);
    for def in defs {
        let (index, waiting) = match def.role {
            Role::Init | Role::Sidecar => (0, "PodInitializing"),
            Role::Main if initialized => (1, "ContainerCreating"),
            Role::Main if defs.iter().any(|d| d.role == Role::Init || d.role == Role::Sidecar) => {
                (1, "PodInitializing")
            }
            Role::Main => (1, "ContainerCreating"),
            Role::Ephemeral => (2, "ContainerCreating"),
        };
        lists[index].push(container(def, observed.containers.get(&def.spec.name), waiting, stopped));
    }
    let [init, main, ephemeral] = lists;
    let mut status = json!({
        "phase": phase,
        "conditions": conditions(pod, defs, observed, phase, initialized, before, now),
        "hostIP": node_ip.to_string(),
        "hostIPs": [{ "ip": node_ip.to_string() }],
        "containerStatuses": main,
        "qosClass": crate::container::resources::qos_class(pod),
        "resources": sizes::pod_status(pod),
    });
    let requests = sizes::total(pod, sizes::Part::Requests);
    if !requests.is_empty() {
        status["allocatedResources"] = sizes::to_json(&requests);
    }
    if let Some(start) = observed.start_time {
        status["startTime"] = rfc3339(start).into();
    }
    if !init.is_empty() {
        status["initContainerStatuses"] = init.into();
    }
    if !ephemeral.is_empty() {
        status["ephemeralContainerStatuses"] = ephemeral.into();
    }
    if let Some(generation) = pod.metadata.generation {
        status["observedGeneration"] = generation.into();
    }
    if observed.failed.is_some() && observed.containers.is_empty() {
        // A pod that was refused has no containers to speak of.
        let fields = status.as_object_mut().expect("a status is an object");
        fields.retain(|name, _| !name.ends_with("ontainerStatuses"));
    }
    if let Some((reason, message)) = failed {
        status["reason"] = reason.as_str().into();
        status["message"] = message.as_str().into();
    }
    let ips: Vec<String> = match host_network(pod) {
        true if observed.sandbox == Sandbox::Ready => vec![node_ip.to_string()],
        _ => observed.ips.iter().map(IpAddr::to_string).collect(),
    };
    if let Some(first) = ips.first() {
        status["podIP"] = first.as_str().into();
        status["podIPs"] = pod_ips(&ips);
    }
    status
}

/// The list merges by address in a patch, so it says that it replaces what is there.
fn pod_ips(ips: &[String]) -> Value {
    ips.iter().map(|ip| json!({ "ip": ip })).chain([json!({ "$patch": "replace" })]).collect()
}

/// A status as it stands after being written: without what only the patch needs.
pub(crate) fn settled(mut status: Value) -> Value {
    if let Some(ips) = status["podIPs"].as_array_mut() {
        ips.retain(|ip| ip["$patch"].is_null());
    }
    if let Some(conditions) = status["conditions"].as_array_mut() {
        conditions.retain(|c| c["$patch"].is_null());
    }
    status
}

fn container(def: &Def, record: Option<&Record>, default_waiting: &str, stopped: bool) -> Value {
    let empty = Record::default();
    let shown = shown(record);
    let record = record.unwrap_or(&empty);
    let waiting = || match &record.waiting {
        Some((reason, message)) if message.is_empty() => json!({ "waiting": { "reason": reason } }),
        Some((reason, message)) => json!({ "waiting": { "reason": reason, "message": message } }),
        None => json!({ "waiting": { "reason": default_waiting } }),
    };
    let last =
        |ended: Option<&Ended>| ended.map_or_else(|| json!({}), |e| json!({ "terminated": terminated(e) }));
    let (state, last_state) = match shown {
        Shown::Running => {
            let State::Running(since) = &record.state else { unreachable!("it is shown as running") };
            (json!({ "running": { "startedAt": rfc3339(*since) } }), last(record.last.as_ref()))
        }
        Shown::Terminated(ended) => (json!({ "terminated": terminated(ended) }), last(record.last.as_ref())),
        // What never ran and never will is not waiting for anything.
        Shown::Waiting(Some(ended)) if stopped && record.state != State::None => {
            (json!({ "terminated": terminated(ended) }), last(record.last.as_ref()))
        }
        Shown::Waiting(ended) => (waiting(), last(ended)),
    };
    let running = matches!(shown, Shown::Running);
    let done_init = def.role == Role::Init && record.ended().is_some_and(|e| e.exit_code == 0);
    let mut status = json!({
        "name": def.spec.name,
        "image": if record.image.is_empty() { def.spec.image.as_deref().unwrap_or_default() } else { &record.image },
        "imageID": record.image_id,
        "ready": done_init || (running && record.started && record.readiness && def.role != Role::Ephemeral),
        "started": running && record.started,
        "restartCount": record.attempt,
        "state": state,
        "lastState": last_state,
    });
    if !record.id.is_empty() {
        status["containerID"] = format!("{ID_PREFIX}{}", record.id).into();
    }
    if let Some(user) = &record.user {
        status["user"] =
            json!({ "linux": { "uid": user.uid, "gid": user.gid, "supplementalGroups": user.groups } });
    }
    resources(def, record, running, &mut status);
    let mounts: Vec<Value> = def.spec.volume_mounts.iter().flatten().map(mount).collect();
    if !mounts.is_empty() {
        status["volumeMounts"] = mounts.into();
    }
    status
}

/// What a container that was made is granted, and what it has of it.
fn resources(def: &Def, record: &Record, running: bool, status: &mut Value) {
    if record.id.is_empty() || def.role == Role::Ephemeral {
        return;
    }
    let granted = Size::of(def.spec.resources.as_ref());
    let actual = record.actuated.as_ref().filter(|_| running).unwrap_or(&granted);
    status["resources"] = granted.shown(actual);
    if !granted.requests.is_empty() {
        status["allocatedResources"] = json!(granted.requests);
    }
}

fn mount(mount: &knarr_api::core::v1::VolumeMount) -> Value {
    let mut value = json!({ "name": mount.name, "mountPath": mount.mount_path });
    if mount.read_only == Some(true) {
        value["readOnly"] = true.into();
        let recursive = match mount.recursive_read_only.as_deref() {
            Some("Enabled" | "IfPossible") => "Enabled",
            _ => "Disabled",
        };
        value["recursiveReadOnly"] = recursive.into();
    }
    value
}

fn terminated(ended: &Ended) -> Value {
    let mut value = json!({
        "exitCode": ended.exit_code,
        "reason": ended.reason,
        "startedAt": ended.started_at.map_or_else(|| "1970-01-01T00:00:00Z".to_owned(), rfc3339),
        "finishedAt": rfc3339(ended.finished_at),
        "containerID": format!("{ID_PREFIX}{}", ended.id),
    });
    if !ended.message.is_empty() {
        value["message"] = ended.message.as_str().into();
    }
    value
}

fn is_initialized(defs: &[Def], observed: &Observed) -> bool {
    let record = |d: &&Def| observed.containers.get(&d.spec.name);
    let started = |d: &Def| record(&d).is_some_and(Record::has_run);
    if defs.iter().any(|d| d.role == Role::Main && started(d)) {
        return true;
    }
    incomplete(defs, observed).is_empty()
}

fn incomplete<'a>(defs: &'a [Def], observed: &Observed) -> Vec<&'a str> {
    let done = |d: &&Def| {
        let record = observed.containers.get(&d.spec.name);
        match d.role {
            Role::Init => record.and_then(Record::ended).is_some_and(|e| e.exit_code == 0),
            Role::Sidecar => record.is_some_and(|r| r.is_running() && r.started),
            _ => true,
        }
    };
    defs.iter().filter(|d| !done(d)).map(|d| d.spec.name.as_str()).collect()
}

struct Condition {
    kind: &'static str,
    status: bool,
    reason: &'static str,
    message: String,
}

impl Condition {
    fn new(kind: &'static str, status: bool) -> Self {
        Self { kind, status, reason: "", message: String::new() }
    }

    fn because(kind: &'static str, reason: &'static str, message: String) -> Self {
        Self { kind, status: false, reason, message }
    }
}

fn conditions(
    pod: &Pod,
    defs: &[Def],
    observed: &Observed,
    phase: &str,
    initialized: bool,
    before: &Value,
    now: SystemTime,
) -> Value {
    let containers = containers_ready(defs, observed, phase);
    let ready = if containers.status {
        let gates = unmet_gates(pod);
        if gates.is_empty() {
            Condition::new("Ready", true)
        } else {
            Condition::because("Ready", "ReadinessGatesNotReady", gates.join(", "))
        }
    } else {
        Condition { kind: "Ready", message: containers.message.clone(), ..containers }
    };
    let init = if phase == "Succeeded" {
        Condition { reason: "PodCompleted", ..Condition::new("Initialized", true) }
    } else if initialized {
        Condition::new("Initialized", true)
    } else {
        let names = incomplete(defs, observed).join(" ");
        let message = format!("containers with incomplete status: [{names}]");
        Condition::because("Initialized", "ContainersNotInitialized", message)
    };
    let sandbox = Condition::new("PodReadyToStartContainers", observed.sandbox == Sandbox::Ready);
    let containers = Condition { kind: "ContainersReady", ..containers_ready(defs, observed, phase) };
    let all = [sandbox, init, ready, containers, Condition::new("PodScheduled", true)];
    let restart = Some(restarting_all(observed, phase)).filter(|_| may_restart_all(defs));
    let disrupted = observed.disruption.as_ref().map(|message| Condition {
        kind: "DisruptionTarget",
        status: true,
        reason: "TerminationByKubelet",
        message: message.clone(),
    });
    let all = all.iter().chain(&restart).chain(&disrupted);
    let mut all: Vec<Value> = all.map(|c| render(c, pod, before, now)).collect();
    let resizing = [
        ("PodResizePending", &observed.resizing.pending),
        ("PodResizeInProgress", &observed.resizing.progress),
    ];
    for (kind, condition) in resizing {
        match condition {
            Some(condition) => all.push(render_resize(kind, condition)),
            // The list merges by type in a patch: what is gone is said to be.
            None if written(before, kind).is_some() => all.push(json!({ "type": kind, "$patch": "delete" })),
            None => {}
        }
    }
    all.into()
}

/// Whether a container's end can take all others with it.
fn may_restart_all(defs: &[Def]) -> bool {
    let mut rules = defs.iter().flat_map(|d| d.spec.restart_policy_rules.iter().flatten());
    rules.any(|rule| rule.action == "RestartAllContainers")
}

fn restarting_all(observed: &Observed, phase: &str) -> Condition {
    let kind = "AllContainersRestarting";
    match phase {
        "Succeeded" => Condition::because(kind, "PodCompleted", String::new()),
        "Failed" => Condition::because(kind, "PodFailed", String::new()),
        _ if observed.restarting_all => Condition {
            status: true,
            ..Condition::because(
                kind,
                "RestartAllContainersStarted",
                "container exited with restart policy rule".to_owned(),
            )
        },
        _ => Condition::new(kind, false),
    }
}

fn render_resize(kind: &str, condition: &resize::Condition) -> Value {
    json!({
        "type": kind,
        "status": "True",
        "lastProbeTime": rfc3339(condition.probed),
        "lastTransitionTime": rfc3339(condition.since),
        "observedGeneration": Some(condition.generation).filter(|g| *g > 0),
        "reason": Some(&condition.reason).filter(|r| !r.is_empty()),
        "message": Some(&condition.message).filter(|m| !m.is_empty()),
    })
}

fn written<'a>(before: &'a Value, kind: &str) -> Option<&'a Value> {
    before["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == kind)
}

fn render(c: &Condition, pod: &Pod, before: &Value, now: SystemTime) -> Value {
    let status = if c.status { "True" } else { "False" };
    let written = before["conditions"].as_array().into_iter().flatten();
    let same = written.into_iter().find(|b| b["type"] == c.kind && b["status"] == status);
    let since = same.map(|b| b["lastTransitionTime"].clone()).filter(Value::is_string);
    let mut value = json!({
        "type": c.kind,
        "status": status,
        "lastProbeTime": null,
        "lastTransitionTime": since.unwrap_or_else(|| rfc3339(now).into()),
        "reason": Some(c.reason).filter(|r| !r.is_empty()),
        "message": Some(&c.message).filter(|m| !m.is_empty()),
    });
    if let Some(generation) = pod.metadata.generation {
        value["observedGeneration"] = generation.into();
    }
    value
}

fn containers_ready(defs: &[Def], observed: &Observed, phase: &str) -> Condition {
    let kind = "ContainersReady";
    match phase {
        "Succeeded" => return Condition::because(kind, "PodCompleted", String::new()),
        "Failed" => return Condition::because(kind, "PodFailed", String::new()),
        _ => {}
    }
    let ready = |d: &&Def| {
        observed.containers.get(&d.spec.name).is_some_and(|r| r.is_running() && r.started && r.readiness)
    };
    let counted = defs.iter().filter(|d| matches!(d.role, Role::Main | Role::Sidecar));
    let unready: Vec<&str> = counted.filter(|d| !ready(d)).map(|d| d.spec.name.as_str()).collect();
    if unready.is_empty() {
        return Condition::new(kind, true);
    }
    Condition::because(
        kind,
        "ContainersNotReady",
        format!("containers with unready status: [{}]", unready.join(" ")),
    )
}

fn unmet_gates(pod: &Pod) -> Vec<String> {
    let conditions: Vec<&PodCondition> =
        pod.status.iter().flat_map(|s| s.conditions.iter().flatten()).collect();
    let gates = pod.spec.iter().flat_map(|s| s.readiness_gates.iter().flatten());
    gates
        .filter_map(|gate| {
            let name = &gate.condition_type;
            match conditions.iter().find(|c| c.type_ == *name) {
                None => {
                    Some(format!("corresponding condition of pod readiness gate \"{name}\" does not exist."))
                }
                Some(c) if c.status != "True" => Some(format!(
                    "the status of pod readiness gate \"{name}\" is not \"True\", but {}",
                    c.status
                )),
                Some(_) => None,
            }
        })
        .collect()
}

/// The status in the pod's object, to start from.
pub(crate) fn of_object(pod: &Pod) -> Value {
    pod.to_value()["status"].take()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::phase::tests::{ended, observed, pod, t};
    use crate::util::defs;

    fn at(pod: &Pod, observed: &Observed, stopped: bool) -> Value {
        status(pod, &defs(pod), observed, stopped, "10.0.0.1".parse().unwrap(), &Value::Null, t(9))
    }

    fn condition<'a>(status: &'a Value, kind: &str) -> &'a Value {
        status["conditions"].as_array().unwrap().iter().find(|c| c["type"] == kind).unwrap()
    }

    #[test]
    fn a_pod_that_is_being_made_says_so() {
        let with_init = pod(
            json!({"initContainers": [{"name": "i", "image": "x"}], "containers": [{"name": "a", "image": "y"}]}),
        );
        let new = at(&with_init, &Observed::default(), false);
        assert_eq!(new["phase"], "Pending");
        assert_eq!(new["containerStatuses"][0]["state"]["waiting"]["reason"], "PodInitializing");
        assert_eq!(condition(&new, "Initialized")["message"], "containers with incomplete status: [i]");
        assert_eq!(condition(&new, "PodReadyToStartContainers")["status"], "False");
        let plain = pod(json!({"containers": [{"name": "a", "image": "y"}]}));
        let new = at(&plain, &Observed::default(), false);
        assert_eq!(new["containerStatuses"][0]["state"]["waiting"], json!({"reason": "ContainerCreating"}));
        assert_eq!(new["containerStatuses"][0]["image"], "y");
        assert_eq!(condition(&new, "Ready")["message"], "containers with unready status: [a]");
        assert_eq!(condition(&new, "Initialized")["status"], "True");
    }

    #[test]
    fn a_running_pod_is_ready_when_its_containers_and_gates_are() {
        let mut pod = pod(json!({"readinessGates": [{"conditionType": "g"}], "containers": [{"name": "a"}]}));
        pod.metadata.generation = Some(3);
        let mut seen = observed(&[("a", State::Running(t(0)))]);
        seen.ips = vec!["10.1.0.2".parse().unwrap()];
        let status = at(&pod, &seen, false);
        assert_eq!((&status["phase"], &status["podIP"]), (&json!("Running"), &json!("10.1.0.2")));
        assert_eq!(status["containerStatuses"][0]["ready"], true);
        assert_eq!(condition(&status, "ContainersReady")["status"], "True");
        assert_eq!(condition(&status, "Ready")["reason"], "ReadinessGatesNotReady");
        assert_eq!(condition(&status, "Ready")["observedGeneration"], 3);
        assert_eq!(status["observedGeneration"], 3);
        seen.containers.get_mut("a").unwrap().readiness = false;
        assert_eq!(at(&pod, &seen, false)["containerStatuses"][0]["ready"], false);
    }

    #[test]
    fn a_crash_loop_shows_the_last_end_while_waiting() {
        let pod = pod(json!({"containers": [{"name": "a"}]}));
        let mut seen = observed(&[("a", ended(3, 5))]);
        assert_eq!(at(&pod, &seen, false)["containerStatuses"][0]["state"]["terminated"]["exitCode"], 3);
        let record = seen.containers.get_mut("a").unwrap();
        record.waiting = Some(("CrashLoopBackOff".into(), "back-off 10s".into()));
        let status = at(&pod, &seen, false);
        let c = &status["containerStatuses"][0];
        assert_eq!(c["state"]["waiting"]["reason"], "CrashLoopBackOff");
        assert_eq!(c["lastState"]["terminated"]["reason"], "Error");
        assert_eq!(status["phase"], "Running");
        assert_eq!(at(&pod, &seen, true)["containerStatuses"][0]["state"]["terminated"]["exitCode"], 3);
    }

    #[test]
    fn the_user_of_a_container_is_told_once_it_is_known() {
        let pod = pod(json!({"containers": [{"name": "a"}]}));
        let mut seen = observed(&[("a", State::Running(t(0)))]);
        assert_eq!(at(&pod, &seen, false)["containerStatuses"][0]["user"], Value::Null);
        let user = knarr_runtime::spec::User { uid: 1000, gid: 0, groups: vec![0, 2000] };
        seen.containers.get_mut("a").unwrap().user = Some(user);
        let shown = &at(&pod, &seen, false)["containerStatuses"][0]["user"];
        assert_eq!(*shown, json!({"linux": {"uid": 1000, "gid": 0, "supplementalGroups": [0, 2000]}}));
    }

    #[test]
    fn finished_pods_have_final_conditions() {
        let pod = pod(json!({"restartPolicy": "Never", "containers": [{"name": "a"}]}));
        for (code, phase, reason) in [(0, "Succeeded", "PodCompleted"), (1, "Failed", "PodFailed")] {
            let status = at(&pod, &observed(&[("a", ended(code, 0))]), true);
            assert_eq!(status["phase"], phase);
            assert_eq!(condition(&status, "Ready")["reason"], reason);
        }
    }

    #[test]
    fn transition_times_change_only_with_the_status_and_addresses_are_replaced() {
        let pod = pod(json!({"containers": [{"name": "a"}]}));
        let mut seen = observed(&[("a", State::Running(t(0)))]);
        seen.ips = vec!["10.1.0.2".parse().unwrap()];
        let ip = "10.0.0.1".parse().unwrap();
        let first = settled(status(&pod, &defs(&pod), &seen, false, ip, &Value::Null, t(1)));
        seen.ips = vec!["10.1.0.3".parse().unwrap()];
        let second = status(&pod, &defs(&pod), &seen, false, ip, &first, t(2));
        assert_eq!(condition(&second, "Ready")["lastTransitionTime"], rfc3339(t(1)));
        assert_eq!(second["podIPs"], json!([{"ip": "10.1.0.3"}, {"$patch": "replace"}]));
        assert_eq!(settled(second)["podIPs"], json!([{"ip": "10.1.0.3"}]));
    }
}
