//! Job (batch/v1): runs pods to completion. Pods carry a finalizer until they are counted, so that none is missed or
//! counted twice (KEP-2307): their UIDs first go into the status as uncounted, then the finalizers go, then the
//! numbers rise. What a round decides is in [`round`]; here it is carried out.

mod backoff;
mod conditions;
mod indexes;
mod orphans;
mod pods;
mod policy;
mod round;

use crate::framework::claim::{Claim, selects};
use crate::framework::expectations::Expectations;
use crate::framework::pod_control::{PodControl, about, controller_of, controller_ref};
use crate::framework::pods::is_ready;
use crate::framework::{Next, Reconcile, Start, run};
use backoff::Failures;
use futures_util::future::join_all;
use knarr_api::Kind;
use knarr_api::batch::v1::Job;
use knarr_api::core::v1::Pod;
use knarr_base::clock::BoxFuture;
use knarr_client::informer::Key;
use knarr_client::{Change, Client, Error, Informer, Patch, Recorder, WorkQueue};
use pods::{FINALIZER, is_tracked};
use round::{Action, Outcome, Round};
use serde_json::json;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

pub use conditions::finished;

/// Upstream's default of --concurrent-job-syncs.
const WORKERS: usize = 5;
/// Changes of pods are gathered for this long, so that many pods ending together are counted together.
const GATHER: Duration = Duration::from_millis(100);
/// The controller that a Job without `managedBy` belongs to.
const THIS_CONTROLLER: &str = "kubernetes.io/job-controller";

/// What is remembered of Jobs between rounds, by UID. All of it can be lost.
#[derive(Default)]
struct Memory {
    failures: HashMap<String, Failures>,
    /// The revision of the last status written; an older copy of the Job says nothing.
    written: HashMap<String, u64>,
    /// Pods whose finalizer was taken away, until that is seen.
    released: HashSet<String>,
}

struct Jobs {
    start: Start,
    jobs: Informer<Job>,
    pods: Informer<Pod>,
    control: PodControl,
    recorder: Recorder,
    expectations: Arc<Expectations>,
    memory: Arc<Mutex<Memory>>,
}

/// Starts the controller.
pub fn start(start: Start) {
    let (jobs, all_pods) = (start.informers.get::<Job>(), start.informers.get::<Pod>());
    let queue = WorkQueue::new(start.ctx.clone());
    let expectations = Arc::new(Expectations::new(start.ctx.clone()));
    let memory = Arc::<Mutex<Memory>>::default();

    let (on_job, expected, remembered) = (queue.clone(), expectations.clone(), memory.clone());
    jobs.on_change(move |change: &Change<Job>| {
        let job = change.object();
        if change.new.is_none() {
            let uid = job.metadata.uid.as_deref().unwrap_or_default();
            expected.forget(uid);
            let mut memory = lock(&remembered);
            memory.failures.remove(uid);
            memory.written.remove(uid);
        }
        let generation = |job: &Option<Arc<Job>>| job.as_ref().and_then(|j| j.metadata.generation);
        if generation(&change.old) == generation(&change.new) {
            on_job.add_after(Key::of(&job.metadata), GATHER);
        } else {
            on_job.add(Key::of(&job.metadata));
        }
    });
    let (on_pod, expected, known, remembered) =
        (queue.clone(), expectations.clone(), jobs.clone(), memory.clone());
    all_pods.on_change(move |change: &Change<Pod>| {
        if change.new.as_ref().is_none_or(|pod| !is_tracked(pod)) {
            lock(&remembered).released.remove(change.object().metadata.uid.as_deref().unwrap_or_default());
        }
        pod_changed(change, &on_pod, &expected, &known);
    });
    orphans::start(&start, &jobs, &all_pods);

    let recorder = Recorder::new(start.client.clone(), "job-controller", "");
    let controller = Arc::new(Jobs {
        control: PodControl::new(start.client.clone(), recorder.clone()),
        recorder,
        jobs: jobs.clone(),
        pods: all_pods.clone(),
        expectations,
        memory,
        start: start.clone(),
    });
    let ready = async move {
        jobs.synced().await;
        all_pods.synced().await;
    };
    run(&start, "job", WORKERS, queue, ready, controller);
}

fn lock(memory: &Mutex<Memory>) -> MutexGuard<'_, Memory> {
    memory.lock().expect("memory lock is never poisoned")
}

