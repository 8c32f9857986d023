//! What a worker makes of what it hears: messages change what is observed, and nothing else happens here.

use super::{LONGEST_SETUP_RETRY, Msg, PULL_ERROR_SHOWN, SETUP_RETRY, START_RETRY, Worker};
use crate::pod::adopt;
use crate::pod::model::{
    Ended, FIRST_BACKOFF, GiveUp, LONGEST_BACKOFF, PreStop, Record, Restart, Sandbox, Setup, State,
};
use crate::pod::phase::{phase, should_restart};
use crate::pod::plan::is_stopping;
use crate::pod::setup::Outcome;
use crate::pod::start::{Failure, Started};
use crate::probe;
use crate::util::{Def, Role, about, defs, from_ns, host_network, restart_policy};
use knarr_runtime::spec::ContainerStatus;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

impl Worker {
    pub(super) fn hear(&mut self, message: Msg) {
        match message {
            Msg::Pod(pod) => {
                let labels_changed = pod.metadata.labels != self.pod.metadata.labels
                    || pod.metadata.annotations != self.pod.metadata.annotations;
                let was = std::mem::replace(&mut self.desired, pod);
                self.resize_wanted(&was);
                let defs = defs(&self.pod);
                self.restart_changed(&defs);
                self.defs = defs;
                if labels_changed && self.observed.setup == Setup::Done {
                    self.refresh();
                }
            }
            Msg::Granted => {
                self.granted();
                self.defs = defs(&self.pod);
            }
            Msg::GiveUp(given_up) => self.give_up(*given_up),
            Msg::Mirrored => self.unsent = true,
            Msg::Resized(done) => self.resize_done(*done),
            Msg::Gone => self.observed.gone = true,
            Msg::ObjectsChanged => match self.observed.setup {
                Setup::Done => {
                    self.refresh();
                    // A container that lacked one of them need not wait any longer.
                    let config = |r: &&mut Record| {
                        r.waiting.as_ref().is_some_and(|(reason, _)| reason == "CreateContainerConfigError")
                    };
                    self.observed.containers.values_mut().filter(config).for_each(|r| r.retry_at = None);
                }
                Setup::Failed(_) => self.observed.setup = Setup::Needed,
                _ => {}
            },
            Msg::ImagesChanged => self.images_changed(),
            Msg::SetupDone(outcome) => self.setup_done(*outcome),
            Msg::Refreshed(result) => {
                self.refreshing = false;
                match result {
                    Ok(prepared) => {
                        self.refresh_at = prepared.refresh_at;
                        self.prepared = Arc::new(prepared);
                    }
                    Err(message) => {
                        self.kubelet.recorder.warning(&about(&self.pod, None), "FailedMount", message);
                        self.refresh_at = Some(self.now() + START_RETRY);
                    }
                }
                if std::mem::take(&mut self.refresh_again) {
                    self.refresh();
                }
            }
            Msg::StartDone { name, id, attempt, result } => self.start_done(&name, id, attempt, result),
            Msg::HookDone { name, id, result } => {
                let record = self.record(&name);
                if record.id != id {
                    return;
                }
                record.hook_done = true;
                record.started = result.is_ok() && record.startup_passed && record.is_running();
                if let Err(message) = result
                    && record.is_running()
                {
                    record.hook_error = Some(message);
                    record.restart = Some(Restart {
                        message: "FailedPostStartHook".to_owned(),
                        grace: None,
                        again: false,
                    });
                }
            }
            Msg::Exited(status) => self.exited(&status),
            Msg::Killed { name, id, status, gone } => {
                if let Some(status) = status {
                    self.exited(&status);
                } else if gone && self.record(&name).id == id && self.record(&name).is_running() {
                    self.lost(&name);
                }
                let record = self.record(&name);
                if record.id == id {
                    record.killing = None;
                    record.restart = None;
                }
            }
            Msg::PreStopDone { name, id } => {
                let record = self.record(&name);
                if record.id == id {
                    record.pre_stop = PreStop::Done;
                }
            }
            Msg::SandboxLost => {
                if self.observed.sandbox == Sandbox::None {
                    return;
                }
                self.observed.sandbox = Sandbox::Lost;
                let running: Vec<String> = self
                    .observed
                    .containers
                    .iter()
                    .filter(|(_, r)| r.is_running())
                    .map(|(n, _)| n.clone())
                    .collect();
                running.iter().for_each(|name| self.lost(name));
            }
            Msg::TornDown { ok } => self.torn_down(ok),
            Msg::Probe { name, id, kind, ok } => self.probed(&name, &id, kind, ok),
        }
    }

