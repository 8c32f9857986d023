//! An IPv4 range in CIDR form (RFC 4632).

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// A range of addresses: the network address and the length of the prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Range {
    /// First address.
    pub network: Ipv4Addr,
    /// Length of the prefix, 0 to 32.
    pub prefix: u8,
}

impl Range {
    /// The range of this prefix that holds `address`.
    pub fn new(address: Ipv4Addr, prefix: u8) -> Self {
        let prefix = prefix.min(32);
        Self { network: Ipv4Addr::from(u32::from(address) & mask(prefix)), prefix }
    }

    /// One address.
    pub fn host(address: Ipv4Addr) -> Self {
        Self { network: address, prefix: 32 }
    }

    /// Whether the address is in it.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        u32::from(address) & mask(self.prefix) == u32::from(self.network)
    }

    /// Whether any address is in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.network) || other.contains(self.network)
    }

    /// The address at a distance from the first one, if it is in the range.
    pub fn nth(&self, distance: u32) -> Option<Ipv4Addr> {
        let address = Ipv4Addr::from(u32::from(self.network).checked_add(distance)?);
        self.contains(address).then_some(address)
    }

    /// How many addresses it has.
    pub fn size(&self) -> u64 {
        1 << (32 - u32::from(self.prefix))
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no IPv4 range such as 10.244.0.0/16");
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let prefix: u8 = prefix.parse().ok().filter(|p| *p <= 32).ok_or_else(wrong)?;
        Ok(Self::new(address.parse().map_err(|_| wrong())?, prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_know_what_is_in_them() {
        let range: Range = "10.244.3.7/22".parse().unwrap();
        assert_eq!(range.to_string(), "10.244.0.0/22");
        assert_eq!(range.size(), 1024);
        assert_eq!(range.nth(1023), Some(Ipv4Addr::new(10, 244, 3, 255)));
        assert_eq!(range.nth(1024), None);
        assert!(range.overlaps(&"10.0.0.0/8".parse().unwrap()));
        assert!(!range.overlaps(&"10.244.4.0/24".parse().unwrap()));
        assert!(Range::new(Ipv4Addr::new(1, 2, 3, 4), 0).contains(Ipv4Addr::BROADCAST));
        assert!("10.0.0.0/33".parse::<Range>().is_err());
    }
}
