//! What the node's pods use: /pods, /stats/summary and /metrics/resource.

use super::{json as answer, text};
use crate::kubelet::Shared;
use http::{Response, StatusCode};
use knarr_api::Kind;
use knarr_client::Body;
use knarr_meta::time::rfc3339;
use knarr_runtime::spec::{State, Usage};
use serde_json::{Value, json};
use std::fmt::Write;
use std::sync::Arc;

/// The pods of this node with their latest status; `running` alone if asked so.
pub(super) fn pods(kubelet: &Shared, running: bool) -> Response<Body> {
    let entries: Vec<_> =
        kubelet.pods.lock().expect("pod lock is never poisoned").values().cloned().collect();
    let items: Vec<Value> = entries
        .iter()
        .map(|e| e.view())
        .filter(|v| !running || v.containers.values().any(|c| c.running))
        .map(|view| {
            let mut pod = view.pod.to_value();
            pod["status"] = crate::pod::settled(view.status);
            pod
        })
        .collect();
    answer(&json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items }))
}

struct Measured {
    namespace: String,
    pod: String,
    uid: String,
    start: Option<String>,
    usage: Usage,
    containers: Vec<(String, Usage)>,
}

async fn measure(kubelet: &Arc<Shared>) -> Vec<Measured> {
    let runtime = &kubelet.config.runtime;
    let mut all = Vec::new();
    for sandbox in runtime.sandboxes().into_iter().filter(|s| s.ready) {
        let uid = &sandbox.spec.pod_uid;
        let mut containers = Vec::new();
        for container in sandbox.containers.iter().filter(|c| c.state == State::Running) {
            if let Ok(usage) = runtime.usage(uid, Some(&container.id)).await {
                containers.push((container.name.clone(), usage));
            }
        }
        all.push(Measured {
            namespace: sandbox.spec.namespace.clone(),
            pod: sandbox.spec.name.clone(),
            start: crate::util::from_ns(sandbox.created_at_ns).map(rfc3339),
            usage: runtime.usage(uid, None).await.unwrap_or_default(),
            uid: uid.clone(),
            containers,
        });
    }
    all
}

/// /stats/summary.
pub(super) async fn summary(kubelet: &Arc<Shared>) -> Response<Body> {
    let now = rfc3339(kubelet.ctx.clock.now());
    let cpu = |u: &Usage| json!({ "time": now, "usageCoreNanoSeconds": u.cpu_usage_ns });
    let memory = |u: &Usage| {
        json!({
            "time": now,
            "usageBytes": u.memory_usage_bytes,
            "workingSetBytes": u.memory_working_set_bytes,
            "rssBytes": u.memory_rss_bytes,
        })
    };
    let measured = measure(kubelet).await;
    let pods: Vec<Value> = measured
        .iter()
        .map(|m| {
            let containers: Vec<Value> = m
                .containers
                .iter()
                .map(|(name, u)| json!({ "name": name, "cpu": cpu(u), "memory": memory(u) }))
                .collect();
            json!({
                "podRef": { "name": m.pod, "namespace": m.namespace, "uid": m.uid },
                "startTime": m.start,
                "containers": containers,
                "cpu": cpu(&m.usage),
                "memory": memory(&m.usage),
                "process_stats": { "process_count": m.usage.pids },
            })
        })
        .collect();
    let node = node_usage();
    answer(&json!({
        "node": { "nodeName": kubelet.config.node_name, "cpu": cpu(&node), "memory": memory(&node) },
        "pods": pods,
    }))
}

/// /metrics/resource, which metrics-server reads.
pub(super) async fn resource_metrics(kubelet: &Arc<Shared>) -> Response<Body> {
    let mut out = String::new();
    let node = node_usage();
    let seconds = |u: &Usage| u.cpu_usage_ns as f64 / 1e9;
    let measured = measure(kubelet).await;
    let _ = writeln!(
        out,
        "# TYPE node_cpu_usage_seconds_total counter\nnode_cpu_usage_seconds_total {}",
        seconds(&node)
    );
    let _ = writeln!(
        out,
        "# TYPE node_memory_working_set_bytes gauge\nnode_memory_working_set_bytes {}",
        node.memory_working_set_bytes
    );
    let mut section = |name: &str, kind: &str, value: &dyn Fn(&Usage) -> f64, of_pod: bool| {
        let _ = writeln!(out, "# TYPE {name} {kind}");
        for m in &measured {
            let pod = format!("namespace=\"{}\",pod=\"{}\"", m.namespace, m.pod);
            if of_pod {
                let _ = writeln!(out, "{name}{{{pod}}} {}", value(&m.usage));
            }
            for (container, usage) in m.containers.iter().filter(|_| !of_pod) {
                let _ = writeln!(out, "{name}{{container=\"{container}\",{pod}}} {}", value(usage));
            }
        }
    };
    section("container_cpu_usage_seconds_total", "counter", &seconds, false);
    section("container_memory_working_set_bytes", "gauge", &|u| u.memory_working_set_bytes as f64, false);
    section("pod_cpu_usage_seconds_total", "counter", &seconds, true);
    section("pod_memory_working_set_bytes", "gauge", &|u| u.memory_working_set_bytes as f64, true);
    out.push_str("# TYPE resource_scrape_error gauge\nresource_scrape_error 0\n");
    text(StatusCode::OK, out)
}

/// The whole machine.
fn node_usage() -> Usage {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields: Vec<u64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .filter_map(|f| f.parse().ok())
        .collect();
    // user, nice, system, then idle and iowait (not used), then irq, softirq, steal; in hundredths of a second
    let busy: u64 =
        fields.iter().enumerate().filter(|(i, _)| !matches!(i, 3 | 4 | 8..)).map(|(_, v)| v).sum();
    let memory = crate::node::memory_in_use();
    Usage {
        cpu_usage_ns: busy * 10_000_000,
        memory_usage_bytes: memory,
        memory_working_set_bytes: memory,
        ..Usage::default()
    }
}
