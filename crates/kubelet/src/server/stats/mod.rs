//! What the node and its pods use: /stats/summary (stats/v1alpha1), /metrics/resource and /metrics/cadvisor. Nothing is
//! measured while nobody asks.
//!
//! - [`machine`], [`disk`]: readings of /proc and of file systems; those of cgroups are the runtime's.
//! - [`summary`], [`resource`], [`cadvisor`], [`node`]: the documents.
//! - [`rates`]: CPU per second out of two readings.

mod cadvisor;
mod disk;
mod exposition;
mod machine;
mod node;
mod rates;
mod resource;
mod summary;

pub(super) use cadvisor::metrics as cadvisor_metrics;
pub(super) use exposition::CONTENT_TYPE;
pub(super) use node::metrics as node_metrics;
pub(super) use rates::Rates;
pub(super) use resource::metrics as resource_metrics;
pub(super) use summary::summary;

use super::{json as answer, text};
use crate::container::spec::label;
use crate::kubelet::Shared;
use http::{HeaderValue, Response, StatusCode, header};
use knarr_api::Kind;
use knarr_client::Body;
use knarr_runtime::spec::{State, Usage};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

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

/// An answer in Prometheus' text format.
pub(super) fn metrics_text(metrics: String) -> Response<Body> {
    let mut response = text(StatusCode::OK, metrics);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    response
}

/// A running container as it was measured.
struct Container {
    name: String,
    id: String,
    image: String,
    started: SystemTime,
    /// Path of its cgroup.
    cgroup: String,
    usage: Usage,
}

/// A pod as it was measured.
struct Measured {
    namespace: String,
    pod: String,
    uid: String,
    started: SystemTime,
    /// Path of its cgroup.
    cgroup: String,
    /// A directory of /proc in the pod's network; `None` where that is the host's.
    network: Option<PathBuf>,
    usage: Usage,
    containers: Vec<Container>,
}

/// Reads the cgroups of all pods that run.
async fn measure(kubelet: &Arc<Shared>) -> Vec<Measured> {
    let runtime = &kubelet.config.runtime;
    let mut all = Vec::new();
    for sandbox in runtime.sandboxes().into_iter().filter(|s| s.ready) {
        let uid = &sandbox.spec.pod_uid;
        let cgroup = format!("/{}/{}", runtime.cgroup_root().trim_matches('/'), sandbox.spec.cgroup);
        let mut containers = Vec::new();
        for container in sandbox.containers.iter().filter(|c| c.state == State::Running) {
            let Ok(usage) = runtime.usage(uid, Some(&container.id)).await else { continue };
            containers.push(Container {
                name: container.name.clone(),
                id: container.id.clone(),
                image: container.labels.get(label::IMAGE).cloned().unwrap_or_default(),
                started: at(container.started_at_ns),
                cgroup: format!("{cgroup}/{}", container.id),
                usage,
            });
        }
        let process = sandbox.netns.to_str().and_then(|path| path.strip_suffix("/ns/net")).map(PathBuf::from);
        all.push(Measured {
            namespace: sandbox.spec.namespace.clone(),
            pod: sandbox.spec.name.clone(),
            started: at(sandbox.created_at_ns),
            cgroup,
            network: process.filter(|_| !sandbox.spec.host_network),
            usage: runtime.usage(uid, None).await.unwrap_or_default(),
            uid: uid.clone(),
            containers,
        });
    }
    all.sort_by(|a, b| (&a.namespace, &a.pod, &a.uid).cmp(&(&b.namespace, &b.pod, &b.uid)));
    all
}

fn at(unix_ns: i64) -> SystemTime {
    crate::util::from_ns(unix_ns).unwrap_or(UNIX_EPOCH)
}

/// Milliseconds since the epoch, as metrics have times.
fn millis(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Seconds since the epoch.
fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

fn cpu_seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}
