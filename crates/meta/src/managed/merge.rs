//! Merging an applied configuration into the live object, and taking fields out of an object again
//! (structured-merge-diff's `Merge` and `RemoveItems`).

use super::fields::{Shape, shape};
use super::set::{FieldsError, as_node, element_step, has_children, is_member, push_step};
use crate::schema::{ListType, Schema, Type};
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};

type Node = Map<String, Value>;

static NULL: Value = Value::Null;

/// The live object with the applied one's values; nothing is removed.
pub(super) fn merge(schema: &Schema, ty: &Type, live: &Value, applied: &Value) -> Result<Value, FieldsError> {
    Ok(merge_one(schema, ty, false, Some(live), Some(applied))?.unwrap_or_else(|| Value::Object(Map::new())))
}

fn merge_one(
    schema: &Schema,
    ty: &Type,
    atomic: bool,
    live: Option<&Value>,
    applied: Option<&Value>,
) -> Result<Option<Value>, FieldsError> {
    let (Some(live), Some(applied)) = (live, applied) else {
        return Ok(live.or(applied).cloned());
    };
    let shape = match (shape(schema, ty, atomic, applied), shape(schema, ty, atomic, live)) {
        // A null is whatever the other is.
        (Shape::Leaf, live_shape) if applied.is_null() && *ty == Type::Any => live_shape,
        (shape, _) => shape,
    };
    Ok(match shape {
        Shape::Struct(_) | Shape::Map(_) if applied.is_object() || applied.is_null() => {
            let (old, new) = (live.as_object(), applied.as_object());
            if old.is_none_or(Map::is_empty) && new.is_none_or(Map::is_empty) {
                return Ok(Some(applied.clone()));
            }
            let mut out = Map::new();
            for (name, live) in old.into_iter().flatten() {
                let child = shape.child(name);
                let applied = new.and_then(|new| new.get(name));
                let merged = merge_one(schema, child.ty, child.atomic, Some(live), applied)?;
                out.extend(merged.map(|value| (name.clone(), value)));
            }
            for (name, applied) in new.into_iter().flatten() {
                if old.is_none_or(|old| !old.contains_key(name)) {
                    out.insert(name.clone(), applied.clone());
                }
            }
            (!out.is_empty()).then_some(Value::Object(out))
        }
        Shape::List(list) if applied.is_array() || applied.is_null() => {
            let old = live.as_array().map_or(&[][..], Vec::as_slice);
            let new = applied.as_array().map_or(&[][..], Vec::as_slice);
            if old.is_empty() && new.is_empty() {
                return Ok(Some(applied.clone()));
            }
            let out = merge_elements(schema, list, old, new)?;
            (!out.is_empty()).then_some(Value::Array(out))
        }
        _ => Some(applied.clone()),
    })
}

fn steps(schema: &Schema, list: &ListType, elements: &[Value]) -> Result<Vec<String>, FieldsError> {
    let step = |(i, element): (usize, &Value)| {
        element_step(schema, list, element).map_err(|error| FieldsError(format!("element {i}: {error}")))
    };
    elements.iter().enumerate().map(step).collect()
}

