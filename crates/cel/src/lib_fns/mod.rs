//! The functions: what each name of the table in `check/functions.tsv` does. A function looks at the types of its
//! arguments itself, since the overload is not always known before.

pub(crate) mod authz;
pub(crate) mod convert;
pub(crate) mod format;
mod lists;
pub(crate) mod named;
mod net;
pub(crate) mod number;
pub(crate) mod opaque;
pub(crate) mod ops;
pub(crate) mod pattern;
mod quantity;
pub(crate) mod semver;
pub(crate) mod strings;
pub(crate) mod time;
mod url;
mod zone;
mod zone_rule;

pub(crate) use lists::sum;

use crate::error::EvalError;
use crate::value::{Value, literal};
use opaque::Opaque;

/// The arguments of a call; a receiver comes first.
pub(crate) type Args<'v, 'a> = &'v mut [Value<'a>];
/// What a call gives.
pub(crate) type Outcome<'a> = Result<Value<'a>, EvalError>;
/// A function.
pub(crate) type Function = for<'v, 'a> fn(Args<'v, 'a>) -> Outcome<'a>;

fn no_overload() -> EvalError {
    EvalError::no_such_overload()
}

fn text<'v>(value: &'v Value<'_>) -> Result<&'v str, EvalError> {
    value.as_str().ok_or_else(no_overload)
}

fn int(value: &Value<'_>) -> Result<i64, EvalError> {
    match value {
        Value::Int(value) => Ok(*value),
        _ => Err(no_overload()),
    }
}

/// A value as Go prints it with `%v`: texts bare.
pub(crate) fn plain(value: &Value<'_>) -> String {
    match value {
        Value::String(text) => text.as_str().to_owned(),
        Value::Uint(value) => value.to_string(),
        Value::Double(value) => number::double_text(*value),
        other => literal(other),
    }
}

macro_rules! parts {
    ($($function:ident => $name:literal),* $(,)?) => {
        $(fn $function<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
            ops::time_part($name, args)
        })*
    };
}

parts! {
    get_full_year => "getFullYear",
    get_month => "getMonth",
    get_day_of_year => "getDayOfYear",
    get_day_of_month => "getDayOfMonth",
    get_date => "getDate",
    get_day_of_week => "getDayOfWeek",
    get_hours => "getHours",
    get_minutes => "getMinutes",
    get_seconds => "getSeconds",
    get_milliseconds => "getMilliseconds",
}

fn map_insert<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    let Value::Map(map) = &args[0] else { return Err(no_overload()) };
    let mut copy = crate::value::Map::new();
    for (key, value) in map.entries() {
        ops::map_insert(&mut copy, &[key, value?])?;
    }
    ops::map_insert(&mut copy, &args[1..])?;
    Ok(Value::map(copy))
}

/// What a function without arguments gives.
pub(crate) fn constant(name: &str) -> Option<Value<'static>> {
    match name {
        "optional.none" => Some(Value::none()),
        _ => named::constant(name).map(|format| Value::opaque(Opaque::Format(format))),
    }
}

