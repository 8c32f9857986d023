//! Operators: arithmetic that tells overflow, order, membership, size, and the parts of times.

use super::{Args, Outcome, no_overload, number, time, zone};
use crate::decl::Identity;
use crate::error::EvalError;
use crate::value::{Elements, List, ListRepr, Map, Text, Value, compare, contains, equal, same_keys};
use std::sync::Arc;

pub(super) fn not<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    match &args[0] {
        Value::Bool(value) => Ok(Value::Bool(!value)),
        _ => Err(no_overload()),
    }
}

pub(super) fn negate<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    match &args[0] {
        Value::Int(value) => value.checked_neg().map(Value::Int).ok_or_else(number::int_overflow),
        Value::Double(value) => Ok(Value::Double(-value)),
        Value::Duration(nanos) => nanos.checked_neg().map(Value::Duration).ok_or_else(number::int_overflow),
        Value::Bool(_) | Value::String(_) | Value::Timestamp(_) => Err(no_overload()),
        _ => Err(EvalError::new("no such overload: -_")),
    }
}

/// The longest text or list that `+` makes; costs forbid longer ones anyway.
const MAX_LENGTH: usize = 32 << 20;

pub(super) fn add<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    Ok(match (&args[0], &args[1]) {
        (Value::Int(a), Value::Int(b)) => Value::Int(a.checked_add(*b).ok_or_else(number::int_overflow)?),
        (Value::Uint(a), Value::Uint(b)) => Value::Uint(a.checked_add(*b).ok_or_else(number::uint_overflow)?),
        (Value::Double(a), Value::Double(b)) => Value::Double(a + b),
        (Value::String(a), Value::String(b)) => {
            let (a, b) = (a.as_str(), b.as_str());
            if a.len() + b.len() > MAX_LENGTH {
                return Err(EvalError::new("result of addition is too long"));
            }
            let mut sum = String::with_capacity(a.len() + b.len());
            sum.push_str(a);
            sum.push_str(b);
            Value::String(Text::Shared(sum.into()))
        }
        (Value::Bytes(a), Value::Bytes(b)) => {
            if a.len() + b.len() > MAX_LENGTH {
                return Err(EvalError::new("result of addition is too long"));
            }
            Value::Bytes([&a[..], &b[..]].concat().into())
        }
        (Value::Duration(a), Value::Duration(b)) => {
            Value::Duration(a.checked_add(*b).ok_or_else(number::int_overflow)?)
        }
        (Value::Timestamp(a), Value::Duration(b)) | (Value::Duration(b), Value::Timestamp(a)) => {
            Value::Timestamp(time::add(a, *b)?)
        }
        (Value::List(_), Value::List(_)) => return concatenate(args),
        (Value::Null | Value::Bool(_) | Value::Map(_) | Value::Optional(_) | Value::Opaque(_), _) => {
            return Err(EvalError::new("no such overload: _+_"));
        }
        _ => return Err(no_overload()),
    })
}

/// Sets unite and lists of type map merge by key; other lists are put one after the other.
fn concatenate<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    let (Value::List(a), Value::List(b)) = (&args[0], &args[1]) else { return Err(no_overload()) };
    if a.len() + b.len() > MAX_LENGTH / 32 {
        return Err(EvalError::new("result of addition is too long"));
    }
    let identity = a.identity();
    if identity.is_none() {
        if a.len() == 0 {
            return Ok(args[1].clone());
        }
        if b.len() == 0 {
            return Ok(args[0].clone());
        }
    }
    let mut items = a.to_vec()?;
    match identity {
        Some(Identity::Set) => {
            for item in b.iter() {
                let item = item?;
                if !items.iter().any(|present| equal(present, &item) == Ok(true)) {
                    items.push(item);
                }
            }
        }
        Some(Identity::Map(keys)) => {
            for item in b.iter() {
                let item = item?;
                match items.iter_mut().find(|present| same_keys(present, &item, keys)) {
                    Some(present) => *present = item,
                    None => items.push(item),
                }
            }
        }
        _ => {
            for item in b.iter() {
                items.push(item?);
            }
        }
    }
    Ok(Value::List(List(ListRepr::Shared(Arc::new(Elements { items, identity })))))
}

pub(super) fn subtract<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    Ok(match (&args[0], &args[1]) {
        (Value::Int(a), Value::Int(b)) => Value::Int(a.checked_sub(*b).ok_or_else(number::int_overflow)?),
        (Value::Uint(a), Value::Uint(b)) => Value::Uint(a.checked_sub(*b).ok_or_else(number::uint_overflow)?),
        (Value::Double(a), Value::Double(b)) => Value::Double(a - b),
        (Value::Duration(a), Value::Duration(b)) => {
            Value::Duration(a.checked_sub(*b).ok_or_else(number::int_overflow)?)
        }
        (Value::Timestamp(a), Value::Timestamp(b)) => Value::Duration(time::difference(a, b)?),
        (Value::Timestamp(a), Value::Duration(b)) => {
            let negated = b.checked_neg().ok_or_else(number::int_overflow)?;
            Value::Timestamp(time::add(a, negated)?)
        }
        (first, _) => return Err(unless_number(first, "_-_")),
    })
}

