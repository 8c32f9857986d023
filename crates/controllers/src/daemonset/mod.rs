//! DaemonSet: one pod of a template on each node that fits. The pods are pinned to their nodes and bound by the
//! scheduler.

mod nodes;
mod plan;

use crate::framework::claim::{Claim, selects};
use crate::framework::expectations::Expectations;
use crate::framework::history::{self, REVISION_HASH};
use crate::framework::pod_control::{PodControl, about, controller_of, controller_ref, pod_from};
use crate::framework::{Next, Reconcile, Start, run};
use futures_util::future::join_all;
use knarr_api::Kind;
use knarr_api::apps::v1::{ControllerRevision, DaemonSet};
use knarr_api::core::v1::{Node, Pod};
use knarr_base::clock::BoxFuture;
use knarr_client::informer::Key;
use knarr_client::{Change, Error, Informer, Recorder, WorkQueue};
use plan::Plan;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Upstream's default of --concurrent-daemonset-syncs.
const WORKERS: usize = 2;

struct DaemonSets {
    start: Start,
    sets: Informer<DaemonSet>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    revisions: Informer<ControllerRevision>,
    control: PodControl,
    recorder: Recorder,
    expectations: Arc<Expectations>,
    /// Pods of a set that failed on a node, by UID and node: how many in a row, and when one was last replaced.
    failed: Mutex<HashMap<String, (u32, Instant)>>,
}

/// The first failed pod on a node is replaced at once, the next after this long, doubling up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(900);

/// Starts the controller.
pub fn start(start: Start) {
    let sets = start.informers.get::<DaemonSet>();
    let pods = start.informers.get::<Pod>();
    let all_nodes = start.informers.get::<Node>();
    let revisions = start.informers.get::<ControllerRevision>();
    let queue = WorkQueue::new(start.ctx.clone());
    let expectations = Arc::new(Expectations::new(start.ctx.clone()));
    let (on_set, expected) = (queue.clone(), expectations.clone());
    sets.on_change(move |change: &Change<DaemonSet>| {
        if change.new.is_none() {
            expected.forget(change.object().metadata.uid.as_deref().unwrap_or_default());
        }
        on_set.add(Key::of(&change.object().metadata));
    });
    history::wake::<DaemonSet>(&revisions, &queue);
    let (on_pod, expected, known) = (queue.clone(), expectations.clone(), sets.clone());
    pods.on_change(move |change: &Change<Pod>| pod_changed(change, &on_pod, &expected, &known));
    let (on_node, known) = (queue.clone(), sets.clone());
    all_nodes.on_change(move |change: &Change<Node>| {
        let of = |node: &Option<Arc<Node>>| {
            let node = node.as_ref()?;
            Some((node.metadata.labels.clone(), node.spec.as_ref().and_then(|s| s.taints.clone())))
        };
        if of(&change.old) != of(&change.new) {
            known.list("").iter().for_each(|set| on_node.add(Key::of(&set.metadata)));
        }
    });
    let recorder = Recorder::new(start.client.clone(), "daemonset-controller", "");
    let ready = {
        let (sets, pods, nodes, revisions) =
            (sets.clone(), pods.clone(), all_nodes.clone(), revisions.clone());
        async move {
            sets.synced().await;
            pods.synced().await;
            nodes.synced().await;
            revisions.synced().await;
        }
    };
    let controller = Arc::new(DaemonSets {
        control: PodControl::new(start.client.clone(), recorder.clone()),
        start: start.clone(),
        sets,
        pods,
        nodes: all_nodes,
        revisions,
        recorder,
        expectations,
        failed: Mutex::default(),
    });
    run(&start, "daemonset", WORKERS, queue, ready, controller);
}

fn pod_changed(
    change: &Change<Pod>,
    queue: &WorkQueue<Key>,
    expectations: &Expectations,
    sets: &Informer<DaemonSet>,
) {
    let pod = change.object();
    let owner = |pod: &Pod| controller_of(&pod.metadata).filter(|o| o.kind == DaemonSet::KIND).cloned();
    for pod in change.old.iter().chain(&change.new) {
        if let Some(owner) = owner(pod) {
            queue.add(Key::new(pod.namespace(), &owner.name));
        }
    }
    let leaving = change.new.is_none() || pod.metadata.deletion_timestamp.is_some();
    match owner(pod) {
        Some(owner) if leaving => {
            expectations.deleted(&owner.uid, pod.metadata.uid.as_deref().unwrap_or_default());
        }
        Some(owner) if change.old.is_none() => expectations.created(&owner.uid),
        None if controller_of(&pod.metadata).is_none() && !leaving => {
            for set in sets.list(pod.namespace()) {
                let selector = set.spec.as_ref().map(|s| &s.selector);
                if selector.is_some_and(|s| selects(s, pod.metadata.labels.as_ref())) {
                    queue.add(Key::of(&set.metadata));
                }
            }
        }
        _ => {}
    }
}

impl Reconcile for DaemonSets {
    fn sync<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Next, Error>> {
        Box::pin(self.reconcile(key))
    }
}

