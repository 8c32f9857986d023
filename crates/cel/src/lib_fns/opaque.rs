//! Values known by their methods only: quantities, URLs, addresses, formats, versions, and permission checks.

use super::authz::Authz;
use super::named::NamedFormat;
use super::net::Cidr;
use super::semver::Semver;
use super::url::Url;
use knarr_meta::quantity::Quantity;
use std::fmt;
use std::net::IpAddr;

#[derive(Clone, Debug)]
pub(crate) enum Opaque {
    Quantity(Quantity),
    Url(Url),
    Ip(IpAddr),
    Cidr(Cidr),
    Format(&'static NamedFormat),
    Semver(Semver),
    Authz(Authz),
}

impl Opaque {
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Quantity(_) => "kubernetes.Quantity",
            Self::Url(_) => "kubernetes.URL",
            Self::Ip(_) => "net.IP",
            Self::Cidr(_) => "net.CIDR",
            Self::Format(_) => "kubernetes.NamedFormat",
            Self::Semver(_) => "kubernetes.Semver",
            Self::Authz(authz) => authz.type_name(),
        }
    }

    /// The size that counts for costs, of what has one.
    pub fn size(&self) -> Option<usize> {
        match self {
            Self::Ip(IpAddr::V4(_)) => Some(4),
            Self::Ip(IpAddr::V6(_)) => Some(16),
            Self::Cidr(cidr) => Some(usize::from(cidr.length).div_ceil(8)),
            _ => None,
        }
    }

    /// Equality; none between values of different types.
    pub fn equals(&self, other: &Self) -> Option<bool> {
        Some(match (self, other) {
            (Self::Quantity(a), Self::Quantity(b)) => a.nano_value() == b.nano_value(),
            (Self::Url(a), Self::Url(b)) => a.to_string() == b.to_string(),
            (Self::Ip(a), Self::Ip(b)) => a == b,
            (Self::Cidr(a), Self::Cidr(b)) => a == b,
            (Self::Format(a), Self::Format(b)) => a.name == b.name,
            (Self::Semver(a), Self::Semver(b)) => a.compare(b).is_eq(),
            _ => return None,
        })
    }
}

impl fmt::Display for Opaque {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Quantity(quantity) => write!(f, "{quantity}"),
            Self::Url(url) => write!(f, "{url}"),
            Self::Ip(ip) => write!(f, "{ip}"),
            Self::Cidr(cidr) => write!(f, "{cidr}"),
            Self::Format(format) => write!(f, "{}", format.name),
            Self::Semver(version) => write!(f, "{version}"),
            Self::Authz(authz) => f.write_str(authz.type_name()),
        }
    }
}
