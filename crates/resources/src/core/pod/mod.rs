//! Pods (core/v1): pkg/registry/core/pod. What template kinds share with pods (defaults, validation,
//! warnings) stands in the modules below; exec, attach, portforward, log and proxy are served by the
//! streaming part of the front half.

pub mod aggregate;
mod binding;
mod cells;
pub mod defaults;
mod eviction;
pub mod qos;
mod subresources;
pub mod validation;
pub mod warnings;

use crate::util::Number;
use crate::util::value::{Object, at, ensure, keep_at, list, number, object, sub, text};
use knarr_api::core::v1::Pod;
use knarr_apiserver::def::{ResourceDef, Strategy};
use knarr_apiserver::request::RequestCx;
use knarr_meta::field::ErrorList;
use knarr_meta::validate;
use serde_json::{Value, json};
use validation::update;

struct Pods;

impl Strategy for Pods {
    type Object = Pod;

    fn default(&self, obj: &mut Value) {
        defaults::pod(object(obj));
    }

    fn prepare_for_create(&self, _cx: &RequestCx, obj: &mut Value) {
        let class = qos::compute(&obj["spec"]);
        let mut status = json!({"phase": "Pending", "qosClass": class});
        if !list(obj, &["spec", "schedulingGates"]).is_empty() {
            status["conditions"] = json!([{"type": "PodScheduled", "status": "False",
                "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates"}]);
        }
        let labels = obj["metadata"]["labels"].clone();
        let obj = object(obj);
        obj.insert("status".to_owned(), status);
        merge_match_label_keys(ensure(obj, "spec"), &labels);
    }

    fn validate(&self, _cx: &RequestCx, obj: &Pod) -> ErrorList {
        validation::create(obj)
    }

    fn validate_update(&self, cx: &RequestCx, new: &Pod, old: &Pod) -> ErrorList {
        match cx.info.subresource.as_str() {
            "ephemeralcontainers" => update::ephemeral_containers(new, old),
            "resize" => update::resize(new, old),
            _ => update::pod(new, old),
        }
    }

    fn prepare_for_status_update(&self, _cx: &RequestCx, new: &mut Value, old: &Value) {
        if let Some(metadata) = sub(object(new), "metadata") {
            metadata.remove("deletionTimestamp");
        }
        keep_at(new, old, &["metadata", "deletionTimestamp"]);
        keep_at(new, old, &["metadata", "ownerReferences"]);
        if text(new, &["status", "qosClass"]).is_empty() {
            keep_at(new, old, &["status", "qosClass"]);
        }
        keep_observed_generations(new, old);
    }

    fn validate_status_update(&self, _cx: &RequestCx, new: &Pod, old: &Pod) -> ErrorList {
        validation::status::update(new, old)
    }

    fn warnings(&self, cx: &RequestCx, new: &Pod, old: Option<&Pod>) -> Vec<String> {
        if old.is_some() || !cx.info.subresource.is_empty() {
            return Vec::new();
        }
        let mut warnings = Vec::new();
        let problems = validate::dns1123_label(new.metadata.name.as_deref().unwrap_or_default());
        if !problems.is_empty() {
            warnings.push(format!(
                "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [{}]",
                problems.join(" ")
            ));
        }
        if let Some(spec) = &new.spec {
            warnings.extend(warnings::of(None, &new.metadata, spec));
        }
        warnings
    }

    fn grace_period(&self, _cx: &RequestCx, obj: &Value, requested: Option<i64>) -> Option<i64> {
        let unscheduled = text(obj, &["spec", "nodeName"]).is_empty();
        if unscheduled || matches!(text(obj, &["status", "phase"]), "Succeeded" | "Failed") {
            return Some(0);
        }
        let configured = at(obj, &["spec", "terminationGracePeriodSeconds"]).and_then(Value::as_i64);
        match requested.unwrap_or(configured.number()) {
            seconds if seconds < 0 => Some(1),
            seconds => Some(seconds),
        }
    }
}

