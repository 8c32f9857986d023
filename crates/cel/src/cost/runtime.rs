//! What a call cost, given its arguments and its result.

use super::{CHECK, Call, LIST, PER_CHAR, PER_PATTERN_CHAR};
use crate::lib_fns::named::format_of;
use crate::value::Value;

/// How a call is counted; found once, when the program is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// The same each time.
    Fixed(u64),
    /// A selector that is parsed.
    Selector,
    /// A walk through the first argument and all in it.
    Traverse,
    /// A walk through the text that is the first argument.
    FirstText,
    /// The same, and a result as long.
    FirstTextTwice,
    /// A result that is written.
    Join,
    /// A pattern (second) run over a text (first).
    Pattern,
    /// The address of a network is at hand; of a text it is parsed.
    ContainsIp {
        parsed: bool,
    },
    ContainsCidr {
        parsed: bool,
    },
    /// A named format's pattern.
    Validate,
    /// The elements of the second argument.
    SecondSize,
    /// The shorter of two.
    Shorter,
    /// Both.
    Both,
    /// A text in a text.
    Contains,
    /// A list of the result's size.
    ListResult,
    Flatten,
    /// Each element of an argument against each.
    SelfCompare(usize),
    /// Each element of one list against each of the other, so many times.
    Sets(u64),
}

/// How a call is counted.
pub(crate) fn rule(call: Call) -> Rule {
    if let Some(rule) = by_overload(call.overload) {
        return rule;
    }
    match call.function {
        "check" => Rule::Fixed(CHECK),
        "fieldSelector" | "labelSelector" => Rule::Selector,
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => Rule::Traverse,
        "url"
        | "lowerAscii"
        | "upperAscii"
        | "substring"
        | "trim"
        | "jsonpatch.escapeKey"
        | "cidr"
        | "isIP"
        | "isCIDR"
        | "quantity"
        | "isQuantity"
        | "semver"
        | "isSemver" => Rule::FirstText,
        "ip" if call.overload == "cidr_ip" => Rule::Fixed(1),
        "ip" => Rule::FirstText,
        "replace" | "split" | "ip.isCanonical" => Rule::FirstTextTwice,
        "join" => Rule::Join,
        "find" | "findAll" => Rule::Pattern,
        "containsIP" => Rule::ContainsIp { parsed: call.overload == "cidr_contains_ip_string" },
        "containsCIDR" => Rule::ContainsCidr { parsed: call.overload == "cidr_contains_cidr_string" },
        "validate" => Rule::Validate,
        _ => match call.overload {
            "starts_with_string" | "ends_with_string" | "string_to_bytes" | "bytes_to_string"
            | "strings_quote" | "string_format" => Rule::FirstText,
            "in_list" => Rule::SecondSize,
            "less_string"
            | "greater_string"
            | "less_equals_string"
            | "greater_equals_string"
            | "less_bytes"
            | "greater_bytes"
            | "less_equals_bytes"
            | "greater_equals_bytes"
            | "equals"
            | "not_equals" => Rule::Shorter,
            "add_string" | "add_bytes" => Rule::Both,
            "matches_string" => Rule::Pattern,
            "contains_string" => Rule::Contains,
            _ => Rule::Fixed(1),
        },
    }
}

/// Overloads of cel-go's list and set extensions.
fn by_overload(overload: &str) -> Option<Rule> {
    Some(match overload {
        "list_slice" | "lists_range" | "list_reverse" => Rule::ListResult,
        "list_flatten" | "list_flatten_int" => Rule::Flatten,
        "list_distinct" => Rule::SelfCompare(0),
        "list_sets_contains_list" | "list_sets_intersects_list" => Rule::Sets(1),
        "list_sets_equivalent_list" => Rule::Sets(2),
        _ if overload.starts_with("list_") && overload.ends_with("_sort") => Rule::SelfCompare(0),
        _ if overload.starts_with("list_") && overload.ends_with("_sortByAssociatedKeys") => {
            Rule::SelfCompare(1)
        }
        _ => return None,
    })
}

/// The size that counts; 1 for what has none.
fn size(value: &Value<'_>) -> u64 {
    value.size().unwrap_or(1) as u64
}