fn pod_changed(
    change: &Change<Pod>,
    queue: &WorkQueue<Key>,
    expectations: &Expectations,
    jobs: &Informer<Job>,
) {
    let pod = change.object();
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let owner = |pod: &Pod| controller_of(&pod.metadata).filter(|o| o.kind == Job::KIND).cloned();
    let wake = |pod: &Pod| {
        if let Some(owner) = owner(pod) {
            queue.add_after(Key::new(pod.namespace(), &owner.name), GATHER);
        }
    };
    let leaving = pod.metadata.deletion_timestamp.is_some() || change.new.is_none();
    wake(pod);
    match (&change.old, owner(pod)) {
        (_, Some(owner)) if leaving => expectations.deleted(&owner.uid, uid),
        (None, Some(owner)) => expectations.created(&owner.uid),
        (Some(old), now) if now != owner(old) => wake(old),
        _ => {}
    }
    // An orphan may be adopted by any Job that selects it.
    if controller_of(&pod.metadata).is_none() && !leaving {
        for job in jobs.list(pod.namespace()) {
            let selector = job.spec.as_ref().and_then(|s| s.selector.as_ref());
            if selector.is_some_and(|s| selects(s, pod.metadata.labels.as_ref())) {
                queue.add_after(Key::of(&job.metadata), GATHER);
            }
        }
    }
}

/// Whether another controller looks after the Job (KEP-4368).
fn is_managed_elsewhere(job: &Job) -> bool {
    job.spec.as_ref().and_then(|s| s.managed_by.as_deref()).is_some_and(|by| by != THIS_CONTROLLER)
}

