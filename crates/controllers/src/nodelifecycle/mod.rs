//! Node lifecycle: notices kubelets that fell silent, marks their nodes and pods, keeps the taints that follow from
//! conditions, and paces evictions. What a round decides is in [`health`], [`taints`] and [`zones`]; pods are evicted
//! by [`eviction`], a controller of its own as upstream (KEP-3902).

mod eviction;
mod health;
mod taints;
mod zones;

use crate::framework::pods::is_ready;
use crate::framework::time::api_time;
use crate::framework::{Next, Reconcile, Start, run};
use futures_util::future::join_all;
use health::{Health, readiness};
use knarr_api::Kind;
use knarr_api::coordination::v1::Lease;
use knarr_api::core::v1::{Node, Pod, Taint};
use knarr_base::clock::BoxFuture;
use knarr_client::informer::Key;
use knarr_client::recorder::reference;
use knarr_client::{Change, Error, Informer, Patch, Recorder, WorkQueue};
use serde_json::json;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use zones::LastTainted;

pub use eviction::start as start_taint_eviction;

/// Where kubelets keep their leases.
const LEASES: &str = "kube-node-lease";
const WORKERS: usize = 8;

/// The key of the round over all nodes; no node can be called that.
const ALL: &str = "*";

struct Memory {
    health: HashMap<String, Health>,
    last_tainted: LastTainted,
    all_lost: bool,
}

struct Nodes {
    start: Start,
    queue: WorkQueue<Key>,
    nodes: Informer<Node>,
    leases: Informer<Lease>,
    pods: Informer<Pod>,
    recorder: Recorder,
    memory: Arc<Mutex<Memory>>,
}

/// The pods on a node.
fn pods_on(pods: &Informer<Pod>, node: &str) -> Vec<Arc<Pod>> {
    let mut all = pods.list("");
    all.retain(|pod| pod.spec.as_ref().and_then(|s| s.node_name.as_deref()) == Some(node));
    all
}

/// Starts the controller.
pub fn start(start: Start) {
    let (nodes, pods) = (start.informers.get::<Node>(), start.informers.get::<Pod>());
    let leases = start.informers.filtered::<Lease>(LEASES, "", "");
    let queue: WorkQueue<Key> = WorkQueue::new(start.ctx.clone());
    let memory = Arc::new(Mutex::new(Memory {
        health: HashMap::new(),
        last_tainted: LastTainted::new(),
        all_lost: false,
    }));
    let recorder = Recorder::new(start.client.clone(), "node-controller", "");

    let (on_node, told) = (queue.clone(), recorder.clone());
    nodes.on_change(move |change: &Change<Node>| {
        let node = change.object();
        on_node.add(Key::new("", node.name()));
        if change.new.is_none() {
            on_node.add(Key::new("", ALL));
            let message = format!("Node {0} event: Removing Node {0} from Controller", node.name());
            told.normal(&reference(&**node), "RemovingNode", message);
        } else if change.old.is_none() {
            let message = format!("Node {0} event: Registered Node {0} in Controller", node.name());
            told.normal(&reference(&**node), "RegisteredNode", message);
        }
    });
    // A renewed lease is only noted; the timer that is running finds the note.
    let (known, remembered, ctx) = (nodes.clone(), memory.clone(), start.ctx.clone());
    let on_lease = queue.clone();
    leases.on_change(move |change: &Change<Lease>| {
        let Some(lease) = &change.new else { return };
        let Some(node) = known.get("", lease.name()) else { return };
        let mut memory = remembered.lock().expect("health lock is never poisoned");
        match memory.health.get_mut(node.name()) {
            Some(health) => health.observe(&node, Some(lease), ctx.clock.instant()),
            None => on_lease.add(Key::new("", node.name())),
        }
    });
    // A pod that comes to a node that is not ready is not ready either.
    let (on_pod, known) = (queue.clone(), nodes.clone());
    pods.on_change(move |change: &Change<Pod>| {
        let on = |pod: &Arc<Pod>| pod.spec.as_ref().and_then(|s| s.node_name.clone());
        let node = change.new.as_ref().and_then(on);
        if node != change.old.as_ref().and_then(on)
            && let Some(node) = node.and_then(|n| known.get("", &n))
            && readiness(&node).is_some_and(|r| r != "True")
            && change.new.as_ref().is_some_and(|pod| is_ready(pod))
        {
            on_pod.add(Key::of(&change.object().metadata));
        }
    });
    let ready = {
        let (nodes, leases, pods) = (nodes.clone(), leases.clone(), pods.clone());
        async move {
            nodes.synced().await;
            leases.synced().await;
            pods.synced().await;
        }
    };
    let queue_of = queue.clone();
    let controller =
        Arc::new(Nodes { start: start.clone(), queue: queue_of, nodes, leases, pods, recorder, memory });
    run(&start, "node-lifecycle", WORKERS, queue, ready, controller);
}

impl Reconcile for Nodes {
    fn sync<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Next, Error>> {
        Box::pin(async move {
            if key.name == ALL {
                self.pace_evictions().await
            } else if key.namespace.is_empty() {
                self.reconcile(&key.name).await
            } else {
                self.mark_new_pod(key).await
            }
        })
    }
}

