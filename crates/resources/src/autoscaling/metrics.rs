//! Metrics of autoscalers: their rules and how tables show them.

use super::horizontalpodautoscaler::{RefRules, reference};
use crate::core::resource;
use crate::util::value::{list, text};
use crate::util::{Errs, Items, cells};
use knarr_api::autoscaling::v2::{
    HorizontalPodAutoscalerSpec, MetricIdentifier, MetricSpec, MetricTarget, ObjectMetricSource,
};
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::validate;
use serde_json::{Value, json};

const TYPES: &[&str] = &["ContainerResource", "External", "Object", "Pods", "Resource"];
const TARGET_TYPES: &[&str] = &["Utilization", "Value", "AverageValue"];
/// Metrics shown in a table cell.
const SHOWN: usize = 2;

/// The metric of a wanted CPU utilization in percent.
pub fn cpu(utilization: i32) -> Value {
    json!({"type": "Resource", "resource": {"name": "cpu",
        "target": {"type": "Utilization", "averageUtilization": utilization}}})
}

/// Errors of an autoscaler's metrics.
pub fn validate(errs: &mut ErrorList, spec: &HorizontalPodAutoscalerSpec, path: &Path) {
    let metrics = spec.metrics.items();
    for (i, metric) in metrics.iter().enumerate() {
        validate_metric(errs, metric, &path.index(i));
    }
    let outside = metrics.iter().any(|m| m.type_ == "Object" || m.type_ == "External");
    if spec.min_replicas == Some(0) && !outside {
        let detail =
            "must specify at least one Object or External metric to support scaling to zero replicas";
        errs.add_forbidden(path, detail);
    }
}

fn validate_metric(errs: &mut ErrorList, metric: &MetricSpec, path: &Path) {
    let kind = metric.type_.as_str();
    let at = path.child("type");
    if kind.is_empty() {
        errs.add_required(&at, "must specify a metric source type");
    }
    if !TYPES.contains(&kind) {
        errs.add_not_supported(&at, kind, TYPES);
    }
    // In upstream's order of checks; only the first source is looked at.
    let present: Vec<(&str, &'static str)> = [
        ("Object", "object", metric.object.is_some()),
        ("External", "external", metric.external.is_some()),
        ("Pods", "pods", metric.pods.is_some()),
        ("Resource", "resource", metric.resource.is_some()),
        ("ContainerResource", "containerResource", metric.container_resource.is_some()),
    ]
    .into_iter()
    .filter(|(_, _, present)| *present)
    .map(|(kind, field, _)| (kind, field))
    .collect();
    match present.first().map(|(_, field)| *field) {
        Some("object") => metric.object.iter().for_each(|m| object(errs, m, &path.child("object"))),
        Some("external") => {
            let path = path.child("external");
            metric.external.iter().for_each(|m| external(errs, &m.metric, &m.target, &path));
        }
        Some("pods") => {
            let path = path.child("pods");
            metric.pods.iter().for_each(|m| pods(errs, &m.metric, &m.target, &path));
        }
        Some("resource") => {
            let path = path.child("resource");
            if let Some(m) = &metric.resource {
                if m.name.is_empty() {
                    errs.add_required(&path.child("name"), "must specify a resource name");
                }
                resource_target(errs, &m.target, &path.child("target"));
            }
        }
        Some(_) => {
            let path = path.child("containerResource");
            metric.container_resource.iter().for_each(|m| {
                container_resource(errs, &m.name, &m.container, &m.target, &path);
            });
        }
        None => {}
    }
    let expected = TYPES.contains(&kind).then(|| {
        let mut field = kind.to_owned();
        field[..1].make_ascii_lowercase();
        field
    });
    match &expected {
        Some(field) if !present.iter().any(|(_, f)| f == field) => {
            let detail = "must populate information for the given metric source";
            errs.add_required(&path.child(field.clone()), detail);
        }
        Some(_) => {}
        None => errs.add_not_supported(&at, kind, TYPES),
    }
    if present.len() != 1 {
        for (_, field) in present.iter().filter(|(_, f)| expected.as_deref() != Some(*f)) {
            errs.add_forbidden(&path.child(*field), "must populate the given metric source only");
        }
    }
}

fn object(errs: &mut ErrorList, metric: &ObjectMetricSource, path: &Path) {
    let rules = RefRules { any_version: false, core_group: true };
    reference(errs, &metric.described_object, rules, &path.child("describedObject"));
    identifier(errs, &metric.metric, &path.child("metric"));
    let path = path.child("target");
    target(errs, &metric.target, &path);
    if metric.target.value.is_none() && metric.target.average_value.is_none() {
        errs.add_required(&path.child("averageValue"), "must set either a target value or averageValue");
    }
}

