//! Dropping fields that a structural schema does not know (upstream's `schema/pruning`), and nulls that it does not
//! allow.

use crate::schema::Schema;
use serde_json::Value;

/// The fields of an object's own type and metadata; they are never unknown where an object may stand.
const META_FIELDS: [&str; 3] = ["apiVersion", "kind", "metadata"];

fn is_meta(name: &str) -> bool {
    META_FIELDS.contains(&name)
}

/// Drops what `schema` does not specify. `is_root` says that `value` is an object with metadata whatever the schema
/// says. Answers with the dropped fields, sorted, if `track` is set. No schema specifies nothing.
pub fn prune(value: &mut Value, schema: Option<&Schema>, is_root: bool, track: bool) -> Vec<String> {
    let empty = Schema::default();
    let schema = if is_root { schema.or(Some(&empty)) } else { schema };
    let mut pruner = Pruner { track, path: String::new(), unknown: Vec::new() };
    let embedded = is_root || schema.is_some_and(|schema| schema.embedded_resource);
    pruner.prune(value, schema, embedded);
    pruner.unknown.sort();
    pruner.unknown
}

struct Pruner {
    track: bool,
    path: String,
    unknown: Vec<String>,
}

impl Pruner {
    fn at_key(&mut self, name: &str, f: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        if self.track {
            if length > 0 {
                self.path.push('.');
            }
            self.path.push_str(name);
        }
        f(self);
        self.path.truncate(length);
    }

    fn at_index(&mut self, index: usize, f: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        if self.track {
            self.path.push_str(&format!("[{index}]"));
        }
        f(self);
        self.path.truncate(length);
    }

    fn record(&mut self, name: &str) {
        if self.track {
            self.at_key(name, |this| this.unknown.push(this.path.clone()));
        }
    }

    fn prune_as(&mut self, value: &mut Value, schema: Option<&Schema>) {
        self.prune(value, schema, schema.is_some_and(|schema| schema.embedded_resource));
    }

    fn prune(&mut self, value: &mut Value, schema: Option<&Schema>, embedded: bool) {
        if let Some(schema) = schema
            && schema.preserves_unknown()
        {
            self.keep(value, schema, embedded);
            return;
        }
        match (value, schema) {
            (Value::Object(map), None) => {
                map.keys().for_each(|name| self.record(name));
                map.clear();
            }
            (Value::Object(map), Some(schema)) => map.retain(|name, value| {
                if embedded && is_meta(name) {
                    return true;
                }
                let field = schema.properties.get(name);
                if field.is_some() || schema.additional_properties.is_some() {
                    let field = field.or_else(|| schema.additional());
                    self.at_key(name, |this| this.prune_as(value, field));
                    return true;
                }
                if !is_meta(name) || !self.path.is_empty() {
                    self.record(name);
                }
                false
            }),
            (Value::Array(list), schema) => {
                let items = schema.and_then(|schema| schema.items.as_deref());
                for (index, value) in list.iter_mut().enumerate() {
                    self.at_index(index, |this| this.prune_as(value, items));
                }
            }
            _ => {}
        }
    }

    /// Below `x-kubernetes-preserve-unknown-fields`: what is not specified stays, what is specified is pruned.
    fn keep(&mut self, value: &mut Value, schema: &Schema, embedded: bool) {
        match value {
            Value::Object(map) => {
                for (name, value) in map.iter_mut() {
                    if embedded && is_meta(name) {
                        continue;
                    }
                    let field = schema.properties.get(name);
                    if field.is_some() || schema.additional_properties.is_some() {
                        let field = field.or_else(|| schema.additional());
                        self.at_key(name, |this| this.prune_as(value, field));
                    }
                }
            }
            Value::Array(list) => {
                let Some(items) = schema.items.as_deref() else { return };
                for (index, value) in list.iter_mut().enumerate() {
                    self.at_index(index, |this| this.keep(value, items, items.embedded_resource));
                }
            }
            _ => {}
        }
    }
}

