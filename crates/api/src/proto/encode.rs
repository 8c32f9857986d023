//! JSON to protobuf. Fields are written in the order of their numbers and map entries by key, as Go does, so
//! that an object with every field set gives the same bytes.

use super::ProtoError;
use super::descriptor::{Descriptors, Field, MessageId, Wire};
use super::scalar;
use super::wire::{put_bytes, put_double, put_int, put_nested};
use crate::facts::decl::Shape;
use base64::Engine as _;
use serde_json::{Map, Value};

/// Writes the message of `value`, which is an object or null.
pub(super) fn message(d: &Descriptors, id: MessageId, value: &Value) -> Result<Vec<u8>, ProtoError> {
    let mut out = Vec::with_capacity(512);
    put_message(d, id, value, &mut out)?;
    Ok(out)
}

fn put_message(d: &Descriptors, id: MessageId, value: &Value, out: &mut Vec<u8>) -> Result<(), ProtoError> {
    match value {
        Value::Null => Ok(()),
        Value::Object(map) => put_fields(d, id, map, out),
        _ => Err(mismatch("an object")),
    }
}

fn put_fields(
    d: &Descriptors,
    id: MessageId,
    map: &Map<String, Value>,
    out: &mut Vec<u8>,
) -> Result<(), ProtoError> {
    for field in &d.message(id).fields {
        if let (true, Wire::Message(inner)) = (field.inline, field.wire) {
            put_nested(out, field.number, |out| put_fields(d, inner, map, out))?;
            continue;
        }
        match map.get(field.name) {
            None | Some(Value::Null) => {}
            Some(value) => put_field(d, field, value, out).map_err(|e| e.under(field.name))?,
        }
    }
    Ok(())
}

fn put_field(d: &Descriptors, field: &Field, value: &Value, out: &mut Vec<u8>) -> Result<(), ProtoError> {
    match field.shape {
        Shape::One => put_value(d, field.wire, field.number, value, out),
        Shape::List => {
            let items = value.as_array().ok_or_else(|| mismatch("a list"))?;
            for (index, item) in items.iter().enumerate() {
                put_value(d, field.wire, field.number, item, out)
                    .map_err(|e| e.under(&format!("[{index}]")))?;
            }
            Ok(())
        }
        Shape::Map => {
            let entries = value.as_object().ok_or_else(|| mismatch("a map"))?;
            for (key, item) in entries {
                put_nested(out, field.number, |out| {
                    put_bytes(out, 1, key.as_bytes());
                    put_value(d, field.wire, 2, item, out)
                })
                .map_err(|e: ProtoError| e.under(key))?;
            }
            Ok(())
        }
    }
}

