//! A pod's worker: one task that keeps what is observed of the pod, plans, has the plan's actions done by
//! other tasks, and publishes the status. It never waits for anything but its inbox and its next deadline.

use crate::pod::kill::Kill;
use crate::pod::model::{GiveUp, Observed, PreStop, Record, Setup, State, is_deleted};
use crate::pod::phase::{RESTARTING_ALL, phase};
use crate::pod::plan::{Action, is_stopping, plan};
use crate::pod::setup::Outcome;
use crate::pod::start::{Failure, Start, Started};
use crate::pod::static_pods::is_static;
use crate::pod::{adopt, report, resize, status};
mod hear;
mod restart_all;
mod size;

use crate::kubelet::{ContainerView, Entry, Shared};
use crate::probe::{self, Probing};
use crate::util::{Def, about, defs, format_pod, go_duration};
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
    HookDone { name: String, id: String, result: Result<(), String> },
    /// A container ended.
    Exited(Box<ContainerStatus>),
    /// A kill ended; `gone` when the runtime does not know the container.
    Killed { name: String, id: String, status: Option<Box<ContainerStatus>>, gone: bool },
    /// A preStop hook that ran ahead ended.
    PreStopDone { name: String, id: String },
    /// The shim is gone.
    SandboxLost,
    /// Network and sandbox are taken down, or that failed.
    TornDown { ok: bool },
    /// The pod is given up.
    GiveUp(Box<GiveUp>),
    /// What the pod is given, or what became of its wish, changed.
    Granted,
    /// The mirror of a static pod was made: it is to be told everything.
    Mirrored,
    /// Cgroups were changed.
    Resized(Box<resize::Done>),
    /// A probe has a new verdict.
    Probe { name: String, id: String, kind: probe::Kind, ok: bool },
}

/// A pod's worker.
pub(crate) struct Worker {
    kubelet: Arc<Shared>,
    entry: Arc<Entry>,
    inbox: mpsc::UnboundedReceiver<Msg>,
    /// The pod as it is given room: its spec with the granted sizes in place of the wanted.
    pod: Arc<Pod>,
    /// The pod as the API has it.
    desired: Arc<Pod>,
    defs: Vec<Def>,
    observed: Observed,
    prepared: Arc<Prepared>,
    /// Ids of containers whose start is under way, by name.
    new_ids: HashMap<String, String>,
    /// When ErrImagePull becomes ImagePullBackOff, and the image, by container name.
    pull_shown_until: HashMap<String, (SystemTime, String)>,
    pull_backoff: HashMap<String, Duration>,
    probing: Probing,
    refresh_at: Option<SystemTime>,
    refreshing: bool,
    refresh_again: bool,
    setup_delay: Duration,
    teardown_at: Option<SystemTime>,
    published: Value,
    /// The status is to be sent though it did not change.
    unsent: bool,
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
        let desired = pod;
        let pod = size::granted(&kubelet, &desired);
        let defs = defs(&pod);
        let now = kubelet.ctx.clock.now();
        let sandbox = kubelet.config.runtime.sandbox(pod.uid());
        let mut observed = adopt::adopt(&kubelet, &pod, &defs, sandbox.as_ref(), now);
        if let Some((reason, message)) = &entry.refused {
            observed.failed = Some((reason.clone(), format!("Pod was rejected: {message}")));
        }
        // A container whose start was cut off by the end of the last kubelet is made anew.
        let created = sandbox.iter().flat_map(|s| &s.containers);
        for stale in created.filter(|c| c.state == knarr_runtime::spec::State::Created) {
            let (kubelet, uid, id) = (kubelet.clone(), pod.uid().to_owned(), stale.id.clone());
            kubelet.ctx.tasks.clone().spawn_until_stopped("stale-container", async move {
                let _ = kubelet.config.runtime.remove_container(&uid, &id).await;
                let _ = kubelet.config.images.release(&id);
            });
        }
        let published = status::settled(status::of_object(&pod));
        let outbox = report::Outbox::start(&kubelet, &pod);
        let probing = Probing::new(kubelet.clone(), entry.clone());
        Self {
            kubelet,
            entry,
            inbox,
            pod,
            desired,
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
            unsent: false,
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
        self.plan_restart_all();
        let resize_at = self.plan_resize(now);
        let stopping = is_stopping(&self.pod, &self.defs, &self.observed);
        if stopping && self.observed.ending_since.is_none() {
            self.observed.ending_since = Some(now);
        }
        let plan = plan(&self.pod, &self.defs, &self.observed, now);
        for (name, delay) in &plan.held {
            self.hold(name, *delay);
        }
        let mut wakes: Vec<SystemTime> = plan.wake_at.into_iter().chain(resize_at).collect();
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
        wakes.extend(self.pull_shown_until.values().map(|(at, _)| *at));
        wakes.extend(self.teardown_at);
        self.publish(now);
        wakes.into_iter().min()
    }

