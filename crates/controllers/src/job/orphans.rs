//! Pods that carry a Job's finalizer, though no Job will count them any more: it is gone or over. They lose it, or
//! they could never be deleted.

use super::pods::is_tracked;
use super::{finished, is_managed_elsewhere, release};
use crate::framework::pod_control::controller_of;
use crate::framework::{Next, Reconcile, Start, run};
use knarr_api::Kind;
use knarr_api::batch::v1::Job;
use knarr_api::core::v1::Pod;
use knarr_base::clock::BoxFuture;
use knarr_client::informer::Key;
use knarr_client::{Client, Error, Informer, WorkQueue};
use std::sync::Arc;

struct Orphans {
    client: Client,
    jobs: Informer<Job>,
    pods: Informer<Pod>,
}

/// Starts the part of the controller that looks after them.
pub fn start(start: &Start, jobs: &Informer<Job>, pods: &Informer<Pod>) {
    let queue = WorkQueue::new(start.ctx.clone());
    let (on_pod, known) = (queue.clone(), jobs.clone());
    pods.on_change(move |change| {
        if let Some(pod) = change.new.as_ref().filter(|p| is_tracked(p) && !is_counted(p, &known)) {
            on_pod.add(Key::of(&pod.metadata));
        }
    });
    let (on_job, known) = (queue.clone(), pods.clone());
    jobs.on_change(move |change| {
        let job = change.object();
        if change.new.is_none() || finished(job).is_some() {
            for pod in known.controlled_by(job.metadata.uid.as_deref().unwrap_or_default()) {
                if is_tracked(&pod) {
                    on_job.add(Key::of(&pod.metadata));
                }
            }
        }
    });
    let controller =
        Arc::new(Orphans { client: start.client.clone(), jobs: jobs.clone(), pods: pods.clone() });
    let (jobs, pods) = (jobs.clone(), pods.clone());
    let ready = async move {
        jobs.synced().await;
        pods.synced().await;
    };
    run(start, "job-orphan-pods", 1, queue, ready, controller);
}

/// Whether a Job, or whoever else owns the pod, will see to the finalizer.
fn is_counted(pod: &Pod, jobs: &Informer<Job>) -> bool {
    let Some(owner) = controller_of(&pod.metadata) else { return false };
    if owner.kind != Job::KIND || owner.api_version != Job::API_VERSION {
        return true;
    }
    let job = jobs.get(pod.namespace(), &owner.name).filter(|j| j.metadata.uid.as_ref() == Some(&owner.uid));
    job.is_some_and(|job| is_managed_elsewhere(&job) || finished(&job).is_none())
}

impl Reconcile for Orphans {
    fn sync<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Next, Error>> {
        Box::pin(async move {
            if let Some(pod) = self.pods.get_key(key).filter(|p| is_tracked(p) && !is_counted(p, &self.jobs))
            {
                release(&self.client, &pod).await?;
            }
            Ok(Next::Done)
        })
    }
}
