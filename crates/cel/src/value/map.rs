//! Maps: those computed, with keys of several types, and objects of JSON behind the same questions.

use super::{MapRepr, MapValue, Text, Value, from_json, from_typed};
use crate::decl::{DeclType, Shape, escape};
use crate::error::EvalError;
use serde_json::Value as Json;
use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// A computed map.
pub(crate) type Map<'a> = BTreeMap<Key<'a>, Value<'a>>;

/// A key. Keys of different types differ, though a lookup finds a number of another type.
#[derive(Clone, Debug)]
pub(crate) enum Key<'a> {
    Bool(bool),
    Int(i64),
    Uint(u64),
    String(Text<'a>),
}

impl<'a> Key<'a> {
    /// The value as a key; none if it cannot be one.
    pub fn of(value: &Value<'a>) -> Option<Self> {
        match value {
            Value::Bool(value) => Some(Self::Bool(*value)),
            Value::Int(value) => Some(Self::Int(*value)),
            Value::Uint(value) => Some(Self::Uint(*value)),
            Value::String(text) => Some(Self::String(text.clone())),
            _ => None,
        }
    }

    pub fn to_value(&self) -> Value<'a> {
        match self {
            Self::Bool(value) => Value::Bool(*value),
            Self::Int(value) => Value::Int(*value),
            Self::Uint(value) => Value::Uint(*value),
            Self::String(text) => Value::String(text.clone()),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Bool(_) => 0,
            Self::Int(_) => 1,
            Self::Uint(_) => 2,
            Self::String(_) => 3,
        }
    }
}

impl Ord for Key<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => a.cmp(b),
            (Self::Int(a), Self::Int(b)) => a.cmp(b),
            (Self::Uint(a), Self::Uint(b)) => a.cmp(b),
            (Self::String(a), Self::String(b)) => a.as_str().cmp(b.as_str()),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for Key<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Key<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Key<'_> {}

/// Finds a value in a computed map; whole numbers are found whatever their type.
fn find_shared<'m, 'a>(map: &'m Map<'a>, key: &Value<'a>) -> Option<&'m Value<'a>> {
    let int = |value: i64| map.get(&Key::Int(value));
    let uint = |value: u64| map.get(&Key::Uint(value));
    match key {
        Value::Int(value) => int(*value).or_else(|| uint(u64::try_from(*value).ok()?)),
        Value::Uint(value) => uint(*value).or_else(|| int(i64::try_from(*value).ok()?)),
        Value::Double(value) => crate::lib_fns::number::whole_int(*value)
            .and_then(int)
            .or_else(|| crate::lib_fns::number::whole_uint(*value).and_then(uint)),
        other => map.get(&Key::of(other)?),
    }
}

impl<'a> MapValue<'a> {
    pub(crate) fn len(&self) -> usize {
        match &self.0 {
            MapRepr::Json(map, _) => map.len(),
            MapRepr::Shared(map) | MapRepr::Defaulted(map) => map.len(),
        }
    }

    /// Whether a schema says what is in it.
    pub(crate) fn is_typed(&self) -> bool {
        matches!(self.0, MapRepr::Json(_, Some(_)))
    }

    /// The value under `key`, if there is one. Objects with a schema only have what it names, and nulls in them
    /// are not there.
    pub(crate) fn find(&self, key: &Value<'a>) -> Option<Result<Value<'a>, EvalError>> {
        match (&self.0, key) {
            (MapRepr::Shared(map), key) => find_shared(map, key).cloned().map(Ok),
            (MapRepr::Defaulted(map), key) => Some(Ok(or_empty(find_shared(map, key)))),
            (MapRepr::Json(map, decl), Value::String(text)) => find_json(map, *decl, text.as_str(), None),
            (MapRepr::Json(_, Some(_)), _) => Some(Err(EvalError::no_such_overload())),
            (MapRepr::Json(_, None), _) => None,
        }
    }

    /// Whether there is something under `key`: `key in map`.
    pub(crate) fn contains(&self, key: &Value<'a>) -> Result<bool, EvalError> {
        match &self.0 {
            MapRepr::Defaulted(map) => Ok(find_shared(map, key).is_some()),
            _ => self.find(key).transpose().map(|found| found.is_some()),
        }
    }

    /// What [`Self::find`] finds, for a field known when the program was made: its identifier and the name that stands for.
    pub(crate) fn find_field(
        &self,
        identifier: &str,
        name: Option<&str>,
    ) -> Option<Result<Value<'a>, EvalError>> {
        match &self.0 {
            MapRepr::Json(map, decl) => find_json(map, *decl, identifier, Some(name)),
            MapRepr::Shared(map) => {
                // A key borrowed for the lookup only.
                let key: Key<'_> = Key::String(Text::Borrowed(identifier));
                find_borrowed(map, &key).cloned().map(Ok)
            }
            MapRepr::Defaulted(map) => {
                let key: Key<'_> = Key::String(Text::Borrowed(identifier));
                Some(Ok(or_empty(find_borrowed(map, &key))))
            }
        }
    }

