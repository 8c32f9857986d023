//! What Go's `url.ParseRequestURI` takes: an absolute URI or an absolute path (RFC 3986, in Go's reading).

/// Whether a text is such a URI.
pub(crate) fn is_request_uri(text: &str) -> bool {
    if text.is_empty() || text.bytes().any(|b| b < 0x20 || b == 0x7f) {
        return false;
    }
    if text == "*" {
        return true;
    }
    let Some((has_scheme, rest)) = split_scheme(text) else { return false };
    let rest = match rest.strip_suffix('?') {
        Some(bare) if rest.matches('?').count() == 1 => bare,
        _ => rest.split_once('?').map_or(rest, |(path, _)| path),
    };
    if !rest.starts_with('/') {
        // `scheme:opaque`; without a scheme it is no request URI.
        return has_scheme;
    }
    let path = match rest.strip_prefix("//") {
        Some(after) if has_scheme => {
            let (authority, path) = after.find('/').map_or((after, ""), |slash| after.split_at(slash));
            if !is_authority(authority) {
                return false;
            }
            path
        }
        _ => rest,
    };
    percent_is_well_formed(path)
}

/// Whether there is a scheme, and what follows it; none where Go misses one before the colon.
fn split_scheme(text: &str) -> Option<(bool, &str)> {
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if at > 0 => {}
            b':' => return if at == 0 { None } else { Some((true, &text[at + 1..])) },
            _ => return Some((false, text)),
        }
    }
    Some((false, text))
}

fn is_authority(authority: &str) -> bool {
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority),
    };
    let user_fine = user.is_none_or(|user| {
        percent_is_well_formed(user)
            && user.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&b))
    });
    user_fine && is_host(host)
}

fn is_host(host: &str) -> bool {
    if let Some(open) = host.find('[') {
        if open > 0 {
            return false;
        }
        let Some(close) = host.rfind(']') else { return false };
        let (literal, port) = (&host[1..close], &host[close + 1..]);
        return is_port(port) && is_ipv6_literal(literal);
    }
    let (name, port) = match host.rfind(':') {
        Some(colon) => host.split_at(colon),
        None => (host, ""),
    };
    is_port(port) && !name.contains(':') && host_characters(name)
}

fn is_ipv6_literal(literal: &str) -> bool {
    let (address, zone) = match literal.split_once("%25") {
        Some((address, zone)) => (address, Some(zone)),
        None => (literal, None),
    };
    address.parse::<std::net::Ipv6Addr>().is_ok()
        && zone.is_none_or(|zone| !zone.is_empty() && percent_is_well_formed(zone))
}

fn is_port(port: &str) -> bool {
    port.is_empty() || port.strip_prefix(':').is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_digit()))
}

/// Hosts may have percent-encoded bytes only beyond ASCII (and `%25`).
fn host_characters(host: &str) -> bool {
    let bytes = host.as_bytes();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        if *byte == b'%' {
            let hex = |at: usize| bytes.get(at).and_then(|b| char::from(*b).to_digit(16));
            let (Some(high), Some(_)) = (hex(at + 1), hex(at + 2)) else { return false };
            if high < 8 && &bytes[at..at + 3] != b"%25" {
                return false;
            }
            at += 3;
            continue;
        }
        let fine =
            !byte.is_ascii() || byte.is_ascii_alphanumeric() || b"!$&'()*+,;=:[]<>\"-_.~".contains(byte);
        if !fine {
            return false;
        }
        at += 1;
    }
    true
}

fn percent_is_well_formed(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes
        .iter()
        .enumerate()
        .filter(|(_, b)| **b == b'%')
        .all(|(at, _)| bytes.get(at + 1..at + 3).is_some_and(|pair| pair.iter().all(u8::is_ascii_hexdigit)))
}
