//! ttlafterfinished: deletes Jobs that have been over for `ttlSecondsAfterFinished` (KEP-592), by a timer each.

use crate::framework::time::system_time;
use crate::framework::{Next, Reconcile, Start, run};
use crate::job::finished;
use knarr_api::batch::v1::Job;
use knarr_base::clock::BoxFuture;
use knarr_client::informer::Key;
use knarr_client::{Client, DeleteOptions, Error, Informer, WorkQueue};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Upstream's default of --concurrent-ttl-after-finished-syncs.
const WORKERS: usize = 5;

struct TtlAfterFinished {
    start: Start,
    jobs: Informer<Job>,
}

/// Starts the controller.
pub fn start(start: Start) {
    let jobs = start.informers.get::<Job>();
    let queue = WorkQueue::new(start.ctx.clone());
    let on_job = queue.clone();
    jobs.on_change(move |change| {
        if let Some(job) = &change.new
            && left(job, SystemTime::UNIX_EPOCH).is_some()
        {
            on_job.add(Key::of(&job.metadata));
        }
    });
    let ready = {
        let jobs = jobs.clone();
        async move { jobs.synced().await }
    };
    let controller = Arc::new(TtlAfterFinished { start: start.clone(), jobs });
    run(&start, "ttl-after-finished", WORKERS, queue, ready, controller);
}

/// How long the Job is to stay; `None` if it is not over or stays for good.
fn left(job: &Job, now: SystemTime) -> Option<Duration> {
    let ttl = job.spec.as_ref()?.ttl_seconds_after_finished?;
    if job.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let end = system_time(finished(job)?.last_transition_time.as_ref()?);
    let expiry = end + Duration::from_secs(u64::try_from(ttl).unwrap_or_default());
    Some(expiry.duration_since(now).unwrap_or_default())
}

async fn sync(client: &Client, job: Option<Arc<Job>>, key: &Key) -> Result<Next, Error> {
    let now = client.ctx().clock.now();
    match job.and_then(|job| left(&job, now)) {
        None => return Ok(Next::Done),
        Some(wait) if !wait.is_zero() => return Ok(Next::After(wait)),
        Some(_) => {}
    }
    // The time to live may have been raised since: ask before what cannot be undone.
    let Some(live) = client.get_opt::<Job>(&key.namespace, &key.name).await? else { return Ok(Next::Done) };
    match left(&live, now) {
        None => Ok(Next::Done),
        Some(wait) if !wait.is_zero() => Ok(Next::After(wait)),
        Some(_) => {
            let options = DeleteOptions {
                propagation_policy: Some("Foreground"),
                uid: live.metadata.uid.clone(),
                resource_version: live.metadata.resource_version.clone(),
                ..DeleteOptions::default()
            };
            match client.delete::<Job>(&key.namespace, &key.name, &options).await {
                Err(error) if !error.is_not_found() => Err(error),
                _ => Ok(Next::Done),
            }
        }
    }
}

impl Reconcile for TtlAfterFinished {
    fn sync<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Next, Error>> {
        Box::pin(sync(&self.start.client, self.jobs.get_key(key), key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_api::Kind;
    use serde_json::{Value, json};

    #[test]
    fn only_jobs_that_are_over_and_have_a_time_to_live_expire() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        let over = |kind: &str| json!([{ "type": kind, "status": "True", "lastTransitionTime": "1970-01-01T00:01:30Z" }]);
        for (ttl, conditions, wanted) in [
            (json!(30), over("Complete"), Some(20)),
            (json!(0), over("Failed"), Some(0)),
            (json!(30), over("Suspended"), None),
            (Value::Null, over("Complete"), None),
        ] {
            let job = Job::from_value(&json!({ "metadata": { "name": "j" },
                "spec": { "template": {}, "ttlSecondsAfterFinished": ttl }, "status": { "conditions": conditions } }));
            let left = left(&job.expect("a job"), now);
            assert_eq!(left.map(|d| d.as_secs()), wanted, "{ttl} {conditions}");
        }
    }
}
