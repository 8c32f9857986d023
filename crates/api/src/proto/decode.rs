//! Protobuf to JSON. Gives the JSON that Go writes for the decoded struct: zero values of optional fields that
//! are no pointers are absent, fields that Go always writes are there.

use super::descriptor::{Descriptors, Field, MessageId, Wire};
use super::wire::{Payload, Reader};
use super::{MAGIC, ProtoError, scalar};
use crate::facts::decl::Shape;
use base64::Engine as _;
use serde_json::{Map, Number, Value};

/// No real object nests its messages this deep; what does is an attack on the stack.
const MAX_DEPTH: usize = 120;

/// Reads an object in its `k8s\0` envelope; `default` is its type where the envelope has none.
pub(super) fn envelope(
    d: &Descriptors,
    bytes: &[u8],
    default: (&str, &str),
    depth: usize,
) -> Result<Value, ProtoError> {
    let unknown = bytes.strip_prefix(&MAGIC).ok_or(ProtoError::NoMagic)?;
    let (mut api_version, mut kind, mut raw, mut content_type) = ("", "", &[][..], "");
    let mut fields = Reader::new(unknown);
    while let Some((number, payload)) = fields.next()? {
        match number {
            1 => {
                let mut type_meta = Reader::new(payload.bytes()?);
                while let Some((number, payload)) = type_meta.next()? {
                    match number {
                        1 => api_version = payload.text()?,
                        2 => kind = payload.text()?,
                        _ => {}
                    }
                }
            }
            2 => raw = payload.bytes()?,
            4 => content_type = payload.text()?,
            _ => {}
        }
    }
    if content_type == "application/json" {
        return serde_json::from_slice(raw).map_err(|_| ProtoError::Malformed("JSON in the envelope"));
    }
    if kind.is_empty() {
        (api_version, kind) = default;
    }
    if kind.is_empty() {
        return Err(ProtoError::NoKind);
    }
    let id = d.root(api_version, kind).ok_or_else(|| ProtoError::UnknownKind {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
    })?;
    let mut object = Map::new();
    object.insert("apiVersion".to_owned(), api_version.into());
    object.insert("kind".to_owned(), kind.into());
    fill(d, id, raw, &mut object, depth)?;
    Ok(Value::Object(object))
}

/// Reads a message without an envelope.
pub(super) fn message(
    d: &Descriptors,
    id: MessageId,
    bytes: &[u8],
    depth: usize,
) -> Result<Value, ProtoError> {
    let mut object = Map::new();
    fill(d, id, bytes, &mut object, depth)?;
    Ok(Value::Object(object))
}

fn fill(
    d: &Descriptors,
    id: MessageId,
    bytes: &[u8],
    object: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), ProtoError> {
    if depth > MAX_DEPTH {
        return Err(ProtoError::TooDeep);
    }
    let mut fields = Reader::new(bytes);
    while let Some((number, payload)) = fields.next()? {
        let Some(field) = d.message(id).field(number) else { continue };
        match (field.inline, field.wire, field.shape) {
            (true, Wire::Message(inner), _) => fill(d, inner, payload.bytes()?, object, depth + 1)?,
            (_, _, Shape::One) => {
                let value = value(d, field.wire, payload, depth)?;
                if field.pointer || field.always || !is_zero(field.wire, &value) {
                    object.insert(field.name.to_owned(), value);
                }
            }
            (_, _, Shape::List) => {
                let slot = object.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
                let list = slot.as_array_mut().ok_or(ProtoError::Malformed("field"))?;
                push(d, field, payload, list, depth)?;
            }
            (_, _, Shape::Map) => {
                let (key, item) = entry(d, field.wire, payload.bytes()?, depth)?;
                let slot = object.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
                slot.as_object_mut().ok_or(ProtoError::Malformed("field"))?.insert(key, item);
            }
        }
    }
    complete(d, id, object);
    Ok(())
}

/// Adds what Go writes although nothing was sent.
fn complete(d: &Descriptors, id: MessageId, object: &mut Map<String, Value>) {
    for field in &d.message(id).fields {
        if let (true, Wire::Message(inner)) = (field.inline, field.wire) {
            complete(d, inner, object);
        } else if field.always && !object.contains_key(field.name) {
            object.insert(field.name.to_owned(), empty(d, field));
        }
    }
}