/// KEP-3633 and KEP-3243: `matchLabelKeys` and `mismatchLabelKeys` become requirements of the selector.
fn merge_match_label_keys(spec: &mut Object, labels: &Value) {
    let merge = |term: &mut Object| {
        if !term.get("labelSelector").is_some_and(Value::is_object) {
            return;
        }
        for (field, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
            let keys = term.get(field).and_then(Value::as_array).cloned().unwrap_or_default();
            for key in keys.iter().filter_map(Value::as_str) {
                let Some(value) = labels.get(key) else { continue };
                let expression = json!({"key": key, "operator": operator, "values": [value]});
                let selector = ensure(term, "labelSelector");
                let list = selector.entry("matchExpressions").or_insert_with(|| json!([]));
                if let Value::Array(list) = list {
                    list.push(expression);
                }
            }
        }
    };
    if let Some(affinity) = sub(spec, "affinity") {
        for kind in ["podAffinity", "podAntiAffinity"] {
            let Some(affinity) = sub(affinity, kind) else { continue };
            crate::util::value::each(affinity, "requiredDuringSchedulingIgnoredDuringExecution", merge);
            crate::util::value::each(
                affinity,
                "preferredDuringSchedulingIgnoredDuringExecution",
                |weighted| {
                    if let Some(term) = sub(weighted, "podAffinityTerm") {
                        merge(term);
                    }
                },
            );
        }
    }
    crate::util::value::each(spec, "topologySpreadConstraints", merge);
}

/// A writer that does not know observedGeneration does not wipe it.
fn keep_observed_generations(new: &mut Value, old: &Value) {
    let Some(status) = sub(object(new), "status") else { return };
    if number(&Value::Object(status.clone()), &["observedGeneration"]) == 0 {
        let value = number(old, &["status", "observedGeneration"]);
        if value != 0 {
            status.insert("observedGeneration".to_owned(), value.into());
        }
    }
    let old_conditions = list(old, &["status", "conditions"]);
    crate::util::value::each(status, "conditions", |condition| {
        let seen = condition.get("observedGeneration").and_then(Value::as_i64).unwrap_or_default();
        let before = old_conditions.iter().find(|c| c.get("type") == condition.get("type"));
        let before = before.map(|c| number(c, &["observedGeneration"])).unwrap_or_default();
        if seen == 0 && before != 0 {
            condition.insert("observedGeneration".to_owned(), before.into());
        }
    });
}

/// Sets a condition of a pod as upstream's UpdatePodCondition does: the transition time moves only when the
/// status does.
pub fn set_condition(pod: &mut Value, now: &str, kind: &str, status: &str, reason: &str, message: &str) {
    let generation = number(pod, &["metadata", "generation"]);
    let status_map = ensure(object(pod), "status");
    let conditions = status_map.entry("conditions").or_insert_with(|| json!([]));
    let Value::Array(conditions) = conditions else { return };
    let mut condition = json!({"type": kind, "status": status, "lastTransitionTime": now});
    for (field, value) in [("reason", reason), ("message", message)] {
        if !value.is_empty() {
            condition[field] = value.into();
        }
    }
    if generation != 0 {
        condition["observedGeneration"] = generation.into();
    }
    match conditions.iter_mut().find(|c| text(c, &["type"]) == kind) {
        Some(old) => {
            if text(old, &["status"]) == status {
                condition["lastTransitionTime"] = old["lastTransitionTime"].clone();
            }
            *old = condition;
        }
        None => conditions.push(condition),
    }
}

/// The declaration.
pub fn def() -> ResourceDef {
    ResourceDef::new(Pods)
        .status()
        .subresource(binding::subresource())
        .subresource(eviction::subresource())
        .subresource(subresources::ephemeral_containers())
        .subresource(subresources::resize())
        .cells(cells::cells)
        .selectable(&[
            ("spec.nodeName", &["spec", "nodeName"], ""),
            ("spec.restartPolicy", &["spec", "restartPolicy"], ""),
            ("spec.schedulerName", &["spec", "schedulerName"], ""),
            ("spec.serviceAccountName", &["spec", "serviceAccountName"], ""),
            ("spec.hostNetwork", &["spec", "hostNetwork"], "false"),
            ("status.phase", &["status", "phase"], ""),
            ("status.podIP", &["status", "podIP"], ""),
            ("status.nominatedNodeName", &["status", "nominatedNodeName"], ""),
        ])
        .fixture(include_str!("../testdata/pod.yaml"))
}

/// `bindings`, the old way to bind: the same as `pods/binding` with the pod's name in the body.
pub use binding::def as bindings_def;
