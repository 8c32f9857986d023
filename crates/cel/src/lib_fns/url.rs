//! URLs as Go's `net/url` reads them: the library `urls` (KEP-2876).

use super::opaque::Opaque;
use super::{Args, Outcome, no_overload, text};
use crate::error::EvalError;
use crate::value::{Key, Map, Text, Value};
use knarr_meta::go::quote;
use std::fmt;

/// A parsed URL.
#[derive(Clone, Debug, Default)]
pub(crate) struct Url {
    scheme: String,
    /// What follows the scheme of a URL that has no path, such as `mailto:x@y`.
    opaque: String,
    user: Option<String>,
    host: String,
    has_authority: bool,
    path: Vec<u8>,
    raw_path: String,
    query: Option<String>,
    fragment: Option<String>,
}

/// Which characters stand for themselves depends on the part.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    Path,
    Host,
    Query,
    User,
    Fragment,
}

fn plain(byte: u8, part: Part) -> bool {
    if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
        return true;
    }
    match byte {
        b'$' | b'&' | b'+' | b',' | b'/' | b':' | b';' | b'=' | b'?' | b'@' => match part {
            Part::Path => byte != b'?',
            Part::User => !matches!(byte, b'@' | b'/' | b'?' | b':'),
            Part::Fragment => true,
            Part::Host => matches!(byte, b'$' | b'&' | b'+' | b',' | b';' | b'=' | b':'),
            Part::Query => false,
        },
        b'!' | b'(' | b')' | b'*' => matches!(part, Part::Fragment | Part::Host),
        b'\'' | b'[' | b']' | b'<' | b'>' | b'"' => part == Part::Host,
        _ => false,
    }
}

fn escape(bytes: &[u8], part: Part) -> String {
    let mut out = String::with_capacity(bytes.len());
    for byte in bytes {
        if plain(*byte, part) {
            out.push(*byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn hex(byte: u8) -> Option<u8> {
    (byte as char).to_digit(16).map(|digit| digit as u8)
}

fn unescape(raw: &str, part: Part) -> Result<Vec<u8>, String> {
    let bytes = raw.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'%' => {
                let pair =
                    bytes.get(at + 1).copied().and_then(hex).zip(bytes.get(at + 2).copied().and_then(hex));
                let Some((high, low)) = pair else {
                    let end = (at + 3).min(bytes.len());
                    let shown = String::from_utf8_lossy(&bytes[at..end]).into_owned();
                    return Err(format!("invalid URL escape {}", quote(&shown)));
                };
                let value = high * 16 + low;
                if part == Part::Host && value < 0x80 && value != b'%' {
                    return Err(format!("invalid URL escape {}", quote(&raw[at..at + 3])));
                }
                out.push(value);
                at += 3;
            }
            b'+' if part == Part::Query => {
                out.push(b' ');
                at += 1;
            }
            byte => {
                if part == Part::Host && byte < 0x80 && !plain(byte, part) {
                    let c = (byte as char).to_string();
                    return Err(format!("invalid character {} in host name", quote(&c)));
                }
                out.push(byte);
                at += 1;
            }
        }
    }
    Ok(out)
}

/// The scheme and the rest; no scheme is fine, a bad one is not.
fn split_scheme(raw: &str) -> Result<(&str, &str), String> {
    for (at, byte) in raw.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if at == 0 => return Ok(("", raw)),
            b'0'..=b'9' | b'+' | b'-' | b'.' => {}
            b':' if at == 0 => return Err("missing protocol scheme".to_owned()),
            b':' => return Ok((&raw[..at], &raw[at + 1..])),
            _ => return Ok(("", raw)),
        }
    }
    Ok(("", raw))
}

fn valid_port(port: &str) -> bool {
    port.is_empty() || port.strip_prefix(':').is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_digit()))
}

impl Url {
    /// Reads a URL; with `request`, an absolute one or an absolute path, whose fragment is no fragment.
    fn parse(raw: &str, request: bool) -> Result<Self, String> {
        if raw.bytes().any(|b| b < 0x20 || b == 0x7f) {
            return Err("net/url: invalid control character in URL".to_owned());
        }
        if raw.is_empty() && request {
            return Err("empty url".to_owned());
        }
        let mut url = Self::default();
        if raw == "*" {
            url.path = b"*".to_vec();
            return Ok(url);
        }
        let (raw, fragment) = match raw.split_once('#') {
            Some((raw, fragment)) if !request => (raw, Some(fragment)),
            _ => (raw, None),
        };
        url.fragment = match fragment {
            Some(fragment) => {
                Some(String::from_utf8_lossy(&unescape(fragment, Part::Fragment)?).into_owned())
            }
            None => None,
        };
        let (scheme, mut rest) = split_scheme(raw)?;
        url.scheme = scheme.to_ascii_lowercase();
        if let Some((before, query)) = rest.split_once('?') {
            url.query = Some(query.to_owned());
            rest = before;
        }
        if !rest.starts_with('/') {
            if !url.scheme.is_empty() {
                url.opaque = rest.to_owned();
                return Ok(url);
            }
            if request {
                return Err("invalid URI for request".to_owned());
            }
            if rest.split('/').next().is_some_and(|segment| segment.contains(':')) {
                return Err("first path segment in URL cannot contain colon".to_owned());
            }
        }
        let authority = !url.scheme.is_empty() || !rest.starts_with("///");
        if authority && let Some(after) = rest.strip_prefix("//") {
            let end = after.find('/').unwrap_or(after.len());
            url.has_authority = true;
            url.read_authority(&after[..end])?;
            rest = &after[end..];
        }
        url.path = unescape(rest, Part::Path)?;
        if escape(&url.path, Part::Path) != rest {
            url.raw_path = rest.to_owned();
        }
        Ok(url)
    }

