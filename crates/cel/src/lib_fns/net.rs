//! Addresses and networks: the libraries `ip` and `cidr` (KEP-2876), with the texts of Go's `net/netip`.

use super::opaque::Opaque;
use super::{Args, Outcome, no_overload, text};
use crate::error::EvalError;
use crate::value::Value;
use knarr_meta::go::quote;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address and the length of its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cidr {
    pub address: IpAddr,
    pub length: u8,
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

fn bits(address: IpAddr) -> (u128, u8) {
    match address {
        IpAddr::V4(address) => (u128::from(u32::from(address)) << 96, 32),
        IpAddr::V6(address) => (u128::from(address), 128),
    }
}

fn mask(length: u8) -> u128 {
    if length == 0 { 0 } else { u128::MAX << (128 - u32::from(length.min(128))) }
}

impl Cidr {
    fn contains(&self, address: IpAddr) -> bool {
        let ((ours, width), (theirs, other)) = (bits(self.address), bits(address));
        width == other && (ours ^ theirs) & mask(self.length) == 0
    }

    fn overlaps(&self, other: &Cidr) -> bool {
        let shorter = if self.length <= other.length { self } else { other };
        let longer = if self.length <= other.length { other } else { self };
        shorter.contains(longer.address)
    }

    fn masked(&self) -> Cidr {
        let (value, width) = bits(self.address);
        let value = value & mask(self.length);
        let address = match width {
            32 => IpAddr::V4(Ipv4Addr::from((value >> 96) as u32)),
            _ => IpAddr::V6(Ipv6Addr::from(value)),
        };
        Cidr { address, length: self.length }
    }
}

/// Reads an address the way Go does.
fn parse_address(raw: &str) -> Result<IpAddr, String> {
    if let Some((_, zone)) = raw.split_once('%')
        && raw.contains(':')
    {
        return Err(match zone {
            "" => format!(
                "IP Address {} parse error during conversion from string: ParseAddr({}): zone must be a non-empty string",
                quote(raw),
                quote(raw)
            ),
            _ => format!("IP address {} with zone value is not allowed", quote(raw)),
        });
    }
    match raw.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) if address.to_ipv4_mapped().is_some() => {
            Err(format!("IPv4-mapped IPv6 address {} is not allowed", quote(raw)))
        }
        Ok(address) => Ok(address),
        Err(_) => {
            let why = why_no_address(raw);
            Err(format!("IP Address {} parse error during conversion from string: {why}", quote(raw)))
        }
    }
}

/// Why Go's `netip.ParseAddr` does not read a text.
fn why_no_address(raw: &str) -> String {
    let quoted = quote(raw);
    let said = |what: &str| format!("ParseAddr({quoted}): {what}");
    match raw.find(['.', ':', '%']) {
        None => said("unable to parse IP"),
        Some(at) if raw.as_bytes()[at] == b'%' => said("missing IPv6 address"),
        Some(at) if raw.as_bytes()[at] == b'.' => {
            let (mut value, mut digits, mut fields) = (0u32, 0, 0);
            let bytes = raw.as_bytes();
            for (index, byte) in bytes.iter().enumerate() {
                match byte {
                    b'0'..=b'9' => {
                        if digits == 1 && value == 0 {
                            return said("IPv4 field has octet with leading zero");
                        }
                        value = value * 10 + u32::from(byte - b'0');
                        digits += 1;
                        if value > 255 {
                            return said("IPv4 field has value >255");
                        }
                    }
                    b'.' => {
                        if index == 0 || index == bytes.len() - 1 || bytes[index - 1] == b'.' {
                            let rest = quote(&raw[index..]);
                            return format!(
                                "ParseAddr({quoted}): IPv4 field must have at least one digit (at {rest})"
                            );
                        }
                        if fields == 3 {
                            return said("IPv4 address too long");
                        }
                        fields += 1;
                        (value, digits) = (0, 0);
                    }
                    _ => {
                        let rest = quote(&raw[index..]);
                        return format!("ParseAddr({quoted}): unexpected character (at {rest})");
                    }
                }
            }
            said("IPv4 address too short")
        }
        Some(_) => why_no_v6(raw, &quoted),
    }
}

fn why_no_v6(raw: &str, quoted: &str) -> String {
    let said = |what: &str| format!("ParseAddr({quoted}): {what}");
    let at = |what: &str, rest: &str| format!("ParseAddr({quoted}): {what} (at {})", quote(rest));
    let mut rest = raw;
    let mut ellipsis = false;
    if let Some(after) = rest.strip_prefix("::") {
        ellipsis = true;
        rest = after;
    }
    let mut groups = 0;
    while groups < 8 && !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(rest.len());
        if digits > 4 {
            return at("each group must have 4 or less digits", rest);
        }
        if digits == 0 {
            return at("each colon-separated field must have at least one digit", rest);
        }
        if rest[digits..].starts_with('.') {
            return at("invalid embedded IPv4 address", rest);
        }
        groups += 1;
        rest = &rest[digits..];
        if rest.is_empty() {
            break;
        }
        let Some(after) = rest.strip_prefix(':') else {
            return at("unexpected character, want colon", rest);
        };
        if after.is_empty() {
            return at("colon must be followed by more characters", rest);
        }
        rest = after;
        if let Some(after) = rest.strip_prefix(':') {
            if ellipsis {
                return at("multiple :: in address", rest);
            }
            ellipsis = true;
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
    }
    if !rest.is_empty() {
        return at("trailing garbage after address", rest);
    }
    if ellipsis {
        said("the :: must expand to at least one field of zeros")
    } else {
        said("address string too short")
    }
}

