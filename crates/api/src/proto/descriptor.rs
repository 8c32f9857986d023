//! The messages as the codec needs them: fields in the order of their numbers, types resolved to indices.

use crate::facts::decl::{self, Shape};
use std::collections::HashMap;
use std::sync::LazyLock;

/// Index of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MessageId(u32);

/// A type on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wire {
    String,
    Bool,
    Int32,
    Int64,
    Double,
    Bytes,
    Quantity,
    IntOrString,
    Time,
    MicroTime,
    Duration,
    RawExtension,
    /// A message with JSON text in field 1: FieldsV1, and JSON in CRD schemas.
    JsonBytes,
    /// A message that wraps a list of strings (ExtraValue, Verbs).
    Strings,
    SchemaOrArray(MessageId),
    SchemaOrBool(MessageId),
    SchemaOrStrings(MessageId),
    Message(MessageId),
}

#[derive(Debug)]
pub(super) struct Field {
    pub number: u32,
    pub name: &'static str,
    pub wire: Wire,
    pub shape: Shape,
    /// JSON has this message's fields in its parent.
    pub inline: bool,
    /// A zero value differs from an absent one.
    pub pointer: bool,
    /// Go writes it even when it is empty.
    pub always: bool,
}

#[derive(Debug)]
pub(super) struct Message {
    pub fields: Vec<Field>,
}

impl Message {
    /// The field with this number; messages list their fields by ascending number.
    pub(super) fn field(&self, number: u32) -> Option<&Field> {
        let index = self.fields.binary_search_by_key(&number, |f| f.number).ok()?;
        self.fields.get(index)
    }
}

pub(super) struct Descriptors {
    messages: Vec<Message>,
    /// By kind, then `apiVersion`.
    roots: HashMap<&'static str, Vec<(String, MessageId)>>,
}

static DESCRIPTORS: LazyLock<Descriptors> = LazyLock::new(Descriptors::build);

impl Descriptors {
    pub(super) fn get() -> &'static Self {
        &DESCRIPTORS
    }

    pub(super) fn message(&self, id: MessageId) -> &Message {
        &self.messages[id.0 as usize]
    }

    /// The message of a kind. The options and events of meta/v1 are part of every group and version.
    pub(super) fn root(&self, api_version: &str, kind: &str) -> Option<MessageId> {
        let versions = self.roots.get(kind)?;
        let find = |wanted: &str| versions.iter().find(|(version, _)| version == wanted).map(|(_, id)| *id);
        find(api_version).or_else(|| find("meta.k8s.io/v1"))
    }

    fn build() -> Self {
        let declared = decl::messages();
        let id = |index: usize| MessageId(u32::try_from(index).expect("there are less than 2^32 messages"));
        let mut by_name = HashMap::new();
        let mut roots: HashMap<_, Vec<_>> = HashMap::new();
        for (index, message) in declared.iter().enumerate() {
            let package = message.package;
            by_name.insert((package.alias, message.name), id(index));
            let group = if package.group.is_empty() { String::new() } else { format!("{}/", package.group) };
            let api_version = format!("{group}{}", package.version);
            roots.entry(message.name).or_default().push((api_version, id(index)));
        }
        let resolve = |home: &'static str, code: &'static str| {
            let name = code.rsplit_once('.').unwrap_or((home, code));
            *by_name.get(&name).expect("the facts define every message they refer to")
        };
        let schema = || resolve("apiextensions.v1", "JSONSchemaProps");
        let messages = declared.iter().map(|message| {
            let mut fields: Vec<Field> = message
                .fields
                .iter()
                .map(|field| Field {
                    number: field.number,
                    name: field.name,
                    wire: match field.ty {
                        "s" => Wire::String,
                        "b" => Wire::Bool,
                        "i" => Wire::Int32,
                        "l" => Wire::Int64,
                        "d" => Wire::Double,
                        "y" => Wire::Bytes,
                        "Q" => Wire::Quantity,
                        "I" => Wire::IntOrString,
                        "T" => Wire::Time,
                        "M" => Wire::MicroTime,
                        "D" => Wire::Duration,
                        "R" => Wire::RawExtension,
                        "F" | "J" => Wire::JsonBytes,
                        "V" => Wire::Strings,
                        "A" => Wire::SchemaOrArray(schema()),
                        "B" => Wire::SchemaOrBool(schema()),
                        "S" => Wire::SchemaOrStrings(schema()),
                        name => Wire::Message(resolve(message.package.alias, name)),
                    },
                    shape: field.shape,
                    inline: field.inline,
                    pointer: field.pointer,
                    always: field.always,
                })
                .collect();
            fields.sort_by_key(|f| f.number);
            Message { fields }
        });
        Self { messages: messages.collect(), roots }
    }
}
