//! Two readings of a counter make a rate.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::time::{Duration, SystemTime};

/// What has run for less than this tells nothing of what it will use.
const SHORTEST: Duration = Duration::from_secs(1);

/// One reading.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// When it was taken.
    pub time: SystemTime,
    /// CPU time so far in seconds.
    pub cpu_seconds: f64,
    /// Memory in use now.
    pub memory_bytes: u64,
    /// Since when the counter runs, if that is known.
    pub started: Option<SystemTime>,
}

/// The readings of one round.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// By node.
    pub nodes: HashMap<String, Point>,
    /// By namespace and name of the pod, then by container.
    pub pods: HashMap<(String, String), BTreeMap<String, Point>>,
}

/// What is used now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// When it was read.
    pub time: SystemTime,
    /// The time over which the CPU's part is the mean.
    pub window: Duration,
    /// Billionths of a CPU.
    pub nanocores: u64,
    /// Memory.
    pub memory_bytes: u64,
}

/// The use between two readings. What has started since the first counts from its start.
pub fn between(previous: Option<&Point>, last: &Point) -> Option<Usage> {
    let same =
        |p: &&Point| last.started.is_none_or(|start| start <= p.time) && p.cpu_seconds <= last.cpu_seconds;
    let (since, before) = match previous.filter(same) {
        Some(previous) => (previous.time, previous.cpu_seconds),
        None => (last.started?, 0.0),
    };
    let window = last.time.duration_since(since).ok()?;
    if window.is_zero() || (before == 0.0 && window < SHORTEST) {
        return None;
    }
    let nanocores = (last.cpu_seconds - before) * 1e9 / window.as_secs_f64();
    Some(Usage { time: last.time, window, nanocores: nanocores as u64, memory_bytes: last.memory_bytes })
}

/// A duration as Go prints it.
pub fn window_text(window: Duration) -> String {
    let mut text = String::new();
    let (seconds, millis) = (window.as_secs(), window.subsec_millis());
    if seconds == 0 {
        return if millis == 0 { "0s".to_owned() } else { format!("{millis}ms") };
    }
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    if hours > 0 {
        let _ = write!(text, "{hours}h");
    }
    if seconds >= 60 {
        let _ = write!(text, "{minutes}m");
    }
    let _ = write!(text, "{}", seconds % 60);
    if millis > 0 {
        text.push_str(format!(".{millis:03}").trim_end_matches('0'));
    }
    text.push('s');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_between_readings_or_since_the_start() {
        let at = |ms: u64| SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
        let point = |ms: u64, cpu_seconds: f64, started: Option<u64>| Point {
            time: at(ms),
            cpu_seconds,
            memory_bytes: 7,
            started: started.map(at),
        };
        let rate = |previous: Option<Point>, last: Point| {
            between(previous.as_ref(), &last).map(|u| (u.nanocores, u.window.as_millis()))
        };
        let first = point(10_000, 1.0, Some(0));
        for (previous, last, expected) in [
            (Some(first), point(20_000, 2.0, Some(0)), Some((100_000_000, 10_000))),
            // A node's counter has no start.
            (Some(point(10_000, 1.0, None)), point(20_000, 1.0, None), Some((0, 10_000))),
            (None, point(20_000, 1.0, None), None),
            // Started anew between the readings, or not there at the first.
            (Some(first), point(20_000, 0.5, Some(15_000)), Some((100_000_000, 5_000))),
            (None, point(20_000, 2.0, Some(10_000)), Some((200_000_000, 10_000))),
            (None, point(20_000, 0.9, Some(19_500)), None),
            // The same reading twice.
            (Some(first), first, None),
        ] {
            assert_eq!(rate(previous, last), expected, "{previous:?} {last:?}");
        }
    }

    #[test]
    fn windows_are_printed_as_in_go() {
        for (ms, text) in [
            (0, "0s"),
            (250, "250ms"),
            (15_060, "15.06s"),
            (60_000, "1m0s"),
            (90_500, "1m30.5s"),
            (3_600_000, "1h0m0s"),
        ] {
            assert_eq!(window_text(Duration::from_millis(ms)), text);
        }
    }
}
