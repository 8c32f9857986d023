//! From JSON to values and back.

use super::{List, MapValue};
use super::{ListRepr, MapRepr, Text, Value};
use crate::decl::{DeclType, Scalar, Shape};
use crate::error::EvalError;
use crate::lib_fns::time;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Number, Value as Json};

/// A value as the JSON says.
pub(crate) fn from_json(json: &Json) -> Value<'_> {
    match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => match number.as_i64() {
            Some(value) => Value::Int(value),
            None => Value::Double(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::String(Text::Borrowed(text)),
        Json::Array(items) => Value::List(List(ListRepr::Json(items, None))),
        Json::Object(map) => Value::Map(MapValue(MapRepr::Json(map, None))),
    }
}

/// What Go calls the type of decoded JSON, for problems.
fn go_type(json: &Json) -> &'static str {
    match json {
        Json::Null => "<nil>",
        Json::Bool(_) => "bool",
        Json::Number(number) if number.is_i64() => "int64",
        Json::Number(_) => "float64",
        Json::String(_) => "string",
        Json::Array(_) => "[]interface {}",
        Json::Object(_) => "map[string]interface {}",
    }
}

/// A value as `decl` declares it.
pub(crate) fn from_typed<'a>(json: &'a Json, decl: &'a DeclType) -> Result<Value<'a>, EvalError> {
    if json.is_null() {
        return match (&decl.shape, decl.nullable) {
            (_, true) | (Shape::Scalar(Scalar::Dyn), _) => Ok(Value::Null),
            _ => Err(EvalError::new("invalid data, got null for schema with nullable=false")),
        };
    }
    let scalar = match &decl.shape {
        Shape::Object(_) | Shape::Map { .. } => {
            return match json {
                Json::Object(map) => Ok(Value::Map(MapValue(MapRepr::Json(map, Some(decl))))),
                _ => Err(EvalError::new(
                    "invalid data, expected a map for the provided schema with type=object",
                )),
            };
        }
        Shape::List { .. } => {
            return match json {
                Json::Array(items) => Ok(Value::List(List(ListRepr::Json(items, Some(decl))))),
                _ => Err(EvalError::new(
                    "invalid data, expected an array for the provided schema with type=array",
                )),
            };
        }
        Shape::Preserved => return Ok(Value::Preserved(json)),
        Shape::Scalar(scalar) => *scalar,
    };
    match (scalar, json) {
        (Scalar::Dyn, _) => Ok(from_json(json)),
        (Scalar::Bool, Json::Bool(value)) => Ok(Value::Bool(*value)),
        (Scalar::Bool, _) => {
            Err(EvalError::new(format!("invalid data, expected bool, got {}", go_type(json))))
        }
        (Scalar::Int, Json::Number(number)) if number.is_i64() => Ok(from_json(json)),
        (Scalar::Int, _) => Err(EvalError::new(format!("invalid data, expected int, got {}", go_type(json)))),
        (Scalar::Double, Json::Number(number)) => Ok(Value::Double(number.as_f64().unwrap_or(f64::NAN))),
        (Scalar::Double, _) => {
            Err(EvalError::new(format!("invalid data, expected float, got {}", go_type(json))))
        }
        (Scalar::IntOrString, Json::String(_)) => Ok(from_json(json)),
        (Scalar::IntOrString, Json::Number(number)) if number.is_i64() => Ok(from_json(json)),
        (Scalar::IntOrString, _) => {
            Err(EvalError::new("invalid data, expected XIntOrString value to be either a string or integer"))
        }
        (_, Json::String(text)) => from_text(scalar, text),
        _ => Err(EvalError::new(format!("invalid data, expected string, got {}", go_type(json)))),
    }
}

fn from_text(scalar: Scalar, text: &str) -> Result<Value<'_>, EvalError> {
    match scalar {
        Scalar::Duration => time::parse_format_duration(text)
            .map(Value::Duration)
            .map_err(|problem| EvalError::new(format!("Invalid duration {text}: {problem}"))),
        Scalar::Date => time::parse_date(text)
            .map(Value::Timestamp)
            .map_err(|problem| EvalError::new(format!("Invalid date formatted string {text}: {problem}"))),
        Scalar::DateTime => time::parse_format_date_time(text).map(Value::Timestamp).map_err(|problem| {
            EvalError::new(format!("Invalid date-time formatted string {text}: {problem}"))
        }),
        Scalar::Bytes => STANDARD
            .decode(text)
            .map(|bytes| Value::Bytes(bytes.into()))
            .map_err(|problem| EvalError::new(format!("Invalid byte formatted string {text}: {problem}"))),
        _ => Ok(Value::String(Text::Borrowed(text))),
    }
}

/// Deeper values are refused; nothing that is stored nests so far.
const MAX_DEPTH: usize = 512;

impl Value<'_> {
    /// The value as JSON. Durations, times and bytes become text; what has no JSON form is an error.
    pub fn to_json(&self) -> Result<Json, EvalError> {
        to_json(self, 0)
    }
}

fn to_json(value: &Value<'_>, depth: usize) -> Result<Json, EvalError> {
    if depth > MAX_DEPTH {
        return Err(EvalError::new("value is nested too deeply"));
    }
    Ok(match value {
        Value::Null => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::Int(value) => Json::from(*value),
        Value::Uint(value) => Json::from(*value),
        Value::Double(value) => match Number::from_f64(*value) {
            // Whole numbers are written as such.
            Some(_) if value.fract() == 0.0 && value.abs() < 9_007_199_254_740_992.0 => {
                Json::from(*value as i64)
            }
            Some(number) => Json::Number(number),
            None => return Err(EvalError::new("cannot convert a number that is not finite to JSON")),
        },
        Value::String(text) => Json::from(text.as_str()),
        Value::Bytes(bytes) => Json::from(STANDARD.encode(bytes)),
        Value::Duration(nanos) => Json::from(time::duration_text(*nanos)),
        Value::Timestamp(timestamp) => Json::from(time::timestamp_text(timestamp)),
        Value::List(List(ListRepr::Json(items, None))) => Json::Array(items.to_vec()),
        Value::Map(MapValue(MapRepr::Json(map, None))) => Json::Object((*map).clone()),
        Value::List(list) => {
            let items = list.iter().map(|item| to_json(&item?, depth + 1));
            Json::Array(items.collect::<Result<_, _>>()?)
        }
        Value::Map(MapValue(MapRepr::Json(map, Some(_)))) => Json::Object((*map).clone()),
        Value::Map(map) => {
            let mut out = serde_json::Map::new();
            for (key, value) in map.entries() {
                let Some(key) = key.as_str() else {
                    return Err(EvalError::new(format!("map key of type {} is not string", key.type_name())));
                };
                out.insert(key.to_owned(), to_json(&value?, depth + 1)?);
            }
            Json::Object(out)
        }
        Value::Optional(Some(value)) => to_json(value, depth + 1)?,
        Value::Optional(None) => return Err(EvalError::new("optional.none() dereference")),
        Value::Object(object) => {
            let mut out = serde_json::Map::new();
            for (name, value) in object.0.fields() {
                out.insert(name.to_string(), to_json(value, depth + 1)?);
            }
            Json::Object(out)
        }
        Value::Preserved(json) => (*json).clone(),
        Value::Type(_) => return Err(EvalError::new("type conversion not supported for 'type'")),
        other => return Err(EvalError::new(format!("cannot convert {} to JSON", other.type_name()))),
    })
}
