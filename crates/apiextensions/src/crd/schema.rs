//! What a schema within a definition may say, beyond being structural (upstream's
//! `ValidateCustomResourceDefinitionOpenAPISchema`).

use super::spec::Part;
use super::{Options, defaults, dump, fieldpath};
use crate::rules::estimate::{Context, EXPRESSION_LIMIT, SCHEMA_LIMIT, Total, exceeded};
use crate::rules::{Compiled, compile_rules};
use crate::schema::{Schema, SchemaOrBool, structural};
use knarr_meta::field::{self, ErrorList, ErrorType, FieldError, Path};
use serde_json::Value;
use std::cell::RefCell;

/// The types of OpenAPI v3, in the order of upstream's error text.
pub(super) const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];

/// What the root may have beside a `status` subresource, by Go's names.
const ALLOWED_AT_ROOT: [&str; 22] = [
    "Description",
    "Type",
    "Format",
    "Title",
    "Maximum",
    "ExclusiveMaximum",
    "Minimum",
    "ExclusiveMinimum",
    "MaxLength",
    "MinLength",
    "Pattern",
    "MaxItems",
    "MinItems",
    "UniqueItems",
    "MultipleOf",
    "Required",
    "Items",
    "Properties",
    "ExternalDocs",
    "Example",
    "XPreserveUnknownFields",
    "XValidations",
];

const REASONS: [&str; 4] =
    ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];

/// An `Invalid` error that shows a Go value.
pub(super) fn invalid_go(path: &Path, shown: String, detail: impl Into<String>) -> FieldError {
    FieldError {
        kind: ErrorType::Invalid,
        field: path.to_string(),
        value: Some(shown),
        detail: detail.into(),
    }
}

/// Checks `validation` or a version's `schema`, at `path`.
pub(super) fn validate(
    part: &Part<'_>,
    version: &str,
    status: bool,
    options: &Options<'_>,
    path: &Path,
) -> ErrorList {
    let mut errors = ErrorList::new();
    let (Some(schema), Some(json)) = (part.openapi(), part.json) else { return errors };
    let total = RefCell::new(Total::default());
    let mut context = None;
    let at = path.child("openAPIV3Schema");
    if status {
        root(schema, path, &mut errors);
    }
    if schema.nullable {
        errors.push(field::forbidden(
            &path.child("openAPIV3Schema.nullable"),
            "nullable cannot be true at the root",
        ));
    }
    let mut not_convertible = None;
    if options.structural {
        if let Err(error) = structural::convertible(schema) {
            not_convertible = Some(field::invalid(&at, "", error));
        } else {
            let found = structural::validate(schema, &at);
            let found = if found.is_empty() {
                defaults::validate(schema, json, &at, options.pruned_defaults)
            } else {
                found
            };
            if found.is_empty() {
                context = Some(Context::root(schema, json, &total));
            }
            errors.extend(found);
        }
    }
    let keep_costs = options.unchanged.contains(&version);
    let walk = Walk { options, keep_costs, defaults: None, inside_meta: false, uncorrelatable: None };
    let found = walk.schema(schema, true, &at, context.as_ref());
    errors.extend(found.schema);
    errors.extend(found.rules);
    if errors.is_empty() {
        errors.extend(not_convertible);
    }
    let total = total.into_inner();
    if total.cost > SCHEMA_LIMIT {
        for (path, _) in &total.worst {
            let detail =
                "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
            errors.push(field::forbidden(path, detail));
        }
        let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        errors.push(field::forbidden(&at, exceeded(what, total.cost, SCHEMA_LIMIT)));
    }
    errors
}

/// What was found: rules are compiled only where the schema is right, and are told last.
#[derive(Default)]
struct Found {
    schema: ErrorList,
    rules: ErrorList,
}

impl Found {
    fn extend(&mut self, other: Found) {
        self.schema.extend(other.schema);
        self.rules.extend(other.rules);
    }
}

fn root(schema: &Schema, path: &Path, errors: &mut ErrorList) {
    for name in dump::set_fields(schema) {
        if name == "Type" {
            if schema.type_ != "object" {
                let detail = "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
                errors.push(field::invalid(&path.child("openAPIV3Schema.type"), &schema.type_, detail));
                break;
            }
        } else if !ALLOWED_AT_ROOT.contains(&name) {
            let detail = format!(
                "only [{}] fields are allowed at the root of the schema if the status subresource is enabled",
                ALLOWED_AT_ROOT.join(" ")
            );
            errors.push(invalid_go(&path.child("openAPIV3Schema"), dump::schema(schema), detail));
            break;
        }
    }
}

