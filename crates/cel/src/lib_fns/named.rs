//! Named formats: the library `format` (KEP-2876).

use super::opaque::Opaque;
use super::{Args, Outcome, no_overload, text, time, url};
use crate::error::EvalError;
use crate::value::Value;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use knarr_meta::validate as checks;

/// A format by its name.
#[derive(Debug)]
pub(crate) struct NamedFormat {
    /// The name of the function that gives it.
    pub function: &'static str,
    pub name: &'static str,
    /// The length of the pattern that costs are counted by.
    pub pattern_length: u64,
    check: fn(&str) -> Vec<String>,
}

fn prefix(text: &str, check: fn(&str) -> Vec<String>) -> Vec<String> {
    check(&checks::mask_trailing_dash(text))
}

fn said(valid: bool, otherwise: &str) -> Vec<String> {
    if valid { Vec::new() } else { vec![otherwise.to_owned()] }
}

fn is_uuid(text: &str) -> bool {
    let mut rest = text;
    for (index, length) in [8, 4, 4, 4, 12].into_iter().enumerate() {
        if index > 0 {
            rest = rest.strip_prefix('-').unwrap_or(rest);
        }
        match rest.get(..length) {
            Some(digits) if digits.bytes().all(|b| b.is_ascii_hexdigit()) => rest = &rest[length..],
            _ => return false,
        }
    }
    rest.is_empty()
}

/// All the formats.
static ALL: [NamedFormat; 13] = [
    NamedFormat {
        function: "format.dns1123Label",
        name: "DNS1123Label",
        pattern_length: 30,
        check: checks::dns1123_label,
    },
    NamedFormat {
        function: "format.dns1123Subdomain",
        name: "DNS1123Subdomain",
        pattern_length: 60,
        check: checks::dns1123_subdomain,
    },
    NamedFormat {
        function: "format.dns1035Label",
        name: "DNS1035Label",
        pattern_length: 30,
        check: checks::dns1035_label,
    },
    NamedFormat {
        function: "format.qualifiedName",
        name: "QualifiedName",
        pattern_length: 60,
        check: checks::qualified_name,
    },
    NamedFormat {
        function: "format.dns1123LabelPrefix",
        name: "DNS1123LabelPrefix",
        pattern_length: 30,
        check: |text| prefix(text, checks::dns1123_label),
    },
    NamedFormat {
        function: "format.dns1123SubdomainPrefix",
        name: "DNS1123SubdomainPrefix",
        pattern_length: 60,
        check: |text| prefix(text, checks::dns1123_subdomain),
    },
    NamedFormat {
        function: "format.dns1035LabelPrefix",
        name: "DNS1035LabelPrefix",
        pattern_length: 30,
        check: |text| prefix(text, checks::dns1035_label),
    },
    NamedFormat {
        function: "format.labelValue",
        name: "LabelValue",
        pattern_length: 40,
        check: checks::label_value,
    },
    NamedFormat {
        function: "format.uri",
        name: "URI",
        pattern_length: 1103,
        check: |text| url::problem(text).into_iter().collect(),
    },
    NamedFormat {
        function: "format.uuid",
        name: "uuid",
        pattern_length: 70,
        check: |text| said(is_uuid(text), "does not match the UUID format"),
    },
    NamedFormat {
        function: "format.byte",
        name: "byte",
        pattern_length: 84,
        check: |text| said(!text.is_empty() && STANDARD.decode(text).is_ok(), "invalid base64"),
    },
    NamedFormat {
        function: "format.date",
        name: "date",
        pattern_length: 71,
        check: |text| said(time::parse_date(text).is_ok(), "invalid date"),
    },
    NamedFormat {
        function: "format.datetime",
        name: "datetime",
        pattern_length: 71,
        check: |text| said(is_date_time(text), "invalid datetime"),
    },
];

/// The date and time of the OpenAPI format `date-time`, which must have an offset and may have a leap second.
fn is_date_time(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let Some((date, clock)) = lower.split_once('t') else { return false };
    if time::parse_date(date).is_err() {
        return false;
    }
    let bytes = clock.as_bytes();
    let pair = |at: usize, most: u8| {
        bytes.get(at..at + 2).is_some_and(|pair| {
            pair.iter().all(u8::is_ascii_digit) && (pair[0] - b'0') * 10 + (pair[1] - b'0') <= most
        })
    };
    if !(pair(0, 23)
        && bytes.get(2) == Some(&b':')
        && pair(3, 59)
        && bytes.get(5) == Some(&b':')
        && pair(6, 59))
    {
        return false;
    }
    let rest = &clock[8..];
    let rest = match rest.char_indices().nth(1) {
        Some((at, c)) if c.is_ascii_digit() && !rest.starts_with(['z', '+', '-']) => {
            rest[at..].trim_start_matches(|c: char| c.is_ascii_digit())
        }
        _ => rest,
    };
    let offset = rest.as_bytes();
    rest == "z"
        || (offset.len() == 6
            && matches!(offset[0], b'+' | b'-')
            && offset[3] == b':'
            && [1, 2, 4, 5].iter().all(|at| offset[*at].is_ascii_digit()))
}

/// The format that a function without arguments gives.
pub(super) fn constant(function: &str) -> Option<&'static NamedFormat> {
    ALL.iter().find(|format| format.function == function)
}

pub(super) fn named<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    let name = text(&args[0])?;
    let found = ALL.iter().find(|format| format.function.strip_prefix("format.") == Some(name));
    Ok(match found {
        Some(format) => Value::some(Value::opaque(Opaque::Format(format))),
        None => Value::none(),
    })
}

/// The format of a value, if it is one.
pub(crate) fn format_of(value: &Value<'_>) -> Option<&'static NamedFormat> {
    match value {
        Value::Opaque(opaque) => match &opaque.0 {
            Opaque::Format(format) => Some(format),
            _ => None,
        },
        _ => None,
    }
}

pub(super) fn validate<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    let format: Result<_, EvalError> = format_of(&args[0]).ok_or_else(no_overload);
    let problems = (format?.check)(text(&args[1])?);
    if problems.is_empty() {
        return Ok(Value::none());
    }
    Ok(Value::some(Value::list(problems.into_iter().map(Value::text).collect())))
}
