//! The formats of texts that upstream knows, with its rules: those of kube-openapi's `strfmt` on Go's parsers.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use knarr_meta::validate::{cidr_legacy, parse_ip_sloppy};
use regex::Regex;
use std::sync::LazyLock;

use super::{email, uri};

/// A format of texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// 24 hexadecimal digits.
    BsonObjectId,
    /// An absolute URI or a path.
    Uri,
    /// A mail address (RFC 5322).
    Email,
    /// The name of a host (RFC 1034).
    Hostname,
    /// An IPv4 address.
    Ipv4,
    /// An IPv6 address.
    Ipv6,
    /// A range of addresses.
    Cidr,
    /// A hardware address.
    Mac,
    /// A UUID of any version.
    Uuid,
    /// A UUID of version 3.
    Uuid3,
    /// A UUID of version 4.
    Uuid4,
    /// A UUID of version 5.
    Uuid5,
    /// An ISBN of either length.
    Isbn,
    /// An ISBN of ten digits.
    Isbn10,
    /// An ISBN of thirteen digits.
    Isbn13,
    /// The number of a credit card.
    CreditCard,
    /// A U.S. social security number.
    Ssn,
    /// A colour such as `#FFFFFF`.
    HexColor,
    /// A colour such as `rgb(1,2,3)`.
    RgbColor,
    /// Bytes in base64.
    Byte,
    /// Any text.
    Password,
    /// `2006-01-02`.
    Date,
    /// A duration in Go's or Scala's notation.
    Duration,
    /// A point in time (RFC 3339).
    DateTime,
    /// A DNS label (since 1.34).
    K8sShortName,
    /// A DNS subdomain (since 1.34).
    K8sLongName,
}

impl Format {
    /// The format of a name, dashes ignored.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name.replace('-', "").as_str() {
            "bsonobjectid" => Self::BsonObjectId,
            "uri" => Self::Uri,
            "email" => Self::Email,
            "hostname" => Self::Hostname,
            "ipv4" => Self::Ipv4,
            "ipv6" => Self::Ipv6,
            "cidr" => Self::Cidr,
            "mac" => Self::Mac,
            "uuid" => Self::Uuid,
            "uuid3" => Self::Uuid3,
            "uuid4" => Self::Uuid4,
            "uuid5" => Self::Uuid5,
            "isbn" => Self::Isbn,
            "isbn10" => Self::Isbn10,
            "isbn13" => Self::Isbn13,
            "creditcard" => Self::CreditCard,
            "ssn" => Self::Ssn,
            "hexcolor" => Self::HexColor,
            "rgbcolor" => Self::RgbColor,
            "byte" => Self::Byte,
            "password" => Self::Password,
            "date" => Self::Date,
            "duration" => Self::Duration,
            "datetime" => Self::DateTime,
            "k8sshortname" => Self::K8sShortName,
            "k8slongname" => Self::K8sLongName,
            _ => return None,
        })
    }

    /// Whether upstream knows the format where it goes by the formats of its first version (the status subresource).
    pub fn is_original(self) -> bool {
        !matches!(self, Self::K8sShortName | Self::K8sLongName)
    }

    /// Whether a text has this format.
    pub fn matches(self, text: &str) -> bool {
        match self {
            Self::BsonObjectId => text.len() == 24 && text.bytes().all(|b| b.is_ascii_hexdigit()),
            Self::Uri => uri::is_request_uri(text),
            Self::Email => email::is_address(text),
            Self::Hostname => {
                HOSTNAME.is_match(text) && text.len() <= 255 && text.split('.').all(|part| part.len() <= 63)
            }
            Self::Ipv4 => text.contains('.') && parse_ip_sloppy(text).is_some(),
            Self::Ipv6 => text.contains(':') && is_ip(text),
            Self::Cidr => cidr_legacy(text).is_empty(),
            Self::Mac => is_mac(text),
            Self::Uuid => is_uuid(text, None),
            Self::Uuid3 => is_uuid(text, Some(b'3')),
            Self::Uuid4 => is_uuid(text, Some(b'4')),
            Self::Uuid5 => is_uuid(text, Some(b'5')),
            Self::Isbn => is_isbn10(text) || is_isbn13(text),
            Self::Isbn10 => is_isbn10(text),
            Self::Isbn13 => is_isbn13(text),
            Self::CreditCard => is_credit_card(text),
            Self::Ssn => is_ssn(text),
            Self::HexColor => {
                let digits = text.strip_prefix('#').unwrap_or(text);
                matches!(digits.len(), 3 | 6) && digits.bytes().all(|b| b.is_ascii_hexdigit())
            }
            Self::RgbColor => RGB_COLOR.is_match(text),
            // The expression wants something; the decoder would take nothing.
            Self::Byte => !text.is_empty() && is_base64(text),
            Self::Password => true,
            Self::Date => is_date(text),
            Self::Duration => is_duration(text),
            Self::DateTime => is_date_time(text),
            Self::K8sShortName => text.len() <= 63 && is_label(text),
            Self::K8sLongName => text.len() <= 253 && text.split('.').all(is_label),
        }
    }
}