#[derive(Clone, Copy)]
struct Walk<'a> {
    options: &'a Options<'a>,
    /// Why there may be no defaults here.
    defaults: Option<&'a str>,
    inside_meta: bool,
    /// Whether rules may cost what they cost.
    keep_costs: bool,
    /// The schema above within which old values cannot be found.
    uncorrelatable: Option<&'a Path>,
}

impl Walk<'_> {
    fn schema(&self, s: &Schema, is_root: bool, path: &Path, context: Option<&Context<'_>>) -> Found {
        let mut found = Found::default();
        let errors = &mut found.schema;
        self.keywords(s, path, errors);
        if s.unique_items {
            let detail = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
            errors.push(field::forbidden(&path.child("uniqueItems"), detail));
        }
        if let Some(additional) = &s.additional_properties {
            if !s.properties.is_empty() && !matches!(additional, SchemaOrBool::Bool(true)) {
                let detail = "additionalProperties and properties are mutual exclusive";
                errors.push(field::forbidden(&path.child("additionalProperties"), detail));
            }
            if let SchemaOrBool::Schema(other) = additional {
                let mut walk = *self;
                if self.inside_meta {
                    walk.defaults = Some("inside additionalProperties applying to object metadata");
                }
                let context = context.map(|context| context.additional(other));
                found.extend(walk.schema(
                    other,
                    false,
                    &path.child("additionalProperties"),
                    context.as_ref(),
                ));
            }
        }
        for (name, field) in &s.properties {
            let reason = format!("in top-level {name}");
            let mut walk = Walk { defaults: self.defaults, ..*self };
            if !matches!(s.map_type.as_deref(), None | Some("granular" | "atomic")) {
                walk.uncorrelatable = walk.uncorrelatable.or(Some(path));
            }
            if (is_root || s.embedded_resource) && matches!(name.as_str(), "metadata" | "kind" | "apiVersion")
            {
                walk.inside_meta = true;
                if is_root {
                    walk.defaults = Some(&reason);
                }
            }
            let context = context.map(|context| context.field(name, field));
            found.extend(walk.schema(field, false, &path.child("properties").key(name), context.as_ref()));
        }
        if let Some(not) = &s.not {
            found.extend(self.schema(not, false, &path.child("not"), None));
        }
        for (name, list) in [("allOf", &s.all_of), ("oneOf", &s.one_of), ("anyOf", &s.any_of)] {
            for (index, schema) in list.iter().enumerate() {
                found.extend(self.schema(schema, false, &path.child(name).index(index), None));
            }
        }
        if let Some(items) = &s.items {
            let mut walk = *self;
            if s.list_type.as_deref() != Some("map") {
                walk.uncorrelatable = walk.uncorrelatable.or(Some(path));
            }
            let context = context.map(|context| context.items(items));
            found.extend(walk.schema(items, false, &path.child("items"), context.as_ref()));
        }
        for (index, schema) in s.unsupported.items_list.iter().enumerate() {
            found.extend(self.schema(schema, false, &path.child("items").index(index), None));
        }
        self.extensions(s, path, &mut found.schema);
        rules(s, path, &mut found.schema);
        if !s.validations.is_empty()
            && found.schema.is_empty()
            && let Some(context) = context
        {
            self.expressions(s, context, &path.child("x-kubernetes-validations"), &mut found.rules);
        }
        found
    }

    /// Compiles the rules of a schema, and tells what they may cost.
    fn expressions(&self, s: &Schema, context: &Context<'_>, path: &Path, errors: &mut ErrorList) {
        let Some(decl) = context.decl() else {
            let detail = "internal error: failed to construct type information for x-kubernetes-validations rules: unable to convert structural schema to CEL declarations";
            errors.push(field::internal(path, detail));
            return;
        };
        for (index, compiled) in compile_rules(s, decl).iter().enumerate() {
            let path = path.index(index);
            let rule_path = path.child("rule");
            let times = context.cardinality.unwrap_or_else(|| decl.max_cardinality());
            let cost = compiled.max_cost.saturating_mul(if compiled.program.is_some() { times } else { 0 });
            let observe = |path: Path, what: &str, cost: u64, errors: &mut ErrorList| {
                if !self.keep_costs && cost > EXPRESSION_LIMIT {
                    errors.push(field::forbidden(&path, exceeded(what, cost, EXPRESSION_LIMIT)));
                }
                context.observe(path, cost);
            };
            observe(rule_path.clone(), "estimated rule cost", cost, errors);
            if let Some(error) = &compiled.error {
                errors.push(invalid_go(&rule_path, dump::rule(&compiled.rule), error));
            }
            let message_path = path.child("messageExpression");
            if let Some(error) = &compiled.message_error {
                errors.push(invalid_go(&message_path, dump::rule(&compiled.rule), error));
            } else if compiled.message.is_some() {
                observe(message_path, "estimated messageExpression cost", compiled.message_max_cost, errors);
            }
            self.transition(compiled, &path, errors);
        }
    }

    fn transition(&self, compiled: &Compiled, path: &Path, errors: &mut ErrorList) {
        if compiled.uses_old_self {
            if let Some(within) = self.uncorrelatable {
                let detail = format!(
                    "oldSelf cannot be used on the uncorrelatable portion of the schema within {within}"
                );
                errors.push(field::invalid(&path.child("rule"), &compiled.rule.rule, detail));
            }
        } else if let Some(optional) = compiled.rule.optional_old_self {
            let detail = "may not be set if oldSelf is not used in rule";
            errors.push(field::invalid(&path.child("optionalOldSelf"), optional, detail));
        }
    }

    fn keywords(&self, s: &Schema, path: &Path, errors: &mut ErrorList) {
        let known = s.type_.is_empty() || TYPES.contains(&s.type_.as_str());
        if self.options.valid_types && !known {
            errors.push(field::not_supported(&path.child("type"), &s.type_, &TYPES));
        }
        let mut forbid = |there: bool, name: &'static str, detail: String| {
            if there {
                errors.push(field::forbidden(&path.child(name), detail));
            }
        };
        let unsupported = &s.unsupported;
        if let Some(reason) = self.defaults.filter(|_| s.default.is_some()) {
            forbid(true, "default", format!("must not be set {reason}"));
        }
        for (there, name) in [
            (unsupported.id, "id"),
            (unsupported.additional_items, "additionalItems"),
            (unsupported.pattern_properties, "patternProperties"),
            (unsupported.definitions, "definitions"),
            (unsupported.dependencies, "dependencies"),
            (unsupported.reference, "$ref"),
        ] {
            forbid(there, name, format!("{name} is not supported"));
        }
        let null = "type cannot be set to null, use nullable as an alternative";
        forbid(s.type_ == "null", "type", null.into());
        let list = !unsupported.items_list.is_empty();
        forbid(list, "items", "items must be a schema object and not an array".into());
        let inside = self.inside_meta && s.embedded_resource;
        forbid(inside, "x-kubernetes-embedded-resource", "must not be used inside of resource meta".into());
    }

    fn extensions(&self, s: &Schema, path: &Path, errors: &mut ErrorList) {
        if s.preserve_unknown_fields == Some(false) {
            let path = path.child("x-kubernetes-preserve-unknown-fields");
            errors.push(field::invalid(&path, false, "must be true or undefined"));
        }
        let type_path = path.child("type");
        let wrong_type = |detail: &str| {
            if s.type_.is_empty() {
                field::required(&type_path, detail)
            } else {
                field::invalid(&type_path, &s.type_, detail)
            }
        };
        if let Some(map_type) = &s.map_type {
            if s.type_ != "object" {
                errors.push(wrong_type("must be object if x-kubernetes-map-type is specified"));
            }
            if !matches!(map_type.as_str(), "atomic" | "granular") {
                let path = path.child("x-kubernetes-map-type");
                errors.push(field::not_supported(&path, map_type, &["atomic", "granular"]));
            }
        }
        let list_type = s.list_type.as_deref();
        let type_at = path.child("x-kubernetes-list-type");
        if list_type.is_some() && s.type_ != "array" {
            errors.push(wrong_type("must be array if x-kubernetes-list-type is specified"));
        } else if self.options.atomic_sets
            && let Some((name, value)) = non_atomic_set(s)
        {
            let detail = "must be atomic as item of a list with x-kubernetes-list-type=set";
            errors.push(field::invalid(&path.child("items").child(name), value, detail));
        }
        if let Some(given) = list_type.filter(|given| !matches!(*given, "atomic" | "set" | "map")) {
            errors.push(field::not_supported(&type_at, given, &["atomic", "set", "map"]));
        }
        if !s.list_map_keys.is_empty() && list_type != Some("map") {
            let detail = "must be map if x-kubernetes-list-map-keys is non-empty";
            errors.push(match list_type {
                None => field::required(&type_at, detail),
                Some(given) => field::invalid(&type_at, given, detail),
            });
        }
        if list_type == Some("map") {
            list_map(s, path, errors);
        }
        if self.options.map_keys {
            errors.extend(keys_and_sets(s, path));
        }
    }
}

