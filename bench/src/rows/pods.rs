//! From the answered POST of a pod to Running on an open watch, one by one and in a burst; from the request of an exec
//! to its status.

use super::{exec, watch};
use crate::bench::Bench;
use crate::table::Table;
use anyhow::{Context, Result};
use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::time::Duration;

const SEQUENTIAL: usize = 1000;
/// So many pods follow each other before all have to have ended.
const BREATH: usize = 50;
const BURST: usize = 100;
const EXECS: usize = 200;

pub async fn rows(bench: &Bench, table: &mut Table) -> Result<()> {
    let Some(image) = bench.arguments.image.clone() else { return Ok(()) };
    if !a_node_is_ready(bench).await? {
        eprintln!("no node is Ready: no pods are started");
        return Ok(());
    }
    bench.ensure_service_account().await?;
    let (one, burst) =
        ("pod POST answered -> Running on a watch", format!("burst of {BURST} pods, all Running"));
    if table.wants(one) {
        let latencies = sequential(bench, &image).await?;
        table.latencies(
            one,
            format!("{} pods", latencies.len()),
            &latencies,
            None,
            "p50 100 ms, p99 250 ms (must: p50 200 ms)",
        );
    }
    if table.wants(&burst) {
        let latencies = at_once(bench, &image).await?;
        let last = latencies.last().map_or(0.0, Duration::as_secs_f64);
        table.latencies(&burst, format!("{last:.2} s"), &latencies, None, "3 s");
    }
    let execs = "exec: request to status";
    if table.wants(execs) {
        let latencies = many_execs(bench, &image).await?;
        table.latencies(execs, format!("{} execs", latencies.len()), &latencies, None, "p50 20 ms");
    }
    Ok(())
}

async fn a_node_is_ready(bench: &Bench) -> Result<bool> {
    let nodes = bench.get("/api/v1/nodes").await?;
    Ok(nodes["items"].as_array().into_iter().flatten().any(node_is_ready))
}

/// Whether a node says of itself that it is Ready.
pub fn node_is_ready(node: &Value) -> bool {
    let conditions = node["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

fn pod(bench: &Bench, image: &str, name: &str) -> Value {
    let command: Vec<&str> = bench.arguments.image_command.split_whitespace().collect();
    json!({
        "kind": "Pod", "apiVersion": "v1", "metadata": {"name": name, "labels": {"app": "bench"}},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "main", "image": image, "imagePullPolicy": "IfNotPresent", "command": command}]
        }
    })
}

async fn sequential(bench: &Bench, image: &str) -> Result<Vec<Duration>> {
    let mut watcher = watch::open(bench, "pods").await?;
    let url = bench.path("pods");
    let mut latencies = Vec::new();
    for at in 0..bench.count(SEQUENTIAL) {
        let name = format!("seq-{at}");
        bench.call(Method::POST, &url, &pod(bench, image, &name)).await?;
        let answered = bench.ctx.clock.instant();
        let running = |object: &Value| {
            object["metadata"]["name"] == name.as_str() && object["status"]["phase"] == "Running"
        };
        watch::next(bench, &mut watcher, running).await.with_context(|| format!("pod {name}"))?;
        latencies.push(bench.ctx.clock.instant() - answered);
        bench.call(Method::DELETE, &format!("{url}/{name}"), &Value::Null).await?;
        // Pods take longer to end than to start: without a pause the node's 110 places would all be taken.
        if at % BREATH == BREATH - 1 {
            gone(bench).await?;
        }
    }
    latencies.sort_unstable();
    gone(bench).await?;
    Ok(latencies)
}

async fn at_once(bench: &Bench, image: &str) -> Result<Vec<Duration>> {
    let mut watcher = watch::open(bench, "pods").await?;
    let url = bench.path("pods");
    let started = bench.ctx.clock.instant();
    let mut making = tokio::task::JoinSet::new();
    for at in 0..BURST {
        let body = Bytes::from(pod(bench, image, &format!("burst-{at}")).to_string());
        making.spawn(crate::bench::send(
            bench.client(at),
            Method::POST,
            url.clone(),
            "application/json",
            body,
        ));
    }
    let mut waiting: HashSet<String> = (0..BURST).map(|at| format!("burst-{at}")).collect();
    let mut latencies = Vec::new();
    while !waiting.is_empty() {
        let running = |object: &Value| {
            object["status"]["phase"] == "Running"
                && object["metadata"]["name"].as_str().is_some_and(|n| waiting.contains(n))
        };
        let pod = watch::next(bench, &mut watcher, running).await;
        let pod = pod.with_context(|| format!("{} pods of the burst are not Running", waiting.len()))?;
        waiting.remove(pod["metadata"]["name"].as_str().unwrap_or_default());
        latencies.push(bench.ctx.clock.instant() - started);
    }
    while let Some(made) = making.join_next().await {
        made.context("a creation panicked")??;
    }
    bench.delete_all(&url).await?;
    gone(bench).await?;
    Ok(latencies)
}

/// One command after another in one pod.
async fn many_execs(bench: &Bench, image: &str) -> Result<Vec<Duration>> {
    let mut watcher = watch::open(bench, "pods").await?;
    let url = bench.path("pods");
    bench.call(Method::POST, &url, &pod(bench, image, "exec")).await?;
    watch::next(bench, &mut watcher, |object| object["status"]["phase"] == "Running").await?;
    let mut latencies = Vec::new();
    for _ in 0..bench.count(EXECS) {
        latencies.push(exec::once(bench, "exec", &bench.arguments.exec_command).await?);
    }
    latencies.sort_unstable();
    bench.delete_all(&url).await?;
    gone(bench).await?;
    Ok(latencies)
}

/// Waits until the namespace has no pods any more.
async fn gone(bench: &Bench) -> Result<()> {
    let none = |list: &Value| list["items"].as_array().is_some_and(Vec::is_empty);
    bench.wait("the end of the pods", &bench.path("pods"), none).await
}