fn external(errs: &mut ErrorList, metric: &MetricIdentifier, goal: &MetricTarget, path: &Path) {
    identifier(errs, metric, &path.child("metric"));
    let path = path.child("target");
    target(errs, goal, &path);
    match (&goal.value, &goal.average_value) {
        (None, None) => {
            let detail = "must set either a target value for metric or a per-pod target";
            errs.add_required(&path.child("averageValue"), detail);
        }
        (Some(_), Some(_)) => {
            let detail = "may not set both a target value for metric and a per-pod target";
            errs.add_forbidden(&path.child("value"), detail);
        }
        _ => {}
    }
}

fn pods(errs: &mut ErrorList, metric: &MetricIdentifier, goal: &MetricTarget, path: &Path) {
    identifier(errs, metric, &path.child("metric"));
    let path = path.child("target");
    target(errs, goal, &path);
    if goal.average_value.is_none() {
        errs.add_required(&path.child("averageValue"), "must specify a positive target averageValue");
    }
}

fn container_resource(errs: &mut ErrorList, name: &str, container: &str, goal: &MetricTarget, path: &Path) {
    if name.is_empty() {
        errs.add_required(&path.child("name"), "must specify a resource name");
    } else {
        errs.extend(resource::validate_container_name(&path.child("name"), name));
    }
    let at = path.child("container");
    if container.is_empty() {
        errs.add_required(&at, "must specify a container");
    } else {
        errs.add_all(&at, container, validate::dns1123_label(container));
    }
    resource_target(errs, goal, &path.child("target"));
}

fn resource_target(errs: &mut ErrorList, goal: &MetricTarget, path: &Path) {
    target(errs, goal, path);
    match (goal.average_utilization, &goal.average_value) {
        (None, None) => {
            let detail = "must set either a target raw value or a target utilization";
            errs.add_required(&path.child("averageUtilization"), detail);
        }
        (Some(_), Some(_)) => {
            let detail = "may not set both a target raw value and a target utilization";
            errs.add_forbidden(&path.child("averageValue"), detail);
        }
        _ => {}
    }
}

fn target(errs: &mut ErrorList, goal: &MetricTarget, path: &Path) {
    let at = path.child("type");
    if goal.type_.is_empty() {
        errs.add_required(&at, "must specify a metric target type");
    }
    if !TARGET_TYPES.contains(&goal.type_.as_str()) {
        errs.add_invalid(&at, &goal.type_, "must be either Utilization, Value, or AverageValue");
    }
    for (field, amount) in [("value", &goal.value), ("averageValue", &goal.average_value)] {
        if let Some(amount) = amount
            && resource::parse(amount).sign() <= 0
        {
            errs.add_invalid(&path.child(field), &amount.0, "must be positive");
        }
    }
    if let Some(utilization) = goal.average_utilization.filter(|u| *u < 1) {
        errs.add_invalid(&path.child("averageUtilization"), utilization, "must be greater than 0");
    }
}

fn identifier(errs: &mut ErrorList, metric: &MetricIdentifier, path: &Path) {
    let at = path.child("name");
    if metric.name.is_empty() {
        errs.add_required(&at, "must specify a metric name");
    } else {
        errs.add_all(&at, &metric.name, validate::path_segment_name(&metric.name));
    }
}

/// The metrics as a table shows them: `cpu: 12%/80%`.
pub fn cell(obj: &Value) -> String {
    let metrics = list(obj, &["spec", "metrics"]);
    if metrics.is_empty() {
        return cells::NONE.to_owned();
    }
    let statuses = list(obj, &["status", "currentMetrics"]);
    let shown: Vec<String> =
        metrics.iter().enumerate().take(SHOWN).map(|(i, metric)| one(metric, statuses.get(i))).collect();
    let shown = shown.join(", ");
    match metrics.len() {
        count if count > SHOWN => format!("{shown} + {} more...", count - SHOWN),
        _ => shown,
    }
}

fn one(metric: &Value, status: Option<&Value>) -> String {
    let kind = text(metric, &["type"]);
    let field = match kind {
        "Object" => "object",
        "External" => "external",
        "Pods" => "pods",
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        _ => return "<unknown type>".to_owned(),
    };
    let goal = &metric[field]["target"];
    let current = |of: &str| {
        let value = status.and_then(|s| s[field]["current"].get(of)).and_then(Value::as_str);
        value.unwrap_or("<unknown>").to_owned()
    };
    let average = text(goal, &["averageValue"]);
    let name = text(metric, &[field, "name"]);
    match kind {
        "Pods" => format!("{}/{average}", current("averageValue")),
        "Object" | "External" if !average.is_empty() => {
            format!("{}/{average} (avg)", current("averageValue"))
        }
        "Object" | "External" => format!("{}/{}", current("value"), text(goal, &["value"])),
        _ if !average.is_empty() => format!("{name}: {}/{average}", current("averageValue")),
        _ => {
            let percent = |value: Option<&Value>, unknown: &str| {
                value.and_then(Value::as_i64).map_or(unknown.to_owned(), |p| format!("{p}%"))
            };
            let current = status.and_then(|s| s[field]["current"].get("averageUtilization"));
            let goal = percent(goal.get("averageUtilization"), "<auto>");
            format!("{name}: {}/{goal}", percent(current, "<unknown>"))
        }
    }
}
