//! The rule for later years at the end of a zone file: `EST5EDT,M3.2.0,M11.1.0` (POSIX TZ, RFC 8536 section 3.3).

use super::time::{civil_from_days, days_from_civil};

/// The seconds east of UTC at a time; none if the rule is not understood.
pub(super) fn offset_at(rule: &str, seconds: i64) -> Option<i64> {
    let rest = name(rule)?;
    let (standard, rest) = clock(rest)?;
    let standard = -standard;
    if rest.is_empty() {
        return Some(standard);
    }
    let rest = name(rest)?;
    let (summer, rest) = match rest.starts_with(',') {
        true => (standard + 3600, rest),
        false => clock(rest).map(|(offset, rest)| (-offset, rest))?,
    };
    let (start, end) = rest.strip_prefix(',')?.split_once(',')?;
    let (year, _, _) = civil_from_days((seconds + standard).div_euclid(86_400));
    let start = moment(start, year)? - standard;
    let end = moment(end, year)? - summer;
    let in_summer =
        if start < end { (start..end).contains(&seconds) } else { !(end..start).contains(&seconds) };
    Some(if in_summer { summer } else { standard })
}

/// What follows an abbreviation.
fn name(text: &str) -> Option<&str> {
    if let Some(rest) = text.strip_prefix('<') {
        return rest.split_once('>').map(|(_, rest)| rest);
    }
    let end = text.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(text.len());
    (end >= 3).then(|| &text[end..])
}

/// `[+-]h[:m[:s]]` in seconds, and what follows.
fn clock(text: &str) -> Option<(i64, &str)> {
    let (sign, body) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    let end = body.find(|c: char| !c.is_ascii_digit() && c != ':').unwrap_or(body.len());
    let mut total = 0;
    for (part, unit) in body[..end].split(':').zip([3600, 60, 1]) {
        total += part.parse::<i64>().ok()? * unit;
    }
    Some((sign * total, &body[end..]))
}

/// Local seconds of `Mm.w.d[/time]`, `Jn` or `n` in a year.
fn moment(text: &str, year: i64) -> Option<i64> {
    let (date, time) = text.split_once('/').unwrap_or((text, "2"));
    let (time, _) = clock(time)?;
    let days = if let Some(rule) = date.strip_prefix('M') {
        let mut parts = rule.split('.').map(|part| part.parse::<i64>().ok());
        let (month, week, day) = (parts.next()??, parts.next()??, parts.next()??);
        let first = days_from_civil(year, month, 1);
        let next =
            if month == 12 { days_from_civil(year + 1, 1, 1) } else { days_from_civil(year, month + 1, 1) };
        let mut at = first + (day - (first + 4)).rem_euclid(7) + (week - 1) * 7;
        while at >= next {
            at -= 7;
        }
        at
    } else if let Some(rule) = date.strip_prefix('J') {
        // February 29 is never counted.
        let day: i64 = rule.parse().ok()?;
        let start = days_from_civil(year, 1, 1);
        let leap = days_from_civil(year, 3, 1) - start == 60;
        start + day - 1 + i64::from(leap && day >= 60)
    } else {
        days_from_civil(year, 1, 1) + date.parse::<i64>().ok()?
    };
    Some(days * 86_400 + time)
}
