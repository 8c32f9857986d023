//! The scalar types whose JSON and protobuf forms differ: times.

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

#[cfg(test)]
mod tests {
    use super::*;

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
