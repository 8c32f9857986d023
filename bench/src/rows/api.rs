//! Rates of the API under many clients.

use crate::bench::{Bench, send};
use crate::load;
use crate::table::Table;
use anyhow::Result;
use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};
use std::sync::Arc;

const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";

fn config_map(name: &str, filling: &str) -> Bytes {
    let map = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name}, "data": {"key": filling}});
    encode(&map)
}

fn encode(value: &Value) -> Bytes {
    Bytes::from(value.to_string())
}

/// Creates of ConfigMaps of 1 KB.
pub async fn config_maps(bench: &Bench, table: &mut Table) -> Result<()> {
    let (single, many) =
        ("create ConfigMap, 1 client", format!("create ConfigMap 1 KB, {} clients", bench.arguments.clients));
    let url = bench.path("configmaps");
    let filling: Arc<str> = "x".repeat(1024).into();
    for (what, prefix, clients, total, target) in [
        (single, "one", 1, 500, ""),
        (&many, "many", bench.arguments.clients, 40_000, "8,000/s, p99 25 ms (upstream 2,000/s)"),
    ] {
        if !table.wants(what) {
            continue;
        }
        let (to, filling) = (url.clone(), filling.clone());
        let load = load::run(bench, clients, bench.count(total), move |client, at| {
            let body = config_map(&format!("{prefix}-{at}"), &filling);
            send(client, Method::POST, to.clone(), JSON, body)
        });
        table.load(what, &load.await, target);
        bench.delete_all(&url).await?;
    }
    updates(bench, table).await
}

/// Unconditional PUTs, each client its own object.
async fn updates(bench: &Bench, table: &mut Table) -> Result<()> {
    let clients = bench.arguments.clients;
    let what = format!("update ConfigMap 1 KB, {clients} clients");
    if !table.wants(&what) {
        return Ok(());
    }
    let url = bench.path("configmaps");
    let object = |at: usize, filling: &str| config_map(&format!("put-{}", at % clients), filling);
    for at in 0..clients {
        send(bench.client(at), Method::POST, url.clone(), JSON, object(at, "")).await?;
    }
    let to = url.clone();
    let load = load::run(bench, clients, bench.count(40_000), move |client, at| {
        let body = config_map(&format!("put-{}", at % clients), &format!("{at:01024}"));
        send(client, Method::PUT, format!("{to}/put-{}", at % clients), JSON, body)
    });
    table.load(&what, &load.await, "three times upstream's");
    bench.delete_all(&url).await
}

/// A pod of ordinary size (2 to 3 KB as stored) that nothing schedules.
pub fn pod(at: usize) -> Bytes {
    let env: Vec<Value> = (0..20)
        .map(|i| json!({"name": format!("VARIABLE_{i}"), "value": "the value of a variable"}))
        .collect();
    let resources = json!({"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}});
    let pod = json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {"name": format!("pod-{at}"), "labels": {"app": "bench", "shard": (at % 10).to_string()}},
        "spec": {
            "schedulerName": "nobody", "automountServiceAccountToken": false,
            "containers": [{"name": "main", "image": "registry.example/bench:1", "env": env, "resources": resources,
                "ports": [{"containerPort": 8080}]}]
        }
    });
    encode(&pod)
}

/// Creates, reads and lists of pods.
pub async fn pods(bench: &Bench, table: &mut Table) -> Result<()> {
    let clients = bench.arguments.clients;
    let (create, get) = (format!("create Pod, {clients} clients"), format!("GET a pod, {clients} clients"));
    let listed = bench.count(5_000);
    let list = format!("LIST {listed} pods");
    if ![&create, &get, &list].iter().any(|what| table.wants(what)) {
        return Ok(());
    }
    bench.ensure_service_account().await?;
    let url = bench.path("pods");
    let to = url.clone();
    let made = load::run(bench, clients, listed.max(bench.count(20_000)), move |client, at| {
        send(client, Method::POST, to.clone(), JSON, pod(at))
    });
    let made = made.await;
    if table.wants(&create) {
        table.load(&create, &made, "6,000/s (upstream 1,000-1,150/s)");
    }
    if table.wants(&get) && made.failed == 0 {
        let (from, exist) = (url.clone(), made.latencies.len());
        let load = load::run(bench, clients, bench.count(100_000), move |client, at| {
            send(client, Method::GET, format!("{from}/pod-{}", (at * 7919) % exist), "", Bytes::new())
        });
        table.load(&get, &load.await, "16,000/s (upstream 4,350/s)");
    }
    if table.wants(&list) && made.failed == 0 {
        let from = format!("{url}?limit={listed}&resourceVersion=0");
        let from = if made.latencies.len() > listed { format!("{url}?limit={listed}") } else { from };
        let size = bench.call(Method::GET, &from, &Value::Null).await?.len();
        let load = load::run(bench, 1, bench.count(50), move |client, _| {
            send(client, Method::GET, from.clone(), "", Bytes::new())
        });
        let what = format!("{list}, {:.1} MB, 1 client", size as f64 / 1e6);
        table.load(&what, &load.await, "a tenth of upstream's CPU (12/s, 186 ms)");
    }
    bench.delete_all(&url).await
}

/// Renewals of leases, each client its own, as nodes do.
pub async fn leases(bench: &Bench, table: &mut Table) -> Result<()> {
    let clients = bench.arguments.clients;
    let what = format!("merge-PATCH a Lease, {clients} clients");
    if !table.wants(&what) {
        return Ok(());
    }
    let url = format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", bench.namespace);
    for at in 0..clients {
        let lease = json!({"kind": "Lease", "apiVersion": "coordination.k8s.io/v1",
            "metadata": {"name": format!("lease-{at}")},
            "spec": {"holderIdentity": format!("node-{at}"), "leaseDurationSeconds": 40}});
        bench.call(Method::POST, &url, &lease).await?;
    }
    let load = load::run(bench, clients, bench.count(40_000), move |client, at| {
        let time = format!(
            "2026-11-01T{:02}:{:02}:{:02}.{:06}Z",
            at / 3600 % 24,
            at / 60 % 60,
            at % 60,
            at % 1_000_000
        );
        let body = encode(&json!({"spec": {"renewTime": time}}));
        send(client, Method::PATCH, format!("{url}/lease-{}", at % clients), MERGE, body)
    });
    table.load(&what, &load.await, "7,000/s (upstream 1,770/s)");
    Ok(())
}
