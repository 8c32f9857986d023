//! The data model of types: what must be known of a kind to check, patch and merge its objects.
//!
//! `knarr-api` fills a [`Schema`] from the facts about the built-in kinds; CRDs fill one from their structural
//! schemas. The markers are those of KEP-555 (`listType`, `listMapKey`, `mapType`, `structType`) and of
//! strategic merge patch (`patchStrategy`, `patchMergeKey`).

mod check;
#[cfg(test)]
pub(crate) mod testing;

pub use check::{CheckReport, Mode, check};

use serde_json::Value;
use std::collections::HashMap;

/// All structs that some kinds are made of.
#[derive(Clone, Debug, Default)]
pub struct Schema {
    /// The structs; a [`StructId`] is an index into this list.
    pub structs: Vec<StructType>,
    /// Where the struct of a full name stands.
    pub by_name: HashMap<String, StructId>,
}

/// A struct of a [`Schema`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StructId(pub u32);

/// The type of a value.
#[derive(Clone, Debug, PartialEq)]
pub enum Type {
    /// Text.
    String,
    /// A boolean.
    Bool,
    /// A signed number of 32 bits.
    Int32,
    /// A signed number of 64 bits.
    Int64,
    /// An unsigned number of 32 bits.
    Uint32,
    /// An unsigned number of 64 bits.
    Uint64,
    /// A floating-point number.
    Double,
    /// Bytes, as base64 text in JSON.
    Bytes,
    /// A `resource.Quantity`.
    Quantity,
    /// An `intstr.IntOrString`.
    IntOrString,
    /// A `metav1.Time` (seconds).
    Time,
    /// A `metav1.MicroTime`.
    MicroTime,
    /// A `metav1.Duration`, such as `1h0m0s`.
    Duration,
    /// Any JSON value: RawExtension, `apiextensions` JSON, or a CRD's `x-preserve-unknown-fields`. Maps in it
    /// merge field by field, lists as a whole.
    Any,
    /// A `metav1.FieldsV1`: any object, never looked into.
    FieldsV1,
    /// A struct.
    Struct(StructId),
    /// A list.
    List(Box<ListType>),
    /// A map from text to values of one type.
    Map(Box<Type>),
}

/// A list and how its elements are told apart.
#[derive(Clone, Debug, PartialEq)]
pub struct ListType {
    /// The type of the elements.
    pub elem: Type,
    /// How apply merges it.
    pub kind: ListKind,
    /// How a strategic merge patch merges it.
    pub patch: PatchStrategy,
}

/// How server-side apply merges a list (`x-kubernetes-list-type`).
#[derive(Clone, Debug, Default, PartialEq)]
pub enum ListKind {
    /// As a whole; what lists are without a marker.
    #[default]
    Atomic,
    /// Value by value.
    Set,
    /// Element by element, told apart by these fields.
    Map {
        /// The fields that make the key.
        keys: Vec<String>,
    },
}

/// How a strategic merge patch merges a list.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PatchStrategy {
    /// Elements are merged (without it the list is replaced).
    pub merge: bool,
    /// Fields of an element that its patch does not name in `$retainKeys` go.
    pub retain_keys: bool,
    /// The field that tells elements apart; none for lists of scalars.
    pub merge_key: Option<String>,
}

impl ListType {
    /// A list that is replaced as a whole.
    pub fn atomic(elem: Type) -> Self {
        Self { elem, kind: ListKind::Atomic, patch: PatchStrategy::default() }
    }

    /// A set of scalars that a strategic merge patch merges, as finalizers are.
    pub fn set(elem: Type) -> Self {
        let patch = PatchStrategy { merge: true, ..PatchStrategy::default() };
        Self { elem, kind: ListKind::Set, patch }
    }

    /// A list of structs told apart by `keys`, of which a strategic merge patch takes the first.
    pub fn map(elem: Type, keys: &[&str]) -> Self {
        let patch = PatchStrategy {
            merge: true,
            retain_keys: false,
            merge_key: keys.first().map(|key| (*key).to_owned()),
        };
        Self { elem, kind: ListKind::Map { keys: keys.iter().map(|key| (*key).to_owned()).collect() }, patch }
    }
}

/// When Go's encoder leaves a field out. It decides what an object looks like once stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Presence {
    /// No `omitempty`, or a struct that is no pointer: written always. Missing structs are filled in; other
    /// missing values stay missing here, but a given zero stays.
    Always,
    /// A plain value with `omitempty`: zero (empty text, 0, false) is not written.
    OmitZero,
    /// A pointer with `omitempty`: written when given, even if zero. Empty lists and maps go all the same.
    #[default]
    OmitMissing,
}