impl DaemonSets {
    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let Some(set) = self.sets.get_key(key) else { return Ok(Next::Done) };
        let Some(spec) = set.spec.clone() else { return Ok(Next::Done) };
        if crate::framework::claim::is_empty(&spec.selector) {
            let message = "This daemon set is selecting all pods. A non-empty selector is required.";
            self.recorder.warning(&about(&*set), "SelectingAll", message);
            return Ok(Next::Done);
        }
        let uid = set.metadata.uid.clone().unwrap_or_default();
        let deleting = set.metadata.deletion_timestamp.is_some();
        if deleting {
            return Ok(Next::Done);
        }
        let settled = self.expectations.satisfied(&uid);
        let client = &self.start.client;
        let owner = controller_ref(&*set);
        let claim = Claim {
            client,
            namespace: &key.namespace,
            owner: &owner,
            selector: &spec.selector,
            deleting,
            finalizer: None,
        };
        let fresh = || async {
            let live = client.get::<DaemonSet>(&key.namespace, &key.name).await?;
            Ok(live.metadata.uid == set.metadata.uid && live.metadata.deletion_timestamp.is_none())
        };
        let pods = claim.objects(&self.pods, fresh).await?;
        let collisions = set.status.as_ref().and_then(|s| s.collision_count);
        let history =
            history::keep(client, &self.revisions, &*set, &spec.selector, &spec.template, collisions).await?;
        let hash = history::hash_of(history.newest()).to_owned();
        let now = self.start.ctx.clock.now();
        let mut plan = plan::plan(&set, &self.nodes.list(""), &pods, &hash, now);
        if settled {
            self.hold_back(&uid, &mut plan);
        }
        let done = if settled { self.act(&set, &uid, &hash, &plan).await } else { Ok(()) };
        let mut status = plan.status.clone();
        status.collision_count = history.collisions;
        if set.status.as_ref() != Some(&status) {
            client.update_status(&DaemonSet { status: Some(status), ..(*set).clone() }).await?;
        }
        done?;
        let in_use = |revision: &ControllerRevision| {
            let hash = history::hash_of(revision);
            pods.iter().any(|p| history::revision_of(&p.metadata) == Some(hash))
        };
        history::truncate(client, &history, spec.revision_history_limit, in_use).await?;
        Ok(plan.check_again.map_or(Next::Done, Next::After))
    }

    /// Leaves failed pods that come too fast where they are for now.
    fn hold_back(&self, uid: &str, plan: &mut Plan) {
        let now = self.start.ctx.clock.instant();
        let mut failed = self.failed.lock().expect("back-off lock is never poisoned");
        failed.retain(|_, (_, last)| now.saturating_duration_since(*last) < LONGEST_PAUSE * 2);
        let held: Vec<_> = std::mem::take(&mut plan.failed);
        for pod in held {
            let key = format!("{uid}/{}", nodes::node_of(&pod).unwrap_or_default());
            let left = failed.get(&key).map_or(Duration::ZERO, |(count, last)| {
                let pause = FIRST_PAUSE.saturating_mul(1u32.checked_shl(*count - 1).unwrap_or(u32::MAX));
                pause.min(LONGEST_PAUSE).saturating_sub(now.saturating_duration_since(*last))
            });
            if left.is_zero() {
                let entry = failed.entry(key).or_insert((0, now));
                *entry = (entry.0 + 1, now);
                plan.failed.push(pod);
            } else {
                plan.delete.retain(|p| p.metadata.uid != pod.metadata.uid);
                plan.check_again = Some(plan.check_again.map_or(left, |c| c.min(left)));
            }
        }
    }

    async fn act(&self, set: &DaemonSet, uid: &str, hash: &str, plan: &Plan) -> Result<(), Error> {
        if plan.create.is_empty() && plan.delete.is_empty() {
            return Ok(());
        }
        let about = about(set);
        for pod in &plan.failed {
            let node = nodes::node_of(pod).unwrap_or_default();
            let message = format!(
                "Found failed daemon pod {}/{} on node {node}, will try to kill it",
                pod.namespace(),
                pod.name()
            );
            self.recorder.warning(&about, "FailedDaemonPod", message);
        }
        let uid_of = |pod: &Arc<Pod>| pod.metadata.uid.clone().unwrap_or_default();
        self.expectations.expect(uid, plan.create.len(), plan.delete.iter().map(uid_of));
        let pod = |position: usize| self.pod(set, hash, &plan.create[position]);
        let (missing, mut failure) = self.control.create_batch(&about, plan.create.len(), pod).await;
        (0..missing).for_each(|_| self.expectations.created(uid));
        let results = join_all(plan.delete.iter().map(|pod| self.control.delete(&about, pod))).await;
        for (pod, result) in plan.delete.iter().zip(results) {
            if let Err(error) = result {
                self.expectations.deleted(uid, &uid_of(pod));
                if !error.is_not_found() {
                    failure = Some(error);
                }
            }
        }
        failure.map_or(Ok(()), Err)
    }

    fn pod(&self, set: &DaemonSet, hash: &str, node: &str) -> Pod {
        let template = set.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
        let mut pod = pod_from(&template, set.namespace(), controller_ref(set));
        let labels = pod.metadata.labels.get_or_insert_default();
        labels.insert(REVISION_HASH.to_owned(), hash.to_owned());
        let generation = set.metadata.annotations.as_ref();
        if let Some(generation) = generation.and_then(|a| a.get("deprecated.daemonset.template.generation")) {
            labels.insert("pod-template-generation".to_owned(), generation.clone());
        }
        let spec = pod.spec.get_or_insert_default();
        nodes::tolerate(spec);
        nodes::pin(spec, node);
        pod
    }
}
