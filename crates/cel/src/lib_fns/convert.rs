//! Conversions between types: `int()`, `string()` and so on, and `type()`.

use super::{Args, Outcome, number, time};
use crate::error::EvalError;
use crate::value::{Text, Timestamp, Value};
use std::sync::Arc;

fn impossible(from: &Value<'_>, to: &str) -> EvalError {
    EvalError::new(format!("type conversion error from '{}' to '{to}'", from.type_name()))
}

/// No overload of a conversion takes this type.
fn unsuitable(function: &str, from: &Value<'_>) -> EvalError {
    EvalError::new(format!("no such overload: {function}({})", from.type_name()))
}

pub(super) fn identity<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    Ok(args[0].clone())
}

pub(super) fn type_of<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    Ok(Value::Type(Arc::new(args[0].type_value())))
}

pub(super) fn to_bool<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    match &args[0] {
        Value::Bool(value) => Ok(Value::Bool(*value)),
        Value::String(text) => match text.as_str() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Value::Bool(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Value::Bool(false)),
            _ => Err(impossible(&args[0], "bool")),
        },
        other => Err(unsuitable("bool", other)),
    }
}

pub(super) fn to_bytes<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    match &args[0] {
        Value::Bytes(bytes) => Ok(Value::Bytes(bytes.clone())),
        Value::String(text) => Ok(Value::Bytes(text.as_str().as_bytes().into())),
        other => Err(unsuitable("bytes", other)),
    }
}

pub(super) fn to_double<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    Ok(Value::Double(match &args[0] {
        Value::Double(value) => *value,
        Value::Int(value) => *value as f64,
        Value::Uint(value) => *value as f64,
        Value::String(text) => {
            number::parse_double(text.as_str()).ok_or_else(|| impossible(&args[0], "double"))?
        }
        other => return Err(unsuitable("double", other)),
    }))
}

pub(super) fn to_duration<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    match &args[0] {
        Value::Duration(nanos) => Ok(Value::Duration(*nanos)),
        Value::String(text) => knarr_meta::duration::parse(text.as_str())
            .map(Value::Duration)
            .map_err(|_| impossible(&args[0], "google.protobuf.Duration")),
        Value::Int(_) => Err(impossible(&args[0], "google.protobuf.Duration")),
        other => Err(unsuitable("duration", other)),
    }
}

/// A number without a sign of its own, as Go's `strconv` reads it.
fn digits_only(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

pub(super) fn to_int<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    Ok(Value::Int(match &args[0] {
        Value::Int(value) => *value,
        Value::Double(value) => number::double_to_int(*value)?,
        Value::Uint(value) => i64::try_from(*value).map_err(|_| number::int_overflow())?,
        Value::Duration(nanos) => *nanos,
        Value::Timestamp(timestamp) => timestamp.seconds,
        Value::String(text) => text.as_str().parse().map_err(|_| impossible(&args[0], "int"))?,
        other => return Err(unsuitable("int", other)),
    }))
}

pub(super) fn to_uint<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    Ok(Value::Uint(match &args[0] {
        Value::Uint(value) => *value,
        Value::Double(value) => number::double_to_uint(*value)?,
        Value::Int(value) => u64::try_from(*value).map_err(|_| number::uint_overflow())?,
        Value::String(text) if digits_only(text.as_str()) => {
            text.as_str().parse().map_err(|_| impossible(&args[0], "uint"))?
        }
        Value::String(_) => return Err(impossible(&args[0], "uint")),
        other => return Err(unsuitable("uint", other)),
    }))
}

pub(super) fn to_timestamp<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    match &args[0] {
        Value::Timestamp(timestamp) => Ok(Value::Timestamp(*timestamp)),
        Value::Int(seconds) if time::in_range(*seconds) => {
            Ok(Value::Timestamp(Timestamp { seconds: *seconds, nanos: 0, offset: 0 }))
        }
        Value::Int(_) => Err(time::timestamp_overflow()),
        Value::String(text) => match time::parse_timestamp(text.as_str()) {
            Ok(timestamp) => Ok(Value::Timestamp(timestamp)),
            Err(why) if why == "timestamp overflow" => Err(time::timestamp_overflow()),
            Err(_) => Err(impossible(&args[0], "google.protobuf.Timestamp")),
        },
        other => Err(unsuitable("timestamp", other)),
    }
}

pub(super) fn to_string<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    match &args[0] {
        Value::String(text) => Ok(Value::String(text.clone())),
        Value::Type(_) | Value::Null => Err(unsuitable("string", &args[0])),
        other => string_of(other).map(|text| Value::String(Text::Shared(text.into()))),
    }
}

/// The text of a value that has one.
pub(crate) fn string_of(value: &Value<'_>) -> Result<String, EvalError> {
    use super::opaque::Opaque;
    Ok(match value {
        Value::String(text) => text.as_str().to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Uint(value) => value.to_string(),
        Value::Double(value) => number::double_text(*value),
        Value::Bytes(bytes) => std::str::from_utf8(bytes)
            .map_err(|_| EvalError::new("invalid UTF-8 in bytes, cannot convert to string"))?
            .to_owned(),
        Value::Duration(nanos) => time::duration_text(*nanos),
        Value::Timestamp(timestamp) => time::timestamp_text(timestamp),
        Value::Type(t) => t.name().to_owned(),
        Value::Opaque(opaque) if matches!(opaque.0, Opaque::Ip(_) | Opaque::Cidr(_)) => opaque.0.to_string(),
        other => return Err(unsuitable("string", other)),
    })
}
