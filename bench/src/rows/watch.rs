//! How soon a watch shows a write.

use crate::bench::Bench;
use crate::table::Table;
use anyhow::{Context, Result, bail};
use http::Method;
use knarr_base::clock::timeout;
use knarr_client::{ListOptions, ResourcePath, WatchEvent, Watcher};
use serde_json::{Value, json};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// An event that has not come after this long does not come.
const PATIENCE: Duration = Duration::from_secs(30);

pub async fn rows(bench: &Bench, table: &mut Table) -> Result<()> {
    one_by_one(bench, table).await?;
    under_load(bench, table).await
}

async fn one_by_one(bench: &Bench, table: &mut Table) -> Result<()> {
    let what = "create ConfigMap -> seen by a watch";
    if !table.wants(what) {
        return Ok(());
    }
    let mut watcher = open(bench, "configmaps").await?;
    let url = bench.path("configmaps");
    let before = bench.servers.cpu();
    let mut latencies = Vec::new();
    let count = bench.count(500);
    for at in 0..count {
        let name = format!("seen-{at}");
        let map = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name}});
        let sent = bench.ctx.clock.instant();
        let made = bench.call(Method::POST, &url, &map);
        let seen = async {
            next(bench, &mut watcher, |object| object["metadata"]["name"] == name.as_str()).await?;
            anyhow::Ok(bench.ctx.clock.instant() - sent)
        };
        latencies.push(tokio::try_join!(made, seen)?.1);
    }
    latencies.sort_unstable();
    let cpu = bench.servers.cpu().zip(before).map(|(after, before)| after.since(&before));
    let cpu = cpu.map(|cpu| cpu / u32::try_from(count).unwrap_or(u32::MAX));
    table.latencies(what, format!("{count} creates"), &latencies, cpu, "");
    bench.delete_all(&url).await
}

/// From the sent POST to the event on each of several watches, while many clients create.
async fn under_load(bench: &Bench, table: &mut Table) -> Result<()> {
    const WATCHES: usize = 10;
    let (clients, count) = (8, bench.count(5_000));
    let what = format!("{clients} clients create ConfigMaps -> seen by {WATCHES} watches");
    if !table.wants(&what) {
        return Ok(());
    }
    let sent: Arc<Vec<OnceLock<Instant>>> = Arc::new((0..count).map(|_| OnceLock::new()).collect());
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..WATCHES {
        let mut watcher = open(bench, "configmaps").await?;
        let (sent, ctx) = (sent.clone(), bench.ctx.clone());
        readers.spawn(async move {
            let mut latencies = Vec::with_capacity(sent.len());
            while latencies.len() < sent.len() {
                let event = timeout(&*ctx.clock, PATIENCE, watcher.next()).await;
                let event = event.context("the watch went silent")?.context("the watch ended")??;
                let WatchEvent::Added(object) = event else { continue };
                let object: Value = serde_json::from_slice(&object)?;
                let name = object["metadata"]["name"].as_str().unwrap_or_default();
                let at = name.strip_prefix("load-").and_then(|number| number.parse::<usize>().ok());
                if let Some(sent) = at.and_then(|at| sent.get(at)?.get()) {
                    latencies.push(ctx.clock.instant() - *sent);
                }
            }
            anyhow::Ok(latencies)
        });
    }
    let (url, clock) = (bench.path("configmaps"), bench.ctx.clock.clone());
    let load = crate::load::run(bench, clients, count, move |client, at| {
        let map =
            json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": format!("load-{at}")}});
        let _ = sent[at].set(clock.instant());
        crate::bench::send(client, Method::POST, url.clone(), "application/json", map.to_string().into())
    });
    let load = load.await;
    if load.latencies.len() < count {
        bail!("only {} of {count} objects were made: {}", load.latencies.len(), load.first_error);
    }
    let mut latencies = Vec::new();
    while let Some(read) = readers.join_next().await {
        latencies.extend(read.context("a watch panicked")??);
    }
    latencies.sort_unstable();
    table.latencies(
        &what,
        format!("{:.0}/s", load.rate()),
        &latencies,
        load.cpu_each(),
        "p99 a third of upstream's",
    );
    bench.delete_all(&bench.path("configmaps")).await
}