fn put_value(
    d: &Descriptors,
    wire: Wire,
    number: u32,
    value: &Value,
    out: &mut Vec<u8>,
) -> Result<(), ProtoError> {
    match wire {
        Wire::String => put_bytes(out, number, text(value)?.as_bytes()),
        Wire::Bool => match value {
            Value::Null => put_int(out, number, 0),
            _ => put_int(out, number, i64::from(value.as_bool().ok_or_else(|| mismatch("a boolean"))?)),
        },
        Wire::Int32 => {
            let int = int(value)?;
            let int = i32::try_from(int).map_err(|_| mismatch("an integer of 32 bits"))?;
            put_int(out, number, i64::from(int));
        }
        Wire::Int64 => put_int(out, number, int(value)?),
        Wire::Double => put_double(out, number, value.as_f64().ok_or_else(|| mismatch("a number"))?),
        Wire::Bytes => {
            let engine = base64::engine::general_purpose::STANDARD;
            let bytes = engine.decode(text(value)?).map_err(|_| mismatch("base64 text"))?;
            put_bytes(out, number, &bytes);
        }
        Wire::Quantity => {
            let owned;
            let text = match value {
                Value::Number(number) => {
                    owned = number.to_string();
                    &owned
                }
                _ => text(value)?,
            };
            put_wrapped(out, number, text.as_bytes());
        }
        Wire::IntOrString => put_nested(out, number, |out| put_int_or_string(value, out))?,
        Wire::Time | Wire::MicroTime => put_nested(out, number, |out| {
            if value.is_null() {
                return Ok(());
            }
            let (seconds, nanos) =
                scalar::parse_time(text(value)?).ok_or_else(|| mismatch("an RFC 3339 time"))?;
            // Time has seconds, MicroTime microseconds; finer parts would not survive upstream either.
            let nanos = if wire == Wire::Time { 0 } else { nanos / 1000 * 1000 };
            put_int(out, 1, seconds);
            put_int(out, 2, i64::from(nanos));
            Ok(())
        })?,
        Wire::Duration => {
            let nanos = knarr_meta::duration::parse(text(value)?).map_err(|_| mismatch("a duration"))?;
            let mut inner = Vec::new();
            put_int(&mut inner, 1, nanos);
            put_bytes(out, number, &inner);
        }
        Wire::RawExtension | Wire::JsonBytes => {
            let json = serde_json::to_vec(value).expect("a JSON value always serializes");
            put_wrapped(out, number, &json);
        }
        Wire::Strings => put_nested(out, number, |out| put_strings(value, 1, out))?,
        Wire::SchemaOrArray(id) => put_nested(out, number, |out| match value {
            Value::Array(items) => {
                items.iter().try_for_each(|item| put_nested(out, 2, |out| put_message(d, id, item, out)))
            }
            _ => put_nested(out, 1, |out| put_message(d, id, value, out)),
        })?,
        Wire::SchemaOrBool(id) => put_nested(out, number, |out| match value {
            Value::Bool(allows) => {
                put_int(out, 1, i64::from(*allows));
                Ok(())
            }
            _ => {
                put_int(out, 1, 1);
                put_nested(out, 2, |out| put_message(d, id, value, out))
            }
        })?,
        Wire::SchemaOrStrings(id) => put_nested(out, number, |out| match value {
            Value::Array(_) => put_strings(value, 2, out),
            _ => put_nested(out, 1, |out| put_message(d, id, value, out)),
        })?,
        Wire::Message(id) => put_nested(out, number, |out| put_message(d, id, value, out))?,
    }
    Ok(())
}

fn put_int_or_string(value: &Value, out: &mut Vec<u8>) -> Result<(), ProtoError> {
    let (kind, int, text) = match value {
        Value::String(text) => (1, 0, text.as_str()),
        _ => (0, int(value)?, ""),
    };
    let int = i32::try_from(int).map_err(|_| mismatch("an integer of 32 bits"))?;
    put_int(out, 1, kind);
    put_int(out, 2, i64::from(int));
    put_bytes(out, 3, text.as_bytes());
    Ok(())
}

fn put_strings(value: &Value, number: u32, out: &mut Vec<u8>) -> Result<(), ProtoError> {
    if value.is_null() {
        return Ok(());
    }
    for item in value.as_array().ok_or_else(|| mismatch("a list of strings"))? {
        put_bytes(out, number, text(item)?.as_bytes());
    }
    Ok(())
}

fn text(value: &Value) -> Result<&str, ProtoError> {
    match value {
        Value::Null => Ok(""),
        _ => value.as_str().ok_or_else(|| mismatch("a string")),
    }
}

fn int(value: &Value) -> Result<i64, ProtoError> {
    match value {
        Value::Null => Ok(0),
        _ => value.as_i64().ok_or_else(|| mismatch("an integer")),
    }
}

fn mismatch(expected: &'static str) -> ProtoError {
    ProtoError::Mismatch { path: String::new(), expected }
}

/// Writes a message that only wraps bytes.
fn put_wrapped(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    let mut inner = Vec::with_capacity(bytes.len() + 6);
    put_bytes(&mut inner, 1, bytes);
    put_bytes(out, number, &inner);
}

impl ProtoError {
    /// The same error one field further up.
    fn under(self, name: &str) -> Self {
        match self {
            Self::Mismatch { path, expected } => {
                let dot = if path.is_empty() || path.starts_with('[') { "" } else { "." };
                Self::Mismatch { path: format!("{name}{dot}{path}"), expected }
            }
            other => other,
        }
    }
}
