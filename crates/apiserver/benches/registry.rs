//! How fast the registry is without sockets: creates, reads, lists and patches by 64 clients over the store in
//! memory and over the embedded one. Prints one table: requests a second, and processor time a request.

#![allow(clippy::disallowed_methods)] // measures the machine itself

use knarr_api::core::v1::{ConfigMap, Pod};
use knarr_apiserver::def::{ResourceDef, Strategy};
use knarr_apiserver::testing::Server;
use knarr_base::Ctx;
use knarr_store::embedded::{Engine, EngineOptions};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

struct ConfigMaps;
impl Strategy for ConfigMaps {
    type Object = ConfigMap;
}
struct Pods;
impl Strategy for Pods {
    type Object = Pod;
}

const CLIENTS: usize = 64;
const MAPS: &str = "/api/v1/namespaces/ns/configmaps";
const PODS: &str = "/api/v1/namespaces/ns/pods";

fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = [11, 12].iter().filter_map(|at| fields.get(*at)?.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// Runs `total` requests over 64 clients and prints the line.
async fn measure<F>(what: &str, total: usize, request: impl Fn(usize) -> F + Send + Sync + Clone + 'static)
where
    F: Future<Output = u16> + Send + 'static,
{
    let next = Arc::new(AtomicUsize::new(0));
    let (started, used) = (Instant::now(), processor_time());
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        let (next, request) = (next.clone(), request.clone());
        clients.spawn(async move {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= total {
                    break;
                }
                let code = request(index).await;
                assert!(code < 300, "answered {code}");
            }
        });
    }
    while clients.join_next().await.is_some() {}
    let (elapsed, used) = (started.elapsed(), processor_time() - used);
    println!(
        "{what:<28} {:>9.0}/s {:>9.1} us of processor time each",
        total as f64 / elapsed.as_secs_f64(),
        used.as_secs_f64() * 1e6 / total as f64
    );
}

fn pod(index: usize) -> Value {
    let env: Vec<Value> =
        (0..20).map(|i| json!({"name": format!("VAR_{i}"), "value": "some value of a variable"})).collect();
    json!({"kind": "Pod", "apiVersion": "v1",
        "metadata": {"name": format!("pod-{index}"), "labels": {"app": "web", "shard": (index % 10).to_string()}},
        "spec": {"nodeName": format!("node-{}", index % 100), "containers": [
            {"name": "web", "image": "registry.example/web:1", "env": env, "ports": [{"containerPort": 8080}],
             "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}}]}})
}

async fn run(name: &str, server: Server) {
    println!("-- {name}");
    let s = server.clone();
    measure("create ConfigMap", 20_000, move |i| {
        let s = s.clone();
        async move {
            let map = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": format!("map-{i}")},
                "data": {"key": "value", "other": "some more text in here"}});
            s.post(MAPS, &map).await.code
        }
    })
    .await;
    let s = server.clone();
    measure("create Pod", 5_000, move |i| {
        let s = s.clone();
        async move { s.post(PODS, &pod(i)).await.code }
    })
    .await;
    let s = server.clone();
    measure("get Pod", 50_000, move |i| {
        let s = s.clone();
        async move { s.get(&format!("{PODS}/pod-{}", i % 5000)).await.code }
    })
    .await;
    let s = server.clone();
    measure("merge-patch ConfigMap", 10_000, move |i| {
        let s = s.clone();
        async move {
            let url = format!("{MAPS}/map-{}", i % 1000);
            s.patch("merge-patch+json", &url, &json!({"data": {"n": i.to_string()}})).await.code
        }
    })
    .await;
    let s = server.clone();
    measure("list 5,000 Pods", 100, move |_| {
        let s = s.clone();
        async move {
            let request = http::Request::get(PODS).body(bytes::Bytes::new()).expect("a valid request");
            let mut response = s.open(request).await;
            let mut len = 0;
            while let Some(Ok(chunk)) = response.body_mut().next().await {
                len += chunk.len();
            }
            assert!(len > 1_000_000);
            response.status().as_u16()
        }
    })
    .await;
    let s = server.clone();
    measure("list Pods of one node", 500, move |i| {
        let s = s.clone();
        async move { s.get(&format!("{PODS}?fieldSelector=spec.nodeName%3Dnode-{}", i % 100)).await.code }
    })
    .await;
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let defs = || {
        let pods = ResourceDef::new(Pods).selectable(&[("spec.nodeName", &["spec", "nodeName"], "")]);
        vec![ResourceDef::new(ConfigMaps), pods]
    };
    run("store in memory", Server::new(defs(), Vec::new())).await;
    let ctx = Ctx::system();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let engine = Engine::open(&ctx, EngineOptions::new(dir.path())).expect("a new store opens");
    let store = engine.keyspace("bench");
    run("embedded store, synced", Server::over(ctx, store, defs(), Vec::new())).await;
    engine.close();
}
