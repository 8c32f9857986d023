//! What is known of a pod when the kubelet first sees it: from the runtime where its containers live on, and
//! from the status in the API where only that is left.

use super::model::{Ended, Observed, Record, Sandbox, State};
use super::resize::{Condition, Kept, Resizing};
use super::sizes::{Size, Sizes};
use super::status::ID_PREFIX;
use crate::container::spec::{label, log_dir, termination_log};
use crate::kubelet::Shared;
use crate::util::{Def, from_ns};
use knarr_api::Kind;
use knarr_api::core::v1::{self, Pod};
use knarr_runtime::spec::{ContainerStatus, Resources, SandboxStatus, User};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Termination messages are cut here, and those taken from logs here.
const MOST_MESSAGE_BYTES: usize = 4096;
const MOST_LOG_BYTES: usize = 2048;
const MOST_LOG_LINES: usize = 80;

/// Starts a record of a pod.
pub(crate) fn adopt(
    kubelet: &Shared,
    pod: &Pod,
    defs: &[Def],
    sandbox: Option<&SandboxStatus>,
    now: SystemTime,
) -> Observed {
    let status = pod.status.clone().unwrap_or_default();
    let kept = sandbox.and_then(|_| super::resize::read(&kubelet.config.root_dir, pod.uid()));
    let mut observed = Observed {
        sandbox: match sandbox {
            None => Sandbox::None,
            Some(s) if s.ready => Sandbox::Ready,
            Some(_) => Sandbox::Lost,
        },
        sandbox_attempts: sandbox.map_or(0, |s| s.spec.attempt + 1),
        start_time: status.start_time.as_ref().and_then(time),
        failed: status
            .reason
            .clone()
            .filter(|_| status.phase.as_deref() == Some("Failed"))
            .map(|reason| (reason, status.message.clone().unwrap_or_default())),
        ..Observed::default()
    };
    let lists =
        [status.container_statuses, status.init_container_statuses, status.ephemeral_container_statuses];
    let said: Vec<v1::ContainerStatus> = lists.into_iter().flatten().flatten().collect();
    observed.ips = status.pod_ips.iter().flatten().filter_map(|ip| ip.ip.parse().ok()).collect();
    if sandbox.is_none() && said.iter().any(|s| s.container_id.is_some()) {
        observed.sandbox_attempts = 1;
    }
    observed.resizing = resizing(pod, sandbox, kept.as_ref(), &status.conditions, now);
    for def in defs {
        let said = said.iter().find(|s| s.name == def.spec.name);
        let live = sandbox.iter().flat_map(|s| &s.containers).filter(|c| c.name == def.spec.name);
        let live = live.filter(|c| c.state != knarr_runtime::spec::State::Created).max_by_key(|c| c.attempt);
        let record = match (live, said) {
            (Some(live), said) => {
                let mut record = from_runtime(kubelet, pod, def, live, said, now);
                let kept = kept.as_ref().and_then(|k| k.actuated.get(&live.id)).cloned();
                let made = || serde_json::from_str(live.labels.get(label::SIZE)?).ok();
                record.actuated = kept.or_else(made).or_else(|| Some(Size::of(def.spec.resources.as_ref())));
                Some(record)
            }
            (None, Some(said)) => from_api(said, now),
            (None, None) => None,
        };
        if let Some(record) = record {
            observed.containers.insert(def.spec.name.clone(), record);
        }
    }
    observed
}

/// Where resizing stood: sizes as they were kept or made, conditions as the API has them.
fn resizing(
    pod: &Pod,
    sandbox: Option<&SandboxStatus>,
    kept: Option<&Kept>,
    conditions: &Option<Vec<v1::PodCondition>>,
    now: SystemTime,
) -> Resizing {
    let condition = |kind: &str| {
        let c = conditions.iter().flatten().find(|c| c.type_ == kind && c.status == "True")?;
        Some(Condition {
            reason: c.reason.clone().unwrap_or_default(),
            message: c.message.clone().unwrap_or_default(),
            generation: c.observed_generation.unwrap_or_default(),
            probed: c.last_probe_time.as_ref().and_then(time).unwrap_or(now),
            since: c.last_transition_time.as_ref().and_then(time).unwrap_or(now),
        })
    };
    let sandbox = sandbox.filter(|s| s.ready);
    let made = || serde_json::from_str::<Sizes>(sandbox?.spec.labels.get(label::SIZE)?).ok()?.pod;
    Resizing {
        pending: condition("PodResizePending"),
        progress: condition("PodResizeInProgress"),
        cgroup: sandbox
            .map(|s| kept.and_then(|k| k.cgroup.clone()).unwrap_or_else(|| sized(&s.spec.resources))),
        pod: match kept {
            Some(kept) => kept.pod.clone(),
            None => made().or_else(|| Sizes::of(pod).pod),
        },
        ..Resizing::default()
    }
}

/// What of a sandbox's limits comes from the pod, and not from the node's configuration.
fn sized(made: &Resources) -> Resources {
    Resources { pids_limit: None, ..made.clone() }
}

