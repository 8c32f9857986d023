//! Go's durations, such as `1h0m0s`: what `time.ParseDuration` reads, and what `metav1.Duration` writes.

/// The canonical form of a duration's text, or Go's error.
pub(crate) fn canonical(text: &str) -> Result<String, String> {
    parse(text).map(print)
}

/// Nanoseconds of a text: signed decimal numbers, each with a unit. The error is Go's.
pub fn parse(text: &str) -> Result<i64, String> {
    let quoted = crate::go::quote(text);
    let invalid = || format!("time: invalid duration {quoted}");
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (digits, after) = rest.split_at(number);
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') || whole.len() > 19 {
            return Err(invalid());
        }
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let nanos: i128 = match unit {
            "" => return Err(format!("time: missing unit in duration {quoted}")),
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            other => {
                return Err(format!("time: unknown unit {} in duration {quoted}", crate::go::quote(other)));
            }
        };
        total += whole.bytes().fold(0i128, |n, digit| n * 10 + i128::from(digit - b'0')) * nanos;
        // 18 digits are finer than a nanosecond of the largest unit.
        let (mut scale, mut part) = (1i128, 0i128);
        for digit in fraction.bytes().take(18) {
            part = part * 10 + i128::from(digit - b'0');
            scale *= 10;
        }
        total += part * nanos / scale;
        if total > i128::from(i64::MAX) + i128::from(negative) {
            return Err(invalid());
        }
        rest = after;
    }
    i64::try_from(if negative { -total } else { total }).map_err(|_| invalid())
}

/// The text of a number of nanoseconds.
pub fn print(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    let decimal = |value: u64, unit: u64, name: &str| {
        let (whole, fraction) = (value / unit, value % unit);
        let width = unit.ilog10() as usize;
        if fraction == 0 {
            return format!("{whole}{name}");
        }
        let digits = format!("{fraction:0width$}");
        format!("{whole}.{}{name}", digits.trim_end_matches('0'))
    };
    let text = match nanos {
        0 => return "0s".into(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => decimal(nanos, 1_000, "µs"),
        1_000_000..1_000_000_000 => decimal(nanos, 1_000_000, "ms"),
        _ => {
            let minutes = nanos / 60_000_000_000;
            let seconds = decimal(nanos % 60_000_000_000, 1_000_000_000, "s");
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, minutes) => format!("{minutes}m{seconds}"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    };
    format!("{sign}{text}")
}

#[cfg(test)]
mod tests {
    use super::canonical;

    #[test]
    fn durations_are_read_and_written_as_go_does() {
        for (text, want) in [
            ("0", "0s"),
            ("0s", "0s"),
            ("90s", "1m30s"),
            ("1h", "1h0m0s"),
            ("1.5h", "1h30m0s"),
            ("-1m", "-1m0s"),
            ("1500ms", "1.5s"),
            ("5us", "5µs"),
            ("100ns", "100ns"),
            ("-9223372036854775808ns", "-2562047h47m16.854775808s"),
            ("1h1m1.001s", "1h1m1.001s"),
        ] {
            assert_eq!(canonical(text).as_deref(), Ok(want), "{text}");
        }
        for (text, want) in [
            ("", "time: invalid duration \"\""),
            ("5", "time: missing unit in duration \"5\""),
            ("5d", "time: unknown unit \"d\" in duration \"5d\""),
            ("s", "time: invalid duration \"s\""),
            ("-", "time: invalid duration \"-\""),
            ("1.s.", "time: invalid duration \"1.s.\""),
            ("9223372036854775808ns", "time: invalid duration \"9223372036854775808ns\""),
            ("99999999999h", "time: invalid duration \"99999999999h\""),
        ] {
            assert_eq!(canonical(text).unwrap_err(), want, "{text}");
        }
    }
}
