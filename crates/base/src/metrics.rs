//! The metrics of one control plane, in the Prometheus text form.

use prometheus_client::registry::{Metric, Registry};
use std::sync::{Arc, Mutex};

/// A shared registry. Metric names follow upstream's where one exists; label sets are closed.
#[derive(Clone, Default)]
pub struct Metrics(Arc<Mutex<Registry>>);

impl Metrics {
    /// Registers `metric` (a clone-able handle) under `name`, and hands it back.
    pub fn register<M: Metric + Clone>(&self, name: &str, help: &str, metric: M) -> M {
        self.0.lock().expect("metrics lock is never poisoned").register(name, help, metric.clone());
        metric
    }

    /// Registers what makes its metrics when they are read.
    pub fn register_collector(&self, collector: Box<dyn prometheus_client::collector::Collector>) {
        self.0.lock().expect("metrics lock is never poisoned").register_collector(collector);
    }

    /// All metrics in the OpenMetrics text form.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        let registry = self.0.lock().expect("metrics lock is never poisoned");
        prometheus_client::encoding::text::encode(&mut text, &registry)
            .expect("writing to a string succeeds");
        text
    }
}