/// A field of a struct, by its JSON name.
#[derive(Clone, Debug)]
pub struct Field {
    /// The name in JSON.
    pub name: String,
    /// Its type.
    pub ty: Type,
    /// The number in protobuf.
    pub number: u32,
    /// Whether OpenAPI calls it required.
    pub required: bool,
    /// Whether its map or struct is merged as a whole (`mapType` or `structType` atomic on the field).
    pub atomic: bool,
    /// Protobuf nests it where JSON has its fields side by side; such fields are flattened here and this names
    /// the message in between.
    pub inline: Option<InlinePart>,
    /// The default marked on the field; keys of list elements fall back to it.
    pub default: Option<Value>,
    /// `patchStrategy: retainKeys` on a struct.
    pub retain_keys: bool,
    /// `patchStrategy: replace` on a struct.
    pub replace: bool,
    /// When the field is left out of JSON.
    pub presence: Presence,
}

/// The message that protobuf has in place of a flattened field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InlinePart {
    /// The number of the message in the outer one.
    pub number: u32,
    /// The message.
    pub of: StructId,
}

impl Field {
    /// A field without any marker.
    pub fn new(name: impl Into<String>, ty: Type, number: u32) -> Self {
        Self {
            name: name.into(),
            ty,
            number,
            required: false,
            atomic: false,
            inline: None,
            default: None,
            retain_keys: false,
            replace: false,
            presence: Presence::default(),
        }
    }
}

/// A struct: fields by name.
#[derive(Clone, Debug, Default)]
pub struct StructType {
    /// The full name, such as `io.k8s.api.core.v1.PodSpec`.
    pub name: String,
    /// The fields, inlined ones flattened. Change them through [`StructType::set_fields`].
    pub fields: Vec<Field>,
    /// Whether apply merges it as a whole wherever it stands (`structType: atomic` on the type).
    pub atomic: bool,
    /// The type of fields that are not listed (CRDs); without it they are unknown.
    pub others: Option<Type>,
    /// Positions in `fields`, sorted by name; lookups fall back to a scan while it is not built.
    index: Vec<u32>,
    /// Positions of fields that hold a struct which Go always writes.
    always: Vec<u32>,
}

impl StructType {
    /// A struct of these fields.
    pub fn new(name: impl Into<String>, fields: Vec<Field>) -> Self {
        let mut new = Self { name: name.into(), ..Self::default() };
        new.set_fields(fields);
        new
    }

    /// Sets the fields.
    pub fn set_fields(&mut self, fields: Vec<Field>) {
        self.index = (0..fields.len() as u32).collect();
        self.index.sort_by(|a, b| fields[*a as usize].name.cmp(&fields[*b as usize].name));
        let is_always = |at: &u32| {
            matches!(&fields[*at as usize], Field { presence: Presence::Always, ty: Type::Struct(_), .. })
        };
        self.always = (0..fields.len() as u32).filter(is_always).collect();
        self.fields = fields;
    }

    /// The fields that hold a struct which Go always writes, even empty.
    pub fn always_structs(&self) -> impl Iterator<Item = &Field> {
        self.always.iter().filter_map(|at| self.fields.get(*at as usize))
    }

    /// The field of a JSON name.
    pub fn field(&self, json_name: &str) -> Option<&Field> {
        // Most structs have a handful of fields, where a scan is the fastest.
        if self.fields.len() <= 8 || self.index.len() != self.fields.len() {
            return self.fields.iter().find(|field| field.name == json_name);
        }
        let at =
            self.index.binary_search_by(|at| self.fields[*at as usize].name.as_str().cmp(json_name)).ok()?;
        Some(&self.fields[self.index[at] as usize])
    }

    /// The name without its package: `PodSpec`.
    pub fn short_name(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or_default()
    }
}

impl Schema {
    /// Adds a struct, or replaces the one of that name, keeping its place.
    pub fn insert(&mut self, ty: StructType) -> StructId {
        if let Some(id) = self.by_name.get(&ty.name) {
            self.structs[id.0 as usize] = ty;
            return *id;
        }
        let id = StructId(self.structs.len() as u32);
        self.by_name.insert(ty.name.clone(), id);
        self.structs.push(ty);
        id
    }

    /// The place of a name that is not known yet is kept for later, so that structs can mention each other.
    pub fn declare(&mut self, name: &str) -> StructId {
        match self.by_name.get(name) {
            Some(id) => *id,
            None => self.insert(StructType { name: name.to_owned(), ..StructType::default() }),
        }
    }

    /// The struct at a place.
    pub fn get(&self, id: StructId) -> &StructType {
        &self.structs[id.0 as usize]
    }

    /// The struct of a full name.
    pub fn named(&self, name: &str) -> Option<StructId> {
        self.by_name.get(name).copied()
    }

    /// The type of a full struct name.
    pub fn type_named(&self, name: &str) -> Option<Type> {
        self.named(name).map(Type::Struct)
    }
}
