//! podgc: force-deletes pods that nobody else will: on nodes that are gone, being deleted without ever having been
//! bound, on nodes that are out of service, and the oldest of those that ended if there are too many.

use crate::framework::pods::phase;
use crate::framework::time::{api_time, system_time};
use crate::framework::{Next, Reconcile, Start, run};
use knarr_api::Kind;
use knarr_api::core::v1::{Node, Pod};
use knarr_base::clock::BoxFuture;
use knarr_client::informer::Key;
use knarr_client::{Change, DeleteOptions, Error, Informer, Patch, WorkQueue};
use serde_json::json;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Pods that ended are kept up to this number (--terminated-pod-gc-threshold).
const KEPT: usize = 12_500;
/// A node must have been gone for this long before its pods are given up.
const QUARANTINE: Duration = Duration::from_secs(40);
/// The safety net under the watches (upstream looks this often).
const LOOK_AGAIN: Duration = Duration::from_secs(20 * 60);
/// Changes are gathered for this long.
const GATHER: Duration = Duration::from_secs(1);
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// Why a pod is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    NodeGone,
    NeverBound,
    OutOfService,
    TooMany,
}

struct PodGc {
    start: Start,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    /// Since when nodes that pods are bound to have been missing.
    missing: Mutex<HashMap<String, Instant>>,
}

/// Starts the controller: one round over all pods whenever something that matters changes.
pub fn start(start: Start) {
    let (nodes, pods) = (start.informers.get::<Node>(), start.informers.get::<Pod>());
    let queue = WorkQueue::new(start.ctx.clone());
    let round = || Key::new("", "all");
    let on_node = queue.clone();
    nodes.on_change(move |change: &Change<Node>| {
        let out = |node: &Option<Arc<Node>>| node.as_deref().is_some_and(is_out_of_service);
        if change.new.is_none() || change.old.is_none() || out(&change.new) != out(&change.old) {
            on_node.add_after(round(), GATHER);
        }
    });
    let (on_pod, known) = (queue.clone(), nodes.clone());
    pods.on_change(move |change: &Change<Pod>| {
        let Some(pod) = &change.new else { return };
        let node = node_of(pod);
        let stray = !node.is_empty() && known.has_synced() && known.get("", node).is_none();
        if ended(pod) || pod.metadata.deletion_timestamp.is_some() || stray {
            on_pod.add_after(round(), GATHER);
        }
    });
    let ready = {
        let (nodes, pods, queue) = (nodes.clone(), pods.clone(), queue.clone());
        async move {
            nodes.synced().await;
            pods.synced().await;
            queue.add(round());
        }
    };
    let controller = Arc::new(PodGc { start: start.clone(), nodes, pods, missing: Mutex::default() });
    run(&start, "pod-garbage-collector", 1, queue, ready, controller);
}

fn node_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default()
}