/// Merges element by element. Elements that only the live list has keep their places as well as they can;
/// those that both have stand in the applied order.
fn merge_elements(
    schema: &Schema,
    list: &ListType,
    live: &[Value],
    applied: &[Value],
) -> Result<Vec<Value>, FieldsError> {
    let (live_steps, applied_steps) = (steps(schema, list, live)?, steps(schema, list, applied)?);
    let mut live_by_step: HashMap<&str, &Value> = HashMap::with_capacity(live.len());
    for (step, element) in live_steps.iter().zip(live) {
        // An element that stands twice is not merged with the new one.
        live_by_step.entry(step).and_modify(|old| *old = &NULL).or_insert(element);
    }
    let applied_by_step: HashMap<&str, &Value> =
        applied_steps.iter().map(String::as_str).zip(applied).collect();
    let mut shared = applied_steps
        .iter()
        .map(String::as_str)
        .filter(|step| live_by_step.contains_key(step))
        .collect::<Vec<_>>();
    shared.reverse();
    let mut next_shared = shared.pop();
    let mut merged: HashSet<&str> = HashSet::new();
    let mut out = Vec::with_capacity(live.len().max(applied.len()));
    let merge_at = |step: &str, live: Option<&Value>| {
        merge_one(schema, &list.elem, false, live, applied_by_step.get(step).copied())
    };
    let (mut l, mut a) = (0, 0);
    while l < live.len() || a < applied.len() {
        if let (Some(live_step), Some(applied_step)) = (live_steps.get(l), applied_steps.get(a)) {
            if live_step == applied_step {
                merged.insert(live_step);
                out.extend(merge_at(live_step, live_by_step.get(live_step.as_str()).copied())?);
                l += 1;
                a += 1;
                next_shared = shared.pop();
                continue;
            }
            let is_shared = applied_by_step.contains_key(live_step.as_str());
            if is_shared && next_shared.is_some_and(|next| next != live_step) {
                l += 1;
                continue;
            }
        }
        if let Some(live_step) = live_steps.get(l) {
            if !applied_by_step.contains_key(live_step.as_str()) {
                out.extend(merge_at(live_step, Some(&live[l]))?);
                l += 1;
                continue;
            }
            if merged.contains(live_step.as_str()) {
                l += 1;
            }
        }
        if let Some(applied_step) = applied_steps.get(a) {
            merged.insert(applied_step);
            out.extend(merge_at(applied_step, live_by_step.get(applied_step.as_str()).copied())?);
            a += 1;
            if next_shared == Some(applied_step) {
                next_shared = shared.pop();
            }
        }
    }
    Ok(out)
}

/// The value without the members of a set. A map or list of which nothing is left becomes null.
pub(super) fn remove(schema: &Schema, ty: &Type, value: Value, set: &Node) -> Value {
    remove_in(schema, ty, false, value, set)
}

fn remove_in(schema: &Schema, ty: &Type, atomic: bool, value: Value, set: &Node) -> Value {
    let shape = shape(schema, ty, atomic, &value);
    match (shape, value) {
        (Shape::Struct(_) | Shape::Map(_), Value::Object(map)) => {
            let mut out = Map::new();
            for (name, value) in map {
                let child = shape.child(&name);
                let value = match set.get(&format!("f:{name}")).map(as_node) {
                    None => value,
                    Some(node) if is_member(node) => continue,
                    Some(node) if has_children(node) => {
                        remove_in(schema, child.ty, child.atomic, value, node)
                    }
                    Some(_) => value,
                };
                out.insert(name, value);
            }
            if out.is_empty() { Value::Null } else { Value::Object(out) }
        }
        (Shape::List(list), Value::Array(elements)) => {
            let mut out = Vec::with_capacity(elements.len());
            for element in elements {
                let node =
                    element_step(schema, list, &element).ok().and_then(|step| set.get(&step)).map(as_node);
                out.push(match node {
                    None => element,
                    Some(node) if is_member(node) => continue,
                    Some(node) => remove_in(schema, &list.elem, false, element, node),
                });
            }
            if out.is_empty() { Value::Null } else { Value::Array(out) }
        }
        (Shape::Leaf, value) if !value.is_object() && !value.is_array() => value,
        _ => Value::Null,
    }
}

/// Elements that stand twice in lists whose elements have keys, as upstream reports them for an applied object.
pub(super) fn duplicates(schema: &Schema, ty: &Type, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    find_duplicates(schema, ty, false, value, &mut String::new(), &mut found);
    found
}

