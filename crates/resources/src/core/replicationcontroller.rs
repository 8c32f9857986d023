//! ReplicationControllers (core/v1): pkg/registry/core/replicationcontroller.

use super::pod::{defaults, validation, warnings};
use crate::util::value::{Object, ensure, object, set_absent};
use crate::util::{Errs, Number, Text, cells};
use knarr_api::core::v1::{ReplicationController, ReplicationControllerSpec};
use knarr_apiserver::def::{ResourceDef, Strategy};
use knarr_apiserver::request::RequestCx;
use knarr_meta::field::{ErrorList, Path};
use serde_json::{Value, json};
use std::time::SystemTime;

struct ReplicationControllers;

impl Strategy for ReplicationControllers {
    type Object = ReplicationController;

    fn default(&self, obj: &mut Value) {
        let labels = obj["spec"]["template"]["metadata"]["labels"].as_object().cloned();
        let obj = object(obj);
        let is_empty =
            |map: &Object, key: &str| map.get(key).and_then(Value::as_object).is_none_or(Object::is_empty);
        if let Some(labels) = labels {
            let meta = ensure(obj, "metadata");
            if is_empty(meta, "labels") {
                meta.insert("labels".to_owned(), labels.clone().into());
            }
            let spec = ensure(obj, "spec");
            if is_empty(spec, "selector") {
                spec.insert("selector".to_owned(), labels.into());
            }
        }
        let spec = ensure(obj, "spec");
        set_absent(spec, "replicas", 1);
        if let Some(template) = spec.get_mut("template").and_then(Value::as_object_mut) {
            defaults::template(template);
        }
    }

    fn prepare_for_create(&self, _cx: &RequestCx, obj: &mut Value) {
        object(obj).insert("status".to_owned(), json!({"replicas": 0}));
    }

    fn validate(&self, _cx: &RequestCx, obj: &ReplicationController) -> ErrorList {
        validate_spec(&obj.spec.clone().unwrap_or_default())
    }

    fn validate_status_update(
        &self,
        _cx: &RequestCx,
        new: &ReplicationController,
        _old: &ReplicationController,
    ) -> ErrorList {
        let status = new.status.clone().unwrap_or_default();
        crate::apps::workload::replica_counts(
            i64::from(status.replicas),
            &[
                ("replicas", Some(i64::from(status.replicas))),
                ("fullyLabeledReplicas", status.fully_labeled_replicas.map(i64::from)),
                ("readyReplicas", status.ready_replicas.map(i64::from)),
                ("availableReplicas", status.available_replicas.map(i64::from)),
                ("observedGeneration", status.observed_generation),
            ],
        )
    }

    fn warnings(
        &self,
        _cx: &RequestCx,
        new: &ReplicationController,
        _old: Option<&ReplicationController>,
    ) -> Vec<String> {
        let mut out = Vec::new();
        let problems = knarr_meta::validate::dns1123_label(new.metadata.name.text());
        if !problems.is_empty() {
            out.push(format!(
                "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: [{}]",
                problems.join(" ")
            ));
        }
        if let Some(template) = new.spec.as_ref().and_then(|s| s.template.as_ref()) {
            out.extend(warnings::of_template(template, &Path::new("spec").child("template")));
        }
        out
    }

    fn orphans_by_default(&self) -> bool {
        true
    }
}

fn validate_spec(spec: &ReplicationControllerSpec) -> ErrorList {
    let mut errs = ErrorList::default();
    let path = Path::new("spec");
    errs.add_negative(&path.child("minReadySeconds"), spec.min_ready_seconds.number());
    let selector = spec.selector.clone().unwrap_or_default();
    if selector.is_empty() {
        errs.add_required(&path.child("selector"), "");
    }
    match spec.replicas {
        None => errs.add_required(&path.child("replicas"), ""),
        Some(replicas) => errs.add_negative(&path.child("replicas"), i64::from(replicas)),
    }
    let path = path.child("template");
    let Some(template) = &spec.template else {
        errs.add_required(&path, "");
        return errs;
    };
    let labels = template.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
    if selector.iter().any(|(key, value)| labels.get(key) != Some(value)) {
        let path = path.child("metadata").child("labels");
        errs.add_invalid(&path, &labels, "`selector` does not match template `labels`");
    }
    errs.extend(validation::template(template, &path));
    crate::apps::workload::always_restarts(&mut errs, template, "ReplicationController", &path);
    errs
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
        cells::labels(&obj["spec"]["selector"]).into(),
    ]
}

/// The declaration.
pub fn def() -> ResourceDef {
    ResourceDef::new(ReplicationControllers)
        .status()
        .scale(&["spec", "replicas"], &["status", "replicas"], &["spec", "selector"])
        .cells(cells)
        .selectable(&[("status.replicas", &["status", "replicas"], "0")])
        .fixture(include_str!("testdata/replicationcontroller.yaml"))
}