fn parse_network(raw: &str) -> Result<Cidr, String> {
    const WHAT: &str = "network address parse error during conversion from string";
    let quoted = quote(raw);
    let wrong = |why: &str| format!("{WHAT}: netip.ParsePrefix({quoted}): {why}");
    let Some((address, length)) = raw.rsplit_once('/') else { return Err(wrong("no '/'")) };
    let parsed: IpAddr = match address.parse() {
        Ok(parsed) => parsed,
        Err(_) if address.contains('%') && address.contains(':') => {
            return Err(wrong("IPv6 zones cannot be present in a prefix"));
        }
        Err(_) => return Err(wrong(&why_no_address(address))),
    };
    let digits = length.bytes().all(|b| b.is_ascii_digit());
    if !digits || length.is_empty() || (length.len() > 1 && length.starts_with('0')) {
        return Err(wrong(&format!("bad bits after slash: {}", quote(length))));
    }
    let limit = if parsed.is_ipv4() { 32 } else { 128 };
    match length.parse::<u8>() {
        Ok(value) if value <= limit => {
            if let IpAddr::V6(address) = parsed
                && address.to_ipv4_mapped().is_some()
            {
                return Err(format!("IPv4-mapped IPv6 address {quoted} is not allowed"));
            }
            Ok(Cidr { address: parsed, length: value })
        }
        _ => Err(wrong("prefix length out of range")),
    }
}

fn network_value(raw: &str) -> Result<Cidr, EvalError> {
    const WHAT: &str = "network address parse error during conversion from string";
    parse_network(raw).map_err(|why| EvalError::new(format!("{WHAT}: {why}")))
}

fn address<'v>(value: &'v Value<'_>) -> Result<&'v IpAddr, EvalError> {
    match value {
        Value::Opaque(opaque) => match &opaque.0 {
            Opaque::Ip(address) => Ok(address),
            _ => Err(no_overload()),
        },
        _ => Err(no_overload()),
    }
}

fn network<'v>(value: &'v Value<'_>) -> Result<&'v Cidr, EvalError> {
    match value {
        Value::Opaque(opaque) => match &opaque.0 {
            Opaque::Cidr(cidr) => Ok(cidr),
            _ => Err(no_overload()),
        },
        _ => Err(no_overload()),
    }
}

pub(super) fn ip<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    if let Ok(cidr) = network(&args[0]) {
        return Ok(Value::opaque(Opaque::Ip(cidr.address)));
    }
    parse_address(text(&args[0])?).map(|address| Value::opaque(Opaque::Ip(address))).map_err(EvalError::new)
}

pub(super) fn is_ip<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    Ok(Value::Bool(parse_address(text(&args[0])?).is_ok()))
}

pub(super) fn is_canonical<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    let raw = text(&args[0])?;
    let address = parse_address(raw).map_err(EvalError::new)?;
    Ok(Value::Bool(address.to_string() == raw))
}

pub(super) fn cidr<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    Ok(Value::opaque(Opaque::Cidr(network_value(text(&args[0])?)?)))
}

pub(super) fn is_cidr<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    Ok(Value::Bool(parse_network(text(&args[0])?).is_ok()))
}

pub(super) fn family<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    Ok(Value::Int(if address(&args[0])?.is_ipv4() { 4 } else { 6 }))
}

pub(super) fn is_unspecified<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    Ok(Value::Bool(address(&args[0])?.is_unspecified()))
}

pub(super) fn is_loopback<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    Ok(Value::Bool(address(&args[0])?.is_loopback()))
}

pub(super) fn is_link_local_multicast<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    Ok(Value::Bool(match address(&args[0])? {
        IpAddr::V4(address) => address.octets()[..3] == [224, 0, 0],
        IpAddr::V6(address) => address.segments()[0] & 0xff0f == 0xff02,
    }))
}

fn link_local(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.segments()[0] & 0xffc0 == 0xfe80,
    }
}

pub(super) fn is_link_local_unicast<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    Ok(Value::Bool(link_local(address(&args[0])?)))
}

pub(super) fn is_global_unicast<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    let address = address(&args[0])?;
    let broadcast = *address == IpAddr::V4(Ipv4Addr::BROADCAST);
    let other = broadcast
        || address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || link_local(address);
    Ok(Value::Bool(!other))
}

pub(super) fn contains_ip<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    let cidr = *network(&args[0])?;
    let other = match &args[1] {
        // Upstream loses the parser's words here.
        Value::String(raw) => parse_address(raw.as_str()).map_err(|_| EvalError::new("no such overload"))?,
        other => *address(other)?,
    };
    Ok(Value::Bool(cidr.contains(other)))
}

pub(super) fn contains_cidr<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    let cidr = *network(&args[0])?;
    let other = match &args[1] {
        Value::String(raw) => network_value(raw.as_str())?,
        other => *network(other)?,
    };
    Ok(Value::Bool(cidr.overlaps(&other) && cidr.length <= other.length))
}

pub(super) fn prefix_length<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    Ok(Value::Int(i64::from(network(&args[0])?.length)))
}

pub(super) fn masked<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    Ok(Value::opaque(Opaque::Cidr(network(&args[0])?.masked())))
}
