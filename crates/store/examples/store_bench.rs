//! Measures the embedded store on this machine: puts per second and their latency with 1 and 64 writers, what
//! a commit writes and syncs, the file under constant updates with compaction, and how long opening takes.
//!
//! `cargo run --release -p knarr-store --example store_bench [directory]` (the directory is made and removed;
//! put it on the disk that matters, as a temporary file system syncs nothing).

use bytes::Bytes;
use knarr_base::Ctx;
use knarr_store::embedded::{Engine, EngineOptions};
use knarr_store::{Expect, Outcome, Range, Store};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The size of the values, about that of a small pod.
const VALUE_BYTES: usize = 1024;
/// Keys that updates go round in, per writer.
const KEYS_PER_WRITER: u64 = 100;

fn main() {
    let dir = std::env::args().nth(1).unwrap_or_else(|| "store-bench.tmp".into());
    assert!(!Path::new(&dir).exists(), "{dir} exists; name a directory that can be made and removed");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime starts").block_on(run(Path::new(&dir)));
    std::fs::remove_dir_all(&dir).expect("the directory can be removed");
}

async fn run(dir: &Path) {
    let ctx = Ctx::system();
    let open = |name: &str| {
        Engine::open(&ctx, EngineOptions::new(dir.join(name))).unwrap_or_else(|error| panic!("{error}"))
    };
    for (writers, puts) in [(1, 5_000), (64, 100_000)] {
        for watches in [0, 80] {
            let engine = open(&format!("puts-{writers}-{watches}"));
            write(&ctx, &engine.keyspace("main"), writers, puts, watches).await;
        }
    }
    compacting(&ctx, &open("compacting").keyspace("main")).await;
    for objects in [20_000, 100_000] {
        let before = rss_kb();
        let engine = open(&format!("open-{objects}"));
        fill(&engine.keyspace("main"), objects).await;
        // What a crash would leave behind: the file without an orderly close.
        let crashed = dir.join(format!("crashed-{objects}"));
        std::fs::create_dir_all(&crashed).expect("a directory");
        ctx.clock.sleep(Duration::from_secs(1)).await;
        for file in ["store.journal.0", "store.journal.1", "store.redb"] {
            let from = dir.join(format!("open-{objects}")).join(file);
            std::fs::copy(from, crashed.join(file)).expect("a copy of the file");
        }
        drop(engine);
        let start = ctx.clock.instant();
        drop(open(&format!("crashed-{objects}")));
        let after_crash = ctx.clock.instant() - start;
        let start = ctx.clock.instant();
        let engine = open(&format!("open-{objects}"));
        let took = ctx.clock.instant() - start;
        let store = engine.keyspace("main");
        assert_eq!(store.stats().keys as u64, objects);
        let start = ctx.clock.instant();
        let all = Range { end: Bytes::from_static(&[0]), limit: 500, ..Range::default() };
        store.range(all).await.expect("a range");
        let ranged = ctx.clock.instant() - start;
        println!(
            "open with {objects} objects: {took:.1?}, after a crash {after_crash:.1?}; file {} MB, memory {} MB more; 500 of all, counted: {ranged:.1?}",
            store.stats().size_bytes >> 20,
            (rss_kb().saturating_sub(before)) >> 10,
        );
    }
}

fn value(n: u64) -> Bytes {
    Bytes::from(n.to_le_bytes().repeat(VALUE_BYTES / 8))
}

async fn update(store: &dyn Store, key: Bytes, n: u64) {
    let current = store.get(&key, None).await.expect("a read");
    let expect = current.map_or(Expect::Absent, |kv| Expect::Unchanged(kv.mod_revision));
    let outcome = store.put(key, expect, value(n), 0).await.expect("a write");
    assert!(matches!(outcome, Outcome::Done(_)));
}

async fn write(ctx: &Ctx, store: &Arc<dyn Store>, writers: u64, puts: u64, watches: u64) {
    for n in 0..watches {
        let prefix = format!("/w/{n}/");
        let end = knarr_store::prefix_end(prefix.as_bytes());
        let mut watch = store.watch(prefix.into(), end, 2).await.expect("a watch");
        ctx.tasks.spawn_until_stopped("watch", async move { while watch.recv().await.is_some() {} });
    }
    let before = store.stats();
    let start = ctx.clock.instant();
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..writers {
        let (store, clock) = (store.clone(), ctx.clock.clone());
        tasks.spawn(async move {
            let mut latencies = Vec::new();
            for n in 0..puts / writers {
                let key = format!("/w/{writer}/{:04}", n % KEYS_PER_WRITER);
                let start = clock.instant();
                update(&*store, key.into(), n).await;
                latencies.push(clock.instant() - start);
            }
            latencies
        });
    }
    let mut latencies: Vec<Duration> = tasks.join_all().await.into_iter().flatten().collect();
    let took = ctx.clock.instant() - start;
    latencies.sort_unstable();
    let after = store.stats();
    let commits = after.commits - before.commits;
    println!(
        "{writers} writers, {watches} watches: {:.0} puts/s, p50 {:.2?}, p99 {:.2?}; {commits} commits of {:.1} puts, {:.2} syncs and {} bytes written each",
        latencies.len() as f64 / took.as_secs_f64(),
        latencies[latencies.len() / 2],
        latencies[latencies.len() * 99 / 100],
        latencies.len() as f64 / commits as f64,
        (after.syncs - before.syncs) as f64 / commits as f64,
        (after.written_bytes - before.written_bytes) / commits,
    );
}

/// 64 writers update 6,400 objects while history is compacted every 20,000 revisions.
async fn compacting(ctx: &Ctx, store: &Arc<dyn Store>) {
    const EVERY: u64 = 20_000;
    let start = ctx.clock.instant();
    let mut longest = Duration::ZERO;
    let mut sizes = Vec::new();
    for _ in 0..6 {
        let mut tasks = tokio::task::JoinSet::new();
        for writer in 0..64 {
            let (store, clock) = (store.clone(), ctx.clock.clone());
            tasks.spawn(async move {
                let mut longest = Duration::ZERO;
                for n in 0..EVERY / 64 {
                    let start = clock.instant();
                    let key = format!("/w/{writer}/{:04}", n % KEYS_PER_WRITER);
                    update(&*store, key.into(), n).await;
                    longest = longest.max(clock.instant() - start);
                }
                longest
            });
        }
        let slowest = tasks.join_all().await.into_iter().max();
        longest = longest.max(slowest.unwrap_or_default());
        store.compact(store.revision()).await.expect("a compaction");
        sizes.push(format!("{} MB", store.stats().size_bytes >> 20));
    }
    println!(
        "64 writers while compacting: {:.0} puts/s, slowest put {longest:.1?}, file after each compaction: {}",
        (6 * EVERY) as f64 / (ctx.clock.instant() - start).as_secs_f64(),
        sizes.join(", ")
    );
}

async fn fill(store: &Arc<dyn Store>, objects: u64) {
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..100 {
        let store = store.clone();
        tasks.spawn(async move {
            for n in 0..objects / 100 {
                update(&*store, format!("/registry/pods/namespace-{writer}/pod-{n:06}").into(), n).await;
            }
        });
    }
    tasks.join_all().await;
}

/// This process's resident memory.
fn rss_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(0)
}
