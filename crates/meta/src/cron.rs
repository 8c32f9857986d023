//! The schedules of cron jobs, as robfig/cron's standard parser takes them, with its messages, and the times they
//! name. Time zones come with this program: machines need not have a database of them.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use std::time::{Duration, SystemTime};

/// A time zone of the IANA database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone(TimeZone);

impl Zone {
    /// UTC.
    pub fn utc() -> Self {
        Self(TimeZone::UTC)
    }

    /// Loads a zone by its exact name; the error is in Go's words.
    pub fn load(name: &str) -> Result<Self, String> {
        if matches!(name, "" | "UTC") {
            return Ok(Self::utc());
        }
        let zone = TimeZone::get(name).ok();
        let zone = zone.filter(|zone| zone.iana_name() == Some(name));
        zone.map(Self).ok_or_else(|| format!("unknown time zone {name}"))
    }

    /// A time in whole seconds with the zone's offset, as RFC 3339 writes it.
    pub fn rfc3339(&self, time: SystemTime) -> String {
        let zoned = timestamp(time).to_zoned(self.0.clone());
        let seconds = zoned.offset().seconds();
        let civil = zoned.datetime().strftime("%Y-%m-%dT%H:%M:%S");
        if seconds == 0 {
            return format!("{civil}Z");
        }
        let (sign, seconds) = (if seconds < 0 { '-' } else { '+' }, seconds.abs());
        format!("{civil}{sign}{:02}:{:02}", seconds / 3600, seconds % 3600 / 60)
    }
}

fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_second(i64::try_from(since.as_secs()).unwrap_or(i64::MAX)).unwrap_or(Timestamp::MAX)
}

/// Bits of the values a field takes, per field: minute, hour, day of month, month, day of week.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Minutes, hours, days of the month, months, days of the week (0 is Sunday).
    pub fields: [u64; 5],
    /// Whether the day of the month is `*` or `?`: then the day of the week alone decides, and the reverse.
    pub any_day_of_month: bool,
    /// Whether the day of the week is `*` or `?`.
    pub any_day_of_week: bool,
    /// Seconds between runs of `@every`, instead of the fields.
    pub every: Option<u64>,
    /// Where its days and hours are counted; UTC unless it says so.
    pub zone: Zone,
}

struct Bounds {
    min: u64,
    max: u64,
    names: &'static [&'static str],
}

const BOUNDS: [Bounds; 5] = [
    Bounds { min: 0, max: 59, names: &[] },
    Bounds { min: 0, max: 23, names: &[] },
    Bounds { min: 1, max: 31, names: &[] },
    Bounds {
        min: 1,
        max: 12,
        names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    },
    Bounds { min: 0, max: 6, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] },
];

impl Schedule {
    /// Parses `minute hour day-of-month month day-of-week`, or a descriptor such as `@daily`.
    pub fn parse(spec: &str) -> Result<Self, String> {
        if spec.is_empty() {
            return Err("empty spec string".to_owned());
        }
        // A time zone in front is the API's to refuse.
        if let Some(rest) = spec.strip_prefix("TZ=").or_else(|| spec.strip_prefix("CRON_TZ=")) {
            let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
            let zone = Zone::load(name).map_err(|e| format!("provided bad location {name}: {e}"))?;
            return Ok(Self { zone, ..Self::parse_here(rest.trim())? });
        }
        Self::parse_here(spec)
    }

    fn parse_here(spec: &str) -> Result<Self, String> {
        if spec.starts_with('@') {
            return descriptor(spec);
        }
        let words: Vec<&str> = spec.split_whitespace().collect();
        if words.len() != BOUNDS.len() {
            return Err(format!("expected exactly 5 fields, found {}: [{}]", words.len(), words.join(" ")));
        }
        let mut fields = [0; 5];
        let mut any = [false; 5];
        for (i, (word, bounds)) in words.iter().zip(&BOUNDS).enumerate() {
            for part in word.split(',').filter(|p| !p.is_empty()) {
                let (bits, is_any) = range(part, bounds)?;
                fields[i] |= bits;
                any[i] |= is_any;
            }
        }
        let (any_day_of_month, any_day_of_week) = (any[2], any[4]);
        Ok(Self { fields, any_day_of_month, any_day_of_week, every: None, zone: Zone::utc() })
    }