static HOSTNAME: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"^([a-zA-Z0-9\p{S}\p{L}]((-?[a-zA-Z0-9\p{S}\p{L}]{0,62})?)|([a-zA-Z0-9\p{S}\p{L}](([a-zA-Z0-9\-\p{S}\p{L}]{0,61}[a-zA-Z0-9\p{S}\p{L}])?)(\.)){1,}([a-zA-Z\p{L}]){2,63})$",
    )
    .expect("the expression is constant")
});

static RGB_COLOR: LazyLock<Regex> = LazyLock::new(|| {
    let part = r"[\t\n\x0C\r\x20]*(0|[1-9][0-9]?|1[0-9][0-9]?|2[0-4][0-9]|25[0-5])[\t\n\x0C\r\x20]*";
    Regex::new(&format!(r"^rgb\({part},{part},{part}\)$")).expect("the expression is constant")
});

static CREDIT_CARD: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new("^(?:4[0-9]{12}(?:[0-9]{3})?|5[1-5][0-9]{14}|6(?:011|5[0-9][0-9])[0-9]{12}|3[47][0-9]{13}|3(?:0[0-5]|[68][0-9])[0-9]{11}|(?:2131|1800|35[0-9]{3})[0-9]{11})$")
        .expect("the expression is constant")
});

fn is_label(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.iter().all(|b| alphanumeric(*b) || *b == b'-')
        && bytes.first().is_some_and(|b| alphanumeric(*b))
        && bytes.last().is_some_and(|b| alphanumeric(*b))
}

/// Go's `net.ParseIP`: no zones, no leading zeros.
fn is_ip(text: &str) -> bool {
    text.parse::<std::net::IpAddr>().is_ok()
}

/// 6, 8 or 20 bytes in pairs joined by `:` or `-`, or in fours joined by `.`.
fn is_mac(text: &str) -> bool {
    let groups = |separator: char, digits: usize| {
        let mut count = 0;
        let well_formed = text.split(separator).all(|group| {
            count += 1;
            group.len() == digits && group.bytes().all(|b| b.is_ascii_hexdigit())
        });
        well_formed.then_some(count)
    };
    matches!(groups(':', 2).or_else(|| groups('-', 2)), Some(6 | 8 | 20))
        || matches!(groups('.', 4), Some(3 | 4 | 10))
}

/// Hexadecimal digits with optional dashes; versions 4 and 5 also fix the variant.
fn is_uuid(text: &str, version: Option<u8>) -> bool {
    let bytes = text.as_bytes();
    let (mut at, mut digits) = (0, 0);
    for group in [8, 4, 4, 4, 12] {
        if digits > 0 && bytes.get(at) == Some(&b'-') {
            at += 1;
        }
        for place in 0..group {
            let Some(byte) = bytes.get(at).filter(|b| b.is_ascii_hexdigit()) else { return false };
            let version_wrong = digits == 12 && place == 0 && version.is_some_and(|version| version != *byte);
            let variant = matches!(byte.to_ascii_lowercase(), b'8' | b'9' | b'a' | b'b');
            if version_wrong
                || (digits == 16 && place == 0 && matches!(version, Some(b'4' | b'5')) && !variant)
            {
                return false;
            }
            at += 1;
            digits += 1;
        }
    }
    at == bytes.len()
}

