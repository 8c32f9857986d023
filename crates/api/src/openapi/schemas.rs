//! The schemas of types, as upstream's generator derives them from Go types and their markers.

use super::descriptions::Descriptions;
use super::{Flavor, Served};
use crate::facts::decl::{self, Field, Message, Package, Shape};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::sync::LazyLock;

/// A hash of what the documents are made of beside the served resources; part of every document's hash.
pub(super) fn fingerprint() -> &'static [u8] {
    static FINGERPRINT: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut hash = Sha256::new();
        hash.update(include_str!("../../facts/types.txt"));
        hash.update(super::descriptions::TEXT);
        hash.finalize().to_vec()
    });
    &FINGERPRINT
}

/// All definitions in one flavor.
pub(super) struct Library {
    flavor: Flavor,
    messages: Vec<Message>,
    packages: Vec<Package>,
    by_name: HashMap<(&'static str, &'static str), usize>,
    descriptions: Descriptions,
    /// Group and version of everything served, for the kinds that are part of each.
    group_versions: Vec<(String, String)>,
    /// Definitions that the facts do not have, by name.
    own: HashMap<String, Value>,
    /// The names of those of kinds: group, version and kind first.
    own_kinds: HashMap<(String, String, String), String>,
}

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

impl Library {
    /// For documents about `about`, which are among all that is served.
    pub(super) fn new(served: &[Served], about: &[&Served], flavor: Flavor) -> Self {
        let (mut own, mut own_kinds) = (HashMap::new(), HashMap::new());
        for one in about {
            let Some(kinds) = &one.own else { continue };
            if own.contains_key(&kinds.kind) {
                continue;
            }
            own.extend((kinds.make)(flavor == Flavor::V2));
            for (kind, name) in [(&one.kind, &kinds.kind), (&kinds.list_kind, &kinds.list)] {
                let key = (one.kind_group.clone(), one.kind_version.clone(), kind.clone());
                own_kinds.insert(key, name.clone());
            }
        }
        let messages = decl::messages();
        let by_name = messages.iter().enumerate().map(|(i, m)| ((m.package.alias, m.name), i)).collect();
        let mut group_versions: Vec<_> =
            served.iter().filter(|s| !s.custom).map(|s| (s.group.clone(), s.version.clone())).collect();
        group_versions.push((String::new(), "v1".to_owned()));
        group_versions.sort();
        group_versions.dedup();
        let packages = decl::packages(&messages);
        let descriptions = Descriptions::load();
        Self { flavor, packages, messages, by_name, descriptions, group_versions, own, own_kinds }
    }

    /// The definition name of a kind, if there is one.
    pub(super) fn definition(&self, group: &str, version: &str, kind: &str) -> Option<String> {
        if !self.own_kinds.is_empty() {
            let key = (group.to_owned(), version.to_owned(), kind.to_owned());
            if let Some(name) = self.own_kinds.get(&key) {
                return Some(name.clone());
            }
        }
        let package = self.packages.iter().find(|p| p.group == group && p.version == version)?;
        let message = self.messages.iter().find(|m| m.package.alias == package.alias && m.name == kind)?;
        Some(format!("{}.{}", package.prefix, message.name))
    }

    /// The definition name of a type of meta/v1.
    pub(super) fn meta(&self, name: &str) -> String {
        format!("{META}.{name}")
    }

    pub(super) fn reference(&self, definition: &str) -> Value {
        let place = if self.flavor == Flavor::V2 { "#/definitions/" } else { "#/components/schemas/" };
        json!({ "$ref": format!("{place}{definition}") })
    }

    /// The definitions of `roots` and of everything they refer to.
    pub(super) fn closure(&self, roots: Vec<String>) -> Map<String, Value> {
        let mut found = Map::new();
        let mut todo = roots;
        while let Some(name) = todo.pop() {
            if found.contains_key(&name) {
                continue;
            }
            let mut references = Vec::new();
            if let Some(schema) = self.schema(&name, &mut references) {
                found.insert(name, schema);
            }
            todo.append(&mut references);
        }
        found
    }

    fn schema(&self, name: &str, references: &mut Vec<String>) -> Option<Value> {
        if let Some(own) = self.own.get(name) {
            mentioned(own, references);
            return Some(own.clone());
        }
        let message = self.packages.iter().find_map(|package| {
            let kind = name.strip_prefix(package.prefix)?.strip_prefix('.')?;
            let index = self.by_name.get(&(package.alias, kind))?;
            Some(&self.messages[*index])
        });
        let mut schema = match message {
            Some(message) => self.message_schema(message, name, references),
            None => special(name, self.flavor)?,
        };
        if let Some(text) = self.descriptions.find(name, "") {
            schema["description"] = text.into();
        }
        Some(schema)
    }

