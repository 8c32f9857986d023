//! How soon a watch shows a write.

use crate::bench::Bench;
use crate::table::Table;
use anyhow::{Context, Result, bail};
use http::Method;
use knarr_base::clock::timeout;
use knarr_client::{ListOptions, ResourcePath, WatchEvent, Watcher};
use serde_json::{Value, json};
use std::time::Duration;

/// An event that has not come after this long does not come.
const PATIENCE: Duration = Duration::from_secs(30);

pub async fn rows(bench: &Bench, table: &mut Table) -> Result<()> {
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
    let cpu = cpu.map_or_else(String::new, |cpu| format!("{:.0} us", cpu.as_secs_f64() * 1e6 / count as f64));
    table.latencies(what, format!("{count} creates"), &latencies, cpu, "");
    bench.delete_all(&url).await
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
