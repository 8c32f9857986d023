//! Numbers: comparison across types, conversions that tell overflow, and Go's way of writing them.

use crate::error::EvalError;
use crate::value::Value;
use std::cmp::Ordering;

const TWO_63: f64 = 9_223_372_036_854_775_808.0;
const TWO_64: f64 = 18_446_744_073_709_551_616.0;

pub(crate) fn int_overflow() -> EvalError {
    EvalError::new("integer overflow")
}

pub(crate) fn uint_overflow() -> EvalError {
    EvalError::new("unsigned integer overflow")
}

/// The order of two numbers of any types; none if one is not a number.
pub(crate) fn compare(a: &Value<'_>, b: &Value<'_>) -> Option<Ordering> {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
        (Value::Uint(a), Value::Uint(b)) => Some(a.cmp(b)),
        (Value::Int(a), Value::Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Value::Uint(a), Value::Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Value::Double(a), Value::Double(b)) => a.partial_cmp(b),
        (Value::Int(a), Value::Double(b)) => int_and_double(*a, *b),
        (Value::Double(a), Value::Int(b)) => int_and_double(*b, *a).map(Ordering::reverse),
        (Value::Uint(a), Value::Double(b)) => uint_and_double(*a, *b),
        (Value::Double(a), Value::Uint(b)) => uint_and_double(*b, *a).map(Ordering::reverse),
        _ => None,
    }
}

fn int_and_double(a: i64, b: f64) -> Option<Ordering> {
    if b.is_nan() {
        None
    } else if b < -TWO_63 {
        Some(Ordering::Greater)
    } else if b > TWO_63 {
        Some(Ordering::Less)
    } else {
        (a as f64).partial_cmp(&b)
    }
}

fn uint_and_double(a: u64, b: f64) -> Option<Ordering> {
    if b.is_nan() {
        None
    } else if b < 0.0 {
        Some(Ordering::Greater)
    } else if b > TWO_64 {
        Some(Ordering::Less)
    } else {
        (a as f64).partial_cmp(&b)
    }
}

pub(crate) fn double_to_int(value: f64) -> Result<i64, EvalError> {
    if value.is_finite() && value > -TWO_63 && value < TWO_63 {
        Ok(value as i64)
    } else {
        Err(int_overflow())
    }
}

pub(crate) fn double_to_uint(value: f64) -> Result<u64, EvalError> {
    if value.is_finite() && (0.0..TWO_64).contains(&value) { Ok(value as u64) } else { Err(uint_overflow()) }
}

/// The integer that a double is, if it is one.
pub(crate) fn whole_int(value: f64) -> Option<i64> {
    double_to_int(value).ok().filter(|whole| *whole as f64 == value)
}

/// The unsigned integer that a double is, if it is one.
pub(crate) fn whole_uint(value: f64) -> Option<u64> {
    double_to_uint(value).ok().filter(|whole| *whole as f64 == value)
}

/// A double as Go's `%g` writes it: the shortest digits that give it back, with an exponent from 1e+06 on.
pub(crate) fn double_text(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let (sign, digits, exponent) = shortest(value);
    if !(-4..6).contains(&exponent) {
        return format!("{sign}{}", scientific(&digits, exponent));
    }
    format!("{sign}{}", positional(&digits, exponent))
}

/// A double as a CEL literal: never an integer's.
pub(crate) fn double_literal(value: f64) -> String {
    if value.is_nan() {
        return "double(\"NaN\")".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "double(\"Infinity\")" } else { "double(\"-Infinity\")" }.to_owned();
    }
    let (sign, digits, exponent) = shortest(value);
    let text = positional(&digits, exponent);
    let dot = if text.contains('.') { "" } else { ".0" };
    format!("{sign}{text}{dot}")
}

/// Sign, shortest digits and the decimal exponent of the first digit.
fn shortest(value: f64) -> (&'static str, String, i32) {
    let text = format!("{:e}", value.abs());
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let digits = mantissa.replace('.', "");
    let sign = if value.is_sign_negative() { "-" } else { "" };
    (sign, digits, exponent.parse().unwrap_or(0))
}

fn positional(digits: &str, exponent: i32) -> String {
    if exponent < 0 {
        return format!("0.{}{digits}", "0".repeat((-exponent - 1) as usize));
    }
    let whole = exponent as usize + 1;
    if digits.len() <= whole {
        format!("{digits}{}", "0".repeat(whole - digits.len()))
    } else {
        format!("{}.{}", &digits[..whole], &digits[whole..])
    }
}

