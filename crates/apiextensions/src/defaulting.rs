//! Filling in the defaults of a structural schema (upstream's `schema/defaulting`).

use crate::objectmeta;
use crate::prune::prune;
use crate::schema::Schema;
use serde_json::Value;
use serde_json::map::Entry;

/// Puts defaults where fields are absent, or null without being nullable.
pub fn default(value: &mut Value, schema: &Schema) {
    match value {
        Value::Object(map) => {
            for (name, field) in &schema.properties {
                let Some(default) = &field.default else { continue };
                match map.entry(name.as_str()) {
                    Entry::Vacant(entry) => {
                        entry.insert(default.clone());
                    }
                    Entry::Occupied(mut entry) if entry.get().is_null() && !field.nullable => {
                        entry.insert(default.clone());
                    }
                    Entry::Occupied(_) => {}
                }
            }
            for (name, value) in map.iter_mut() {
                match schema.properties.get(name) {
                    Some(field) => default(value, field),
                    None => {
                        if let Some(other) = schema.additional() {
                            replace_null(value, other);
                            default(value, other);
                        }
                    }
                }
            }
        }
        Value::Array(list) => {
            if let Some(items) = schema.items.as_deref() {
                for value in list {
                    replace_null(value, items);
                    default(value, items);
                }
            }
        }
        _ => {}
    }
}

fn replace_null(value: &mut Value, schema: &Schema) {
    if value.is_null() && !schema.nullable {
        *value = schema.default.clone().unwrap_or(Value::Null);
    }
}

/// A step from an object to a value within it.
#[derive(Clone, Debug)]
enum Step {
    Field(String),
    Item,
}

/// Brings every default of a schema into the form that pruning and coercion would give it inside an object, so that
/// defaulting never brings in an unknown field.
pub fn prune_defaults(schema: &mut Schema) {
    let root = schema.clone();
    prune_defaults_below(schema, &root, &mut Vec::new());
}

fn prune_defaults_below(schema: &mut Schema, root: &Schema, path: &mut Vec<Step>) {
    if let Some(default) = schema.default.take() {
        schema.default = pruned(default, root, path);
    }
    if let Some(crate::schema::SchemaOrBool::Schema(other)) = &mut schema.additional_properties {
        path.push(Step::Field("*".into()));
        prune_defaults_below(other, root, path);
        path.pop();
    }
    if let Some(items) = &mut schema.items {
        path.push(Step::Item);
        prune_defaults_below(items, root, path);
        path.pop();
    }
    for (name, field) in &mut schema.properties {
        path.push(Step::Field(name.clone()));
        prune_defaults_below(field, root, path);
        path.pop();
    }
}

/// The default as it comes out of an object of nothing else; none if it does not come out at all.
fn pruned(default: Value, root: &Schema, path: &[Step]) -> Option<Value> {
    let mut object = surround(
        default,
        path.iter().map(|step| match step {
            Step::Field(name) => Some(name.as_str()),
            Step::Item => None,
        }),
    );
    if !object.is_object() {
        return Some(object);
    }
    // Dropping what is malformed cannot fail.
    let _ = objectmeta::coerce(
        &mut object,
        Some(root),
        true,
        objectmeta::Options { drop_invalid: true, track: false },
    );
    prune(&mut object, Some(root), true, false);
    path.iter().try_fold(object, |value, step| match (value, step) {
        (Value::Object(mut map), Step::Field(name)) => map.remove(name),
        (Value::Array(list), Step::Item) => list.into_iter().next(),
        _ => None,
    })
}

/// An object with `value` at a path of fields (or list elements, where there is no name).
pub(crate) fn surround<'a>(value: Value, path: impl DoubleEndedIterator<Item = Option<&'a str>>) -> Value {
    path.rev().fold(value, |value, step| match step {
        Some(name) => Value::Object([(name.to_owned(), value)].into_iter().collect()),
        None => Value::Array(vec![value]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn defaults_fill_what_is_absent() {
        let schema = Schema::parse(&json!({"properties": {
            "a": {"default": "A"},
            "b": {"default": {"c": 1}, "properties": {"c": {}, "d": {"default": "D"}}},
            "n": {"default": 7, "nullable": true},
            "l": {"items": {"default": 3, "properties": {"x": {"default": "X"}}}},
            "m": {"additionalProperties": {"default": "v"}},
            "deep": {"properties": {"e": {"default": 1}}}}}))
        .unwrap();
        for (value, want) in [
            (json!({}), json!({"a": "A", "b": {"c": 1, "d": "D"}, "n": 7})),
            (json!({"a": null, "b": {}, "n": null}), json!({"a": "A", "b": {"d": "D"}, "n": null})),
            (
                json!({"a": 0, "b": 1, "n": 1, "l": [null, {}, 5], "m": {"k": null, "o": "x"}, "deep": {}}),
                json!({"a": 0, "b": 1, "n": 1, "l": [3, {"x": "X"}, 5], "m": {"k": "v", "o": "x"}, "deep": {"e": 1}}),
            ),
        ] {
            let mut value = value;
            default(&mut value, &schema);
            assert_eq!(value, want);
        }
    }

    #[test]
    fn defaults_themselves_are_pruned() {
        let mut schema = Schema::parse(&json!({"properties": {
            "spec": {"properties": {"a": {}}, "default": {"a": 1, "b": 2}},
            "pod": {"x-kubernetes-embedded-resource": true, "properties": {},
                "default": {"kind": "Pod", "metadata": {"name": "x", "bogus": 1}, "spec": 1}},
            "list": {"items": {"properties": {"z": {}}, "default": {"y": 1, "z": 1}}}}}))
        .unwrap();
        prune_defaults(&mut schema);
        let of = |name: &str| schema.properties[name].default.clone();
        assert_eq!(of("spec"), Some(json!({"a": 1})));
        assert_eq!(of("pod"), Some(json!({"kind": "Pod", "metadata": {"name": "x"}})));
        assert_eq!(schema.properties["list"].items.as_ref().unwrap().default, Some(json!({"z": 1})));
    }
}