fn empty(d: &Descriptors, field: &Field) -> Value {
    match (field.shape, field.wire) {
        (Shape::List | Shape::Map, _) => Value::Null,
        _ if field.pointer => Value::Null,
        (_, Wire::String) => Value::from(""),
        (_, Wire::Bool) => Value::from(false),
        (_, Wire::Int32 | Wire::Int64 | Wire::Double | Wire::IntOrString) => Value::from(0),
        (_, Wire::Quantity) => Value::from("0"),
        (_, Wire::Duration) => Value::from("0s"),
        (_, Wire::Message(id)) => {
            let mut object = Map::new();
            complete(d, id, &mut object);
            Value::Object(object)
        }
        _ => Value::Null,
    }
}

fn is_zero(wire: Wire, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(value) => value.as_f64() == Some(0.0),
        Value::String(value) => value.is_empty() || wire == Wire::Duration && value == "0s",
        Value::Object(value) => value.is_empty() && matches!(wire, Wire::Message(_)),
        Value::Array(value) => value.is_empty(),
    }
}

fn push(
    d: &Descriptors,
    field: &Field,
    payload: Payload<'_>,
    list: &mut Vec<Value>,
    depth: usize,
) -> Result<(), ProtoError> {
    if let (Wire::Int32 | Wire::Int64 | Wire::Bool, Payload::Bytes(packed)) = (field.wire, payload) {
        // Packed numbers: the wire has no tags between them. Reading them as the fields of a message would
        // take each for a tag, so they are unpacked here.
        let mut rest = packed;
        while !rest.is_empty() {
            let end = rest.iter().position(|b| b & 0x80 == 0).ok_or(ProtoError::Malformed("varint"))?;
            let number = rest[..=end].iter().rev().fold(0u64, |sum, b| sum << 7 | u64::from(b & 0x7f));
            list.push(value(d, field.wire, Payload::Varint(number), depth)?);
            rest = &rest[end + 1..];
        }
        return Ok(());
    }
    list.push(value(d, field.wire, payload, depth)?);
    Ok(())
}

fn entry(d: &Descriptors, wire: Wire, bytes: &[u8], depth: usize) -> Result<(String, Value), ProtoError> {
    let (mut key, mut item) = (String::new(), None);
    let mut fields = Reader::new(bytes);
    while let Some((number, payload)) = fields.next()? {
        match number {
            1 => key = payload.text()?.to_owned(),
            2 => item = Some(value(d, wire, payload, depth)?),
            _ => {}
        }
    }
    let item = match item {
        Some(item) => item,
        None if matches!(wire, Wire::Message(_)) => value(d, wire, Payload::Bytes(&[]), depth)?,
        None if wire == Wire::Quantity => Value::from("0"),
        None => Value::from(""),
    };
    Ok((key, item))
}

