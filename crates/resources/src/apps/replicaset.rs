//! ReplicaSets (apps/v1): pkg/registry/apps/replicaset.

use super::workload;
use crate::core::pod::{defaults, warnings};
use crate::util::value::{ensure, object, set_absent};
use crate::util::{Errs, Number, Text, cells};
use knarr_api::apps::v1::ReplicaSet;
use knarr_apiserver::def::{ResourceDef, Strategy};
use knarr_apiserver::request::RequestCx;
use knarr_meta::field::{ErrorList, Path};
use serde_json::{Value, json};
use std::time::SystemTime;

struct ReplicaSets;

impl Strategy for ReplicaSets {
    type Object = ReplicaSet;

    fn default(&self, obj: &mut Value) {
        let spec = ensure(object(obj), "spec");
        set_absent(spec, "replicas", 1);
        defaults::template(ensure(spec, "template"));
    }

    fn prepare_for_create(&self, _cx: &RequestCx, obj: &mut Value) {
        object(obj).insert("status".to_owned(), json!({"replicas": 0}));
    }

    fn validate(&self, _cx: &RequestCx, obj: &ReplicaSet) -> ErrorList {
        let mut errs = ErrorList::default();
        let Some(spec) = &obj.spec else { return errs };
        let path = Path::new("spec");
        errs.add_negative(&path.child("replicas"), spec.replicas.number());
        errs.add_negative(&path.child("minReadySeconds"), spec.min_ready_seconds.number());
        workload::replica_set(&mut errs, &spec.selector, &spec.template.clone().unwrap_or_default(), &path);
        errs
    }

    fn validate_update(&self, cx: &RequestCx, new: &ReplicaSet, old: &ReplicaSet) -> ErrorList {
        let mut errs = self.validate(cx, new);
        if let (Some(new), Some(old)) = (&new.spec, &old.spec) {
            errs.add_changed(&Path::new("spec").child("selector"), &new.selector, &old.selector);
        }
        errs
    }

    fn validate_status_update(&self, _cx: &RequestCx, new: &ReplicaSet, _old: &ReplicaSet) -> ErrorList {
        let status = new.status.clone().unwrap_or_default();
        let count = |c: Option<i32>| c.map(i64::from);
        workload::replica_counts(
            i64::from(status.replicas),
            &[
                ("replicas", Some(i64::from(status.replicas))),
                ("fullyLabeledReplicas", count(status.fully_labeled_replicas)),
                ("readyReplicas", count(status.ready_replicas)),
                ("availableReplicas", count(status.available_replicas)),
                ("observedGeneration", status.observed_generation),
                ("terminatingReplicas", count(status.terminating_replicas)),
            ],
        )
    }

    fn warnings(&self, _cx: &RequestCx, new: &ReplicaSet, old: Option<&ReplicaSet>) -> Vec<String> {
        if old.is_some_and(|old| old.spec == new.spec) {
            return Vec::new();
        }
        let mut out: Vec<String> = match old {
            None => workload::name_warning(new.metadata.name.text()).into_iter().collect(),
            Some(_) => Vec::new(),
        };
        if let Some(template) = new.spec.as_ref().and_then(|s| s.template.as_ref()) {
            out.extend(warnings::of_template(template, &Path::new("spec").child("template")));
        }
        out
    }
}

fn cells(obj: &Value, now: SystemTime) -> Vec<Value> {
    let (names, images) = cells::containers(&obj["spec"]["template"]["spec"]);
    vec![
        cells::name(obj),
        cells::count(obj, &["spec", "replicas"]),
        cells::count(obj, &["status", "replicas"]),
        cells::count(obj, &["status", "readyReplicas"]),
        cells::age(obj, now),
        names,
        images,
        cells::selector(&obj["spec"]["selector"]).into(),
    ]
}

/// The declaration.
pub fn def() -> ResourceDef {
    ResourceDef::new(ReplicaSets)
        .status()
        .scale(&["spec", "replicas"], &["status", "replicas"], &["spec", "selector"])
        .cells(cells)
        .selectable(&[("status.replicas", &["status", "replicas"], "0")])
        .fixture(include_str!("testdata/replicaset.yaml"))
}
