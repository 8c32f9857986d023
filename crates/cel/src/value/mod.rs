//! Values. JSON is never copied: a value made of it borrows it and is converted when something looks into it.

mod compare;
mod format;
mod json;
mod map;
mod object;

pub(crate) use compare::{compare, contains, equal, same_keys};
pub(crate) use format::literal;
pub(crate) use json::{from_json, from_typed};
pub(crate) use map::{Key, Map};
pub use object::JsonPatchOp;
pub(crate) use object::Object;

use crate::check::types::Type;
use crate::decl::{DeclType, Identity};
use crate::error::EvalError;
use crate::lib_fns::opaque::Opaque;
use serde_json::Value as Json;
use std::sync::Arc;

/// A value that expressions compute with. What it borrows lives for `'a`: the JSON it was made of, or the program
/// that has it as a constant.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Value<'a> {
    /// `null`.
    Null,
    /// `bool`.
    Bool(bool),
    /// `int`.
    Int(i64),
    /// `uint`.
    Uint(u64),
    /// `double`.
    Double(f64),
    /// `string`.
    String(Text<'a>),
    /// `bytes`.
    Bytes(Arc<[u8]>),
    /// A duration in nanoseconds.
    Duration(i64),
    /// A point in time.
    Timestamp(Timestamp),
    /// A type.
    Type(Arc<Type>),
    /// A list.
    List(List<'a>),
    /// A map, or an object of JSON.
    Map(MapValue<'a>),
    /// An optional value.
    Optional(Option<Arc<Value<'a>>>),
    /// An object that an expression made, such as `Object{}`.
    Object(Arc<ObjectValue<'a>>),
    /// Data without a schema, which can only be compared.
    Preserved(&'a Json),
    /// A quantity, URL, address and the like.
    Opaque(Arc<OpaqueValue>),
    /// The variable `variables` of a [`crate::Composition`].
    Variables,
}

/// Text, borrowed or shared.
#[derive(Clone, Debug)]
pub enum Text<'a> {
    /// Part of what the value was made of.
    Borrowed(&'a str),
    /// Computed.
    Shared(Arc<str>),
}

impl Text<'_> {
    /// The piece at these bytes; what is borrowed stays so.
    pub(crate) fn piece(&self, start: usize, end: usize) -> Self {
        match self {
            Self::Borrowed(text) => Self::Borrowed(text.get(start..end).unwrap_or_default()),
            Self::Shared(text) => Self::Shared(text.get(start..end).unwrap_or_default().into()),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Borrowed(text) => text,
            Self::Shared(text) => text,
        }
    }
}

/// A point in time, with the offset it was written with.
#[derive(Clone, Copy, Debug)]
pub struct Timestamp {
    /// Seconds since 1970.
    pub seconds: i64,
    /// Nanoseconds in that second.
    pub nanos: u32,
    /// Seconds east of UTC, for its text form only.
    pub offset: i32,
}

/// A list.
#[derive(Clone, Debug)]
pub struct List<'a>(pub(crate) ListRepr<'a>);

#[derive(Clone, Debug)]
pub(crate) enum ListRepr<'a> {
    Json(&'a Vec<Json>, Option<&'a DeclType>),
    Shared(Arc<Elements<'a>>),
}

/// The elements of a computed list.
#[derive(Clone, Debug, Default)]
pub(crate) struct Elements<'a> {
    pub items: Vec<Value<'a>>,
    /// How it compares, when it was made of a typed list.
    pub identity: Option<&'a Identity>,
}

/// A map.
#[derive(Clone, Debug)]
pub struct MapValue<'a>(pub(crate) MapRepr<'a>);

#[derive(Clone, Debug)]
pub(crate) enum MapRepr<'a> {
    Json(&'a serde_json::Map<String, Json>, Option<&'a DeclType>),
    Shared(Arc<Map<'a>>),
    /// As `Shared`, but an empty map stands under every other key (attributes of devices).
    Defaulted(Arc<Map<'a>>),
}

/// An object that an expression made.
#[derive(Clone, Debug)]
pub struct ObjectValue<'a>(pub(crate) Object<'a>);

/// A value known by its methods only.
#[derive(Clone, Debug)]
pub struct OpaqueValue(pub(crate) Opaque);

impl<'a> Value<'a> {
    /// A value of JSON that says itself what it is, as objects in admission do.
    pub fn json(json: &'a Json) -> Self {
        from_json(json)
    }

    /// A value of JSON that `decl` describes. The JSON is expected to conform; where it does not, looking at it
    /// is an error.
    pub fn typed(json: &'a Json, decl: &'a DeclType) -> Result<Self, EvalError> {
        from_typed(json, decl)
    }

    /// `optional.none()`.
    pub fn none() -> Self {
        Self::Optional(None)
    }

    /// `optional.of(value)`.
    pub fn some(value: Value<'a>) -> Self {
        Self::Optional(Some(Arc::new(value)))
    }

    /// The boolean, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// The text, if it is a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text.as_str()),
            _ => None,
        }
    }

    pub(crate) fn text(text: impl Into<Arc<str>>) -> Self {
        Self::String(Text::Shared(text.into()))
    }

    pub(crate) fn list(items: Vec<Value<'a>>) -> Self {
        Self::List(List(ListRepr::Shared(Arc::new(Elements { items, identity: None }))))
    }

    pub(crate) fn map(map: Map<'a>) -> Self {
        Self::Map(MapValue(MapRepr::Shared(Arc::new(map))))
    }

    pub(crate) fn opaque(value: Opaque) -> Self {
        Self::Opaque(Arc::new(OpaqueValue(value)))
    }

    /// The name of the value's type.
    pub fn type_name(&self) -> &str {
        match self {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Double(_) => "double",
            Self::String(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::Duration(_) => "google.protobuf.Duration",
            Self::Timestamp(_) => "google.protobuf.Timestamp",
            Self::Type(_) => "type",
            Self::List(_) => "list",
            Self::Map(_) => "map",
            Self::Optional(_) => "optional_type",
            Self::Object(object) => object.0.type_name(),
            Self::Preserved(_) => "unknown",
            Self::Opaque(value) => value.0.type_name(),
            Self::Variables => "kubernetes.variables",
        }
    }

    /// The type as `type()` gives it.
    pub(crate) fn type_value(&self) -> Type {
        match self {
            Self::Null => Type::Null,
            Self::Bool(_) => Type::Bool,
            Self::Int(_) => Type::Int,
            Self::Uint(_) => Type::Uint,
            Self::Double(_) => Type::Double,
            Self::String(_) => Type::String,
            Self::Bytes(_) => Type::Bytes,
            Self::Duration(_) => Type::Duration,
            Self::Timestamp(_) => Type::Timestamp,
            Self::Type(_) => Type::Type(None),
            Self::List(_) => Type::list(Type::Dyn),
            Self::Map(_) => Type::map(Type::Dyn, Type::Dyn),
            Self::Optional(_) => Type::Opaque(crate::check::types::OPTIONAL.into(), Arc::from([])),
            Self::Object(_) => Type::Type(None),
            other => Type::object(other.type_name()),
        }
    }

    /// What Go calls the value's type, for problems.
    pub(crate) fn go_type(&self) -> &'static str {
        match self {
            Self::Null => "types.Null",
            Self::Bool(_) => "types.Bool",
            Self::Int(_) => "types.Int",
            Self::Uint(_) => "types.Uint",
            Self::Double(_) => "types.Double",
            Self::String(_) => "types.String",
            Self::Bytes(_) => "types.Bytes",
            Self::Duration(_) => "types.Duration",
            Self::Timestamp(_) => "types.Timestamp",
            Self::Type(_) => "*types.Type",
            Self::List(_) => "*types.baseList",
            Self::Map(_) => "*types.baseMap",
            Self::Optional(_) => "*types.Optional",
            Self::Object(_) => "*dynamic.ObjectVal",
            Self::Preserved(_) => "*common.unknownPreserved",
            Self::Opaque(_) => "cel.Opaque",
            Self::Variables => "*lazy.MapValue",
        }
    }

    /// The number of characters, bytes, elements or entries, of what has one.
    pub(crate) fn size(&self) -> Option<usize> {
        match self {
            Self::String(text) => Some(chars(text.as_str())),
            Self::Bytes(bytes) => Some(bytes.len()),
            Self::List(list) => Some(list.len()),
            Self::Map(map) => Some(map.len()),
            Self::Opaque(value) => value.0.size(),
            _ => None,
        }
    }
}