fn from_runtime(
    kubelet: &Shared,
    pod: &Pod,
    def: &Def,
    live: &ContainerStatus,
    said: Option<&v1::ContainerStatus>,
    now: SystemTime,
) -> Record {
    let running = live.state == knarr_runtime::spec::State::Running;
    let same = said.is_some_and(|s| s.container_id.as_deref() == Some(&format!("{ID_PREFIX}{}", live.id)));
    let said = said.filter(|_| same);
    let text = |key: &str| live.labels.get(key).cloned().unwrap_or_default();
    let started = said.and_then(|s| s.started) == Some(true);
    Record {
        attempt: live.attempt,
        id: live.id.clone(),
        state: if running {
            State::Running(from_ns(live.started_at_ns).unwrap_or(now))
        } else {
            State::Ended(ended(&kubelet.config.root_dir, &kubelet.config.log_dir, pod, def, live))
        },
        last: said.and_then(|s| s.last_state.as_ref()?.terminated.as_ref()).map(|t| from_terminated(t, now)),
        image: text(label::IMAGE),
        image_id: text(label::IMAGE_ID),
        user: live.user.clone(),
        // The hook is not run twice; what it came to is not known any more.
        hook_done: true,
        startup_passed: def.spec.startup_probe.is_none() || started,
        started: running && (def.spec.startup_probe.is_none() || started),
        readiness: running && (def.spec.readiness_probe.is_none() || said.is_some_and(|s| s.ready)),
        ..Record::default()
    }
}

/// The user as the API has it.
fn user_of(said: &v1::LinuxContainerUser) -> Option<User> {
    let number = |id: i64| u32::try_from(id).ok();
    let groups = said.supplemental_groups.iter().flatten();
    Some(User {
        uid: number(said.uid)?,
        gid: number(said.gid)?,
        groups: groups.filter_map(|group| number(*group)).collect(),
    })
}

/// A record of a container that only the API remembers.
fn from_api(said: &v1::ContainerStatus, now: SystemTime) -> Option<Record> {
    let id = said.container_id.as_deref()?.trim_start_matches(ID_PREFIX).to_owned();
    let state = said.state.clone().unwrap_or_default();
    let last = said.last_state.as_ref().and_then(|l| l.terminated.as_ref()).map(|t| from_terminated(t, now));
    let mut record = Record {
        attempt: said.restart_count.max(0).unsigned_abs(),
        image: said.image.clone(),
        image_id: said.image_id.clone(),
        user: said.user.as_ref().and_then(|user| user_of(user.linux.as_ref()?)),
        last,
        ..Record::default()
    };
    if let Some(terminated) = &state.terminated {
        record.state = State::Ended(from_terminated(terminated, now));
    } else if let Some(running) = &state.running {
        record.state = State::Ended(Ended {
            id: id.clone(),
            exit_code: 137,
            reason: "ContainerStatusUnknown".to_owned(),
            message: "The container could not be located when the pod was deleted.  The container used to be Running"
                .to_owned(),
            started_at: running.started_at.as_ref().and_then(time),
            finished_at: now,
        });
    } else if let Some(last) = record.last.take() {
        record.state = State::Ended(last);
    }
    record.id = id;
    Some(record)
}

fn from_terminated(t: &v1::ContainerStateTerminated, now: SystemTime) -> Ended {
    Ended {
        id: t.container_id.as_deref().unwrap_or_default().trim_start_matches(ID_PREFIX).to_owned(),
        exit_code: t.exit_code,
        reason: t.reason.clone().unwrap_or_default(),
        message: t.message.clone().unwrap_or_default(),
        started_at: t.started_at.as_ref().and_then(time).filter(|t| *t > SystemTime::UNIX_EPOCH),
        finished_at: t.finished_at.as_ref().and_then(time).unwrap_or(now),
    }
}

fn time(time: &knarr_api::meta::v1::Time) -> Option<SystemTime> {
    let seconds = u64::try_from(time.0.as_second()).ok()?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

/// How a container ended, with its last words.
pub(crate) fn ended(root: &Path, logs: &Path, pod: &Pod, def: &Def, status: &ContainerStatus) -> Ended {
    let reason = match status.exit_code {
        _ if status.oom_killed => "OOMKilled",
        0 => "Completed",
        128 if status.started_at_ns == 0 => "StartError",
        _ => "Error",
    };
    let path = termination_log(root, pod.uid(), &def.spec.name, &status.id);
    let mut message = std::fs::read(path).unwrap_or_default();
    message.truncate(MOST_MESSAGE_BYTES);
    let mut message = String::from_utf8_lossy(&message).into_owned();
    let fallback = def.spec.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
    if message.is_empty() && fallback && status.exit_code != 0 {
        let log = log_dir(logs, pod, &def.spec.name).join(format!("{}.log", status.attempt));
        message = last_lines(&log);
    }
    let started_at = from_ns(status.started_at_ns);
    Ended {
        id: status.id.clone(),
        exit_code: status.exit_code,
        reason: reason.to_owned(),
        message,
        started_at,
        finished_at: from_ns(status.finished_at_ns).or(started_at).unwrap_or(SystemTime::UNIX_EPOCH),
    }
}

/// The end of a log as plain text.
fn last_lines(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    let tail = &bytes[bytes.len().saturating_sub(4 * MOST_LOG_BYTES)..];
    let text = String::from_utf8_lossy(tail);
    // time, stream and tag come before the text of each line; a line in parts ends with its last
    let parts = |l: &'_ str| -> Option<(bool, String)> {
        let mut words = l.splitn(4, ' ').skip(2);
        Some((words.next()?.starts_with('P'), words.next()?.to_owned()))
    };
    let lines: Vec<(bool, String)> = text.lines().filter_map(parts).collect();
    let mut out = String::new();
    for (unfinished, line) in &lines[lines.len().saturating_sub(MOST_LOG_LINES)..] {
        out.push_str(line);
        if !unfinished {
            out.push('\n');
        }
    }
    let mut from = out.len().saturating_sub(MOST_LOG_BYTES);
    while !out.is_char_boundary(from) {
        from += 1;
    }
    out.split_off(from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_is_the_text_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let log = "t stdout F a b\nt stderr P on\nt stderr F e\nt stdout P DONE\n";
        std::fs::write(&path, log).unwrap();
        assert_eq!(last_lines(&path), "a b\none\nDONE");
        assert_eq!(last_lines(&dir.path().join("1.log")), "");
    }
}