    fn act(&mut self, action: Action, now: SystemTime) {
        match action {
            Action::Setup => {
                self.observed.setup = Setup::Running;
                let attempt = self.observed.sandbox_attempts;
                let run = crate::pod::setup::run(
                    self.kubelet.clone(),
                    self.entry.clone(),
                    self.pod.clone(),
                    attempt,
                );
                self.spawn("pod-setup", run);
            }
            Action::Start(name) => self.start(&name),
            Action::Kill { name, message, grace } => self.kill(&name, message, grace),
            Action::PreStop { name, grace } => self.pre_stop(&name, grace),
            Action::Fail { reason, message } => {
                self.kubelet.recorder.normal(&about(&self.pod, None), reason, message.clone());
                self.observed.failed = Some((reason.to_owned(), message));
                // The plan changes altogether: looked at again at once.
                self.entry.send(Msg::Pod(self.desired.clone()));
            }
            Action::TearDown => {
                if self.teardown_at.is_some_and(|at| at > now) {
                    return;
                }
                self.teardown_at = None;
                self.observed.tearing_down = true;
                let last = is_stopping(&self.pod, &self.defs, &self.observed);
                let run = crate::pod::setup::tear_down(
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
            if record.waiting.as_ref().is_some_and(|(reason, _)| {
                matches!(
                    reason.as_str(),
                    "CrashLoopBackOff" | "RunContainerError" | "PostStartHookError" | RESTARTING_ALL
                )
            }) {
                record.waiting = None;
            }
        }
        record.starting = true;
        record.retry_at = None;
        let attempt = if made { record.attempt + 1 } else { record.attempt };
        let previous = Some(record.id.clone()).filter(|_| made);
        self.new_ids.insert(name.to_owned(), id.clone());
        self.kubelet.starting.lock().expect("start lock is never poisoned").insert(id.clone());
        let target = match &def.target {
            None => Ok(None),
            Some(target) => match self.observed.containers.get(target).filter(|r| r.is_running()) {
                Some(record) => Ok(Some(record.id.clone())),
                None => Err(format!("unable to find target container {target}")),
            },
        };
        let start = Start {
            pod: self.pod.clone(),
            def,
            id,
            attempt,
            previous,
            ips: self.observed.ips.clone(),
            volumes: self.prepared.clone(),
            target,
        };
        let run = crate::pod::start::run(self.kubelet.clone(), self.entry.clone(), start);
        self.spawn("container-start", run);
    }

    fn kill(&mut self, name: &str, message: String, grace: Duration) {
        let Some(def) = self.def(name) else { return };
        let record = self.record(name);
        let again = record.killing.replace(grace).is_some();
        let hooked = record.pre_stop == PreStop::Done;
        let id = record.id.clone();
        let ips = self.observed.ips.clone();
        let kill = Kill { pod: self.pod.clone(), def, id, message, grace, ips, again, hooked };
        self.spawn("container-stop", crate::pod::kill::run(self.kubelet.clone(), self.entry.clone(), kill));
    }

    fn pre_stop(&mut self, name: &str, grace: Duration) {
        let Some(def) = self.def(name) else { return };
        let record = self.record(name);
        record.pre_stop = PreStop::Running;
        let id = record.id.clone();
        let (pod, ips, message) = (self.pod.clone(), self.observed.ips.clone(), String::new());
        let kill = Kill { pod, def, id, message, grace, ips, again: false, hooked: false };
        let run = crate::pod::kill::pre_stop(self.kubelet.clone(), self.entry.clone(), kill);
        self.spawn("pre-stop", run);
    }

    fn forget(&mut self) {
        let uid = self.pod.uid();
        self.kubelet.objects.release(uid);
        self.kubelet.tokens.release(uid);
        self.kubelet.claims.release(uid);
        if self.kubelet.book.forget(uid) {
            crate::pod::manager::decide_resizes(&self.kubelet);
        }
        self.kubelet.pods.lock().expect("pod lock is never poisoned").remove(uid);
        let logs = crate::container::spec::pod_log_dir(&self.kubelet.config.log_dir, &self.pod);
        let _ = std::fs::remove_dir_all(logs);
        if is_static(&self.pod) {
            // Its successor may start.
            self.kubelet.mirrors.changed.notify_one();
        }
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
        let due: Vec<(String, String)> = self
            .pull_shown_until
            .iter()
            .filter(|(_, (at, _))| *at <= now)
            .map(|(name, (_, image))| (name.clone(), image.clone()))
            .collect();
        for (name, image) in due {
            self.pull_shown_until.remove(&name);
            let Some(def) = self.def(&name) else { continue };
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
            view.released = self.observed.released;
            view.containers =
                self.observed.containers.iter().map(|(name, r)| (name.clone(), container_view(r))).collect();
        }
        self.entry.changed.send_modify(|count| *count += 1);
        if status["phase"] == "Running" && self.published["phase"] == "Pending" {
            let seen = self.observed.start_time.unwrap_or(now);
            self.kubelet
                .metrics
                .pod_start
                .observe(now.duration_since(seen).unwrap_or_default().as_secs_f64());
        }
        if stopped
            && matches!(status["phase"].as_str(), Some("Succeeded" | "Failed"))
            && self.kubelet.book.end(self.pod.uid())
        {
            crate::pod::manager::decide_resizes(&self.kubelet);
        }
        let settled = status::settled(status.clone());
        if settled != self.published || std::mem::take(&mut self.unsent) {
            self.published = settled;
            if !self.observed.gone {
                let held = |r: &Record| r.waiting.as_ref().is_some_and(|(why, _)| why == "CrashLoopBackOff");
                let restarting = self.observed.containers.values().any(|r| r.restarting && !held(r));
                self.outbox.status(status, restarting && !stopped);
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
