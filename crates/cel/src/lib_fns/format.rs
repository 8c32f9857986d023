//! `'...'.format([...])`: cel-go's extension `strings`, version 2, which writes numbers the English way.

use super::{Args, Outcome, no_overload, number, text, time};
use crate::error::EvalError;
use crate::value::{Value, chars};
use knarr_meta::go::quote;

/// Digits after the point, unless said otherwise.
const PRECISION: usize = 6;
/// More digits or a wider field than this are refused.
const MAX_PRECISION: usize = 1000;
const MAX_DEPTH: usize = 128;

type Formatted = Result<String, String>;

pub(super) fn format<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    let template = text(&args[0])?;
    let Value::List(list) = &args[1] else { return Err(no_overload()) };
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    let mut index = 0;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            out.push('%');
            rest = after;
            continue;
        }
        let value =
            list.get(index).ok_or_else(|| EvalError::new(format!("index {index} out of range")))??;
        index += 1;
        let (clause, after) = clause(rest).map_err(EvalError::new)?;
        let formatted =
            clause.apply(&value).map_err(|why| EvalError::new(format!("error during formatting: {why}")))?;
        out.push_str(&formatted);
        rest = after;
    }
    out.push_str(rest);
    Ok(Value::text(out))
}

/// What stands after a percent sign.
pub(crate) struct Clause {
    pub verb: char,
    precision: Option<usize>,
}

/// Reads the clause at the start of `rest`.
pub(crate) fn clause(rest: &str) -> Result<(Clause, &str), String> {
    if rest.is_empty() {
        return Err("unexpected end of string".to_owned());
    }
    let said = |why: String| format!("could not parse formatting clause: {why}");
    let (precision, rest) = match rest.strip_prefix('.') {
        None => (None, rest),
        Some(after) => {
            let wrong = |why: &str| said(format!("error while parsing precision: {why}"));
            let end = after
                .find(|c: char| !c.is_ascii_digit())
                .ok_or_else(|| wrong("could not find end of precision specifier"))?;
            let precision: usize = after[..end].parse().map_err(|_| {
                let quoted = quote(&after[..end]);
                wrong(&format!(
                    "error while converting precision to integer: strconv.Atoi: parsing {quoted}: invalid syntax"
                ))
            })?;
            if precision > MAX_PRECISION {
                return Err(wrong("precision is too large"));
            }
            (Some(precision), &after[end..])
        }
    };
    match rest.chars().next() {
        Some(verb @ ('s' | 'd' | 'f' | 'e' | 'b' | 'x' | 'X' | 'o')) => {
            Ok((Clause { verb, precision }, &rest[1..]))
        }
        Some(other) => Err(said(format!("unrecognized formatting clause \"{other}\""))),
        None => Err(said("unexpected end of string".to_owned())),
    }
}