/// Where the elements of a set are not atomic: the extension that should say so, and what it says.
pub(super) fn non_atomic_set(s: &Schema) -> Option<(&'static str, Value)> {
    let items = s.items.as_deref().filter(|_| s.list_type.as_deref() == Some("set"))?;
    // Upstream shows the list type in both cases.
    let shown = items.list_type.clone().map_or(Value::Null, Value::String);
    match items.type_.as_str() {
        "array" if items.list_type.as_deref().is_some_and(|given| given != "atomic") => {
            Some(("x-kubernetes-list-type", shown))
        }
        "object" if items.map_type.as_deref() != Some("atomic") => Some(("x-kubernetes-map-type", shown)),
        _ => None,
    }
}

fn list_map(s: &Schema, path: &Path, errors: &mut ErrorList) {
    let keys_path = path.child("x-kubernetes-list-map-keys");
    if s.list_map_keys.is_empty() {
        errors.push(field::required(&keys_path, "must not be empty if x-kubernetes-list-type is map"));
    }
    let items_path = path.child("items");
    let Some(items) = s.items.as_deref() else {
        errors.push(if s.unsupported.items_list.is_empty() {
            field::required(&items_path, "must have a schema if x-kubernetes-list-type is map")
        } else {
            field::invalid(
                &items_path,
                Value::Null,
                "must only have a single schema if x-kubernetes-list-type is map",
            )
        });
        return;
    };
    if items.type_ != "object" {
        let detail = "must be object if parent array's x-kubernetes-list-type is map";
        errors.push(field::invalid(&items_path.child("type"), &items.type_, detail));
        return;
    }
    for (index, key) in s.list_map_keys.iter().enumerate() {
        match items.properties.get(key) {
            Some(field) if matches!(field.type_.as_str(), "array" | "object") => {
                let detail = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                let path = items_path.child("properties").key(key).child("type");
                errors.push(field::invalid(&path, &items.type_, detail));
            }
            Some(_) => {}
            None => {
                let detail = "entries must all be names of item properties";
                errors.push(field::invalid(&keys_path, &s.list_map_keys, detail));
            }
        }
        if s.list_map_keys[..index].contains(key) {
            errors.push(field::invalid(&keys_path, &s.list_map_keys, "must not contain duplicate entries"));
        }
    }
}

