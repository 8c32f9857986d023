//! Objects that expressions make: `Object{...}` (KEP-3962: the value of an apply configuration) and `JSONPatch{...}`.

use super::{Key, Map, Text, Value, equal};
use crate::error::EvalError;
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::sync::Arc;

/// An object with its type's name.
#[derive(Clone, Debug)]
pub(crate) struct Object<'a> {
    type_name: Arc<str>,
    fields: BTreeMap<Arc<str>, Value<'a>>,
}

/// One operation of a JSON patch that an expression made.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPatchOp {
    /// `add`, `remove`, `replace`, `move`, `copy` or `test`.
    pub op: String,
    /// Where.
    pub path: String,
    /// Where from, for `move` and `copy`; else empty.
    pub from: String,
    /// The value, if the expression gave one.
    pub value: Option<Json>,
}

impl<'a> Object<'a> {
    pub fn new(type_name: Arc<str>, fields: BTreeMap<Arc<str>, Value<'a>>) -> Result<Self, EvalError> {
        if &*type_name == "JSONPatch" {
            for (name, value) in &fields {
                match &**name {
                    "op" | "path" | "from" if value.as_str().is_none() => {
                        let found = match value {
                            Value::Int(_) => "int64",
                            Value::Uint(_) => "uint64",
                            Value::Double(_) => "float64",
                            other => other.type_name(),
                        };
                        return Err(EvalError::new(format!(
                            "unexpected type {found} for JSONPatchType '{name}' field"
                        )));
                    }
                    "op" | "path" | "from" | "value" => {}
                    other => return Err(EvalError::new(format!("unexpected JSONPatchType field: {other}"))),
                }
            }
        }
        Ok(Self { type_name, fields })
    }

    pub fn type_name(&self) -> &str {
        &self.type_name
    }

    pub fn is_json_patch(&self) -> bool {
        &*self.type_name == "JSONPatch"
    }

    pub fn fields(&self) -> impl Iterator<Item = (&Arc<str>, &Value<'a>)> {
        self.fields.iter()
    }

    /// A field's value; an object in a field is seen as a map. The texts of a JSON patch are always there.
    pub fn get(&self, name: &str) -> Option<Value<'a>> {
        let found = self.fields.get(name).map(as_map);
        match name {
            "op" | "path" | "from" if &*self.type_name == "JSONPatch" => {
                Some(found.unwrap_or(Value::text("")))
            }
            _ => found,
        }
    }

    /// Whether `has()` of the field holds.
    pub fn has(&self, name: &str) -> bool {
        match self.fields.get(name) {
            Some(value) if self.is_json_patch() => value.as_str() != Some(""),
            Some(_) => true,
            None => false,
        }
    }

    pub fn equals(&self, other: &Self) -> bool {
        self.type_name == other.type_name
            && self.fields.len() == other.fields.len()
            && self.fields.iter().zip(&other.fields).all(|((a, x), (b, y))| a == b && equal(x, y) == Ok(true))
    }

    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }
}

fn as_map<'a>(value: &Value<'a>) -> Value<'a> {
    match value {
        Value::Object(object) if !object.0.is_json_patch() => {
            let entry = |(name, value): (&Arc<str>, &Value<'a>)| {
                (Key::String(Text::Shared(name.clone())), as_map(value))
            };
            Value::map(object.0.fields().map(entry).collect::<Map<'a>>())
        }
        other => other.clone(),
    }
}

impl Value<'_> {
    /// Whether each `Object.a.b{}` stands at the field path `a.b`; else what is wrong, one problem a line.
    pub fn check_object_type_names(&self) -> Result<(), String> {
        let mut problems = Vec::new();
        check_names(self, self.type_name(), &mut problems);
        if problems.is_empty() { Ok(()) } else { Err(problems.join("\n")) }
    }

    /// The operations of a list of `JSONPatch{}`.
    pub fn as_json_patches(&self) -> Result<Vec<JsonPatchOp>, EvalError> {
        let Value::List(list) = self else {
            return Err(EvalError::new(format!("type {} is not a list of JSONPatch", self.type_name())));
        };
        let mut operations = Vec::with_capacity(list.len());
        for item in list.iter() {
            let item = item?;
            let Value::Object(object) = &item else {
                return Err(EvalError::new(format!("type {} is not JSONPatch", item.type_name())));
            };
            let text =
                |name: &str| object.0.fields.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
            let value = object.0.fields.get("value").map(Value::to_json).transpose()?;
            operations.push(JsonPatchOp { op: text("op"), path: text("path"), from: text("from"), value });
        }
        Ok(operations)
    }
}

fn check_names(value: &Value<'_>, path: &str, problems: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            let name = object.0.type_name();
            if name != path {
                problems.push(format!(
                    "unexpected type name {name:?}, expected {path:?}, which matches field name path from root Object type"
                ));
            }
            for (field, value) in object.0.fields() {
                check_names(value, &format!("{path}.{field}"), problems);
            }
        }
        Value::List(list) => list.iter().flatten().for_each(|item| check_names(&item, path, problems)),
        Value::Map(map) => {
            map.entries().into_iter().filter_map(|(_, value)| value.ok()).for_each(|value| {
                check_names(&value, path, problems);
            });
        }
        _ => {}
    }
}
