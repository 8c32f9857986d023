//! What `kubectl get pods` shows: printPod of pkg/printers/internalversion/printers.go.

use crate::util::cells::{self, since};
use crate::util::value::{at, flag, list, number, text};
use serde_json::Value;
use std::time::SystemTime;

/// The cells of a pod's row.
pub fn cells(obj: &Value, now: SystemTime) -> Vec<Value> {
    let state = State::of(obj);
    let mut restarts = state.restarts.to_string();
    if state.restarts != 0
        && let Some(last) = state.last_restart
    {
        restarts = format!("{} ({} ago)", state.restarts, since(&Value::from(last), now));
    }
    vec![
        cells::name(obj),
        format!("{}/{}", state.ready, state.total).into(),
        state.reason.into(),
        restarts.into(),
        cells::age(obj, now),
        cells::or_none(
            list(obj, &["status", "podIPs"]).first().map(|p| text(p, &["ip"])).unwrap_or_default(),
        ),
        cells::or_none(text(obj, &["spec", "nodeName"])),
        cells::or_none(text(obj, &["status", "nominatedNodeName"])),
        readiness_gates(obj).into(),
    ]
}

struct State<'a> {
    reason: String,
    ready: usize,
    total: usize,
    restarts: i64,
    last_restart: Option<&'a str>,
}

/// The later of two RFC 3339 times in UTC, which compare as text.
fn later<'a>(a: Option<&'a str>, b: &'a str) -> Option<&'a str> {
    if b.is_empty() { a } else { Some(a.map_or(b, |a| a.max(b))) }
}

fn last_finish(status: &Value) -> &str {
    text(status, &["lastState", "terminated", "finishedAt"])
}

impl<'a> State<'a> {
    fn of(pod: &'a Value) -> Self {
        let phase = text(pod, &["status", "phase"]);
        let mut reason = match text(pod, &["status", "reason"]) {
            "" => phase.to_owned(),
            reason => reason.to_owned(),
        };
        let conditions = list(pod, &["status", "conditions"]);
        let is_true = |kind: &str| {
            conditions.iter().any(|c| text(c, &["type"]) == kind && text(c, &["status"]) == "True")
        };
        if conditions
            .iter()
            .any(|c| text(c, &["type"]) == "PodScheduled" && text(c, &["reason"]) == "SchedulingGated")
        {
            reason = "SchedulingGated".to_owned();
        }

        let init = list(pod, &["spec", "initContainers"]);
        let is_sidecar = |name: &str| {
            init.iter().any(|c| text(c, &["name"]) == name && text(c, &["restartPolicy"]) == "Always")
        };
        let sidecars = init.iter().filter(|c| text(c, &["restartPolicy"]) == "Always").count();
        let mut state = Self {
            reason: String::new(),
            ready: 0,
            total: list(pod, &["spec", "containers"]).len() + sidecars,
            restarts: 0,
            last_restart: None,
        };
        let (mut sidecar_restarts, mut last_sidecar_restart) = (0, None);

        let mut initializing = false;
        for (i, status) in list(pod, &["status", "initContainerStatuses"]).iter().enumerate() {
            let sidecar = is_sidecar(text(status, &["name"]));
            state.restarts += number(status, &["restartCount"]);
            state.last_restart = later(state.last_restart, last_finish(status));
            if sidecar {
                sidecar_restarts += number(status, &["restartCount"]);
                last_sidecar_restart = later(last_sidecar_restart, last_finish(status));
            }
            let terminated = at(status, &["state", "terminated"]);
            if terminated.is_some_and(|t| number(t, &["exitCode"]) == 0) {
                continue;
            }
            if sidecar && flag(status, &["started"]) {
                state.ready += usize::from(flag(status, &["ready"]));
                continue;
            }
            let waiting = text(status, &["state", "waiting", "reason"]);
            reason = match terminated {
                Some(t) => format!("Init:{}", exit_reason(t)),
                None if !waiting.is_empty() && waiting != "PodInitializing" => format!("Init:{waiting}"),
                None => format!("Init:{i}/{}", init.len()),
            };
            initializing = true;
            break;
        }

        if !initializing || is_true("Initialized") {
            state.restarts = sidecar_restarts;
            state.last_restart = last_sidecar_restart;
            let mut has_running = false;
            let mut error_reason = String::new();
            for status in list(pod, &["status", "containerStatuses"]).iter().rev() {
                state.restarts += number(status, &["restartCount"]);
                state.last_restart = later(state.last_restart, last_finish(status));
                let waiting = text(status, &["state", "waiting", "reason"]);
                if !waiting.is_empty() {
                    reason = waiting.to_owned();
                } else if let Some(terminated) = at(status, &["state", "terminated"]) {
                    reason = exit_reason(terminated);
                    if number(terminated, &["exitCode"]) != 0 {
                        error_reason.clone_from(&reason);
                    }
                } else if flag(status, &["ready"]) && at(status, &["state", "running"]).is_some() {
                    has_running = true;
                    state.ready += 1;
                }
            }
            if reason == "Completed" {
                if has_running && is_true("Ready") {
                    reason = "Running".to_owned();
                } else if !error_reason.is_empty() {
                    reason = error_reason;
                } else if has_running {
                    reason = "NotReady".to_owned();
                }
            }
        }

        if !text(pod, &["metadata", "deletionTimestamp"]).is_empty() {
            if text(pod, &["status", "reason"]) == "NodeLost" {
                reason = "Unknown".to_owned();
            } else if !matches!(phase, "Succeeded" | "Failed") {
                reason = "Terminating".to_owned();
            }
        }
        state.reason = reason;
        state
    }
}

