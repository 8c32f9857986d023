//! The metadata of objects inside custom resources, and of the resources themselves (upstream's `schema/objectmeta`):
//! bringing it into the form of a typed `ObjectMeta`, and checking it.

use crate::schema::Schema;
use knarr_api::facts;
use knarr_meta::field::{self, ErrorList, FieldError, Path};
use knarr_meta::schema::{Mode, check};
use knarr_meta::{gvk, validate};
use serde_json::{Map, Value};

/// How metadata is coerced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Malformed fields are dropped instead of refused.
    pub drop_invalid: bool,
    /// Unknown fields are told.
    pub track: bool,
}

/// Coerces the metadata of every embedded resource, and of `value` itself if `is_root` is set. Answers with the
/// unknown fields, sorted.
///
/// # Errors
/// The first malformed field, unless those are dropped.
pub fn coerce(
    value: &mut Value,
    schema: Option<&Schema>,
    is_root: bool,
    options: Options,
) -> Result<Vec<String>, FieldError> {
    coerce_at(value, schema, is_root, options, &Path::nil())
}

/// The same for a value that stands at `path`.
pub fn coerce_at(
    value: &mut Value,
    schema: Option<&Schema>,
    is_root: bool,
    options: Options,
    path: &Path,
) -> Result<Vec<String>, FieldError> {
    let empty = Schema::default();
    let schema = if is_root { schema.or(Some(&empty)) } else { schema };
    let Some(schema) = schema else { return Ok(Vec::new()) };
    if !is_root && !has_embedded(schema) {
        return Ok(Vec::new());
    }
    let mut unknown = Vec::new();
    coerce_value(value, schema, is_root || schema.embedded_resource, options, path, &mut unknown)?;
    unknown.sort();
    Ok(unknown)
}

/// Whether there is any embedded resource at all; most schemas have none and need no walk.
fn has_embedded(schema: &Schema) -> bool {
    schema.embedded_resource
        || schema.properties.values().any(has_embedded)
        || schema.items.as_deref().is_some_and(has_embedded)
        || schema.additional().is_some_and(has_embedded)
}

fn coerce_value(
    value: &mut Value,
    schema: &Schema,
    embedded: bool,
    options: Options,
    path: &Path,
    unknown: &mut Vec<String>,
) -> Result<(), FieldError> {
    match value {
        Value::Object(map) => {
            if embedded {
                coerce_object(map, options, path, unknown)?;
            }
            for (name, value) in map.iter_mut() {
                let (field, path) = match schema.properties.get(name) {
                    Some(field) => (field, path.child(name.clone())),
                    None => match schema.additional() {
                        Some(other) => (other, path.key(name.clone())),
                        None => continue,
                    },
                };
                coerce_value(value, field, field.embedded_resource, options, &path, unknown)?;
            }
        }
        Value::Array(list) => {
            let Some(items) = schema.items.as_deref() else { return Ok(()) };
            for (index, value) in list.iter_mut().enumerate() {
                coerce_value(value, items, items.embedded_resource, options, &path.index(index), unknown)?;
            }
        }
        _ => {}
    }
    Ok(())
}

fn coerce_object(
    map: &mut Map<String, Value>,
    options: Options,
    path: &Path,
    unknown: &mut Vec<String>,
) -> Result<(), FieldError> {
    for name in ["apiVersion", "kind"] {
        if map.get(name).is_some_and(|value| !value.is_string()) {
            if !options.drop_invalid {
                return Err(field::invalid(&path.child(name), &map[name], "must be a string"));
            }
            map.remove(name);
        }
    }
    let Some(given) = map.get("metadata") else { return Ok(()) };
    let mut metadata = given.clone();
    match typed(&mut metadata, options.drop_invalid) {
        Ok(dropped) => {
            if options.track {
                let prefix = path.child("metadata").to_string();
                unknown.extend(dropped.into_iter().map(|name| format!("{prefix}.{name}")));
            }
            map.insert("metadata".into(), metadata);
        }
        Err(_) if options.drop_invalid => {}
        Err(error) => return Err(field::invalid(&path.child("metadata"), given, error)),
    }
    Ok(())
}

