//! ReplicaSet and ReplicationController: keep a number of pods of one template. Both are the same controller over
//! a common view, as upstream's are.

mod plan;
mod status;
mod view;

use crate::framework::claim::Claim;
use crate::framework::expectations::Expectations;
use crate::framework::pod_control::{PodControl, about, controller_of, controller_ref, pod_from};
use crate::framework::{Next, Reconcile, Start, namespace_goes, pods, run};
use futures_util::future::join_all;
use knarr_api::apps::v1::ReplicaSet;
use knarr_api::core::v1::{Pod, ReplicationController};
use knarr_base::clock::BoxFuture;
use knarr_client::informer::Key;
use knarr_client::{Change, Error, Informer, Recorder, WorkQueue};
use std::sync::Arc;
use std::time::Duration;
use view::Replicated;

/// Upstream's default of --concurrent-replicaset-syncs and --concurrent-rc-syncs.
const WORKERS: usize = 5;

struct Replicas<K: Replicated> {
    start: Start,
    sets: Informer<K>,
    pods: Informer<Pod>,
    control: PodControl,
    expectations: Arc<Expectations>,
}

/// Starts the ReplicaSet controller.
pub fn start_replica_sets(start: Start) {
    launch::<ReplicaSet>(start, "replicaset", "replicaset-controller");
}

/// Starts the ReplicationController controller.
pub fn start_replication_controllers(start: Start) {
    launch::<ReplicationController>(start, "replicationcontroller", "replication-controller");
}

fn launch<K: Replicated>(start: Start, name: &'static str, component: &str) {
    let (sets, all_pods) = (start.informers.get::<K>(), start.informers.get::<Pod>());
    let queue = WorkQueue::new(start.ctx.clone());
    let expectations = Arc::new(Expectations::new(start.ctx.clone()));

    let (on_set, expected) = (queue.clone(), expectations.clone());
    sets.on_change(move |change: &Change<K>| {
        if change.new.is_none() {
            expected.forget(change.object().meta().uid.as_deref().unwrap_or_default());
        }
        on_set.add(Key::of(change.object().meta()));
    });
    let (on_pod, expected, known) = (queue.clone(), expectations.clone(), sets.clone());
    all_pods.on_change(move |change: &Change<Pod>| pod_changed(change, &on_pod, &expected, &known));

    let recorder = Recorder::new(start.client.clone(), component, "");
    let controller = Arc::new(Replicas {
        control: PodControl::new(start.client.clone(), recorder),
        sets: sets.clone(),
        pods: all_pods.clone(),
        expectations,
        start: start.clone(),
    });
    let ready = async move {
        sets.synced().await;
        all_pods.synced().await;
    };
    run(&start, name, WORKERS, queue, ready, controller);
}

fn pod_changed<K: Replicated>(
    change: &Change<Pod>,
    queue: &WorkQueue<Key>,
    expectations: &Expectations,
    sets: &Informer<K>,
) {
    let pod = change.object();
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let wake = |pod: &Pod| {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let owner = controller_of(&pod.metadata).filter(|o| o.kind == K::KIND)?;
        queue.add(Key::new(namespace, &owner.name));
        Some(owner.uid.clone())
    };
    let leaving = |pod: &Pod| pod.metadata.deletion_timestamp.is_some();
    match (&change.old, &change.new) {
        (None, Some(new)) => match wake(new) {
            Some(owner) if leaving(new) => expectations.deleted(&owner, uid),
            Some(owner) => expectations.created(&owner),
            None => wake_matching(new, queue, sets),
        },
        (Some(old), None) => {
            if let Some(owner) = wake(old) {
                expectations.deleted(&owner, uid);
            }
        }
        (Some(old), Some(new)) => {
            if let Some(owner) = wake(new).filter(|_| leaving(new) && !leaving(old)) {
                expectations.deleted(&owner, uid);
            }
            if controller_of(&old.metadata) != controller_of(&new.metadata) {
                wake(old);
            }
            if controller_of(&new.metadata).is_none()
                && (old.metadata.labels != new.metadata.labels || controller_of(&old.metadata).is_some())
            {
                wake_matching(new, queue, sets);
            }
        }
        (None, None) => {}
    }
}