/// The function of a name; none for operators that the evaluator knows itself.
pub(crate) fn function(name: &str) -> Option<Function> {
    Some(match name {
        "!_" => ops::not,
        "-_" => ops::negate,
        "_+_" => ops::add,
        "_-_" => ops::subtract,
        "_*_" => ops::multiply,
        "_/_" => ops::divide,
        "_%_" => ops::modulo,
        "_<_" => ops::less,
        "_<=_" => ops::less_equals,
        "_>_" => ops::greater,
        "_>=_" => ops::greater_equals,
        "@in" => ops::is_in,
        "size" => ops::size,
        "cel.@mapInsert" => map_insert,
        "bool" => convert::to_bool,
        "bytes" => convert::to_bytes,
        "double" => convert::to_double,
        "duration" => convert::to_duration,
        "dyn" => convert::identity,
        "int" => convert::to_int,
        "string" => convert::to_string,
        "timestamp" => convert::to_timestamp,
        "type" => convert::type_of,
        "uint" => convert::to_uint,
        "contains" => strings::contains,
        "startsWith" => strings::starts_with,
        "endsWith" => strings::ends_with,
        "matches" => strings::matches,
        "find" => strings::find,
        "findAll" => strings::find_all,
        "charAt" => strings::char_at,
        "lowerAscii" => strings::lower_ascii,
        "upperAscii" => strings::upper_ascii,
        "replace" => strings::replace,
        "split" => strings::split,
        "join" => strings::join,
        "substring" => strings::substring,
        "trim" => strings::trim,
        "strings.quote" => strings::quote,
        "format" => format::format,
        "jsonpatch.escapeKey" => strings::escape_key,
        "indexOf" => lists::index_of,
        "lastIndexOf" => lists::last_index_of,
        "isSorted" => lists::is_sorted,
        "min" => lists::min,
        "max" => lists::max,
        "slice" => lists::slice,
        "flatten" => lists::flatten,
        "sort" => lists::sort,
        "@sortByAssociatedKeys" => lists::sort_by_associated_keys,
        "lists.range" => lists::range,
        "reverse" => lists::reverse,
        "distinct" => lists::distinct,
        "first" => lists::first,
        "last" => lists::last,
        "sets.contains" => lists::sets_contains,
        "sets.equivalent" => lists::sets_equivalent,
        "sets.intersects" => lists::sets_intersects,
        "optional.of" => lists::optional_of,
        "optional.ofNonZeroValue" => lists::optional_of_non_zero,
        "optional.unwrap" | "unwrapOpt" => lists::unwrap,
        "value" => lists::value,
        "hasValue" => lists::has_value,
        "getFullYear" => get_full_year,
        "getMonth" => get_month,
        "getDayOfYear" => get_day_of_year,
        "getDayOfMonth" => get_day_of_month,
        "getDate" => get_date,
        "getDayOfWeek" => get_day_of_week,
        "getHours" => get_hours,
        "getMinutes" => get_minutes,
        "getSeconds" => get_seconds,
        "getMilliseconds" => get_milliseconds,
        "url" => url::url,
        "isURL" => url::is_url,
        "getScheme" => url::get_scheme,
        "getHost" => url::get_host,
        "getHostname" => url::get_hostname,
        "getPort" => url::get_port,
        "getEscapedPath" => url::get_escaped_path,
        "getQuery" => url::get_query,
        "ip" => net::ip,
        "isIP" => net::is_ip,
        "ip.isCanonical" => net::is_canonical,
        "cidr" => net::cidr,
        "isCIDR" => net::is_cidr,
        "family" => net::family,
        "isUnspecified" => net::is_unspecified,
        "isLoopback" => net::is_loopback,
        "isLinkLocalMulticast" => net::is_link_local_multicast,
        "isLinkLocalUnicast" => net::is_link_local_unicast,
        "isGlobalUnicast" => net::is_global_unicast,
        "containsIP" => net::contains_ip,
        "containsCIDR" => net::contains_cidr,
        "prefixLength" => net::prefix_length,
        "masked" => net::masked,
        "quantity" => quantity::quantity,
        "isQuantity" => quantity::is_quantity,
        "sign" => quantity::sign,
        "isInteger" => quantity::is_integer,
        "asInteger" => quantity::as_integer,
        "asApproximateFloat" => quantity::as_approximate_float,
        "isGreaterThan" => quantity::is_greater_than,
        "isLessThan" => quantity::is_less_than,
        "compareTo" => quantity::compare_to,
        "add" => quantity::add,
        "sub" => quantity::sub,
        "semver" => semver::semver,
        "isSemver" => semver::is_semver,
        "major" => semver::major,
        "minor" => semver::minor,
        "patch" => semver::patch,
        "format.named" => named::named,
        "validate" => named::validate,
        "path" => authz::path,
        "group" => authz::group,
        "serviceAccount" => authz::service_account,
        "resource" => authz::resource,
        "subresource" => authz::subresource,
        "namespace" => authz::namespace,
        "name" => authz::name,
        "fieldSelector" => authz::field_selector,
        "labelSelector" => authz::label_selector,
        "check" => authz::check,
        "allowed" => authz::allowed,
        "reason" => authz::reason,
        "errored" => authz::errored,
        "error" => authz::error,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use crate::check::functions;

    #[test]
    fn every_declared_function_is_there() {
        const KNOWN_TO_THE_EVALUATOR: [&str; 14] = [
            "_&&_",
            "_||_",
            "_?_:_",
            "_==_",
            "_!=_",
            "_[_]",
            "_[?_]",
            "_?._",
            "@not_strictly_false",
            "or",
            "orValue",
            "sum",
            "optional.none",
            "jsonpatch.escapeKey",
        ];
        let missing: Vec<_> = functions::names()
            .filter(|name| super::function(name).is_none() && super::constant(name).is_none())
            .filter(|name| !KNOWN_TO_THE_EVALUATOR.contains(name))
            .collect();
        assert!(missing.is_empty(), "declared but not there: {missing:?}");
    }
}