fn without_spaces_and_dashes(text: &str) -> Vec<u8> {
    text.chars()
        .filter(|c| !matches!(c, ' ' | '\t' | '\n' | '\u{c}' | '\r' | '-'))
        .map(|c| u8::try_from(c).unwrap_or(b'?'))
        .collect()
}

fn is_isbn10(text: &str) -> bool {
    let digits = without_spaces_and_dashes(text);
    let [first @ .., last] = digits.as_slice() else { return false };
    if first.len() != 9 || !first.iter().all(u8::is_ascii_digit) || !(last.is_ascii_digit() || *last == b'X')
    {
        return false;
    }
    let value = |digit: u8| if digit == b'X' { 10 } else { u32::from(digit - b'0') };
    let sum: u32 = digits.iter().zip(1..).map(|(digit, weight)| weight * value(*digit)).sum();
    sum.is_multiple_of(11)
}

fn is_isbn13(text: &str) -> bool {
    let digits = without_spaces_and_dashes(text);
    if digits.len() != 13 || !digits.iter().all(u8::is_ascii_digit) {
        return false;
    }
    let weights = [1, 3].into_iter().cycle();
    let sum: u32 =
        digits[..12].iter().zip(weights).map(|(digit, weight)| weight * u32::from(digit - b'0')).sum();
    u32::from(digits[12] - b'0') == (10 - sum % 10) % 10
}

fn is_credit_card(text: &str) -> bool {
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    if !CREDIT_CARD.is_match(&digits) {
        return false;
    }
    let sum: u32 = digits
        .bytes()
        .rev()
        .enumerate()
        .map(|(place, digit)| {
            let digit = u32::from(digit - b'0');
            if place % 2 == 0 { digit } else { digit * 2 / 10 + digit * 2 % 10 }
        })
        .sum();
    sum.is_multiple_of(10)
}

/// Three, two and four digits, with separators between all of them or the text would not have eleven bytes.
fn is_ssn(text: &str) -> bool {
    text.len() == 11
        && text.bytes().enumerate().all(|(place, byte)| match place {
            3 | 6 => matches!(byte, b' ' | b'-'),
            _ => byte.is_ascii_digit(),
        })
}

fn is_base64(text: &str) -> bool {
    // The expression looks at letters only: what the last ones say beyond the last byte does not matter to it.
    text.len().is_multiple_of(4)
        && (STANDARD.decode(text).is_ok() || {
            let letters = text.trim_end_matches('=');
            text.len() - letters.len() <= 2
                && letters.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/'))
        })
}

/// `2006-01-02`, a day that exists.
fn is_date(text: &str) -> bool {
    let bytes = text.as_bytes();
    let shape = bytes.len() == 10
        && bytes.iter().enumerate().all(|(place, byte)| match place {
            4 | 7 => *byte == b'-',
            _ => byte.is_ascii_digit(),
        });
    if !shape {
        return false;
    }
    let number = |range: std::ops::Range<usize>| text[range].parse::<u32>().unwrap_or_default();
    let (year, month, day) = (number(0..4), number(5..7), number(8..10));
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let days = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 => 28 + u32::from(leap),
        _ => return false,
    };
    (1..=days).contains(&day)
}