fn scientific(digits: &str, exponent: i32) -> String {
    let (first, rest) = digits.split_at(1);
    let dot = if rest.is_empty() { "" } else { "." };
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{first}{dot}{rest}e{sign}{:02}", exponent.unsigned_abs())
}

/// Text to a double as Go's `strconv.ParseFloat` reads it.
pub(crate) fn parse_double(text: &str) -> Option<f64> {
    let bare = text.strip_prefix(['+', '-']).unwrap_or(text);
    let hexadecimal = bare.strip_prefix("0x").or_else(|| bare.strip_prefix("0X"));
    if text.contains('_') {
        // An underscore may stand between two digits, and after the prefix.
        let bytes = hexadecimal.unwrap_or(text).as_bytes();
        let digit =
            |byte: &u8| if hexadecimal.is_some() { byte.is_ascii_hexdigit() } else { byte.is_ascii_digit() };
        let before = |at: usize| at.checked_sub(1).map_or(hexadecimal.is_some(), |at| digit(&bytes[at]));
        let between = |at: usize| before(at) && bytes.get(at + 1).is_some_and(digit);
        let valid = bytes.iter().enumerate().all(|(at, byte)| *byte != b'_' || between(at));
        return if valid { parse_double(&text.replace('_', "")) } else { None };
    }
    if let Some(digits) = hexadecimal {
        let value = parse_hexadecimal(digits)?;
        return Some(if text.starts_with('-') { -value } else { value });
    }
    let word = ["inf", "infinity", "nan"].iter().any(|word| bare.eq_ignore_ascii_case(word));
    if !word && !bare.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    if bare.eq_ignore_ascii_case("nan") && bare.len() != text.len() {
        return None;
    }
    let value: f64 = text.parse().ok()?;
    if value.is_infinite() && !word { None } else { Some(value) }
}

/// A hexadecimal double after its `0x`: digits with a point among them, and an exponent of two.
fn parse_hexadecimal(text: &str) -> Option<f64> {
    let (digits, exponent) = text.split_once(['p', 'P'])?;
    let unsigned = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    if unsigned.is_empty() || !unsigned.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // A bound far beyond what any number of digits could make up for.
    let size = unsigned.parse::<i64>().unwrap_or(i64::MAX).min(1 << 40);
    let mut exponent = if exponent.starts_with('-') { -size } else { size };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let mut mantissa = 0u64;
    for (at, digit) in whole.bytes().chain(fraction.bytes()).enumerate() {
        let digit = u64::from(char::from(digit).to_digit(16)?);
        let fractional = at >= whole.len();
        if mantissa >> 60 == 0 {
            mantissa = mantissa << 4 | digit;
            exponent -= if fractional { 4 } else { 0 };
        } else {
            // What no longer fits counts only as something above nothing, for rounding.
            mantissa |= u64::from(digit != 0);
            exponent += if fractional { 0 } else { 4 };
        }
    }
    if mantissa == 0 {
        return Some(0.0);
    }
    let bits = 64 - i64::from(mantissa.leading_zeros());
    let top = exponent + bits - 1;
    if top > 1023 {
        return None;
    }
    // The bits that the result can keep: fewer among the smallest doubles.
    let keep = 53 - (-1022 - top).max(0);
    if keep < 0 {
        return Some(0.0);
    }
    let drop = (bits - keep).max(0);
    let mut kept = if drop == 64 { 0 } else { mantissa >> drop };
    if drop > 0 {
        let half = 1u64 << (drop - 1);
        let rest = mantissa & (half | (half - 1));
        if rest > half || (rest == half && kept & 1 == 1) {
            kept += 1;
        }
    }
    let power = exponent + drop;
    let scale = match u64::try_from(power + 1023) {
        Ok(biased) if biased > 0 => f64::from_bits(biased << 52),
        _ => f64::from_bits(1 << (power + 1074)),
    };
    let value = kept as f64 * scale;
    if value.is_infinite() { None } else { Some(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_as_text() {
        let cases = [
            (1.0, "1", "1.0"),
            (0.1, "0.1", "0.1"),
            (-2.5, "-2.5", "-2.5"),
            (1e20, "1e+20", "100000000000000000000.0"),
            (123456.0, "123456", "123456.0"),
            (0.0001, "0.0001", "0.0001"),
            (0.00001, "1e-05", "0.00001"),
            (1234567.125, "1.234567125e+06", "1234567.125"),
        ];
        for (value, text, literal) in cases {
            assert_eq!(double_text(value), text);
            assert_eq!(double_literal(value), literal);
        }
    }
}
