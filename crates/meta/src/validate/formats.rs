//! Formats of single texts.
//!
//! The regular expressions stand in the messages only; the checks are written out, because labels and names
//! are checked on every write.

use std::net::{IpAddr, Ipv4Addr};

const LABEL_FMT: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN_FMT: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const SUBDOMAIN_MSG: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";
const LABEL_KEY_FMT: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const LABEL_KEY_MSG: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";

/// The message about a text that does not match a regular expression.
pub fn regex_error(message: &str, format: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{message} (regex used for validation is '{format}')");
    }
    let examples: Vec<String> = examples.iter().map(|example| format!("'{example}', ")).collect();
    format!("{message} (e.g. {}regex used for validation is '{format}')", examples.join(" or "))
}

/// The message about a text that is too long.
pub fn max_len_error(max: usize) -> String {
    format!("must be no more than {max} characters")
}

/// The message about a number that is out of range.
pub fn inclusive_range_error(min: i64, max: i64) -> String {
    format!("must be between {min} and {max}, inclusive")
}

fn is_lower_alnum(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

/// `first` holds for the first byte, `last` for the last, `inner` for all between; not empty.
fn is_word(text: &[u8], first: fn(u8) -> bool, inner: fn(u8) -> bool, last: fn(u8) -> bool) -> bool {
    match text {
        [] => false,
        [only] => first(*only) && (last(*only) || text.len() == 1),
        [head, middle @ .., tail] => first(*head) && middle.iter().all(|b| inner(*b)) && last(*tail),
    }
}

fn is_label_1123(text: &[u8]) -> bool {
    is_word(text, is_lower_alnum, |b| is_lower_alnum(b) || b == b'-', is_lower_alnum)
}

fn is_subdomain_1123(text: &[u8]) -> bool {
    text.split(|b| *b == b'.').all(is_label_1123)
}

fn is_label_key_name(text: &[u8]) -> bool {
    is_word(
        text,
        |b| b.is_ascii_alphanumeric(),
        |b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'),
        |b| b.is_ascii_alphanumeric(),
    )
}

/// A DNS label of RFC 1123: at most 63 characters, no dots.
pub fn dns1123_label(value: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if value.len() > 63 {
        messages.push(max_len_error(63));
    }
    if !is_label_1123(value.as_bytes()) {
        messages.push(if is_subdomain_1123(value.as_bytes()) {
            "must not contain dots".to_owned()
        } else {
            regex_error(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character",
                LABEL_FMT,
                &["my-name", "123-abc"],
            )
        });
    }
    messages
}

/// A DNS subdomain of RFC 1123: labels joined by dots, at most 253 characters.
pub fn dns1123_subdomain(value: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if value.len() > 253 {
        messages.push(max_len_error(253));
    }
    if !is_subdomain_1123(value.as_bytes()) {
        messages.push(regex_error(SUBDOMAIN_MSG, SUBDOMAIN_FMT, &["example.com"]));
    }
    messages
}

/// A DNS subdomain that may have underscores too.
pub fn dns1123_subdomain_with_underscore(value: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if value.len() > 253 {
        messages.push(max_len_error(253));
    }
    let is_label = |label: &[u8]| {
        let rest = label.strip_prefix(b"_").unwrap_or(label);
        is_word(rest, is_lower_alnum, |b| is_lower_alnum(b) || matches!(b, b'-' | b'_'), is_lower_alnum)
    };
    if !value.as_bytes().split(|b| *b == b'.').all(is_label) {
        messages.push(regex_error(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character",
            r"_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*",
            &["example.com"],
        ));
    }
    messages
}

/// A DNS label of RFC 1035: begins with a letter.
pub fn dns1035_label(value: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if value.len() > 63 {
        messages.push(max_len_error(63));
    }
    if !is_word(
        value.as_bytes(),
        |b| b.is_ascii_lowercase(),
        |b| is_lower_alnum(b) || b == b'-',
        is_lower_alnum,
    ) {
        messages.push(regex_error(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character",
            "[a-z]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "abc-123"],
        ));
    }
    messages
}

/// A subdomain whose first label is `*`.
pub fn wildcard_dns1123_subdomain(value: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if value.len() > 253 {
        messages.push(max_len_error(253));
    }
    if !value.strip_prefix("*.").is_some_and(|rest| is_subdomain_1123(rest.as_bytes())) {
        messages.push(regex_error(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
            r"\*\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*",
            &["*.example.com"],
        ));
    }
    messages
}

/// The key of a label or annotation: an optional subdomain and `/`, then a name of at most 63 bytes.
pub fn qualified_name(value: &str) -> Vec<String> {
    let key_error = || regex_error(LABEL_KEY_MSG, LABEL_KEY_FMT, &["MyName", "my.name", "123-abc"]);
    let mut messages = Vec::new();
    let name = match value.split_once('/') {
        None => value,
        Some((_, rest)) if rest.contains('/') => {
            messages.push(format!(
                "a valid label key {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                key_error()
            ));
            return messages;
        }
        Some((prefix, name)) => {
            if prefix.is_empty() {
                messages.push("prefix part must be non-empty".to_owned());
            } else {
                if prefix.len() > 253 {
                    messages.push("prefix part must be no more than 253 bytes".to_owned());
                }
                if !is_subdomain_1123(prefix.as_bytes()) {
                    messages.push(format!(
                        "prefix part {}",
                        regex_error(SUBDOMAIN_MSG, SUBDOMAIN_FMT, &["example.com"])
                    ));
                }
            }
            name
        }
    };
    if name.is_empty() {
        messages.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        messages.push("name part must be no more than 63 bytes".to_owned());
    }
    if !is_label_key_name(name.as_bytes()) {
        messages.push(format!("name part {}", key_error()));
    }
    messages
}

/// The value of a label: empty, or at most 63 bytes.
pub fn label_value(value: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if value.len() > 63 {
        messages.push("must be no more than 63 bytes".to_owned());
    }
    if !value.is_empty() && !is_label_key_name(value.as_bytes()) {
        messages.push(regex_error(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
            &format!("({LABEL_KEY_FMT})?"),
            &["MyValue", "my_value", "12345"],
        ));
    }
    messages
}

/// A port number: 1 to 65535.
pub fn port_num(port: i64) -> Vec<String> {
    in_range(port, 1, 65535)
}

/// A number within inclusive bounds.
pub fn in_range(value: i64, min: i64, max: i64) -> Vec<String> {
    if (min..=max).contains(&value) { Vec::new() } else { vec![inclusive_range_error(min, max)] }
}

/// A Unix user id.
pub fn user_id(uid: i64) -> Vec<String> {
    in_range(uid, 0, i64::from(i32::MAX))
}

/// A Unix group id.
pub fn group_id(gid: i64) -> Vec<String> {
    in_range(gid, 0, i64::from(i32::MAX))
}

/// The name of a port: an IANA service name of at most 15 characters with a letter in it.
pub fn port_name(value: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if value.len() > 15 {
        messages.push(max_len_error(15));
    }
    if value.is_empty() || !value.bytes().all(|b| is_lower_alnum(b) || b == b'-') {
        messages.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !value.bytes().any(|b| b.is_ascii_lowercase()) {
        messages.push("must contain at least one letter (a-z)".to_owned());
    }
    if value.contains("--") {
        messages.push("must not contain consecutive hyphens".to_owned());
    }
    if value.starts_with('-') || value.ends_with('-') {
        messages.push("must not begin or end with a hyphen".to_owned());
    }
    messages
}

/// A percentage, such as `25%`.
pub fn percent(value: &str) -> Vec<String> {
    match value.strip_suffix('%') {
        Some(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => Vec::new(),
        _ => vec![regex_error(
            "a valid percent string must be a numeric string followed by an ending '%'",
            "[0-9]+%",
            &["1%", "93%"],
        )],
    }
}

/// The name of an HTTP header.
pub fn http_header_name(value: &str) -> Vec<String> {
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Vec::new();
    }
    vec![regex_error(
        "a valid HTTP header must consist of alphanumeric characters or '-'",
        "[-A-Za-z0-9]+",
        &["X-Header-Name"],
    )]
}

/// The path of a URL as RFC 3986 allows it.
pub fn http_path(value: &str) -> Vec<String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b);
    if !value.is_empty() && value.bytes().all(allowed) {
        return Vec::new();
    }
    vec![regex_error("Invalid path", r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+", &[])]
}

fn dots(value: &str) -> Option<String> {
    match value {
        "." => Some("must not be '.'".to_owned()),
        ".." => Some("must not be '..'".to_owned()),
        _ if value.starts_with("..") => Some("must not start with '..'".to_owned()),
        _ => None,
    }
}

/// The name of an environment variable: printable ASCII without `=` (what 1.36 asks for; see also
/// [`strict_env_var_name`]).
pub fn env_var_name(value: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if value.is_empty() {
        messages.push("environment variable name must be non-empty".to_owned());
    }
    if !value.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=') {
        messages.push(
            "a valid environment variable name must consist only of printable ASCII characters other than '='"
                .to_owned(),
        );
    }
    messages
}

/// The name of an environment variable by the older, stricter rule.
pub fn strict_env_var_name(value: &str) -> Vec<String> {
    let mut messages = Vec::new();
    let letter = |b: u8| b.is_ascii_alphabetic() || matches!(b, b'-' | b'.' | b'_');
    let bytes = value.as_bytes();
    if !bytes.first().is_some_and(|b| letter(*b)) || !bytes.iter().all(|b| letter(*b) || b.is_ascii_digit()) {
        messages.push(regex_error(
            "a valid environment variable name must consist of alphabetic characters, digits, '_', '-', or '.', and must not start with a digit",
            "[-._a-zA-Z][-._a-zA-Z0-9]*",
            &["my.env-name", "MY_ENV.NAME", "MyEnvName1"],
        ));
    }
    messages.extend(dots(value));
    messages
}

/// A key of a ConfigMap or Secret.
pub fn config_map_key(value: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if value.len() > 253 {
        messages.push(max_len_error(253));
    }
    if value.is_empty()
        || !value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
    {
        messages.push(regex_error(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    messages.extend(dots(value));
    messages
}

/// An identifier of the language C.
pub fn c_identifier(value: &str) -> Vec<String> {
    let letter = |b: u8| b.is_ascii_alphabetic() || b == b'_';
    let bytes = value.as_bytes();
    if bytes.first().is_some_and(|b| letter(*b)) && bytes.iter().all(|b| letter(*b) || b.is_ascii_digit()) {
        return Vec::new();
    }
    vec![regex_error(
        "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_'",
        "[A-Za-z_][A-Za-z0-9_]*",
        &["my_name", "MY_NAME", "MyName"],
    )]
}

/// A name that is fit to be one segment of a URL path.
pub fn path_segment_name(value: &str) -> Vec<String> {
    match value {
        "." | ".." => vec![format!("may not be '{value}'")],
        _ => path_segment_prefix(value),
    }
}

/// The beginning of a name that is fit to be one segment of a URL path.
pub fn path_segment_prefix(value: &str) -> Vec<String> {
    ["/", "%"]
        .iter()
        .filter(|part| value.contains(**part))
        .map(|part| format!("may not contain '{part}'"))
        .collect()
}

/// A name's check applied to the beginning of a generated name: what follows makes a trailing dash fine.
pub fn mask_trailing_dash(name: &str) -> std::borrow::Cow<'_, str> {
    match name.strip_suffix('-') {
        // Upstream replaces the last two characters by a single letter, and so must we: `a..-` stays wrong.
        Some(rest) if !rest.is_empty() => {
            let mut masked = rest.to_owned();
            masked.pop();
            masked.push('a');
            masked.into()
        }
        _ => name.into(),
    }
}

const IP_MSG: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const CIDR_MSG: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

/// An IPv4 address whose numbers may have leading zeros, which older Go versions took.
fn parse_sloppy_ipv4(value: &str) -> Option<Ipv4Addr> {
    let mut octets = [0; 4];
    let mut parts = value.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        if part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let digits = part.trim_start_matches('0');
        *octet = if digits.is_empty() { 0 } else { digits.parse().ok()? };
    }
    parts.next().is_none().then(|| Ipv4Addr::from(octets))
}

/// An address as upstream reads fields of older kinds: IPv4 numbers may have leading zeros.
pub fn parse_ip_sloppy(value: &str) -> Option<IpAddr> {
    match value.parse::<IpAddr>() {
        Ok(ip) => Some(ip),
        Err(_) => parse_sloppy_ipv4(value).map(IpAddr::V4),
    }
}

fn is_mapped(ip: &IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some())
}

/// An address as Go prints it: IPv4-mapped IPv6 addresses as IPv4.
fn canonical(ip: IpAddr) -> String {
    ip.to_canonical().to_string()
}

/// An IP address in a field of an older kind: anything Go ever took.
pub fn ip_legacy(value: &str) -> Vec<String> {
    if parse_ip_sloppy(value).is_some() { Vec::new() } else { vec![IP_MSG.to_owned()] }
}

/// An IP address without leading zeros, not IPv4-mapped.
pub fn ip_strict(value: &str) -> Vec<String> {
    match value.parse::<IpAddr>() {
        Ok(ip) if is_mapped(&ip) => vec!["must not be an IPv4-mapped IPv6 address".to_owned()],
        Ok(_) => Vec::new(),
        Err(_) if parse_ip_sloppy(value).is_some() => vec!["must not have leading 0s".to_owned()],
        Err(_) => vec![IP_MSG.to_owned()],
    }
}

/// An IP address in canonical form.
pub fn ip(value: &str) -> Vec<String> {
    let messages = ip_strict(value);
    match value.parse::<IpAddr>() {
        Ok(ip) if messages.is_empty() && canonical(ip) != value => {
            vec![format!("must be in canonical form ({})", crate::go::quote(&canonical(ip)))]
        }
        _ => messages,
    }
}

/// Address and prefix length of a CIDR, with what is sloppy about it.
fn parse_cidr_sloppy(value: &str) -> Option<(IpAddr, u8, bool)> {
    let (address, prefix) = value.split_once('/')?;
    let ip = parse_ip_sloppy(address)?;
    if prefix.is_empty() || !prefix.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let length = prefix.parse::<u8>().ok()?;
    let max = if ip.is_ipv4() { 32 } else { 128 };
    let zeros = (prefix.len() > 1 && prefix.starts_with('0')) || address.parse::<IpAddr>().is_err();
    (length <= max).then_some((ip, length, zeros))
}

/// The address with all bits beyond the prefix cleared.
pub fn mask_ip(ip: IpAddr, length: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length.min(32))).unwrap_or(0);
            IpAddr::V4((ip.to_bits() & mask).into())
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length.min(128))).unwrap_or(0);
            IpAddr::V6((ip.to_bits() & mask).into())
        }
    }
}

