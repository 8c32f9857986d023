//! The definitions that a custom resource brings into the OpenAPI documents (upstream's `controller/openapi/builder`):
//! the kind and its list, as kubectl reads them for `explain`, validation and apply.
//!
//! OpenAPI v2 cannot say everything: nullable values lose their type, preserved ones their fields, and combinations of
//! schemas go, so that old clients do not refuse what the server takes.

use crate::definition::Definition;
use crate::schema::{Rule, Schema, SchemaOrBool, structural};
use crate::version::Version;
use knarr_api::openapi::description;
use serde_json::{Map, Number, Value, json};

/// Which of the two specifications a definition follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavor {
    /// Swagger 2.0.
    V2,
    /// OpenAPI 3.0.
    V3,
}

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// The name of a kind's definition: the group reversed, then version and kind.
pub fn definition_name(group: &str, version: &str, kind: &str) -> String {
    let group: Vec<&str> = group.rsplit('.').collect();
    format!("{}.{version}.{kind}", group.join("."))
}

/// The definitions of the kind and of its list, by name. They refer to ObjectMeta and ListMeta of `meta.v1`.
pub fn definitions(definition: &Definition, version: &Version, flavor: Flavor) -> Vec<(String, Value)> {
    let names = &definition.names;
    let publisher = Publisher {
        flavor,
        texts: Texts::load(),
        selectable: version.selectable_fields.iter().map(|field| json!({"fieldPath": field.name})).collect(),
    };
    let name = definition_name(&definition.group, &version.name, &names.kind);
    let gvk = |kind: &str| json!([{"group": definition.group, "version": version.name, "kind": kind}]);
    let list = publisher.list(&name, &names.plural, &names.kind, &names.list_kind, gvk(&names.list_kind));
    let own = publisher.kind(version, definition.preserve_unknown_fields, gvk(&names.kind));
    let list_name = definition_name(&definition.group, &version.name, &names.list_kind);
    vec![(name, own), (list_name, list)]
}

/// Descriptions that upstream takes from other kinds.
struct Texts {
    api_version: String,
    kind: String,
    metadata: String,
    list_metadata: String,
}

impl Texts {
    fn load() -> Self {
        let text = |definition: &str, field: &str| description(definition, field).unwrap_or_default();
        let (type_meta, pod) = (format!("{META}.TypeMeta"), "io.k8s.api.core.v1.ConfigMap");
        Self {
            api_version: text(&type_meta, "apiVersion"),
            kind: text(&type_meta, "kind"),
            metadata: text(pod, "metadata"),
            list_metadata: "Standard list metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds".to_owned(),
        }
    }
}

struct Publisher {
    flavor: Flavor,
    texts: Texts,
    selectable: Vec<Value>,
}

impl Publisher {
    fn reference(&self, name: &str, text: &str) -> Value {
        match self.flavor {
            Flavor::V2 => json!({"$ref": format!("#/definitions/{name}"), "description": text}),
            // Nothing may stand beside a reference there.
            Flavor::V3 => {
                json!({"allOf": [{"$ref": format!("#/components/schemas/{name}")}], "description": text})
            }
        }
    }

    fn type_meta(&self, properties: &mut Map<String, Value>) {
        for (name, text) in [("apiVersion", &self.texts.api_version), ("kind", &self.texts.kind)] {
            properties.insert(name.into(), json!({"type": "string", "description": text}));
        }
    }

    fn finish(&self, mut schema: Value, gvk: Value) -> Value {
        schema["x-kubernetes-group-version-kind"] = gvk;
        if !self.selectable.is_empty() {
            schema["x-kubernetes-selectable-fields"] = self.selectable.clone().into();
        }
        schema
    }

    fn kind(&self, version: &Version, preserve: bool, gvk: Value) -> Value {
        let usable = version.schema.as_ref().filter(|schema| {
            structural::convertible(schema).is_ok()
                && structural::validate(schema, &knarr_meta::field::Path::nil()).is_empty()
        });
        let free =
            self.flavor == Flavor::V2 && usable.is_some_and(|schema| schema.preserves_unknown() || preserve);
        let schema = match usable {
            Some(schema) if !free => {
                let mut schema = schema.clone();
                schema.visit_mut(&mut spell_int_or_string);
                if self.flavor == Flavor::V2 {
                    schema.visit_mut(&mut for_v2);
                }
                let mut json = self.structure(&schema);
                let properties = object_entry(&mut json, "properties");
                properties.insert(
                    "metadata".into(),
                    self.reference(&format!("{META}.ObjectMeta"), &self.texts.metadata),
                );
                self.type_meta(properties);
                json
            }
            _ => json!({"type": "object"}),
        };
        self.finish(schema, gvk)
    }

