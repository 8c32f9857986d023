//! What a worker makes of what it hears: messages change what is observed, and nothing else happens here.

use super::{LONGEST_SETUP_RETRY, Msg, PULL_ERROR_SHOWN, SETUP_RETRY, START_RETRY, Worker};
use crate::pod::adopt;
use crate::pod::model::{Ended, FIRST_BACKOFF, LONGEST_BACKOFF, Record, Restart, Sandbox, Setup, State};
use crate::pod::plan::is_stopping;
use crate::pod::setup::Outcome;
use crate::pod::start::{Failure, Started};
use crate::probe;
use crate::util::{Def, Role, about, defs, from_ns, host_network};
use knarr_api::Kind;
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
                let defs = defs(&pod);
                self.restart_changed(&defs);
                let resized = self.resized(&defs);
                self.defs = defs;
                self.pod = pod;
                if !resized.is_empty() {
                    self.resize(resized);
                }
                if labels_changed && self.observed.setup == Setup::Done {
                    self.refresh();
                }
            }
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
            Msg::HookDone { name, id, ok } => {
                let record = self.record(&name);
                if record.id != id {
                    return;
                }
                record.hook_done = true;
                record.started = record.startup_passed && record.is_running();
                if !ok && record.is_running() {
                    record.restart = Some(Restart { message: "FailedPostStartHook".to_owned(), grace: None });
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

    /// The image is what may change of a container; one that runs another is to be replaced.
    fn restart_changed(&mut self, new: &[Def]) {
        for def in new {
            let changed = self.def(&def.spec.name).is_some_and(|old| old.spec.image != def.spec.image);
            let Some(record) = self.observed.containers.get_mut(&def.spec.name).filter(|_| changed) else {
                continue;
            };
            if record.is_running() {
                let message = format!("Container {} definition changed, will be restarted", def.spec.name);
                record.restart = Some(Restart { message, grace: None });
            } else {
                record.retry_at = None;
            }
        }
    }

    /// The running containers whose resources changed (KEP-1287). Those whose policy is to be restarted for it
    /// are marked for that.
    fn resized(&mut self, new: &[Def]) -> Vec<(String, Def)> {
        let mut resized = Vec::new();
        for def in new {
            let name = &def.spec.name;
            let Some(old) = self.def(name).filter(|old| old.spec.resources != def.spec.resources) else {
                continue;
            };
            let Some(record) = self.observed.containers.get_mut(name).filter(|r| r.is_running()) else {
                continue;
            };
            let limits = |d: &Def, resource: &str| {
                let r = d.spec.resources.as_ref()?;
                let of = |l: &Option<std::collections::BTreeMap<_, _>>| {
                    l.as_ref().and_then(|l| l.get(resource).cloned())
                };
                Some((of(&r.requests), of(&r.limits)))
            };
            let policies = def.spec.resize_policy.iter().flatten();
            let restarts = policies.into_iter().any(|p| {
                p.restart_policy == "RestartContainer"
                    && limits(&old, &p.resource_name) != limits(def, &p.resource_name)
            });
            if restarts {
                let message = format!("Container {name} resize requires restart");
                record.restart = Some(Restart { message, grace: None });
            } else {
                resized.push((record.id.clone(), def.clone()));
            }
        }
        resized
    }

    /// Sets the limits of running containers, the pod's before and after: one of the two makes room.
    fn resize(&self, containers: Vec<(String, Def)>) {
        let (kubelet, pod) = (self.kubelet.clone(), self.pod.clone());
        self.spawn("pod-resize", async move {
            let runtime = &kubelet.config.runtime;
            let whole = crate::container::resources::pod(&pod);
            let mut result = runtime.update_resources(pod.uid(), None, whole.clone()).await;
            for (id, def) in &containers {
                let limits = crate::container::resources::container(&def.spec);
                let one = runtime.update_resources(pod.uid(), Some(id), limits).await;
                result = result.and(one);
            }
            result = result.and(runtime.update_resources(pod.uid(), None, whole).await);
            match result {
                Ok(()) => {
                    kubelet.recorder.normal(&about(&pod, None), "ResizeCompleted", "Pod resize completed")
                }
                Err(error) => {
                    kubelet.recorder.warning(
                        &about(&pod, None),
                        "ResizeError",
                        format!("Pod resize error: {error}"),
                    );
                }
            }
        });
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
        match result {
            Ok(started) => {
                record.attempt = attempt;
                record.image = started.image;
                record.image_id = started.image_id;
                record.waiting = None;
                record.restart = None;
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
            Err(Failure::Pull(message)) => {
                record.waiting = Some(("ErrImagePull".to_owned(), message));
                let delay = self.pull_backoff.entry(name.to_owned()).or_insert(FIRST_BACKOFF);
                let at = now + *delay;
                *delay = (*delay * 2).min(LONGEST_BACKOFF);
                self.record(name).retry_at = Some(at);
                self.pull_shown_until.insert(name.to_owned(), now + PULL_ERROR_SHOWN);
            }
            Err(Failure::Run(message)) => {
                record.attempt = attempt;
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
        let record = self.record(&status.name);
        let current = record.id == status.id;
        if !(current || starting) || (current && record.ended().is_some()) {
            return;
        }
        if status.exit_code == 128 && starting {
            // A start that failed; the start's own answer says why.
            return;
        }
        let ended = adopt::ended(&root, &logs, &pod, &def, status);
        record.id.clone_from(&status.id);
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
        let record = self.record(name);
        if record.id != id || !record.is_running() {
            return;
        }
        let restart = |probe: Option<knarr_api::core::v1::Probe>| Restart {
            message: format!("Container {name} failed {} probe, will be restarted", kind.word()),
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
