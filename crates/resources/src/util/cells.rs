//! Table cells common to the kinds: names, ages, lists of containers and labels, as
//! `pkg/printers/internalversion` prints them.

use super::value::{at, list, text};
use knarr_meta::selector::LabelSelector;
use knarr_meta::time;
use serde_json::Value;
use std::time::SystemTime;

/// What upstream prints for nothing.
pub const NONE: &str = "<none>";

/// The object's name.
pub fn name(obj: &Value) -> Value {
    obj["metadata"]["name"].as_str().unwrap_or_default().into()
}

/// The time since the object was created, for example `5d`.
pub fn age(obj: &Value, now: SystemTime) -> Value {
    since(&obj["metadata"]["creationTimestamp"], now).into()
}

/// The time of creation, for the columns of type `date`.
pub fn created(obj: &Value) -> Value {
    obj["metadata"]["creationTimestamp"].clone()
}

/// The time since `timestamp`, or `<unknown>`.
pub fn since(timestamp: &Value, now: SystemTime) -> String {
    match timestamp.as_str().and_then(|t| time::parse(t).ok()) {
        Some(then) => time::human_duration(now.duration_since(then).unwrap_or_default()),
        None => "<unknown>".to_owned(),
    }
}

/// `text`, or what upstream prints for nothing.
pub fn or_none(text: impl Into<String>) -> Value {
    let text = text.into();
    if text.is_empty() { NONE.into() } else { text.into() }
}

/// Labels as `a=b,c=d`, or `<none>`.
pub fn labels(map: &Value) -> String {
    let pairs: Vec<String> = map
        .as_object()
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect();
    if pairs.is_empty() { NONE.to_owned() } else { pairs.join(",") }
}

/// A label selector as `a=b,c in (d,e),!f`, or `<none>` when it selects nothing or everything.
pub fn selector(selector: &Value) -> String {
    match LabelSelector::from_label_selector(selector) {
        Ok(selector) if selector.is_empty() || selector.is_nothing() => NONE.to_owned(),
        Ok(selector) => selector.to_string(),
        Err(_) => "<error>".to_owned(),
    }
}

/// Names and images of a pod template's containers, each joined by commas.
pub fn containers(pod_spec: &Value) -> (Value, Value) {
    let join = |field: &str| -> Value {
        let all: Vec<&str> = list(pod_spec, &["containers"]).iter().map(|c| text(c, &[field])).collect();
        all.join(",").into()
    };
    (join("name"), join("image"))
}

/// The number under a path, 0 when absent.
pub fn count(obj: &Value, path: &[&str]) -> Value {
    at(obj, path).and_then(Value::as_i64).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn selectors_are_sorted_by_key_and_empty_ones_are_none() {
        let sel = json!({"matchLabels":{"z":"1","b":"2"},"matchExpressions":[
            {"key":"c","operator":"In","values":["y","x"]},{"key":"a","operator":"DoesNotExist"}]});
        assert_eq!(selector(&sel), "!a,b=2,c in (x,y),z=1");
        assert_eq!(selector(&Value::Null), "<none>");
    }
}
