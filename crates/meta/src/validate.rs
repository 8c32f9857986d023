//! Formats of names, labels, ports and such, each with upstream's messages (none: the value is fine).

/// A DNS subdomain of RFC 1123.
pub fn dns1123_subdomain(_value: &str) -> Vec<String> {
    Vec::new()
}
