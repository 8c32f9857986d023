//! When a cron job is due: which of its times have passed since it last ran, and when the next one comes.

use crate::framework::time::system_time;
use knarr_api::batch::v1::CronJob;
use knarr_meta::cron::{Schedule, Zone};
use std::time::{Duration, SystemTime};

/// Clocks of machines differ: the next time is waited for a little longer.
const PADDING: Duration = Duration::from_millis(100);
/// More missed times than this are remarked on.
const MANY: u64 = 100;

/// The schedule with its time zone; the error is upstream's.
pub fn schedule(cron: &CronJob) -> Result<Schedule, String> {
    let spec = &cron.spec;
    if !spec.schedule.contains("TZ")
        && let Some(zone) = &spec.time_zone
        && Zone::load(zone).is_ok()
    {
        return Schedule::parse(&format!("TZ={zone} {}", spec.schedule));
    }
    Schedule::parse(&spec.schedule)
}

/// What has passed since a cron job last ran.
#[derive(Debug, PartialEq, Eq)]
pub struct Passed {
    /// From when on times count.
    earliest: SystemTime,
    /// The last time before now, if there is one.
    pub last: Option<SystemTime>,
    /// About how many there were.
    missed: u64,
}

impl Passed {
    /// Whether there were so many that something must be wrong.
    pub fn is_many(&self) -> bool {
        self.missed > MANY
    }
}

/// What has passed, as far as it may still be made up for (`within_deadline`) or at all.
pub fn passed(
    cron: &CronJob,
    schedule: &Schedule,
    now: SystemTime,
    within_deadline: bool,
) -> Result<Passed, String> {
    let made = cron.metadata.creation_timestamp.as_ref();
    let last_run = cron.status.as_ref().and_then(|s| s.last_schedule_time.as_ref());
    let mut earliest = last_run.or(made).map_or(SystemTime::UNIX_EPOCH, system_time);
    let deadline = cron.spec.starting_deadline_seconds.filter(|_| within_deadline);
    if let Some(seconds) = deadline {
        let seconds = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
        earliest = earliest.max(now.checked_sub(seconds).unwrap_or(SystemTime::UNIX_EPOCH));
    }
    let never = || "time difference between two schedules is less than 1 second".to_owned();
    let first = schedule.next(earliest).ok_or_else(never)?;
    if now < first {
        return Ok(Passed { earliest, last: None, missed: 0 });
    }
    let second = schedule.next(first).ok_or_else(never)?;
    if now < second {
        return Ok(Passed { earliest, last: Some(first), missed: 0 });
    }
    let apart = second.duration_since(first).unwrap_or_default().as_secs();
    if apart < 1 {
        return Err(never());
    }
    // Not counted one by one, there may be years of them: from near the last, by the distance of the first two.
    let missed = now.duration_since(first).unwrap_or_default().as_secs() / apart + 1;
    let near = match missed {
        0 | 1 => first - Duration::from_secs(apart),
        more => first + Duration::from_secs((more - 2) * apart),
    };
    let mut last = None;
    let mut time = schedule.next(near);
    while let Some(passed) = time.filter(|time| *time <= now) {
        last = Some(passed);
        time = schedule.next(passed);
    }
    Ok(Passed { earliest, last, missed })
}

/// How long until the next time.
pub fn until_next(cron: &CronJob, schedule: &Schedule, now: SystemTime) -> Duration {
    let from = match passed(cron, schedule, now, false) {
        Ok(Passed { last: Some(last), .. }) => last,
        Ok(Passed { earliest, missed: 0, .. }) => earliest,
        _ => now,
    };
    match schedule.next(from) {
        Some(next) => (next + PADDING).duration_since(now).unwrap_or_default(),
        // It never comes; the clock may be set.
        None => Duration::from_secs(24 * 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_api::Kind;
    use knarr_meta::time::{parse, rfc3339};
    use serde_json::json;

    fn cron(schedule: &str, last: Option<&str>, deadline: Option<i64>) -> CronJob {
        let cron = json!({ "metadata": { "name": "c", "creationTimestamp": "2026-01-01T10:00:00Z" },
            "spec": { "schedule": schedule, "startingDeadlineSeconds": deadline, "jobTemplate": {} },
            "status": { "lastScheduleTime": last } });
        CronJob::from_value(&cron).expect("a cron job")
    }

    #[test]
    fn times_that_have_passed() {
        let cases = [
            ("0 * * * *", None, None, "2026-01-01T10:30:00Z", None, false),
            ("0 * * * *", None, None, "2026-01-01T11:00:01Z", Some("2026-01-01T11:00:00Z"), false),
            ("0 * * * *", None, None, "2026-01-01T14:20:00Z", Some("2026-01-01T14:00:00Z"), false),
            ("0 * * * *", Some("2026-01-01T14:00:00Z"), None, "2026-01-01T14:20:00Z", None, false),
            ("0 * * * *", None, Some(60), "2026-01-01T14:20:00Z", None, false),
            ("* * * * *", None, None, "2026-01-01T14:20:30Z", Some("2026-01-01T14:20:00Z"), true),
            ("30 6-16/4 * * 1-5", None, None, "2026-01-05T09:30:00Z", Some("2026-01-05T06:30:00Z"), false),
            ("@every 1h", None, None, "2026-01-01T12:30:00Z", Some("2026-01-01T12:00:00Z"), false),
        ];
        for (spec, last_run, deadline, now, wanted, many) in cases {
            let cron = cron(spec, last_run, deadline);
            let schedule = schedule(&cron).expect("a schedule");
            let passed = passed(&cron, &schedule, parse(now).expect("a time"), true).expect("it has times");
            assert_eq!(passed.last.map(rfc3339).as_deref(), wanted, "{spec} {last_run:?} at {now}");
            assert_eq!(passed.is_many(), many, "{spec}");
        }
        let never = cron("59 23 31 2 *", None, None);
        let schedule = schedule(&never).expect("a schedule");
        assert!(passed(&never, &schedule, parse("2026-01-01T10:30:00Z").expect("a time"), true).is_err());
    }

    #[test]
    fn the_next_time_is_waited_for() {
        let cases = [
            ("0 * * * *", None, "2026-01-01T10:30:00Z", 1800),
            ("0 * * * *", None, "2026-01-01T11:10:00Z", 3000),
            ("0 * * * *", Some("2026-01-01T11:00:00Z"), "2026-01-01T11:10:00Z", 3000),
        ];
        for (spec, last_run, now, seconds) in cases {
            let cron = cron(spec, last_run, None);
            let schedule = schedule(&cron).expect("a schedule");
            let wait = until_next(&cron, &schedule, parse(now).expect("a time"));
            assert_eq!(wait, Duration::from_secs(seconds) + PADDING, "{spec} at {now}");
        }
    }
}
