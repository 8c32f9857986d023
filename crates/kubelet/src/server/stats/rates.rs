//! CPU use per second, out of two readings of a counter: usageNanoCores of the summary.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Readings closer together than this tell nothing.
const SHORTEST: Duration = Duration::from_secs(1);
/// Readings further apart than this are about another time than now; what has run since then counts from its start.
const LONGEST: Duration = Duration::from_secs(300);

#[derive(Clone, Copy)]
struct Reading {
    at: Instant,
    cpu_ns: u64,
    nanocores: u64,
}

/// The last readings, by container ID or any other name.
#[derive(Default)]
pub(in crate::server) struct Rates(Mutex<HashMap<String, Reading>>);

impl Rates {
    /// Takes a reading of the counter `cpu_ns` and says how many billionths of a CPU are in use. `age` is how long the
    /// counter has been running, for when there is no earlier reading.
    pub(super) fn nanocores(&self, name: &str, cpu_ns: u64, now: Instant, age: Duration) -> u64 {
        let mut readings = self.0.lock().expect("no holder of the readings panics");
        let per_second = |ns: u64, over: Duration| (ns as f64 / over.as_secs_f64().max(1e-3)) as u64;
        let nanocores = match readings.get(name) {
            Some(last) if now - last.at < SHORTEST && cpu_ns >= last.cpu_ns => return last.nanocores,
            Some(last) if now - last.at <= LONGEST && cpu_ns >= last.cpu_ns => {
                per_second(cpu_ns - last.cpu_ns, now - last.at)
            }
            _ => per_second(cpu_ns, age),
        };
        readings.insert(name.to_owned(), Reading { at: now, cpu_ns, nanocores });
        nanocores
    }

    /// Forgets what was not read within the longest time.
    pub(super) fn forget(&self, now: Instant) {
        self.0.lock().expect("no holder of the readings panics").retain(|_, r| now - r.at <= LONGEST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_over_the_last_two_readings() {
        let rates = Rates::default();
        let start = knarr_base::SystemClock::new();
        let start = knarr_base::Clock::instant(&start);
        let second = Duration::from_secs(1);
        let at = |seconds: u32| start + second * seconds;
        let read = |cpu_ns: u64, seconds: u32, age: u64| {
            rates.nanocores("c", cpu_ns, at(seconds), Duration::from_secs(age))
        };
        assert_eq!(read(5_000, 0, 5), 1_000, "since the start");
        assert_eq!(read(9_000, 2, 7), 2_000);
        assert_eq!(rates.nanocores("c", 9_500, at(2) + second / 2, second), 2_000, "too soon");
        assert_eq!(read(600, 10, 3), 200, "started anew");
        assert_eq!(read(1_200, 1_000, 600), 2, "too long ago");
        rates.forget(at(2_000));
        assert!(rates.0.lock().unwrap().is_empty());
    }
}