/// A date, `t`, then hours, minutes and seconds within bounds that are compared as texts.
fn is_date_time(text: &str) -> bool {
    let lower = text.to_lowercase();
    let mut parts = lower.split('t');
    let (Some(date), Some(time)) = (parts.next(), parts.next()) else { return false };
    let bytes = time.as_bytes();
    let two = |at: usize| bytes.get(at..at + 2).filter(|pair| pair.iter().all(u8::is_ascii_digit));
    let (Some(hours), Some(minutes), Some(seconds)) = (two(0), two(3), two(6)) else { return false };
    if bytes[2] != b':' || bytes[5] != b':' || !is_date(date) {
        return false;
    }
    // Any character may stand before the fraction, as the expression does not escape its dot.
    let rest = &time[8..];
    let zone = |text: &str| {
        let bytes = text.as_bytes();
        text == "z"
            || (bytes.len() == 6
                && matches!(bytes[0], b'+' | b'-')
                && bytes[3] == b':'
                && [1, 2, 4, 5].iter().all(|at| bytes[*at].is_ascii_digit()))
    };
    let mut after = rest.chars();
    let fraction = after.next().is_some_and(|c| c != '\n') && {
        let digits = after.as_str().trim_start_matches(|c: char| c.is_ascii_digit());
        digits.len() < after.as_str().len() && zone(digits)
    };
    (zone(rest) || fraction)
        && hours <= b"23".as_slice()
        && minutes <= b"59".as_slice()
        && seconds <= b"59".as_slice()
}

/// Go's durations, and numbers with units in words: one that is understood is enough.
fn is_duration(text: &str) -> bool {
    const UNITS: [&[&str]; 8] = [
        &["ns", "nano"],
        &["us", "µs", "micro"],
        &["ms", "milli"],
        &["s", "sec"],
        &["m", "min"],
        &["h", "hr", "hour"],
        &["d", "day"],
        &["w", "wk", "week"],
    ];
    if is_go_duration(text) {
        return true;
    }
    let (mut rest, mut understood) = (text, false);
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        rest = &rest[start..];
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let number = &rest[..digits];
        rest = rest[digits..].trim_start_matches([' ', '\t', '\n', '\u{c}', '\r']);
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic() && c != 'µ').unwrap_or(rest.len());
        if letters == 0 {
            continue;
        }
        if number.parse::<i64>().is_err() {
            return false;
        }
        let unit = rest[..letters].to_lowercase();
        rest = &rest[letters..];
        understood |= UNITS.iter().any(|variants| {
            let last = variants.last().is_some_and(|last| unit.starts_with(last));
            last || variants.contains(&unit.as_str())
        });
    }
    understood
}

fn is_go_duration(text: &str) -> bool {
    let mut rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    if rest == "0" {
        return true;
    }
    if rest.is_empty() {
        return false;
    }
    let mut total = 0.0_f64;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let Ok(value) = rest[..number].trim_end_matches('.').parse::<f64>() else { return false };
        if rest[..number].matches('.').count() > 1 {
            return false;
        }
        rest = &rest[number..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let nanoseconds = match &rest[..unit] {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 6e10,
            "h" => 3.6e12,
            _ => return false,
        };
        rest = &rest[unit..];
        total += value * nanoseconds;
    }
    total <= 9_223_372_036_854_775_807.0
}

#[cfg(test)]
mod tests {
    use super::Format;

