//! Deployment: one ReplicaSet per pod template, scaled against each other by the strategy. Rolling back is a
//! client's matter: it writes an old template, whose ReplicaSet is then found again.

mod conditions;
mod hash;
mod replica_sets;
mod rolling;
mod sizes;

use crate::framework::claim::{Claim, is_empty, selects};
use crate::framework::pod_control::{controller_of, controller_ref};
use crate::framework::{Next, Reconcile, Start, pods, run};
use knarr_api::Kind;
use knarr_api::apps::v1::{Deployment, ReplicaSet};
use knarr_api::core::v1::Pod;
use knarr_base::clock::BoxFuture;
use knarr_client::informer::Key;
use knarr_client::recorder::reference;
use knarr_client::{Change, DeleteOptions, Error, Informer, Recorder, WorkQueue};
use replica_sets::{desired, revision, same_template};
use sizes::Sizes;
use std::sync::Arc;
use std::time::Duration;

/// Upstream's default of --concurrent-deployment-syncs.
const WORKERS: usize = 5;
/// Annotation with a ReplicaSet's place in the history.
const REVISION: &str = "deployment.kubernetes.io/revision";
/// Annotation with the revisions that a ReplicaSet had before it was rolled back to.
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// Annotation with the deployment's size when the ReplicaSet was last scaled; what proportional scaling starts from.
const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
/// The same with the surge.
const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
/// Label that tells the ReplicaSets of a deployment, and their pods, apart.
const TEMPLATE_HASH: &str = "pod-template-hash";

struct Deployments {
    start: Start,
    deployments: Informer<Deployment>,
    sets: Informer<ReplicaSet>,
    pods: Informer<Pod>,
    recorder: Recorder,
}

/// Starts the controller.
pub fn start(start: Start) {
    let deployments = start.informers.get::<Deployment>();
    let sets = start.informers.get::<ReplicaSet>();
    let pods = start.informers.get::<Pod>();
    let queue = WorkQueue::new(start.ctx.clone());

    let on_deployment = queue.clone();
    deployments.on_change(move |change| on_deployment.add(Key::of(&change.object().metadata)));
    let (on_set, known) = (queue.clone(), deployments.clone());
    sets.on_change(move |change: &Change<ReplicaSet>| {
        for set in change.old.iter().chain(&change.new) {
            wake_owner(set, &on_set, &known);
        }
    });
    // A Recreate deployment waits until the old pods are gone.
    let (on_pod, known) = (queue.clone(), sets.clone());
    pods.on_change(move |change: &Change<Pod>| {
        if change.new.is_none()
            && let Some(owner) = controller_of(&change.object().metadata).filter(|o| o.kind == "ReplicaSet")
        {
            let namespace = change.object().metadata.namespace.as_deref().unwrap_or_default();
            let set = known.get(namespace, &owner.name);
            if let Some(owner) = set.as_ref().and_then(|s| controller_of(&s.metadata)) {
                on_pod.add(Key::new(namespace, &owner.name));
            }
        }
    });

    let recorder = Recorder::new(start.client.clone(), "deployment-controller", "");
    let ready = {
        let (deployments, sets, pods) = (deployments.clone(), sets.clone(), pods.clone());
        async move {
            deployments.synced().await;
            sets.synced().await;
            pods.synced().await;
        }
    };
    let controller = Arc::new(Deployments { start: start.clone(), deployments, sets, pods, recorder });
    run(&start, "deployment", WORKERS, queue, ready, controller);
}

fn wake_owner(set: &ReplicaSet, queue: &WorkQueue<Key>, deployments: &Informer<Deployment>) {
    let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
    match controller_of(&set.metadata) {
        Some(owner) if owner.kind == "Deployment" => queue.add(Key::new(namespace, &owner.name)),
        Some(_) => {}
        None => {
            for deployment in deployments.list(namespace) {
                let selector = deployment.spec.as_ref().map(|s| &s.selector);
                if selector.is_some_and(|s| selects(s, set.metadata.labels.as_ref())) {
                    queue.add(Key::of(&deployment.metadata));
                }
            }
        }
    }
}

