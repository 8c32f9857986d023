//! What makes a schema structural: every value's type is told by the outermost structure, and nested validations
//! (`allOf`, `anyOf`, `oneOf`, `not`) only add constraints to what that structure names.

use super::{Schema, SchemaOrBool};
use knarr_meta::field::{self, ErrorList, Path};

/// Why a schema cannot be taken for a structural one at all (upstream's conversion of schemas), in its words.
pub fn convertible(schema: &Schema) -> Result<(), String> {
    let unsupported = &schema.unsupported;
    let keywords = [
        (unsupported.id, "id"),
        (unsupported.schema, "schema"),
        (unsupported.reference, "$ref"),
        (unsupported.pattern_properties, "patternProperties"),
        (unsupported.dependencies, "dependencies"),
        (unsupported.additional_items, "additionalItems"),
        (unsupported.definitions, "definitions"),
    ];
    if let Some((_, name)) = keywords.iter().find(|(there, _)| *there) {
        return Err(format!("OpenAPIV3Schema '{name}' is not supported"));
    }
    if schema.preserve_unknown_fields == Some(false) {
        return Err("internal error: 'x-kubernetes-preserve-unknown-fields' must be true or undefined".into());
    }
    if !unsupported.items_list.is_empty() {
        return Err("OpenAPIV3Schema 'items' must be a schema, but is an array".into());
    }
    schema.children().try_for_each(convertible)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// The violations of a schema that is [`convertible`], sorted by their text.
pub fn validate(schema: &Schema, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    invariants(schema, Level::Root, path, &mut errors);
    completeness(schema, Some(schema), path, path, &mut errors);
    errors.sort_by_cached_key(ToString::to_string);
    errors
}

/// `anyOf` of integer and string, the one place where nested types are fine.
fn is_int_or_string_any_of(any_of: &[Schema]) -> bool {
    let is = |schema: &Schema, type_: &str| schema.type_ == type_ && is_empty_but_type(schema);
    matches!(any_of, [first, second] if is(first, "integer") && is(second, "string"))
}

/// Whether nothing but the type is set.
fn is_empty_but_type(schema: &Schema) -> bool {
    let s = schema;
    is_plain(s) && s.children().next().is_none()
}

/// Whether a schema has no keyword of its own beside the type and what nests.
fn is_plain(s: &Schema) -> bool {
    s.description.is_empty()
        && s.title.is_empty()
        && s.default.is_none()
        && !s.nullable
        && s.external_docs.is_none()
        && s.example.is_none()
        && s.format.is_empty()
        && s.maximum.is_none()
        && !s.exclusive_maximum
        && s.minimum.is_none()
        && !s.exclusive_minimum
        && s.max_length.is_none()
        && s.min_length.is_none()
        && s.pattern.is_none()
        && s.max_items.is_none()
        && s.min_items.is_none()
        && !s.unique_items
        && s.multiple_of.is_none()
        && s.enum_.is_empty()
        && s.max_properties.is_none()
        && s.min_properties.is_none()
        && s.required.is_empty()
        && !s.preserves_unknown()
        && !s.embedded_resource
        && !s.int_or_string
        && s.list_map_keys.is_empty()
        && s.list_type.is_none()
        && s.map_type.is_none()
        && s.validations.is_empty()
}

/// Whether an `x-kubernetes-int-or-string` schema spells its two types out, as upstream publishes it.
pub fn spells_int_or_string(schema: &Schema) -> bool {
    is_int_or_string_any_of(&schema.any_of)
        || schema.all_of.first().is_some_and(|first| is_int_or_string_any_of(&first.any_of))
}

fn invariants(s: &Schema, level: Level, path: &Path, errors: &mut ErrorList) {
    if s.type_ == "array" && s.items.is_none() {
        errors.push(field::required(&path.child("items"), "must be specified"));
    }
    if let Some(items) = &s.items {
        invariants(items, Level::Item, &path.child("items"), errors);
    }
    for (name, schema) in &s.properties {
        invariants(schema, Level::Field, &path.child("properties").key(name), errors);
    }
    if let Some(additional) = &s.additional_properties {
        let path = path.child("additionalProperties");
        if level == Level::Root {
            errors.push(field::forbidden(&path, "must not be used at the root"));
        }
        if let SchemaOrBool::Schema(schema) = additional {
            invariants(schema, Level::Field, &path, errors);
        }
    }
    if s.int_or_string && s.preserves_unknown() {
        let path = path.child("x-kubernetes-preserve-unknown-fields");
        errors.push(field::invalid(&path, true, "must be false if x-kubernetes-int-or-string is true"));
    }
    if s.int_or_string && s.embedded_resource {
        let path = path.child("x-kubernetes-embedded-resource");
        errors.push(field::invalid(&path, true, "must be false if x-kubernetes-int-or-string is true"));
    }
    let skip_any_of = is_int_or_string_any_of(&s.any_of);
    let skip_first = s.all_of.first().is_some_and(|first| is_int_or_string_any_of(&first.any_of));
    value_validation(s, skip_any_of, skip_first, path, errors);

    let check_metadata = level == Level::Root || s.embedded_resource;
    let type_path = path.child("type");
    if s.embedded_resource && s.type_ != "object" {
        let detail = "must be object if x-kubernetes-embedded-resource is true";
        errors.push(if s.type_.is_empty() {
            field::required(&type_path, detail)
        } else {
            field::invalid(&type_path, &s.type_, detail)
        });
    } else if s.type_.is_empty() && !s.int_or_string && !s.preserves_unknown() {
        let detail = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        errors.push(field::required(&type_path, detail));
    }
    if s.embedded_resource && s.additional_properties.is_some() {
        let path = path.child("additionalProperties");
        errors.push(field::forbidden(&path, "must not be used if x-kubernetes-embedded-resource is set"));
    }
    if level == Level::Root && !s.type_.is_empty() && s.type_ != "object" {
        errors.push(field::invalid(&type_path, &s.type_, "must be object at the root"));
    }
    for name in ["kind", "apiVersion"] {
        if let Some(schema) = s.properties.get(name)
            && check_metadata
            && schema.type_ != "string"
        {
            let path = path.child("properties").key(name).child("type");
            errors.push(field::invalid(&path, &schema.type_, "must be string"));
        }
    }
    if let Some(metadata) = s.properties.get("metadata") {
        metadata_invariants(
            metadata,
            check_metadata,
            level,
            &path.child("properties").key("metadata"),
            errors,
        );
    }
    if s.embedded_resource && !s.preserves_unknown() && s.properties.is_empty() {
        let detail = "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        errors.push(field::required(&path.child("properties"), detail));
    }
}

fn metadata_invariants(s: &Schema, check: bool, level: Level, path: &Path, errors: &mut ErrorList) {
    if check && s.type_ != "object" {
        errors.push(field::invalid(&path.child("type"), &s.type_, "must be object"));
    }
    if level != Level::Root {
        return;
    }
    let only_names = s.properties.keys().all(|name| name == "name" || name == "generateName");
    // The type and the default are fine (the latter is looked at elsewhere), nothing else is.
    let mut rest = s.clone();
    rest.default = None;
    if only_names {
        rest.properties.clear();
    }
    if !is_plain(&rest) || rest.children().next().is_some() || rest.additional_properties.is_some() {
        let detail = "must not specify anything other than name and generateName, but metadata is implicitly specified";
        errors.push(field::forbidden(path, detail));
    }
}

fn value_validation(s: &Schema, skip_any_of: bool, skip_first: bool, path: &Path, errors: &mut ErrorList) {
    if !skip_any_of {
        for (index, schema) in s.any_of.iter().enumerate() {
            nested(schema, false, &path.child("anyOf").index(index), errors);
        }
    }
    for (index, schema) in s.all_of.iter().enumerate() {
        nested(schema, skip_first && index == 0, &path.child("allOf").index(index), errors);
    }
    for (index, schema) in s.one_of.iter().enumerate() {
        nested(schema, false, &path.child("oneOf").index(index), errors);
    }
    if let Some(not) = &s.not {
        nested(not, false, &path.child("not"), errors);
    }
    if let Some(pattern) = &s.pattern
        && let Err(error) = pattern.regex()
    {
        let detail = format!("must be a valid regular expression, but isn't: {error}");
        errors.push(field::invalid(&path.child("pattern"), pattern.text(), detail));
    }
}

fn nested(s: &Schema, skip_any_of: bool, path: &Path, errors: &mut ErrorList) {
    value_validation(s, skip_any_of, false, path, errors);
    if let Some(items) = &s.items {
        nested(items, false, &path.child("items"), errors);
    }
    for (name, schema) in &s.properties {
        nested(schema, false, &path.child("properties").key(name), errors);
    }
    let mut forbid = |there: bool, name: &'static str, detail: &str| {
        if there {
            errors.push(field::forbidden(&path.child(name), detail));
        }
    };
    let (empty, undefined, false_) = (
        "must be empty to be structural",
        "must be undefined to be structural",
        "must be false to be structural",
    );
    forbid(!s.type_.is_empty(), "type", empty);
    let additional = !matches!(s.additional_properties, None | Some(SchemaOrBool::Bool(false)));
    forbid(additional, "additionalProperties", undefined);
    forbid(s.default.is_some(), "default", undefined);
    forbid(!s.title.is_empty(), "title", empty);
    forbid(!s.description.is_empty(), "description", empty);
    forbid(s.nullable, "nullable", false_);
    forbid(s.preserves_unknown(), "x-kubernetes-preserve-unknown-fields", false_);
    forbid(s.embedded_resource, "x-kubernetes-embedded-resource", false_);
    forbid(s.int_or_string, "x-kubernetes-int-or-string", false_);
    forbid(!s.list_map_keys.is_empty(), "x-kubernetes-list-map-keys", empty);
    forbid(s.list_type.is_some(), "x-kubernetes-list-type", undefined);
    forbid(s.map_type.is_some(), "x-kubernetes-map-type", undefined);
    forbid(!s.validations.is_empty(), "x-kubernetes-validations", empty);
    if s.properties.contains_key("metadata") {
        let path = path.child("properties").key("metadata");
        errors.push(field::forbidden(&path, "must not be specified in a nested context"));
    }
}