/// Brings metadata into the form of a typed `ObjectMeta`. Answers with the unknown fields.
///
/// # Errors
/// Go's words about the first malformed field; with `drop_invalid` only where `metadata` is no object.
pub fn typed(metadata: &mut Value, drop_invalid: bool) -> Result<Vec<String>, String> {
    if metadata.is_null() {
        *metadata = Value::Object(Map::new());
        return Ok(Vec::new());
    }
    let schema = facts::schema();
    let ty = facts::meta_type("ObjectMeta").expect("the facts have ObjectMeta");
    let mut whole = metadata.clone();
    let report = check(schema, &ty, &mut whole, Mode::Report);
    let Some(error) = report.type_error else {
        *metadata = whole;
        return Ok(report.unknown);
    };
    if !drop_invalid {
        return Err(error);
    }
    let Value::Object(map) = metadata else {
        return Err(format!("invalid metadata: expected object, got {}", go_type(metadata)));
    };
    let (mut kept, mut unknown) = (Map::new(), Vec::new());
    for (name, value) in std::mem::take(map) {
        let mut single = Value::Object([(name, value)].into_iter().collect());
        let report = check(schema, &ty, &mut single, Mode::Report);
        if let (None, Value::Object(single)) = (report.type_error, single) {
            kept.extend(single);
            unknown.extend(report.unknown);
        }
    }
    *map = kept;
    Ok(unknown)
}

/// The Go type of a value decoded into an interface.
pub(crate) fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// Checks type and metadata of every embedded resource, and of `value` itself if `is_root` is set.
pub fn validate_embedded(value: &Value, schema: Option<&Schema>, is_root: bool, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let empty = Schema::default();
    let schema = if is_root { schema.or(Some(&empty)) } else { schema };
    if let Some(schema) = schema
        && (is_root || has_embedded(schema))
    {
        validate_value(value, schema, is_root || schema.embedded_resource, path, &mut errors);
    }
    errors
}

fn validate_value(value: &Value, schema: &Schema, embedded: bool, path: &Path, errors: &mut ErrorList) {
    match value {
        Value::Object(map) => {
            if embedded {
                validate_object(map, path, errors);
            }
            for (name, value) in map {
                match (schema.properties.get(name), schema.additional()) {
                    (Some(field), _) => {
                        validate_value(
                            value,
                            field,
                            field.embedded_resource,
                            &path.child(name.clone()),
                            errors,
                        );
                    }
                    (None, Some(other)) => {
                        validate_value(
                            value,
                            other,
                            other.embedded_resource,
                            &path.key(name.clone()),
                            errors,
                        );
                    }
                    (None, None) => {}
                }
            }
        }
        Value::Array(list) => {
            let Some(items) = schema.items.as_deref() else { return };
            for (index, value) in list.iter().enumerate() {
                validate_value(value, items, items.embedded_resource, &path.index(index), errors);
            }
        }
        _ => {}
    }
}

fn validate_object(map: &Map<String, Value>, path: &Path, errors: &mut ErrorList) {
    let (api_version_path, kind_path) = (path.child("apiVersion"), path.child("kind"));
    if !map.contains_key("apiVersion") {
        errors.push(field::required(&api_version_path, ""));
    }
    if !map.contains_key("kind") {
        errors.push(field::required(&kind_path, ""));
    }
    match map.get("apiVersion") {
        None => {}
        Some(Value::String(text)) if text.is_empty() => {
            errors.push(field::invalid(&api_version_path, text, "must not be empty"));
        }
        Some(Value::String(text)) if text.matches('/').count() > 1 => {
            let detail = format!("unexpected GroupVersion string: {text}");
            errors.push(field::invalid(&api_version_path, text, detail));
        }
        Some(Value::String(_)) => {}
        Some(other) => errors.push(field::invalid(&api_version_path, other, "must be a string")),
    }
    match map.get("kind") {
        None => {}
        Some(Value::String(text)) if text.is_empty() => {
            errors.push(field::invalid(&kind_path, text, "must not be empty"));
        }
        Some(Value::String(text)) => {
            let problems = validate::dns1035_label(&text.to_lowercase());
            if !problems.is_empty() {
                let detail =
                    format!("may have mixed case, but should otherwise match: {}", problems.join(","));
                errors.push(field::invalid(&kind_path, text, detail));
            }
        }
        Some(other) => errors.push(field::invalid(&kind_path, other, "must be a string")),
    }
    if let Some(given) = map.get("metadata") {
        let path = path.child("metadata");
        let mut metadata = given.clone();
        match typed(&mut metadata, false) {
            Err(error) => errors.push(field::invalid(&path, given, error)),
            Ok(_) => {
                if metadata["name"].as_str().unwrap_or_default().is_empty() {
                    metadata["name"] = "fakename".into();
                }
                let namespaced =
                    metadata["namespace"].as_str().is_some_and(|namespace| !namespace.is_empty());
                errors.extend(validate::validate_object_meta(
                    &metadata,
                    namespaced,
                    validate::path_segment_name,
                    &path,
                ));
            }
        }
    }
}