    fn list(&self, name: &str, plural: &str, kind: &str, list_kind: &str, gvk: Value) -> Value {
        let place = if self.flavor == Flavor::V2 { "#/definitions/" } else { "#/components/schemas/" };
        let mut properties = Map::new();
        properties.insert(
            "items".into(),
            json!({"type": "array", "items": {"$ref": format!("{place}{name}")},
                "description": format!("List of {plural}. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md")}),
        );
        properties.insert(
            "metadata".into(),
            self.reference(&format!("{META}.ListMeta"), &self.texts.list_metadata),
        );
        self.type_meta(&mut properties);
        let schema = json!({"type": "object", "description": format!("{list_kind} is a list of {kind}"),
            "required": ["items"], "properties": properties});
        self.finish(schema, gvk)
    }

    /// A structure, with type and metadata of embedded resources spelled out.
    fn structure(&self, s: &Schema) -> Value {
        let mut json = plain(s);
        if let Some(items) = &s.items {
            json.insert("items".into(), self.structure(items));
        }
        if !s.properties.is_empty() {
            let properties = s.properties.iter().map(|(name, schema)| (name.clone(), self.structure(schema)));
            json.insert("properties".into(), Value::Object(properties.collect()));
        }
        match &s.additional_properties {
            Some(SchemaOrBool::Schema(schema)) => {
                json.insert("additionalProperties".into(), self.structure(schema));
            }
            Some(SchemaOrBool::Bool(allows)) => {
                json.insert("additionalProperties".into(), (*allows).into());
            }
            None => {}
        }
        let mut json = Value::Object(json);
        if s.embedded_resource && !(self.flavor == Flavor::V2 && s.preserves_unknown()) {
            let properties = object_entry(&mut json, "properties");
            for (name, text) in [
                (
                    "apiVersion",
                    "apiVersion defines the versioned schema of this representation of an object. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources",
                ),
                (
                    "kind",
                    "kind is a string value representing the type of this object. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds",
                ),
            ] {
                properties.insert(name.into(), json!({"type": "string", "description": text}));
            }
            properties.insert(
                "metadata".into(),
                self.reference(&format!("{META}.ObjectMeta"), &self.texts.metadata),
            );
            let mut required = s.required.clone();
            for name in ["kind", "apiVersion"] {
                if !required.iter().any(|known| known == name) {
                    required.push(name.to_owned());
                }
            }
            json["required"] = required.into();
        }
        json
    }
}

fn object_entry<'a>(json: &'a mut Value, name: &str) -> &'a mut Map<String, Value> {
    if !json[name].is_object() {
        json[name] = Value::Object(Map::new());
    }
    json[name].as_object_mut().expect("it was just made an object")
}

/// int-or-string is published with its two types, so that clients which do not know the extension see them.
fn spell_int_or_string(schema: &mut Schema) {
    if !schema.int_or_string || structural::spells_int_or_string(schema) {
        return;
    }
    let types =
        || ["integer", "string"].map(|name| Schema { type_: name.into(), ..Schema::default() }).to_vec();
    if schema.any_of.is_empty() {
        schema.any_of = types();
    } else {
        schema.all_of.insert(0, Schema { any_of: types(), ..Schema::default() });
    }
}

/// Drops what v2 cannot say.
fn for_v2(schema: &mut Schema) {
    schema.all_of.clear();
    schema.one_of.clear();
    schema.any_of.clear();
    schema.not = None;
    if schema.nullable {
        schema.type_.clear();
        schema.nullable = false;
        schema.items = None;
        schema.properties.clear();
    }
    if schema.preserves_unknown() {
        schema.items = None;
        schema.properties.clear();
        if schema.type_ == "object" {
            schema.type_.clear();
        }
    }
    if schema.items.is_none() && schema.type_ == "array" {
        schema.type_.clear();
    }
    let nullable: Vec<&String> =
        schema.properties.iter().filter(|(_, s)| s.nullable).map(|(name, _)| name).collect();
    schema.required.retain(|name| !nullable.contains(&name));
    if schema.additional().is_some_and(|other| other.nullable) {
        schema.required.clear();
    }
}