/// Whatever nested validations speak of is there in the structure.
fn completeness(v: &Schema, s: Option<&Schema>, at: &Path, from: &Path, errors: &mut ErrorList) {
    let lists = [("allOf", &v.all_of), ("anyOf", &v.any_of), ("oneOf", &v.one_of)];
    if let Some(not) = &v.not {
        nested_completeness(not, s, at, &from.child("not"), errors);
    }
    for (name, list) in lists {
        for (index, schema) in list.iter().enumerate() {
            nested_completeness(schema, s, at, &from.child(name).index(index), errors);
        }
    }
}

fn nested_completeness(v: &Schema, s: Option<&Schema>, at: &Path, from: &Path, errors: &mut ErrorList) {
    let missing = |at: &Path, from: &Path| field::required(at, format!("because it is defined in {from}"));
    let Some(s) = s else {
        errors.push(missing(at, from));
        return;
    };
    completeness(v, Some(s), at, from, errors);
    if let Some(items) = &v.items {
        nested_completeness(items, s.items.as_deref(), &at.child("items"), &from.child("items"), errors);
    }
    for (name, schema) in &v.properties {
        let (at, from) = (at.child("properties").key(name), from.child("properties").key(name));
        match s.properties.get(name) {
            None => errors.push(missing(&at, &from)),
            own => nested_completeness(schema, own, &at, &from, errors),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(schema: Value) -> Vec<String> {
        let schema = Schema::parse(&schema).unwrap();
        match convertible(&schema) {
            Err(error) => vec![error],
            Ok(()) => validate(&schema, &Path::nil()).iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn structural_schemas_pass() {
        for schema in [
            json!({"type": "object"}),
            json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {"name": {"type": "string"}}},
                "kind": {"type": "string"}, "spec": {"type": "object", "properties": {
                    "port": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
                    "both": {"x-kubernetes-int-or-string": true, "allOf": [{"anyOf": [{"type": "integer"}, {"type": "string"}]}, {"pattern": "a"}]},
                    "any": {"x-kubernetes-preserve-unknown-fields": true},
                    "list": {"type": "array", "items": {"type": "string"}},
                    "map": {"type": "object", "additionalProperties": {"type": "integer"}},
                    "a": {"type": "string"}}, "oneOf": [{"required": ["a"]}, {"properties": {"a": {"enum": ["x"]}}}]}}}),
        ] {
            assert_eq!(check(schema.clone()), [""; 0], "{schema}");
        }
    }

    #[test]
    fn violations_are_told_in_upstreams_words() {
        for (schema, want) in [
            (json!({}), vec!["type: Required value: must not be empty at the root"]),
            (json!({"type": "string"}), vec![r#"type: Invalid value: "string": must be object at the root"#]),
            (
                json!({"type": "object", "properties": {"a": {}, "l": {"type": "array"}, "i": {"type": "array", "items": {}}}}),
                vec![
                    "properties[a].type: Required value: must not be empty for specified object fields",
                    "properties[i].items.type: Required value: must not be empty for specified array items",
                    "properties[l].items: Required value: must be specified",
                ],
            ),
            (
                json!({"type": "object", "additionalProperties": true}),
                vec!["additionalProperties: Forbidden: must not be used at the root"],
            ),
            (
                json!({"type": "object", "anyOf": [{"type": "object", "properties": {"x": {"default": 1}}}], "not": {"items": {}}}),
                vec![
                    "anyOf[0].properties[x].default: Forbidden: must be undefined to be structural",
                    "anyOf[0].type: Forbidden: must be empty to be structural",
                    "items: Required value: because it is defined in not.items",
                    "properties[x]: Required value: because it is defined in anyOf[0].properties[x]",
                ],
            ),
            (
                json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}}}),
                vec![
                    "properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is implicitly specified",
                ],
            ),
            (
                json!({"type": "object", "properties": {"e": {"type": "object", "x-kubernetes-embedded-resource": true}}}),
                vec![
                    "properties[e].properties: Required value: must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields",
                ],
            ),
            (
                json!({"type": "object", "properties": {"p": {"type": "string", "pattern": "("}}}),
                vec![
                    "properties[p].pattern: Invalid value: \"(\": must be a valid regular expression, but isn't: error parsing regexp: missing closing ): `(`",
                ],
            ),
            (
                json!({"type": "object", "properties": {"r": {"$ref": "#/x"}}}),
                vec!["OpenAPIV3Schema '$ref' is not supported"],
            ),
        ] {
            assert_eq!(check(schema.clone()), want, "{schema}");
        }
    }
}