impl Reconcile for Deployments {
    fn sync<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Next, Error>> {
        Box::pin(self.reconcile(key))
    }
}

impl Deployments {
    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let Some(held) = self.deployments.get_key(key) else { return Ok(Next::Done) };
        let Some(spec) = held.spec.clone() else { return Ok(Next::Done) };
        let mut deployment = (*held).clone();
        if is_empty(&spec.selector) {
            let message = "This deployment is selecting all pods. A non-empty selector is required.";
            self.recorder.warning(&reference(&deployment), "SelectingAll", message);
            return Ok(Next::Done);
        }
        let deleting = deployment.metadata.deletion_timestamp.is_some();
        let owner = controller_ref(&deployment);
        let fresh = || async {
            let live = self.start.client.get::<Deployment>(&key.namespace, &key.name).await?;
            Ok(live.metadata.uid.as_deref() == Some(&owner.uid) && live.metadata.deletion_timestamp.is_none())
        };
        let claim = Claim {
            client: &self.start.client,
            namespace: &key.namespace,
            owner: &owner,
            selector: &spec.selector,
            deleting,
            finalizer: None,
        };
        let sets = claim.objects(&self.sets, fresh).await?;
        if deleting {
            return self.write_status(&deployment, None, &sets).await;
        }

        let paused = spec.paused == Some(true);
        if paused || self.is_scaling_event(&deployment, &sets) {
            let new = self.new_set(&mut deployment, &sets, false).await?;
            let old = others(&sets, new.as_ref());
            let (new, old) = self.scale_in_proportion(&deployment, new, old).await?;
            if paused {
                self.clean_up(&deployment, &old).await?;
            }
            let all: Vec<_> = old.into_iter().chain(new.clone()).collect();
            return self.write_status(&deployment, new.as_deref(), &all).await;
        }
        let (new, old) = match strategy(&deployment) {
            "Recreate" => self.recreate(&mut deployment, &sets).await?,
            _ => self.roll(&mut deployment, &sets).await?,
        };
        let all: Vec<_> = old.iter().cloned().chain(new.clone()).collect();
        if let Some(new) = &new
            && conditions::is_complete(&deployment, &Sizes::of(&all, Some(new)))
        {
            self.clean_up(&deployment, &old).await?;
        }
        self.write_status(&deployment, new.as_deref(), &all).await
    }

    /// Whether the deployment's size changed since its active ReplicaSets were last scaled.
    fn is_scaling_event(&self, deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> bool {
        let wanted = replicas(deployment).to_string();
        sets.iter().filter(|s| desired(s) > 0).any(|set| {
            let noted = set.metadata.annotations.as_ref().and_then(|a| a.get(DESIRED_REPLICAS));
            noted.is_some_and(|noted| *noted != wanted)
        })
    }

    async fn recreate(&self, deployment: &mut Deployment, sets: &[Arc<ReplicaSet>]) -> Result<Sets, Error> {
        let new = self.new_set(deployment, sets, false).await?;
        let mut old = others(sets, new.as_ref());
        let mut waiting = false;
        for set in &mut old {
            if desired(set) > 0 {
                *set = self.scale(deployment, set, 0).await?;
                waiting = true;
            }
            let left = self.pods.controlled_by(set.metadata.uid.as_deref().unwrap_or_default());
            waiting |= left.iter().any(|pod| !matches!(pods::phase(pod), "Succeeded" | "Failed"));
        }
        if waiting {
            return Ok((new, old));
        }
        let new = self.new_set(deployment, sets, true).await?;
        let new = match new {
            Some(new) if desired(&new) != replicas(deployment) => {
                Some(self.scale(deployment, &new, replicas(deployment)).await?)
            }
            new => new,
        };
        Ok((new, old))
    }

    async fn roll(&self, deployment: &mut Deployment, sets: &[Arc<ReplicaSet>]) -> Result<Sets, Error> {
        let Some(new) = self.new_set(deployment, sets, true).await? else { return Ok((None, sets.to_vec())) };
        let mut old = others(sets, Some(&new));
        let bounds = rolling::bounds(deployment);
        let target = rolling::new_replicas(&bounds, &new, &old);
        if target != desired(&new) {
            // One step at a time: what comes back wakes the next sync.
            let new = self.scale(deployment, &new, target).await?;
            return Ok((Some(new), old));
        }
        for (index, target) in rolling::old_replicas(&bounds, &new, &old) {
            old[index] = self.scale(deployment, &old[index], target).await?;
        }
        Ok((Some(new), old))
    }

    async fn scale_in_proportion(
        &self,
        deployment: &Deployment,
        mut new: Option<Arc<ReplicaSet>>,
        mut old: Vec<Arc<ReplicaSet>>,
    ) -> Result<Sets, Error> {
        for (index, target) in rolling::proportions(&rolling::bounds(deployment), new.as_deref(), &old) {
            let set = if index < old.len() {
                &mut old[index]
            } else {
                new.as_mut().expect("an index past the old is the new")
            };
            *set = self.scale(deployment, set, target).await?;
        }
        Ok((new, old))
    }

    /// Scales a ReplicaSet, or only refreshes its notes of the deployment's size, and says so.
    async fn scale(
        &self,
        deployment: &Deployment,
        set: &Arc<ReplicaSet>,
        target: i32,
    ) -> Result<Arc<ReplicaSet>, Error> {
        let bounds = rolling::bounds(deployment);
        let before = desired(set);
        let mut changed = (**set).clone();
        if let Some(spec) = &mut changed.spec {
            spec.replicas = Some(target);
        }
        let notes = changed.metadata.annotations.get_or_insert_default();
        notes.insert(DESIRED_REPLICAS.to_owned(), bounds.replicas.to_string());
        notes.insert(MAX_REPLICAS.to_owned(), (bounds.replicas + bounds.max_surge).to_string());
        if changed == **set {
            return Ok(set.clone());
        }
        let changed = self.start.client.update(&changed).await?;
        if before != target {
            let direction = if target > before { "up" } else { "down" };
            let message = format!("Scaled {direction} replica set {} from {before} to {target}", set.name());
            self.recorder.normal(&reference(deployment), "ScalingReplicaSet", message);
        }
        Ok(Arc::new(changed))
    }

    /// The ReplicaSet of the deployment's template: found, brought to the newest revision, or made.
    async fn new_set(
        &self,
        deployment: &mut Deployment,
        sets: &[Arc<ReplicaSet>],
        make: bool,
    ) -> Result<Option<Arc<ReplicaSet>>, Error> {
        let found = replica_sets::find_new(deployment, sets);
        let newest_old =
            sets.iter().filter(|s| found.as_ref().is_none_or(|f| f.metadata.uid != s.metadata.uid));
        let next = newest_old.map(|s| revision(s)).max().unwrap_or_default() + 1;
        if let Some(found) = found {
            let changed = replica_sets::refreshed(deployment, &found, next);
            let set =
                if changed == *found { found } else { Arc::new(self.start.client.update(&changed).await?) };
            self.note_revision(deployment, revision(&set)).await?;
            return Ok(Some(set));
        }
        if !make {
            return Ok(None);
        }
        let mut set = replica_sets::make(deployment, next);
        let bounds = rolling::bounds(deployment);
        let old: Vec<_> = sets.to_vec();
        let target = if strategy(deployment) == "Recreate" {
            bounds.replicas
        } else {
            rolling::new_replicas(&bounds, &set, &old)
        };
        if let Some(spec) = &mut set.spec {
            spec.replicas = Some(target);
        }
        match self.start.client.create(&set).await {
            Ok(made) => {
                if target > 0 {
                    let message = format!("Scaled up replica set {} from 0 to {target}", made.name());
                    self.recorder.normal(&reference(deployment), "ScalingReplicaSet", message);
                }
                self.note_revision(deployment, next).await?;
                Ok(Some(Arc::new(made)))
            }
            Err(error) if error.is_conflict() => {
                let there = self.start.client.get::<ReplicaSet>(deployment.namespace(), set.name()).await?;
                let ours = controller_of(&there.metadata)
                    .is_some_and(|o| Some(&o.uid) == deployment.metadata.uid.as_ref());
                if ours && same_template(&there, deployment) {
                    return Ok(Some(Arc::new(there)));
                }
                // It has just become an orphan: it is taken on as soon as the informer tells of it.
                let selector = deployment.spec.as_ref().map(|s| &s.selector);
                if controller_of(&there.metadata).is_none()
                    && same_template(&there, deployment)
                    && selector.is_some_and(|s| selects(s, there.metadata.labels.as_ref()))
                {
                    return Err(error);
                }
                // Another template has the same hash: count up and come again with another.
                let status = deployment.status.get_or_insert_default();
                status.collision_count = Some(status.collision_count.unwrap_or_default() + 1);
                self.start.client.update_status(deployment).await?;
                Err(error)
            }
            Err(error) => {
                let message = format!("Failed to create new replica set \"{}\": {error}", set.name());
                self.recorder.warning(&reference(deployment), "ReplicaSetCreateError", message);
                Err(error)
            }
        }
    }

    async fn note_revision(&self, deployment: &mut Deployment, revision: i64) -> Result<(), Error> {
        let text = revision.to_string();
        if deployment.metadata.annotations.as_ref().and_then(|a| a.get(REVISION)) == Some(&text) {
            return Ok(());
        }
        let mut changed = deployment.clone();
        changed.metadata.annotations.get_or_insert_default().insert(REVISION.to_owned(), text);
        *deployment = self.start.client.update(&changed).await?;
        Ok(())
    }

    /// Deletes the oldest unused ReplicaSets beyond revisionHistoryLimit.
    async fn clean_up(&self, deployment: &Deployment, old: &[Arc<ReplicaSet>]) -> Result<(), Error> {
        let limit = deployment.spec.as_ref().and_then(|s| s.revision_history_limit).unwrap_or(10);
        let mut unused: Vec<_> = old.iter().filter(|s| replica_sets::is_unused(s)).collect();
        unused.sort_by_key(|s| (revision(s), s.metadata.creation_timestamp.as_ref().map(|t| t.0)));
        let surplus = unused.len().saturating_sub(usize::try_from(limit).unwrap_or_default());
        for set in unused.into_iter().take(surplus) {
            let options = DeleteOptions { uid: set.metadata.uid.clone(), ..DeleteOptions::default() };
            match self.start.client.delete::<ReplicaSet>(set.namespace(), set.name(), &options).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    async fn write_status(
        &self,
        deployment: &Deployment,
        new: Option<&ReplicaSet>,
        all: &[Arc<ReplicaSet>],
    ) -> Result<Next, Error> {
        let now = self.start.ctx.clock.now();
        let sizes = Sizes::of(all, new);
        let status = conditions::status(deployment, &sizes, new, now);
        if deployment.status.as_ref() != Some(&status) {
            let changed = Deployment { status: Some(status), ..deployment.clone() };
            self.start.client.update_status(&changed).await?;
            return Ok(Next::Done); // its own change wakes the next sync
        }
        Ok(conditions::deadline(deployment, now).map_or(Next::Done, |wait: Duration| Next::After(wait)))
    }
}

type Sets = (Option<Arc<ReplicaSet>>, Vec<Arc<ReplicaSet>>);

/// All sets but the new one.
fn others(sets: &[Arc<ReplicaSet>], new: Option<&Arc<ReplicaSet>>) -> Vec<Arc<ReplicaSet>> {
    sets.iter().filter(|s| new.is_none_or(|n| n.metadata.uid != s.metadata.uid)).cloned().collect()
}

/// The wanted size.
fn replicas(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

fn strategy(deployment: &Deployment) -> &str {
    let strategy = deployment.spec.as_ref().and_then(|s| s.strategy.as_ref());
    strategy.and_then(|s| s.type_.as_deref()).unwrap_or("RollingUpdate")
}