/// The number of characters of a text.
pub(crate) fn chars(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { text.chars().count() }
}

impl<'a> List<'a> {
    pub(crate) fn len(&self) -> usize {
        match &self.0 {
            ListRepr::Json(items, _) => items.len(),
            ListRepr::Shared(elements) => elements.items.len(),
        }
    }

    /// The element at `index`; none beyond the end.
    pub(crate) fn get(&self, index: usize) -> Option<Result<Value<'a>, EvalError>> {
        match &self.0 {
            ListRepr::Json(items, decl) => items.get(index).map(|item| element(item, *decl)),
            ListRepr::Shared(elements) => elements.items.get(index).cloned().map(Ok),
        }
    }

    /// The elements, converted one by one.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Result<Value<'a>, EvalError>> + '_ {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    /// The elements, or the error of the first that is not as declared.
    pub(crate) fn to_vec(&self) -> Result<Vec<Value<'a>>, EvalError> {
        match &self.0 {
            ListRepr::Shared(elements) => Ok(elements.items.clone()),
            ListRepr::Json(..) => self.iter().collect(),
        }
    }

    pub(crate) fn identity(&self) -> Option<&'a Identity> {
        match &self.0 {
            ListRepr::Json(_, decl) => decl.and_then(|decl| match &decl.shape {
                crate::decl::Shape::List { identity, .. } => Some(identity),
                _ => None,
            }),
            ListRepr::Shared(elements) => elements.identity,
        }
    }
}

fn element<'a>(item: &'a Json, list: Option<&'a DeclType>) -> Result<Value<'a>, EvalError> {
    match list.and_then(|list| list.elem()) {
        Some(elem) => from_typed(item, elem),
        None => Ok(from_json(item)),
    }
}
