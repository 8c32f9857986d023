//! The scalar types whose JSON and protobuf forms differ: times, durations.

use k8s_openapi::jiff::Timestamp;

/// A time as RFC 3339 with seconds, as `meta.v1.Time` is written.
pub(super) fn time_text(seconds: i64) -> Option<String> {
    let time = Timestamp::from_second(seconds).ok()?;
    Some(time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// A time as RFC 3339 with microseconds, as `meta.v1.MicroTime` is written.
pub(super) fn micro_time_text(seconds: i64, nanos: i32) -> Option<String> {
    let time = Timestamp::new(seconds, nanos).ok()?;
    Some(time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string())
}

/// Seconds and nanoseconds since the epoch of an RFC 3339 time.
pub(super) fn parse_time(text: &str) -> Option<(i64, i32)> {
    let time: Timestamp = text.parse().ok()?;
    // Before the epoch jiff counts the fraction downwards, protobuf upwards.
    let (seconds, nanos) = (time.as_second(), time.subsec_nanosecond());
    Some(if nanos < 0 { (seconds - 1, nanos + 1_000_000_000) } else { (seconds, nanos) })
}

const UNITS: [(&str, i128); 7] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// A duration as Go prints it: `1h2m3.5s`, `250ms`, `0s`.
pub(super) fn duration_text(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let total = nanos.unsigned_abs();
    let fraction = |value: u64, unit: u64, name: &str| {
        let digits = format!("{:0width$}", value % unit, width = unit.ilog10() as usize);
        let digits = digits.trim_end_matches('0');
        let point = if unit == 1 || digits.is_empty() { "" } else { "." };
        format!("{}{point}{}{name}", value / unit, if unit == 1 { "" } else { digits })
    };
    match total {
        0 => "0s".to_owned(),
        1..1_000 => format!("{sign}{}", fraction(total, 1, "ns")),
        1_000..1_000_000 => format!("{sign}{}", fraction(total, 1_000, "µs")),
        1_000_000..1_000_000_000 => format!("{sign}{}", fraction(total, 1_000_000, "ms")),
        _ => {
            let seconds = fraction(total % 60_000_000_000, 1_000_000_000, "s");
            let minutes = total / 60_000_000_000;
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{sign}{seconds}"),
                (0, m) => format!("{sign}{m}m{seconds}"),
                (h, m) => format!("{sign}{h}h{m}m{seconds}"),
            }
        }
    }
}

/// The nanoseconds of a duration as Go reads it.
pub(super) fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total = 0i128;
    while !rest.is_empty() || text.len() <= 1 {
        let number_len = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(number_len);
        let unit_len = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || number_len > 32 {
            return None;
        }
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        total = total.checked_add(whole.checked_mul(*scale)?)?;
        let mut place = *scale;
        for digit in fraction.chars() {
            place /= 10;
            total += i128::from(digit.to_digit(10)?) * place;
        }
        rest = tail;
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_and_read_as_go_does() {
        for (nanos, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5µs"),
            (250_000_000, "250ms"),
            (30_000_000_000, "30s"),
            (90_500_000_000, "1m30.5s"),
            (3_600_000_000_000, "1h0m0s"),
            (-5_000_000_000, "-5s"),
        ] {
            assert_eq!(duration_text(nanos), text);
            assert_eq!(parse_duration(text), Some(nanos), "{text}");
        }
        for bad in ["", "-", "5", "s", "1x", "1.s.", "9999999999999h"] {
            assert_eq!(parse_duration(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn times_before_the_epoch_count_their_fraction_upwards() {
        assert_eq!(parse_time("1970-01-01T00:00:01.5Z"), Some((1, 500_000_000)));
        assert_eq!(parse_time("1969-12-31T23:59:58.5Z"), Some((-2, 500_000_000)));
        assert_eq!(micro_time_text(-2, 500_000_000).as_deref(), Some("1969-12-31T23:59:58.500000Z"));
        assert_eq!(time_text(1_795_000_000).as_deref(), Some("2026-11-18T11:06:40Z"));
        assert_eq!(parse_time("2026-11-18T13:06:40+02:00"), Some((1_795_000_000, 0)));
        assert_eq!(parse_time("yesterday"), None);
    }
}
