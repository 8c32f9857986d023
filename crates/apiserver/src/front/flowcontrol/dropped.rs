//! How long a refused client is told to stay away: twice as long while many are refused, a second less while few
//! are, as upstream's dropped-requests tracker reckons by whole seconds.

use std::collections::HashMap;
use std::sync::Mutex;

/// The longest time, in seconds.
const MAX_RETRY_AFTER: u64 = 32;

#[derive(Default)]
struct Level {
    /// Refusals by second, the oldest first, without the current one.
    history: Vec<(u64, u64)>,
    current: (u64, u64),
    retry_after: u64,
    raised_at: u64,
}

/// The refusals of each priority level.
#[derive(Default)]
pub struct Dropped(Mutex<HashMap<String, Level>>);

impl Dropped {
    /// Counts a refusal at `now` (whole seconds) and says after how many seconds to come again.
    pub fn record(&self, level: &str, now: u64) -> u64 {
        let mut levels = self.0.lock().expect("no holder of the refusals panics");
        if !levels.contains_key(level) {
            levels.insert(level.to_owned(), Level { retry_after: 1, ..Level::default() });
        }
        let level = levels.get_mut(level).expect("was just inserted");
        level.record(now);
        level.retry_after
    }
}

impl Level {
    fn record(&mut self, now: u64) {
        if self.current.0 == now {
            self.current.1 += 1;
            return;
        }
        let (second, _) = self.current;
        self.history.push(self.current);
        let kept = (2 * self.retry_after).min(MAX_RETRY_AFTER);
        self.history.retain(|(at, _)| second.saturating_sub(*at) <= kept);
        self.current = (now, 1);
        let recent =
            self.history.iter().filter(|(at, _)| now.saturating_sub(*at) <= self.retry_after && *at < now);
        let refused: u64 = recent.map(|(_, count)| count).sum();
        if now.saturating_sub(self.raised_at) >= self.retry_after && refused >= 3 * self.retry_after {
            self.retry_after = (2 * self.retry_after).min(MAX_RETRY_AFTER);
            self.raised_at = now;
        } else if refused < self.retry_after && self.retry_after > 1 {
            self.retry_after -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_refusals_double_the_time_and_few_shorten_it() {
        let dropped = Dropped::default();
        // second, refusals in it -> what the last one is told
        for (second, count, want) in [
            (100, 1, 1),
            (101, 3, 1),
            (102, 5, 2),
            (103, 6, 2),
            (104, 20, 4),
            (108, 20, 8),
            (109, 20, 8),
            (130, 1, 7),
            (131, 1, 6),
            (132, 1, 5),
        ] {
            let told = (0..count).map(|_| dropped.record("level", second)).last();
            assert_eq!(told, Some(want), "second {second}");
        }
        assert_eq!(dropped.record("other", 132), 1, "levels are counted apart");
    }
}
