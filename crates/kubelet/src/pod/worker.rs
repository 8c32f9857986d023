//! A pod's worker: one task that keeps what is observed of the pod, plans, has the plan's actions done by
//! other tasks, and publishes the status. It never waits for anything but its inbox and its next deadline.

use super::kill::Kill;
use super::model::{
    FIRST_BACKOFF, LONGEST_BACKOFF, Observed, Record, Restart, Sandbox, Setup, State, is_deleted,
};
use super::phase::phase;
use super::plan::{Action, is_stopping, plan};
use super::setup::Outcome;
use super::start::{Failure, Start, Started};
use super::{adopt, report, status};
use crate::kubelet::{ContainerView, Entry, Shared};
use crate::probe::{self, Probing};
use crate::util::{Def, about, defs, format_pod, from_ns, go_duration, host_network};
use crate::volume::Prepared;
use knarr_api::Kind;
use knarr_api::core::v1::Pod;
use knarr_runtime::spec::ContainerStatus;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::mpsc;

/// A pod is looked at this often though nothing happened.
const SAFETY_NET: Duration = Duration::from_secs(60);
/// A start that failed before a container was made is tried again after this.
const START_RETRY: Duration = Duration::from_secs(10);
/// ErrImagePull is shown this long before ImagePullBackOff.
const PULL_ERROR_SHOWN: Duration = Duration::from_secs(2);
/// Volumes and sandboxes that failed are tried again after this, doubled each time ...
const SETUP_RETRY: Duration = Duration::from_millis(500);
/// ... up to this.
const LONGEST_SETUP_RETRY: Duration = Duration::from_secs(122);

/// What a worker hears.
pub(crate) enum Msg {
    /// The object changed.
    Pod(Arc<Pod>),
    /// The object is gone from the API.
    Gone,
    /// A ConfigMap or Secret that the pod uses changed.
    ObjectsChanged,
    /// Images came or went.
    ImagesChanged,
    /// Preparation ended.
    SetupDone(Box<Outcome>),
    /// Volumes were refreshed.
    Refreshed(Result<Prepared, String>),
    /// A start ended.
    StartDone { name: String, id: String, attempt: u32, result: Result<Started, Failure> },
    /// postStart ended.
    HookDone { name: String, id: String, ok: bool },
    /// A container ended.
    Exited(Box<ContainerStatus>),
    /// A kill ended; `gone` when the runtime does not know the container.
    Killed { name: String, id: String, status: Option<Box<ContainerStatus>>, gone: bool },
    /// The shim is gone.
    SandboxLost,
    /// Network and sandbox are taken down, or that failed.
    TornDown { ok: bool },
    /// A probe has a new verdict.
    Probe { name: String, id: String, kind: probe::Kind, ok: bool },
}

/// A pod's worker.
pub(crate) struct Worker {
    kubelet: Arc<Shared>,
    entry: Arc<Entry>,
    inbox: mpsc::UnboundedReceiver<Msg>,
    pod: Arc<Pod>,
    defs: Vec<Def>,
    observed: Observed,
    prepared: Arc<Prepared>,
    /// Ids of containers whose start is under way, by name.
    new_ids: HashMap<String, String>,
    /// When ErrImagePull becomes ImagePullBackOff, by name.
    pull_shown_until: HashMap<String, SystemTime>,
    pull_backoff: HashMap<String, Duration>,
    probing: Probing,
    refresh_at: Option<SystemTime>,
    refreshing: bool,
    refresh_again: bool,
    setup_delay: Duration,
    teardown_at: Option<SystemTime>,
    published: Value,
    outbox: report::Outbox,
    done: bool,
}

impl Worker {
    pub(crate) fn new(
        kubelet: Arc<Shared>,
        entry: Arc<Entry>,
        inbox: mpsc::UnboundedReceiver<Msg>,
        pod: Arc<Pod>,
    ) -> Self {
        let defs = defs(&pod);
        let now = kubelet.ctx.clock.now();
        let sandbox = kubelet.config.runtime.sandbox(pod.uid());
        let observed = adopt::adopt(&kubelet, &pod, &defs, sandbox.as_ref(), now);
        let published = status::settled(status::of_object(&pod));
        let outbox = report::Outbox::start(&kubelet, &pod);
        let probing = Probing::new(kubelet.clone(), entry.clone());
        Self {
            kubelet,
            entry,
            inbox,
            pod,
            defs,
            observed,
            prepared: Arc::default(),
            new_ids: HashMap::new(),
            pull_shown_until: HashMap::new(),
            pull_backoff: HashMap::new(),
            probing,
            refresh_at: None,
            refreshing: false,
            refresh_again: false,
            setup_delay: SETUP_RETRY,
            teardown_at: None,
            published,
            outbox,
            done: false,
        }
    }

