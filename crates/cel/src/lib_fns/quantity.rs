//! Quantities (KEP-2876's library `quantity`), and the comparisons they share with versions.

use super::opaque::Opaque;
use super::{Args, Outcome, no_overload, semver, text};
use crate::error::EvalError;
use crate::value::Value;
use knarr_meta::quantity::{Format, Quantity};
use std::cmp::Ordering;

fn read<'v>(value: &'v Value<'_>) -> Result<&'v Quantity, EvalError> {
    match value {
        Value::Opaque(opaque) => match &opaque.0 {
            Opaque::Quantity(quantity) => Ok(quantity),
            _ => Err(no_overload()),
        },
        _ => Err(no_overload()),
    }
}

pub(super) fn quantity<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    let parsed = Quantity::parse(text(&args[0])?).map_err(|problem| EvalError::new(problem.to_string()))?;
    Ok(Value::opaque(Opaque::Quantity(parsed)))
}

pub(super) fn is_quantity<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    Ok(Value::Bool(Quantity::parse(text(&args[0])?).is_ok()))
}

pub(super) fn sign<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    Ok(Value::Int(i64::from(read(&args[0])?.sign())))
}

/// The number, if it is whole and fits.
fn whole(quantity: &Quantity) -> Option<i64> {
    if !quantity.is_whole() {
        return None;
    }
    i64::try_from(quantity.nano_value() / 1_000_000_000).ok()
}

pub(super) fn is_integer<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    Ok(Value::Bool(whole(read(&args[0])?).is_some()))
}

pub(super) fn as_integer<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    whole(read(&args[0])?).map(Value::Int).ok_or_else(|| EvalError::new("cannot convert value to integer"))
}

pub(super) fn as_approximate_float<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    Ok(Value::Double(read(&args[0])?.as_f64()))
}

fn order(args: &[Value<'_>]) -> Result<Ordering, EvalError> {
    match (semver::version(&args[0]), semver::version(&args[1])) {
        (Some(a), Some(b)) => Ok(a.compare(b)),
        _ => Ok(read(&args[0])?.nano_value().cmp(&read(&args[1])?.nano_value())),
    }
}

pub(super) fn is_greater_than<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    Ok(Value::Bool(order(args)?.is_gt()))
}

pub(super) fn is_less_than<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    Ok(Value::Bool(order(args)?.is_lt()))
}

pub(super) fn compare_to<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    Ok(Value::Int(order(args)? as i64))
}

fn operand(value: &Value<'_>) -> Result<Quantity, EvalError> {
    match value {
        Value::Int(value) => Ok(Quantity::from_value(*value, Format::DecimalExponent)),
        other => read(other).cloned(),
    }
}

pub(super) fn add<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    let mut sum = read(&args[0])?.clone();
    sum.add(&operand(&args[1])?);
    Ok(Value::opaque(Opaque::Quantity(sum)))
}

pub(super) fn sub<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    let mut difference = read(&args[0])?.clone();
    difference.sub(&operand(&args[1])?);
    Ok(Value::opaque(Opaque::Quantity(difference)))
}