/// What many watches of many pods cost in memory, each having been sent everything once.
pub async fn crowd(bench: &Bench, table: &mut Table) -> Result<()> {
    const WATCHES: usize = 100;
    let pods = bench.count(50_000);
    let what = format!("memory of {WATCHES} watches of {pods} pods, each");
    // Only when asked for by name: it takes minutes.
    if !bench.arguments.rows.iter().any(|row| what.contains(row.as_str()))
        || bench.servers.pss_kib().is_none()
    {
        return Ok(());
    }
    bench.ensure_service_account().await?;
    let url = bench.path("pods");
    let to = url.clone();
    let limit = Duration::from_secs(300);
    let load = crate::load::run_within(bench, limit, bench.arguments.clients, pods, move |client, at| {
        crate::bench::send(client, Method::POST, to.clone(), "application/json", super::api::pod(at))
    });
    let load = load.await;
    if load.latencies.len() < pods {
        bail!("only {} of {pods} pods were made: {}", load.latencies.len(), load.first_error);
    }
    let path = ResourcePath { group: String::new(), version: "v1".into(), resource: "pods".into() };
    let first = drained(bench, &path, pods, 0).await?;
    let before = bench.servers.pss_kib().unwrap_or_default();
    let mut open = vec![first];
    for at in 1..=WATCHES {
        open.push(drained(bench, &path, pods, at).await?);
    }
    let after = bench.servers.pss_kib().unwrap_or_default();
    let each = (after as f64 - before as f64) / WATCHES as f64;
    let value = format!("{each:.0} KiB ({} MiB before, {} MiB after)", before / 1024, after / 1024);
    table.value(&what, value, "at most 1 MiB each");
    // So many pods are not deleted within the time of one request; they go with the namespace.
    drop(open);
    Ok(())
}

/// A watch that has delivered everything there is.
async fn drained(bench: &Bench, path: &ResourcePath, pods: usize, at: usize) -> Result<Watcher> {
    // Without a resourceVersion a watch begins with everything there is.
    let (client, options) = (bench.client(at), ListOptions::default());
    let mut watcher = client.watch(path, &bench.namespace, &options, knarr_client::client::JSON).await?;
    let mut seen = 0;
    while seen < pods {
        let event = timeout(&*bench.ctx.clock, PATIENCE, watcher.next()).await;
        match event.context("the watch went silent")?.context("the watch ended")?? {
            WatchEvent::Added(_) => seen += 1,
            WatchEvent::Error(status) => bail!("the watch failed: {status}"),
            _ => {}
        }
    }
    Ok(watcher)
}

/// Opens a watch on a core resource of the namespace, from now on.
pub async fn open(bench: &Bench, resource: &str) -> Result<Watcher> {
    let path = ResourcePath { group: String::new(), version: "v1".into(), resource: resource.into() };
    let list = bench.get(&format!("{}?limit=1", bench.path(resource))).await?;
    let version = list["metadata"]["resourceVersion"].as_str().context("the list has no resourceVersion")?;
    let options = ListOptions { resource_version: version.to_owned(), ..ListOptions::default() };
    Ok(bench.client(1).watch(&path, &bench.namespace, &options, knarr_client::client::JSON).await?)
}

/// Reads events until one carries an object that `wanted` takes.
pub async fn next(bench: &Bench, watcher: &mut Watcher, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    let read = async {
        loop {
            match watcher.next().await.context("the watch ended")?? {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    let object: Value = serde_json::from_slice(&object)?;
                    if wanted(&object) {
                        return anyhow::Ok(object);
                    }
                }
                WatchEvent::Error(status) => bail!("the watch failed: {status}"),
                WatchEvent::Deleted(_) | WatchEvent::Bookmark(_) => {}
            }
        }
    };
    timeout(&*bench.ctx.clock, PATIENCE, read).await.context("the watch did not show what was awaited")?
}