fn value(d: &Descriptors, wire: Wire, payload: Payload<'_>, depth: usize) -> Result<Value, ProtoError> {
    Ok(match wire {
        Wire::String => payload.text()?.into(),
        Wire::Bool => (payload.varint()? != 0).into(),
        // The 32-bit types are sign-extended on the wire; Go takes the low half.
        Wire::Int32 => (payload.varint()? as i32).into(),
        Wire::Int64 => (payload.varint()? as i64).into(),
        Wire::Double => match payload {
            Payload::Fixed64(bits) => number(f64::from_bits(bits)),
            _ => return Err(ProtoError::Malformed("double")),
        },
        Wire::Bytes => base64::engine::general_purpose::STANDARD.encode(payload.bytes()?).into(),
        Wire::Quantity => match first_bytes(payload)? {
            b"" => "0".into(),
            text => std::str::from_utf8(text).map_err(|_| ProtoError::Malformed("quantity"))?.into(),
        },
        Wire::IntOrString => int_or_string(payload.bytes()?)?,
        Wire::Time | Wire::MicroTime => {
            let bytes = payload.bytes()?;
            if bytes.is_empty() {
                return Ok(Value::Null);
            }
            let [seconds, nanos] = two_ints(bytes)?;
            let text = if wire == Wire::Time {
                scalar::time_text(seconds)
            } else {
                scalar::micro_time_text(seconds, i32::try_from(nanos).unwrap_or_default())
            };
            text.ok_or(ProtoError::Malformed("time"))?.into()
        }
        Wire::Duration => knarr_meta::duration::print(two_ints(payload.bytes()?)?[0]).into(),
        Wire::RawExtension => match first_bytes(payload)? {
            b"" => Value::Null,
            raw if raw.starts_with(&MAGIC) => envelope(d, raw, ("", ""), depth + 1)?,
            raw => serde_json::from_slice(raw).map_err(|_| ProtoError::Malformed("raw JSON"))?,
        },
        Wire::JsonBytes => match first_bytes(payload)? {
            b"" => Value::Null,
            raw => serde_json::from_slice(raw).map_err(|_| ProtoError::Malformed("raw JSON"))?,
        },
        Wire::Strings => strings(payload.bytes()?, 1)?,
        Wire::SchemaOrArray(id) => match schemas(d, id, payload.bytes()?, depth)? {
            (Some(schema), list) if list.is_empty() => schema,
            (None, list) if list.is_empty() => Value::Null,
            (_, list) => Value::Array(list),
        },
        Wire::SchemaOrBool(id) => {
            let (mut allows, mut schema) = (false, None);
            let mut fields = Reader::new(payload.bytes()?);
            while let Some((number, payload)) = fields.next()? {
                match number {
                    1 => allows = payload.varint()? != 0,
                    2 => schema = Some(message(d, id, payload.bytes()?, depth + 1)?),
                    _ => {}
                }
            }
            schema.unwrap_or(Value::Bool(allows))
        }
        Wire::SchemaOrStrings(id) => match strings(payload.bytes()?, 2)? {
            Value::Array(list) if list.is_empty() => {
                schemas(d, id, payload.bytes()?, depth)?.0.unwrap_or_default()
            }
            list => list,
        },
        Wire::Message(id) => message(d, id, payload.bytes()?, depth + 1)?,
    })
}

/// A float as Go writes it: whole numbers have no fraction.
fn number(value: f64) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() < EXACT {
        return Value::from(value as i64);
    }
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

/// The bytes in field 1 of a message that wraps them.
fn first_bytes(payload: Payload<'_>) -> Result<&[u8], ProtoError> {
    let mut found = &[][..];
    let mut fields = Reader::new(payload.bytes()?);
    while let Some((number, payload)) = fields.next()? {
        if number == 1 {
            found = payload.bytes()?;
        }
    }
    Ok(found)
}

/// The integers in fields 1 and 2.
fn two_ints(bytes: &[u8]) -> Result<[i64; 2], ProtoError> {
    let mut ints = [0; 2];
    let mut fields = Reader::new(bytes);
    while let Some((number, payload)) = fields.next()? {
        if let 1 | 2 = number {
            ints[number as usize - 1] = payload.varint()? as i64;
        }
    }
    Ok(ints)
}

fn int_or_string(bytes: &[u8]) -> Result<Value, ProtoError> {
    let (mut is_text, mut int, mut text) = (false, 0, "");
    let mut fields = Reader::new(bytes);
    while let Some((number, payload)) = fields.next()? {
        match number {
            1 => is_text = payload.varint()? == 1,
            2 => int = payload.varint()? as i32,
            3 => text = payload.text()?,
            _ => {}
        }
    }
    Ok(if is_text { text.into() } else { int.into() })
}

fn strings(bytes: &[u8], number: u32) -> Result<Value, ProtoError> {
    let mut list = Vec::new();
    let mut fields = Reader::new(bytes);
    while let Some((found, payload)) = fields.next()? {
        if found == number {
            list.push(payload.text()?.into());
        }
    }
    Ok(Value::Array(list))
}

/// The schema in field 1 and those in field 2.
fn schemas(
    d: &Descriptors,
    id: MessageId,
    bytes: &[u8],
    depth: usize,
) -> Result<(Option<Value>, Vec<Value>), ProtoError> {
    let (mut one, mut list) = (None, Vec::new());
    let mut fields = Reader::new(bytes);
    while let Some((number, payload)) = fields.next()? {
        match number {
            1 => one = Some(message(d, id, payload.bytes()?, depth + 1)?),
            2 => list.push(message(d, id, payload.bytes()?, depth + 1)?),
            _ => {}
        }
    }
    Ok((one, list))
}