    /// The keys, as values. Those of an object with a schema are its fields' identifiers.
    pub(crate) fn keys(&self) -> Vec<Value<'a>> {
        match &self.0 {
            MapRepr::Shared(map) | MapRepr::Defaulted(map) => map.keys().map(Key::to_value).collect(),
            MapRepr::Json(map, None) => map.keys().map(|key| Value::String(Text::Borrowed(key))).collect(),
            MapRepr::Json(map, Some(decl)) => match &decl.shape {
                Shape::Map { .. } => map.keys().map(|key| Value::String(Text::Borrowed(key))).collect(),
                Shape::Object(fields) => map
                    .keys()
                    .filter(|key| fields.named(key).is_some())
                    .map(|key| match escape::escape(key) {
                        Some(Cow::Owned(identifier)) => Value::text(identifier),
                        _ => Value::String(Text::Borrowed(key)),
                    })
                    .collect(),
                _ => Vec::new(),
            },
        }
    }

    /// The entries of the map as JSON has them, converted.
    pub(crate) fn entries(&self) -> Vec<(Value<'a>, Result<Value<'a>, EvalError>)> {
        match &self.0 {
            MapRepr::Shared(map) | MapRepr::Defaulted(map) => {
                map.iter().map(|(key, value)| (key.to_value(), Ok(value.clone()))).collect()
            }
            MapRepr::Json(..) => {
                let found = |key: Value<'a>| self.find(&key).map(|value| (key, value));
                self.keys().into_iter().filter_map(found).collect()
            }
        }
    }
}

fn or_empty<'a>(found: Option<&Value<'a>>) -> Value<'a> {
    found.cloned().unwrap_or_else(|| Value::map(Map::new()))
}

/// `BTreeMap::get` wants a key of the map's own lifetime; the comparison does not.
fn find_borrowed<'m, 'a>(map: &'m Map<'a>, key: &Key<'_>) -> Option<&'m Value<'a>> {
    // Small maps are the rule: a walk in order is as fast as any search.
    map.iter().find(|(candidate, _)| same(candidate, key)).map(|(_, value)| value)
}

fn same(a: &Key<'_>, b: &Key<'_>) -> bool {
    match (a, b) {
        (Key::String(a), Key::String(b)) => a.as_str() == b.as_str(),
        _ => a.cmp(b) == Ordering::Equal,
    }
}

fn find_json<'a>(
    map: &'a serde_json::Map<String, Json>,
    decl: Option<&'a DeclType>,
    identifier: &str,
    name: Option<Option<&str>>,
) -> Option<Result<Value<'a>, EvalError>> {
    let Some(decl) = decl else { return map.get(identifier).map(|value| Ok(from_json(value))) };
    match &decl.shape {
        Shape::Map { elem, .. } => map.get(identifier).map(|value| from_typed(value, elem)),
        Shape::Object(fields) => {
            let unescaped = match name {
                Some(name) => Cow::Borrowed(name?),
                None => escape::unescape(identifier)?,
            };
            let value = map.get(&*unescaped)?;
            if value.is_null() {
                return None;
            }
            fields.named(&unescaped).map(|field| from_typed(value, field))
        }
        _ => None,
    }
}
