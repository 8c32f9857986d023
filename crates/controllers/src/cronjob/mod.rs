//! cronjob: makes a Job at each time that a CronJob names, keeps the list of its running ones, and deletes finished
//! ones beyond its history limits. <https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/>

mod times;

use crate::framework::pod_control::{about, controller_of, controller_ref};
use crate::framework::time::{api_time, system_time};
use crate::framework::{Next, Reconcile, Start, namespace_goes, run};
use crate::job::finished;
use knarr_api::Kind;
use knarr_api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use knarr_api::core::v1::ObjectReference;
use knarr_api::meta::v1::ObjectMeta;
use knarr_base::clock::BoxFuture;
use knarr_client::informer::{Change, Key};
use knarr_client::{Client, DeleteOptions, Error, Informer, Recorder, WorkQueue};
use knarr_meta::cron::Zone;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Upstream's default of --concurrent-cron-job-syncs.
const WORKERS: usize = 5;
const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

struct CronJobs {
    start: Start,
    cron_jobs: Informer<CronJob>,
    jobs: Informer<Job>,
    recorder: Recorder,
}

/// Starts the controller.
pub fn start(start: Start) {
    let (cron_jobs, jobs) = (start.informers.get::<CronJob>(), start.informers.get::<Job>());
    let queue = WorkQueue::new(start.ctx.clone());
    let recorder = Recorder::new(start.client.clone(), "cronjob-controller", "");
    let (on_cron, clock) = (queue.clone(), start.ctx.clock.clone());
    cron_jobs.on_change(move |change: &Change<CronJob>| {
        let key = Key::of(&change.object().metadata);
        let timing = |cron: &CronJob| (cron.spec.schedule.clone(), cron.spec.time_zone.clone());
        match (&change.old, &change.new) {
            // A new schedule begins with its next time, not with those that would have passed.
            (Some(old), Some(new)) if timing(old) != timing(new) => {
                if let Ok(schedule) = times::schedule(new) {
                    on_cron.add_after(key, times::until_next(new, &schedule, clock.now()));
                }
            }
            (_, Some(_)) => on_cron.add(key),
            _ => {}
        }
    });
    let (on_job, known) = (queue.clone(), cron_jobs.clone());
    jobs.on_change(move |change: &Change<Job>| {
        for job in change.old.iter().chain(&change.new) {
            let Some(owner) = controller_of(&job.metadata).filter(|o| o.kind == CronJob::KIND) else {
                continue;
            };
            let key = Key::new(job.namespace(), &owner.name);
            if known.get_key(&key).is_some_and(|cron| cron.metadata.uid.as_ref() == Some(&owner.uid)) {
                on_job.add(key);
            }
        }
    });
    let ready = {
        let (cron_jobs, jobs) = (cron_jobs.clone(), jobs.clone());
        async move {
            cron_jobs.synced().await;
            jobs.synced().await;
        }
    };
    let controller = Arc::new(CronJobs { start: start.clone(), cron_jobs, jobs, recorder });
    run(&start, "cronjob", WORKERS, queue, ready, controller);
}

impl Reconcile for CronJobs {
    fn sync<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Next, Error>> {
        Box::pin(async move {
            let Some(cron) = self.cron_jobs.get_key(key) else { return Ok(Next::Done) };
            let jobs = self.jobs.controlled_by(cron.metadata.uid.as_deref().unwrap_or_default());
            let mut round = Round {
                controller: self,
                client: &self.start.client,
                spec: cron.spec.clone(),
                status: cron.status.clone().unwrap_or_default(),
                cron: (*cron).clone(),
                changed: false,
            };
            round.clean_up(&jobs).await;
            let outcome = round.work(&jobs).await;
            if round.changed {
                let changed = CronJob { status: Some(round.status), ..round.cron };
                self.start.client.update_status(&changed).await?;
            }
            outcome
        })
    }
}

