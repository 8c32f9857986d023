//! Autoscalers as autoscaling/v1 shows them: one CPU target, and annotations for what that version lacks
//! (pkg/apis/autoscaling/v1/conversion.go).

use super::horizontalpodautoscaler::DEFAULT_UTILIZATION;
use super::metrics::cpu;
use crate::util::value::{Object, at, ensure, list, object, sub, text};
use knarr_meta::status::Status;
use serde_json::{Map, Value, json};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const TARGET: &str = "targetCPUUtilizationPercentage";
const CURRENT: &str = "currentCPUUtilizationPercentage";

fn is_cpu_utilization(metric: &Value, of: &str) -> bool {
    text(metric, &["type"]) == "Resource"
        && text(metric, &["resource", "name"]) == "cpu"
        && at(metric, &["resource", of, "averageUtilization"]).is_some_and(Value::is_number)
}

/// From v2 to v1.
pub fn from_hub(mut obj: Value) -> Result<Value, Status> {
    let metrics = list(&obj, &["spec", "metrics"]).to_vec();
    let current = list(&obj, &["status", "currentMetrics"]).to_vec();
    let conditions = list(&obj, &["status", "conditions"]).to_vec();
    let behavior = at(&obj, &["spec", "behavior"]).filter(|b| b.is_object()).cloned();
    let obj_map = object(&mut obj);
    let spec = ensure(obj_map, "spec");
    spec.remove("metrics");
    spec.remove("behavior");
    if let Some(cpu) = metrics.iter().find(|m| is_cpu_utilization(m, "target")) {
        spec.insert(TARGET.to_owned(), cpu["resource"]["target"]["averageUtilization"].clone());
    }
    if let Some(status) = sub(obj_map, "status") {
        status.remove("currentMetrics");
        status.remove("conditions");
        if let Some(cpu) = current.iter().find(|m| is_cpu_utilization(m, "current")) {
            status.insert(CURRENT.to_owned(), cpu["resource"]["current"]["averageUtilization"].clone());
        }
        status.entry("currentReplicas").or_insert(0.into());
    }
    let others: Vec<Value> = metrics
        .iter()
        .filter(|m| !is_cpu_utilization(m, "target"))
        .map(|m| metric_to_v1(m, "target"))
        .collect();
    let statuses: Vec<Value> = current.iter().map(|m| metric_to_v1(m, "current")).collect();
    let meta = ensure(obj_map, "metadata");
    let mut note = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            ensure(meta, "annotations").insert(key.to_owned(), value.to_string().into());
        } else if let Some(annotations) = sub(meta, "annotations") {
            annotations.remove(key);
        }
    };
    note(METRICS, (!others.is_empty()).then_some(Value::Array(others)));
    note(CURRENT_METRICS, (!statuses.is_empty()).then_some(Value::Array(statuses)));
    note(BEHAVIOR, behavior.map(|b| rename(b, &|key| recase(key, char::to_ascii_uppercase))));
    note(CONDITIONS, (!conditions.is_empty()).then_some(Value::Array(conditions)));
    Ok(obj)
}

/// From v1 to v2.
pub fn to_hub(mut obj: Value) -> Result<Value, Status> {
    let obj_map = object(&mut obj);
    let mut notes = Map::new();
    let meta = ensure(obj_map, "metadata");
    if let Some(annotations) = sub(meta, "annotations") {
        for key in [METRICS, CURRENT_METRICS, BEHAVIOR, CONDITIONS] {
            let text = annotations.remove(key);
            let parsed = text.as_ref().and_then(Value::as_str).and_then(|t| serde_json::from_str(t).ok());
            if let Some(value) = parsed {
                notes.insert(key.to_owned(), value);
            }
        }
        if annotations.is_empty() {
            meta.remove("annotations");
        }
    }
    let array = |key: &str| notes.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let spec = ensure(obj_map, "spec");
    let mut metrics: Vec<Value> = array(METRICS).iter().map(|m| metric_to_v2(m, "target")).collect();
    if let Some(target) = spec.remove(TARGET).as_ref().and_then(Value::as_i64) {
        metrics.push(cpu(i32::try_from(target).unwrap_or(i32::MAX)));
    }
    if metrics.is_empty() {
        metrics.push(cpu(DEFAULT_UTILIZATION));
    }
    spec.insert("metrics".to_owned(), Value::Array(metrics));
    if let Some(behavior) = notes.get(BEHAVIOR).filter(|b| b.is_object()) {
        let behavior = rename(behavior.clone(), &|key| recase(key, char::to_ascii_lowercase));
        spec.insert("behavior".to_owned(), behavior);
    }
    if let Some(status) = sub(obj_map, "status") {
        let utilization = status.remove(CURRENT).filter(Value::is_number);
        let mut current: Vec<Value> =
            array(CURRENT_METRICS).iter().map(|m| metric_to_v2(m, "current")).collect();
        if current.is_empty()
            && let Some(utilization) = utilization
        {
            current.push(json!({"type": "Resource", "resource": {"name": "cpu",
                "current": {"averageUtilization": utilization}}}));
        }
        status.insert("currentMetrics".to_owned(), Value::Array(current));
        let conditions = array(CONDITIONS);
        if !conditions.is_empty() {
            status.insert("conditions".to_owned(), Value::Array(conditions));
        }
    }
    Ok(obj)
}

