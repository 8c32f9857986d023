//! StatefulSet: pods with names and claims that stay, made and replaced in order.

mod plan;
mod pods;

use crate::framework::claim::{Claim, selects};
use crate::framework::history::{self, History};
use crate::framework::pod_control::{about, controller_of, controller_ref};
use crate::framework::{Next, Reconcile, Start, run};
use knarr_api::Kind;
use knarr_api::apps::v1::{ControllerRevision, StatefulSet};
use knarr_api::core::v1::{PersistentVolumeClaim, Pod};
use knarr_base::clock::BoxFuture;
use knarr_client::informer::Key;
use knarr_client::{Change, DeleteOptions, Error, Informer, Recorder, WorkQueue};
use plan::{Action, Plan};
use std::sync::Arc;

/// Upstream's default of --concurrent-statefulset-syncs.
const WORKERS: usize = 5;

struct StatefulSets {
    start: Start,
    sets: Informer<StatefulSet>,
    pods: Informer<Pod>,
    revisions: Informer<ControllerRevision>,
    recorder: Recorder,
}

/// Starts the controller.
pub fn start(start: Start) {
    let sets = start.informers.get::<StatefulSet>();
    let all_pods = start.informers.get::<Pod>();
    let revisions = start.informers.get::<ControllerRevision>();
    let queue = WorkQueue::new(start.ctx.clone());
    let on_set = queue.clone();
    sets.on_change(move |change| on_set.add(Key::of(&change.object().metadata)));
    history::wake::<StatefulSet>(&revisions, &queue);
    let (on_pod, known) = (queue.clone(), sets.clone());
    all_pods.on_change(move |change: &Change<Pod>| {
        for pod in change.old.iter().chain(&change.new) {
            match controller_of(&pod.metadata) {
                Some(owner) if owner.kind == StatefulSet::KIND => {
                    on_pod.add(Key::new(pod.namespace(), &owner.name));
                }
                Some(_) => {}
                None => {
                    for set in known.list(pod.namespace()) {
                        let selector = set.spec.as_ref().map(|s| &s.selector);
                        if selector.is_some_and(|s| selects(s, pod.metadata.labels.as_ref())) {
                            on_pod.add(Key::of(&set.metadata));
                        }
                    }
                }
            }
        }
    });
    let recorder = Recorder::new(start.client.clone(), "statefulset-controller", "");
    let ready = {
        let (sets, pods, revisions) = (sets.clone(), all_pods.clone(), revisions.clone());
        async move {
            sets.synced().await;
            pods.synced().await;
            revisions.synced().await;
        }
    };
    let controller =
        Arc::new(StatefulSets { start: start.clone(), sets, pods: all_pods, revisions, recorder });
    run(&start, "statefulset", WORKERS, queue, ready, controller);
}

impl Reconcile for StatefulSets {
    fn sync<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Next, Error>> {
        Box::pin(self.reconcile(key))
    }
}

impl StatefulSets {
    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let Some(set) = self.sets.get_key(key) else { return Ok(Next::Done) };
        let Some(spec) = set.spec.clone() else { return Ok(Next::Done) };
        let client = &self.start.client;
        let owner = controller_ref(&*set);
        let claim = Claim {
            client,
            namespace: &key.namespace,
            owner: &owner,
            selector: &spec.selector,
            deleting: set.metadata.deletion_timestamp.is_some(),
            finalizer: None,
        };
        let fresh = || async {
            let live = client.get::<StatefulSet>(&key.namespace, &key.name).await?;
            Ok(live.metadata.uid == set.metadata.uid && live.metadata.deletion_timestamp.is_none())
        };
        let pods = claim.objects(&self.pods, fresh).await?;
        let status = set.status.clone().unwrap_or_default();
        let history = history::keep(
            client,
            &self.revisions,
            &*set,
            &spec.selector,
            &spec.template,
            status.collision_count,
        )
        .await?;
        let update = history.newest().name().to_owned();
        let current = status.current_revision.clone().filter(|name| history.named(name).is_some());
        let current = current.unwrap_or_else(|| update.clone());
        let plan = plan::plan(&set, &pods, &current, &update, self.start.ctx.clock.now());
        let done = self.act(&set, &plan, &history, &current).await;
        let mut wanted = plan.status.clone();
        wanted.collision_count = history.collisions;
        if set.status.as_ref() != Some(&wanted) {
            client.update_status(&StatefulSet { status: Some(wanted), ..(*set).clone() }).await?;
        }
        done?;
        let in_use = |revision: &ControllerRevision| {
            let name = revision.name();
            name == current || pods.iter().any(|p| history::revision_of(&p.metadata) == Some(name))
        };
        history::truncate(client, &history, spec.revision_history_limit, in_use).await?;
        Ok(plan.check_again.map_or(Next::Done, Next::After))
    }

    async fn act(
        &self,
        set: &StatefulSet,
        plan: &Plan,
        history: &History,
        current: &str,
    ) -> Result<(), Error> {
        let of_set = |pod: &str| format!("Pod {pod} in StatefulSet {}", set.name());
        for action in &plan.actions {
            match action {
                Action::Create(ordinal, old) => {
                    let revision = history.named(current).filter(|_| *old).unwrap_or(history.newest());
                    let Some(template) = history::template_of(revision) else { continue };
                    let pod = pods::make(set, &template, revision.name(), *ordinal);
                    self.make_claims(set, *ordinal, pod.name()).await?;
                    match self.start.client.create(&pod).await {
                        Ok(_) => {
                            let message = format!("create {} successful", of_set(pod.name()));
                            self.recorder.normal(&about(set), "SuccessfulCreate", message);
                        }
                        // Made already, and not seen yet; or the name is still taken, and its going is an event.
                        Err(error) if error.is_conflict() => {}
                        Err(error) => {
                            let message = format!("create {} failed error: {error}", of_set(pod.name()));
                            self.recorder.warning(&about(set), "FailedCreate", message);
                            return Err(error);
                        }
                    }
                }
                Action::Delete(pod) => {
                    let options = DeleteOptions { uid: pod.metadata.uid.clone(), ..DeleteOptions::default() };
                    match self.start.client.delete::<Pod>(pod.namespace(), pod.name(), &options).await {
                        Ok(()) => {
                            let message = format!("delete {} successful", of_set(pod.name()));
                            self.recorder.normal(&about(set), "SuccessfulDelete", message);
                        }
                        Err(error) if error.is_not_found() || error.is_conflict() => {}
                        Err(error) => {
                            let message = format!("delete {} failed error: {error}", of_set(pod.name()));
                            self.recorder.warning(&about(set), "FailedDelete", message);
                            return Err(error);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    async fn make_claims(&self, set: &StatefulSet, ordinal: i32, pod: &str) -> Result<(), Error> {
        for claim in pods::claims(set, ordinal) {
            let (namespace, name) = (claim.namespace().to_owned(), claim.name().to_owned());
            if self.start.client.get_opt::<PersistentVolumeClaim>(&namespace, &name).await?.is_some() {
                continue;
            }
            let what = format!("create Claim {name} Pod {pod} in StatefulSet {}", set.name());
            match self.start.client.create(&claim).await {
                Ok(_) => self.recorder.normal(&about(set), "SuccessfulCreate", format!("{what} success")),
                Err(error) if error.is_conflict() => {}
                Err(error) => {
                    self.recorder.warning(
                        &about(set),
                        "FailedCreate",
                        format!("{what} failed error: {error}"),
                    );
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}
