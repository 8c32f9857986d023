//! Equality across types, and order.

use super::{List, MapRepr, Value};
use crate::decl::Identity;
use crate::error::EvalError;
use crate::lib_fns::number;
use serde_json::Value as Json;
use std::cmp::Ordering;

/// Whether two values are equal. Values of different types are not, except numbers; addresses, quantities and
/// the like cannot be compared with anything else.
pub(crate) fn equal(a: &Value<'_>, b: &Value<'_>) -> Result<bool, EvalError> {
    Ok(match (a, b) {
        (Value::Null, Value::Null) => true,
        (Value::Null, _) | (_, Value::Null) => false,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::Int(a), Value::Int(b)) => a == b,
        (Value::String(a), Value::String(b)) => a.as_str() == b.as_str(),
        (
            Value::Int(_) | Value::Uint(_) | Value::Double(_),
            Value::Int(_) | Value::Uint(_) | Value::Double(_),
        ) => number::compare(a, b) == Some(Ordering::Equal),
        (Value::Bytes(a), Value::Bytes(b)) => a == b,
        (Value::Duration(a), Value::Duration(b)) => a == b,
        (Value::Timestamp(a), Value::Timestamp(b)) => (a.seconds, a.nanos) == (b.seconds, b.nanos),
        (Value::Type(a), Value::Type(b)) => a.name() == b.name(),
        (Value::List(a), Value::List(b)) => return equal_lists(a, b),
        (Value::List(a), _) if a.identity().is_some() => return Err(EvalError::no_such_overload()),
        (Value::Map(a), Value::Map(b)) => {
            if a.len() != b.len() {
                return Ok(false);
            }
            if let (MapRepr::Json(x, Some(decl)), MapRepr::Json(y, Some(_))) = (&a.0, &b.0) {
                // Fields the schema does not know compare as they are.
                if let crate::decl::Shape::Object(fields) = &decl.shape {
                    let unknown = x.iter().filter(|(name, _)| fields.named(name).is_none());
                    for (name, value) in unknown {
                        if y.get(name).is_some_and(|other| other != value) {
                            return Ok(false);
                        }
                    }
                }
            }
            for (key, value) in a.entries() {
                let Some(other) = b.find(&key) else { return Ok(false) };
                if !equal(&value?, &other?)? {
                    return Ok(false);
                }
            }
            true
        }
        (Value::Map(a), _) if matches!(a.0, MapRepr::Json(_, Some(_))) => {
            return Err(EvalError::no_such_overload());
        }
        (Value::Optional(a), Value::Optional(b)) => match (a, b) {
            (None, None) => true,
            (Some(a), Some(b)) => return equal(a, b),
            _ => false,
        },
        (Value::Object(a), Value::Object(b)) => a.0.equals(&b.0),
        (Value::Preserved(a), Value::Preserved(b)) => same_json(a, b),
        (Value::Opaque(a), Value::Opaque(b)) => {
            return a.0.equals(&b.0).ok_or_else(EvalError::no_such_overload);
        }
        (Value::Opaque(_), _) => return Err(EvalError::no_such_overload()),
        (Value::Variables, Value::Variables) => true,
        _ => false,
    })
}

fn same_json(a: &Json, b: &Json) -> bool {
    match (a, b) {
        (Json::Number(a), Json::Number(b)) => a.as_f64() == b.as_f64(),
        (Json::Array(a), Json::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_json(a, b))
        }
        (Json::Object(a), Json::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same_json(a, b)))
        }
        _ => a == b,
    }
}

fn equal_lists(a: &List<'_>, b: &List<'_>) -> Result<bool, EvalError> {
    if a.len() != b.len() {
        return Ok(false);
    }
    match a.identity() {
        Some(Identity::Set) => {
            let ours = a.to_vec()?;
            for theirs in b.iter() {
                let theirs = theirs?;
                if !ours.iter().any(|value| equal(value, &theirs) == Ok(true)) {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        Some(Identity::Map(keys)) => {
            let ours = a.to_vec()?;
            for theirs in b.iter() {
                let theirs = theirs?;
                let twin = ours.iter().find(|value| same_keys(value, &theirs, keys));
                match twin {
                    Some(twin) if equal(twin, &theirs)? => {}
                    _ => return Ok(false),
                }
            }
            Ok(true)
        }
        _ => {
            for (a, b) in a.iter().zip(b.iter()) {
                if !equal(&a?, &b?)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
    }
}

/// Whether two elements of a list of type map have the same keys.
pub(crate) fn same_keys(a: &Value<'_>, b: &Value<'_>, keys: &[std::sync::Arc<str>]) -> bool {
    let (Value::Map(a), Value::Map(b)) = (a, b) else { return false };
    keys.iter().all(|key| match (a.find_field(key, Some(key)), b.find_field(key, Some(key))) {
        (None, None) => true,
        (Some(Ok(a)), Some(Ok(b))) => equal(&a, &b) == Ok(true),
        _ => false,
    })
}

/// Whether a list has an element equal to `value`.
pub(crate) fn contains(list: &List<'_>, value: &Value<'_>) -> Result<bool, EvalError> {
    let typed = list.identity().is_some();
    let mut problem = None;
    for item in list.iter() {
        match item.and_then(|item| equal(&item, value)) {
            Ok(true) => return Ok(true),
            Ok(false) => {}
            Err(error) => problem = problem.or(Some(error)),
        }
    }
    match problem {
        Some(problem) if typed => Err(problem),
        _ => Ok(false),
    }
}

/// The order of two values of a type that has one.
pub(crate) fn compare(a: &Value<'_>, b: &Value<'_>) -> Result<Ordering, EvalError> {
    Ok(match (a, b) {
        (Value::Int(a), Value::Int(b)) => a.cmp(b),
        (Value::String(a), Value::String(b)) => a.as_str().cmp(b.as_str()),
        (
            Value::Int(_) | Value::Uint(_) | Value::Double(_),
            Value::Int(_) | Value::Uint(_) | Value::Double(_),
        ) => number::compare(a, b).ok_or_else(|| EvalError::new("NaN values cannot be ordered"))?,
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Bytes(a), Value::Bytes(b)) => a.cmp(b),
        (Value::Duration(a), Value::Duration(b)) => a.cmp(b),
        (Value::Timestamp(a), Value::Timestamp(b)) => (a.seconds, a.nanos).cmp(&(b.seconds, b.nanos)),
        _ => return Err(EvalError::no_such_overload()),
    })
}