/// One look at one cron job.
struct Round<'a> {
    controller: &'a CronJobs,
    client: &'a Client,
    cron: CronJob,
    spec: CronJobSpec,
    status: CronJobStatus,
    changed: bool,
}

fn is_true(job: &Job, kind: &str) -> bool {
    let conditions = job.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.filter(|c| c.type_ == kind).any(|c| c.status == "True")
}

fn uid(meta: &ObjectMeta) -> &str {
    meta.uid.as_deref().unwrap_or_default()
}

impl Round<'_> {
    fn normal(&self, reason: &'static str, message: String) {
        self.controller.recorder.normal(&about(&self.cron), reason, message);
    }

    fn warning(&self, reason: &'static str, message: String) {
        self.controller.recorder.warning(&about(&self.cron), reason, message);
    }

    fn is_active(&self, job: &str) -> bool {
        self.status.active.iter().flatten().any(|active| active.uid.as_deref() == Some(job))
    }

    fn forget(&mut self, job: &str) {
        self.status.active.get_or_insert_default().retain(|active| active.uid.as_deref() != Some(job));
    }

    /// Deletes the oldest finished jobs that are too many.
    async fn clean_up(&mut self, jobs: &[Arc<Job>]) {
        for (kind, limit) in [
            ("Complete", self.spec.successful_jobs_history_limit),
            ("Failed", self.spec.failed_jobs_history_limit),
        ] {
            let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else { continue };
            let mut over: Vec<&Arc<Job>> = jobs.iter().filter(|job| is_true(job, kind)).collect();
            let started =
                |job: &Job| job.status.as_ref().and_then(|s| s.start_time.as_ref()).map(system_time);
            over.sort_by_key(|job| (started(job).is_none(), started(job), job.name().to_owned()));
            for job in over.iter().take(over.len().saturating_sub(limit)) {
                if self.delete(job).await.is_ok() {
                    self.changed = true;
                }
            }
        }
    }

    async fn delete(&mut self, job: &Job) -> Result<(), Error> {
        let options = DeleteOptions {
            propagation_policy: Some("Background"),
            uid: job.metadata.uid.clone(),
            ..DeleteOptions::default()
        };
        match self.client.delete::<Job>(job.namespace(), job.name(), &options).await {
            Err(error) if !error.is_not_found() => {
                self.warning("FailedDelete", format!("Deleted job: {error}"));
                Err(error)
            }
            _ => {
                self.forget(uid(&job.metadata));
                self.normal("SuccessfulDelete", format!("Deleted job {}", job.name()));
                Ok(())
            }
        }
    }

    /// Brings the list of running jobs up to date.
    async fn observe(&mut self, jobs: &[Arc<Job>]) -> Result<(), Error> {
        let (namespace, name) = (self.cron.namespace().to_owned(), self.cron.name().to_owned());
        for job in jobs {
            let id = uid(&job.metadata);
            let known = self.is_active(id);
            let Some(end) = finished(job) else {
                if !known {
                    // The copy here may be older than what this controller wrote itself.
                    let live = self.client.get::<CronJob>(&namespace, &name).await?;
                    let status = live.status.clone().unwrap_or_default();
                    if status.active.iter().flatten().any(|active| active.uid.as_deref() == Some(id)) {
                        self.status = status;
                        self.cron = live;
                        continue;
                    }
                    let message =
                        format!("Saw a job that the controller did not create or forgot: {}", job.name());
                    self.warning("UnexpectedJob", message);
                }
                continue;
            };
            if known {
                self.forget(id);
                let message = format!("Saw completed job: {}, condition: {}", job.name(), end.type_);
                self.normal("SawCompletedJob", message);
                self.changed = true;
            }
            let completed = job.status.as_ref().and_then(|s| s.completion_time.clone());
            if is_true(job, "Complete") && completed.is_some() && completed > self.status.last_successful_time
            {
                self.status.last_successful_time = completed;
                self.changed = true;
            }
        }
        let gone = self.status.active.clone().unwrap_or_default();
        let is_there = |active: &ObjectReference| {
            jobs.iter().any(|job| active.uid.as_deref() == Some(uid(&job.metadata)))
        };
        for active in gone.iter().filter(|active| !is_there(active)) {
            let job_name = active.name.as_deref().unwrap_or_default();
            if self.client.get_opt::<Job>(&namespace, job_name).await?.is_none() {
                self.normal("MissingJob", format!("Active job went missing: {job_name}"));
                self.forget(active.uid.as_deref().unwrap_or_default());
                self.changed = true;
            }
        }
        Ok(())
    }

    /// Makes the job that is due.
    async fn work(&mut self, jobs: &[Arc<Job>]) -> Result<Next, Error> {
        // The monotonic time first: should the clock be moved in between, the next look is too early rather than late.
        let clock = &self.controller.start.ctx.clock;
        let (begun, now) = (clock.instant(), clock.now());
        self.observe(jobs).await?;
        if self.cron.metadata.deletion_timestamp.is_some() {
            return Ok(Next::Done);
        }
        if let Some(zone) = &self.spec.time_zone
            && let Err(problem) = Zone::load(zone)
        {
            self.warning("UnknownTimeZone", format!("invalid timeZone: {zone:?}: {problem}"));
            return Ok(Next::Done);
        }
        if self.spec.suspend == Some(true) {
            return Ok(Next::Done);
        }
        if self.spec.schedule.contains("TZ") {
            self.warning("UnsupportedSchedule", format!("CRON_TZ or TZ used in schedule {:?} is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details", self.spec.schedule));
        }
        let schedule = match times::schedule(&self.cron) {
            Ok(schedule) => schedule,
            Err(problem) => {
                let message = format!("unparseable schedule: {:?} : {problem}", self.spec.schedule);
                self.warning("UnparseableSchedule", message);
                return Ok(Next::Done);
            }
        };
        let passed = match times::passed(&self.current(), &schedule, now, true) {
            Ok(passed) => passed,
            Err(problem) => {
                let message = format!("invalid schedule: {} : {problem}", self.spec.schedule);
                self.warning("InvalidSchedule", message);
                return Ok(Next::Done);
            }
        };
        let Some(due) = passed.last else {
            return Ok(Next::At(begun + times::until_next(&self.current(), &schedule, now)));
        };
        if passed.is_many() {
            let message = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
            self.warning("TooManyMissedTimes", message.into());
        }
        if self.may_start(due, now) {
            if !self.is_newest().await? {
                // The informer brings the newer one here in its turn.
                return Ok(Next::Done);
            }
            self.make_room().await?;
            self.create(due).await?;
        }
        Ok(Next::At(begun + times::until_next(&self.current(), &schedule, now)))
    }

    /// The cron job with its status as it is now.
    fn current(&self) -> CronJob {
        CronJob { status: Some(self.status.clone()), ..self.cron.clone() }
    }

    /// Whether the informer's copy is the server's. An older one may not yet name the job that runs, and Forbid and
    /// Replace would be broken with it.
    async fn is_newest(&self) -> Result<bool, Error> {
        let live = self.client.get_opt::<CronJob>(self.cron.namespace(), self.cron.name()).await?;
        Ok(live.is_some_and(|live| live.metadata.resource_version == self.cron.metadata.resource_version))
    }

    fn may_start(&self, due: SystemTime, now: SystemTime) -> bool {
        let deadline = self.spec.starting_deadline_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        if deadline.is_some_and(|seconds| due + Duration::from_secs(seconds) < now) {
            let message = format!("Missed scheduled time to start a job: {}", rfc1123(due));
            self.warning("MissSchedule", message);
            return false;
        }
        let name = self.job_name(due);
        let runs = self.status.active.iter().flatten().any(|active| active.name.as_ref() == Some(&name));
        let ran = self.status.last_schedule_time.as_ref().is_some_and(|last| system_time(last) == due);
        if runs || ran {
            return false;
        }
        let busy = self.status.active.as_ref().is_some_and(|active| !active.is_empty());
        if busy && self.spec.concurrency_policy.as_deref() == Some("Forbid") {
            let message =
                "Not starting job because prior execution is running and concurrency policy is Forbid";
            self.normal("JobAlreadyActive", message.into());
            return false;
        }
        true
    }

    /// Deletes what still runs where a new job replaces it.
    async fn make_room(&mut self) -> Result<(), Error> {
        if self.spec.concurrency_policy.as_deref() != Some("Replace") {
            return Ok(());
        }
        for active in self.status.active.clone().unwrap_or_default() {
            let name = active.name.as_deref().unwrap_or_default();
            match self.client.get::<Job>(self.cron.namespace(), name).await {
                Ok(job) => self.delete(&job).await?,
                Err(error) => {
                    self.warning("FailedGet", format!("Get job: {error}"));
                    return Err(error);
                }
            }
            self.changed = true;
        }
        Ok(())
    }

    /// One name for one time, so that no time gets two jobs.
    fn job_name(&self, due: SystemTime) -> String {
        let since = due.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        format!("{}-{}", self.cron.name(), since.as_secs() / 60)
    }

    fn job(&self, due: SystemTime) -> Job {
        let template = self.spec.job_template.metadata.clone().unwrap_or_default();
        let zone = self.spec.time_zone.as_deref().unwrap_or_default();
        let zone = Zone::load(zone).unwrap_or_else(|_| Zone::utc());
        let mut annotations = template.annotations.unwrap_or_default();
        annotations.insert(SCHEDULED_AT.to_owned(), zone.rfc3339(due));
        Job {
            metadata: ObjectMeta {
                name: Some(self.job_name(due)),
                namespace: self.cron.metadata.namespace.clone(),
                labels: template.labels,
                annotations: Some(annotations),
                owner_references: Some(vec![controller_ref(&self.cron)]),
                ..ObjectMeta::default()
            },
            spec: self.spec.job_template.spec.clone(),
            status: None,
        }
    }

    async fn create(&mut self, due: SystemTime) -> Result<(), Error> {
        let wanted = self.job(due);
        let made = match self.client.create(&wanted).await {
            Ok(made) => {
                self.normal("SuccessfulCreate", format!("Created job {}", made.name()));
                made
            }
            Err(error) if already_exists(&error) => {
                let there = self.client.get::<Job>(wanted.namespace(), wanted.name()).await?;
                let owner = controller_of(&there.metadata).map(|owner| owner.uid.clone());
                // Somebody else's keeps its name; ours was made before and its place in the status was lost.
                if owner != self.cron.metadata.uid || self.is_active(uid(&there.metadata)) {
                    return Ok(());
                }
                there
            }
            Err(error) => {
                if !namespace_goes(&error) {
                    self.warning("FailedCreate", format!("Error creating job: {error}"));
                }
                return Err(error);
            }
        };
        self.status.active.get_or_insert_default().push(ObjectReference {
            api_version: Some(Job::API_VERSION.to_owned()),
            kind: Some(Job::KIND.to_owned()),
            name: made.metadata.name.clone(),
            namespace: made.metadata.namespace.clone(),
            uid: made.metadata.uid.clone(),
            resource_version: made.metadata.resource_version.clone(),
            field_path: None,
        });
        self.status.last_schedule_time = api_time(due);
        self.changed = true;
        Ok(())
    }
}

fn already_exists(error: &Error) -> bool {
    error.status().is_some_and(|status| status.reason == knarr_meta::status::Reason::AlreadyExists)
}

/// A time as Go's RFC1123Z writes it, in UTC.
fn rfc1123(time: SystemTime) -> String {
    let at = time::OffsetDateTime::from(time);
    let (weekday, month) = (at.weekday().to_string(), at.month().to_string());
    format!(
        "{}, {:02} {} {} {:02}:{:02}:{:02} +0000",
        &weekday[..3],
        at.day(),
        &month[..3],
        at.year(),
        at.hour(),
        at.minute(),
        at.second()
    )
}
