//! `resource.Quantity`: fixed-point numbers with a suffix, such as `500m`, `1.5Gi` or `12e6`.
//!
//! A number is held in billionths as `i128`, which covers everything upstream's tests and users write; larger
//! ones (from about 1.7e29) are refused where upstream computes with numbers of any size. Finer ones are rounded
//! away from zero to a billionth, as upstream does.

use serde_json::Value;
use std::cmp::Ordering;
use std::fmt::{self, Write as _};

/// Which suffixes a quantity is written with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Format {
    /// `12M`: powers of 1000.
    #[default]
    DecimalSi,
    /// `12Mi`: powers of 1024.
    BinarySi,
    /// `12e6`.
    DecimalExponent,
}

/// Why a text is no quantity, in upstream's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not a number with a suffix.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// The number is beyond what can be computed with.
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    /// There is no such suffix.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// A fixed-point number and how it is written. Two quantities are equal when their numbers are.
#[derive(Clone, Debug, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
    /// The text it was read from, where upstream prints that instead of the canonical form: its parser takes
    /// some texts for canonical that are not (`+5`, `007`, `1.001`).
    text: Option<Box<str>>,
}

const NANOS: i128 = 1_000_000_000;

fn pow10(exponent: u32) -> Option<i128> {
    10i128.checked_pow(exponent)
}

/// Quotient rounded up; both are not negative.
fn div_up(value: i128, by: i128) -> i128 {
    value / by + i128::from(value % by != 0)
}

/// Quotient rounded away from zero.
fn div_away(value: i128, by: i128) -> i128 {
    if value < 0 { -div_up(-value, by) } else { div_up(value, by) }
}

/// A text cut into its parts; digits are without leading zeros (`num`) and as written (`denom`).
struct Parts<'a> {
    negative: bool,
    num: &'a str,
    denom: &'a str,
    suffix: &'a str,
}

fn split(text: &str) -> Result<Parts<'_>, QuantityError> {
    let bytes = text.as_bytes();
    let digits_from = |at: usize| bytes[at..].iter().take_while(|b| b.is_ascii_digit()).count();
    let mut at = usize::from(matches!(bytes.first(), Some(b'+' | b'-')));
    let negative = bytes.first() == Some(&b'-');
    at += bytes[at..].iter().take_while(|b| **b == b'0').count();
    let start = at;
    at += digits_from(at);
    let num = &text[start..at];
    let mut denom = "";
    if bytes.get(at) == Some(&b'.') {
        let start = at + 1;
        at = start + digits_from(start);
        denom = &text[start..at];
    }
    let start = at;
    at += bytes[at..].iter().take_while(|b| b"eEinumkKMGTP".contains(b)).count();
    at += usize::from(matches!(bytes.get(at), Some(b'+' | b'-')));
    at += digits_from(at);
    if at != bytes.len() {
        return Err(QuantityError::Format);
    }
    Ok(Parts { negative, num, denom, suffix: &text[start..] })
}

/// The format, and the exponent of 10 or (binary) of 2.
fn suffix(suffix: &str) -> Result<(Format, i64), QuantityError> {
    Ok(match suffix {
        "" => (Format::DecimalSi, 0),
        "n" => (Format::DecimalSi, -9),
        "u" => (Format::DecimalSi, -6),
        "m" => (Format::DecimalSi, -3),
        "k" => (Format::DecimalSi, 3),
        "M" => (Format::DecimalSi, 6),
        "G" => (Format::DecimalSi, 9),
        "T" => (Format::DecimalSi, 12),
        "P" => (Format::DecimalSi, 15),
        "E" => (Format::DecimalSi, 18),
        "Ki" => (Format::BinarySi, 10),
        "Mi" => (Format::BinarySi, 20),
        "Gi" => (Format::BinarySi, 30),
        "Ti" => (Format::BinarySi, 40),
        "Pi" => (Format::BinarySi, 50),
        "Ei" => (Format::BinarySi, 60),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError::Suffix)?;
            let exponent = exponent.parse::<i64>().map_err(|_| QuantityError::Suffix)?;
            // Beyond this everything is too large, or a billionth.
            (Format::DecimalExponent, exponent.clamp(-1000, 1000))
        }
    })
}

/// Digits as a number and how many were taken: at most `limit`; whether those left out matter.
fn digits(text: &str, limit: usize) -> (i128, usize, bool) {
    let taken = text.len().min(limit);
    let value = text.as_bytes()[..taken].iter().fold(0, |n, digit| n * 10 + i128::from(digit - b'0'));
    (value, taken, text.as_bytes()[taken..].iter().any(|digit| *digit != b'0'))
}

