//! DaemonSets (apps/v1): pkg/registry/apps/daemonset. The template's generation, a field of upstream's internal
//! type, is the annotation `deprecated.daemonset.template.generation`, and the server's.

use super::workload;
use crate::core::pod::validation::scheduling::label_selector;
use crate::core::pod::validation::template as validate_template;
use crate::core::pod::{defaults, warnings};
use crate::util::value::{ensure, object, set_absent, set_default, text};
use crate::util::{Errs, Number, Text, cells};
use knarr_api::IntOrString;
use knarr_api::apps::v1::{DaemonSet, DaemonSetSpec, DaemonSetUpdateStrategy};
use knarr_apiserver::def::{ResourceDef, Strategy};
use knarr_apiserver::request::RequestCx;
use knarr_meta::field::{ErrorList, Path};
use serde_json::{Value, json};
use std::time::SystemTime;

const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

struct DaemonSets;

impl Strategy for DaemonSets {
    type Object = DaemonSet;

    fn default(&self, obj: &mut Value) {
        let spec = ensure(object(obj), "spec");
        let strategy = ensure(spec, "updateStrategy");
        set_default(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate" {
            let rolling = ensure(strategy, "rollingUpdate");
            set_absent(rolling, "maxUnavailable", 1);
            set_absent(rolling, "maxSurge", 0);
        }
        set_absent(spec, "revisionHistoryLimit", 10);
        defaults::template(ensure(spec, "template"));
    }

    fn prepare_for_create(&self, _cx: &RequestCx, obj: &mut Value) {
        let generation = template_generation(obj).max(1);
        set_template_generation(obj, generation);
        let status = json!({"currentNumberScheduled": 0, "numberMisscheduled": 0,
            "desiredNumberScheduled": 0, "numberReady": 0});
        object(obj).insert("status".to_owned(), status);
    }

    fn prepare_for_update(&self, _cx: &RequestCx, new: &mut Value, old: &Value) {
        let changed = new["spec"]["template"] != old["spec"]["template"];
        set_template_generation(new, template_generation(old) + i64::from(changed));
    }

    fn validate(&self, _cx: &RequestCx, obj: &DaemonSet) -> ErrorList {
        obj.spec.as_ref().map(validate_spec).unwrap_or_default()
    }

    fn validate_update(&self, _cx: &RequestCx, new: &DaemonSet, old: &DaemonSet) -> ErrorList {
        let mut errs = ErrorList::default();
        if let (Some(new), Some(old)) = (&new.spec, &old.spec) {
            errs.add_changed(&Path::new("spec").child("selector"), &new.selector, &old.selector);
            errs.extend(validate_spec(new));
        }
        errs
    }

    fn validate_status_update(&self, _cx: &RequestCx, new: &DaemonSet, old: &DaemonSet) -> ErrorList {
        let (status, old) = (new.status.clone().unwrap_or_default(), old.status.clone().unwrap_or_default());
        let mut errs = ErrorList::default();
        let path = Path::new("status");
        for (field, count) in [
            ("currentNumberScheduled", i64::from(status.current_number_scheduled)),
            ("numberMisscheduled", i64::from(status.number_misscheduled)),
            ("desiredNumberScheduled", i64::from(status.desired_number_scheduled)),
            ("numberReady", i64::from(status.number_ready)),
            ("observedGeneration", status.observed_generation.number()),
            ("updatedNumberScheduled", status.updated_number_scheduled.number()),
            ("numberAvailable", status.number_available.number()),
            ("numberUnavailable", status.number_unavailable.number()),
            ("collisionCount", status.collision_count.number()),
        ] {
            errs.add_negative(&path.child(field), count);
        }
        workload::not_decremented(&mut errs, status.collision_count, old.collision_count);
        errs
    }

    fn warnings(&self, _cx: &RequestCx, new: &DaemonSet, old: Option<&DaemonSet>) -> Vec<String> {
        let template = |d: &DaemonSet| d.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
        let new = template(new);
        if old.is_some_and(|old| template(old) == new) {
            return Vec::new();
        }
        warnings::of_template(&new, &Path::new("spec").child("template"))
    }
}