    /// Works until the pod is forgotten.
    pub(crate) async fn run(mut self) {
        let clock = self.kubelet.ctx.clock.clone();
        loop {
            let wake_at = self.step();
            if self.done {
                return;
            }
            let pause = wake_at.map_or(SAFETY_NET, |at| {
                at.duration_since(clock.now()).unwrap_or_default().clamp(Duration::from_millis(1), SAFETY_NET)
            });
            tokio::select! {
                message = self.inbox.recv() => match message {
                    Some(message) => self.hear(message),
                    None => return,
                },
                () = clock.sleep(pause) => {}
            }
            // What has come meanwhile is planned for together.
            while let Ok(message) = self.inbox.try_recv() {
                self.hear(message);
            }
        }
    }

    fn now(&self) -> SystemTime {
        self.kubelet.ctx.clock.now()
    }

    fn def(&self, name: &str) -> Option<Def> {
        self.defs.iter().find(|d| d.spec.name == name).cloned()
    }

    fn record(&mut self, name: &str) -> &mut Record {
        self.observed.containers.entry(name.to_owned()).or_default()
    }

    fn spawn(&self, name: &str, future: impl Future<Output = ()> + Send + 'static) {
        self.kubelet.ctx.tasks.spawn_until_stopped(name, future);
    }

    /// Plans, acts, publishes; when to look again.
    fn step(&mut self) -> Option<SystemTime> {
        let now = self.now();
        if self.observed.start_time.is_none() {
            self.observed.start_time = Some(now);
        }
        self.show_pull_backoffs(now);
        let stopping = is_stopping(&self.pod, &self.defs, &self.observed);
        let plan = plan(&self.pod, &self.defs, &self.observed, now);
        for (name, delay) in &plan.held {
            self.hold(name, *delay);
        }
        let mut wakes: Vec<SystemTime> = plan.wake_at.into_iter().collect();
        // A final status goes out before the deletion that follows it.
        if plan.actions.iter().any(|a| matches!(a, Action::Delete | Action::Forget)) {
            self.publish(now);
        }
        for action in plan.actions {
            self.act(action, now);
        }
        self.probing.sync(&self.pod, &self.defs, &self.observed, stopping);
        if self.observed.setup == Setup::Done && !stopping {
            match self.refresh_at {
                Some(at) if at <= now => self.refresh(),
                Some(at) => wakes.push(at),
                None => {}
            }
        }
        wakes.extend(self.pull_shown_until.values());
        wakes.extend(self.teardown_at);
        self.publish(now);
        wakes.into_iter().min()
    }

    fn act(&mut self, action: Action, now: SystemTime) {
        match action {
            Action::Setup => {
                self.observed.setup = Setup::Running;
                let attempt = self.observed.sandbox_attempts;
                let run =
                    super::setup::run(self.kubelet.clone(), self.entry.clone(), self.pod.clone(), attempt);
                self.spawn("pod-setup", run);
            }
            Action::Start(name) => self.start(&name),
            Action::Kill { name, message, grace } => self.kill(&name, message, grace),
            Action::Fail { reason, message } => {
                self.kubelet.recorder.normal(&about(&self.pod, None), reason, message.clone());
                self.observed.failed = Some((reason.to_owned(), message));
                // The plan changes altogether: looked at again at once.
                self.entry.send(Msg::Pod(self.pod.clone()));
            }
            Action::TearDown => {
                if self.teardown_at.is_some_and(|at| at > now) {
                    return;
                }
                self.teardown_at = None;
                self.observed.tearing_down = true;
                let last = is_stopping(&self.pod, &self.defs, &self.observed);
                let run = super::setup::tear_down(
                    self.kubelet.clone(),
                    self.entry.clone(),
                    self.pod.uid().to_owned(),
                    last,
                );
                self.spawn("pod-teardown", run);
            }
            Action::Delete => {
                self.observed.deleting = true;
                self.outbox.delete();
            }
            Action::Forget => self.forget(),
        }
    }

    fn start(&mut self, name: &str) {
        let Some(def) = self.def(name) else { return };
        let mut bytes = [0; 32];
        self.kubelet.ctx.rng.fill(&mut bytes);
        let id: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        let record = self.record(name);
        let made = !record.id.is_empty();
        if let State::Ended(ended) = std::mem::take(&mut record.state) {
            record.count_restart(ended.finished_at);
            record.last = Some(ended);
            if record
                .waiting
                .as_ref()
                .is_some_and(|(reason, _)| reason == "CrashLoopBackOff" || reason == "RunContainerError")
            {
                record.waiting = None;
            }
        }
        record.starting = true;
        record.retry_at = None;
        let attempt = if made { record.attempt + 1 } else { record.attempt };
        let previous = Some(record.id.clone()).filter(|_| made);
        self.new_ids.insert(name.to_owned(), id.clone());
        self.kubelet.starting.lock().expect("start lock is never poisoned").insert(id.clone());
        let start = Start {
            pod: self.pod.clone(),
            def,
            id,
            attempt,
            previous,
            ips: self.observed.ips.clone(),
            volumes: self.prepared.clone(),
        };
        let run = super::start::run(self.kubelet.clone(), self.entry.clone(), start);
        self.spawn("container-start", run);
    }

