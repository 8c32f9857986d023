//! taint-eviction: deletes pods from nodes with NoExecute taints that they do not tolerate, or no longer
//! (`tolerationSeconds`). A timer each, from when the taint was added or the pod came to the node.

use super::taints;
use crate::framework::pods::condition;
use crate::framework::pods::tolerates;
use crate::framework::time::{api_time, system_time};
use crate::framework::{Next, Reconcile, Start, run};
use knarr_api::Kind;
use knarr_api::core::v1::{Node, Pod, Taint};
use knarr_base::clock::BoxFuture;
use knarr_client::informer::Key;
use knarr_client::recorder::reference;
use knarr_client::{Change, DeleteOptions, Error, Informer, Patch, Recorder, WorkQueue};
use serde_json::json;
use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

const WORKERS: usize = 8;

struct Evictions {
    start: Start,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    recorder: Recorder,
    /// Pods, by UID, that have a timer: cancelling it is told.
    due: Mutex<HashSet<String>>,
}

/// Starts the controller.
pub fn start(start: Start) {
    let (nodes, pods) = (start.informers.get::<Node>(), start.informers.get::<Pod>());
    let queue = WorkQueue::new(start.ctx.clone());
    let on_pod = queue.clone();
    pods.on_change(move |change: &Change<Pod>| {
        let of = |pod: &Option<Arc<Pod>>| {
            let spec = pod.as_ref()?.spec.as_ref()?;
            Some((spec.node_name.clone(), spec.tolerations.clone()))
        };
        if of(&change.old) != of(&change.new) {
            on_pod.add(Key::of(&change.object().metadata));
        }
    });
    let (on_node, known) = (queue.clone(), pods.clone());
    nodes.on_change(move |change: &Change<Node>| {
        let of = |node: &Option<Arc<Node>>| node.as_deref().map(no_execute).unwrap_or_default();
        if of(&change.old) != of(&change.new) {
            let name = change.object().name().to_owned();
            for pod in super::pods_on(&known, &name) {
                on_node.add(Key::of(&pod.metadata));
            }
        }
    });
    let ready = {
        let (nodes, pods) = (nodes.clone(), pods.clone());
        async move {
            nodes.synced().await;
            pods.synced().await;
        }
    };
    let recorder = Recorder::new(start.client.clone(), "taint-eviction-controller", "");
    let controller =
        Arc::new(Evictions { start: start.clone(), nodes, pods, recorder, due: Mutex::default() });
    run(&start, "taint-eviction", WORKERS, queue, ready, controller);
}

fn no_execute(node: &Node) -> Vec<Taint> {
    taints::of(node).iter().filter(|t| t.effect == "NoExecute").cloned().collect()
}

/// When a pod has to leave a node with these taints; `None` if it may stay.
fn deadline(pod: &Pod, taints: &[Taint], now: SystemTime) -> Option<SystemTime> {
    let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
    let bound = condition(pod, "PodScheduled").and_then(|c| c.last_transition_time.as_ref());
    let came = bound.or(pod.metadata.creation_timestamp.as_ref()).map_or(now, system_time);
    let of = |taint: &Taint| {
        let Some(toleration) = tolerations.iter().find(|t| tolerates(t, taint)) else { return Some(now) };
        let seconds = u64::try_from(toleration.toleration_seconds?).unwrap_or_default();
        let added = taint.time_added.as_ref().map_or(came, system_time);
        Some(added.max(came) + Duration::from_secs(seconds))
    };
    taints.iter().filter_map(of).min()
}

impl Evictions {
    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let Some(pod) = self.pods.get_key(key) else { return Ok(Next::Done) };
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let node = pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default();
        let taints = self.nodes.get("", &node).map(|n| no_execute(&n)).unwrap_or_default();
        let now = self.start.ctx.clock.now();
        let deadline = deadline(&pod, &taints, now).filter(|_| pod.metadata.deletion_timestamp.is_none());
        let (about, name) = (reference(&*pod), format!("{}/{}", key.namespace, key.name));
        let due = || self.due.lock().expect("timer lock is never poisoned");
        match deadline {
            None => {
                if due().remove(&uid) && pod.metadata.deletion_timestamp.is_none() {
                    let message = format!("Cancelling deletion of Pod {name}");
                    self.recorder.normal(&about, "TaintManagerEviction", message);
                }
                Ok(Next::Done)
            }
            Some(at) if at > now => {
                due().insert(uid);
                Ok(Next::After(at.duration_since(now).unwrap_or_default()))
            }
            Some(_) => {
                due().remove(&uid);
                let message = format!("Marking for deletion Pod {name}");
                self.recorder.normal(&about, "TaintManagerEviction", message);
                self.evict(&pod, now).await
            }
        }
    }

    async fn evict(&self, pod: &Pod, now: SystemTime) -> Result<Next, Error> {
        let target = json!({ "metadata": { "uid": pod.metadata.uid }, "status": { "conditions": [{
            "type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
            "message": "Taint manager: deleting due to NoExecute taint", "lastTransitionTime": api_time(now),
        }] } });
        let (namespace, name) = (pod.namespace(), pod.name());
        let client = &self.start.client;
        match client.patch::<Pod>(namespace, name, "status", &Patch::Strategic(target)).await {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
        let options = DeleteOptions { uid: pod.metadata.uid.clone(), ..DeleteOptions::default() };
        match client.delete::<Pod>(namespace, name, &options).await {
            Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
            _ => Ok(Next::Done),
        }
    }
}

impl Reconcile for Evictions {
    fn sync<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Next, Error>> {
        Box::pin(self.reconcile(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn pods_leave_when_their_patience_ends() {
        let taint = |key: &str, second: i64| Taint {
            key: key.to_owned(),
            effect: "NoExecute".to_owned(),
            time_added: api_time(SystemTime::UNIX_EPOCH + Duration::from_secs(second as u64)),
            value: Some("v".to_owned()),
        };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let exists = |key: &str, seconds: Value| json!({ "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds });
        for (tolerations, taints, wanted) in [
            (json!([]), vec![], None),
            (json!([]), vec![taint("a", 990)], Some(1000)),
            (json!([exists("a", Value::Null)]), vec![taint("a", 990)], None),
            (json!([exists("a", json!(300))]), vec![taint("a", 990)], Some(1290)),
            (json!([exists("a", json!(300))]), vec![taint("a", 100)], Some(800)), // the pod came at 500
            (
                json!([exists("a", json!(300)), exists("b", json!(60))]),
                vec![taint("a", 990), taint("b", 990)],
                Some(1050),
            ),
            (json!([exists("a", json!(300))]), vec![taint("a", 990), taint("b", 990)], Some(1000)),
            (json!([{ "operator": "Exists" }]), vec![taint("a", 990)], None),
            (json!([{ "key": "a", "value": "v" }]), vec![taint("a", 990)], None),
            (json!([{ "key": "a", "value": "w" }]), vec![taint("a", 990)], Some(1000)),
        ] {
            let pod = Pod::from_value(&json!({
                "metadata": { "name": "p", "creationTimestamp": "1970-01-01T00:08:20Z" },
                "spec": { "containers": [], "tolerations": tolerations },
            }));
            let at = deadline(&pod.expect("a pod"), &taints, now);
            let at = at.map(|t| t.duration_since(SystemTime::UNIX_EPOCH).expect("after").as_secs());
            assert_eq!(at, wanted, "{tolerations}");
        }
    }
}