/// A metric or its status (`of` is `target` or `current`) in the flat form of v1.
fn metric_to_v1(metric: &Value, of: &str) -> Value {
    let mut out = Map::new();
    out.insert("type".to_owned(), metric["type"].clone());
    for (field, source) in metric.as_object().into_iter().flatten().filter(|(f, _)| *f != "type") {
        let mut flat = Object::new();
        let mut put = |key: String, value: Option<&Value>| {
            if let Some(value) = value.filter(|v| !v.is_null()) {
                flat.insert(key, value.clone());
            }
        };
        let goal = &source[of];
        let prefixed = |name: &str| format!("{of}{}", recase(name, char::to_ascii_uppercase));
        put("name".to_owned(), source.get("name"));
        put("container".to_owned(), source.get("container"));
        put("metricName".to_owned(), source["metric"].get("name"));
        let selector = if field == "external" { "metricSelector" } else { "selector" };
        put(selector.to_owned(), source["metric"].get("selector"));
        put("target".to_owned(), source.get("describedObject"));
        put(prefixed("averageUtilization"), goal.get("averageUtilization"));
        put(prefixed("value"), goal.get("value"));
        let average = if field == "object" { "averageValue".to_owned() } else { prefixed("averageValue") };
        put(average, goal.get("averageValue"));
        out.insert(field.clone(), flat.into());
    }
    Value::Object(out)
}

/// A metric or its status in the nested form of v2.
fn metric_to_v2(metric: &Value, of: &str) -> Value {
    let mut out = Map::new();
    out.insert("type".to_owned(), metric["type"].clone());
    for (field, source) in metric.as_object().into_iter().flatten().filter(|(f, _)| *f != "type") {
        let (mut nested, mut id, mut goal) = (Object::new(), Object::new(), Object::new());
        for (key, value) in source.as_object().into_iter().flatten() {
            let value = value.clone();
            let short = recase(key.strip_prefix(of).unwrap_or_default(), char::to_ascii_lowercase);
            match key.as_str() {
                "name" | "container" => nested.insert(key.clone(), value),
                "metricName" => id.insert("name".to_owned(), value),
                "selector" | "metricSelector" => id.insert("selector".to_owned(), value),
                "target" => nested.insert("describedObject".to_owned(), value),
                "averageValue" => goal.insert(key.clone(), value),
                _ if !short.is_empty() => goal.insert(short, value),
                _ => None,
            };
        }
        if of == "target" {
            let kind =
                ["averageUtilization", "averageValue", "value"].into_iter().find(|k| goal.contains_key(*k));
            let kind = match kind {
                Some("averageUtilization") => "Utilization",
                Some("averageValue") => "AverageValue",
                _ => "Value",
            };
            goal.insert("type".to_owned(), kind.into());
        }
        if !id.is_empty() {
            nested.insert("metric".to_owned(), id.into());
        }
        nested.insert(of.to_owned(), goal.into());
        out.insert(field.clone(), nested.into());
    }
    Value::Object(out)
}

/// A name with its first letter changed.
fn recase(name: &str, case: fn(&char) -> char) -> String {
    let mut chars = name.chars();
    chars.next().map_or(String::new(), |first| case(&first).to_string() + chars.as_str())
}

/// The behavior annotation has the field names of upstream's internal type.
fn rename(value: Value, name: &dyn Fn(&str) -> String) -> Value {
    match value {
        Value::Object(map) => map
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (name(&key), rename(value, name)))
            .collect::<Map<_, _>>()
            .into(),
        Value::Array(items) => items.into_iter().map(|item| rename(item, name)).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_on_the_way_through_v1() {
        let hub = json!({
            "metadata": {"name": "a"},
            "spec": {"maxReplicas": 3, "minReplicas": 1,
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"},
                "behavior": {"scaleUp": {"selectPolicy": "Max",
                    "policies": [{"type": "Pods", "value": 4, "periodSeconds": 15}]}},
                "metrics": [
                    {"type": "Pods", "pods": {"metric": {"name": "m"},
                        "target": {"type": "AverageValue", "averageValue": "10"}}},
                    {"type": "Object", "object": {"metric": {"name": "o"},
                        "describedObject": {"kind": "Service", "name": "s"},
                        "target": {"type": "Value", "value": "5"}}},
                    cpu(50)]},
            "status": {"currentReplicas": 1, "desiredReplicas": 1,
                "currentMetrics": [{"type": "Resource", "resource": {"name": "cpu",
                    "current": {"averageValue": "10m", "averageUtilization": 7}}}],
                "conditions": [{"type": "AbleToScale", "status": "True"}]}});
        let v1 = from_hub(hub.clone()).unwrap();
        assert_eq!(v1["spec"]["targetCPUUtilizationPercentage"], 50);
        assert_eq!(v1["status"]["currentCPUUtilizationPercentage"], 7);
        assert!(v1["spec"].get("metrics").is_none());
        let behavior = text(&v1, &["metadata", "annotations", BEHAVIOR]);
        assert!(behavior.contains("\"ScaleUp\""), "{behavior}");
        assert_eq!(to_hub(v1).unwrap(), hub);
    }

    #[test]
    fn a_v1_object_without_a_target_gets_the_default() {
        let hub = to_hub(json!({"spec": {"maxReplicas": 1}})).unwrap();
        assert_eq!(hub["spec"]["metrics"], json!([cpu(80)]));
    }
}
