//! What probes came to and how long they took, as /metrics/probes shows it under upstream's names.

use knarr_api::Kind;
use knarr_api::core::v1::Pod;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Mutex;
use std::time::Duration;

/// Upper bounds in seconds, Prometheus' own defaults as upstream's.
const BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// A probe of a container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Probe {
    kind: &'static str,
    container: String,
    pod: String,
    namespace: String,
    uid: String,
}

/// How often it came to what, by result, and how long it took.
#[derive(Debug, Default)]
struct Results {
    counts: BTreeMap<&'static str, u64>,
    /// Those at most as long as each bound.
    buckets: [u64; BUCKETS.len()],
    observed: u64,
    seconds: f64,
}

/// The results of all probes that run.
#[derive(Default)]
pub(crate) struct ProbeResults(Mutex<BTreeMap<Probe, Results>>);

/// A probe that runs; its results are forgotten with it.
pub(crate) struct ProbeRecord<'a> {
    results: &'a ProbeResults,
    probe: Probe,
}

impl ProbeResults {
    /// For one probe of a container.
    pub(crate) fn record(&self, kind: &'static str, container: &str, pod: &Pod) -> ProbeRecord<'_> {
        let probe = Probe {
            kind,
            container: container.to_owned(),
            pod: pod.name().to_owned(),
            namespace: pod.namespace().to_owned(),
            uid: pod.uid().to_owned(),
        };
        ProbeRecord { results: self, probe }
    }

    /// As Prometheus' text format has it. Names of Kubernetes' objects need no escaping.
    pub(crate) fn text(&self) -> String {
        let all = self.0.lock().expect("no holder of the results panics");
        let mut text = String::new();
        if all.values().any(|results| results.observed > 0) {
            text.push_str("# HELP prober_probe_duration_seconds [ALPHA] Duration in seconds for a probe response.\n# TYPE prober_probe_duration_seconds histogram\n");
        }
        for (Probe { kind, container, pod, namespace, .. }, results) in
            all.iter().filter(|(_, results)| results.observed > 0)
        {
            let labels = format!(
                "container=\"{container}\",namespace=\"{namespace}\",pod=\"{pod}\",probe_type=\"{kind}\""
            );
            let bounds = BUCKETS.iter().map(ToString::to_string).zip(results.buckets);
            for (bound, count) in bounds.chain([("+Inf".to_owned(), results.observed)]) {
                let _ =
                    writeln!(text, "prober_probe_duration_seconds_bucket{{{labels},le=\"{bound}\"}} {count}");
            }
            let _ = writeln!(text, "prober_probe_duration_seconds_sum{{{labels}}} {}", results.seconds);
            let _ = writeln!(text, "prober_probe_duration_seconds_count{{{labels}}} {}", results.observed);
        }
        if !all.is_empty() {
            text.push_str("# HELP prober_probe_total [BETA] Cumulative number of a liveness, readiness or startup probe for a container by result.\n# TYPE prober_probe_total counter\n");
        }
        for (Probe { kind, container, pod, namespace, uid }, results) in &*all {
            for (result, count) in &results.counts {
                let _ = writeln!(
                    text,
                    "prober_probe_total{{container=\"{container}\",namespace=\"{namespace}\",pod=\"{pod}\",pod_uid=\"{uid}\",probe_type=\"{kind}\",result=\"{result}\"}} {count}"
                );
            }
        }
        text
    }
}

impl ProbeRecord<'_> {
    /// One more result: `successful`, `failed` or `unknown`, after so long. As upstream, the time of a failure does not
    /// count.
    pub(crate) fn count(&self, result: &'static str, took: Duration) {
        let mut all = self.results.0.lock().expect("no holder of the results panics");
        let results = all.entry(self.probe.clone()).or_default();
        *results.counts.entry(result).or_default() += 1;
        if result != "failed" {
            let seconds = took.as_secs_f64();
            for (count, bound) in results.buckets.iter_mut().zip(BUCKETS) {
                *count += u64::from(seconds <= bound);
            }
            results.observed += 1;
            results.seconds += seconds;
        }
    }
}

impl Drop for ProbeRecord<'_> {
    fn drop(&mut self) {
        self.results.0.lock().expect("no holder of the results panics").remove(&self.probe);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_probes_are_counted_and_timed_while_they_run() {
        let results = ProbeResults::default();
        let mut pod = Pod::default();
        pod.meta_mut().name = Some("p".into());
        let record = results.record("Liveness", "c", &pod);
        record.count("failed", Duration::from_secs(100));
        record.count("failed", Duration::from_secs(100));
        let total = |result: &str, count: u64| {
            format!(
                "prober_probe_total{{container=\"c\",namespace=\"\",pod=\"p\",pod_uid=\"\",probe_type=\"Liveness\",result=\"{result}\"}} {count}\n"
            )
        };
        let text = results.text();
        assert!(text.ends_with(&total("failed", 2)) && !text.contains("duration"), "{text}");
        record.count("successful", Duration::from_millis(250));
        record.count("unknown", Duration::from_secs(20));
        let text = results.text();
        let seen = |name: &str, more: &str| {
            let labels = "container=\"c\",namespace=\"\",pod=\"p\",probe_type=\"Liveness\"";
            let line = format!("prober_probe_duration_seconds_{name}{{{labels}{more}}} ");
            let found = text.lines().find_map(|l| l.strip_prefix(&line)).map(str::to_owned);
            found.unwrap_or_else(|| panic!("no {line} in {text}"))
        };
        for (bound, count) in
            [("0.005", "0"), ("0.1", "0"), ("0.25", "1"), ("1", "1"), ("10", "1"), ("+Inf", "2")]
        {
            assert_eq!(seen("bucket", &format!(",le=\"{bound}\"")), count, "{bound}");
        }
        assert_eq!((seen("sum", ""), seen("count", "")), ("20.25".to_owned(), "2".to_owned()));
        assert!(
            text.ends_with(&(total("failed", 2) + &total("successful", 1) + &total("unknown", 1))),
            "{text}"
        );
        drop(record);
        assert_eq!(results.text(), "");
    }
}
