//! A store that is opened again is the same store: history, watches, continue tokens, compaction and leases.

use super::suite::{all, bytes, done, manual_ctx, prefix, put, read, until};
use crate::embedded::{Engine, EngineOptions};
use crate::{Expect, Range, Store, StoreError, prefix_end};
use knarr_base::{Clock, Rng, rng::SeededRng};
use std::sync::Arc;
use std::time::Duration;

#[tokio::test]
async fn reopening_changes_nothing_readable() {
    let (ctx, _clock) = manual_ctx();
    let dir = tempfile::tempdir().unwrap();
    let rng = SeededRng::new(3);
    let rng: &dyn Rng = &rng;
    let mut before: Option<Vec<_>> = None;
    for round in 0..5 {
        let engine = Engine::open(&ctx, EngineOptions::new(dir.path())).unwrap();
        let store = engine.keyspace("main");
        if let Some(before) = before {
            assert_eq!(everything(&*store).await, before, "round {round}");
        }
        for _ in 0..200 {
            let key = bytes(&format!("/k/{}", rng.below(30)));
            match store.get(&key, None).await.unwrap() {
                Some(kv) if rng.below(3) == 0 => drop(store.delete(key, kv.mod_revision).await.unwrap()),
                Some(kv) => {
                    let value = bytes(&rng.u64().to_string());
                    done(store.put(key, Expect::Unchanged(kv.mod_revision), value, 0).await.unwrap());
                }
                None => drop(done(store.put(key, Expect::Absent, bytes("new"), 0).await.unwrap())),
            }
        }
        store.compact(store.revision() - 50).await.unwrap();
        before = Some(everything(&*store).await);
        drop(store);
        engine.close();
    }
}

/// All that can be read: every readable revision, and every event with what was before.
async fn everything(store: &dyn Store) -> Vec<String> {
    let stats = store.stats();
    let mut text = vec![format!("{} {} {}", stats.revision, stats.compacted, stats.keys)];
    for at in stats.compacted.max(1)..=stats.revision {
        text.push(format!("{at}: {:?}", store.range(all(Some(at))).await.unwrap().kvs));
    }
    let mut watch = store.watch(bytes(""), bytes("\0"), stats.compacted + 1).await.unwrap();
    for batch in until(&mut watch, stats.revision).await {
        text.extend(batch.events.iter().map(|event| format!("{event:?}")));
    }
    text
}

#[tokio::test]
async fn continue_tokens_and_watches_go_on_after_a_restart() {
    let (ctx, _clock) = manual_ctx();
    let dir = tempfile::tempdir().unwrap();
    let open = || {
        let engine = Engine::open(&ctx, EngineOptions::new(dir.path())).unwrap();
        (engine.keyspace("main"), engine)
    };
    let (store, engine) = open();
    for n in 0..10 {
        put(&*store, &format!("/p/{n}"), Expect::Absent, "1").await;
    }
    let first = store.range(Range { limit: 4, ..prefix("/p/") }).await.unwrap();
    let seen = first.revision;
    let five = store.get(b"/p/5", None).await.unwrap().unwrap();
    done(store.delete(bytes("/p/5"), five.mod_revision).await.unwrap());
    drop((store, engine));

    let (store, _engine) = open();
    let rest = Range { start: bytes("/p/3\0"), at: Some(seen), ..prefix("/p/") };
    assert_eq!(read(&*store, rest).await, ["/p/4=1", "/p/5=1", "/p/6=1", "/p/7=1", "/p/8=1", "/p/9=1"]);
    let mut watch = store.watch(bytes("/p/"), prefix_end(b"/p/"), seen + 1).await.unwrap();
    let events = until(&mut watch, seen + 1).await.remove(0).events;
    assert!(events[0].deleted);
    assert_eq!(events[0].prev.as_ref(), Some(&five));
}

#[tokio::test]
async fn the_revision_outlives_the_last_record() {
    let (ctx, _clock) = manual_ctx();
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(&ctx, EngineOptions::new(dir.path())).unwrap();
    let store = engine.keyspace("main");
    let made = put(&*store, "a", Expect::Absent, "1").await;
    let deleted = done(store.delete(bytes("a"), made).await.unwrap());
    store.compact(deleted).await.unwrap();
    drop(store);
    engine.close();
    let engine = Engine::open(&ctx, EngineOptions::new(dir.path())).unwrap();
    let store = engine.keyspace("main");
    assert_eq!(store.revision(), deleted, "revisions never run backwards");
    assert!(matches!(store.get(b"a", Some(made)).await, Err(StoreError::Compacted { .. })));
    assert_eq!(put(&*store, "a", Expect::Absent, "1").await, deleted + 1);
}

#[tokio::test]
async fn leases_survive_a_restart_and_end_on_time() {
    let (ctx, clock) = manual_ctx();
    let dir = tempfile::tempdir().unwrap();
    let open = || {
        let engine = Engine::open(&ctx, EngineOptions::new(dir.path())).unwrap();
        (engine.keyspace("main"), engine)
    };
    let (store, engine) = open();
    let lease = store.grant_lease(100).await.unwrap();
    let at = done(store.put(bytes("e"), Expect::Absent, bytes("1"), lease).await.unwrap());
    drop((store, engine));
    clock.advance(Duration::from_secs(60));

    let (store, _engine) = open();
    assert_eq!(store.get(b"e", None).await.unwrap().unwrap().lease, lease);
    let mut watch = store.watch(bytes("e"), bytes("f"), at + 1).await.unwrap();
    let (opened, mut patience) = (clock.instant(), 6000);
    // What was left of the term counts. The clock does not run ahead of who ends the lease.
    let left = Duration::from_secs(40);
    while tokio::time::timeout(Duration::from_millis(5), watch.recv()).await.is_err() {
        if clock.instant() - opened < left + Duration::from_secs(2) {
            clock.advance(Duration::from_secs(1));
        }
        patience -= 1;
        assert!(patience > 0, "not ended");
    }
    assert!(clock.instant() - opened >= left);
    assert_eq!(store.get(b"e", None).await.unwrap(), None);
}

#[tokio::test]
async fn a_closed_engine_answers_reads_and_refuses_the_rest() {
    let (ctx, _clock) = manual_ctx();
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(&ctx, EngineOptions::new(dir.path())).unwrap();
    let store: Arc<dyn Store> = engine.keyspace("main");
    put(&*store, "a", Expect::Absent, "1").await;
    let mut watch = store.watch(bytes("a"), bytes("b"), 3).await.unwrap();
    engine.close();
    assert!(watch.recv().await.is_none(), "watches end");
    assert_eq!(read(&*store, all(None)).await, ["a=1"]);
    let error = store.put(bytes("b"), Expect::Absent, bytes("1"), 0).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    assert!(matches!(store.watch(bytes("a"), bytes("b"), 3).await, Err(StoreError::Unavailable(_))));
    Engine::open(&ctx, EngineOptions::new(dir.path())).expect("the directory is free again");
}
