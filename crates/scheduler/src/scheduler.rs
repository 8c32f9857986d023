//! The loop: events of pods and nodes keep the cache and the queue; one decision at a time; bindings are posted
//! beside it.

use crate::cache::{PodInfo, Snapshot};
use crate::framework::{Decision, Plugin, decide};
use crate::queue::Queue;
use crate::volumes::Plan;
use knarr_api::Kind;
use knarr_api::core::v1::{Node, Pod};
use knarr_base::Ctx;
use knarr_client::recorder::reference;
use knarr_client::{Change, Client, Informers, Patch, Recorder};
use serde_json::json;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, watch};

mod storage;

/// Pods that were not helped by any event are tried again this often (upstream flushes after five minutes).
const SAFETY_NET: Duration = Duration::from_secs(300);

/// How the scheduler runs.
#[derive(Clone, Debug)]
pub struct SchedulerConfig {
    /// Pods with this spec.schedulerName are ours.
    pub scheduler_name: String,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self { scheduler_name: "default-scheduler".to_owned() }
    }
}

struct State {
    all: Snapshot,
    queue: Queue,
    waiting: HashMap<String, Arc<Pod>>,
}

/// The scheduler of one cluster, under the identity of its client (`system:kube-scheduler`).
pub struct Scheduler {
    ctx: Ctx,
    config: SchedulerConfig,
    client: Client,
    recorder: Recorder,
    plugins: Vec<Box<dyn Plugin>>,
    state: Mutex<State>,
    wake: Notify,
    /// Counts changes of claims, volumes, and pods that went.
    stored: watch::Sender<u64>,
}

impl Scheduler {
    /// Starts scheduling in the task scope of `ctx`.
    pub fn start(ctx: &Ctx, client: Client, config: SchedulerConfig) {
        let informers = Informers::new(client.clone());
        let scheduler = Arc::new(Self {
            ctx: ctx.clone(),
            recorder: Recorder::new(client.clone(), &config.scheduler_name, ""),
            config,
            client,
            plugins: crate::plugins::all(),
            state: Mutex::new(State {
                all: Snapshot::default(),
                queue: Queue::default(),
                waiting: HashMap::new(),
            }),
            wake: Notify::new(),
            stored: watch::Sender::new(0),
        });
        let (pods, nodes) = (informers.get::<Pod>(), informers.get::<Node>());
        let stored = scheduler.follow_volumes(&informers);
        let this = scheduler.clone();
        nodes.on_change(move |change| this.node_changed(change));
        let this = scheduler.clone();
        pods.on_change(move |change| this.pod_changed(change));
        ctx.tasks.spawn_until_stopped("scheduler", async move {
            nodes.synced().await;
            pods.synced().await;
            stored.await;
            scheduler.run().await;
        });
    }

    fn node_changed(&self, change: &Change<Node>) {
        let mut state = self.state();
        match (&change.old, &change.new) {
            (Some(old), Some(new)) => {
                // Heartbeats change nothing that a plugin reads.
                let relevant = |n: &Node| {
                    (
                        n.spec.clone(),
                        n.metadata.labels.clone(),
                        n.status.as_ref().and_then(|s| s.allocatable.clone()),
                    )
                };
                let helps = relevant(old) != relevant(new);
                state.all.set_node(new.clone());
                if helps {
                    state.queue.cluster_changed();
                }
            }
            (None, Some(new)) => {
                state.all.set_node(new.clone());
                state.queue.cluster_changed();
            }
            (Some(old), None) => state.all.remove_node(old.name()),
            (None, None) => {}
        }
        drop(state);
        self.wake.notify_one();
    }

    fn pod_changed(&self, change: &Change<Pod>) {
        let pod = change.object();
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let mut state = self.state();
        let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
        if change.new.is_none() || matches!(phase, Some("Succeeded" | "Failed")) {
            state.waiting.remove(&uid);
            state.queue.remove(&uid);
            if state.all.is_placed(&uid) {
                state.all.displace(&uid);
                state.queue.cluster_changed();
            }
            self.stored.send_modify(|n| *n += 1);
        } else if let Some(node) = bound_to(pod) {
            state.waiting.remove(&uid);
            state.queue.remove(&uid);
            let newly = !state.all.is_placed(&uid);
            state.all.place(Arc::new(PodInfo::new(pod.clone())), node);
            if newly {
                // It may be what another pod wants to be near.
                state.queue.cluster_changed();
            }
        } else if self.is_ours(pod) && !state.all.is_placed(&uid) {
            let spec_changed = change
                .old
                .as_ref()
                .is_none_or(|old| old.spec != pod.spec || old.metadata.labels != pod.metadata.labels);
            state.waiting.insert(uid.clone(), pod.clone());
            if spec_changed {
                let priority = pod.spec.as_ref().and_then(|s| s.priority).unwrap_or_default();
                state.queue.add(&uid, priority);
            }
        }
        drop(state);
        self.wake.notify_one();
    }

