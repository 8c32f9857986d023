//! CronJobs (batch/v1): pkg/registry/batch/cronjob.

use super::job;
use crate::apps::workload::{name_warning, selector_value};
use crate::core::pod::validation::one_of;
use crate::core::pod::warnings;
use crate::util::value::{ensure, flag, list, object, set_absent, set_default, text};
use crate::util::{Errs, Flag, Number, Text, cells};
use knarr_api::batch::v1::{CronJob, CronJobSpec, JobTemplateSpec};
use knarr_apiserver::def::{ResourceDef, Strategy};
use knarr_apiserver::request::RequestCx;
use knarr_meta::cron::{Schedule, Zone};
use knarr_meta::field::{ErrorList, Path};
use serde_json::{Value, json};
use std::time::SystemTime;

/// Names leave room for the `-<minutes>` of the jobs.
const MAX_NAME: usize = 52;
const POLICIES: &[&str] = &["Allow", "Forbid", "Replace"];

struct CronJobs;

impl Strategy for CronJobs {
    type Object = CronJob;

    fn default(&self, obj: &mut Value) {
        let spec = ensure(object(obj), "spec");
        set_default(spec, "concurrencyPolicy", "Allow");
        set_absent(spec, "suspend", false);
        set_absent(spec, "successfulJobsHistoryLimit", 3);
        set_absent(spec, "failedJobsHistoryLimit", 1);
        job::default_template(ensure(ensure(spec, "jobTemplate"), "spec"));
    }

    fn prepare_for_create(&self, _cx: &RequestCx, obj: &mut Value) {
        object(obj).insert("status".to_owned(), json!({}));
    }

    fn validate(&self, _cx: &RequestCx, obj: &CronJob) -> ErrorList {
        let mut errs = validate_spec(&obj.spec, None);
        let name = obj.metadata.name.text();
        if name.len() > MAX_NAME {
            let detail = format!("must be no more than {MAX_NAME} characters");
            errs.add_invalid(&Path::new("metadata").child("name"), name, detail);
        }
        errs
    }

    fn validate_update(&self, _cx: &RequestCx, new: &CronJob, old: &CronJob) -> ErrorList {
        validate_spec(&new.spec, Some(&old.spec))
    }

    fn warnings(&self, _cx: &RequestCx, new: &CronJob, old: Option<&CronJob>) -> Vec<String> {
        let mut out = Vec::new();
        let spec = &new.spec;
        if old.is_none() {
            out.extend(name_warning(new.metadata.name.text()));
        }
        if old.is_none_or(|old| old.spec != new.spec)
            && let Some(job) = &spec.job_template.spec
        {
            let path = Path::new("spec").child("jobTemplate").child("spec").child("template");
            out.extend(warnings::of_template(&job.template, &path));
        }
        if old.is_some() && spec.schedule.contains("TZ") {
            out.push("cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details".to_owned());
        }
        out
    }
}

fn validate_spec(spec: &CronJobSpec, old: Option<&CronJobSpec>) -> ErrorList {
    let mut errs = ErrorList::default();
    let path = Path::new("spec");
    if spec.schedule.is_empty() {
        errs.add_required(&path.child("schedule"), "");
    } else {
        let had_zone = old.is_some_and(|old| old.schedule.contains("TZ"));
        schedule(&mut errs, spec, had_zone, &path.child("schedule"));
    }
    errs.add_negative(&path.child("startingDeadlineSeconds"), spec.starting_deadline_seconds.number());
    if old.is_none_or(|old| old.time_zone != spec.time_zone)
        && let Some(zone) = &spec.time_zone
    {
        time_zone(&mut errs, zone, &path.child("timeZone"));
    }
    let at = path.child("concurrencyPolicy");
    match spec.concurrency_policy.text() {
        "" => errs.add_required(&at, ""),
        policy => one_of(&mut errs, policy, POLICIES, &at),
    }
    job_template(&mut errs, &spec.job_template, &path.child("jobTemplate"));
    errs.add_negative(&path.child("successfulJobsHistoryLimit"), spec.successful_jobs_history_limit.number());
    errs.add_negative(&path.child("failedJobsHistoryLimit"), spec.failed_jobs_history_limit.number());
    errs
}

fn schedule(errs: &mut ErrorList, spec: &CronJobSpec, had_zone: bool, path: &Path) {
    let schedule = &spec.schedule;
    if let Err(problem) = Schedule::parse(schedule) {
        errs.add_invalid(path, schedule, problem);
    }
    if schedule.contains("TZ") {
        if !had_zone {
            let detail = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
            errs.add_invalid(path, schedule, detail);
        } else if spec.time_zone.is_some() {
            let detail = "cannot use both timeZone field and TZ or CRON_TZ in schedule";
            errs.add_invalid(path, schedule, detail);
        }
    }
}

fn time_zone(errs: &mut ErrorList, zone: &str, path: &Path) {
    if zone.is_empty() {
        errs.add_invalid(path, zone, "timeZone must be nil or non-empty string");
        return;
    }
    let is_part = |part: &str| {
        part != "."
            && part != ".."
            && !part.starts_with('-')
            && (1..=14).contains(&part.len())
            && part.chars().all(|c| c.is_ascii_alphanumeric() || ".-_+".contains(c))
    };
    if !zone.split('/').all(is_part) {
        errs.add_invalid(path, zone, format!("unknown time zone {zone}"));
        return;
    }
    if zone.eq_ignore_ascii_case("Local") {
        let detail = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        errs.add_invalid(path, zone, detail);
        return;
    }
    if let Err(problem) = Zone::load(zone) {
        errs.add_invalid(path, zone, problem);
    }
}

fn job_template(errs: &mut ErrorList, template: &JobTemplateSpec, path: &Path) {
    let spec = template.spec.clone().unwrap_or_default();
    let path = path.child("spec");
    errs.extend(job::validation::validate_spec(&spec, &path));
    if let Some(selector) = &spec.selector {
        let detail = "`selector` will be auto-generated";
        errs.add_invalid(&path.child("selector"), selector_value(selector), detail);
    }
    if spec.manual_selector.on() {
        errs.add_not_supported(&path.child("manualSelector"), true, &["nil", "false"]);
    }
}

fn cells(obj: &Value, now: SystemTime) -> Vec<Value> {
    let template = &obj["spec"]["jobTemplate"]["spec"];
    let (names, images) = cells::containers(&template["template"]["spec"]);
    let last = &obj["status"]["lastScheduleTime"];
    let last = if last.is_string() { cells::since(last, now) } else { cells::NONE.to_owned() };
    vec![
        cells::name(obj),
        text(obj, &["spec", "schedule"]).into(),
        cells::or_none(text(obj, &["spec", "timeZone"])),
        if flag(obj, &["spec", "suspend"]) { "True".into() } else { "False".into() },
        list(obj, &["status", "active"]).len().into(),
        last.into(),
        cells::age(obj, now),
        names,
        images,
        cells::selector(&template["selector"]).into(),
    ]
}

/// The declaration.
pub fn def() -> ResourceDef {
    ResourceDef::new(CronJobs).status().cells(cells).fixture(include_str!("testdata/cronjob.yaml"))
}