fn decimal_nanos(parts: &Parts<'_>, exponent: i64) -> Result<i128, QuantityError> {
    // 37 digits always fit; a number with more before its point is too large unless the exponent shrinks it,
    // which nobody writes.
    if parts.num.len() > 37 {
        return Err(QuantityError::Numeric);
    }
    let (whole, _, _) = digits(parts.num, 37);
    let (fraction, places, more) = digits(parts.denom, 37 - parts.num.len());
    let value = whole * pow10(places as u32).ok_or(QuantityError::Numeric)? + fraction;
    let shift = exponent + 9 - places as i64;
    if value == 0 {
        return Ok(i128::from(more));
    }
    if shift >= 0 {
        let factor = u32::try_from(shift).ok().and_then(pow10).ok_or(QuantityError::Numeric)?;
        let nanos = value.checked_mul(factor).ok_or(QuantityError::Numeric)?;
        return if more { nanos.checked_add(1).ok_or(QuantityError::Numeric) } else { Ok(nanos) };
    }
    match u32::try_from(-shift).ok().and_then(pow10) {
        Some(by) => Ok(value / by + i128::from(value % by != 0 || more)),
        None => Ok(1),
    }
}

fn binary_nanos(parts: &Parts<'_>, exponent: u32) -> i128 {
    const MAX: i128 = i64::MAX as i128;
    // 19 digits are beyond the cap already.
    let (whole, taken, _) = digits(parts.num, 20);
    if taken < parts.num.len() || (whole << exponent) > MAX {
        return MAX * NANOS;
    }
    let (fraction, places, more) = digits(parts.denom, 18);
    let scaled = fraction << exponent;
    let nanos = if places <= 9 {
        scaled * pow10(9 - places as u32).expect("at most 10^9")
    } else {
        let by = pow10(places as u32 - 9).expect("at most 10^9");
        scaled / by + i128::from(scaled % by != 0)
    };
    (((whole << exponent) * NANOS) + nanos + i128::from(more)).min(MAX * NANOS)
}

/// Whether upstream's parser keeps the text as the canonical form.
fn is_kept(parts: &Parts<'_>, format: Format, exponent: i64) -> bool {
    let digits = parts.num.len().max(1) + parts.denom.len();
    if format == Format::BinarySi {
        let precision = 15 - parts.num.len().max(1) as i64 - (exponent * 3 / 10) - 1;
        // The lowest three bits depend on the last three digits alone.
        let (low, _, _) = self::digits(&parts.num[parts.num.len().saturating_sub(3)..], 3);
        return parts.denom.is_empty() && precision >= 0 && low & 7 != 0;
    }
    let scale = exponent - parts.denom.len() as i64;
    let ends_in_zeros = if parts.denom.is_empty() {
        parts.num.ends_with("000")
    } else {
        parts.denom.ends_with("000")
            || (parts.denom.len() < 3 && format!("{}{}", parts.num, parts.denom).ends_with("000"))
    };
    digits <= 18 && scale >= -9 && scale % 3 == 0 && !ends_in_zeros && !parts.num.is_empty()
}