fn number(float: f64) -> Value {
    let whole = float.fract() == 0.0 && float.abs() < 9_007_199_254_740_992.0;
    if whole { Value::from(float as i64) } else { Number::from_f64(float).map_or(Value::Null, Value::Number) }
}

/// A nested validation.
fn nested(s: &Schema) -> Value {
    let mut json = plain(s);
    if let Some(items) = &s.items {
        json.insert("items".into(), nested(items));
    }
    if !s.properties.is_empty() {
        let properties = s.properties.iter().map(|(name, schema)| (name.clone(), nested(schema)));
        json.insert("properties".into(), Value::Object(properties.collect()));
    }
    Value::Object(json)
}

/// Everything but items, properties and additionalProperties.
fn plain(s: &Schema) -> Map<String, Value> {
    let mut json = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            json.insert(name.to_owned(), value);
        }
    };
    let text = |text: &str| (!text.is_empty()).then(|| Value::from(text));
    let flag = |is: bool| is.then_some(Value::Bool(true));
    let list = |schemas: &[Schema]| (!schemas.is_empty()).then(|| schemas.iter().map(nested).collect());
    put("type", text(&s.type_));
    put("nullable", flag(s.nullable));
    put("description", text(&s.description));
    put("title", text(&s.title));
    put("default", s.default.clone());
    put(
        "externalDocs",
        s.external_docs.as_ref().map(|(about, url)| {
            let entries =
                [("description", about), ("url", url)].into_iter().filter(|(_, text)| !text.is_empty());
            Value::Object(entries.map(|(name, text)| (name.to_owned(), text.as_str().into())).collect())
        }),
    );
    put("example", s.example.clone());
    put("format", text(&s.format));
    put("maximum", s.maximum.map(number));
    put("exclusiveMaximum", flag(s.exclusive_maximum));
    put("minimum", s.minimum.map(number));
    put("exclusiveMinimum", flag(s.exclusive_minimum));
    put("maxLength", s.max_length.map(Value::from));
    put("minLength", s.min_length.map(Value::from));
    put("pattern", s.pattern.as_ref().map(|pattern| pattern.text().into()));
    put("maxItems", s.max_items.map(Value::from));
    put("minItems", s.min_items.map(Value::from));
    put("uniqueItems", flag(s.unique_items));
    put("multipleOf", s.multiple_of.map(number));
    put("enum", (!s.enum_.is_empty()).then(|| s.enum_.clone().into()));
    put("maxProperties", s.max_properties.map(Value::from));
    put("minProperties", s.min_properties.map(Value::from));
    put("required", (!s.required.is_empty()).then(|| s.required.clone().into()));
    put("allOf", list(&s.all_of));
    put("anyOf", list(&s.any_of));
    put("oneOf", list(&s.one_of));
    put("not", s.not.as_deref().map(nested));
    put("x-kubernetes-preserve-unknown-fields", flag(s.preserves_unknown()));
    put("x-kubernetes-embedded-resource", flag(s.embedded_resource));
    put("x-kubernetes-int-or-string", flag(s.int_or_string));
    put("x-kubernetes-list-map-keys", (!s.list_map_keys.is_empty()).then(|| s.list_map_keys.clone().into()));
    put("x-kubernetes-list-type", s.list_type.as_deref().map(Value::from));
    put("x-kubernetes-map-type", s.map_type.as_deref().map(Value::from));
    put(
        "x-kubernetes-validations",
        (!s.validations.is_empty()).then(|| s.validations.iter().map(rule).collect()),
    );
    json
}

