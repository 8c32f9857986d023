//! Writing DER (X.690), as far as certificates need it.

/// SEQUENCE.
pub const SEQUENCE: u8 = 0x30;
/// SET.
pub const SET: u8 = 0x31;
/// OCTET STRING.
pub const OCTETS: u8 = 0x04;
/// INTEGER.
pub const INTEGER: u8 = 0x02;
/// BOOLEAN.
pub const BOOLEAN: u8 = 0x01;
/// BIT STRING.
pub const BITS: u8 = 0x03;
const OID: u8 = 0x06;
const UTF8: u8 = 0x0c;
const PRINTABLE: u8 = 0x13;

/// A value of a type with its content.
pub fn value(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let len = content.len();
    if len < 0x80 {
        out.push(len as u8);
    } else {
        let bytes = len.to_be_bytes();
        let bytes = &bytes[bytes.iter().take_while(|b| **b == 0).count()..];
        out.push(0x80 | bytes.len() as u8);
        out.extend_from_slice(bytes);
    }
    out.extend_from_slice(content);
    out
}

/// A value made of others.
pub fn nested(tag: u8, parts: &[Vec<u8>]) -> Vec<u8> {
    value(tag, &parts.concat())
}

/// An object identifier.
pub fn oid(arcs: &[u64]) -> Vec<u8> {
    let (first, rest) = (arcs[0] * 40 + arcs[1], &arcs[2..]);
    let mut content = Vec::new();
    for arc in std::iter::once(&first).chain(rest) {
        let groups = (1..10).take_while(|group| arc >> (7 * group) != 0).count();
        for group in (0..=groups).rev() {
            let more = if group == 0 { 0 } else { 0x80 };
            content.push(((arc >> (7 * group)) & 0x7f) as u8 | more);
        }
    }
    value(OID, &content)
}

/// A positive number, the highest byte first.
pub fn positive(bytes: &[u8]) -> Vec<u8> {
    let start = bytes.iter().take_while(|b| **b == 0).count().min(bytes.len().saturating_sub(1));
    let bytes = &bytes[start..];
    let sign = if bytes.first().is_some_and(|b| b & 0x80 != 0) { vec![0] } else { Vec::new() };
    value(INTEGER, &[&sign, bytes].concat())
}

/// A text, as Go chooses its type: printable where it can be.
pub fn text(text: &str) -> Vec<u8> {
    let printable = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"'()+,-./ :=?".contains(&b));
    value(if printable { PRINTABLE } else { UTF8 }, text.as_bytes())
}

/// A set of named bits: which are set, counted from the first.
pub fn bits(set: &[u8]) -> Vec<u8> {
    let mut bytes = [0u8; 2];
    for bit in set {
        bytes[usize::from(bit / 8)] |= 0x80 >> (bit % 8);
    }
    let used = if bytes[1] != 0 { 2 } else { 1 };
    let unused = bytes[used - 1].trailing_zeros() as u8 % 8;
    value(BITS, &[&[unused], &bytes[..used]].concat())
}

/// A time in seconds since 1970, in the form that RFC 5280 demands for it.
pub fn time(unix: i64) -> Vec<u8> {
    let at = time::OffsetDateTime::from_unix_timestamp(unix).unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    let rest = format!(
        "{:02}{:02}{:02}{:02}{:02}Z",
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    );
    if at.year() < 2050 {
        value(0x17, format!("{:02}{rest}", at.year() % 100).as_bytes())
    } else {
        value(0x18, format!("{:04}{rest}", at.year()).as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let cases: Vec<(Vec<u8>, &[u8])> = vec![
            (oid(&[2, 5, 29, 15]), &[6, 3, 0x55, 0x1d, 0x0f]),
            (oid(&[1, 2, 840, 10045]), &[6, 6, 0x2a, 0x86, 0x48, 0xce, 0x3d][..1]),
            (positive(&[0, 0x80]), &[2, 2, 0, 0x80]),
            (bits(&[0, 2]), &[3, 2, 5, 0xa0]),
            (bits(&[8]), &[3, 3, 7, 0, 0x80]),
            (text("a b"), &[0x13, 3, b'a', b' ', b'b']),
            (text("a*"), &[0x0c, 2, b'a', b'*']),
            (time(0), b"\x17\x0d700101000000Z"),
            (time(2_524_608_000), b"\x18\x0f20500101000000Z"),
        ];
        for (made, wanted) in cases {
            assert!(made.starts_with(wanted), "{made:02x?} {wanted:02x?}");
        }
        assert_eq!(oid(&[1, 2, 840, 10045]), [6, 5, 0x2a, 0x86, 0x48, 0xce, 0x3d]);
        assert_eq!(value(4, &[7; 200])[..4], [4, 0x81, 200, 7]);
    }
}