impl Quantity {
    /// Reads a quantity.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        if text.is_empty() {
            return Err(QuantityError::Format);
        }
        let parts = split(text)?;
        let (mut format, exponent) = suffix(parts.suffix)?;
        let nanos = match format {
            Format::BinarySi => binary_nanos(&parts, exponent as u32),
            _ => decimal_nanos(&parts, exponent)?,
        };
        // The text differs from the canonical form only if it has one of these.
        let odd = matches!(text.as_bytes()[0], b'+' | b'0')
            || text.starts_with("-0")
            || text.contains('.')
            || format == Format::DecimalExponent;
        let text = (odd && nanos != 0 && is_kept(&parts, format, exponent)).then(|| text.into());
        if format == Format::BinarySi && (1..NANOS).contains(&nanos) {
            format = Format::DecimalSi;
        }
        Ok(Self { nanos: if parts.negative { -nanos } else { nanos }, format, text })
    }

    /// Reads a quantity from JSON, where it may be a number too. Blanks round the text are allowed, as upstream
    /// allows them. Null is zero.
    pub fn from_json(value: &Value) -> Result<Self, QuantityError> {
        match value {
            Value::Null => Ok(Self::default()),
            Value::String(text) => Self::parse(text.trim()),
            Value::Number(number) => Self::parse(&number.to_string()),
            _ => Err(QuantityError::Format),
        }
    }

    /// A whole number.
    pub fn from_value(value: i64, format: Format) -> Self {
        Self { nanos: i128::from(value) * NANOS, format, text: None }
    }

    /// A number of thousandths.
    pub fn from_milli(value: i64, format: Format) -> Self {
        Self { nanos: i128::from(value) * 1_000_000, format, text: None }
    }

    /// How it is written.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The number, rounded away from zero; cut to the range of `i64`.
    pub fn value(&self) -> i64 {
        saturate(div_away(self.nanos, NANOS))
    }

    /// The number in thousandths, rounded away from zero; cut to the range of `i64`.
    pub fn milli_value(&self) -> i64 {
        saturate(div_away(self.nanos, 1_000_000))
    }

    /// The number in billionths, exactly.
    pub fn nano_value(&self) -> i128 {
        self.nanos
    }

    /// The number, not exactly.
    pub fn as_f64(&self) -> f64 {
        self.nanos as f64 / 1e9
    }

    /// Whether it is zero.
    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    /// -1, 0 or 1.
    pub fn sign(&self) -> i32 {
        self.nanos.signum() as i32
    }

    /// Whether it has no fraction.
    pub fn is_whole(&self) -> bool {
        self.nanos % NANOS == 0
    }

    /// Adds a quantity; zero takes over the other's format. Beyond the range it stays at the end of it.
    pub fn add(&mut self, other: &Quantity) {
        self.combine(other, other.nanos);
    }

    /// Subtracts a quantity; zero takes over the other's format.
    pub fn sub(&mut self, other: &Quantity) {
        self.combine(other, -other.nanos);
    }

    fn combine(&mut self, other: &Quantity, nanos: i128) {
        if self.nanos == 0 {
            self.format = other.format;
        }
        self.nanos = self.nanos.saturating_add(nanos);
        self.text = None;
    }

    /// Rounds away from zero to whole thousandths, as defaulting does with resource lists.
    pub fn round_up_to_milli(&mut self) {
        if self.nanos % 1_000_000 != 0 {
            self.nanos = div_away(self.nanos, 1_000_000) * 1_000_000;
            self.text = None;
        }
    }

    /// The quantity as JSON has it.
    pub fn to_json(&self) -> Value {
        Value::String(self.to_string())
    }
}

fn saturate(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

/// The canonical form of a quantity's text, exactly as upstream writes it back.
pub fn canonicalize(text: &str) -> Result<String, QuantityError> {
    Quantity::parse(text).map(|quantity| quantity.to_string())
}

/// No fraction, the largest suffix.
impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(text) = &self.text {
            return f.write_str(text);
        }
        if self.nanos == 0 {
            return f.write_char('0');
        }
        let is_small = self.nanos.unsigned_abs() < 1024 * NANOS as u128;
        if self.format == Format::BinarySi && self.is_whole() && !is_small {
            let (mut value, mut exponent) = (self.nanos / NANOS, 0);
            while value % 1024 == 0 && exponent < 6 {
                value /= 1024;
                exponent += 1;
            }
            return write!(f, "{value}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][exponent]);
        }
        let (mut value, mut exponent) = (self.nanos, -9);
        let largest = if self.format == Format::DecimalExponent { i32::MAX } else { 18 };
        while value % 1000 == 0 && exponent < largest {
            value /= 1000;
            exponent += 3;
        }
        if self.format == Format::DecimalExponent {
            return if exponent == 0 { write!(f, "{value}") } else { write!(f, "{value}e{exponent}") };
        }
        let suffix = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"][(exponent / 3 + 3) as usize];
        write!(f, "{value}{suffix}")
    }
}