/// A CIDR in a field of an older kind: anything Go ever took.
pub fn cidr_legacy(value: &str) -> Vec<String> {
    if parse_cidr_sloppy(value).is_some() { Vec::new() } else { vec![CIDR_MSG.to_owned()] }
}

/// A CIDR without leading zeros, not IPv4-mapped, without bits beyond its prefix.
pub fn cidr_strict(value: &str) -> Vec<String> {
    let message = match parse_cidr_sloppy(value) {
        None => CIDR_MSG,
        Some((_, _, true)) => "must not have leading 0s in IP or prefix length",
        Some((ip, _, _)) if is_mapped(&ip) => "must not have an IPv4-mapped IPv6 address",
        Some((ip, length, _)) if mask_ip(ip, length) != ip => {
            "must not have bits set beyond the prefix length"
        }
        Some(_) => return Vec::new(),
    };
    vec![message.to_owned()]
}

/// A CIDR in canonical form.
pub fn cidr(value: &str) -> Vec<String> {
    let messages = cidr_strict(value);
    match parse_cidr_sloppy(value) {
        Some((ip, length, _)) if messages.is_empty() && format!("{ip}/{length}") != value => {
            vec![format!("must be in canonical form ({})", crate::go::quote(&format!("{ip}/{length}")))]
        }
        _ => messages,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A check over one text.
    type Check = fn(&str) -> Vec<String>;

    #[test]
    fn texts_are_taken_or_refused() {
        let long = "a".repeat(64);
        let tables: &[(&str, Check, &[&str], &[&str])] = &[
            (
                "label",
                dns1123_label,
                &["a", "0", "a-b", "123-abc"],
                &["", "-a", "a-", "A", "a.b", "a_b", &long],
            ),
            ("subdomain", dns1123_subdomain, &["a", "a.b-c.d", &long], &["", ".", "a.", ".a", "a..b", "A.b"]),
            ("1035", dns1035_label, &["a", "a1", "a-1"], &["", "1a", "a-", "A"]),
            ("underscore", dns1123_subdomain_with_underscore, &["_a.b_c"], &["__a", "a_"]),
            ("wildcard", wildcard_dns1123_subdomain, &["*.a.b"], &["*", "*.", "*a.b", "a.*.b"]),
            (
                "label key",
                qualified_name,
                &["a", "A.b_c-d", "example.com/Name", "1/2"],
                &["", "/a", "a/", "a/b/c", "-a", "a-", "Example.com/a", &long],
            ),
            ("label value", label_value, &["", "a", "A.b_c-d"], &["-a", "a-", "a/b", " ", &long]),
            (
                "port name",
                port_name,
                &["http", "a-1"],
                &["", "1", "-a", "a-", "a--b", "A", "a234567890123456"],
            ),
            ("percent", percent, &["1%", "100%"], &["", "%", "1", "-1%", "1.5%"]),
            ("header", http_header_name, &["X-A"], &["", "a b", "a_b"]),
            ("path", http_path, &["/a/b%20"], &["", "/a b", "/a?b"]),
            ("env", env_var_name, &["A", "1 x", "a.b"], &["", "a=b", "é"]),
            ("strict env", strict_env_var_name, &["A", "a.b", ".a"], &["", "1a", "..a", "."]),
            ("config key", config_map_key, &["a", "a.b", ".a"], &["", "..", "..a", "a/b"]),
            ("C", c_identifier, &["a", "_1"], &["", "1a", "a-b"]),
            ("segment", path_segment_name, &["a", "a:b", ""], &[".", "..", "a/b", "a%b"]),
            (
                "ip",
                ip,
                &["10.0.0.1", "::1", "fe80::1"],
                &["", "010.0.0.1", "::FFFF", "::ffff:1.2.3.4", "1.2.3"],
            ),
            ("legacy ip", ip_legacy, &["010.0.0.1", "::FFFF"], &["", "256.0.0.1", "1.2.3"]),
            (
                "cidr",
                cidr,
                &["10.0.0.0/8", "0.0.0.0/0", "fd00::/64"],
                &["10.0.0.0", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/08", "FD00::/64", "10.0.0.0/"],
            ),
        ];
        for (name, check, fine, wrong) in tables {
            for text in *fine {
                assert_eq!(check(text), [""; 0], "{name} {text:?}");
            }
            for text in *wrong {
                assert!(!check(text).is_empty(), "{name} {text:?}");
            }
        }
    }

    #[test]
    fn messages_are_upstreams() {
        for (got, want) in [
            (
                dns1123_label("A"),
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
            ),
            (dns1123_label("a.b"), "must not contain dots"),
            (
                dns1123_subdomain("A"),
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
            ),
            (
                qualified_name("a b"),
                "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
            ),
            (
                label_value("a b"),
                "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
            ),
            (port_num(0), "must be between 1 and 65535, inclusive"),
            (ip("::FFFF"), "must be in canonical form (\"::ffff\")"),
        ] {
            assert_eq!(got, [want]);
        }
        assert_eq!(mask_trailing_dash("web-"), "wea");
        assert_eq!(mask_trailing_dash("-"), "-");
    }
}