    #[test]
    fn formats_take_what_upstream_takes() {
        for (name, good, bad) in [
            (
                "bsonobjectid",
                vec!["507f1f77bcf86cd799439011"],
                vec!["", "507f1f77bcf86cd79943901", "z07f1f77bcf86cd799439011"],
            ),
            (
                "uri",
                vec!["http://a.b/c?d#e", "/path", "mailto:x@y", "*", "http://[::1]:80/", "http://u:p@a"],
                vec!["", "a/b", "http://[::1", "http://a b/", "http://a:b/", "/%zz", "://x"],
            ),
            (
                "email",
                vec!["a@b", "A B <a@b.c>", "\"x y\"@b.c", "<a@b>", "a.b+c@d-e.f", "a@[127.0.0.1]"],
                vec!["", "a", "a@", "@b", "a b@c", "a@b, c@d", "a..b@c", "<a@b"],
            ),
            (
                "hostname",
                vec!["a", "a.example.com", "a-b.example", "ünï.example"],
                vec!["", "a_b", "-a", "a.b.c-", "a..b", "a.1"],
            ),
            ("ipv4", vec!["1.2.3.4", "01.2.3.4"], vec!["", "1.2.3", "::1", "1.2.3.256"]),
            ("ipv6", vec!["::1", "fe80::1", "::ffff:1.2.3.4"], vec!["", "1.2.3.4", "fe80::1%eth0", ":::"]),
            ("cidr", vec!["10.0.0.0/8", "10.1.2.3/8", "::/0"], vec!["", "10.0.0.0", "10.0.0.0/33"]),
            (
                "mac",
                vec!["01:23:45:67:89:ab", "01-23-45-67-89-AB-cd-ef", "0123.4567.89ab"],
                vec!["", "01:23:45:67:89", "01:23:45:67:89:ag", "01:23-45:67:89:ab"],
            ),
            (
                "uuid",
                vec!["123e4567-e89b-12d3-a456-426614174000", "123E4567E89B12D3A456426614174000"],
                vec!["", "123e4567-e89b-12d3-a456-42661417400", "g23e4567-e89b-12d3-a456-426614174000"],
            ),
            (
                "uuid3",
                vec!["123e4567-e89b-32d3-0456-426614174000"],
                vec!["123e4567-e89b-12d3-a456-426614174000"],
            ),
            (
                "uuid4",
                vec!["123e4567-e89b-42d3-a456-426614174000"],
                vec!["123e4567-e89b-42d3-0456-426614174000"],
            ),
            (
                "uuid5",
                vec!["123e4567-e89b-52d3-B456-426614174000"],
                vec!["123e4567-e89b-42d3-a456-426614174000"],
            ),
            ("isbn", vec!["0321751043", "978-0321751041"], vec!["", "0321751044", "978-0321751042"]),
            ("isbn10", vec!["0321751043", "080442957X"], vec!["978-0321751041"]),
            ("isbn13", vec!["978 0321751041"], vec!["0321751043"]),
            (
                "creditcard",
                vec!["4111-1111-1111-1111", "378282246310005"],
                vec!["", "4111-1111-1111-1112", "1234"],
            ),
            ("ssn", vec!["123-45-6789", "123 45 6789"], vec!["", "123456789", "123-45-678a"]),
            ("hexcolor", vec!["#FFFFFF", "fff"], vec!["", "#ff", "ggg"]),
            (
                "rgbcolor",
                vec!["rgb(0,100,255)", "rgb( 1 , 2 , 3 )"],
                vec!["", "rgb(256,0,0)", "rgb(1,2)", "rgb(300,0,0)"],
            ),
            ("byte", vec!["YWJj", "YQ==", "YR=="], vec!["", "YWJ", "Y", "YQ=a", "===="]),
            ("password", vec!["", "x"], vec![]),
            (
                "date",
                vec!["2024-02-29", "0000-01-01"],
                vec!["", "2023-02-29", "2024-13-01", "2024-1-1", "2024-04-31"],
            ),
            (
                "date-time",
                vec!["2024-01-01T00:00:00Z", "2024-01-01t23:59:59.123+01:00", "2024-01-01T00:00:00,5z"],
                vec![
                    "",
                    "2024-01-01",
                    "2024-01-01T24:00:00Z",
                    "2024-01-01T00:00:00",
                    "2024-01-01 00:00:00Z",
                    "2024-01-01T00:00:60Z",
                ],
            ),
            (
                "duration",
                vec!["1h2m", "0", "-1.5s", "22 ns", "3 days", "1 week 2 hours", "5 millis"],
                vec!["", "1", "abc", "1 fortnight", "1.2.3"],
            ),
            ("k8s-short-name", vec!["a", "a-1"], vec!["", "a-", "a.b", "A"]),
            ("k8s-long-name", vec!["a.b", "a"], vec!["", "a.-", "a..b"]),
        ] {
            let format = Format::named(name).expect(name);
            for text in good {
                assert!(format.matches(text), "{name} takes {text:?}");
            }
            for text in bad {
                assert!(!format.matches(text), "{name} refuses {text:?}");
            }
        }
        assert_eq!(Format::named("int32"), None);
        assert_eq!(Format::named("date-time"), Format::named("datetime"));
    }
}
