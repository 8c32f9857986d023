//! Lists: Kubernetes' library (KEP-2876) and cel-go's extensions `lists` (version 3), `sets` and `optional`.

use super::{Args, Outcome, int, no_overload, ops};
use crate::error::EvalError;
use crate::value::{List, Value, compare, contains, equal};
use std::cmp::Ordering;

fn list<'v, 'a>(value: &'v Value<'a>) -> Result<&'v List<'a>, EvalError> {
    match value {
        Value::List(list) => Ok(list),
        _ => Err(no_overload()),
    }
}

pub(super) fn is_sorted<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    let items = list(&args[0])?.to_vec()?;
    for pair in items.windows(2) {
        if compare(&pair[0], &pair[1]) == Ok(Ordering::Greater) {
            return Ok(Value::Bool(false));
        }
    }
    Ok(Value::Bool(true))
}

/// The sum; the sum of nothing is the zero of the list's declared type.
pub(crate) fn sum<'a>(args: Args<'_, 'a>, overload: &str) -> Outcome<'a> {
    let mut items = list(&args[0])?.to_vec()?.into_iter();
    let Some(mut total) = items.next() else {
        return Ok(match overload {
            "list_uint_sum_uint" => Value::Uint(0),
            "list_double_sum_double" => Value::Double(0.0),
            "list_duration_sum_duration" => Value::Duration(0),
            _ => Value::Int(0),
        });
    };
    if !matches!(total, Value::Int(_) | Value::Uint(_) | Value::Double(_) | Value::Duration(_)) {
        return Err(no_overload());
    }
    for item in items {
        total = ops::add(&mut [total, item])?;
    }
    Ok(total)
}

fn extreme<'a>(args: Args<'_, 'a>, name: &str, better: Ordering) -> Outcome<'a> {
    let mut items = list(&args[0])?.to_vec()?.into_iter();
    let mut best = items.next().ok_or_else(|| EvalError::new(format!("{name} called on empty list")))?;
    for item in items {
        if compare(&item, &best) == Ok(better) {
            best = item;
        }
    }
    Ok(best)
}

pub(super) fn min<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    extreme(args, "min", Ordering::Less)
}

pub(super) fn max<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    extreme(args, "max", Ordering::Greater)
}

pub(super) fn index_of<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    if let Value::String(_) = args[0] {
        return super::strings::index_of(args);
    }
    let found =
        list(&args[0])?.iter().position(|item| item.is_ok_and(|item| equal(&item, &args[1]) == Ok(true)));
    Ok(Value::Int(found.map_or(-1, |index| index as i64)))
}

pub(super) fn last_index_of<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    if let Value::String(_) = args[0] {
        return super::strings::last_index_of(args);
    }
    let items = list(&args[0])?;
    let found = (0..items.len()).rev().find(|index| {
        items.get(*index).is_some_and(|item| item.is_ok_and(|item| equal(&item, &args[1]) == Ok(true)))
    });
    Ok(Value::Int(found.map_or(-1, |index| index as i64)))
}

pub(super) fn slice<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    let items = list(&args[0])?;
    let (start, end) = (int(&args[1])?, int(&args[2])?);
    let wrong = |why: String| Err(EvalError::new(format!("cannot slice({start}, {end}), {why}")));
    if start < 0 || end < 0 {
        return wrong("negative indexes not supported".to_owned());
    }
    if start > end {
        return wrong("start index must be less than or equal to end index".to_owned());
    }
    if (items.len() as i64) < end {
        return wrong(format!("list is length {}", items.len()));
    }
    let picked = (start as usize..end as usize).filter_map(|index| items.get(index));
    Ok(Value::list(picked.collect::<Result<_, _>>()?))
}

/// More elements than this are refused; an object has fewer.
const MAX_ELEMENTS: usize = 4 << 20;

fn flatten_into<'a>(items: &List<'a>, depth: i64, out: &mut Vec<Value<'a>>) -> Result<(), EvalError> {
    for item in items.iter() {
        match item? {
            Value::List(inner) if depth > 0 => flatten_into(&inner, depth - 1, out)?,
            other => out.push(other),
        }
        if out.len() > MAX_ELEMENTS {
            return Err(EvalError::new("result of flatten is too long"));
        }
    }
    Ok(())
}

pub(super) fn flatten<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    if !matches!(args[..], [Value::List(_)] | [Value::List(_), Value::Int(_)]) {
        let types: Vec<&str> = args.iter().map(Value::type_name).collect();
        let (list, depth) = (types[0], types[1..].join(", "));
        return Err(EvalError::new(format!("no such overload: {list}.flatten({depth})")));
    }
    let depth = args.get(1).map(int).transpose()?.unwrap_or(1);
    if depth < 0 {
        return Err(EvalError::new("level must be non-negative"));
    }
    let mut out = Vec::new();
    flatten_into(list(&args[0])?, depth, &mut out)?;
    Ok(Value::list(out))
}

