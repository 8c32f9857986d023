//! What a person sees while the cluster starts. Output that nobody reads any more (a terminal that was closed) is
//! no failure.

use std::io::Write;
use std::time::{Duration, Instant};

/// Lines about how far the start has come.
pub struct Progress {
    start: Instant,
    last: Duration,
}

impl Progress {
    /// Begins at `start`.
    pub fn since(start: Instant) -> Self {
        Self { start, last: Duration::ZERO }
    }

    /// A step is done; says what and how long it took.
    pub fn done(&mut self, now: Instant, what: &str, detail: &str) {
        let total = now - self.start;
        say(&format!("  {what:<14} {:>5} ms   {detail}", (total - self.last).as_millis()));
        self.last = total;
    }

    /// Time since the beginning.
    pub fn elapsed(&self, now: Instant) -> Duration {
        now - self.start
    }
}

/// A line on standard output.
pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