/// Types that know the operator say that the other operand is wrong; the others that they do not know it.
fn unless_number(first: &Value<'_>, function: &str) -> EvalError {
    match first {
        Value::Int(_) | Value::Uint(_) | Value::Double(_) => no_overload(),
        Value::Duration(_) | Value::Timestamp(_) if function == "_-_" => no_overload(),
        Value::Duration(_) | Value::Timestamp(_) | Value::String(_) => no_overload(),
        _ => EvalError::new(format!("no such overload: {function}")),
    }
}

pub(super) fn multiply<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    Ok(match (&args[0], &args[1]) {
        (Value::Int(a), Value::Int(b)) => Value::Int(a.checked_mul(*b).ok_or_else(number::int_overflow)?),
        (Value::Uint(a), Value::Uint(b)) => Value::Uint(a.checked_mul(*b).ok_or_else(number::uint_overflow)?),
        (Value::Double(a), Value::Double(b)) => Value::Double(a * b),
        (first, _) => return Err(unless_number(first, "_*_")),
    })
}

pub(super) fn divide<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    Ok(match (&args[0], &args[1]) {
        (Value::Int(_), Value::Int(0)) | (Value::Uint(_), Value::Uint(0)) => {
            return Err(EvalError::new("division by zero"));
        }
        (Value::Int(a), Value::Int(b)) => Value::Int(a.checked_div(*b).ok_or_else(number::int_overflow)?),
        (Value::Uint(a), Value::Uint(b)) => Value::Uint(a / b),
        (Value::Double(a), Value::Double(b)) => Value::Double(a / b),
        (first, _) => return Err(unless_number(first, "_/_")),
    })
}

pub(super) fn modulo<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    Ok(match (&args[0], &args[1]) {
        (Value::Int(_), Value::Int(0)) | (Value::Uint(_), Value::Uint(0)) => {
            return Err(EvalError::new("modulus by zero"));
        }
        (Value::Int(a), Value::Int(b)) => Value::Int(a.checked_rem(*b).ok_or_else(number::int_overflow)?),
        (Value::Uint(a), Value::Uint(b)) => Value::Uint(a % b),
        (Value::Double(_), _) => return Err(EvalError::new("no such overload: _%_")),
        (first, _) => return Err(unless_number(first, "_%_")),
    })
}

/// The order of two operands; types without one do not know the operator.
fn order(args: &[Value<'_>], function: &str) -> Result<std::cmp::Ordering, EvalError> {
    match &args[0] {
        Value::Null
        | Value::List(_)
        | Value::Map(_)
        | Value::Optional(_)
        | Value::Object(_)
        | Value::Opaque(_)
        | Value::Type(_)
        | Value::Preserved(_)
        | Value::Variables => Err(EvalError::new(format!("no such overload: {function}"))),
        first => compare(first, &args[1]),
    }
}

pub(super) fn less<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    Ok(Value::Bool(order(args, "_<_")?.is_lt()))
}

pub(super) fn less_equals<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    Ok(Value::Bool(order(args, "_<=_")?.is_le()))
}

pub(super) fn greater<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    Ok(Value::Bool(order(args, "_>_")?.is_gt()))
}

pub(super) fn greater_equals<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    Ok(Value::Bool(order(args, "_>=_")?.is_ge()))
}

pub(super) fn is_in<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    match &args[1] {
        Value::List(list) => contains(list, &args[0]).map(Value::Bool),
        Value::Map(map) => map.contains(&args[0]).map(Value::Bool),
        _ => Err(no_overload()),
    }
}

pub(super) fn size<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    match &args[0] {
        value @ (Value::String(_) | Value::Bytes(_) | Value::List(_) | Value::Map(_)) => {
            Ok(Value::Int(value.size().unwrap_or(0) as i64))
        }
        Value::Duration(_) | Value::Timestamp(_) => Err(no_overload()),
        _ => Err(EvalError::new("no such overload: size")),
    }
}

/// A part of a time, or of a duration.
pub(super) fn time_part<'a>(function: &'static str, args: Args<'_, 'a>) -> Outcome<'a> {
    let part = match (&args[0], args.get(1)) {
        (Value::Timestamp(timestamp), None) => time::part(function, timestamp, 0),
        (Value::Timestamp(timestamp), Some(Value::String(zone))) => {
            time::part(function, timestamp, zone::offset_at(zone.as_str(), timestamp.seconds)?)
        }
        (Value::Duration(nanos), None) => time::duration_part(function, *nanos),
        _ => None,
    };
    part.map(Value::Int).ok_or_else(no_overload)
}

/// Puts an entry, or all entries of a map, into a map that has none of them yet.
pub(crate) fn map_insert<'a>(map: &mut Map<'a>, args: &[Value<'a>]) -> Result<(), EvalError> {
    use crate::value::Key;
    let mut insert = |key: &Value<'a>, value: Value<'a>| {
        let Some(place) = Key::of(key) else {
            return Err(EvalError::new(format!("unsupported key type: {}", key.type_name())));
        };
        if map.contains_key(&place) {
            let shown = crate::lib_fns::plain(key);
            return Err(EvalError::new(format!("insert failed: key {shown} already exists")));
        }
        map.insert(place, value);
        Ok(())
    };
    match args {
        [key, value] => insert(key, value.clone()),
        [Value::Map(other)] => {
            for (key, value) in other.entries() {
                insert(&key, value?)?;
            }
            Ok(())
        }
        _ => Err(no_overload()),
    }
}
