//! The kubelet's metrics under upstream's names.

use crate::kubelet::Shared;
use crate::probe::results::ProbeResults;
use knarr_base::Metrics;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::SystemTime;

/// Handles of the metrics.
pub(crate) struct KubeletMetrics {
    running_pods: Gauge,
    running_containers: Gauge,
    /// Sandboxes made.
    pub(crate) started_pods: Counter,
    /// Sandboxes that could not be made.
    pub(crate) started_pods_errors: Counter,
    /// Containers started.
    pub(crate) started_containers: Counter,
    /// Containers that could not be started.
    pub(crate) started_containers_errors: Counter,
    shutdown_start: Gauge<f64, AtomicU64>,
    shutdown_end: Gauge<f64, AtomicU64>,
    evictions: Mutex<BTreeMap<&'static str, u64>>,
    /// Image volumes that containers asked for.
    pub(crate) image_volumes_requested: Counter,
    /// Those that were mounted.
    pub(crate) image_volumes_mounted: Counter,
    /// Those that could not be.
    pub(crate) image_volumes_failed: Counter,
    /// Results of probes, shown at /metrics/probes.
    pub(crate) probes: ProbeResults,
    /// From first seeing a pod to all its containers running, in seconds.
    pub(crate) pod_start: Histogram,
}

impl KubeletMetrics {
    /// Registers them.
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let counter = |name: &str, help: &str| metrics.register(name, help, Counter::default());
        Self {
            probes: ProbeResults::default(),
            evictions: Mutex::default(),
            image_volumes_requested: counter(
                "kubelet_image_volume_requested",
                "Number of requested image volumes",
            ),
            image_volumes_mounted: counter(
                "kubelet_image_volume_mounted_succeed",
                "Number of successful image volume mounts",
            ),
            image_volumes_failed: counter(
                "kubelet_image_volume_mounted_errors",
                "Number of failed image volume mounts",
            ),
            running_pods: metrics.register(
                "kubelet_running_pods",
                "Number of pods that have a running pod sandbox",
                Gauge::default(),
            ),
            running_containers: metrics.register(
                "kubelet_running_containers",
                "Number of containers currently running",
                Gauge::default(),
            ),
            started_pods: counter("kubelet_started_pods", "Cumulative number of pods started"),
            started_pods_errors: counter(
                "kubelet_started_pods_errors",
                "Cumulative number of errors when starting pods",
            ),
            started_containers: counter(
                "kubelet_started_containers",
                "Cumulative number of containers started",
            ),
            started_containers_errors: counter(
                "kubelet_started_containers_errors",
                "Cumulative number of errors when starting containers",
            ),
            shutdown_start: metrics.register(
                "kubelet_graceful_shutdown_start_time_seconds",
                "Last graceful shutdown start time since unix epoch in seconds",
                Gauge::default(),
            ),
            shutdown_end: metrics.register(
                "kubelet_graceful_shutdown_end_time_seconds",
                "Last graceful shutdown end time since unix epoch in seconds",
                Gauge::default(),
            ),
            pod_start: metrics.register(
                "kubelet_pod_start_duration_seconds",
                "Duration from the kubelet seeing a pod for the first time to the pod starting to run",
                Histogram::new(exponential_buckets(0.01, 2.0, 15)),
            ),
        }
    }

    /// A pod was evicted for this signal.
    pub(crate) fn evicted(&self, signal: &'static str) {
        *self.evictions.lock().expect("no holder of the counts panics").entry(signal).or_default() += 1;
    }

    /// Evictions by signal.
    pub(crate) fn evictions(&self) -> BTreeMap<&'static str, u64> {
        self.evictions.lock().expect("no holder of the counts panics").clone()
    }

    /// When the last graceful shutdown of the node began and ended, if there was one.
    pub(crate) fn shutdown(&self, began: Option<SystemTime>, ended: Option<SystemTime>) {
        for (gauge, moment) in [(&self.shutdown_start, began), (&self.shutdown_end, ended)] {
            let since = moment.and_then(|moment| moment.duration_since(SystemTime::UNIX_EPOCH).ok());
            gauge.set(since.map_or(0.0, |since| since.as_secs_f64()));
        }
    }

    /// Counts what runs now.
    pub(crate) fn refresh(&self, kubelet: &Shared) {
        let sandboxes = kubelet.config.runtime.sandboxes();
        let running =
            |c: &&knarr_runtime::spec::ContainerStatus| c.state == knarr_runtime::spec::State::Running;
        let containers = sandboxes.iter().flat_map(|s| &s.containers).filter(running).count();
        self.running_pods.set(sandboxes.iter().filter(|s| s.ready).count() as i64);
        self.running_containers.set(containers as i64);
    }
}