    fn message_schema(&self, message: &Message, name: &str, references: &mut Vec<String>) -> Value {
        let mut properties = Map::new();
        let mut required = Vec::new();
        if message.type_meta {
            for field in ["apiVersion", "kind"] {
                let mut schema = json!({ "type": "string" });
                if let Some(text) = self.descriptions.find(&self.meta("TypeMeta"), field) {
                    schema["description"] = text.into();
                }
                properties.insert(field.to_owned(), schema);
            }
        }
        self.add_fields(message, name, &mut properties, &mut required, references);
        let mut schema = json!({ "type": "object" });
        if !properties.is_empty() {
            schema["properties"] = Value::Object(properties);
        }
        if !required.is_empty() {
            schema["required"] = required.into();
        }
        if message.atomic {
            schema["x-kubernetes-map-type"] = "atomic".into();
        }
        if message.type_meta {
            schema["x-kubernetes-group-version-kind"] = self.kinds_of(message);
        }
        schema
    }

    /// The groups and versions in which a type is a kind: its own, and for the options and events of meta/v1
    /// every one that is served.
    fn kinds_of(&self, message: &Message) -> Value {
        let one =
            |group: &str, version: &str| json!({ "group": group, "kind": message.name, "version": version });
        match (message.package.alias, message.name) {
            ("meta.v1", "DeleteOptions" | "WatchEvent") => {
                self.group_versions.iter().map(|(group, version)| one(group, version)).collect()
            }
            ("meta.v1", _) => json!([one("", "v1")]),
            _ => json!([one(message.package.group, message.package.version)]),
        }
    }

    fn add_fields(
        &self,
        message: &Message,
        name: &str,
        properties: &mut Map<String, Value>,
        required: &mut Vec<Value>,
        references: &mut Vec<String>,
    ) {
        for field in &message.fields {
            if field.inline {
                let key = field.ty.rsplit_once('.').unwrap_or((message.package.alias, field.ty));
                if let Some(index) = self.by_name.get(&key) {
                    // Descriptions stand with the type that JSON has: the outer one.
                    self.add_fields(&self.messages[*index], name, properties, required, references);
                }
                continue;
            }
            if field.required {
                required.push(field.name.into());
            }
            let description = self.descriptions.find(name, field.name);
            properties
                .insert(field.name.to_owned(), self.field_schema(message, field, description, references));
        }
    }

    fn field_schema(
        &self,
        message: &Message,
        field: &Field,
        description: Option<String>,
        references: &mut Vec<String>,
    ) -> Value {
        let mut facets = Map::new();
        if let Some(text) = description {
            facets.insert("description".to_owned(), text.into());
        }
        let mut put = |key: &str, value: Value| facets.insert(format!("x-kubernetes-{key}"), value);
        if let Some(list) = field.list {
            put("list-type", list.into());
            if !field.list_keys.is_empty() {
                put("list-map-keys", json!(field.list_keys));
            }
        }
        if field.atomic_map {
            put("map-type", "atomic".into());
        }
        let strategies = [
            (field.patch_merge, "merge"),
            (field.patch_replace, "replace"),
            (field.retain_keys, "retainKeys"),
        ];
        let strategies: Vec<_> = strategies.iter().filter(|(set, _)| *set).map(|(_, name)| *name).collect();
        if !strategies.is_empty() {
            put("patch-strategy", strategies.join(",").into());
        }
        if let Some(key) = field.merge_key {
            put("patch-merge-key", key.into());
        }
        match field.shape {
            Shape::One => {
                if !field.values.is_empty() {
                    facets.insert("enum".to_owned(), json!(field.values));
                }
                let default = match field.default {
                    Some(text) => serde_json::from_str(text).ok(),
                    None if field.pointer => None,
                    None if field.always || self.is_message(message, field.ty) => zero(field.ty),
                    None => None,
                };
                self.with_facets(self.one(message, field.ty, references), default, facets)
            }
            Shape::List => {
                let mut items = self.element(message, field.ty, references);
                if !field.values.is_empty() {
                    items["enum"] = json!(field.values);
                }
                facets.insert("type".to_owned(), "array".into());
                facets.insert("items".to_owned(), items);
                Value::Object(facets)
            }
            Shape::Map => {
                let items = self.element(message, field.ty, references);
                facets.insert("type".to_owned(), "object".into());
                facets.insert("additionalProperties".to_owned(), items);
                Value::Object(facets)
            }
        }
    }

    /// The schema of a list's or map's element, which has the default of its type.
    fn element(&self, message: &Message, code: &'static str, references: &mut Vec<String>) -> Value {
        self.with_facets(self.one(message, code, references), zero(code), Map::new())
    }

