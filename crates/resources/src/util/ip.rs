//! Addresses and address ranges as upstream's strict validation takes them
//! (`k8s.io/apimachinery/pkg/util/validation/ip.go` with StrictIPCIDRValidation, on since 1.36).

use super::Errs;
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::validate;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Parses an address, tolerating leading zeros in the octets of IPv4 as Go once did.
pub fn parse_sloppy(text: &str) -> Option<IpAddr> {
    validate::parse_ip_sloppy(text)
}

/// Errors of an address in a field that is older than strict validation; `old` are values it already had.
pub fn validate_legacy(path: &Path, value: &str, old: &[String]) -> ErrorList {
    let mut errs = ErrorList::default();
    if !old.iter().any(|o| o == value) {
        errs.add_all(path, value, validate::ip_strict(value));
    }
    errs
}

/// Errors of an address that must also be in canonical form.
pub fn validate(path: &Path, value: &str) -> ErrorList {
    let mut errs = ErrorList::default();
    errs.add_all(path, value, validate::ip(value));
    errs
}

/// An address range: network address and prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// The network address.
    pub network: IpAddr,
    /// The prefix length.
    pub prefix: u8,
}

impl Cidr {
    /// Parses `address/length` and clears the bits beyond the length.
    pub fn parse(text: &str) -> Option<Self> {
        let (ip, prefix) = text.split_once('/')?;
        let ip = parse_sloppy(ip)?;
        let prefix: u8 = prefix.parse().ok()?;
        let network = match ip {
            IpAddr::V4(v4) if prefix <= 32 => IpAddr::V4(Ipv4Addr::from(
                u32::from(v4) & u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0),
            )),
            IpAddr::V6(v6) if prefix <= 128 => IpAddr::V6(Ipv6Addr::from(
                u128::from(v6) & u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0),
            )),
            _ => return None,
        };
        Some(Self { network, prefix })
    }

    /// Whether the range holds `ip`.
    pub fn contains(&self, ip: &IpAddr) -> bool {
        match (self.network, ip) {
            (IpAddr::V4(net), IpAddr::V4(ip)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                u32::from(*ip) & mask == u32::from(net)
            }
            (IpAddr::V6(net), IpAddr::V6(ip)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                u128::from(*ip) & mask == u128::from(net)
            }
            _ => false,
        }
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

/// Errors of a range in a field that is older than strict validation.
pub fn validate_cidr_legacy(path: &Path, value: &str, old: &[String]) -> ErrorList {
    let mut errs = ErrorList::default();
    if !old.iter().any(|o| o == value) {
        errs.add_all(path, value, validate::cidr_strict(value));
    }
    errs
}

/// Errors of a range that must also be in canonical form.
pub fn validate_cidr(path: &Path, value: &str) -> ErrorList {
    let mut errs = ErrorList::default();
    errs.add_all(path, value, validate::cidr(value));
    errs
}

/// Errors of an address that endpoints may have: no loopback, link-local or unspecified one.
pub fn validate_endpoint(path: &Path, value: &str) -> ErrorList {
    let mut errs = ErrorList::default();
    let Some(ip) = parse_sloppy(value) else {
        errs.add_invalid(path, value, "must be a valid IP address");
        return errs;
    };
    let (link_local, link_local_multicast) = match ip {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] & 0xff0f == 0xff02),
    };
    if ip.is_unspecified() {
        errs.add_invalid(path, value, format!("may not be unspecified ({value})"));
    }
    if ip.is_loopback() {
        errs.add_invalid(path, value, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    if link_local {
        errs.add_invalid(path, value, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
    if link_local_multicast {
        errs.add_invalid(
            path,
            value,
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)",
        );
    }
    errs
}

fn mapped(ip: IpAddr) -> Option<Ipv4Addr> {
    match ip {
        IpAddr::V6(v6) => v6.to_ipv4_mapped(),
        IpAddr::V4(_) => None,
    }
}

/// The warning about an address in a form that will be refused some day, if it is in one.
pub fn warning(path: &Path, value: &str) -> Option<String> {
    let ip = parse_sloppy(value)?;
    let strict: Result<IpAddr, _> = value.parse();
    match strict {
        Err(_) => Some(format!("{path}: non-standard IP address \"{value}\" is invalid: use \"{ip}\"")),
        Ok(ip) => match mapped(ip) {
            Some(v4) => Some(format!("{path}: non-standard IP address \"{value}\" is invalid: use \"{v4}\"")),
            None if ip.is_ipv6() && ip.to_string() != value => Some(format!(
                "{path}: IPv6 address \"{value}\" should be in RFC 5952 canonical format (\"{ip}\")"
            )),
            None => None,
        },
    }
}

/// Warnings about a range in an unusual form, in a field that takes it.
pub fn cidr_warnings(path: &Path, value: &str) -> Vec<String> {
    let Some((cidr, (address, prefix))) = Cidr::parse(value).zip(value.split_once('/')) else {
        return Vec::new();
    };
    let mut out = Vec::new();
    let Some(ip) = parse_sloppy(address) else { return out };
    if ip != cidr.network {
        let bits = if ip.is_ipv4() { 32 } else { 128 };
        out.push(format!(
            "{path}: CIDR value \"{value}\" is ambiguous in this context (should be \"{cidr}\" or \"{ip}/{bits}\"?)"
        ));
    }
    let strict: Option<IpAddr> = address.parse().ok();
    if strict.is_none_or(|ip| mapped(ip).is_some()) {
        out.push(format!("{path}: non-standard CIDR value \"{value}\" is invalid: use \"{cidr}\""));
    }
    let canonical = format!("{ip}/{prefix}");
    if out.is_empty() && ip.is_ipv6() && canonical != value {
        out.push(format!(
            "{path}: IPv6 CIDR value \"{value}\" should be in RFC 5952 canonical format (\"{canonical}\")"
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_knows_its_addresses() {
        let cidr = Cidr::parse("10.96.0.0/16").unwrap();
        assert!(cidr.contains(&"10.96.255.255".parse().unwrap()));
        assert!(!cidr.contains(&"10.97.0.0".parse().unwrap()));
        assert!(Cidr::parse("10.0.0.0/33").is_none());
        assert!(Cidr::parse("0.0.0.0/0").unwrap().contains(&"1.2.3.4".parse().unwrap()));
    }
}
