//! The one table of results.

use crate::load::Load;
use std::time::Duration;

/// The rows measured so far.
pub struct Table {
    wanted: Vec<String>,
    rows: Vec<[String; 6]>,
}

impl Table {
    /// An empty table that wants rows whose name contains one of `wanted`, or all.
    pub fn new(wanted: &[String]) -> Self {
        Self { wanted: wanted.iter().map(|word| word.to_lowercase()).collect(), rows: Vec::new() }
    }

    /// Whether a row is wanted.
    pub fn wants(&self, what: &str) -> bool {
        let what = what.to_lowercase();
        self.wanted.is_empty() || self.wanted.iter().any(|word| what.contains(word))
    }

    /// A single value.
    pub fn value(&mut self, what: &str, value: String, target: &str) {
        self.push([what.into(), value, String::new(), String::new(), String::new(), target.into()]);
    }

    /// A distribution of latencies.
    pub fn latencies(&mut self, what: &str, value: String, sorted: &[Duration], cpu: String, target: &str) {
        let (p50, p99) = (millis(percentile(sorted, 50)), millis(percentile(sorted, 99)));
        self.push([what.into(), value, p50, p99, cpu, target.into()]);
    }

    /// A rate under load.
    pub fn load(&mut self, what: &str, load: &Load, target: &str) {
        let mut value = format!("{:.0}/s", load.rate());
        if load.failed > 0 {
            value.push_str(&format!(" ({} failed: {})", load.failed, load.first_error));
        }
        self.latencies(what, value, &load.latencies, load.cpu_each(), target);
    }

    fn push(&mut self, row: [String; 6]) {
        eprintln!(
            "{}: {} p50 {} p99 {} cpu {}",
            row[0],
            row[1],
            or_dash(&row[2]),
            or_dash(&row[3]),
            or_dash(&row[4])
        );
        self.rows.push(row);
    }

    /// Prints everything.
    pub fn print(&self) {
        let head = ["what", "value", "p50", "p99", "server CPU each", "target"].map(str::to_owned);
        let widths: Vec<usize> = (0..head.len())
            .map(|at| {
                self.rows.iter().chain([&head]).map(|row| row[at].chars().count()).max().unwrap_or(0).max(3)
            })
            .collect();
        let line = |row: &[String; 6]| {
            let cells: Vec<String> =
                row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            println!("| {} |", cells.join(" | "));
        };
        line(&head);
        let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
        println!("| {} |", rule.join(" | "));
        self.rows.iter().for_each(line);
    }
}

/// The value below which `percent` of the sorted values are.
pub fn percentile(sorted: &[Duration], percent: usize) -> Option<Duration> {
    sorted.get((sorted.len() * percent / 100).min(sorted.len().checked_sub(1)?)).copied()
}

fn millis(value: Option<Duration>) -> String {
    value.map_or_else(String::new, |value| format!("{:.1} ms", value.as_secs_f64() * 1e3))
}

fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_of_the_sample() {
        let sorted: Vec<Duration> = (0..100).map(Duration::from_millis).collect();
        assert_eq!(percentile(&sorted, 50), Some(Duration::from_millis(50)));
        assert_eq!(percentile(&sorted, 99), Some(Duration::from_millis(99)));
        assert_eq!(percentile(&sorted[..1], 99), Some(Duration::ZERO));
        assert_eq!(percentile(&[], 99), None);
    }
}