fn template_generation(obj: &Value) -> i64 {
    text(obj, &["metadata", "annotations", TEMPLATE_GENERATION]).parse().unwrap_or_default()
}

fn set_template_generation(obj: &mut Value, generation: i64) {
    let annotations = ensure(ensure(object(obj), "metadata"), "annotations");
    annotations.insert(TEMPLATE_GENERATION.to_owned(), generation.to_string().into());
}

fn validate_spec(spec: &DaemonSetSpec) -> ErrorList {
    let path = Path::new("spec");
    let at = path.child("selector");
    let mut errs = label_selector(Some(&spec.selector), &at);
    let template = path.child("template");
    workload::selects_template(&mut errs, &spec.selector, &spec.template, &template);
    if workload::is_empty(&spec.selector) {
        let detail = "empty selector is invalid for daemonset";
        errs.add_invalid(&at, workload::selector_value(&spec.selector), detail);
    }
    errs.extend(validate_template(&spec.template, &template));
    workload::always_restarts(&mut errs, &spec.template, "DaemonSet", &template);
    errs.add_negative(&path.child("minReadySeconds"), spec.min_ready_seconds.number());
    let strategy = spec.update_strategy.clone().unwrap_or_default();
    update_strategy(&mut errs, &strategy, &path.child("updateStrategy"));
    errs.add_negative(&path.child("revisionHistoryLimit"), spec.revision_history_limit.number());
    errs
}

fn update_strategy(errs: &mut ErrorList, strategy: &DaemonSetUpdateStrategy, path: &Path) {
    match (strategy.type_.text(), &strategy.rolling_update) {
        ("OnDelete", _) => {}
        ("RollingUpdate", None) => errs.add_required(&path.child("rollingUpdate"), ""),
        ("RollingUpdate", Some(rolling)) => {
            let path = path.child("rollingUpdate");
            let zero = IntOrString::Int(0);
            let unavailable = rolling.max_unavailable.as_ref().unwrap_or(&zero);
            let surge = rolling.max_surge.as_ref().unwrap_or(&zero);
            let (unavailable_at, surge_at) = (path.child("maxUnavailable"), path.child("maxSurge"));
            workload::positive_int_or_percent(errs, unavailable, &unavailable_at);
            workload::positive_int_or_percent(errs, surge, &surge_at);
            workload::at_most_100_percent(errs, unavailable, &unavailable_at);
            workload::at_most_100_percent(errs, surge, &surge_at);
            match (workload::amount(Some(unavailable)), workload::amount(Some(surge))) {
                (0, 0) => errs.add_required(&unavailable_at, "cannot be 0 when maxSurge is 0"),
                (0, _) | (_, 0) => {}
                _ => {
                    let value = workload::int_or_string(surge);
                    errs.add_invalid(&surge_at, value, "may not be set when maxUnavailable is non-zero");
                }
            }
        }
        _ => {
            let value = serde_json::to_value(strategy).unwrap_or_default();
            errs.add_not_supported(path, value, &["RollingUpdate", "OnDelete"]);
        }
    }
}

fn cells(obj: &Value, now: SystemTime) -> Vec<Value> {
    let count = |field: &str| cells::count(obj, &["status", field]);
    let pod = &obj["spec"]["template"]["spec"];
    let (names, images) = cells::containers(pod);
    vec![
        cells::name(obj),
        count("desiredNumberScheduled"),
        count("currentNumberScheduled"),
        count("numberReady"),
        count("updatedNumberScheduled"),
        count("numberAvailable"),
        cells::labels(&pod["nodeSelector"]).into(),
        cells::age(obj, now),
        names,
        images,
        cells::selector(&obj["spec"]["selector"]).into(),
    ]
}

/// The declaration.
pub fn def() -> ResourceDef {
    ResourceDef::new(DaemonSets).status().cells(cells).fixture(include_str!("testdata/daemonset.yaml"))
}