    fn is_ours(&self, pod: &Pod) -> bool {
        let Some(spec) = &pod.spec else { return false };
        spec.scheduler_name.as_deref().unwrap_or("default-scheduler") == self.config.scheduler_name
            && pod.metadata.deletion_timestamp.is_none()
            && spec.scheduling_gates.as_ref().is_none_or(Vec::is_empty)
    }

    async fn run(self: Arc<Self>) {
        loop {
            let next = self.state().queue.next(self.ctx.clock.instant());
            match next {
                Ok((uid, seen)) => self.schedule(&uid, seen),
                Err(soonest) => {
                    let pause = soonest
                        .map_or(SAFETY_NET, |at| at.saturating_duration_since(self.ctx.clock.instant()));
                    tokio::select! {
                        () = self.wake.notified() => {}
                        () = self.ctx.clock.sleep(pause) => {
                            if soonest.is_none() {
                                self.state().queue.cluster_changed();
                            }
                        }
                    }
                }
            }
        }
    }

    fn schedule(self: &Arc<Self>, uid: &str, seen: u64) {
        let mut state = self.state();
        let Some(pod) = state.waiting.get(uid).cloned() else { return state.queue.remove(uid) };
        let info = Arc::new(PodInfo::new(pod.clone()));
        match decide(&self.plugins, &info, &state.all, self.ctx.rng.u64()) {
            Decision::Node(node) => {
                let found = state.all.node(&node).map(|info_of| state.all.volumes.plan(&info, info_of));
                let plan = found.and_then(Result::ok).unwrap_or_default();
                state.all.volumes.promise(&plan);
                state.all.place(info, &node);
                drop(state);
                let (this, uid) = (self.clone(), uid.to_owned());
                self.ctx.tasks.spawn("bind", async move { this.bind(&pod, &uid, &node, &plan, seen).await });
            }
            Decision::Unschedulable(message) => {
                state.queue.failed(uid, seen, self.ctx.clock.instant());
                drop(state);
                self.recorder.warning(&reference(&*pod), "FailedScheduling", message.clone());
                let this = self.clone();
                self.ctx.tasks.spawn("unschedulable", async move { this.report(&pod, &message).await });
            }
        }
    }

    async fn bind(&self, pod: &Pod, uid: &str, node: &str, plan: &Plan, seen: u64) {
        if let Err(why) = self.bind_volumes(uid, node, plan).await {
            let message = format!("running PreBind plugin \"VolumeBinding\": {why}");
            self.recorder.warning(&reference(pod), "FailedScheduling", message.clone());
            {
                let mut state = self.state();
                state.all.volumes.break_promise(plan);
                state.all.displace(uid);
                state.queue.failed(uid, seen, self.ctx.clock.instant());
                state.queue.cluster_changed();
            }
            self.wake.notify_one();
            return self.report(pod, &message).await;
        }
        let binding = json!({
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": { "name": pod.name(), "namespace": pod.namespace(), "uid": uid },
            "target": { "apiVersion": "v1", "kind": "Node", "name": node },
        });
        let answer =
            self.client.create_subresource::<Pod>(pod.namespace(), pod.name(), "binding", &binding).await;
        match answer {
            Ok(_) => {
                let message = format!("Successfully assigned {}/{} to {node}", pod.namespace(), pod.name());
                self.recorder.normal(&reference(pod), "Scheduled", message);
            }
            Err(error) => {
                tracing::warn!(pod = pod.name(), namespace = pod.namespace(), node, %error, "binding failed");
                let mut state = self.state();
                state.all.displace(uid);
                if error.is_not_found() {
                    state.waiting.remove(uid);
                    state.queue.remove(uid);
                } else {
                    state.queue.failed(uid, seen, self.ctx.clock.instant());
                    state.queue.cluster_changed();
                }
                drop(state);
                self.wake.notify_one();
            }
        }
    }

    /// Says in the pod's status that no node takes it, unless it says so already.
    async fn report(&self, pod: &Pod, message: &str) {
        let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref()).into_iter().flatten();
        let mut said = conditions.filter(|c| c.type_ == "PodScheduled" && c.status == "False");
        if said.any(|c| c.message.as_deref() == Some(message)) {
            return;
        }
        let now = knarr_meta::time::rfc3339(self.ctx.clock.now());
        let condition = json!({
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
            "lastProbeTime": null, "lastTransitionTime": now,
            "observedGeneration": pod.metadata.generation,
        });
        let patch = Patch::Strategic(
            json!({ "metadata": { "uid": pod.metadata.uid }, "status": { "conditions": [condition] } }),
        );
        if let Err(error) = self.client.patch::<Pod>(pod.namespace(), pod.name(), "status", &patch).await
            && !error.is_not_found()
        {
            tracing::warn!(pod = pod.name(), %error, "cannot report that the pod is unschedulable");
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("scheduler lock is never poisoned")
    }
}

fn bound_to(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|n| !n.is_empty())
}