/// Takes the tracking finalizer away; a pod that is gone has none.
async fn release(client: &Client, pod: &Pod) -> Result<(), Error> {
    let patch = Patch::Strategic(json!({ "metadata": {
        "uid": pod.metadata.uid, "$deleteFromPrimitiveList/finalizers": [FINALIZER] } }));
    match client.patch::<Pod>(pod.namespace(), pod.name(), "", &patch).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

fn uid(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}

impl Reconcile for Jobs {
    fn sync<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Next, Error>> {
        Box::pin(self.reconcile(key))
    }
}

impl Jobs {
    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let Some(job) = self.jobs.get_key(key) else { return Ok(Next::Done) };
        let job_uid = job.metadata.uid.clone().unwrap_or_default();
        if is_managed_elsewhere(&job) {
            return Ok(Next::Done);
        }
        if finished(&job).is_some() {
            self.memory().failures.remove(&job_uid);
            return Ok(Next::Done);
        }
        if self.memory().written.get(&job_uid).is_some_and(|written| revision(&job) < *written) {
            return Ok(Next::Done); // the newer copy is on its way, and wakes the next round
        }
        let mode = job.spec.as_ref().and_then(|s| s.completion_mode.as_deref()).unwrap_or("NonIndexed");
        if !matches!(mode, "NonIndexed" | "Indexed") {
            let message = "Skipped Job sync because completion mode is unknown";
            self.recorder.warning(&about(&*job), "UnknownCompletionMode", message);
            return Ok(Next::Done);
        }
        let settled = self.expectations.satisfied(&job_uid);
        let pods = self.claimed(key, &job).await?;
        let now = self.start.ctx.clock.now();
        let mut round = {
            let memory = self.memory();
            let failures = memory.failures.get(&job_uid).cloned().unwrap_or_default();
            Round::new((*job).clone(), pods, &memory.released, &failures, now)
        };
        let action = round.action(settled);
        let (outcome, failure) = self.act(&job, &job_uid, &round, &action).await;
        let (events, changed) = round.conclude(&action, outcome, settled);
        self.track(&mut round, &job_uid, changed).await?;
        for [reason, message] in events {
            self.recorder.normal(&about(&*job), reason, message);
        }
        match failure {
            Some(error) => Err(error),
            None => Ok(round.check_again.map_or(Next::Done, Next::After)),
        }
    }

    async fn claimed(&self, key: &Key, job: &Job) -> Result<Vec<Arc<Pod>>, Error> {
        let owner = controller_ref(job);
        let claim = Claim {
            client: &self.start.client,
            namespace: &key.namespace,
            owner: &owner,
            selector: &job.spec.as_ref().and_then(|s| s.selector.clone()).unwrap_or_default(),
            deleting: job.metadata.deletion_timestamp.is_some(),
            finalizer: Some(FINALIZER),
        };
        let fresh = || async {
            let live = self.start.client.get::<Job>(&key.namespace, &key.name).await?;
            Ok(live.metadata.uid == job.metadata.uid && live.metadata.deletion_timestamp.is_none())
        };
        claim.objects(&self.pods, fresh).await
    }

    /// Carries an action out, as far as it goes.
    async fn act(&self, job: &Job, uid: &str, round: &Round, action: &Action) -> (Outcome, Option<Error>) {
        match action {
            Action::Nothing => (Outcome::default(), None),
            Action::Create(indexes) => self.create(job, uid, round, indexes).await,
            Action::DeleteActive => self.delete(job, round.active(), false).await,
            Action::Delete(pods) => {
                self.expectations.expect(uid, 0, pods.iter().map(|p| self::uid(p)));
                self.delete(job, pods, true).await
            }
        }
    }

    async fn create(
        &self,
        job: &Job,
        uid: &str,
        round: &Round,
        indexes: &[Option<i32>],
    ) -> (Outcome, Option<Error>) {
        self.expectations.expect(uid, indexes.len(), []);
        let pod = |position: usize| {
            let index = indexes[position];
            pods::make(job, index, index.and_then(|i| round.failures_of(i)))
        };
        let (missing, error) = self.control.create_batch(&about(job), indexes.len(), pod).await;
        (0..missing).for_each(|_| self.expectations.created(uid));
        let created = (indexes.len() - missing) as i32;
        let terminating =
            |e: &Error| e.status().is_some_and(|s| s.message.contains("because it is being terminated"));
        (Outcome { created, ..Outcome::default() }, error.filter(|e| !terminating(e)))
    }

    /// Deletes pods; those that are not to be counted lose their finalizer first.
    async fn delete(&self, job: &Job, pods: &[Arc<Pod>], uncounted: bool) -> (Outcome, Option<Error>) {
        let about = about(job);
        let deleted = join_all(pods.iter().map(|pod| async {
            if uncounted && is_tracked(pod) {
                self.memory().released.insert(uid(pod));
                release(&self.start.client, pod).await?;
            }
            self.control.delete(&about, pod).await
        }));
        let (mut outcome, mut failure) = (Outcome::default(), None);
        for (pod, result) in pods.iter().zip(deleted.await) {
            match result {
                Err(error) if !error.is_not_found() => {
                    failure = Some(error);
                    self.forget_deletion(job, pod);
                    continue;
                }
                Err(_) => self.forget_deletion(job, pod),
                Ok(()) => {}
            }
            outcome.deleted += 1;
            outcome.deleted_ready += i32::from(is_ready(pod));
        }
        (outcome, failure)
    }

    fn forget_deletion(&self, job: &Job, pod: &Pod) {
        self.expectations.deleted(job.metadata.uid.as_deref().unwrap_or_default(), &uid(pod));
        self.memory().released.remove(&uid(pod));
    }

    /// Writes the status, releases the pods that it has taken note of, counts them, and ends the Job if it is over.
    async fn track(&self, round: &mut Round, job_uid: &str, mut changed: bool) -> Result<(), Error> {
        let (pods, counted) = round.count();
        changed |= counted;
        if changed {
            self.write(round, job_uid).await?;
            self.memory().failures.insert(job_uid.to_owned(), round.failures.clone());
        }
        self.memory().released.extend(pods.iter().map(|p| uid(p)));
        let results = join_all(pods.iter().map(|pod| release(&self.start.client, pod))).await;
        let (mut released, mut failure) = (HashSet::new(), None);
        for (pod, result) in pods.iter().zip(results) {
            match result {
                Ok(()) => drop(released.insert(uid(pod))),
                Err(error) => {
                    self.memory().released.remove(&uid(pod));
                    failure = Some(error);
                }
            }
        }
        changed = round.settle(&released);
        if let Some(error) = failure {
            if changed {
                self.write(round, job_uid).await?;
            }
            return Err(error);
        }
        let end = round.finish();
        if changed || end.is_some() {
            self.write(round, job_uid).await?;
        }
        if let Some(end) = end {
            let job = about(&round.job);
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            if end.type_ == "Failed" {
                self.recorder.warning(&job, &text(&end.reason), text(&end.message));
            } else {
                if round.has_too_many_successes() {
                    let message = "Too many succeeded pods running after completion count reached";
                    self.recorder.warning(&job, "TooManySucceededPods", message);
                }
                self.recorder.normal(&job, "Completed", "Job completed");
            }
        }
        Ok(())
    }

    async fn write(&self, round: &mut Round, uid: &str) -> Result<(), Error> {
        round.job = self.start.client.update_status(&round.job).await?;
        self.memory().written.insert(uid.to_owned(), revision(&round.job));
        Ok(())
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        lock(&self.memory)
    }
}

/// The revision as a number, by which copies of one object compare (KEP-5504).
fn revision(job: &Job) -> u64 {
    job.metadata.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or_default()
}
