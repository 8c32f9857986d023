//! Declared types from structural schemas, as the JSON of a CRD's `openAPIV3Schema` has them, with upstream's
//! bounds on what has none: nothing is larger than a request can be.

use super::{DeclType, Fields, Identity, MAX_REQUEST_BYTES, Scalar, Shape};
use crate::check::types::Type;
use serde_json::Value as Json;
use std::sync::Arc;

/// Longest duration, and date with time, as JSON.
const MAX_TIME_JSON: i64 = 32;
/// A date as JSON.
const DATE_JSON: i64 = 12;
/// Shortest date with time as JSON.
const MIN_DATE_TIME_JSON: i64 = 21;
/// Shortest duration as JSON.
const MIN_DURATION_JSON: i64 = 3;

impl DeclType {
    /// The declared type for a node of a structural schema; none if expressions cannot see such values. The root
    /// of a resource (and of an embedded one) always has apiVersion, kind and the names in its metadata.
    pub fn from_schema(schema: &Json, is_resource_root: bool) -> Option<Arc<Self>> {
        let decl = node(schema, is_resource_root);
        decl.exposed.then(|| Arc::new(decl))
    }
}

fn flag(schema: &Json, name: &str) -> bool {
    schema.get(name).and_then(Json::as_bool).unwrap_or(false)
}

fn text<'s>(schema: &'s Json, name: &str) -> &'s str {
    schema.get(name).and_then(Json::as_str).unwrap_or_default()
}

fn number(schema: &Json, name: &str) -> Option<i64> {
    let value = schema.get(name)?;
    value.as_i64().or_else(|| value.as_f64().map(|value| value as i64)).map(|value| value.max(0))
}

/// Anything, seen or not.
fn node(schema: &Json, is_resource_root: bool) -> DeclType {
    let decl = shaped(schema, is_resource_root);
    DeclType { nullable: flag(schema, "nullable"), ..decl }
}

fn shaped(schema: &Json, is_resource_root: bool) -> DeclType {
    if flag(schema, "x-kubernetes-int-or-string") {
        let max = number(schema, "maxLength").map_or(MAX_REQUEST_BYTES - 2, |length| length * 4);
        return DeclType::simple("dyn", Type::Dyn, Scalar::IntOrString, 1, max);
    }
    match text(schema, "type") {
        "array" => list(schema),
        "object" => object(schema, is_resource_root),
        "string" => string(schema),
        "boolean" => DeclType::simple("bool", Type::Bool, Scalar::Bool, 4, 0),
        "number" => DeclType::simple("double", Type::Double, Scalar::Double, 1, 0),
        "integer" => DeclType::simple("int", Type::Int, Scalar::Int, 1, 0),
        _ => preserved(),
    }
}

fn preserved() -> DeclType {
    DeclType {
        shape: Shape::Preserved,
        exposed: false,
        ..DeclType::simple("dyn", Type::Dyn, Scalar::Dyn, 1, 0)
    }
}

fn list(schema: &Json) -> DeclType {
    let Some(items) = schema.get("items") else { return preserved() };
    let elem = node(items, flag(items, "x-kubernetes-embedded-resource"));
    let max = number(schema, "maxItems").unwrap_or((MAX_REQUEST_BYTES - 2) / (elem.min_serialized_size + 1));
    let identity = match text(schema, "x-kubernetes-list-type") {
        "set" => Identity::Set,
        "map" => {
            let keys = schema.get("x-kubernetes-list-map-keys").and_then(Json::as_array);
            Identity::Map(keys.into_iter().flatten().filter_map(Json::as_str).map(Arc::from).collect())
        }
        _ => Identity::Atomic,
    };
    DeclType::list_of(Arc::new(elem), max, identity)
}

fn object(schema: &Json, is_resource_root: bool) -> DeclType {
    let properties = schema.get("properties").and_then(Json::as_object);
    let additional = schema.get("additionalProperties").filter(|additional| additional.is_object());
    if let Some(additional) = additional
        && properties.is_none()
    {
        let elem = node(additional, flag(additional, "x-kubernetes-embedded-resource"));
        // A key takes at least two quotes, a colon and a comma.
        let max = number(schema, "maxProperties")
            .unwrap_or((MAX_REQUEST_BYTES - 2) / (elem.min_serialized_size + 6));
        return DeclType::map_of(DeclType::string(), Arc::new(elem), max);
    }
    let required = schema.get("required").and_then(Json::as_array);
    let is_required = |name: &str| {
        required.is_some_and(|names| names.iter().any(|required| required.as_str() == Some(name)))
    };
    let mut fields = Fields::default();
    let mut min_size = 2;
    for (name, property) in properties.into_iter().flatten() {
        let decl = node(property, flag(property, "x-kubernetes-embedded-resource"));
        if decl.exposed && is_required(name) && property.get("default").is_none() {
            min_size += name.len() as i64 + decl.min_serialized_size + 4;
        }
        fields.insert(name, Arc::new(decl));
    }
    if is_resource_root {
        add_type_and_names(&mut fields);
    }
    DeclType::object_of("object", fields, min_size)
}

/// What is always there at the root of a resource, whatever the schema says of it.
fn add_type_and_names(fields: &mut Fields) {
    let is_string = |decl: Option<&Arc<DeclType>>| {
        decl.is_some_and(|decl| matches!(decl.shape, Shape::Scalar(Scalar::String)))
    };
    let metadata = fields.named("metadata");
    let complete = is_string(fields.named("kind"))
        && is_string(fields.named("apiVersion"))
        && metadata.is_some_and(|metadata| match &metadata.shape {
            Shape::Object(inner) => is_string(inner.named("name")) && is_string(inner.named("generateName")),
            _ => false,
        });
    if complete {
        return;
    }
    let unbounded = || {
        let decl = DeclType::simple("string", Type::String, Scalar::String, 2, MAX_REQUEST_BYTES - 2);
        Arc::new(decl)
    };
    fields.insert("kind", unbounded());
    fields.insert("apiVersion", unbounded());
    let metadata = DeclType::object("object", [("name", unbounded()), ("generateName", unbounded())]);
    fields.insert("metadata", metadata);
}

fn string(schema: &Json) -> DeclType {
    match text(schema, "format") {
        "byte" => {
            let max = number(schema, "maxLength").unwrap_or(MAX_REQUEST_BYTES - 2);
            return DeclType::simple("bytes", Type::Bytes, Scalar::Bytes, 2, max);
        }
        "duration" => {
            return DeclType::simple(
                "duration",
                Type::Duration,
                Scalar::Duration,
                MIN_DURATION_JSON,
                MAX_TIME_JSON,
            );
        }
        "date" => return DeclType::simple("timestamp", Type::Timestamp, Scalar::Date, DATE_JSON, DATE_JSON),
        "date-time" => {
            let (min, max) = (MIN_DATE_TIME_JSON, MAX_TIME_JSON);
            return DeclType::simple("timestamp", Type::Timestamp, Scalar::DateTime, min, max);
        }
        _ => {}
    }
    let longest = || {
        let values = schema.get("enum").and_then(Json::as_array).filter(|values| !values.is_empty())?;
        Some(values.iter().filter_map(Json::as_str).map(|value| value.len() as i64).max().unwrap_or(0))
    };
    // A character takes up to four bytes.
    let max = match number(schema, "maxLength") {
        Some(length) => length * 4,
        None => longest().unwrap_or(MAX_REQUEST_BYTES - 2),
    };
    DeclType::simple("string", Type::String, Scalar::String, 2, max)
}