impl Nodes {
    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().expect("health lock is never poisoned")
    }

    async fn reconcile(&self, name: &str) -> Result<Next, Error> {
        let Some(node) = self.nodes.get("", name) else {
            self.memory().health.remove(name);
            return Ok(Next::Done);
        };
        let lease = self.leases.get(LEASES, name);
        let now = self.start.ctx.clock.instant();
        let left = {
            let mut memory = self.memory();
            let fresh = || Health::new(&node, lease.as_deref(), now);
            let health = memory.health.entry(name.to_owned()).or_insert_with(fresh);
            if node.metadata.uid.as_deref() != Some(&health.uid) {
                *health = fresh();
            }
            health.observe(&node, lease.as_deref(), now);
            health.left(&node, now)
        };
        let mut node = node;
        if left.is_zero()
            && let Some(lost) = health::with_unknown_conditions(&node, self.start.ctx.clock.now())
        {
            node = Arc::new(self.start.client.update_status(&lost).await?);
        }
        self.tell_pods(&node).await?;
        if let Some(taints) = taints::by_condition(&node, self.start.ctx.clock.now()) {
            node = Arc::new(self.taint(&node, taints).await?);
        }
        drop(node);
        self.queue.add(Key::new("", ALL));
        // A node that is lost is heard of by its own change.
        Ok(if left.is_zero() { Next::Done } else { Next::At(now + left + Duration::from_millis(1)) })
    }

    /// Marks the pods of a node that has just become not ready.
    async fn tell_pods(&self, node: &Node) -> Result<(), Error> {
        let Some(ready) = readiness(node).map(|r| r == "True") else { return Ok(()) };
        let was = self.memory().health.get(node.name()).and_then(|h| h.was_ready);
        if !ready && was != Some(false) {
            if was.is_some() {
                let message = format!("Node {} status is now: NodeNotReady", node.name());
                self.recorder.normal(&reference(node), "NodeNotReady", message);
            }
            let pods = pods_on(&self.pods, node.name());
            let marked = join_all(pods.iter().map(|pod| self.mark_not_ready(pod))).await;
            marked.into_iter().collect::<Result<Vec<()>, Error>>()?;
        }
        if let Some(health) = self.memory().health.get_mut(node.name()) {
            health.was_ready = Some(ready);
        }
        Ok(())
    }

    async fn mark_new_pod(&self, key: &Key) -> Result<Next, Error> {
        let Some(pod) = self.pods.get_key(key) else { return Ok(Next::Done) };
        let node = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default();
        let node = self.nodes.get("", node);
        if node.is_some_and(|n| readiness(&n).is_some_and(|r| r != "True")) {
            self.mark_not_ready(&pod).await?;
        }
        Ok(Next::Done)
    }

    async fn mark_not_ready(&self, pod: &Pod) -> Result<(), Error> {
        if !is_ready(pod) {
            return Ok(());
        }
        let now = api_time(self.start.ctx.clock.now());
        let patch =
            Patch::Strategic(json!({ "metadata": { "uid": pod.metadata.uid }, "status": { "conditions": [
            { "type": "Ready", "status": "False", "lastTransitionTime": now }] } }));
        match self.start.client.patch::<Pod>(pod.namespace(), pod.name(), "status", &patch).await {
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
            Ok(_) => {
                self.recorder.warning(&reference(pod), "NodeNotReady", "Node is not ready");
                Ok(())
            }
        }
    }

    /// Replaces the node's taints, if nobody else changed it meanwhile.
    async fn taint(&self, node: &Node, taints: Vec<Taint>) -> Result<Node, Error> {
        let patch = Patch::Merge(json!({
            "metadata": { "uid": node.metadata.uid, "resourceVersion": node.metadata.resource_version },
            "spec": { "taints": taints },
        }));
        self.start.client.patch::<Node>("", node.name(), "", &patch).await
    }

    /// Gives nodes that are not ready the taints by which pods are evicted, at the pace that the state of their zone
    /// allows, and takes them from nodes that are ready.
    async fn pace_evictions(&self) -> Result<Next, Error> {
        let (nodes, now) = (self.nodes.list(""), self.start.ctx.clock.instant());
        let plan = {
            let mut memory = self.memory();
            let plan = zones::plan(&nodes, &mut memory.last_tainted, now);
            if memory.all_lost && !plan.all_lost {
                // The fault was on this side: nobody could be heard. All start anew.
                memory.health.values_mut().for_each(|health| health.reset(now));
            }
            memory.all_lost = plan.all_lost;
            plan
        };
        let by_name = |name: &String| nodes.iter().find(|n| n.name() == name);
        let rows = plan.align.iter().map(|n| (n, true)).chain(plan.spare.iter().map(|n| (n, false)));
        for (name, evict) in rows {
            let Some(node) = by_name(name) else { continue };
            if let Some(taints) = taints::no_execute(node, evict, self.start.ctx.clock.now())
                && let Err(error) = self.taint(node, taints).await
            {
                // Its turn was not used.
                self.memory().last_tainted.remove(&zones::zone(node));
                if error.is_conflict() {
                    self.queue.add_after(Key::new("", ALL), RETRY);
                } else if !error.is_not_found() {
                    return Err(error);
                }
            }
        }
        Ok(plan.next.map_or(Next::Done, |left| Next::At(now + left)))
    }
}

/// A node that changed under its tainting is looked at again after this.
const RETRY: Duration = Duration::from_millis(50);