    fn is_message(&self, message: &Message, code: &'static str) -> bool {
        let key = code.rsplit_once('.').unwrap_or((message.package.alias, code));
        self.by_name.contains_key(&key)
    }

    /// Adds what stands beside a type. OpenAPI 3.0 forbids anything beside `$ref`, so there a reference that
    /// has company moves into `allOf`; defaults are left out of v2, as upstream does.
    fn with_facets(&self, one: Value, default: Option<Value>, facets: Map<String, Value>) -> Value {
        let default = default.filter(|_| self.flavor == Flavor::V3);
        let mut schema = match one {
            Value::Object(one) if !one.contains_key("$ref") => one,
            one if self.flavor == Flavor::V3 && (default.is_some() || !facets.is_empty()) => {
                Map::from_iter([("allOf".to_owned(), json!([one]))])
            }
            Value::Object(reference) => reference,
            _ => Map::new(),
        };
        schema.extend(facets);
        if let Some(default) = default {
            schema.insert("default".to_owned(), default);
        }
        Value::Object(schema)
    }

    fn one(&self, message: &Message, code: &'static str, references: &mut Vec<String>) -> Value {
        let mut refer = |name: String| {
            let reference = self.reference(&name);
            references.push(name);
            reference
        };
        const CRD: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1";
        match code {
            "s" => json!({ "type": "string" }),
            "b" => json!({ "type": "boolean" }),
            "i" => json!({ "type": "integer", "format": "int32" }),
            "l" => json!({ "type": "integer", "format": "int64" }),
            "d" => json!({ "type": "number", "format": "double" }),
            "y" => json!({ "type": "string", "format": "byte" }),
            "V" => self.with_facets(
                json!({ "type": "array" }),
                None,
                Map::from_iter([("items".to_owned(), self.element(message, "s", references))]),
            ),
            "Q" => refer("io.k8s.apimachinery.pkg.api.resource.Quantity".to_owned()),
            "I" => refer("io.k8s.apimachinery.pkg.util.intstr.IntOrString".to_owned()),
            "R" => refer("io.k8s.apimachinery.pkg.runtime.RawExtension".to_owned()),
            "T" => refer(format!("{META}.Time")),
            "M" => refer(format!("{META}.MicroTime")),
            "D" => refer(format!("{META}.Duration")),
            "F" => refer(format!("{META}.FieldsV1")),
            "J" => refer(format!("{CRD}.JSON")),
            "A" => refer(format!("{CRD}.JSONSchemaPropsOrArray")),
            "B" => refer(format!("{CRD}.JSONSchemaPropsOrBool")),
            "S" => refer(format!("{CRD}.JSONSchemaPropsOrStringArray")),
            name => {
                let (alias, name) = name.rsplit_once('.').unwrap_or((message.package.alias, name));
                let package = self.packages.iter().find(|p| p.alias == alias);
                refer(format!("{}.{name}", package.expect("the facts define every package").prefix))
            }
        }
    }
}

/// The definitions that a schema refers to.
fn mentioned(schema: &Value, references: &mut Vec<String>) {
    match schema {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get("$ref") {
                references.extend(reference.rsplit('/').next().map(str::to_owned));
            }
            map.values().for_each(|value| mentioned(value, references));
        }
        Value::Array(list) => list.iter().for_each(|value| mentioned(value, references)),
        _ => {}
    }
}

/// The default of a type that cannot be absent.
fn zero(code: &str) -> Option<Value> {
    Some(match code {
        "s" => json!(""),
        "b" => json!(false),
        "i" | "l" | "d" => json!(0),
        // Types with their own JSON form have none.
        "y" | "V" | "Q" | "I" | "R" | "T" | "M" | "D" | "F" | "J" | "A" | "B" | "S" => return None,
        _ => json!({}),
    })
}

/// The types whose JSON is not an object of fields.
fn special(name: &str, flavor: Flavor) -> Option<Value> {
    let v2 = flavor == Flavor::V2;
    Some(match name.rsplit('.').next()? {
        "Quantity" if v2 => json!({ "type": "string" }),
        "Quantity" => json!({ "oneOf": [{ "type": "string" }, { "type": "number" }] }),
        "IntOrString" if v2 => json!({ "type": "string", "format": "int-or-string" }),
        "IntOrString" => {
            json!({ "format": "int-or-string", "oneOf": [{ "type": "integer" }, { "type": "string" }] })
        }
        "Time" | "MicroTime" => json!({ "type": "string", "format": "date-time" }),
        "Duration" => json!({ "type": "string" }),
        "RawExtension" | "FieldsV1" | "Patch" => json!({ "type": "object" }),
        "JSON" | "JSONSchemaPropsOrArray" | "JSONSchemaPropsOrBool" | "JSONSchemaPropsOrStringArray" => {
            json!({})
        }
        _ => return None,
    })
}