    /// The first time after `after` that the schedule names; `None` when there is none within five years (the 31st
    /// of February).
    pub fn next(&self, after: SystemTime) -> Option<SystemTime> {
        if let Some(seconds) = self.every {
            let since = after.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            return Some(SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs() + seconds));
        }
        let zone = &self.zone.0;
        let mut at = timestamp(after).checked_add(1.second()).ok()?.to_zoned(zone.clone());
        let last_year = at.year() + 5;
        let begin = |civil: DateTime| civil.to_zoned(zone.clone()).ok();
        let has = |field: usize, value: i8| self.fields[field] & (1 << value) != 0;
        // The first unit that does not fit moves on to the start of its next one, and all are looked at again.
        while at.year() <= last_year {
            let civil = at.datetime();
            let hour = || civil.date().at(civil.hour(), 0, 0, 0);
            at = if !has(3, civil.month()) {
                begin(civil.date().first_of_month().checked_add(1.month()).ok()?.at(0, 0, 0, 0))?
            } else if !self.has_day(&civil) {
                begin(civil.date().tomorrow().ok()?.at(0, 0, 0, 0))?
            } else if !has(1, civil.hour()) {
                // Hours pass, whatever the clock on the wall does meanwhile.
                let next = begin(hour())?.checked_add(1.hour()).ok()?;
                if next > at { next } else { at.checked_add(1.hour()).ok()? }
            } else if !has(0, civil.minute()) || civil.second() != 0 {
                let rest = 60 - i64::from(civil.second());
                at.checked_add(rest.seconds()).ok()?
            } else {
                let seconds = u64::try_from(at.timestamp().as_second()).ok()?;
                return Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
            };
        }
        None
    }

    fn has_day(&self, civil: &DateTime) -> bool {
        let of_month = self.fields[2] & (1 << civil.day()) != 0;
        let of_week = self.fields[4] & (1 << civil.date().weekday().to_sunday_zero_offset()) != 0;
        match self.any_day_of_month || self.any_day_of_week {
            true => of_month && of_week,
            false => of_month || of_week,
        }
    }
}

fn descriptor(spec: &str) -> Result<Schedule, String> {
    let standard = match spec {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        _ => {
            let Some(duration) = spec.strip_prefix("@every ") else {
                return Err(format!("unrecognized descriptor: {spec}"));
            };
            let seconds = seconds(duration).ok_or_else(|| {
                format!("failed to parse duration {spec}: time: invalid duration \"{duration}\"")
            })?;
            return Ok(Schedule {
                fields: [0; 5],
                any_day_of_month: true,
                any_day_of_week: true,
                every: Some(seconds.max(1)),
                zone: Zone::utc(),
            });
        }
    };
    Schedule::parse(standard)
}

/// Seconds of a Go duration such as `1h30m`.
fn seconds(text: &str) -> Option<u64> {
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let amount: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total += amount * unit;
        rest = &rest[end..];
    }
    (!text.is_empty()).then_some(total as u64)
}

/// One of `*`, `a`, `a-b`, each with `/step`: its bits, and whether it is `*` with a step of 1.
fn range(text: &str, bounds: &Bounds) -> Result<(u64, bool), String> {
    let mut parts = text.split('/');
    let span: Vec<&str> = parts.next().unwrap_or_default().split('-').collect();
    let single = span.len() == 1;
    let mut any = false;
    let (start, mut end) = match span.as_slice() {
        ["*" | "?", ..] => {
            any = true;
            (bounds.min, bounds.max)
        }
        [one] => (value(one, bounds)?, value(one, bounds)?),
        [from, to] => (value(from, bounds)?, value(to, bounds)?),
        _ => return Err(format!("too many hyphens: {text}")),
    };
    let step = match (parts.next(), parts.next()) {
        (None, _) => 1,
        (Some(step), None) => {
            let step = number(step)?;
            if single && !any {
                end = bounds.max;
            }
            any &= step <= 1;
            step
        }
        _ => return Err(format!("too many slashes: {text}")),
    };
    if start < bounds.min {
        return Err(format!("beginning of range ({start}) below minimum ({}): {text}", bounds.min));
    }
    if end > bounds.max {
        return Err(format!("end of range ({end}) above maximum ({}): {text}", bounds.max));
    }
    if start > end {
        return Err(format!("beginning of range ({start}) beyond end of range ({end}): {text}"));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {text}"));
    }
    let step = usize::try_from(step).unwrap_or(usize::MAX);
    Ok(((start..=end).step_by(step).fold(0, |bits, value| bits | 1 << value), any))
}

