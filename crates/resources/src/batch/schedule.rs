//! The schedules of cron jobs, as robfig/cron's standard parser takes them, with its messages.

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
        let spec = match spec.strip_prefix("TZ=").or_else(|| spec.strip_prefix("CRON_TZ=")) {
            Some(rest) => rest.split_once(' ').map_or("", |(_, rest)| rest).trim(),
            None => spec,
        };
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
        Ok(Self { fields, any_day_of_month: any[2], any_day_of_week: any[4], every: None })
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
