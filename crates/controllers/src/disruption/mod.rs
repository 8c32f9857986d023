//! disruption: keeps the status of PodDisruptionBudgets, by which evictions are allowed or refused.

mod plan;

use crate::framework::claim::selects;
use crate::framework::pod_control::{about, controller_of};
use crate::framework::{Next, Reconcile, Start, run};
use knarr_api::Kind;
use knarr_api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use knarr_api::core::v1::{Pod, ReplicationController};
use knarr_api::policy::v1::PodDisruptionBudget;
use knarr_base::clock::BoxFuture;
use knarr_client::informer::Key;
use knarr_client::{Change, Error, Informer, Recorder, WorkQueue};
use plan::Expected;
use std::collections::HashMap;
use std::sync::Arc;

struct Budgets {
    start: Start,
    budgets: Informer<PodDisruptionBudget>,
    pods: Informer<Pod>,
    deployments: Informer<Deployment>,
    replica_sets: Informer<ReplicaSet>,
    stateful_sets: Informer<StatefulSet>,
    controllers: Informer<ReplicationController>,
    recorder: Recorder,
}

/// Starts the controller.
pub fn start(start: Start) {
    let informers = &start.informers;
    let controller = Budgets {
        budgets: informers.get(),
        pods: informers.get(),
        deployments: informers.get(),
        replica_sets: informers.get(),
        stateful_sets: informers.get(),
        controllers: informers.get(),
        recorder: Recorder::new(start.client.clone(), "controllermanager", ""),
        start: start.clone(),
    };
    let queue = WorkQueue::new(start.ctx.clone());
    let on_budget = queue.clone();
    controller.budgets.on_change(move |change: &Change<PodDisruptionBudget>| {
        if change.new.is_some() {
            on_budget.add(Key::of(&change.object().metadata));
        }
    });
    // A set that is scaled makes or deletes pods, so pods are all there is to follow.
    let (on_pod, known) = (queue.clone(), controller.budgets.clone());
    controller.pods.on_change(move |change: &Change<Pod>| {
        for budget in known.list(change.object().namespace()) {
            if change.old.iter().chain(&change.new).any(|pod| covers(&budget, pod)) {
                on_pod.add(Key::of(&budget.metadata));
            }
        }
    });
    let controller = Arc::new(controller);
    let ready = {
        let c = controller.clone();
        async move {
            c.budgets.synced().await;
            c.pods.synced().await;
            c.deployments.synced().await;
            c.replica_sets.synced().await;
            c.stateful_sets.synced().await;
            c.controllers.synced().await;
        }
    };
    run(&start, "disruption", 1, queue, ready, controller);
}

/// An empty selector covers every pod of the namespace, none covers none.
fn covers(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = budget.spec.as_ref().and_then(|s| s.selector.as_ref());
    selector.is_some_and(|s| selects(s, pod.metadata.labels.as_ref()))
}

impl Budgets {
    /// The sizes of the sets that control these pods, each once.
    fn expected(&self, pods: &[Arc<Pod>]) -> Expected {
        let mut sizes: HashMap<String, i32> = HashMap::new();
        for pod in pods {
            let Some(owner) = controller_of(&pod.metadata) else { continue };
            let (namespace, group) =
                (pod.namespace(), owner.api_version.rsplit_once('/').map_or("", |(g, _)| g));
            let same = |meta: &knarr_api::meta::v1::ObjectMeta| meta.uid.as_ref() == Some(&owner.uid);
            let of_set = |set: Arc<ReplicaSet>| {
                let above = controller_of(&set.metadata)?;
                let deployment = self.deployments.get(namespace, &above.name)?;
                (deployment.metadata.uid.as_ref() == Some(&above.uid)).then(|| {
                    (above.uid.clone(), deployment.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1))
                })
            };
            let size = match (group, owner.kind.as_str()) {
                ("apps", "ReplicaSet") => {
                    self.replica_sets.get(namespace, &owner.name).filter(|s| same(&s.metadata)).map(|set| {
                        let own = set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
                        of_set(set).unwrap_or((owner.uid.clone(), own))
                    })
                }
                ("apps", "StatefulSet") => {
                    let set = self.stateful_sets.get(namespace, &owner.name).filter(|s| same(&s.metadata));
                    set.map(|s| (owner.uid.clone(), s.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)))
                }
                ("", "ReplicationController") => {
                    let set = self.controllers.get(namespace, &owner.name).filter(|s| same(&s.metadata));
                    set.map(|s| (owner.uid.clone(), s.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)))
                }
                (group, kind) => {
                    let path = self.start.served.of_kind(group, kind).map(|row| row.path.resource);
                    let resource = path.unwrap_or_else(|| kind.to_lowercase());
                    let dot = if group.is_empty() { "" } else { "." };
                    return Expected::Unknown(format!(
                        "{resource}{dot}{group} does not implement the scale subresource"
                    ));
                }
            };
            match size {
                Some((uid, size)) => drop(sizes.insert(uid, size)),
                None => {
                    return Expected::Unknown(format!("found no controllers for pod \"{}\"", pod.name()));
                }
            }
        }
        Expected::Scale(sizes.values().sum())
    }
}

impl Reconcile for Budgets {
    fn sync<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Next, Error>> {
        Box::pin(async move {
            let Some(budget) = self.budgets.get_key(key) else { return Ok(Next::Done) };
            let mut pods = self.pods.list(&key.namespace);
            pods.retain(|pod| covers(&budget, pod));
            if pods.is_empty() {
                self.recorder.normal(&about(&*budget), "NoPods", "No matching pods found");
            }
            let expected = if plan::needs_scale(&budget) { self.expected(&pods) } else { Expected::Scale(0) };
            if let Expected::Unknown(why) = &expected {
                let message = format!("Failed to calculate the number of expected pods: {why}");
                self.recorder.warning(&about(&*budget), "CalculateExpectedPodCountFailed", message);
            }
            let plan = plan::plan(&budget, &pods, &expected, self.start.ctx.clock.now());
            if budget.status.as_ref() != Some(&plan.status) {
                let changed = PodDisruptionBudget { status: Some(plan.status), ..(*budget).clone() };
                self.start.client.update_status(&changed).await?;
            }
            Ok(plan.check_again.map_or(Next::Done, Next::After))
        })
    }
}
