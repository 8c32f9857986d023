//! What a value was before an update, as far as that can be told: fields by name, elements of list maps by key
//! (upstream's `CorrelatedObject`). Nothing else is correlated, neither elements of other lists nor what the schema
//! does not specify.

use crate::schema::Schema;
use serde_json::Value;

/// An old value and the schema that says how to find its parts.
#[derive(Clone, Copy, Debug)]
pub struct Correlation<'a> {
    old: &'a Value,
    schema: &'a Schema,
}

impl<'a> Correlation<'a> {
    /// The correlation of a whole object.
    pub fn new(old: &'a Value, schema: &'a Schema) -> Self {
        Self { old, schema }
    }

    /// The old value.
    pub fn old(&self) -> &'a Value {
        self.old
    }

    /// The correlation of a field (which the new value has).
    pub fn key(&self, name: &str) -> Option<Correlation<'a>> {
        let old = self.old.as_object()?.get(name)?;
        Some(Correlation { old, schema: self.schema.field(name)? })
    }

    /// The correlation of an element of the new list.
    pub fn index(&self, element: &Value) -> Option<Correlation<'a>> {
        if self.schema.list_type.as_deref() != Some("map") {
            return None;
        }
        let keys = &self.schema.list_map_keys;
        let wanted = list_key(element, keys)?;
        let old = self.old.as_array()?.iter().find(|old| list_key(old, keys).as_ref() == Some(&wanted))?;
        Some(Correlation { old, schema: self.schema.items.as_deref()? })
    }

    /// Whether the value did not change, as far as its parts can be correlated.
    pub fn is_equal(&self, new: &Value) -> bool {
        match (self.old, new) {
            (Value::Array(old), Value::Array(list)) => {
                if old.len() != list.len() {
                    return false;
                }
                if self.schema.list_type.as_deref() != Some("map") || self.schema.items.is_none() {
                    return old == list;
                }
                list.iter().all(|value| self.index(value).is_some_and(|child| child.is_equal(value)))
            }
            (Value::Object(old), Value::Object(map)) => {
                old.len() == map.len()
                    && map
                        .iter()
                        .all(|(name, value)| self.key(name).is_some_and(|child| child.is_equal(value)))
            }
            (old, new) => old == new,
        }
    }
}

/// What tells an element of a list map apart; none where a key is missing or no scalar.
pub(crate) fn list_key<'v>(value: &'v Value, keys: &[String]) -> Option<Vec<&'v Value>> {
    let map = value.as_object().filter(|_| !keys.is_empty())?;
    let scalar = |value: &&Value| value.is_string() || value.is_number() || value.is_boolean();
    keys.iter().map(|key| map.get(key).filter(scalar)).collect()
}
