//! Snapshots: saved while writers write, restored somewhere else, and what is refused.

use super::suite::{all, bytes, done, manual_ctx, put};
use crate::embedded::snapshot::{SnapshotError, inspect, restore, save};
use crate::embedded::{Engine, EngineOptions};
use crate::{Expect, Outcome, StoreError};
use knarr_base::Ctx;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_is_one_moment_of_a_store_under_load() {
    let ctx = Ctx::system();
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(&ctx, EngineOptions::new(dir.path().join("store"))).unwrap();
    let store = engine.keyspace("main");
    // Two keys that are always written one after the other: no moment has the second ahead of the first.
    let mut last =
        (put(&*store, "a", Expect::Absent, "0").await, put(&*store, "b", Expect::Absent, "0").await);
    for n in 0..3000 {
        put(&*store, &format!("/many/{n:05}"), Expect::Absent, "x").await;
    }
    let lease = store.grant_lease(3600).await.unwrap();
    done(store.put(bytes("leased"), Expect::Absent, bytes("1"), lease).await.unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let (writing, stopped) = (store.clone(), stop.clone());
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        let mut n = 0;
        while !stopped.load(Ordering::SeqCst) {
            n += 1;
            last.0 = put(&*writing, "a", Expect::Unchanged(last.0), &n.to_string()).await;
            last.1 = put(&*writing, "b", Expect::Unchanged(last.1), &n.to_string()).await;
        }
    });
    let file = dir.path().join("snapshot");
    let (saving, to) = (engine.clone(), file.clone());
    let saved = tokio::task::spawn_blocking(move || save(&saving, &to)).await.unwrap().unwrap();
    stop.store(true, Ordering::SeqCst);
    tasks.join_all().await;
    assert_eq!((saved.keys(), &saved), (3003, &inspect(&file).unwrap()));
    let expected = store.range(all(Some(saved.revision()))).await.unwrap().kvs;
    assert!(matches!(save(&engine, &file), Err(SnapshotError::Exists(_))));

    let target = dir.path().join("restored");
    assert_eq!(restore(&ctx, &file, &target).unwrap(), saved);
    assert!(
        matches!(restore(&ctx, &file, &target), Err(SnapshotError::NotEmpty(_))),
        "nothing is overwritten"
    );
    let engine = Engine::open(&ctx, EngineOptions::new(&target)).unwrap();
    let store = engine.keyspace("main");
    let found = store.range(all(None)).await.unwrap();
    assert_eq!(found.revision, saved.revision());
    assert!(found.kvs == expected, "all that was live at that revision, with its revisions");
    let value = |key: &str| found.kvs.iter().find(|kv| kv.key == key).unwrap().value.clone();
    let number = |key| std::str::from_utf8(&value(key)).unwrap().parse::<u64>().unwrap();
    assert!(number("a") == number("b") || number("a") == number("b") + 1);
    let past = store.watch(bytes("a"), bytes(""), saved.revision()).await;
    assert!(matches!(past, Err(StoreError::Compacted { .. })), "history is not in it");
    let bound = store.put(bytes("more"), Expect::Absent, bytes("1"), lease).await.unwrap();
    assert!(matches!(bound, Outcome::Done(at) if at == saved.revision() + 1), "leases are");
}

#[tokio::test]
async fn a_damaged_snapshot_is_refused_and_nothing_is_made_of_it() {
    let (ctx, _clock) = manual_ctx();
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(&ctx, EngineOptions::new(dir.path().join("store"))).unwrap();
    for (keyspace, keys) in [("main", 20), ("other", 3)] {
        for n in 0..keys {
            put(&*engine.keyspace(keyspace), &format!("/k/{n}"), Expect::Absent, "value").await;
        }
    }
    let file = dir.path().join("snapshot");
    let saved = save(&engine, &file).unwrap();
    assert_eq!(saved.keyspaces, [("main".to_owned(), 21, 20), ("other".to_owned(), 4, 3)]);
    let whole = fs::read(&file).unwrap();
    let (damaged, target) = (dir.path().join("damaged"), dir.path().join("target"));
    let mut cases: Vec<Vec<u8>> = (0..whole.len()).step_by(37).map(|len| whole[..len].to_vec()).collect();
    cases.extend((0..whole.len()).step_by(11).map(|at| {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x20;
        bytes
    }));
    cases.push([&whole[..], b"x"].concat());
    for bytes in cases {
        fs::write(&damaged, &bytes).unwrap();
        let error = restore(&ctx, &damaged, &target).unwrap_err();
        assert!(matches!(error, SnapshotError::Damaged { .. }), "{error}");
        assert!(!target.exists());
    }
    restore(&ctx, &file, &target).unwrap();
    let engine = Engine::open(&ctx, EngineOptions::new(&target)).unwrap();
    assert_eq!((engine.keyspace("main").revision(), engine.keyspace("other").stats().keys), (21, 3));
}

#[tokio::test]
async fn history_is_bounded_by_its_size() {
    let (ctx, _clock) = manual_ctx();
    let dir = tempfile::tempdir().unwrap();
    let options = EngineOptions { history_bytes: 300_000, ..EngineOptions::new(dir.path()) };
    let engine = Engine::open(&ctx, options).unwrap();
    let store = engine.keyspace("main");
    let mut last = put(&*store, "kept", Expect::Absent, "1").await;
    let first = last;
    for n in 0..2000 {
        last = put(
            &*store,
            "changes",
            if n == 0 { Expect::Absent } else { Expect::Unchanged(last) },
            &"x".repeat(1000),
        )
        .await;
        let stats = store.stats();
        assert!(stats.history_bytes < 310_000, "{stats:?}");
    }
    let stats = store.stats();
    assert!(
        stats.compacted > first && last - stats.compacted > 150,
        "as much as there is room for: {stats:?}"
    );
    assert_eq!(store.range(all(Some(stats.compacted))).await.unwrap().count, 2);
    assert_eq!(store.get(b"kept", None).await.unwrap().unwrap().mod_revision, first);
    drop(store);
    engine.close();
    let engine = Engine::open(&ctx, EngineOptions::new(dir.path())).unwrap();
    let again = engine.keyspace("main").stats();
    assert_eq!((again.compacted, again.history_bytes), (stats.compacted, stats.history_bytes));
}
