//! The samples of a kubelet's /metrics/resource (Prometheus' text format).

use super::usage::{Batch, Point};
use std::collections::HashMap;
use std::time::{Duration, SystemTime};

/// A line: name, labels, value, time.
struct Sample<'a> {
    name: &'a str,
    labels: HashMap<&'a str, String>,
    value: f64,
    time: Option<SystemTime>,
}

/// CPU, memory, start and time of one thing, as they come together from the lines.
#[derive(Default)]
struct Parts {
    cpu_seconds: Option<f64>,
    memory_bytes: Option<f64>,
    started: Option<f64>,
    time: Option<SystemTime>,
}

impl Parts {
    fn take(&mut self, of: &str, sample: &Sample<'_>) {
        let time = sample.time;
        match of {
            "cpu_usage_seconds_total" => (self.cpu_seconds, self.time) = (Some(sample.value), time),
            "memory_working_set_bytes" => self.memory_bytes = Some(sample.value),
            "start_time_seconds" => self.started = Some(sample.value),
            _ => {}
        }
    }

    fn point(&self, now: SystemTime) -> Option<Point> {
        let started = self.started.filter(|seconds| *seconds > 0.0);
        Some(Point {
            time: self.time.unwrap_or(now),
            cpu_seconds: self.cpu_seconds?,
            memory_bytes: self.memory_bytes? as u64,
            started: started.map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds)),
        })
    }
}

/// Adds what the kubelet of `node` says to `batch`. Lines that are not understood are passed over, and so is what lacks
/// one of its numbers. `now` is the time of samples without one.
pub fn collect(text: &str, node: &str, now: SystemTime, batch: &mut Batch) {
    let mut of_node = Parts::default();
    let mut containers: HashMap<(String, String, String), Parts> = HashMap::new();
    for sample in text.lines().filter_map(parse) {
        if let Some(of) = sample.name.strip_prefix("node_") {
            of_node.take(of, &sample);
        } else if let Some(of) = sample.name.strip_prefix("container_") {
            let label = |name: &str| sample.labels.get(name).cloned().unwrap_or_default();
            let key = (label("namespace"), label("pod"), label("container"));
            containers.entry(key).or_default().take(of, &sample);
        }
    }
    if let Some(point) = of_node.point(now) {
        batch.nodes.insert(node.to_owned(), point);
    }
    for ((namespace, pod, container), parts) in containers {
        if let Some(point) = parts.point(now) {
            batch.pods.entry((namespace, pod)).or_default().insert(container, point);
        }
    }
}

fn parse(line: &str) -> Option<Sample<'_>> {
    if line.starts_with('#') {
        return None;
    }
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = HashMap::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while !rest.trim_start_matches([',', ' ']).starts_with('}') {
            let (label, after) = rest.split_once("=\"")?;
            let (value, after) = quoted(after)?;
            labels.insert(label.trim_start_matches([',', ' ']), value);
            rest = after;
        }
        rest = &rest.trim_start_matches([',', ' '])[1..];
    }
    let mut fields = rest.split_whitespace();
    let value = fields.next()?.parse().ok().filter(|value: &f64| value.is_finite() && *value >= 0.0)?;
    let time = fields.next().and_then(|ms| ms.parse().ok());
    let time = time.map(|ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms));
    Some(Sample { name, labels, value, time })
}

/// Text up to the closing quote, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                c => value.push(c),
            },
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_come_together() {
        let text = r#"
# HELP container_cpu_usage_seconds_total [STABLE] Cumulative
# TYPE container_cpu_usage_seconds_total counter
container_cpu_usage_seconds_total{container="c",namespace="n",pod="p"} 1.5e-1 2500
container_cpu_usage_seconds_total{container="half",namespace="n",pod="p"} 1 2500
container_memory_working_set_bytes{container="c",namespace="n",pod="p"} 4096 2500
container_start_time_seconds{container="c",namespace="n",pod="p",other="a\"}b",} 1.5
node_cpu_usage_seconds_total 7
node_memory_working_set_bytes 8192
pod_cpu_usage_seconds_total{namespace="n",pod="p"} 3
nonsense{
broken{a="b 1
container_cpu_usage_seconds_total{container="nan",namespace="n",pod="p"} NaN
"#;
        let at = |ms: u64| SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
        let mut batch = Batch::default();
        collect(text, "alpha", at(9), &mut batch);
        let node = Point { time: at(9), cpu_seconds: 7.0, memory_bytes: 8192, started: None };
        assert_eq!(batch.nodes["alpha"], node);
        let containers = &batch.pods[&("n".to_owned(), "p".to_owned())];
        let point = Point { time: at(2500), cpu_seconds: 0.15, memory_bytes: 4096, started: Some(at(1500)) };
        assert_eq!(containers.iter().map(|(n, p)| (n.as_str(), *p)).collect::<Vec<_>>(), [("c", point)]);
    }
}
