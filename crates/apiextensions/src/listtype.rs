//! Lists that are sets or maps hold no duplicates (upstream's `schema/listtype`).

use crate::schema::Schema;
use knarr_meta::field::{self, ErrorList, Path};
use serde_json::{Map, Value};
use std::collections::HashMap;

/// Checks every list below an object.
pub fn validate(value: &Value, schema: &Schema, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    if let Value::Object(map) = value {
        object(map, schema, path, &mut errors);
    }
    errors
}

fn object(map: &Map<String, Value>, schema: &Schema, path: &Path, errors: &mut ErrorList) {
    if let Some(other) = schema.additional() {
        for (name, value) in map {
            any(value, other, || path.key(name.clone()), errors);
        }
    }
    for (name, value) in map {
        if let Some(field) = schema.properties.get(name) {
            any(value, field, || path.child(name.clone()), errors);
        }
    }
}

fn any(value: &Value, schema: &Schema, path: impl FnOnce() -> Path, errors: &mut ErrorList) {
    match value {
        Value::Object(map) => object(map, schema, &path(), errors),
        Value::Array(list) => array(list, schema, &path(), errors),
        _ => {}
    }
}

fn array(list: &[Value], schema: &Schema, path: &Path, errors: &mut ErrorList) {
    match schema.list_type.as_deref() {
        Some("set") => {
            let elements: Vec<Key<'_>> = list.iter().map(Key::Value).collect();
            for index in duplicates(&elements) {
                errors.push(field::duplicate(&path.index(index), &list[index]));
            }
        }
        Some("map") => map(list, schema, path, errors),
        _ => {}
    }
    if let Some(items) = schema.items.as_deref() {
        for (index, value) in list.iter().enumerate() {
            any(value, items, || path.index(index), errors);
        }
    }
}

fn map(list: &[Value], schema: &Schema, path: &Path, errors: &mut ErrorList) {
    if let Some(index) = list.iter().position(|value| !value.is_object() && !value.is_null()) {
        let detail = "must be an object for an array of list-type map";
        errors.push(field::invalid(&path.index(index), &list[index], detail));
        return;
    }
    if let [key] = schema.list_map_keys.as_slice() {
        let elements: Vec<Key<'_>> =
            list.iter().map(|value| value.get(key).map_or(Key::None, Key::Value)).collect();
        for index in duplicates(&elements) {
            let shown: Map<String, Value> =
                list[index].get(key).map(|value| (key.clone(), value.clone())).into_iter().collect();
            errors.push(field::duplicate(&path.index(index), shown));
        }
        return;
    }
    let keys: Vec<Value> = list
        .iter()
        .map(|value| {
            let fields = schema.list_map_keys.iter();
            Value::Object(fields.filter_map(|key| Some((key.clone(), value.get(key)?.clone()))).collect())
        })
        .collect();
    let elements: Vec<Key<'_>> = keys.iter().map(Key::Value).collect();
    for index in duplicates(&elements) {
        errors.push(field::duplicate(&path.index(index), &keys[index]));
    }
}

/// What tells an element of a list apart.
#[derive(Clone, Copy)]
enum Key<'a> {
    None,
    Value(&'a Value),
}

/// The places of the second occurrence of whatever occurs more than once.
fn duplicates(keys: &[Key<'_>]) -> Vec<usize> {
    if keys.len() <= 1 {
        return Vec::new();
    }
    let mut seen: HashMap<String, usize> = HashMap::with_capacity(keys.len());
    let mut found = Vec::new();
    for (index, key) in keys.iter().enumerate() {
        let text = match key {
            Key::None => String::new(),
            Key::Value(value) => value.to_string(),
        };
        let times = seen.entry(text).or_default();
        *times += 1;
        if *times == 2 {
            found.push(index);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn duplicates_are_told_once() {
        let schema = Schema::parse(&json!({"properties": {
            "set": {"x-kubernetes-list-type": "set"},
            "one": {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"]},
            "two": {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a", "b"]},
            "deep": {"items": {"properties": {"set": {"x-kubernetes-list-type": "set"}}}},
            "map": {"additionalProperties": {"x-kubernetes-list-type": "set"}}}}))
        .unwrap();
        for (value, want) in [
            (
                json!({"set": [1, "1", 2, {"a": 1}, null], "one": [{"k": 1}, {"k": "1"}], "two": [{"a": 1}, {"b": 1}]}),
                vec![],
            ),
            (
                json!({"set": [1, 1, 1, {"a": 1}, {"a": 1}]}),
                vec!["set[1]: Duplicate value: 1", r#"set[4]: Duplicate value: {"a":1}"#],
            ),
            (
                json!({"one": [{"k": "x"}, {"k": "x", "v": 1}, {}, null]}),
                vec![r#"one[1]: Duplicate value: {"k":"x"}"#, "one[3]: Duplicate value: {}"],
            ),
            (
                json!({"one": [1]}),
                vec!["one[0]: Invalid value: 1: must be an object for an array of list-type map"],
            ),
            (
                json!({"two": [{"a": 1, "b": 2}, {"a": 1, "b": 2}]}),
                vec![r#"two[1]: Duplicate value: {"a":1,"b":2}"#],
            ),
            (json!({"deep": [{"set": ["a", "a"]}]}), vec![r#"deep[0].set[1]: Duplicate value: "a""#]),
            (json!({"map": {"x": ["a", "a"]}}), vec![r#"map[x][1]: Duplicate value: "a""#]),
        ] {
            let errors = validate(&value, &schema, &Path::nil());
            let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
            assert_eq!(texts, want, "{value}");
        }
    }
}