impl std::str::FromStr for Quantity {
    type Err = QuantityError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_written_in_canonical_form() {
        for (text, want) in [
            ("0", "0"),
            ("0m", "0"),
            ("-0", "0"),
            ("0.0", "0"),
            ("0Ki", "0"),
            ("1", "1"),
            ("1000m", "1"),
            ("100m", "100m"),
            ("0.1", "100m"),
            (".5", "500m"),
            ("1.5", "1500m"),
            ("-1.5", "-1500m"),
            ("1000", "1k"),
            ("1024", "1024"),
            ("1500", "1500"),
            ("1000000", "1M"),
            ("123000000000", "123G"),
            ("1Ki", "1Ki"),
            ("1024Ki", "1Mi"),
            ("1.5Gi", "1536Mi"),
            ("0.5Ki", "512"),
            ("0.1Ki", "102400m"),
            ("1.1Mi", "1153433600m"),
            ("0.5Mi", "512Ki"),
            ("2048Gi", "2Ti"),
            ("1Ei", "1Ei"),
            ("8Ei", "9223372036854775807"),
            ("1E", "1E"),
            ("10E", "10E"),
            ("9223372036854775807", "9223372036854775807"),
            ("9999999999999999999000m", "9999999999999999999"),
            ("12e6", "12e6"),
            ("1e3", "1e3"),
            ("1000e3", "1e6"),
            ("1e-3", "1e-3"),
            ("12e1", "120"),
            ("1.5e3", "1500"),
            ("1n", "1n"),
            ("0.1n", "1n"),
            ("1e-9223372036854775808", "1e-9"),
            ("0.0000000001", "1n"),
            ("1.0000000001", "1000000001n"),
            ("5u", "5u"),
            ("-5Mi", "-5Mi"),
            ("-1Ki", "-1Ki"),
            ("100000k", "100M"),
        ] {
            assert_eq!(canonicalize(text).as_deref(), Ok(want), "{text}");
        }
    }

    /// Upstream keeps the text when a quick look finds it canonical.
    #[test]
    fn some_texts_are_kept_as_they_are() {
        for (text, want) in [
            ("+5", "+5"),
            ("007", "007"),
            ("1.001", "1.001"),
            ("1.", "1."),
            ("+1Ki", "+1Ki"),
            ("5E3", "5E3"),
            ("1e+3", "1e+3"),
            ("+1000", "1k"),
            ("1.000", "1"),
            ("+0", "0"),
        ] {
            assert_eq!(canonicalize(text).as_deref(), Ok(want), "{text}");
        }
        assert_eq!(Quantity::parse("+5").unwrap(), Quantity::parse("5").unwrap());
    }

    #[test]
    fn nonsense_is_refused() {
        for (text, want) in [
            ("", QuantityError::Format),
            ("abc", QuantityError::Format),
            ("1 ", QuantityError::Format),
            ("1.5.5", QuantityError::Format),
            ("1Zi", QuantityError::Format),
            ("--1", QuantityError::Suffix),
            ("1iK", QuantityError::Suffix),
            ("1m5", QuantityError::Suffix),
            ("1e", QuantityError::Suffix),
            ("1K", QuantityError::Suffix),
            ("1e1000", QuantityError::Numeric),
            ("1e999999999999999999999", QuantityError::Suffix),
            ("1e9223372036854775807", QuantityError::Numeric),
            ("99999999999999999999999999999999999999999", QuantityError::Numeric),
        ] {
            assert_eq!(canonicalize(text), Err(want), "{text:?}");
        }
        // Upstream's scanner takes these for zero.
        for text in ["+", "-", "."] {
            assert_eq!(canonicalize(text).as_deref(), Ok("0"), "{text}");
        }
    }

    #[test]
    fn quantities_are_computed_with() {
        let quantity = |text: &str| Quantity::parse(text).unwrap();
        for (text, value, milli) in [
            ("1", 1, 1000),
            ("1500m", 2, 1500),
            ("-1500m", -2, -1500),
            ("1n", 1, 1),
            ("1Gi", 1 << 30, (1 << 30) * 1000),
            ("10E", i64::MAX, i64::MAX),
        ] {
            assert_eq!((quantity(text).value(), quantity(text).milli_value()), (value, milli), "{text}");
        }
        for (a, b, sum, difference) in
            [("1", "500m", "1500m", "500m"), ("0", "1Ki", "1Ki", "-1Ki"), ("1Gi", "1Gi", "2Gi", "0")]
        {
            let (mut plus, mut minus) = (quantity(a), quantity(a));
            plus.add(&quantity(b));
            minus.sub(&quantity(b));
            assert_eq!((plus.to_string(), minus.to_string()), (sum.to_owned(), difference.to_owned()));
        }
        assert!(quantity("1Ki") > quantity("1k") && quantity("1000m") == quantity("1"));
        assert_eq!(Quantity::from_json(&serde_json::json!(" 1 ")).unwrap().to_string(), "1");
        assert_eq!(Quantity::from_json(&serde_json::json!(1.5)).unwrap().to_string(), "1500m");
        let mut fine = quantity("100u");
        fine.round_up_to_milli();
        assert_eq!(fine.to_string(), "1m");
    }
}
