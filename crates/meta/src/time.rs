//! Times as the API writes them (RFC 3339, UTC) and ages as kubectl prints them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A text that is not an RFC 3339 time, in Go's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(String);

/// Days since 1970-01-01 of a date of the proleptic Gregorian calendar.
fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let month = (month as i64 + 9) % 12;
    let day_of_year = (153 * month + 2) / 5 + day as i64 - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + day_of_year - 719_468
}

fn civil_from_days(days: i64) -> (i64, u32, u32) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * month + 2) / 5 + 1) as u32;
    let month = if month < 10 { month + 3 } else { month - 9 } as u32;
    (era * 400 + year + i64::from(month <= 2), month, day)
}

/// Whole seconds since the epoch, rounded down, and the nanoseconds on top.
fn split(time: SystemTime) -> (i64, u32) {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => (since.as_secs() as i64, since.subsec_nanos()),
        Err(before) => {
            let before = before.duration();
            match before.subsec_nanos() {
                0 => (-(before.as_secs() as i64), 0),
                nanos => (-(before.as_secs() as i64) - 1, 1_000_000_000 - nanos),
            }
        }
    }
}

fn push_digits(out: &mut String, value: i64, width: u32) {
    for place in (0..width).rev() {
        out.push((b'0' + (value / 10i64.pow(place) % 10) as u8) as char);
    }
}

fn date_and_time(seconds: i64) -> String {
    let (year, month, day) = civil_from_days(seconds.div_euclid(86_400));
    let of_day = seconds.rem_euclid(86_400);
    let mut out = String::with_capacity(32);
    let parts = [
        (year.clamp(0, 9999), 4, "-"),
        (month.into(), 2, "-"),
        (day.into(), 2, "T"),
        (of_day / 3600, 2, ":"),
        (of_day / 60 % 60, 2, ":"),
        (of_day % 60, 2, ""),
    ];
    for (value, width, after) in parts {
        push_digits(&mut out, value, width);
        out.push_str(after);
    }
    out
}

/// `2026-11-21T09:00:00Z`, as `metav1.Time` is written.
pub fn rfc3339(time: SystemTime) -> String {
    let mut out = date_and_time(split(time).0);
    out.push('Z');
    out
}

/// `2026-11-21T09:00:00.123456Z`, as `metav1.MicroTime` is written.
pub fn rfc3339_micro(time: SystemTime) -> String {
    let (seconds, nanos) = split(time);
    let mut out = date_and_time(seconds);
    out.push('.');
    push_digits(&mut out, i64::from(nanos / 1000), 6);
    out.push('Z');
    out
}

/// `2026-11-21T09:00:00.123456789Z` without trailing zeros, as logs in the CRI format are stamped.
pub fn rfc3339_nano(time: SystemTime) -> String {
    let (seconds, nanos) = split(time);
    let mut out = date_and_time(seconds);
    if nanos > 0 {
        out.push('.');
        push_digits(&mut out, i64::from(nanos), 9);
        out.truncate(out.trim_end_matches('0').len());
    }
    out.push('Z');
    out
}

/// Reads an RFC 3339 time with any offset and any fraction of a second.
pub fn parse(text: &str) -> Result<SystemTime, ParseError> {
    parse_parts(text).map_err(|what| {
        const LAYOUT: &str = "2006-01-02T15:04:05Z07:00";
        let quoted = crate::go::quote(text);
        ParseError(match what {
            Wrong::Range(part) => format!("parsing time {quoted}: {part} out of range"),
            Wrong::Extra(rest) => format!("parsing time {quoted}: extra text: {}", crate::go::quote(rest)),
            Wrong::Part(rest, part) => {
                format!(
                    "parsing time {quoted} as \"{LAYOUT}\": cannot parse {} as \"{part}\"",
                    crate::go::quote(rest)
                )
            }
        })
    })
}