fn ended(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether somebody declared the node shut down (KEP-2268) and it is not ready.
fn is_out_of_service(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let ready = conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True");
    let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    !ready && taints.into_iter().any(|t| t.key == OUT_OF_SERVICE)
}

/// Which pods to give up. `is_gone` says of a node's name that it is certainly gone.
fn plan(
    pods: &[Arc<Pod>],
    nodes: &[Arc<Node>],
    is_gone: impl Fn(&str) -> bool,
    kept: usize,
) -> Vec<(Arc<Pod>, Cause)> {
    let deleting = |pod: &Pod| pod.metadata.deletion_timestamp.is_some();
    let out: Vec<&str> = nodes.iter().filter(|n| is_out_of_service(n)).map(|n| n.name()).collect();
    let cause = |pod: &Pod| match node_of(pod) {
        "" if deleting(pod) => Some(Cause::NeverBound),
        "" => None,
        node if is_gone(node) => Some(Cause::NodeGone),
        node if deleting(pod) && out.contains(&node) => Some(Cause::OutOfService),
        _ => None,
    };
    let mut plan: Vec<(Arc<Pod>, Cause)> =
        pods.iter().filter_map(|pod| Some((pod.clone(), cause(pod)?))).collect();
    let mut over: Vec<&Arc<Pod>> = pods.iter().filter(|p| ended(p) && !deleting(p)).collect();
    if over.len() > kept {
        // Evicted pods first, then the oldest.
        let evicted = |pod: &Pod| pod.status.as_ref().and_then(|s| s.reason.as_deref()) == Some("Evicted");
        over.sort_by_key(|pod| {
            let created = pod.metadata.creation_timestamp.as_ref().map(system_time);
            (!evicted(pod), created, pod.name().to_owned())
        });
        let surplus = over.len() - kept;
        let more = over.into_iter().take(surplus).filter(|pod| cause(pod).is_none());
        plan.extend(more.map(|pod| (pod.clone(), Cause::TooMany)).collect::<Vec<_>>());
    }
    plan
}

impl PodGc {
    async fn round(&self) -> Result<Next, Error> {
        let (pods, nodes) = (self.pods.list(""), self.nodes.list(""));
        let (gone, mut next) = self.gone_nodes(&pods).await?;
        for (pod, cause) in plan(&pods, &nodes, |node| gone.iter().any(|g| g == node), KEPT) {
            if let Err(error) = self.give_up(&pod, cause).await {
                tracing::warn!(pod = pod.name(), %error, "a pod that is to be collected stays for now");
                next = next.min(GATHER * 10);
            }
        }
        Ok(Next::After(next))
    }

    /// The nodes that pods are bound to and that have been gone for long enough, asked of the server, not of a copy;
    /// and when to look again.
    async fn gone_nodes(&self, pods: &[Arc<Pod>]) -> Result<(Vec<String>, Duration), Error> {
        let now = self.start.ctx.clock.instant();
        let ripe = {
            let mut missing = self.missing.lock().expect("quarantine lock is never poisoned");
            let bound: Vec<&str> = pods.iter().map(|p| node_of(p)).filter(|n| !n.is_empty()).collect();
            missing.retain(|node, _| self.nodes.get("", node).is_none() && bound.contains(&node.as_str()));
            for node in bound {
                if !missing.contains_key(node) && self.nodes.get("", node).is_none() {
                    missing.insert(node.to_owned(), now);
                }
            }
            missing.clone()
        };
        let (mut gone, mut next) = (Vec::new(), LOOK_AGAIN);
        for (node, since) in ripe {
            let left = QUARANTINE.saturating_sub(now.saturating_duration_since(since));
            if !left.is_zero() {
                next = next.min(left);
            } else if self.start.client.get_opt::<Node>("", &node).await?.is_none() {
                gone.push(node);
            }
        }
        Ok((gone, next))
    }

    async fn give_up(&self, pod: &Pod, cause: Cause) -> Result<(), Error> {
        let mut status = json!({});
        if !ended(pod) {
            // Whoever counts pods must see it fail.
            status["phase"] = "Failed".into();
        }
        if cause == Cause::NodeGone {
            status["conditions"] = json!([{ "type": "DisruptionTarget", "status": "True",
                "reason": "DeletionByPodGC", "message": "PodGC: node no longer exists",
                "lastTransitionTime": api_time(self.start.ctx.clock.now()) }]);
        }
        let client = &self.start.client;
        let fine = |result: Result<(), Error>| match result {
            Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
            _ => Ok(()),
        };
        if !ended(pod) {
            let patch =
                Patch::Strategic(json!({ "metadata": { "uid": pod.metadata.uid }, "status": status }));
            fine(client.patch::<Pod>(pod.namespace(), pod.name(), "status", &patch).await.map(drop))?;
        }
        let options = DeleteOptions {
            grace_period_seconds: Some(0),
            uid: pod.metadata.uid.clone(),
            ..DeleteOptions::default()
        };
        fine(client.delete::<Pod>(pod.namespace(), pod.name(), &options).await)
    }
}

impl Reconcile for PodGc {
    fn sync<'a>(&'a self, _: &'a Key) -> BoxFuture<'a, Result<Next, Error>> {
        Box::pin(self.round())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn pod(name: &str, node: &str, phase: &str, deleting: bool, second: u8) -> Arc<Pod> {
        let deleted = if deleting { json!("2026-01-01T00:00:00Z") } else { Value::Null };
        let pod = json!({
            "metadata": { "name": name, "deletionTimestamp": deleted, "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z") },
            "spec": { "nodeName": node, "containers": [] },
            "status": { "phase": phase, "reason": if name == "evicted" { "Evicted" } else { "" } },
        });
        Arc::new(Pod::from_value(&pod).expect("a pod"))
    }

    #[test]
    fn pods_without_a_keeper_are_given_up() {
        let node = |name: &str, taint: &str| {
            let node = json!({ "metadata": { "name": name }, "spec": { "taints": [{ "key": taint, "effect": "NoExecute" }] } });
            Arc::new(Node::from_value(&node).expect("a node"))
        };
        let nodes = [node("here", "x"), node("down", OUT_OF_SERVICE)];
        let pods = [
            pod("runs", "here", "Running", false, 0),
            pod("leaves", "here", "Running", true, 0),
            pod("stray", "gone", "Running", false, 0),
            pod("waits", "", "Pending", false, 0),
            pod("unbound", "", "Pending", true, 0),
            pod("cut-off", "down", "Running", true, 0),
            pod("old", "here", "Succeeded", false, 1),
            pod("new", "here", "Failed", false, 3),
            pod("evicted", "here", "Failed", false, 4),
        ];
        let plan = plan(&pods, &nodes, |n| n == "gone", 1);
        let plan: Vec<_> = plan.iter().map(|(pod, cause)| (pod.name(), *cause)).collect();
        assert_eq!(
            plan,
            [
                ("stray", Cause::NodeGone),
                ("unbound", Cause::NeverBound),
                ("cut-off", Cause::OutOfService),
                ("evicted", Cause::TooMany),
                ("old", Cause::TooMany),
            ]
        );
    }
}
