//! Waiting from outside: a black box can only be asked again and again.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Pause between two looks. Short, because what is looked at costs a process anyway.
const POLL: Duration = Duration::from_millis(50);

/// A limit on this machine: as many times as long as `KNARR_E2E_PATIENCE` says, for machines that are emulated.
pub fn stretched(limit: Duration) -> Duration {
    static FACTOR: OnceLock<u32> = OnceLock::new();
    limit
        * *FACTOR.get_or_init(|| {
            let said = std::env::var("KNARR_E2E_PATIENCE").ok();
            said.map_or(1, |said| said.parse().expect("KNARR_E2E_PATIENCE is a whole number"))
        })
}

/// Asks `look` until it is content, at most for `limit`; panics with the last state it saw.
pub fn wait_for<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let limit = stretched(limit);
    let start = Instant::now();
    loop {
        let last = match look() {
            Ok(found) => return found,
            Err(state) => state,
        };
        assert!(start.elapsed() < limit, "{what}: not within {} s; last seen: {last}", limit.as_secs());
        std::thread::sleep(POLL);
    }
}

/// Seconds as a limit.
pub const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}