fn sort_by_keys<'a>(items: Vec<Value<'a>>, keys: Vec<Value<'a>>) -> Outcome<'a> {
    if items.len() != keys.len() {
        return Err(EvalError::new(format!(
            "@sortByAssociatedKeys() expected a list of the same size as the associated keys list, but got {} and {} \
             elements respectively",
            items.len(),
            keys.len()
        )));
    }
    let Some(first) = keys.first() else { return Ok(Value::list(items)) };
    let comparable = matches!(
        first,
        Value::Int(_)
            | Value::Uint(_)
            | Value::Double(_)
            | Value::Bool(_)
            | Value::String(_)
            | Value::Bytes(_)
            | Value::Duration(_)
            | Value::Timestamp(_)
    );
    if !comparable {
        return Err(EvalError::new("list elements must be comparable"));
    }
    let name = first.type_name();
    if keys.len() > 1 && keys.iter().any(|key| key.type_name() != name) {
        return Err(EvalError::new("list elements must have the same type"));
    }
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by(|a, b| compare(&keys[*a], &keys[*b]).unwrap_or(Ordering::Equal));
    Ok(Value::list(order.into_iter().map(|index| items[index].clone()).collect()))
}

pub(super) fn sort<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    let Value::List(items) = &args[0] else { return Err(EvalError::new("no such overload: sort")) };
    let items = items.to_vec()?;
    sort_by_keys(items.clone(), items)
}

pub(super) fn sort_by_associated_keys<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    sort_by_keys(list(&args[0])?.to_vec()?, list(&args[1])?.to_vec()?)
}

pub(super) fn range<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    let count = int(&args[0])?.max(0);
    // Costs forbid longer ones in the end; this keeps them from being made first.
    if count as u64 > crate::PER_CALL_LIMIT {
        return Err(EvalError::cost_exceeded());
    }
    Ok(Value::list((0..count).map(Value::Int).collect()))
}

pub(super) fn reverse<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    let mut items = list(&args[0])?.to_vec()?;
    items.reverse();
    Ok(Value::list(items))
}

pub(super) fn distinct<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    let mut unique: Vec<Value<'a>> = Vec::new();
    for item in list(&args[0])?.iter() {
        let item = item?;
        if !unique.iter().any(|other| equal(&item, other) == Ok(true)) {
            unique.push(item);
        }
    }
    Ok(Value::list(unique))
}

pub(super) fn first<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    Ok(match list(&args[0])?.get(0) {
        Some(item) => Value::some(item?),
        None => Value::none(),
    })
}

pub(super) fn last<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    let items = list(&args[0])?;
    Ok(match items.len().checked_sub(1).and_then(|index| items.get(index)) {
        Some(item) => Value::some(item?),
        None => Value::none(),
    })
}

fn contains_all(outer: &List<'_>, inner: &List<'_>) -> Result<bool, EvalError> {
    for item in inner.iter() {
        if !contains(outer, &item?)? {
            return Ok(false);
        }
    }
    Ok(true)
}

pub(super) fn sets_contains<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    contains_all(list(&args[0])?, list(&args[1])?).map(Value::Bool)
}

pub(super) fn sets_equivalent<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    let (a, b) = (list(&args[0])?, list(&args[1])?);
    Ok(Value::Bool(contains_all(a, b)? && contains_all(b, a)?))
}

pub(super) fn sets_intersects<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    let (a, b) = (list(&args[0])?, list(&args[1])?);
    for item in a.iter() {
        if contains(b, &item?) == Ok(true) {
            return Ok(Value::Bool(true));
        }
    }
    Ok(Value::Bool(false))
}

pub(super) fn unwrap<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    let mut present = Vec::new();
    for item in list(&args[0])?.iter() {
        match item? {
            Value::Optional(Some(value)) => present.push((*value).clone()),
            Value::Optional(None) => {}
            other => {
                return Err(EvalError::new(format!("value {} is not optional", super::plain(&other))));
            }
        }
    }
    Ok(Value::list(present))
}

pub(super) fn optional_of<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    Ok(Value::some(args[0].clone()))
}

pub(super) fn optional_of_non_zero<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    let zero = match &args[0] {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Int(value) => *value == 0,
        Value::Uint(value) => *value == 0,
        Value::Double(value) => *value == 0.0,
        Value::String(text) => text.as_str().is_empty(),
        Value::Bytes(bytes) => bytes.is_empty(),
        Value::Duration(nanos) => *nanos == 0,
        Value::Timestamp(timestamp) => timestamp.seconds == -62_135_596_800 && timestamp.nanos == 0,
        // Lists and maps with a schema never count as empty.
        Value::List(list) => list.len() == 0 && list.identity().is_none(),
        Value::Map(map) => map.len() == 0 && !map.is_typed(),
        Value::Object(object) => object.0.is_empty() && object.0.type_name() != "JSONPatch",
        _ => false,
    };
    Ok(if zero { Value::none() } else { Value::some(args[0].clone()) })
}

pub(super) fn value<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    match &args[0] {
        Value::Optional(Some(value)) => Ok((**value).clone()),
        Value::Optional(None) => Err(EvalError::new("optional.none() dereference")),
        _ => Err(no_overload()),
    }
}

pub(super) fn has_value<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    match &args[0] {
        Value::Optional(value) => Ok(Value::Bool(value.is_some())),
        _ => Err(no_overload()),
    }
}