    fn kill(&mut self, name: &str, message: String, grace: Duration) {
        let Some(def) = self.def(name) else { return };
        let record = self.record(name);
        let again = record.killing.replace(grace).is_some();
        let id = record.id.clone();
        let kill =
            Kill { pod: self.pod.clone(), def, id, message, grace, ips: self.observed.ips.clone(), again };
        self.spawn("container-stop", super::kill::run(self.kubelet.clone(), self.entry.clone(), kill));
    }

    fn forget(&mut self) {
        let uid = self.pod.uid();
        self.kubelet.objects.release(uid);
        self.kubelet.tokens.release(uid);
        self.kubelet.pods.lock().expect("pod lock is never poisoned").remove(uid);
        let logs = crate::container::spec::pod_log_dir(&self.kubelet.config.log_dir, &self.pod);
        let _ = std::fs::remove_dir_all(logs);
        self.done = true;
    }

    /// Shows a crashed container as waiting.
    fn hold(&mut self, name: &str, delay: Duration) {
        let pod = format_pod(&self.pod);
        let message = format!("back-off {} restarting failed container={name} pod={pod}", go_duration(delay));
        let waiting = Some(("CrashLoopBackOff".to_owned(), message));
        if self.record(name).waiting != waiting {
            self.record(name).waiting = waiting;
            let def = self.def(name);
            let text = format!("Back-off restarting failed container {name} in pod {pod}");
            self.kubelet.recorder.warning(&about(&self.pod, def.as_ref()), "BackOff", text);
        }
    }

    fn show_pull_backoffs(&mut self, now: SystemTime) {
        let due: Vec<String> = self
            .pull_shown_until
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(name, _)| name.clone())
            .collect();
        for name in due {
            self.pull_shown_until.remove(&name);
            let Some(def) = self.def(&name) else { continue };
            let image = def.spec.image.clone().unwrap_or_default();
            let about = about(&self.pod, Some(&def));
            let message = format!("Back-off pulling image \"{image}\"");
            self.kubelet.recorder.normal(&about, "BackOff", message.clone());
            self.kubelet.recorder.warning(&about, "Failed", "Error: ImagePullBackOff");
            let record = self.record(&name);
            let cause = record.waiting.as_ref().map(|(_, m)| m.clone()).unwrap_or_default();
            record.waiting =
                Some(("ImagePullBackOff".to_owned(), format!("{message}: ErrImagePull: {cause}")));
        }
    }

    fn refresh(&mut self) {
        if self.refreshing {
            self.refresh_again = true;
            return;
        }
        self.refreshing = true;
        let (kubelet, entry, pod) = (self.kubelet.clone(), self.entry.clone(), self.pod.clone());
        let ips = self.observed.ips.clone();
        self.spawn("volume-refresh", async move {
            let result = crate::volume::prepare(&kubelet, &pod, &ips).await;
            entry.send(Msg::Refreshed(result.map_err(|e| e.0)));
        });
    }

    fn hear(&mut self, message: Msg) {
        match message {
            Msg::Pod(pod) => {
                let labels_changed = pod.metadata.labels != self.pod.metadata.labels
                    || pod.metadata.annotations != self.pod.metadata.annotations;
                self.defs = defs(&pod);
                self.pod = pod;
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
        use crate::util::Role;
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
                record.state = State::Ended(super::model::Ended {
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
        record.state = State::Ended(super::model::Ended {
            id: record.id.clone(),
            exit_code: 137,
            reason: "ContainerStatusUnknown".to_owned(),
            message: "The container could not be located when the pod was terminated".to_owned(),
            started_at: None,
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

    /// Works the status out, lets others see it, and sends it if it changed.
    fn publish(&mut self, now: SystemTime) {
        let stopped = self.is_stopped();
        let node_ip = self.kubelet.config.node_ip;
        let status =
            status::status(&self.pod, &self.defs, &self.observed, stopped, node_ip, &self.published, now);
        {
            let mut view = self.entry.view.lock().expect("view lock is never poisoned");
            view.pod = self.pod.clone();
            view.status = status.clone();
            view.ips.clone_from(&self.observed.ips);
            view.containers =
                self.observed.containers.iter().map(|(name, r)| (name.clone(), container_view(r))).collect();
        }
        self.entry.changed.send_modify(|count| *count += 1);
        let settled = status::settled(status.clone());
        if settled != self.published {
            self.published = settled;
            if !self.observed.gone {
                self.outbox.status(status);
            }
        }
    }

    /// Whether no container of a pod that is ending runs or will run.
    fn is_stopped(&self) -> bool {
        let live = |r: &Record| r.is_running() || r.starting || r.killing.is_some();
        if self.observed.containers.values().any(live) {
            return false;
        }
        is_deleted(&self.pod) && self.observed.setup != Setup::Running
            || self.observed.gone
            || self.observed.failed.is_some()
            || matches!(phase(&self.pod, &self.defs, &self.observed, false), "Succeeded" | "Failed")
    }
}

fn container_view(record: &Record) -> ContainerView {
    ContainerView {
        id: record.id.clone(),
        running: record.is_running(),
        attempt: record.attempt,
        made: !record.id.is_empty(),
        waiting: record.waiting.as_ref().map(|(reason, _)| reason.clone()),
    }
}