fn exit_reason(terminated: &Value) -> String {
    match (text(terminated, &["reason"]), number(terminated, &["signal"])) {
        ("", 0) => format!("ExitCode:{}", number(terminated, &["exitCode"])),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn readiness_gates(pod: &Value) -> String {
    let gates = list(pod, &["spec", "readinessGates"]);
    if gates.is_empty() {
        return cells::NONE.to_owned();
    }
    let conditions = list(pod, &["status", "conditions"]);
    let met = gates.iter().filter(|gate| {
        conditions
            .iter()
            .find(|c| c["type"] == gate["conditionType"])
            .is_some_and(|c| text(c, &["status"]) == "True")
    });
    format!("{}/{}", met.count(), gates.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(pod: Value) -> (String, String, String) {
        let now = knarr_meta::time::parse("2026-11-21T10:00:00Z").unwrap();
        let cells = cells(&pod, now);
        let text = |i: usize| cells[i].as_str().unwrap().to_owned();
        (text(1), text(2), text(3))
    }

    #[test]
    fn ready_status_and_restarts_are_printed_as_upstream_does() {
        let spec = json!({"containers":[{"name":"a"},{"name":"b"}]});
        let run = json!({"name":"a","ready":true,"restartCount":0,"state":{"running":{}}});
        let crash = json!({"name":"b","restartCount":2,
            "state":{"waiting":{"reason":"CrashLoopBackOff"}},
            "lastState":{"terminated":{"exitCode":1,"finishedAt":"2026-11-21T09:59:50Z"}}});
        let done =
            json!({"name":"b","restartCount":0,"state":{"terminated":{"exitCode":0,"reason":"Completed"}}});
        let killed = json!({"name":"b","restartCount":0,"state":{"terminated":{"exitCode":137,"signal":9}}});
        let init = json!({"containers":[{"name":"a"}],"initContainers":[{"name":"i"},{"name":"j"}]});
        let waiting = json!({"name":"i","state":{"waiting":{"reason":"PodInitializing"}}});
        let failed =
            json!({"name":"i","restartCount":1,"state":{"terminated":{"exitCode":2,"reason":"Error"}}});
        let ready = json!([{"type":"Ready","status":"True"}]);
        let cases = [
            (json!({"spec":spec,"status":{"phase":"Pending"}}), "0/2", "Pending", "0"),
            (
                json!({"spec":spec,"status":{"phase":"Running","containerStatuses":[run,crash]}}),
                "1/2",
                "CrashLoopBackOff",
                "2 (10s ago)",
            ),
            (
                json!({"spec":spec,"status":{"phase":"Running","conditions":ready,"containerStatuses":[done,run]}}),
                "1/2",
                "Running",
                "0",
            ),
            (
                json!({"spec":spec,"status":{"phase":"Running","containerStatuses":[done,run]}}),
                "1/2",
                "NotReady",
                "0",
            ),
            (
                json!({"spec":spec,"status":{"phase":"Failed","containerStatuses":[killed]}}),
                "0/2",
                "Signal:9",
                "0",
            ),
            (
                json!({"spec":init,"status":{"phase":"Pending","initContainerStatuses":[waiting]}}),
                "0/1",
                "Init:0/2",
                "0",
            ),
            (
                json!({"spec":init,"status":{"phase":"Pending","initContainerStatuses":[failed]}}),
                "0/1",
                "Init:Error",
                "1",
            ),
            (
                json!({"metadata":{"deletionTimestamp":"2026-11-21T09:59:50Z"},"spec":spec,
                "status":{"phase":"Running","containerStatuses":[run]}}),
                "1/2",
                "Terminating",
                "0",
            ),
            (json!({"spec":spec,"status":{"phase":"Failed","reason":"Evicted"}}), "0/2", "Evicted", "0"),
            (
                json!({"spec":spec,"status":{"phase":"Pending",
                "conditions":[{"type":"PodScheduled","reason":"SchedulingGated"}]}}),
                "0/2",
                "SchedulingGated",
                "0",
            ),
        ];
        for (pod, ready, status, restarts) in cases {
            let want = (ready.to_owned(), status.to_owned(), restarts.to_owned());
            assert_eq!(row(pod.clone()), want, "{pod}");
        }
    }
}