    fn read_authority(&mut self, authority: &str) -> Result<(), String> {
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        self.host = read_host(host)?;
        if let Some(user) = user {
            let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&b);
            if !user.bytes().all(allowed) {
                return Err("net/url: invalid userinfo".to_owned());
            }
            let mut shown = Vec::new();
            for part in user.splitn(2, ':') {
                shown.push(escape(&unescape(part, Part::User)?, Part::User));
            }
            self.user = Some(shown.join(":"));
        }
        Ok(())
    }

    fn escaped_path(&self) -> String {
        let valid = |byte: u8| {
            matches!(
                byte,
                b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@'
            ) || matches!(byte, b'[' | b']' | b'%')
                || plain(byte, Part::Path)
        };
        if !self.raw_path.is_empty() && self.raw_path.bytes().all(valid) {
            return self.raw_path.clone();
        }
        if self.path == b"*" {
            return "*".to_owned();
        }
        escape(&self.path, Part::Path)
    }

    /// Host and port apart; brackets do not belong to the host.
    fn host_and_port(&self) -> (&str, &str) {
        let (host, port) = match self.host.rfind(':') {
            Some(colon) if valid_port(&self.host[colon..]) => (&self.host[..colon], &self.host[colon + 1..]),
            _ => (self.host.as_str(), ""),
        };
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        (bare.unwrap_or(host), port)
    }
}

fn read_host(host: &str) -> Result<String, String> {
    if host.starts_with('[') {
        let Some(end) = host.rfind(']') else { return Err("missing ']' in host".to_owned()) };
        let port = &host[end + 1..];
        if !valid_port(port) {
            return Err(format!("invalid port {} after host", quote(port)));
        }
    } else if let Some(colon) = host.rfind(':')
        && !valid_port(&host[colon..])
    {
        return Err(format!("invalid port {} after host", quote(&host[colon..])));
    }
    Ok(String::from_utf8_lossy(&unescape(host, Part::Host)?).into_owned())
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.scheme.is_empty() {
            write!(f, "{}:", self.scheme)?;
        }
        if !self.opaque.is_empty() {
            f.write_str(&self.opaque)?;
        } else {
            if self.has_authority && (!self.scheme.is_empty() || !self.host.is_empty() || self.user.is_some())
            {
                f.write_str("//")?;
                if let Some(user) = &self.user {
                    write!(f, "{user}@")?;
                }
                f.write_str(&escape(self.host.as_bytes(), Part::Host))?;
            }
            let path = self.escaped_path();
            if !path.is_empty() && !path.starts_with('/') && !self.host.is_empty() {
                f.write_str("/")?;
            }
            f.write_str(&path)?;
        }
        if let Some(query) = &self.query {
            write!(f, "?{query}")?;
        }
        match &self.fragment {
            Some(fragment) if !fragment.is_empty() => {
                write!(f, "#{}", escape(fragment.as_bytes(), Part::Fragment))
            }
            _ => Ok(()),
        }
    }
}

/// Why a text is no URI, as the format `uri` says it.
pub(super) fn problem(raw: &str) -> Option<String> {
    Url::parse(raw, true).err().map(|why| format!("parse {}: {why}", quote(raw)))
}

fn read<'v>(value: &'v Value<'_>) -> Result<&'v Url, EvalError> {
    match value {
        Value::Opaque(opaque) => match &opaque.0 {
            Opaque::Url(url) => Ok(url),
            _ => Err(no_overload()),
        },
        _ => Err(no_overload()),
    }
}

pub(super) fn url<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    let raw = text(&args[0])?;
    let parsed = Url::parse(raw, true).and_then(|_| Url::parse(raw, false));
    parsed.map(|url| Value::opaque(Opaque::Url(url))).map_err(|why| {
        EvalError::new(format!("URL parse error during conversion from string: parse {}: {why}", quote(raw)))
    })
}

pub(super) fn is_url<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    Ok(Value::Bool(Url::parse(text(&args[0])?, true).is_ok()))
}

pub(super) fn get_scheme<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    Ok(Value::text(read(&args[0])?.scheme.as_str()))
}

pub(super) fn get_host<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    Ok(Value::text(read(&args[0])?.host.as_str()))
}

pub(super) fn get_hostname<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    Ok(Value::text(read(&args[0])?.host_and_port().0))
}

pub(super) fn get_port<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    Ok(Value::text(read(&args[0])?.host_and_port().1))
}

pub(super) fn get_escaped_path<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    Ok(Value::text(read(&args[0])?.escaped_path()))
}

pub(super) fn get_query<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    let url = read(&args[0])?;
    let mut found: std::collections::BTreeMap<String, Vec<Value<'a>>> = std::collections::BTreeMap::new();
    for pair in url.query.as_deref().unwrap_or_default().split('&') {
        if pair.is_empty() || pair.contains(';') {
            continue;
        }
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (Ok(key), Ok(value)) = (unescape(key, Part::Query), unescape(value, Part::Query)) else {
            continue;
        };
        let key = String::from_utf8_lossy(&key).into_owned();
        let value = Value::text(String::from_utf8_lossy(&value).into_owned());
        found.entry(key).or_default().push(value);
    }
    let entry = |(key, values): (String, Vec<Value<'a>>)| {
        (Key::String(Text::Shared(key.into())), Value::list(values))
    };
    Ok(Value::map(found.into_iter().map(entry).collect::<Map<'a>>()))
}
