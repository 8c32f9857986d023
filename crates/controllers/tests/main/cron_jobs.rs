//! CronJobs by a clock that the test moves.

use crate::{LIMIT, Running};
use knarr_api::Kind;
use knarr_api::batch::v1::{CronJob, Job};
use knarr_base::ManualClock;
use knarr_client::{ListOptions, Patch};
use knarr_testkit::wait_for;
use serde_json::{Value, json};
use std::time::{Duration, SystemTime};

/// How far apart the times are. In less than five minutes, so that no controller gives up on what it has made and not
/// seen yet.
const APART: u64 = 240;

fn cron(name: &str, policy: &str) -> Value {
    json!({ "metadata": { "name": name, "namespace": "default" }, "spec": {
        "schedule": "*/4 * * * *", "concurrencyPolicy": policy, "successfulJobsHistoryLimit": 1,
        "jobTemplate": { "metadata": { "labels": { "of": name } }, "spec": { "template": { "spec": {
            "restartPolicy": "Never", "containers": [{ "name": "c", "image": "i" }] } } } } } })
}

impl Running {
    async fn jobs(&self, of: &str, count: usize) -> Vec<Job> {
        let options = ListOptions { label_selector: format!("of={of}"), ..ListOptions::default() };
        wait_for(&format!("{count} jobs of {of}"), LIMIT, || async {
            let jobs = self.client.list::<Job>("default", &options).await.map_err(|e| e.to_string())?.items;
            let mut jobs: Vec<Job> =
                jobs.into_iter().filter(|job| job.metadata.deletion_timestamp.is_none()).collect();
            jobs.sort_by_key(|job| job.name().to_owned());
            if jobs.len() == count { Ok(jobs) } else { Err(format!("{jobs:#?}")) }
        })
        .await
    }

    /// Lets a job's pod succeed. Job controllers gather what happens within a second, so time goes on meanwhile.
    async fn finish(&self, job: &Job, clock: &ManualClock) {
        let selector = format!("batch.kubernetes.io/job-name={}", job.name());
        for pod in self.active_pods(&selector, 1).await {
            self.set_phase(&pod, "Succeeded").await;
        }
        wait_for(&format!("job {} to be complete", job.name()), LIMIT, || async {
            clock.advance(Duration::from_millis(200));
            let job = self.client.get::<Job>("default", job.name()).await.map_err(|e| e.to_string())?;
            let conditions = job.status.iter().flat_map(|s| s.conditions.iter().flatten());
            let done = conditions.filter(|c| c.type_ == "Complete").any(|c| c.status == "True");
            if done { Ok(()) } else { Err(format!("{:?}", job.status)) }
        })
        .await;
    }

    async fn active(&self, name: &str, count: usize) -> CronJob {
        self.until::<CronJob>(name, &format!("{count} active"), |cron| {
            let active = cron.status.as_ref().and_then(|s| s.active.as_ref());
            active.map_or(0, Vec::len) == count
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_made_at_their_times() {
    // The server stamps creations with the real time; the controllers' clock begins a little later.
    let now = knarr_base::Ctx::system().clock.now();
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
    let first = SystemTime::UNIX_EPOCH + Duration::from_secs((seconds / APART + 1) * APART);
    let clock = ManualClock::at(first - Duration::from_secs(10));
    let running = Running::start_with(&clock).await;
    for policy in ["Allow", "Forbid", "Replace"] {
        running.create::<CronJob>(cron(&policy.to_lowercase(), policy)).await;
    }
    let zone = json!({ "spec": { "timeZone": "Nowhere/Else" } });
    let refused = running.client.patch::<CronJob>("default", "allow", "", &Patch::Merge(zone)).await;
    assert!(refused.expect_err("no such zone").to_string().contains("unknown time zone Nowhere/Else"));

    let advance = |by: u64| {
        let clock = clock.clone();
        async move {
            // Timers are set by then, or are set against the later clock.
            clock.advance(Duration::from_secs(by));
        }
    };
    advance(11).await;
    let mut made = Vec::new();
    for name in ["allow", "forbid", "replace"] {
        let job = running.jobs(name, 1).await.remove(0);
        let minutes = first.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs() / 60;
        assert_eq!(job.name(), format!("{name}-{minutes}"));
        let annotations = job.metadata.annotations.clone().unwrap_or_default();
        let at = knarr_meta::time::rfc3339(first);
        assert_eq!(annotations["batch.kubernetes.io/cronjob-scheduled-timestamp"], at);
        let cron = running.active(name, 1).await.to_value();
        assert_eq!(cron["status"]["lastScheduleTime"], at);
        assert_eq!(cron["status"]["active"][0]["name"], job.name());
        made.push(job);
    }
    // At the next time they still run.
    advance(APART).await;
    running.jobs("allow", 2).await;
    let replaced = running.jobs("replace", 1).await;
    running
        .until::<CronJob>("replace", "the new one", |cron| {
            cron.to_value()["status"]["active"][0]["name"] == replaced[0].name()
                && cron.to_value()["status"]["active"][1].is_null()
        })
        .await;
    let kept = running.jobs("forbid", 1).await;
    assert_eq!(kept[0].metadata.uid, made[1].metadata.uid);
    // Once it is over, the time that it stood in the way of is made up for.
    running.finish(&kept[0], &clock).await;
    running.jobs("forbid", 2).await;
    running
        .until::<CronJob>("forbid", "the success", |cron| {
            cron.status.as_ref().is_some_and(|s| s.last_successful_time.is_some())
        })
        .await;
    running.active("forbid", 1).await;
    // One that has succeeded is kept; of two the older goes.
    for job in running.jobs("allow", 2).await {
        running.finish(&job, &clock).await;
    }
    running.jobs("allow", 1).await;
    // A suspended one makes none.
    let suspend = Patch::Merge(json!({ "spec": { "suspend": true } }));
    running.client.patch::<CronJob>("default", "allow", "", &suspend).await.expect("it can be suspended");
    running.until::<CronJob>("allow", "suspended", |c| c.spec.suspend == Some(true)).await;
    running.cluster.stop().await;
}