/// What a root object's `kind`, `apiVersion` and `metadata` must be for it to be taken up at all, in Go's words.
pub fn root_fields(object: &Value) -> Result<(), String> {
    for name in ["kind", "apiVersion"] {
        if let Some(value) = object.get(name)
            && !value.is_string()
        {
            return Err(format!(
                ".{name} accessor error: {} is of the type {}, expected string",
                shown(value),
                go_type(value)
            ));
        }
    }
    let api_version = object["apiVersion"].as_str().unwrap_or_default();
    if gvk::parse_api_version(api_version) == ("", "") && !api_version.is_empty() {
        return Err(format!("unexpected GroupVersion string: {api_version}"));
    }
    Ok(())
}

fn shown(value: &Value) -> String {
    knarr_meta::go::percent_v(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schema() -> Schema {
        Schema::parse(&json!({"properties": {"pod": {"x-kubernetes-embedded-resource": true},
            "pods": {"items": {"x-kubernetes-embedded-resource": true}}, "plain": {}}}))
        .unwrap()
    }

    #[test]
    fn metadata_of_embedded_resources_is_typed() {
        let mut value = json!({"plain": {"metadata": {"x": 1}}, "pods": [{"kind": 5, "metadata": {"name": "a", "labels": 7, "x": 1}}],
            "pod": {"kind": "Pod", "metadata": {"name": "b", "finalizers": null, "bogus": true}}});
        let strict = Options { drop_invalid: false, track: true };
        let error = coerce(&mut value.clone(), Some(&schema()), false, strict).unwrap_err();
        assert_eq!(error.to_string(), "pods[0].kind: Invalid value: 5: must be a string");
        let lenient = Options { drop_invalid: true, track: true };
        let unknown = coerce(&mut value, Some(&schema()), false, lenient).unwrap();
        assert_eq!(unknown, ["pod.metadata.bogus", "pods[0].metadata.x"]);
        assert_eq!(
            value,
            json!({"plain": {"metadata": {"x": 1}}, "pods": [{"metadata": {"name": "a"}}],
                "pod": {"kind": "Pod", "metadata": {"name": "b"}}})
        );
    }

    #[test]
    fn embedded_resources_are_objects() {
        for (value, want) in [
            (json!({"pod": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}}}), vec![]),
            (json!({"pod": {"apiVersion": "v1", "kind": "Pod"}}), vec![]),
            (json!({"pod": {}}), vec!["pod.apiVersion: Required value", "pod.kind: Required value"]),
            (
                json!({"pod": {"apiVersion": "a/b/c", "kind": "0"}}),
                vec![
                    r#"pod.apiVersion: Invalid value: "a/b/c": unexpected GroupVersion string: a/b/c"#,
                    r#"pod.kind: Invalid value: "0": may have mixed case, but should otherwise match: a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"#,
                ],
            ),
            (
                json!({"pods": [{"apiVersion": "", "kind": "", "metadata": {"name": ".."}}]}),
                vec![
                    r#"pods[0].apiVersion: Invalid value: "": must not be empty"#,
                    r#"pods[0].kind: Invalid value: "": must not be empty"#,
                    r#"pods[0].metadata.name: Invalid value: "..": may not be '..'"#,
                ],
            ),
        ] {
            let errors = validate_embedded(&value, Some(&schema()), false, &Path::nil());
            let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
            assert_eq!(texts, want, "{value}");
        }
    }
}
