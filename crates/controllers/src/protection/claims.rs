//! pvc-protection: a claim stays until no pod that has a node uses it. (One without a node is not let start with a
//! claim that is being deleted.)

use super::{Step, protect, release, step};
use crate::framework::pod_control::controller_of;
use crate::framework::{Next, Reconcile, Start, run};
use knarr_api::Kind;
use knarr_api::core::v1::{PersistentVolumeClaim, Pod, Volume};
use knarr_api::volume::claim_name;
use knarr_base::clock::BoxFuture;
use knarr_client::informer::{Change, Key};
use knarr_client::{Error, Informer, ListOptions, WorkQueue};
use std::sync::Arc;

const FINALIZER: &str = "kubernetes.io/pvc-protection";

struct Claims {
    start: Start,
    claims: Informer<PersistentVolumeClaim>,
    pods: Informer<Pod>,
}

/// Starts the controller.
pub fn start(start: Start) {
    let (claims, pods) = (start.informers.get::<PersistentVolumeClaim>(), start.informers.get::<Pod>());
    let queue = WorkQueue::new(start.ctx.clone());
    let on_claim = queue.clone();
    claims.on_change(move |change: &Change<PersistentVolumeClaim>| {
        if change.new.as_ref().is_some_and(|claim| step(&**claim, FINALIZER) != Step::Keep) {
            on_claim.add(Key::of(&change.object().metadata));
        }
    });
    let on_pod = queue.clone();
    pods.on_change(move |change: &Change<Pod>| {
        let pod = change.object();
        if change.new.is_none() || has_ended(pod) {
            for volume in volumes(pod) {
                if let Some(name) = claim_name(pod, volume) {
                    on_pod.add(Key::new(pod.namespace(), &name));
                }
            }
        }
    });
    let ready = {
        let (claims, pods) = (claims.clone(), pods.clone());
        async move {
            claims.synced().await;
            pods.synced().await;
        }
    };
    let controller = Arc::new(Claims { start: start.clone(), claims, pods });
    run(&start, "pvc-protection", 1, queue, ready, controller);
}

fn volumes(pod: &Pod) -> impl Iterator<Item = &Volume> {
    pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten())
}

fn has_ended(pod: &Pod) -> bool {
    matches!(crate::framework::pods::phase(pod), "Succeeded" | "Failed")
}

/// Whether nothing of an ended pod runs any more.
fn is_shut_down(pod: &Pod) -> bool {
    let statuses = pod.status.iter().flat_map(|s| {
        s.container_statuses.iter().chain(&s.init_container_statuses).chain(&s.ephemeral_container_statuses)
    });
    let mut running = statuses.flatten().filter_map(|s| s.state.as_ref()?.running.as_ref());
    has_ended(pod) && running.next().is_none()
}

fn uses(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let has_node = pod.spec.as_ref().and_then(|s| s.node_name.as_ref()).is_some_and(|node| !node.is_empty());
    let owned = || controller_of(&claim.metadata).is_some_and(|o| Some(&o.uid) == pod.metadata.uid.as_ref());
    has_node
        && volumes(pod).any(|volume| {
            claim_name(pod, volume).as_deref() == Some(claim.name())
                && (volume.persistent_volume_claim.is_some() || (!is_shut_down(pod) && owned()))
        })
}

impl Reconcile for Claims {
    fn sync<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Next, Error>> {
        Box::pin(async move {
            let Some(claim) = self.claims.get_key(key) else { return Ok(Next::Done) };
            let client = &self.start.client;
            match step(&*claim, FINALIZER) {
                Step::Keep => {}
                Step::Protect => protect(client, &*claim, FINALIZER).await?,
                Step::Release => {
                    if self.pods.list(&key.namespace).iter().any(|pod| uses(pod, &claim)) {
                        return Ok(Next::Done);
                    }
                    // Before what cannot be undone, not from a copy.
                    let live = client.list::<Pod>(&key.namespace, &ListOptions::default()).await?;
                    if !live.items.iter().any(|pod| uses(pod, &claim)) {
                        release(client, &*claim, FINALIZER).await?;
                    }
                }
            }
            Ok(Next::Done)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn who_uses_a_claim() {
        let claim = PersistentVolumeClaim::from_value(
            &json!({ "metadata": { "name": "web-data", "ownerReferences": [
            { "apiVersion": "v1", "kind": "Pod", "name": "web", "uid": "u", "controller": true }] } }),
        );
        let claim = claim.expect("a claim");
        let pod = |node: &str, phase: &str, volume: serde_json::Value| {
            let pod = json!({ "metadata": { "name": "web", "uid": "u" }, "status": { "phase": phase },
                "spec": { "nodeName": node, "containers": [], "volumes": [volume] } });
            Pod::from_value(&pod).expect("a pod")
        };
        let named = json!({ "name": "v", "persistentVolumeClaim": { "claimName": "web-data" } });
        let made = json!({ "name": "data", "ephemeral": {} });
        let cases = [
            (pod("n", "Running", named.clone()), true),
            (pod("n", "Succeeded", named.clone()), true),
            (pod("", "Pending", named), false),
            (pod("n", "Running", made.clone()), true),
            (pod("n", "Succeeded", made), false),
            (pod("n", "Running", json!({ "name": "data", "emptyDir": {} })), false),
        ];
        for (pod, used) in cases {
            assert_eq!(uses(&pod, &claim), used, "{pod:?}");
        }
    }
}