fn value(text: &str, bounds: &Bounds) -> Result<u64, String> {
    let name = text.to_lowercase();
    match bounds.names.iter().position(|n| *n == name) {
        Some(index) => Ok(bounds.min + index as u64),
        None => number(text),
    }
}

fn number(text: &str) -> Result<u64, String> {
    match text.parse::<i64>() {
        Err(_) => {
            Err(format!("failed to parse int from {text}: strconv.Atoi: parsing \"{text}\": invalid syntax"))
        }
        Ok(n) => u64::try_from(n).map_err(|_| format!("negative number ({n}) not allowed: {text}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_as_upstream_takes_them() {
        let parsed = Schedule::parse("*/15 0,12 1-3 jan Mon-fri").unwrap();
        assert_eq!(parsed.fields[0], 1 | 1 << 15 | 1 << 30 | 1 << 45);
        assert_eq!(parsed.fields[1], 1 | 1 << 12);
        assert_eq!(parsed.fields[2], 0b1110);
        assert_eq!(parsed.fields[3], 0b10);
        assert_eq!(parsed.fields[4], 0b11_1110);
        assert!(Schedule::parse("* * * * *").unwrap().any_day_of_month);
        assert_eq!(Schedule::parse("5/20 * * * *").unwrap().fields[0], 1 << 5 | 1 << 25 | 1 << 45);
        assert_eq!(Schedule::parse("@every 1h30m").unwrap().every, Some(5400));
    }

    #[test]
    fn the_next_time() {
        let at = |text: &str| crate::time::parse(text).unwrap();
        let cases = [
            ("* * * * *", "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"),
            ("* * * * *", "2026-01-01T00:00:59Z", "2026-01-01T00:01:00Z"),
            ("*/15 * * * *", "2026-01-01T00:46:10Z", "2026-01-01T01:00:00Z"),
            ("30 6-16/4 * * 1-5", "2026-01-02T14:30:00Z", "2026-01-05T06:30:00Z"),
            ("0 0 31 * *", "2026-01-31T00:00:00Z", "2026-03-31T00:00:00Z"),
            ("0 0 13 * 5", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"),
            ("0 0 29 2 *", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("@every 90s", "2026-01-01T00:00:00Z", "2026-01-01T00:01:30Z"),
            ("@yearly", "2026-06-01T00:00:00Z", "2027-01-01T00:00:00Z"),
            ("TZ=America/New_York 0 9 * * *", "2026-07-01T00:00:00Z", "2026-07-01T13:00:00Z"),
            ("CRON_TZ=America/New_York 0 9 * * *", "2026-12-01T00:00:00Z", "2026-12-01T14:00:00Z"),
            // The clock jumps over half past two, and a day later there it is.
            ("TZ=America/New_York 30 2 * * *", "2026-03-08T06:00:00Z", "2026-03-09T06:30:00Z"),
        ];
        for (spec, after, wanted) in cases {
            let next = Schedule::parse(spec).unwrap().next(at(after)).unwrap();
            assert_eq!(crate::time::rfc3339(next), wanted, "{spec} after {after}");
        }
        assert_eq!(Schedule::parse("59 23 31 2 *").unwrap().next(at("2026-01-01T00:00:00Z")), None);
        let zone = Zone::load("America/New_York").unwrap();
        assert_eq!(zone.rfc3339(at("2026-07-01T13:00:00Z")), "2026-07-01T09:00:00-04:00");
        assert_eq!(Zone::load("america/new_york").unwrap_err(), "unknown time zone america/new_york");
        assert_eq!(Zone::load("Nowhere/Else").unwrap_err(), "unknown time zone Nowhere/Else");
    }

    #[test]
    fn problems_in_upstreams_words() {
        let cases = [
            ("* * *", "expected exactly 5 fields, found 3: [* * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("x * * * *", "failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
            ("@never", "unrecognized descriptor: @never"),
        ];
        for (spec, problem) in cases {
            assert_eq!(Schedule::parse(spec).unwrap_err(), problem);
        }
    }
}