enum Wrong<'a> {
    /// What is left of the text, and the part of Go's layout it should begin with.
    Part(&'a str, &'static str),
    Range(&'static str),
    Extra(&'a str),
}

fn take<'a>(rest: &mut &'a str, digits: usize, part: &'static str) -> Result<i64, Wrong<'a>> {
    let bytes = rest.as_bytes();
    if bytes.len() < digits || !bytes[..digits].iter().all(u8::is_ascii_digit) {
        return Err(Wrong::Part(rest, part));
    }
    let value = bytes[..digits].iter().fold(0, |n, digit| n * 10 + i64::from(digit - b'0'));
    *rest = &rest[digits..];
    Ok(value)
}

fn expect<'a>(rest: &mut &'a str, literal: &'static str) -> Result<(), Wrong<'a>> {
    *rest = rest.strip_prefix(literal).ok_or(Wrong::Part(rest, literal))?;
    Ok(())
}

fn parse_parts(text: &str) -> Result<SystemTime, Wrong<'_>> {
    let mut rest = text;
    let year = take(&mut rest, 4, "2006")?;
    expect(&mut rest, "-")?;
    let month = take(&mut rest, 2, "01")?;
    if !(1..=12).contains(&month) {
        return Err(Wrong::Range("month"));
    }
    expect(&mut rest, "-")?;
    let day = take(&mut rest, 2, "02")?;
    expect(&mut rest, "T")?;
    let hour = take(&mut rest, 2, "15")?;
    if hour > 23 {
        return Err(Wrong::Range("hour"));
    }
    expect(&mut rest, ":")?;
    let minute = take(&mut rest, 2, "04")?;
    if minute > 59 {
        return Err(Wrong::Range("minute"));
    }
    expect(&mut rest, ":")?;
    let second = take(&mut rest, 2, "05")?;
    if second > 59 {
        return Err(Wrong::Range("second"));
    }
    let mut nanos = 0;
    if let Some(fraction) = rest.strip_prefix('.').or_else(|| rest.strip_prefix(',')) {
        let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
        if digits > 0 {
            for (place, digit) in fraction.bytes().take(digits.min(9)).enumerate() {
                nanos += u32::from(digit - b'0') * 10u32.pow(8 - place as u32);
            }
            rest = &fraction[digits..];
        }
    }
    let mut offset = 0;
    if let Some(after) = rest.strip_prefix('Z') {
        rest = after;
    } else {
        let zone = rest;
        let sign = match rest.as_bytes().first() {
            Some(b'+') => 1,
            Some(b'-') => -1,
            _ => return Err(Wrong::Part(zone, "Z07:00")),
        };
        rest = &rest[1..];
        let hours = take(&mut rest, 2, "").map_err(|_| Wrong::Part(zone, "Z07:00"))?;
        expect(&mut rest, ":").map_err(|_| Wrong::Part(zone, "Z07:00"))?;
        let minutes = take(&mut rest, 2, "").map_err(|_| Wrong::Part(zone, "Z07:00"))?;
        if hours > 24 {
            return Err(Wrong::Range("time zone offset hour"));
        }
        if minutes > 60 {
            return Err(Wrong::Range("time zone offset minute"));
        }
        offset = sign * (hours * 3600 + minutes * 60);
    }
    if !rest.is_empty() {
        return Err(Wrong::Extra(rest));
    }
    let days = days_from_civil(year, month as u32, day as u32);
    if day < 1 || civil_from_days(days) != (year, month as u32, day as u32) {
        return Err(Wrong::Range("day"));
    }
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second - offset;
    Ok(if seconds >= 0 {
        UNIX_EPOCH + Duration::new(seconds as u64, nanos)
    } else {
        UNIX_EPOCH - Duration::from_secs(seconds.unsigned_abs()) + Duration::from_nanos(nanos.into())
    })
}

/// A duration in two or three significant figures, as kubectl prints ages: `5d`, `3m10s`, `2y40d`.
pub fn human_duration(duration: Duration) -> String {
    human_seconds(duration.as_secs() as i64)
}