/// Elements of sets and maps are never null, and the keys of maps are always there.
pub(super) fn keys_and_sets(s: &Schema, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let (Some(items), Some(list_type @ ("set" | "map"))) = (s.items.as_deref(), s.list_type.as_deref())
    else {
        return errors;
    };
    let path = path.child("items");
    if items.nullable {
        let detail = format!("cannot be nullable when x-kubernetes-list-type is {list_type}");
        errors.push(field::forbidden(&path.child("nullable"), detail));
    }
    if list_type == "set" {
        return errors;
    }
    for key in &s.list_map_keys {
        let Some(field) = items.properties.get(key) else { continue };
        let path = path.child("properties").key(key);
        if !items.required.contains(key) && field.default.is_none() {
            let detail = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            errors.push(field::required(&path.child("default"), detail));
        }
        if field.nullable {
            let detail = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            errors.push(field::forbidden(&path.child("nullable"), detail));
        }
    }
    errors
}

/// The form of rules; their expressions are looked at elsewhere.
fn rules(s: &Schema, path: &Path, errors: &mut ErrorList) {
    let has_newlines = |text: &str| text.contains(['\n', '\r']);
    for (index, rule) in s.validations.iter().enumerate() {
        let path = path.child("x-kubernetes-validations").index(index);
        let (expression, message) = (rule.rule.trim(), rule.message.trim());
        let at = path.child("message");
        if expression.is_empty() {
            errors.push(field::required(&path.child("rule"), "rule is not specified"));
        } else if !rule.message.is_empty() && message.is_empty() {
            errors.push(field::invalid(&at, &rule.message, "must be non-empty if specified"));
        } else if has_newlines(message) {
            errors.push(field::invalid(&at, &rule.message, "must not contain line breaks"));
        } else if has_newlines(expression) && message.is_empty() {
            errors.push(field::required(&at, "message must be specified if rule contains line breaks"));
        }
        if !rule.message_expression.is_empty() && rule.message_expression.trim().is_empty() {
            let detail = "messageExpression must be non-empty if specified";
            errors.push(field::required(&path.child("messageExpression"), detail));
        }
        if let Some(reason) = rule.reason.as_deref().filter(|reason| !REASONS.contains(reason)) {
            errors.push(field::not_supported(&path.child("reason"), reason, &REASONS));
        }
        let at = path.child("fieldPath");
        if !rule.field_path.is_empty() && rule.field_path.trim().is_empty() {
            errors.push(field::invalid(&at, &rule.field_path, "must be non-empty if specified"));
        }
        if has_newlines(&rule.field_path) {
            errors.push(field::invalid(&at, &rule.field_path, "must not contain line breaks"));
        }
        let valid =
            structural::convertible(s).is_err() || fieldpath::follow(&rule.field_path, s, true).is_ok();
        if !rule.field_path.is_empty() && !valid {
            errors.push(field::invalid(&at, &rule.field_path, "must be a valid path"));
        }
    }
}
