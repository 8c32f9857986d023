//! Durations and timestamps: Go's texts, arithmetic that tells overflow, and the parts of a date.

use crate::error::EvalError;
use crate::value::Timestamp;
use knarr_meta::go::quote;
use std::borrow::Cow;

const NANOS: i64 = 1_000_000_000;
/// 0001-01-01T00:00:00Z.
const MIN_SECONDS: i64 = -62_135_596_800;
/// 9999-12-31T23:59:59Z.
const MAX_SECONDS: i64 = 253_402_300_799;

/// Whether a number of seconds since 1970 is within the years 1 to 9999.
pub(crate) fn in_range(seconds: i64) -> bool {
    (MIN_SECONDS..=MAX_SECONDS).contains(&seconds)
}

pub(crate) fn timestamp_overflow() -> EvalError {
    EvalError::new("timestamp overflow")
}

/// A text of the OpenAPI format `duration`: Go's, or numbers with the units of words (`1 day`).
pub(crate) fn parse_format_duration(text: &str) -> Result<i64, String> {
    if let Ok(nanos) = knarr_meta::duration::parse(text) {
        return Ok(nanos);
    }
    const UNITS: [(&[&str], i64); 8] = [
        (&["ns", "nano"], 1),
        (&["us", "µs", "micro"], 1_000),
        (&["ms", "milli"], 1_000_000),
        (&["s", "sec"], NANOS),
        (&["m", "min"], 60 * NANOS),
        (&["h", "hr", "hour"], 3_600 * NANOS),
        (&["d", "day"], 86_400 * NANOS),
        (&["w", "wk", "week"], 604_800 * NANOS),
    ];
    let (mut total, mut found) = (0i64, false);
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        rest = &rest[start..];
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let factor: i64 = match rest[..digits].parse() {
            Ok(factor) => factor,
            Err(_) => break,
        };
        rest = rest[digits..].trim_start_matches([' ', '\t', '\n', '\r', '\u{c}']);
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic() && c != 'µ').unwrap_or(rest.len());
        let unit = rest[..letters].to_lowercase();
        rest = &rest[letters..];
        for (names, nanos) in UNITS {
            for (index, name) in names.iter().enumerate() {
                let last = index + 1 == names.len();
                if unit == *name || (last && unit.starts_with(name)) {
                    found = true;
                    total = total.wrapping_add(factor.wrapping_mul(nanos));
                }
            }
        }
    }
    if found { Ok(total) } else { Err(format!("unable to parse {text} as duration")) }
}

/// The text of `string(duration)`: seconds.
pub(crate) fn duration_text(nanos: i64) -> String {
    // Go divides whole seconds and the rest apart.
    let seconds = (nanos / NANOS) as f64 + (nanos % NANOS) as f64 / 1e9;
    format!("{seconds}s")
}

/// Days since 1970 of a date.
pub(crate) fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Year, month and day of days since 1970.
pub(crate) fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// A timestamp of RFC 3339, with any fraction of a second, as Go reads it.
pub(crate) fn parse_timestamp(text: &str) -> Result<Timestamp, String> {
    let timestamp = read_timestamp(text).ok_or_else(|| {
        format!("parsing time {} as \"2006-01-02T15:04:05Z07:00\": cannot parse", quote(text))
    })?;
    if in_range(timestamp.seconds) { Ok(timestamp) } else { Err("timestamp overflow".to_owned()) }
}

fn two(bytes: &[u8]) -> Option<i64> {
    match bytes {
        [a @ b'0'..=b'9', b @ b'0'..=b'9'] => Some(i64::from(a - b'0') * 10 + i64::from(b - b'0')),
        _ => None,
    }
}

fn read_date(bytes: &[u8]) -> Option<i64> {
    let year = two(bytes.get(0..2)?)? * 100 + two(bytes.get(2..4)?)?;
    let month = two(bytes.get(5..7)?)?;
    let day = two(bytes.get(8..10)?)?;
    let shaped = bytes[4] == b'-' && bytes[7] == b'-';
    let valid = (1..=12).contains(&month) && day >= 1 && day <= days_in_month(year, month);
    (shaped && valid).then(|| days_from_civil(year, month, day))
}

fn read_timestamp(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    let days = read_date(bytes)?;
    if bytes.get(10) != Some(&b'T') {
        return None;
    }
    // Go takes a single digit for the hour.
    let (hour, mut at) = match two(bytes.get(11..13)?) {
        Some(hour) => (hour, 13),
        None if bytes[11].is_ascii_digit() => (i64::from(bytes[11] - b'0'), 12),
        None => return None,
    };
    let minute = two(bytes.get(at + 1..at + 3)?)?;
    let second = two(bytes.get(at + 4..at + 6)?)?;
    if bytes[at] != b':' || bytes[at + 3] != b':' || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    at += 6;
    let mut nanos = 0u32;
    if matches!(bytes.get(at), Some(b'.' | b',')) && bytes.get(at + 1).is_some_and(u8::is_ascii_digit) {
        let start = at + 1;
        at = start;
        while bytes.get(at).is_some_and(u8::is_ascii_digit) {
            at += 1;
        }
        let mut scale = 100_000_000;
        for digit in bytes[start..at].iter().take(9) {
            nanos += u32::from(digit - b'0') * scale;
            scale /= 10;
        }
    }
    let offset = match bytes.get(at) {
        Some(b'Z') if at + 1 == bytes.len() => 0,
        Some(sign @ (b'+' | b'-')) if at + 6 == bytes.len() && bytes[at + 3] == b':' => {
            let (hours, minutes) = (two(&bytes[at + 1..at + 3])?, two(&bytes[at + 4..at + 6])?);
            if hours > 24 || minutes > 59 {
                return None;
            }
            let seconds = hours * 3600 + minutes * 60;
            if *sign == b'-' { -seconds } else { seconds }
        }
        _ => return None,
    };
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second - offset;
    Some(Timestamp { seconds, nanos, offset: offset as i32 })
}