    /// The pod ends as failed, unless it is at its end by itself.
    fn give_up(&mut self, given_up: GiveUp) {
        let phase = phase(&self.pod, &self.defs, &self.observed, false);
        if self.observed.failed.is_some() || matches!(phase, "Succeeded" | "Failed") {
            return;
        }
        let GiveUp { reason, message, grace, disrupted } = given_up;
        self.observed.disruption = Some(message.clone()).filter(|_| disrupted);
        self.observed.failed = Some((reason, message));
        self.observed.grace_limit = Some(grace);
    }

    /// The image is what may change of a container; one that runs another is to be replaced.
    fn restart_changed(&mut self, new: &[Def]) {
        for def in new {
            let changed = self.def(&def.spec.name).is_some_and(|old| old.spec.image != def.spec.image);
            let Some(record) = self.observed.containers.get_mut(&def.spec.name).filter(|_| changed) else {
                continue;
            };
            if record.is_running() {
                let message = format!("Container {} definition changed, will be restarted", def.spec.name);
                record.restart = Some(Restart { message, grace: None, again: true });
            } else {
                record.retry_at = None;
            }
        }
    }

    fn images_changed(&mut self) {
        let images = self.kubelet.config.images.clone();
        for def in &self.defs {
            let Some(record) = self.observed.containers.get_mut(&def.spec.name) else { continue };
            let waits = record.waiting.as_ref().is_some_and(|(reason, _)| {
                matches!(reason.as_str(), "ErrImageNeverPull" | "ErrImagePull" | "ImagePullBackOff")
            });
            if waits && images.resolve(def.spec.image.as_deref().unwrap_or_default()).is_some() {
                record.retry_at = None;
                self.pull_shown_until.remove(&def.spec.name);
            }
        }
    }

    fn setup_done(&mut self, outcome: Outcome) {
        let now = self.now();
        let sandbox_ok = outcome.sandbox.is_ok();
        match &outcome.sandbox {
            Ok((_, true)) => drop(self.kubelet.metrics.started_pods.inc()),
            Ok((_, false)) => {}
            Err(_) => drop(self.kubelet.metrics.started_pods_errors.inc()),
        }
        if let Ok((ips, new)) = outcome.sandbox {
            if new {
                self.sized(&outcome.pod);
                if self.observed.sandbox_attempts > 0 {
                    let text = "Pod sandbox changed, it will be killed and re-created.";
                    self.kubelet.recorder.normal(&about(&self.pod, None), "SandboxChanged", text);
                    self.begin_anew();
                }
                self.observed.sandbox_attempts += 1;
            }
            self.observed.sandbox = Sandbox::Ready;
            self.observed.ips = if host_network(&self.pod) { Vec::new() } else { ips };
        }
        match outcome.volumes {
            Ok(prepared) if sandbox_ok => {
                self.refresh_at = prepared.refresh_at;
                self.prepared = Arc::new(prepared);
                self.observed.setup = Setup::Done;
                self.setup_delay = SETUP_RETRY;
            }
            _ => {
                self.observed.setup = Setup::Failed(now + self.setup_delay);
                self.setup_delay = (self.setup_delay * 2).min(LONGEST_SETUP_RETRY);
            }
        }
    }

    /// In a new sandbox init containers run again.
    fn begin_anew(&mut self) {
        let roles: HashMap<String, Role> = self.defs.iter().map(|d| (d.spec.name.clone(), d.role)).collect();
        for (name, record) in &mut self.observed.containers {
            if matches!(roles.get(name), Some(Role::Init | Role::Sidecar))
                && let State::Ended(ended) = std::mem::take(&mut record.state)
            {
                record.last = Some(ended);
            }
        }
    }

