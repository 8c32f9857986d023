//! The schema of a custom resource as a CRD writes it (`JSONSchemaProps` of apiextensions.k8s.io/v1), read into a
//! form that can be walked quickly. Whether it is structural (KEP-1111, "structural schema") is told by
//! [`structural`]; pruning, defaulting, validation and publishing all work on this one form.

mod parse;
pub mod regexp;
pub mod structural;

use crate::validate::Format;
use regexp::Pattern;
use serde_json::Value;
use std::collections::BTreeMap;

pub use parse::ParseError;

/// A schema and all that hangs below it. Absent texts are empty.
#[derive(Clone, Debug, Default)]
pub struct Schema {
    /// What the value is for.
    pub description: String,
    /// `object`, `array`, `number`, `integer`, `boolean`, `string`, or empty.
    pub type_: String,
    /// A heading.
    pub title: String,
    /// What stands in for an absent value.
    pub default: Option<Value>,
    /// Whether null is a value.
    pub nullable: bool,
    /// `externalDocs`: description and URL.
    pub external_docs: Option<(String, String)>,
    /// An example.
    pub example: Option<Value>,

    /// Name of a format, as written.
    pub format: String,
    /// The format of texts that this name stands for.
    pub known_format: Option<Format>,
    /// Upper bound.
    pub maximum: Option<f64>,
    /// Whether the upper bound itself is out.
    pub exclusive_maximum: bool,
    /// Lower bound.
    pub minimum: Option<f64>,
    /// Whether the lower bound itself is out.
    pub exclusive_minimum: bool,
    /// Longest text, in characters.
    pub max_length: Option<i64>,
    /// Shortest text, in characters.
    pub min_length: Option<i64>,
    /// A regular expression in Go's syntax.
    pub pattern: Option<Pattern>,
    /// Longest list.
    pub max_items: Option<i64>,
    /// Shortest list.
    pub min_items: Option<i64>,
    /// Whether list elements differ.
    pub unique_items: bool,
    /// Numbers are multiples of it.
    pub multiple_of: Option<f64>,
    /// The values allowed; empty allows all.
    pub enum_: Vec<Value>,
    /// Most fields of an object.
    pub max_properties: Option<i64>,
    /// Fewest fields of an object.
    pub min_properties: Option<i64>,
    /// Fields that must be there.
    pub required: Vec<String>,
    /// All of these hold.
    pub all_of: Vec<Schema>,
    /// Exactly one of these holds.
    pub one_of: Vec<Schema>,
    /// At least one of these holds.
    pub any_of: Vec<Schema>,
    /// This does not hold.
    pub not: Option<Box<Schema>>,

    /// The schema of list elements.
    pub items: Option<Box<Schema>>,
    /// Schemas of fields.
    pub properties: BTreeMap<String, Schema>,
    /// Other fields.
    pub additional_properties: Option<SchemaOrBool>,

    /// `x-kubernetes-preserve-unknown-fields`.
    pub preserve_unknown_fields: Option<bool>,
    /// `x-kubernetes-embedded-resource`.
    pub embedded_resource: bool,
    /// `x-kubernetes-int-or-string`.
    pub int_or_string: bool,
    /// `x-kubernetes-list-map-keys`.
    pub list_map_keys: Vec<String>,
    /// `x-kubernetes-list-type`.
    pub list_type: Option<String>,
    /// `x-kubernetes-map-type`.
    pub map_type: Option<String>,
    /// `x-kubernetes-validations`.
    pub validations: Vec<Rule>,

    /// What no CRD of v1 may have; kept to be refused.
    pub unsupported: Unsupported,
}

/// `additionalProperties`: a schema, or whether there may be any.
#[derive(Clone, Debug)]
pub enum SchemaOrBool {
    /// A schema of each value.
    Schema(Box<Schema>),
    /// Whether other fields are allowed.
    Bool(bool),
}

/// Keywords of JSON schema that upstream refuses in CRDs; whether they are there.
#[derive(Clone, Debug, Default)]
pub struct Unsupported {
    /// `id`.
    pub id: bool,
    /// `$schema`.
    pub schema: bool,
    /// `$ref`.
    pub reference: bool,
    /// `patternProperties`.
    pub pattern_properties: bool,
    /// `dependencies`.
    pub dependencies: bool,
    /// `additionalItems`.
    pub additional_items: bool,
    /// `definitions`.
    pub definitions: bool,
    /// `items` with a list of schemas.
    pub items_list: Vec<Schema>,
}

/// One of `x-kubernetes-validations`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// The CEL expression.
    pub rule: String,
    /// What is said when it fails.
    pub message: String,
    /// A CEL expression that makes what is said.
    pub message_expression: String,
    /// Machine-readable reason.
    pub reason: Option<String>,
    /// The field that is blamed, relative to the schema.
    pub field_path: String,
    /// Whether the rule is checked on creation too, with `oldSelf` optional.
    pub optional_old_self: Option<bool>,
}

impl Schema {
    /// Whether fields without a schema are kept here.
    pub fn preserves_unknown(&self) -> bool {
        self.preserve_unknown_fields == Some(true)
    }

    /// The schema of the values of other fields.
    pub fn additional(&self) -> Option<&Schema> {
        match &self.additional_properties {
            Some(SchemaOrBool::Schema(schema)) => Some(schema),
            _ => None,
        }
    }

    /// The schema of a field, by its own name or as one of the others.
    pub fn field(&self, name: &str) -> Option<&Schema> {
        self.properties.get(name).or_else(|| self.additional())
    }

    /// Calls `f` on this schema and on all below it that describe structure (not the nested validations).
    pub fn visit_mut(&mut self, f: &mut impl FnMut(&mut Schema)) {
        f(self);
        if let Some(items) = &mut self.items {
            items.visit_mut(f);
        }
        self.properties.values_mut().for_each(|schema| schema.visit_mut(f));
        if let Some(SchemaOrBool::Schema(schema)) = &mut self.additional_properties {
            schema.visit_mut(f);
        }
    }

    /// Whether this schema or one below it, nested validations included, satisfies `f`.
    pub fn any(&self, f: &impl Fn(&Schema) -> bool) -> bool {
        f(self) || self.children().any(|schema| schema.any(f))
    }

    /// Every schema right below this one, in every keyword, in the order in which upstream looks at them.
    pub fn children(&self) -> impl Iterator<Item = &Schema> {
        let lists = [&self.unsupported.items_list, &self.all_of, &self.any_of, &self.one_of];
        (self.items.as_deref().into_iter())
            .chain(lists.into_iter().flatten())
            .chain(self.not.as_deref())
            .chain(self.properties.values())
            .chain(self.additional())
    }
}