fn find_duplicates(
    schema: &Schema,
    ty: &Type,
    atomic: bool,
    value: &Value,
    path: &mut String,
    found: &mut Vec<String>,
) {
    let shape = shape(schema, ty, atomic, value);
    let length = path.len();
    match (shape, value) {
        (Shape::Struct(_) | Shape::Map(_), Value::Object(map)) => {
            for (name, value) in map {
                let child = shape.child(name);
                path.push('.');
                path.push_str(name);
                find_duplicates(schema, child.ty, child.atomic, value, path, found);
                path.truncate(length);
            }
        }
        (Shape::List(list), Value::Array(elements)) => {
            let mut seen = HashSet::new();
            for (i, element) in elements.iter().enumerate() {
                let step = match element_step(schema, list, element) {
                    Ok(step) => step,
                    Err(error) => return found.push(format!("{path}: element {i}: {error}")),
                };
                let mut printed = String::new();
                push_step(&mut printed, &step);
                if !seen.insert(step) {
                    found.push(format!("{path}: duplicate entries for key {printed}"));
                }
                path.push_str(&printed);
                find_duplicates(schema, &list.elem, false, element, path, found);
                path.truncate(length);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::testing::pod_like;
    use serde_json::json;

    fn names(value: &Value) -> Vec<&str> {
        value["spec"]["containers"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect()
    }

    fn containers(names: &[&str]) -> Value {
        let list: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
        json!({"spec": {"containers": list}})
    }

    #[test]
    fn elements_keep_a_sensible_order() {
        let (schema, ty) = pod_like();
        for (live, applied, want) in [
            (&["a", "b", "c"][..], &["b"][..], &["a", "b", "c"][..]),
            (&["a", "b"], &["b", "a"], &["b", "a"]),
            (&["a", "b"], &["c"], &["a", "b", "c"]),
            (&["a", "x", "b"], &["b", "a"], &["x", "b", "a"]),
            (&["a", "b", "x"], &["b", "a"], &["b", "x", "a"]),
            (&[], &["b", "a"], &["b", "a"]),
            (&["a", "x", "b", "y"], &["c", "b", "d", "a"], &["x", "c", "b", "y", "d", "a"]),
            (&["a", "a", "b"], &["b"], &["a", "a", "b"]),
        ] {
            let merged = merge(&schema, &ty, &containers(live), &containers(applied)).unwrap();
            assert_eq!(names(&merged), want, "{live:?} with {applied:?}");
        }
    }

    #[test]
    fn values_merge_by_type() {
        let (schema, ty) = pod_like();
        let live = json!({"metadata": {"labels": {"a": "1", "b": "2"}, "finalizers": ["x"]},
            "spec": {"selector": {"a": "b"}, "tolerations": [{"key": "a"}], "extra": {"a": {"b": 1}, "l": [1]},
                "containers": [{"name": "a", "image": "1", "ports": [{"containerPort": 80, "protocol": "TCP"}]}]}});
        let applied = json!({"metadata": {"labels": {"b": "3", "c": "4"}, "finalizers": ["y"]},
            "spec": {"selector": {"c": "d"}, "tolerations": [{"key": "b"}], "extra": {"a": {"c": 2}, "l": [2]},
                "containers": [{"name": "a", "ports": [{"containerPort": 80, "name": "http"}]}]}});
        assert_eq!(
            merge(&schema, &ty, &live, &applied).unwrap(),
            json!({"metadata": {"labels": {"a": "1", "b": "3", "c": "4"}, "finalizers": ["x", "y"]},
                "spec": {"selector": {"c": "d"}, "tolerations": [{"key": "b"}],
                    "extra": {"a": {"b": 1, "c": 2}, "l": [2]},
                    "containers": [{"name": "a", "image": "1",
                        "ports": [{"containerPort": 80, "protocol": "TCP", "name": "http"}]}]}})
        );
    }

    #[test]
    fn members_are_removed() {
        let (schema, ty) = pod_like();
        let value = json!({"metadata": {"labels": {"a": "1"}, "finalizers": ["x", "y"]},
            "spec": {"replicas": 1, "containers": [{"name": "a", "image": "1"}, {"name": "b"}]}});
        let set = json!({"f:metadata": {"f:labels": {"f:a": {}}, "f:finalizers": {"v:\"x\"": {}}},
            "f:spec": {"f:replicas": {}, "f:containers": {"k:{\"name\":\"a\"}": {"f:image": {}},
                "k:{\"name\":\"b\"}": {}}}});
        assert_eq!(
            remove(&schema, &ty, value, set.as_object().unwrap()),
            json!({"metadata": {"labels": null, "finalizers": ["y"]}, "spec": {"containers": [{"name": "a"}]}})
        );
    }

    #[test]
    fn doubled_elements_are_found() {
        let (schema, ty) = pod_like();
        assert_eq!(
            duplicates(&schema, &ty, &containers(&["a", "b", "a"])),
            [".spec.containers: duplicate entries for key [name=\"a\"]"]
        );
        assert_eq!(
            duplicates(&schema, &ty, &json!({"spec": {"containers": [{"image": "a"}]}})),
            [
                ".spec.containers: element 0: associative list with keys has an element that omits all key fields [\"name\"] (and doesn't have default values for any key fields)"
            ]
        );
    }
}