    fn start_done(&mut self, name: &str, id: String, attempt: u32, result: Result<Started, Failure>) {
        self.kubelet.starting.lock().expect("start lock is never poisoned").remove(&id);
        self.new_ids.remove(name);
        let now = self.now();
        match &result {
            Ok(_) => drop(self.kubelet.metrics.started_containers.inc()),
            Err(_) => drop(self.kubelet.metrics.started_containers_errors.inc()),
        }
        let Some(def) = self.def(name) else { return };
        let hook = def.spec.lifecycle.as_ref().is_some_and(|l| l.post_start.is_some());
        let (startup, readiness) = (def.spec.startup_probe.is_some(), def.spec.readiness_probe.is_some());
        let record = self.record(name);
        record.starting = false;
        record.restarting = false;
        match result {
            Ok(started) => {
                record.attempt = attempt;
                record.actuated = Some(started.size);
                record.image = started.image;
                record.image_id = started.image_id;
                record.user = started.user;
                record.waiting = None;
                record.restart = None;
                record.pre_stop = PreStop::Due;
                record.hook_done = !hook;
                record.startup_passed = !startup;
                record.readiness = !readiness;
                // It may have ended before this was heard.
                if !(record.id == id && matches!(record.state, State::Ended(_))) {
                    record.id = id;
                    record.state = State::Running(from_ns(started.started_at_ns).unwrap_or(now));
                    record.started = !hook && !startup;
                }
                self.pull_backoff.remove(name);
            }
            Err(Failure::Before(reason, message)) => {
                record.waiting = Some((reason.to_owned(), message));
                record.retry_at = Some(now + START_RETRY);
            }
            Err(Failure::Pull { image, message }) => {
                record.waiting = Some(("ErrImagePull".to_owned(), message));
                let delay = self.pull_backoff.entry(name.to_owned()).or_insert(FIRST_BACKOFF);
                let at = now + *delay;
                *delay = (*delay * 2).min(LONGEST_BACKOFF);
                self.record(name).retry_at = Some(at);
                self.pull_shown_until.insert(name.to_owned(), (now + PULL_ERROR_SHOWN, image));
            }
            Err(Failure::Run { image, image_id, user, message }) => {
                record.attempt = attempt;
                record.image = image;
                record.image_id = image_id;
                record.user = user;
                record.id.clone_from(&id);
                record.waiting = Some(("RunContainerError".to_owned(), message.clone()));
                record.state = State::Ended(Ended {
                    id,
                    exit_code: 128,
                    reason: "StartError".to_owned(),
                    message,
                    started_at: None,
                    finished_at: now,
                });
            }
        }
    }

    fn exited(&mut self, status: &ContainerStatus) {
        let Some(def) = self.def(&status.name) else { return };
        let starting = self.new_ids.get(&status.name) == Some(&status.id);
        let root = self.kubelet.config.root_dir.clone();
        let logs = self.kubelet.config.log_dir.clone();
        let pod = self.pod.clone();
        let restarts = should_restart(&pod, &def, status.exit_code);
        let record = self.record(&status.name);
        if !record.is_news(&status.id, starting) {
            return;
        }
        if status.exit_code == 128 && starting {
            // A start that failed; the start's own answer says why.
            return;
        }
        let ended = adopt::ended(&root, &logs, &pod, &def, status);
        record.id.clone_from(&status.id);
        record.ended_by_wish = record.restart.as_ref().is_some_and(|r| r.again);
        record.restarting = record.ended_by_wish;
        let message = record.hook_error.take().filter(|_| restarts);
        record.waiting = message.map(|message| ("PostStartHookError".to_owned(), message));
        record.state = State::Ended(ended);
        record.started = false;
        record.readiness = false;
    }

    /// A container that was running is not there any more.
    fn lost(&mut self, name: &str) {
        let now = self.now();
        let record = self.record(name);
        let started_at = match record.state {
            State::Running(since) => Some(since),
            _ => None,
        };
        record.state = State::Ended(Ended {
            id: record.id.clone(),
            exit_code: 137,
            reason: "ContainerStatusUnknown".to_owned(),
            message: "The container could not be located when the pod was terminated".to_owned(),
            started_at,
            finished_at: now,
        });
        record.started = false;
        record.readiness = false;
    }

    fn torn_down(&mut self, ok: bool) {
        self.observed.tearing_down = false;
        if !ok {
            self.teardown_at = Some(self.now() + START_RETRY);
            return;
        }
        if is_stopping(&self.pod, &self.defs, &self.observed) {
            self.observed.released = true;
        }
        self.observed.sandbox = Sandbox::None;
        self.observed.setup = Setup::Needed;
        if !self.observed.released {
            self.observed.ips.clear();
        }
    }

    fn probed(&mut self, name: &str, id: &str, kind: probe::Kind, ok: bool) {
        let def = self.def(name);
        let policy = restart_policy(&self.pod).to_owned();
        let record = self.record(name);
        if record.id != id || !record.is_running() {
            return;
        }
        let policy = def.as_ref().and_then(|d| d.spec.restart_policy.clone()).unwrap_or(policy);
        let again = policy != "Never";
        let then = if again { ", will be restarted" } else { "" };
        let restart = |probe: Option<knarr_api::core::v1::Probe>| Restart {
            message: format!("Container {name} failed {} probe{then}", kind.word()),
            again,
            grace: probe
                .and_then(|p| p.termination_grace_period_seconds)
                .map(|s| Duration::from_secs(s.max(0).unsigned_abs())),
        };
        match (kind, ok) {
            (probe::Kind::Readiness, ok) => record.readiness = ok,
            (probe::Kind::Startup, true) => {
                record.startup_passed = true;
                record.started = record.hook_done;
            }
            (probe::Kind::Startup, false) => {
                record.restart = Some(restart(def.and_then(|d| d.spec.startup_probe)));
            }
            (probe::Kind::Liveness, false) => {
                record.restart = Some(restart(def.and_then(|d| d.spec.liveness_probe)));
            }
            (probe::Kind::Liveness, true) => {}
        }
    }
}