/// Drops the fields that are null where the schema allows no null and has no default to put there.
pub fn prune_nulls(value: &mut Value, schema: Option<&Schema>) {
    match value {
        Value::Object(map) => map.retain(|name, value| {
            let field = schema.and_then(|schema| schema.field(name));
            if value.is_null() && field.is_some_and(|field| !field.nullable && field.default.is_none()) {
                return false;
            }
            prune_nulls(value, field);
            true
        }),
        Value::Array(list) => {
            let items = schema.and_then(|schema| schema.items.as_deref());
            list.iter_mut().for_each(|value| prune_nulls(value, items));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn unknown_fields_go_and_are_told() {
        let object = json!({"apiVersion": "a/v1", "kind": "K", "metadata": {"name": "n", "x": 1}, "other": 1,
            "spec": {"a": 1, "b": {"c": [{"d": 1, "e": 2}]}}});
        for (schema, want, unknown) in [
            (
                json!({"type": "object"}),
                json!({"apiVersion": "a/v1", "kind": "K", "metadata": {"name": "n", "x": 1}}),
                vec!["other", "spec"],
            ),
            (
                json!({"properties": {"spec": {"properties": {"a": {}, "b": {"properties": {"c": {"items": {"properties": {"d": {}}}}}}}}}}),
                json!({"apiVersion": "a/v1", "kind": "K", "metadata": {"name": "n", "x": 1},
                    "spec": {"a": 1, "b": {"c": [{"d": 1}]}}}),
                vec!["other", "spec.b.c[0].e"],
            ),
            (
                json!({"x-kubernetes-preserve-unknown-fields": true, "properties": {"spec": {"properties": {"a": {}}}}}),
                json!({"apiVersion": "a/v1", "kind": "K", "metadata": {"name": "n", "x": 1}, "other": 1, "spec": {"a": 1}}),
                vec!["spec.b"],
            ),
            (
                json!({"properties": {"spec": {"additionalProperties": {"properties": {"c": {"items": {"x-kubernetes-preserve-unknown-fields": true}}}}}}}),
                json!({"apiVersion": "a/v1", "kind": "K", "metadata": {"name": "n", "x": 1},
                    "spec": {"a": 1, "b": {"c": [{"d": 1, "e": 2}]}}}),
                vec!["other"],
            ),
        ] {
            let schema = Schema::parse(&schema).unwrap();
            let mut value = object.clone();
            assert_eq!(prune(&mut value, Some(&schema), true, true), unknown);
            assert_eq!(value, want);
        }
        let mut value = object.clone();
        assert_eq!(prune(&mut value, None, true, false), [""; 0]);
        assert_eq!(value, json!({"apiVersion": "a/v1", "kind": "K", "metadata": {"name": "n", "x": 1}}));
    }

    #[test]
    fn embedded_resources_keep_their_metadata() {
        let schema = Schema::parse(&json!({"properties": {
            "pod": {"x-kubernetes-embedded-resource": true, "properties": {"spec": {}}},
            "plain": {"properties": {}}}}))
        .unwrap();
        let mut value = json!({"pod": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": 1, "status": 2},
            "plain": {"kind": "Pod"}});
        assert_eq!(prune(&mut value, Some(&schema), true, true), ["plain.kind", "pod.status"]);
        assert_eq!(
            value,
            json!({"pod": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": 1}, "plain": {}})
        );
    }

    #[test]
    fn nulls_go_where_nothing_can_replace_them() {
        let schema =
            Schema::parse(&json!({"properties": {"a": {}, "b": {"nullable": true}, "c": {"default": 1},
            "l": {"items": {"properties": {"x": {}}}}}, "additionalProperties": {"properties": {"y": {}}}}))
            .unwrap();
        let mut value = json!({"a": null, "b": null, "c": null, "other": {"y": null, "z": null}, "l": [null, {"x": null}]});
        prune_nulls(&mut value, Some(&schema));
        assert_eq!(value, json!({"b": null, "c": null, "other": {"z": null}, "l": [null, {}]}));
    }
}
