//! horizontal-pod-autoscaler: changes the replicas of what has a scale so that metrics come near their targets.
//! <https://kubernetes.io/docs/concepts/workloads/autoscaling/horizontal-pod-autoscale/>

mod calculator;
mod limits;
mod metrics;
mod round;
mod targets;

use crate::framework::{Next, Reconcile, Start, run};
use knarr_api::autoscaling::v2::HorizontalPodAutoscaler;
use knarr_api::core::v1::Pod;
use knarr_base::clock::BoxFuture;
use knarr_client::informer::{Change, Key};
use knarr_client::{Error, Informer, Recorder, WorkQueue};
use knarr_meta::selector::LabelSelector;
use limits::Memory;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Upstream's default of --concurrent-horizontal-pod-autoscaler-syncs.
const WORKERS: usize = 5;
/// Upstream's default of --horizontal-pod-autoscaler-sync-period: metrics cannot be watched.
const PERIOD: Duration = Duration::from_secs(15);

struct Autoscalers {
    start: Start,
    autoscalers: Informer<HorizontalPodAutoscaler>,
    pods: Informer<Pod>,
    recorder: Recorder,
    /// What each remembers, by UID.
    memories: Mutex<HashMap<String, Memory>>,
    /// What each selects, by key: no pod may belong to two.
    selectors: Mutex<HashMap<Key, LabelSelector>>,
}

/// Starts the controller.
pub fn start(start: Start) {
    let autoscalers = start.informers.get::<HorizontalPodAutoscaler>();
    let pods = start.informers.get::<Pod>();
    let queue = WorkQueue::new(start.ctx.clone());
    let on_change = queue.clone();
    autoscalers.on_change(move |change: &Change<HorizontalPodAutoscaler>| {
        let same =
            |old: &Arc<HorizontalPodAutoscaler>| change.new.as_ref().is_some_and(|new| new.spec == old.spec);
        // Its status is written here, and is no reason to look again.
        if !change.old.as_ref().is_some_and(same) {
            on_change.add(Key::of(&change.object().metadata));
        }
    });
    let ready = {
        let (autoscalers, pods) = (autoscalers.clone(), pods.clone());
        async move {
            autoscalers.synced().await;
            pods.synced().await;
        }
    };
    let controller = Arc::new(Autoscalers {
        recorder: Recorder::new(start.client.clone(), "horizontal-pod-autoscaler", ""),
        start: start.clone(),
        autoscalers,
        pods,
        memories: Mutex::default(),
        selectors: Mutex::default(),
    });
    run(&start, "horizontal-pod-autoscaler", WORKERS, queue, ready, controller);
}

impl Autoscalers {
    /// Works on what an autoscaler remembers.
    fn remember<T>(&self, uid: &str, work: impl FnOnce(&mut Memory) -> T) -> T {
        let mut memories = self.memories.lock().expect("the lock is never poisoned");
        work(memories.entry(uid.to_owned()).or_default())
    }

    /// Forgets what is not there any more.
    fn forget_gone(&self, key: &Key) {
        self.selectors.lock().expect("the lock is never poisoned").remove(key);
        let live: Vec<String> =
            self.autoscalers.list("").iter().filter_map(|a| a.metadata.uid.clone()).collect();
        self.memories.lock().expect("the lock is never poisoned").retain(|uid, _| live.contains(uid));
    }
}

impl Reconcile for Autoscalers {
    fn sync<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Next, Error>> {
        Box::pin(async move {
            let Some(autoscaler) = self.autoscalers.get_key(key) else {
                self.forget_gone(key);
                return Ok(Next::Done);
            };
            let mut round = round::Round::new(self, &autoscaler);
            // What goes wrong is told by events and conditions; it may go right the next time.
            if let Err(problem) = round.work().await {
                tracing::debug!(autoscaler = %key, problem, "not scaled");
            }
            let changed = round.into_object();
            if changed.status != autoscaler.status {
                match self.start.client.update_status(&changed).await {
                    Err(error) if !error.is_conflict() && !error.is_not_found() => {
                        let about = crate::framework::pod_control::about(&changed);
                        self.recorder.warning(&about, "FailedUpdateStatus", error.to_string());
                    }
                    _ => {}
                }
            }
            Ok(Next::After(PERIOD))
        })
    }
}
