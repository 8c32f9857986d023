//! Defaulting on JSON values: set what is absent, walk into what is there.

use serde_json::{Map, Value};

/// A JSON object.
pub type Object = Map<String, Value>;

/// Whether Go would take the value for unset: absent, null, an empty string, zero.
fn is_unset(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::String(s)) => s.is_empty(),
        Some(Value::Number(n)) => n.as_f64() == Some(0.0),
        Some(_) => false,
    }
}

/// Sets `key` if it is absent, null, an empty string or zero.
pub fn set_default(map: &mut Object, key: &str, value: impl Into<Value>) {
    if is_unset(map.get(key)) {
        map.insert(key.to_owned(), value.into());
    }
}

/// Sets `key` if it is absent or null: for fields that are pointers in Go, where zero is a value.
pub fn set_absent(map: &mut Object, key: &str, value: impl Into<Value>) {
    if matches!(map.get(key), None | Some(Value::Null)) {
        map.insert(key.to_owned(), value.into());
    }
}

/// The object under `key`, if there is one.
pub fn sub<'a>(map: &'a mut Object, key: &str) -> Option<&'a mut Object> {
    map.get_mut(key)?.as_object_mut()
}

/// The object under `key`, made if it is absent.
pub fn ensure<'a>(map: &'a mut Object, key: &str) -> &'a mut Object {
    let slot = map.entry(key.to_owned()).or_insert(Value::Null);
    if !slot.is_object() {
        *slot = Value::Object(Object::new());
    }
    slot.as_object_mut().expect("it has just been made an object")
}

/// Calls `f` on every object in the list under `key`.
pub fn each(map: &mut Object, key: &str, mut f: impl FnMut(&mut Object)) {
    if let Some(Value::Array(items)) = map.get_mut(key) {
        items.iter_mut().filter_map(Value::as_object_mut).for_each(&mut f);
    }
}

/// The text under a path, empty when absent.
pub fn text<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    at(value, path).and_then(Value::as_str).unwrap_or_default()
}

/// The number under a path, 0 when absent.
pub fn number(value: &Value, path: &[&str]) -> i64 {
    at(value, path).and_then(Value::as_i64).unwrap_or_default()
}

/// The flag under a path, false when absent.
pub fn flag(value: &Value, path: &[&str]) -> bool {
    at(value, path).and_then(Value::as_bool).unwrap_or_default()
}

/// The list under a path, empty when absent.
pub fn list<'a>(value: &'a Value, path: &[&str]) -> &'a [Value] {
    at(value, path).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The value under a path.
pub fn at<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(value, |v, key| v.get(key))
}

/// Copies a top-level field of `old` over `new`, removing it when `old` has none.
pub fn keep(new: &mut Value, old: &Value, field: &str) {
    let Some(map) = new.as_object_mut() else { return };
    match old.get(field) {
        Some(value) => map.insert(field.to_owned(), value.clone()),
        None => map.remove(field),
    };
}

/// Copies the field at `path` of `old` over `new`, removing it when `old` has none.
pub fn keep_at(new: &mut Value, old: &Value, path: &[&str]) {
    let Some((last, parents)) = path.split_last() else { return };
    let old_value = at(old, path).cloned();
    let Some(mut map) = new.as_object_mut() else { return };
    for key in parents {
        if old_value.is_none() && !map.contains_key(*key) {
            return;
        }
        map = ensure(map, key);
    }
    match old_value {
        Some(value) => map.insert((*last).to_owned(), value),
        None => map.remove(*last),
    };
}

/// The object itself; a body that is not an object does not get as far as defaulting.
pub fn object(value: &mut Value) -> &mut Object {
    if !value.is_object() {
        *value = Value::Object(Object::new());
    }
    value.as_object_mut().expect("it has just been made an object")
}