fn rule(rule: &Rule) -> Value {
    let mut json = json!({"rule": rule.rule});
    let texts = [
        ("message", rule.message.as_str()),
        ("messageExpression", &rule.message_expression),
        ("reason", rule.reason.as_deref().unwrap_or_default()),
        ("fieldPath", &rule.field_path),
    ];
    for (name, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
        json[name] = text.into();
    }
    if let Some(is) = rule.optional_old_self {
        json["optionalOldSelf"] = is.into();
    }
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published(schema: Value, flavor: Flavor) -> Vec<(String, Value)> {
        let crd = json!({"spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "tabs", "kind": "Tab", "listKind": "TabList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema},
                "selectableFields": [{"jsonPath": ".spec.a"}]}]}});
        let definition = Definition::compile(&crd).unwrap();
        definitions(&definition, definition.storage(), flavor)
    }

    fn rich() -> Value {
        json!({"type": "object", "description": "a tab", "properties": {"spec": {"type": "object", "required": ["a", "n"], "properties": {
            "a": {"type": "string", "pattern": "x", "maxLength": 3, "default": "x"},
            "n": {"type": "object", "nullable": true, "properties": {"deep": {"type": "string"}}},
            "p": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"q": {"type": "string"}}},
            "i": {"x-kubernetes-int-or-string": true},
            "e": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {"spec": {"type": "object"}}},
            "o": {"type": "number", "minimum": 0.5, "oneOf": [{"minimum": 1}, {"maximum": 2}]}}}}})
    }

    #[test]
    fn v3_says_everything() {
        let all = published(rich(), Flavor::V3);
        let names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["com.example.v1.Tab", "com.example.v1.TabList"]);
        let tab = &all[0].1;
        assert_eq!(
            tab["x-kubernetes-group-version-kind"],
            json!([{"group": "example.com", "version": "v1", "kind": "Tab"}])
        );
        assert_eq!(tab["x-kubernetes-selectable-fields"], json!([{"fieldPath": "spec.a"}]));
        assert_eq!(tab["description"], "a tab");
        assert_eq!(
            tab["properties"]["metadata"]["allOf"][0]["$ref"],
            "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
        );
        assert!(tab["properties"]["kind"]["description"].as_str().unwrap().starts_with("Kind is a string"));
        let spec = &tab["properties"]["spec"]["properties"];
        assert_eq!(spec["a"], json!({"type": "string", "pattern": "x", "maxLength": 3, "default": "x"}));
        assert_eq!(spec["n"]["nullable"], true);
        assert_eq!(
            spec["i"],
            json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]})
        );
        assert_eq!(spec["e"]["required"], json!(["kind", "apiVersion"]));
        assert_eq!(
            spec["o"],
            json!({"type": "number", "minimum": 0.5, "oneOf": [{"minimum": 1}, {"maximum": 2}]})
        );
        let list = &all[1].1;
        assert_eq!(
            list["properties"]["items"]["items"],
            json!({"$ref": "#/components/schemas/com.example.v1.Tab"})
        );
        assert_eq!(list["description"], "TabList is a list of Tab");
        assert_eq!(list["required"], json!(["items"]));
    }

    #[test]
    fn v2_says_less() {
        let tab = &published(rich(), Flavor::V2)[0].1;
        let spec = &tab["properties"]["spec"];
        assert_eq!(spec["required"], json!(["a"]));
        assert_eq!(spec["properties"]["n"], json!({}));
        assert_eq!(spec["properties"]["p"], json!({"x-kubernetes-preserve-unknown-fields": true}));
        assert_eq!(spec["properties"]["i"], json!({"x-kubernetes-int-or-string": true}));
        assert_eq!(spec["properties"]["o"], json!({"type": "number", "minimum": 0.5}));
        assert_eq!(
            spec["properties"]["e"]["properties"]["metadata"]["$ref"],
            "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
        );
    }

    #[test]
    fn what_is_not_structural_or_free_is_an_object() {
        let free = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        let gvk = json!([{"group": "example.com", "version": "v1", "kind": "Tab"}]);
        let bare = json!({"type": "object", "x-kubernetes-group-version-kind": gvk, "x-kubernetes-selectable-fields": [{"fieldPath": "spec.a"}]});
        assert_eq!(published(free.clone(), Flavor::V2)[0].1, bare);
        assert_eq!(published(free, Flavor::V3)[0].1["x-kubernetes-preserve-unknown-fields"], true);
        assert_eq!(published(json!({"type": "string"}), Flavor::V3)[0].1, bare);
    }
}