/// A text of the OpenAPI format `date`.
pub(crate) fn parse_date(text: &str) -> Result<Timestamp, String> {
    let days = if text.len() == 10 { read_date(text.as_bytes()) } else { None };
    match days {
        Some(days) => Ok(Timestamp { seconds: days * 86_400, nanos: 0, offset: 0 }),
        None => Err(format!("parsing time {} as \"2006-01-02\": cannot parse", quote(text))),
    }
}

/// A text of the OpenAPI format `date-time`: RFC 3339, or without an offset.
pub(crate) fn parse_format_date_time(text: &str) -> Result<Timestamp, String> {
    if text.is_empty() {
        return Ok(Timestamp { seconds: 0, nanos: 0, offset: 0 });
    }
    let local: Cow<'_, str> = if text.len() == 19 { format!("{text}Z").into() } else { text.into() };
    read_timestamp(&local)
        .ok_or_else(|| format!("parsing time {} as \"2006-01-02T15:04:05\": cannot parse", quote(text)))
}

/// RFC 3339 with the fraction that there is, in the timestamp's own offset.
pub(crate) fn timestamp_text(timestamp: &Timestamp) -> String {
    let local = timestamp.seconds + i64::from(timestamp.offset);
    let (year, month, day) = civil_from_days(local.div_euclid(86_400));
    let second = local.rem_euclid(86_400);
    let mut text = format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}",
        second / 3600,
        second / 60 % 60,
        second % 60
    );
    if timestamp.nanos > 0 {
        let fraction = format!("{:09}", timestamp.nanos);
        text.push('.');
        text.push_str(fraction.trim_end_matches('0'));
    }
    if timestamp.offset == 0 {
        text.push('Z');
    } else {
        let sign = if timestamp.offset < 0 { '-' } else { '+' };
        let minutes = timestamp.offset.abs() / 60;
        text.push_str(&format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60));
    }
    text
}

/// A timestamp some nanoseconds later.
pub(crate) fn add(timestamp: &Timestamp, nanos: i64) -> Result<Timestamp, EvalError> {
    let total = i64::from(timestamp.nanos) + nanos % NANOS;
    let seconds = timestamp
        .seconds
        .checked_add(nanos / NANOS)
        .and_then(|seconds| seconds.checked_add(total.div_euclid(NANOS)))
        .ok_or_else(super::number::int_overflow)?;
    if !in_range(seconds) {
        return Err(timestamp_overflow());
    }
    Ok(Timestamp { seconds, nanos: total.rem_euclid(NANOS) as u32, offset: timestamp.offset })
}

/// The nanoseconds from one timestamp to another.
pub(crate) fn difference(a: &Timestamp, b: &Timestamp) -> Result<i64, EvalError> {
    let seconds = a.seconds.checked_sub(b.seconds).and_then(|seconds| seconds.checked_mul(NANOS));
    seconds
        .and_then(|nanos| nanos.checked_add(i64::from(a.nanos) - i64::from(b.nanos)))
        .ok_or_else(super::number::int_overflow)
}

/// A part of a timestamp's date or time, in local seconds.
pub(crate) fn part(function: &str, timestamp: &Timestamp, offset: i64) -> Option<i64> {
    let local = timestamp.seconds + offset;
    let days = local.div_euclid(86_400);
    let second = local.rem_euclid(86_400);
    let (year, month, day) = civil_from_days(days);
    Some(match function {
        "getFullYear" => year,
        "getMonth" => month - 1,
        "getDayOfYear" => days - days_from_civil(year, 1, 1),
        "getDayOfMonth" => day - 1,
        "getDate" => day,
        "getDayOfWeek" => (days + 4).rem_euclid(7),
        "getHours" => second / 3600,
        "getMinutes" => second / 60 % 60,
        "getSeconds" => second % 60,
        "getMilliseconds" => i64::from(timestamp.nanos) / 1_000_000,
        _ => return None,
    })
}

/// A part of a duration.
pub(crate) fn duration_part(function: &str, nanos: i64) -> Option<i64> {
    Some(match function {
        "getHours" => nanos / (3600 * NANOS),
        "getMinutes" => nanos / (60 * NANOS),
        "getSeconds" => nanos / NANOS,
        "getMilliseconds" => nanos / 1_000_000,
        _ => return None,
    })
}