impl Clause {
    fn apply(&self, value: &Value<'_>) -> Formatted {
        match self.verb {
            's' => string(value, 0),
            'd' => decimal(value),
            'f' => Ok(fixed(floating(value, "fixed-point")?, self.precision.unwrap_or(PRECISION))),
            'e' => {
                let text = scientific(floating(value, "scientific")?);
                let width = self.precision.unwrap_or(PRECISION);
                Ok(format!("{}{text}", " ".repeat(width.saturating_sub(chars(&text)))))
            }
            'b' => match value {
                Value::Int(value) if *value < 0 => Ok(format!("-{:b}", value.unsigned_abs())),
                Value::Int(value) => Ok(format!("{value:b}")),
                Value::Uint(value) => Ok(format!("{value:b}")),
                Value::Bool(value) => Ok(u8::from(*value).to_string()),
                _ => Err(unsuitable('b', value.type_name())),
            },
            'o' => match value {
                Value::Int(value) if *value < 0 => Ok(format!("-{:o}", value.unsigned_abs())),
                Value::Int(value) => Ok(format!("{value:o}")),
                Value::Uint(value) => Ok(format!("{value:o}")),
                _ => Err(unsuitable('o', value.type_name())),
            },
            _ => {
                let hex = match value {
                    Value::Int(value) if *value < 0 => format!("-{:x}", value.unsigned_abs()),
                    Value::Int(value) => format!("{value:x}"),
                    Value::Uint(value) => format!("{value:x}"),
                    Value::String(text) => hex(text.as_str().as_bytes()),
                    Value::Bytes(bytes) => hex(bytes),
                    _ => return Err(unsuitable('x', value.type_name())),
                };
                Ok(if self.verb == 'X' { hex.to_uppercase() } else { hex })
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Why a value of a type cannot be written with a verb.
pub(crate) fn unsuitable(verb: char, type_name: &str) -> String {
    let what = match verb {
        'd' => "decimal clause can only be used on integers",
        'f' => "fixed-point clause can only be used on doubles",
        'e' => "scientific clause can only be used on doubles",
        'b' => "only integers and bools can be formatted as binary",
        'x' | 'X' => "only integers, byte buffers, and strings can be formatted as hex",
        'o' => "octal clause can only be used on integers",
        _ => {
            "string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, types, durations, \
             and timestamps"
        }
    };
    format!("{what}, was given {type_name}")
}

fn floating(value: &Value<'_>, clause: &str) -> Result<f64, String> {
    match value {
        Value::Double(value) => Ok(*value),
        Value::String(text) => match text.as_str() {
            "NaN" => Ok(f64::NAN),
            "Infinity" => Ok(f64::INFINITY),
            "-Infinity" => Ok(f64::NEG_INFINITY),
            _ => Err(format!("{clause} clause can only be used on doubles, was given string")),
        },
        other => Err(format!("{clause} clause can only be used on doubles, was given {}", other.type_name())),
    }
}

/// With commas between the thousands.
fn fixed(value: f64, precision: usize) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "∞" } else { "-∞" }.to_owned();
    }
    let text = format!("{:.precision$}", value.abs());
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let mut out = if value.is_sign_negative() { "-".to_owned() } else { String::new() };
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if !fraction.is_empty() {
        out.push('.');
        out.push_str(fraction);
    }
    out
}

/// With the exponent as a power of ten.
fn scientific(value: f64) -> String {
    if !value.is_finite() {
        return fixed(value, PRECISION);
    }
    let text = format!("{value:.PRECISION$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, digits) = match exponent.strip_prefix('-') {
        Some(digits) => ("⁻", digits),
        None => ("", exponent),
    };
    let raised: String = format!("{digits:0>2}")
        .chars()
        .map(|digit| {
            ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'][digit.to_digit(10).unwrap_or(0) as usize]
        })
        .collect();
    format!("{mantissa}×10{sign}{raised}")
}

fn decimal(value: &Value<'_>) -> Formatted {
    match value {
        Value::Int(value) => Ok(value.to_string()),
        Value::Uint(value) => Ok(value.to_string()),
        other => Err(unsuitable('d', other.type_name())),
    }
}

fn string(value: &Value<'_>, depth: usize) -> Formatted {
    match value {
        Value::List(_) | Value::Map(_) => collection(value, depth),
        Value::Null => Ok("null".to_owned()),
        Value::Int(_)
        | Value::Uint(_)
        | Value::Double(_)
        | Value::Bool(_)
        | Value::String(_)
        | Value::Bytes(_)
        | Value::Timestamp(_)
        | Value::Duration(_)
        | Value::Type(_) => super::convert::string_of(value).map_err(|_| {
            // Bytes that are no text.
            "could not convert argument \"invalid UTF-8 in bytes, cannot convert to string\" to string"
                .to_owned()
        }),
        other => Err(unsuitable('s', other.type_name())),
    }
}

fn collection(value: &Value<'_>, depth: usize) -> Formatted {
    if depth > MAX_DEPTH {
        return Err("value is nested too deeply".to_owned());
    }
    match value {
        Value::List(list) => {
            let items: Result<Vec<String>, String> = list
                .iter()
                .map(|item| member(&item.map_err(|problem| problem.to_string())?, depth + 1))
                .collect();
            Ok(format!("[{}]", items?.join(", ")))
        }
        Value::Map(map) => {
            let mut entries = Vec::new();
            for (key, value) in map.entries() {
                let value = value.map_err(|problem| problem.to_string())?;
                let key = match &key {
                    Value::String(text) => quote(text.as_str()),
                    other => string(other, depth)?,
                };
                entries.push((key, member(&value, depth + 1)?));
            }
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            let entries: Vec<String> = entries.iter().map(|(key, value)| format!("{key}:{value}")).collect();
            Ok(format!("{{{}}}", entries.join(", ")))
        }
        other => string(other, depth),
    }
}

/// A member of a collection, as a literal.
fn member(value: &Value<'_>, depth: usize) -> Formatted {
    match value {
        Value::Int(_) | Value::Uint(_) => decimal(value),
        Value::String(text) => Ok(quote(text.as_str())),
        Value::Bytes(_) => Ok(format!("b{}", quote(&string(value, depth)?))),
        Value::Timestamp(timestamp) => Ok(format!("timestamp({})", quote(&time::timestamp_text(timestamp)))),
        Value::Duration(nanos) => Ok(format!("duration({})", quote(&time::duration_text(*nanos)))),
        Value::Double(value) if !value.is_finite() => Ok(quote(&number::double_text(*value))),
        Value::Double(value) => Ok(format!("{value:.PRECISION$}")),
        Value::List(_) | Value::Map(_) => collection(value, depth),
        Value::Bool(_) | Value::Null | Value::Type(_) => string(value, depth),
        other => Err(format!("no formatting function for {}", other.type_name())),
    }
}
