//! /metrics/resource: CPU and memory of the node, its pods and their containers, which a metrics server reads.

use super::exposition::{Exposition, Labels};
use super::{Container, Measured, cpu_seconds, machine, measure, metrics_text, millis, seconds};
use crate::kubelet::Shared;
use http::Response;
use knarr_client::Body;
use knarr_runtime::spec::Usage;
use std::sync::Arc;

/// The document.
pub(in crate::server) async fn metrics(kubelet: &Arc<Shared>) -> Response<Body> {
    let measured = measure(kubelet).await;
    metrics_text(text(&machine::usage(), &measured, millis(kubelet.ctx.clock.now())))
}

fn text(node: &Usage, measured: &[Measured], now: u64) -> String {
    let (mut out, now) = (Exposition::default(), Some(now));
    let containers = |out: &mut Exposition, value: &dyn Fn(&Container) -> Option<f64>, time: Option<u64>| {
        for pod in measured {
            for container in &pod.containers {
                let labels: Labels<'_> =
                    &[("container", &container.name), ("namespace", &pod.namespace), ("pod", &pod.pod)];
                if let Some(value) = value(container) {
                    out.sample(labels, value, time);
                }
            }
        }
    };
    let pods = |out: &mut Exposition, value: &dyn Fn(&Usage) -> Option<f64>| {
        for pod in measured {
            if let Some(value) = value(&pod.usage) {
                out.sample(&[("namespace", &pod.namespace), ("pod", &pod.pod)], value, now);
            }
        }
    };
    let bytes = |bytes: Option<u64>| bytes.map(|bytes| bytes as f64);

    out.counter(
        "container_cpu_usage_seconds_total",
        "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
    );
    containers(&mut out, &|c| Some(cpu_seconds(c.usage.cpu_usage_ns)), now);
    out.gauge("container_memory_working_set_bytes", "[STABLE] Current working set of the container in bytes");
    containers(&mut out, &|c| Some(c.usage.memory_working_set_bytes as f64), now);
    out.gauge(
        "container_start_time_seconds",
        "[STABLE] Start time of the container since unix epoch in seconds",
    );
    containers(&mut out, &|c| Some(seconds(c.started)), None);
    out.gauge(
        "container_swap_limit_bytes",
        "[ALPHA] Current amount of the container swap limit in bytes. Reported only on non-windows systems",
    );
    containers(&mut out, &|c| bytes(c.usage.swap_limit_bytes), now);
    out.gauge(
        "container_swap_usage_bytes",
        "[ALPHA] Current amount of the container swap usage in bytes. Reported only on non-windows systems",
    );
    containers(&mut out, &|c| bytes(c.usage.swap_usage_bytes), now);
    out.counter(
        "node_cpu_usage_seconds_total",
        "[STABLE] Cumulative cpu time consumed by the node in core-seconds",
    );
    out.sample(&[], cpu_seconds(node.cpu_usage_ns), now);
    out.gauge("node_memory_working_set_bytes", "[STABLE] Current working set of the node in bytes");
    out.sample(&[], node.memory_working_set_bytes as f64, now);
    out.gauge(
        "node_swap_usage_bytes",
        "[ALPHA] Current swap usage of the node in bytes. Reported only on non-windows systems",
    );
    if let Some(swap) = bytes(node.swap_usage_bytes) {
        out.sample(&[], swap, now);
    }
    out.counter(
        "pod_cpu_usage_seconds_total",
        "[STABLE] Cumulative cpu time consumed by the pod in core-seconds",
    );
    pods(&mut out, &|u| Some(cpu_seconds(u.cpu_usage_ns)));
    out.gauge("pod_memory_working_set_bytes", "[STABLE] Current working set of the pod in bytes");
    pods(&mut out, &|u| Some(u.memory_working_set_bytes as f64));
    out.gauge(
        "pod_swap_usage_bytes",
        "[ALPHA] Current amount of the pod swap usage in bytes. Reported only on non-windows systems",
    );
    pods(&mut out, &|u| bytes(u.swap_usage_bytes));
    out.gauge(
        "resource_scrape_error",
        "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise",
    );
    out.sample(&[], 0.0, None);
    out.gauge(
        "scrape_error",
        "[ALPHA] (Deprecated since 1.29.0) 1 if there was an error while getting container metrics, 0 otherwise",
    );
    out.sample(&[], 0.0, None);
    out.finish()
}

#[cfg(test)]
mod tests {
    use super::super::at;
    use super::*;

    #[test]
    fn containers_pods_and_the_node_are_told_with_times() {
        let usage = |ns: u64| Usage { cpu_usage_ns: ns, memory_working_set_bytes: 4096, ..Usage::default() };
        let container = Container {
            name: "c".into(),
            id: "1".into(),
            image: "i".into(),
            started: at(1_500_000_000),
            cgroup: String::new(),
            usage: usage(250_000_000),
        };
        let pod = Measured {
            namespace: "n".into(),
            pod: "p".into(),
            uid: "u".into(),
            started: at(0),
            cgroup: String::new(),
            network: None,
            usage: Usage { swap_usage_bytes: Some(7), ..usage(2_000_000_000) },
            containers: vec![container],
        };
        let text = text(&usage(5_000_000_000), &[pod], 1234);
        for line in [
            "# TYPE container_cpu_usage_seconds_total counter",
            "container_cpu_usage_seconds_total{container=\"c\",namespace=\"n\",pod=\"p\"} 0.25 1234",
            "container_start_time_seconds{container=\"c\",namespace=\"n\",pod=\"p\"} 1.5",
            "node_cpu_usage_seconds_total 5 1234",
            "pod_memory_working_set_bytes{namespace=\"n\",pod=\"p\"} 4096 1234",
            "pod_swap_usage_bytes{namespace=\"n\",pod=\"p\"} 7 1234",
            "resource_scrape_error 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
        assert!(!text.contains("container_swap_usage_bytes"), "what is not known is not shown");
    }
}
