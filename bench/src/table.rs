//! The one table of results.

use crate::load::Load;
use std::time::Duration;

/// One measurement.
#[derive(Clone, Debug, Default)]
struct Row {
    what: String,
    value: String,
    /// Requests a second, where it is a rate.
    rate: Option<f64>,
    p50: Option<Duration>,
    p99: Option<Duration>,
    /// Processor time of the server per request.
    cpu: Option<Duration>,
    target: String,
}

/// The rows measured so far.
pub struct Table {
    wanted: Vec<String>,
    rows: Vec<Row>,
    name: &'static str,
}

impl Table {
    /// An empty table of a cluster that wants rows whose name contains one of `wanted`, or all.
    pub fn new(name: &'static str, wanted: &[String]) -> Self {
        Self { wanted: wanted.iter().map(|word| word.to_lowercase()).collect(), rows: Vec::new(), name }
    }

    /// Whether a row is wanted.
    pub fn wants(&self, what: &str) -> bool {
        let what = what.to_lowercase();
        self.wanted.is_empty() || self.wanted.iter().any(|word| what.contains(word))
    }

    /// A single value.
    pub fn value(&mut self, what: &str, value: String, target: &str) {
        self.push(Row { what: what.into(), value, target: target.into(), ..Row::default() });
    }

    /// A distribution of latencies, with the server's processor time per request.
    pub fn latencies(
        &mut self,
        what: &str,
        value: String,
        sorted: &[Duration],
        cpu: Option<Duration>,
        target: &str,
    ) {
        let (p50, p99) = (percentile(sorted, 50), percentile(sorted, 99));
        self.push(Row { what: what.into(), value, rate: None, p50, p99, cpu, target: target.into() });
    }

    /// A rate under load.
    pub fn load(&mut self, what: &str, load: &Load, target: &str) {
        let mut value = format!("{:.0}/s", load.rate());
        if load.failed > 0 {
            value.push_str(&format!(" ({} failed: {})", load.failed, load.first_error));
        }
        let (p50, p99) = (percentile(&load.latencies, 50), percentile(&load.latencies, 99));
        let (rate, cpu) = (Some(load.rate()), load.cpu_each());
        self.push(Row { what: what.into(), value, rate, p50, p99, cpu, target: target.into() });
    }

    fn push(&mut self, row: Row) {
        let (p50, p99, cpu) = (millis(row.p50), millis(row.p99), each(row.cpu));
        eprintln!(
            "{}{}: {} p50 {} p99 {} cpu {}",
            self.name,
            row.what,
            row.value,
            or_dash(&p50),
            or_dash(&p99),
            or_dash(&cpu)
        );
        self.rows.push(row);
    }

    /// Prints everything.
    pub fn print(&self) {
        let rows = self.rows.iter().map(|row| {
            let cells =
                [&row.what, &row.value, &millis(row.p50), &millis(row.p99), &each(row.cpu), &row.target];
            cells.map(String::clone)
        });
        print(&["what", "value", "p50", "p99", "server CPU each", "target"], rows.collect());
    }

    /// Prints the rows that both have side by side: ratios above one are in favour of this table's cluster.
    pub fn print_beside(&self, peer: &Self) {
        let ratio =
            |own: f64, peer: f64| if own > 0.0 { format!("{:.1}", peer / own) } else { String::new() };
        let times = |own: Option<Duration>, peer: Option<Duration>| {
            own.zip(peer).map_or_else(String::new, |(own, peer)| ratio(own.as_secs_f64(), peer.as_secs_f64()))
        };
        let mut rows = Vec::new();
        for own in &self.rows {
            let Some(peer) = peer.rows.iter().find(|peer| peer.what == own.what) else { continue };
            let rate = own.rate.zip(peer.rate).map_or_else(String::new, |(own, peer)| ratio(peer, own));
            rows.push([
                own.what.clone(),
                format!("{} : {}", own.value, peer.value),
                rate,
                format!("{} : {}", millis(own.p99), millis(peer.p99)),
                times(own.p99, peer.p99),
                format!("{} : {}", each(own.cpu), each(peer.cpu)),
                times(own.cpu, peer.cpu),
            ]);
        }
        print(
            &["what", "value : peer", "ratio", "p99 : peer", "ratio", "server CPU each : peer", "ratio"],
            rows,
        );
    }
}

fn print<const N: usize>(head: &[&str; N], rows: Vec<[String; N]>) {
    let head = head.map(str::to_owned);
    let widths: Vec<usize> = (0..N)
        .map(|at| rows.iter().chain([&head]).map(|row| row[at].chars().count()).max().unwrap_or(0).max(3))
        .collect();
    let line = |row: &[String; N]| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        println!("| {} |", cells.join(" | "));
    };
    line(&head);
    let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
    println!("| {} |", rule.join(" | "));
    rows.iter().for_each(line);
}

fn each(cpu: Option<Duration>) -> String {
    cpu.map_or_else(String::new, |cpu| match cpu.as_secs_f64() * 1e6 {
        us if us < 10_000.0 => format!("{us:.0} us"),
        us => format!("{:.1} ms", us / 1e3),
    })
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