/// An orphan may be adopted by any set whose selector matches it.
fn wake_matching<K: Replicated>(pod: &Pod, queue: &WorkQueue<Key>, sets: &Informer<K>) {
    if controller_of(&pod.metadata).is_some() || pod.metadata.deletion_timestamp.is_some() {
        return;
    }
    for set in sets.list(pod.metadata.namespace.as_deref().unwrap_or_default()) {
        if crate::framework::claim::selects(&set.selector(), pod.metadata.labels.as_ref()) {
            queue.add(Key::of(set.meta()));
        }
    }
}

impl<K: Replicated> Reconcile for Replicas<K> {
    fn sync<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Next, Error>> {
        Box::pin(self.reconcile(key))
    }
}

impl<K: Replicated> Replicas<K> {
    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let Some(set) = self.sets.get_key(key) else { return Ok(Next::Done) };
        let uid = set.meta().uid.clone().unwrap_or_default();
        let settled = self.expectations.satisfied(&uid);
        let owner = controller_ref(&*set);
        let deleting = set.meta().deletion_timestamp.is_some();
        let fresh = || async {
            let live = self.start.client.get::<K>(&key.namespace, &key.name).await?;
            Ok(live.meta().uid.as_deref() == Some(&uid) && live.meta().deletion_timestamp.is_none())
        };
        let claim = Claim {
            client: &self.start.client,
            namespace: &key.namespace,
            owner: &owner,
            selector: &set.selector(),
            deleting,
            finalizer: None,
        };
        let claimed = claim.objects(&self.pods, fresh).await?;
        let terminating = claimed.iter().filter(|pod| pods::is_terminating(pod)).count() as i32;
        let active: Vec<Arc<Pod>> = claimed.into_iter().filter(|pod| pods::is_active(pod)).collect();

        let mut failure = None;
        if settled && !deleting {
            failure = self.scale(&*set, &uid, &active).await;
        }
        let now = self.start.ctx.clock.now();
        let next = self.write_status(&*set, &active, terminating, failure.as_ref(), now).await?;
        match failure {
            Some((_, error)) => Err(error),
            None => Ok(next),
        }
    }

    /// Creates or deletes pods; what failed comes back with upstream's reason for the condition.
    async fn scale(&self, set: &K, uid: &str, active: &[Arc<Pod>]) -> Option<(&'static str, Error)> {
        let about = about(set);
        match plan::plan(set.replicas(), active) {
            plan::Plan::Nothing => None,
            plan::Plan::Create(count) => {
                self.expectations.expect(uid, count, []);
                let owner = controller_ref(set);
                let namespace = set.meta().namespace.clone().unwrap_or_default();
                let template = set.template();
                let (missing, error) = self
                    .control
                    .create_batch(&about, count, |_| pod_from(&template, &namespace, owner.clone()))
                    .await;
                (0..missing).for_each(|_| self.expectations.created(uid));
                error.filter(|e| !namespace_goes(e)).map(|e| ("FailedCreate", e))
            }
            plan::Plan::Delete(victims) => {
                let uid_of = |pod: &Arc<Pod>| pod.metadata.uid.clone().unwrap_or_default();
                self.expectations.expect(uid, 0, victims.iter().map(uid_of));
                let results = join_all(victims.iter().map(|pod| self.control.delete(&about, pod))).await;
                let mut failure = None;
                for (pod, result) in victims.iter().zip(results) {
                    if let Err(error) = result {
                        self.expectations.deleted(uid, &uid_of(pod));
                        if !error.is_not_found() {
                            failure = Some(("FailedDelete", error));
                        }
                    }
                }
                failure
            }
        }
    }

    async fn write_status(
        &self,
        set: &K,
        active: &[Arc<Pod>],
        terminating: i32,
        failure: Option<&(&'static str, Error)>,
        now: std::time::SystemTime,
    ) -> Result<Next, Error> {
        let counts = status::Counts { terminating, ..status::count(set, active, now) };
        if let Some(changed) =
            set.with_status(&counts, failure.map(|(reason, e)| (*reason, e.to_string())), now)
        {
            self.start.client.update_status(&changed).await?;
        }
        Ok(counts.check_again.map_or(Next::Done, |delay: Duration| Next::After(delay)))
    }
}
