//! Deployments (apps/v1): pkg/registry/apps/deployment.

use super::workload;
use crate::core::pod::{defaults, warnings};
use crate::util::value::{ensure, object, set_absent, set_default};
use crate::util::{Errs, Number, Text, cells};
use knarr_api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy};
use knarr_apiserver::def::{ResourceDef, Strategy};
use knarr_apiserver::request::RequestCx;
use knarr_meta::field::{ErrorList, Path};
use serde_json::{Value, json};
use std::time::SystemTime;

struct Deployments;

impl Strategy for Deployments {
    type Object = Deployment;

    fn default(&self, obj: &mut Value) {
        let spec = ensure(object(obj), "spec");
        set_absent(spec, "replicas", 1);
        set_absent(spec, "revisionHistoryLimit", 10);
        set_absent(spec, "progressDeadlineSeconds", 600);
        let strategy = ensure(spec, "strategy");
        set_default(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate" {
            let rolling = ensure(strategy, "rollingUpdate");
            set_absent(rolling, "maxUnavailable", "25%");
            set_absent(rolling, "maxSurge", "25%");
        }
        defaults::template(ensure(spec, "template"));
    }

    fn prepare_for_create(&self, _cx: &RequestCx, obj: &mut Value) {
        object(obj).insert("status".to_owned(), json!({}));
    }

    fn validate(&self, _cx: &RequestCx, obj: &Deployment) -> ErrorList {
        obj.spec.as_ref().map(validate_spec).unwrap_or_default()
    }

    fn validate_update(&self, cx: &RequestCx, new: &Deployment, old: &Deployment) -> ErrorList {
        let mut errs = self.validate(cx, new);
        if let (Some(new), Some(old)) = (&new.spec, &old.spec) {
            errs.add_changed(&Path::new("spec").child("selector"), &new.selector, &old.selector);
        }
        errs
    }

    fn validate_status_update(&self, _cx: &RequestCx, new: &Deployment, old: &Deployment) -> ErrorList {
        let (status, old) = (new.status.clone().unwrap_or_default(), old.status.clone().unwrap_or_default());
        let count = |c: Option<i32>| c.map(i64::from);
        let mut errs = workload::replica_counts(
            status.replicas.number(),
            &[
                ("observedGeneration", status.observed_generation),
                ("replicas", count(status.replicas)),
                ("updatedReplicas", count(status.updated_replicas)),
                ("readyReplicas", count(status.ready_replicas)),
                ("availableReplicas", count(status.available_replicas)),
                ("unavailableReplicas", count(status.unavailable_replicas)),
                ("terminatingReplicas", count(status.terminating_replicas)),
                ("collisionCount", count(status.collision_count)),
            ],
        );
        workload::not_decremented(&mut errs, status.collision_count, old.collision_count);
        errs
    }

    fn warnings(&self, _cx: &RequestCx, new: &Deployment, old: Option<&Deployment>) -> Vec<String> {
        if old.is_some_and(|old| old.spec == new.spec) {
            return Vec::new();
        }
        let mut out: Vec<String> = match old {
            None => workload::name_warning(new.metadata.name.text()).into_iter().collect(),
            Some(_) => Vec::new(),
        };
        if let Some(spec) = &new.spec {
            out.extend(warnings::of_template(&spec.template, &Path::new("spec").child("template")));
        }
        out
    }
}

fn validate_spec(spec: &DeploymentSpec) -> ErrorList {
    let mut errs = ErrorList::default();
    let path = Path::new("spec");
    errs.add_negative(&path.child("replicas"), spec.replicas.number());
    workload::replica_set(&mut errs, &spec.selector, &spec.template, &path);
    if let Some(strategy) = &spec.strategy {
        validate_strategy(&mut errs, strategy, &path.child("strategy"));
    }
    errs.add_negative(&path.child("minReadySeconds"), spec.min_ready_seconds.number());
    errs.add_negative(&path.child("revisionHistoryLimit"), spec.revision_history_limit.number());
    if let Some(deadline) = spec.progress_deadline_seconds {
        let path = path.child("progressDeadlineSeconds");
        errs.add_negative(&path, i64::from(deadline));
        if i64::from(deadline) <= spec.min_ready_seconds.number() {
            errs.add_invalid(&path, deadline, "must be greater than minReadySeconds");
        }
    }
    errs
}

fn validate_strategy(errs: &mut ErrorList, strategy: &DeploymentStrategy, path: &Path) {
    let at = path.child("rollingUpdate");
    match (strategy.type_.text(), &strategy.rolling_update) {
        ("Recreate", Some(_)) => {
            errs.add_forbidden(&at, "may not be specified when strategy `type` is 'Recreate'");
        }
        ("Recreate", None) => {}
        ("RollingUpdate", None) => errs.add_required(&at, "this should be defaulted and never be nil"),
        ("RollingUpdate", Some(rolling)) => {
            let (unavailable, surge) = (rolling.max_unavailable.as_ref(), rolling.max_surge.as_ref());
            let path = at.child("maxUnavailable");
            if let Some(value) = unavailable {
                workload::positive_int_or_percent(errs, value, &path);
            }
            if let Some(value) = surge {
                workload::positive_int_or_percent(errs, value, &at.child("maxSurge"));
            }
            if workload::amount(unavailable) == 0 && workload::amount(surge) == 0 {
                let value = unavailable.map(workload::int_or_string).unwrap_or(0.into());
                errs.add_invalid(&path, value, "may not be 0 when `maxSurge` is 0");
            }
            if let Some(value) = unavailable {
                workload::at_most_100_percent(errs, value, &path);
            }
        }
        (other, _) => {
            let value = json!({"type": other});
            errs.add_not_supported(path, value, &["Recreate", "RollingUpdate"]);
        }
    }
}

fn cells(obj: &Value, now: SystemTime) -> Vec<Value> {
    let count = |field: &str| cells::count(obj, &["status", field]);
    let (names, images) = cells::containers(&obj["spec"]["template"]["spec"]);
    let ready = format!("{}/{}", count("readyReplicas"), cells::count(obj, &["spec", "replicas"]));
    vec![
        cells::name(obj),
        ready.into(),
        count("updatedReplicas"),
        count("availableReplicas"),
        cells::age(obj, now),
        names,
        images,
        cells::selector(&obj["spec"]["selector"]).into(),
    ]
}

/// The declaration.
pub fn def() -> ResourceDef {
    ResourceDef::new(Deployments)
        .status()
        .scale(&["spec", "replicas"], &["status", "replicas"], &["spec", "selector"])
        .cells(cells)
        .fixture(include_str!("testdata/deployment.yaml"))
}
