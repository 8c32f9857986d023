//! Reading a schema from JSON, in the leniency of Go's decoder for what it leaves to validation.

use super::regexp::Pattern;
use super::{Rule, Schema, SchemaOrBool, Unsupported};
use crate::number;
use crate::validate::Format;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use thiserror::Error;

/// A schema's field has the wrong JSON type.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("schema field {field} is no {expected}")]
pub struct ParseError {
    /// The field.
    pub field: String,
    /// What it should have been.
    pub expected: &'static str,
}

/// How deep schemas may nest; an object of the size the server accepts cannot reach it in good faith, and deeper ones
/// would exhaust the stack.
const MAX_DEPTH: usize = 256;

impl Schema {
    /// Reads a `JSONSchemaProps`.
    pub fn parse(json: &Value) -> Result<Self, ParseError> {
        parse(json, 0)
    }
}

fn wrong(field: &str, expected: &'static str) -> ParseError {
    ParseError { field: field.to_owned(), expected }
}

fn parse(json: &Value, depth: usize) -> Result<Schema, ParseError> {
    let Value::Object(map) = json else { return Err(wrong("schema", "object")) };
    if depth > MAX_DEPTH {
        return Err(wrong("properties", "schema of reasonable depth"));
    }
    let fields = Fields { map, depth: depth + 1 };
    let format = fields.text("format")?;
    let (items, items_list) = match fields.get("items") {
        Some(Value::Array(list)) => {
            (None, list.iter().map(|schema| parse(schema, depth + 1)).collect::<Result<_, _>>()?)
        }
        Some(schema) => (Some(Box::new(parse(schema, depth + 1)?)), Vec::new()),
        None => (None, Vec::new()),
    };
    Ok(Schema {
        description: fields.text("description")?,
        type_: fields.text("type")?,
        title: fields.text("title")?,
        default: fields.json("default"),
        nullable: fields.flag("nullable")?,
        external_docs: fields.get("externalDocs").map(|docs| {
            let text = |name: &str| docs[name].as_str().unwrap_or_default().to_owned();
            (text("description"), text("url"))
        }),
        example: fields.json("example"),
        known_format: Format::named(&format),
        format,
        maximum: fields.number("maximum")?,
        exclusive_maximum: fields.flag("exclusiveMaximum")?,
        minimum: fields.number("minimum")?,
        exclusive_minimum: fields.flag("exclusiveMinimum")?,
        max_length: fields.integer("maxLength")?,
        min_length: fields.integer("minLength")?,
        pattern: Some(fields.text("pattern")?).filter(|text| !text.is_empty()).map(Pattern::new),
        max_items: fields.integer("maxItems")?,
        min_items: fields.integer("minItems")?,
        unique_items: fields.flag("uniqueItems")?,
        multiple_of: fields.number("multipleOf")?,
        enum_: fields.list("enum")?.iter().map(number::normalized).collect(),
        max_properties: fields.integer("maxProperties")?,
        min_properties: fields.integer("minProperties")?,
        required: fields.texts("required")?,
        all_of: fields.schemas("allOf")?,
        one_of: fields.schemas("oneOf")?,
        any_of: fields.schemas("anyOf")?,
        not: fields.schema("not")?,
        items,
        properties: fields.properties("properties")?,
        additional_properties: match fields.get("additionalProperties") {
            None => None,
            Some(Value::Bool(allows)) => Some(SchemaOrBool::Bool(*allows)),
            Some(schema) => Some(SchemaOrBool::Schema(Box::new(parse(schema, depth + 1)?))),
        },
        preserve_unknown_fields: fields.optional_flag("x-kubernetes-preserve-unknown-fields")?,
        embedded_resource: fields.flag("x-kubernetes-embedded-resource")?,
        int_or_string: fields.flag("x-kubernetes-int-or-string")?,
        list_map_keys: fields.texts("x-kubernetes-list-map-keys")?,
        list_type: fields.optional_text("x-kubernetes-list-type")?,
        map_type: fields.optional_text("x-kubernetes-map-type")?,
        validations: fields.list("x-kubernetes-validations")?.iter().map(rule).collect::<Result<_, _>>()?,
        unsupported: Unsupported {
            id: !fields.text("id")?.is_empty(),
            schema: !fields.text("$schema")?.is_empty(),
            reference: !fields.text("$ref")?.is_empty(),
            pattern_properties: fields.has_entries("patternProperties"),
            dependencies: fields.has_entries("dependencies"),
            additional_items: fields.get("additionalItems").is_some(),
            definitions: fields.has_entries("definitions"),
            items_list,
        },
    })
}

