//! Jobs (batch/v1): pkg/registry/batch/job.

mod indexes;
mod status;
pub mod validation;

use crate::core::pod::{defaults, warnings};
use crate::util::value::{
    Object, at, each, ensure, list, number, object, set_absent, set_default, sub, text,
};
use crate::util::{Text, cells};
use knarr_api::batch::v1::Job;
use knarr_apiserver::def::{ResourceDef, Strategy};
use knarr_apiserver::request::RequestCx;
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::time;
use serde_json::{Value, json};
use std::time::SystemTime;

struct Jobs;

impl Strategy for Jobs {
    type Object = Job;

    fn default(&self, obj: &mut Value) {
        let obj = object(obj);
        default_spec(ensure(obj, "spec"));
        default_labels(obj);
    }

    fn prepare_for_create(&self, _cx: &RequestCx, obj: &mut Value) {
        let (name, uid) =
            (text(obj, &["metadata", "name"]).to_owned(), text(obj, &["metadata", "uid"]).to_owned());
        let obj = object(obj);
        obj.insert("status".to_owned(), json!({}));
        let spec = ensure(obj, "spec");
        if spec.get("manualSelector") != Some(&Value::Bool(true)) {
            let labels = ensure(ensure(ensure(spec, "template"), "metadata"), "labels");
            for key in ["job-name", "batch.kubernetes.io/job-name"] {
                set_absent(labels, key, name.as_str());
            }
            for key in ["controller-uid", "batch.kubernetes.io/controller-uid"] {
                set_absent(labels, key, uid.as_str());
            }
            let matching = ensure(ensure(spec, "selector"), "matchLabels");
            set_absent(matching, "batch.kubernetes.io/controller-uid", uid.as_str());
        }
        // A job without labels shows those of its pods; upstream sets them whenever it reads one.
        default_labels(obj);
    }

    fn validate(&self, _cx: &RequestCx, obj: &Job) -> ErrorList {
        validation::create(obj)
    }

    fn validate_update(&self, _cx: &RequestCx, new: &Job, old: &Job) -> ErrorList {
        validation::update(new, old)
    }

    fn validate_status_update(&self, _cx: &RequestCx, new: &Job, old: &Job) -> ErrorList {
        status::update(new, old)
    }

    fn warnings(&self, _cx: &RequestCx, new: &Job, old: Option<&Job>) -> Vec<String> {
        if old.is_some_and(|old| old.spec == new.spec) {
            return Vec::new();
        }
        let mut out: Vec<String> = match old {
            None => crate::apps::workload::name_warning(new.metadata.name.text()).into_iter().collect(),
            Some(_) => Vec::new(),
        };
        if let Some(spec) = &new.spec {
            out.extend(warnings::of_template(&spec.template, &Path::new("spec").child("template")));
        }
        out
    }
}

fn default_labels(job: &mut Object) {
    let labels = at(&job["spec"], &["template", "metadata", "labels"]).and_then(Value::as_object).cloned();
    let meta = ensure(job, "metadata");
    if let Some(labels) = labels
        && meta.get("labels").and_then(Value::as_object).is_none_or(Object::is_empty)
    {
        meta.insert("labels".to_owned(), labels.into());
    }
}

/// Defaults of a job's spec, in jobs.
fn default_spec(spec: &mut Object) {
    let is_absent = |spec: &Object, key: &str| spec.get(key).is_none_or(Value::is_null);
    if is_absent(spec, "completions") && is_absent(spec, "parallelism") {
        spec.insert("completions".to_owned(), 1.into());
    }
    set_absent(spec, "parallelism", 1);
    let limit = if is_absent(spec, "backoffLimitPerIndex") { 6 } else { i32::MAX };
    set_absent(spec, "backoffLimit", limit);
    set_absent(spec, "completionMode", "NonIndexed");
    set_absent(spec, "suspend", false);
    let replacement = if is_absent(spec, "podFailurePolicy") { "TerminatingOrFailed" } else { "Failed" };
    set_absent(spec, "podReplacementPolicy", replacement);
    set_absent(spec, "manualSelector", false);
    default_template(spec);
}

/// Defaults inside a job's spec that hold in the templates of cron jobs, too.
pub fn default_template(spec: &mut Object) {
    defaults::template(ensure(spec, "template"));
    if let Some(policy) = sub(spec, "podFailurePolicy") {
        each(policy, "rules", |rule| {
            each(rule, "onPodConditions", |pattern| set_default(pattern, "status", "True"));
        });
    }
}

fn cells(obj: &Value, now: SystemTime) -> Vec<Value> {
    let succeeded = number(obj, &["status", "succeeded"]);
    let parallelism = number(obj, &["spec", "parallelism"]);
    let completions = match obj["spec"]["completions"].as_i64() {
        Some(completions) => format!("{succeeded}/{completions}"),
        None if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        None => format!("{succeeded}/1"),
    };
    let parse = |field: &str| time::parse(text(obj, &["status", field])).ok();
    let duration = match (parse("startTime"), parse("completionTime")) {
        (None, _) => String::new(),
        (Some(start), end) => {
            time::human_duration(end.unwrap_or(now).duration_since(start).unwrap_or_default())
        }
    };
    let is = |kind: &str| {
        list(obj, &["status", "conditions"])
            .iter()
            .any(|c| text(c, &["type"]) == kind && text(c, &["status"]) == "True")
    };
    let status = if is("Complete") {
        "Complete"
    } else if is("Failed") {
        "Failed"
    } else if !text(obj, &["metadata", "deletionTimestamp"]).is_empty() {
        "Terminating"
    } else if is("Suspended") {
        "Suspended"
    } else if is("FailureTarget") {
        "FailureTarget"
    } else if is("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    };
    let (names, images) = cells::containers(&obj["spec"]["template"]["spec"]);
    vec![
        cells::name(obj),
        status.into(),
        completions.into(),
        duration.into(),
        cells::age(obj, now),
        names,
        images,
        cells::selector(&obj["spec"]["selector"]).into(),
    ]
}

/// The declaration.
pub fn def() -> ResourceDef {
    ResourceDef::new(Jobs)
        .status()
        .cells(cells)
        .selectable(&[("status.successful", &["status", "succeeded"], "0")])
        .fixture(include_str!("../testdata/job.yaml"))
}