/// The same, looking into optional values.
fn inner_size(value: &Value<'_>) -> u64 {
    match value {
        Value::Optional(Some(value)) => inner_size(value),
        other => size(other),
    }
}

fn walk(size: u64) -> u64 {
    (size as f64 * PER_CHAR).ceil() as u64
}

fn pattern(text: u64, pattern: u64) -> u64 {
    let text = ((1.0 + text as f64) * PER_CHAR).ceil() as u64;
    text * (pattern as f64 * PER_PATTERN_CHAR).ceil() as u64
}

/// The cost of comparing two values.
pub(crate) fn equality(a: &Value<'_>, b: &Value<'_>, negated: bool) -> u64 {
    if let Value::Opaque(_) = a
        && !negated
    {
        return 1;
    }
    walk(inner_size(a).min(inner_size(b)))
}

/// The cost of a call.
pub(crate) fn cost(rule: Rule, args: &[Value<'_>], result: Option<&Value<'_>>) -> u64 {
    let first = || args.first().map_or(1, size);
    let second = || args.get(1).map_or(1, size);
    match rule {
        Rule::Fixed(cost) => cost,
        Rule::Selector => {
            // A requirement takes two characters at least, and a list and an object to hold it.
            let length = second();
            let requirements = (length as f64 * 0.5).ceil();
            LIST + walk(length) + (requirements * (LIST + super::OBJECT) as f64).ceil() as u64
        }
        Rule::Traverse => args.first().map_or(0, |value| traversal(value, 0)),
        Rule::FirstText => walk(args.first().map_or(1, inner_size)),
        Rule::FirstTextTwice => (first() as f64 * 2.0 * PER_CHAR).ceil() as u64,
        Rule::Join => (result.map_or(1, size) as f64 * 2.0 * PER_CHAR).ceil() as u64,
        Rule::Pattern => pattern(first(), second()),
        Rule::ContainsIp { parsed } => walk(first() + first()) + if parsed { walk(second()) } else { 0 },
        Rule::ContainsCidr { parsed } => {
            walk(first() + first()) + walk(first()) + 1 + if parsed { walk(second()) } else { 0 }
        }
        Rule::Validate => match args.first().and_then(format_of) {
            Some(format) => pattern(second(), format.pattern_length),
            None => 1,
        },
        Rule::SecondSize => args.get(1).map_or(1, inner_size),
        Rule::Shorter => walk(args.iter().map(inner_size).min().unwrap_or(1)),
        Rule::Both => walk(args.iter().map(inner_size).sum()),
        Rule::Contains => walk(first()) * walk(second()),
        Rule::ListResult => result.map_or(1, size) + 1 + LIST,
        Rule::Flatten => {
            let depth = match args.get(1) {
                Some(Value::Int(depth)) => *depth as f64,
                _ => 1.0,
            };
            // Go's conversion of a negative number wraps round.
            ((first() as f64 * depth) as i64 as u64).wrapping_add(1 + LIST)
        }
        Rule::SelfCompare(index) => {
            let Some(Value::List(list)) = args.get(index) else { return 1 };
            let count = list.len() as u64;
            let texts =
                list.get(0).is_some_and(|item| matches!(item, Ok(Value::String(_) | Value::Bytes(_))));
            let factor = if texts { 2.0 + PER_CHAR } else { 2.0 };
            (count.saturating_mul(count) as f64 * factor) as u64 + 1 + LIST
        }
        Rule::Sets(factor) => 1 + first().saturating_mul(second()).saturating_mul(factor),
    }
}

/// What a walk through a value costs: every element one, texts by their length.
fn traversal(value: &Value<'_>, depth: usize) -> u64 {
    match value {
        Value::String(text) => (text.as_str().len() as f64 * PER_CHAR) as u64,
        Value::Bytes(bytes) => (bytes.len() as f64 * PER_CHAR) as u64,
        Value::List(list) if depth < 256 => {
            list.iter().map(|item| item.map_or(1, |item| traversal(&item, depth + 1))).sum()
        }
        Value::Map(map) if depth < 256 => map
            .entries()
            .iter()
            .map(|(key, value)| {
                traversal(key, depth + 1) + value.as_ref().map_or(1, |value| traversal(value, depth + 1))
            })
            .sum(),
        _ => 1,
    }
}
