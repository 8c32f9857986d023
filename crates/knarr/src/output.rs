//! What a person sees while the cluster starts. Output that nobody reads any more (a terminal that was closed) is
//! no failure.

use knarr_base::Ctx;
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

/// Redrawing more often than this would only flicker.
const REDRAW: Duration = Duration::from_millis(100);
/// Columns of a bar.
const BAR: u64 = 24;

/// Several transfers on a terminal, a line each, redrawn in place.
pub struct Transfers {
    ctx: Ctx,
    items: Vec<(String, u64, u64)>,
    drawn_lines: usize,
    drawn_at: Option<Instant>,
}

impl Transfers {
    /// Without any.
    pub fn new(ctx: &Ctx) -> Self {
        Self { ctx: ctx.clone(), items: Vec::new(), drawn_lines: 0, drawn_at: None }
    }

    /// One of them is so far.
    pub fn show(&mut self, item: String, done_bytes: u64, total_bytes: u64) {
        let whole = total_bytes > 0 && done_bytes >= total_bytes;
        let known = self.items.iter_mut().find(|(name, ..)| *name == item);
        let new = known.is_none();
        match known {
            Some(known) => (known.1, known.2) = (done_bytes, total_bytes),
            None => self.items.push((item, done_bytes, total_bytes)),
        }
        let now = self.ctx.clock.instant();
        if new || whole || self.drawn_at.is_none_or(|at| now - at >= REDRAW) {
            self.drawn_at = Some(now);
            self.draw();
        }
    }

    fn draw(&mut self) {
        let mut text = String::new();
        if self.drawn_lines > 0 {
            text.push_str(&format!("\x1b[{}A", self.drawn_lines));
        }
        for (item, done, total) in &self.items {
            text.push_str(&format!("\r\x1b[2K{}\n", bar(item, *done, *total)));
        }
        self.drawn_lines = self.items.len();
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

fn bar(item: &str, done_bytes: u64, total_bytes: u64) -> String {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    if total_bytes == 0 {
        return format!("{item:<12}  {:.1} MiB", mib(done_bytes));
    }
    let full = (done_bytes.min(total_bytes) * BAR / total_bytes) as usize;
    let bar = format!("{}{}", "=".repeat(full), " ".repeat(BAR as usize - full));
    format!("{item:<12}  [{bar}]  {:.1} of {:.1} MiB", mib(done_bytes), mib(total_bytes))
}

/// A line on standard output.
pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::bar;

    #[test]
    fn bars_fill_as_bytes_come() {
        let mib = 1 << 20;
        for (done, total, text) in [
            (0, 4 * mib, "abc           [                        ]  0.0 of 4.0 MiB"),
            (mib, 4 * mib, "abc           [======                  ]  1.0 of 4.0 MiB"),
            (5 * mib, 4 * mib, "abc           [========================]  5.0 of 4.0 MiB"),
            (mib, 0, "abc           1.0 MiB"),
        ] {
            assert_eq!(bar("abc", done, total), text);
        }
    }
}