fn rule(json: &Value) -> Result<Rule, ParseError> {
    let Value::Object(map) = json else { return Err(wrong("x-kubernetes-validations", "list of objects")) };
    let fields = Fields { map, depth: 0 };
    Ok(Rule {
        rule: fields.text("rule")?,
        message: fields.text("message")?,
        message_expression: fields.text("messageExpression")?,
        reason: fields.optional_text("reason")?,
        field_path: fields.text("fieldPath")?,
        optional_old_self: fields.optional_flag("optionalOldSelf")?,
    })
}

struct Fields<'a> {
    map: &'a Map<String, Value>,
    depth: usize,
}

impl<'a> Fields<'a> {
    /// The field's value; null is as good as absent, as Go decodes it.
    fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    fn optional_text(&self, name: &str) -> Result<Option<String>, ParseError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(wrong(name, "string")),
        }
    }

    fn text(&self, name: &str) -> Result<String, ParseError> {
        Ok(self.optional_text(name)?.unwrap_or_default())
    }

    fn optional_flag(&self, name: &str) -> Result<Option<bool>, ParseError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Bool(is)) => Ok(Some(*is)),
            Some(_) => Err(wrong(name, "boolean")),
        }
    }

    fn flag(&self, name: &str) -> Result<bool, ParseError> {
        Ok(self.optional_flag(name)?.unwrap_or_default())
    }

    fn number(&self, name: &str) -> Result<Option<f64>, ParseError> {
        self.get(name).map(|value| value.as_f64().ok_or_else(|| wrong(name, "number"))).transpose()
    }

    fn integer(&self, name: &str) -> Result<Option<i64>, ParseError> {
        let whole = |value: &Value| value.as_i64().ok_or_else(|| wrong(name, "integer"));
        self.get(name).map(whole).transpose()
    }

    fn json(&self, name: &str) -> Option<Value> {
        self.get(name).map(number::normalized)
    }

    fn list(&self, name: &str) -> Result<&'a [Value], ParseError> {
        match self.get(name) {
            None => Ok(&[]),
            Some(Value::Array(list)) => Ok(list),
            Some(_) => Err(wrong(name, "list")),
        }
    }

    fn texts(&self, name: &str) -> Result<Vec<String>, ParseError> {
        let text =
            |value: &Value| value.as_str().map(str::to_owned).ok_or_else(|| wrong(name, "list of strings"));
        self.list(name)?.iter().map(text).collect()
    }

    fn schema(&self, name: &str) -> Result<Option<Box<Schema>>, ParseError> {
        self.get(name).map(|value| parse(value, self.depth).map(Box::new)).transpose()
    }

    fn schemas(&self, name: &str) -> Result<Vec<Schema>, ParseError> {
        self.list(name)?.iter().map(|value| parse(value, self.depth)).collect()
    }

    fn properties(&self, name: &str) -> Result<BTreeMap<String, Schema>, ParseError> {
        match self.get(name) {
            None => Ok(BTreeMap::new()),
            Some(Value::Object(map)) => {
                map.iter().map(|(name, value)| Ok((name.clone(), parse(value, self.depth)?))).collect()
            }
            Some(_) => Err(wrong(name, "object")),
        }
    }

    fn has_entries(&self, name: &str) -> bool {
        self.get(name).and_then(Value::as_object).is_some_and(|map| !map.is_empty())
    }
}