fn human_seconds(seconds: i64) -> String {
    let with_rest = |value: i64, unit: char, rest: i64, rest_unit: char| {
        if rest == 0 { format!("{value}{unit}") } else { format!("{value}{unit}{rest}{rest_unit}") }
    };
    // Up to two seconds in the future are differences between clocks.
    if seconds < -1 {
        return "<invalid>".into();
    }
    if seconds < 0 {
        return "0s".into();
    }
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => with_rest(minutes, 'm', seconds % 60, 's'),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => with_rest(hours, 'h', minutes % 60, 'm'),
        () if hours < 48 => format!("{hours}h"),
        () if hours < 24 * 8 => with_rest(hours / 24, 'd', hours % 24, 'h'),
        () if hours < 24 * 365 * 2 => format!("{}d", hours / 24),
        () if hours < 24 * 365 * 8 => with_rest(hours / 24 / 365, 'y', hours / 24 % 365, 'd'),
        () => format!("{}y", hours / 24 / 365),
    }
}

/// How long ago `then` (a time as the API writes it) was: `<unknown>` if there is none.
pub fn age(then: Option<&str>, now: SystemTime) -> String {
    match then.map(parse) {
        Some(Ok(then)) => {
            let (now_s, now_n) = split(now);
            let (then_s, then_n) = split(then);
            let nanos = (i128::from(now_s) - i128::from(then_s)) * 1_000_000_000 + i128::from(now_n)
                - i128::from(then_n);
            human_seconds((nanos / 1_000_000_000) as i64)
        }
        _ => "<unknown>".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_written() {
        for (seconds, nanos, text) in [
            (0, 0, "1970-01-01T00:00:00Z"),
            (951_782_400, 0, "2000-02-29T00:00:00Z"),
            (1_795_251_600, 0, "2026-11-21T09:00:00Z"),
            (1_795_251_600, 123_456_000, "2026-11-21T09:00:00.123456Z"),
        ] {
            let time = UNIX_EPOCH + Duration::new(seconds, nanos);
            assert_eq!(parse(text), Ok(time), "{text}");
            assert_eq!(if nanos == 0 { rfc3339(time) } else { rfc3339_micro(time) }, text);
        }
        assert_eq!(rfc3339(parse("1969-12-31T23:59:59.5Z").unwrap()), "1969-12-31T23:59:59Z");
        assert_eq!(rfc3339(parse("2026-11-21T09:00:00+01:30").unwrap()), "2026-11-21T07:30:00Z");
        assert_eq!(rfc3339_nano(parse("2026-11-21T09:00:00.1200Z").unwrap()), "2026-11-21T09:00:00.12Z");
    }

    #[test]
    fn bad_times_are_refused_in_gos_words() {
        for (text, want) in [
            ("abc", r#"parsing time "abc" as "2006-01-02T15:04:05Z07:00": cannot parse "abc" as "2006""#),
            ("", r#"parsing time "" as "2006-01-02T15:04:05Z07:00": cannot parse "" as "2006""#),
            ("2026-13-01T00:00:00Z", r#"parsing time "2026-13-01T00:00:00Z": month out of range"#),
            ("2026-02-29T00:00:00Z", r#"parsing time "2026-02-29T00:00:00Z": day out of range"#),
            ("2026-02-01T00:00:00Zx", r#"parsing time "2026-02-01T00:00:00Zx": extra text: "x""#),
            (
                "2026-02-01T00:00:00",
                r#"parsing time "2026-02-01T00:00:00" as "2006-01-02T15:04:05Z07:00": cannot parse "" as "Z07:00""#,
            ),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), want);
        }
    }

    #[test]
    fn ages_print_as_kubectl() {
        const H: i64 = 3600;
        for (seconds, want) in [
            (-2, "<invalid>"),
            (-1, "0s"),
            (119, "119s"),
            (120, "2m"),
            (190, "3m10s"),
            (10 * 60 + 5, "10m"),
            (3 * H, "3h"),
            (3 * H + 120, "3h2m"),
            (9 * H + 120, "9h"),
            (49 * H, "2d1h"),
            (5 * 24 * H, "5d"),
            (9 * 24 * H + H, "9d"),
            (2 * 365 * 24 * H + 40 * 24 * H, "2y40d"),
            (9 * 365 * 24 * H, "9y"),
        ] {
            assert_eq!(human_seconds(seconds), want, "{seconds}");
        }
        let now = parse("2026-11-21T09:00:00Z").unwrap();
        assert_eq!(age(None, now), "<unknown>");
        assert_eq!(age(Some("2026-11-21T08:59:00Z"), now), "60s");
    }
}
