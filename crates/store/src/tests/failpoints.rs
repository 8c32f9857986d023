//! Every step of every operation is made to fail, to hang and to be the last one of the process: what was acknowledged
//! stays, what was refused may have happened or not but never by half, and reads go on.

use super::suite::{all, bytes, done, manual_ctx, put};
use crate::embedded::failpoints::{Action, Failpoints, Step};
use crate::embedded::{Engine, EngineOptions};
use crate::{Expect, Outcome, Store, StoreError};
use bytes::Bytes;
use knarr_base::Ctx;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

fn open(ctx: &Ctx, dir: &Path, failpoints: &Failpoints) -> Engine {
    let options =
        EngineOptions { journal_bytes: 4 << 10, failpoints: failpoints.clone(), ..EngineOptions::new(dir) };
    Engine::open(ctx, options).unwrap()
}

/// Puts, deletes, reads, watches, leases and compacts, and says the number of writes that were acknowledged in a row.
async fn work(store: &dyn Store, from: u64) -> Result<u64, StoreError> {
    let mut acknowledged = from;
    for n in from..from + 60 {
        let current = store.get(b"/w/counter", None).await?;
        let expect = current.map_or(Expect::Absent, |kv| Expect::Unchanged(kv.mod_revision));
        let revision = match store.put(bytes("/w/counter"), expect, bytes(&n.to_string()), 0).await? {
            Outcome::Done(revision) => revision,
            Outcome::Conflict(kv) => panic!("nobody else writes: {kv:?}"),
        };
        acknowledged = n;
        let other = done(store.put(bytes("/w/other"), Expect::Absent, Bytes::from(vec![1; 600]), 0).await?);
        done(store.delete(bytes("/w/other"), other).await?);
        store.range(all(None)).await?;
        store.watch(bytes("/w/"), bytes("/w0"), revision).await?;
        if n % 10 == 0 {
            store.grant_lease(60).await?;
            store.compact(revision).await?;
        }
    }
    Ok(acknowledged)
}

async fn counter(store: &dyn Store) -> u64 {
    let kv = store.get(b"/w/counter", None).await.unwrap();
    kv.map_or(0, |kv| std::str::from_utf8(&kv.value).unwrap().parse().unwrap())
}

/// Leaves nothing of an operation that was cut short in the way of the next run.
async fn tidy(store: &dyn Store) {
    if let Some(kv) = store.get(b"/w/other", None).await.unwrap() {
        done(store.delete(kv.key, kv.mod_revision).await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_at_any_step_loses_nothing_that_was_acknowledged() {
    for kind in [std::io::ErrorKind::Other, std::io::ErrorKind::StorageFull] {
        for step in Step::ALL {
            let (ctx, _clock) = manual_ctx();
            let dir = tempfile::tempdir().unwrap();
            let failpoints = Failpoints::default();
            let engine = open(&ctx, dir.path(), &failpoints);
            let store = engine.keyspace("main");
            let first = work(&*store, 1).await.unwrap();
            let reached = async {
                while failpoints.hits(step) == 0 {
                    tokio::task::yield_now().await;
                }
            };
            let reached = tokio::time::timeout(Duration::from_secs(30), reached).await;
            reached.unwrap_or_else(|_| panic!("{step:?} is a step of no operation"));
            failpoints.set(step, Action::Fail(kind));
            let second = work(&*store, first + 1).await;
            let at_least = match &second {
                Ok(acknowledged) => *acknowledged,
                // How far it came is in the store at least as far as it was told.
                Err(_) => first,
            };
            let seen = counter(&*store).await;
            assert!(seen >= at_least, "{step:?} {kind:?}: {seen} of {at_least}");
            failpoints.clear();
            drop(store);
            engine.close();
            let engine = open(&ctx, dir.path(), &Failpoints::default());
            let store = engine.keyspace("main");
            let found = counter(&*store).await;
            assert!(found >= seen, "{step:?} {kind:?}: {found} after {seen} was visible");
            tidy(&*store).await;
            assert_eq!(work(&*store, found + 1).await.unwrap(), found + 60, "{step:?}: it goes on");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_hangs_is_not_visible_before_it_is_durable_and_holds_up_no_read() {
    for step in [Step::Plan, Step::Write, Step::Sync, Step::Synced, Step::Publish] {
        let (ctx, _clock) = manual_ctx();
        let dir = tempfile::tempdir().unwrap();
        let failpoints = Failpoints::default();
        let engine = open(&ctx, dir.path(), &failpoints);
        let store = engine.keyspace("main");
        let made = put(&*store, "k", Expect::Absent, "1").await;
        let mut watch = store.watch(bytes("k"), Bytes::new(), made + 1).await.unwrap();
        failpoints.set(step, Action::Hang);
        let (writer, hits) = (store.clone(), failpoints.hits(step));
        let mut writing = tokio::task::JoinSet::new();
        writing.spawn(async move { put(&*writer, "k", Expect::Unchanged(made), "2").await });
        while failpoints.hits(step) == hits {
            tokio::task::yield_now().await;
        }
        assert_eq!(store.get(b"k", None).await.unwrap().unwrap().value, "1", "{step:?}");
        assert_eq!(store.revision(), made);
        assert!(watch.try_recv().is_err());
        failpoints.clear();
        let written = tokio::time::timeout(Duration::from_secs(30), writing.join_next()).await;
        assert_eq!(written.unwrap().unwrap().unwrap(), made + 1, "{step:?}");
        assert_eq!(store.get(b"k", None).await.unwrap().unwrap().value, "2");
        assert_eq!(watch.try_recv().unwrap().revision, made + 1);
    }
}

const CHILD: &str = "KNARR_STORE_TEST_FAILPOINT_CHILD";

/// The process ends at each step in turn, in a child of this test.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dying_at_any_step_loses_nothing_that_was_acknowledged() {
    if let Ok(order) = std::env::var(CHILD) {
        let (step, dir) = order.split_once(' ').unwrap();
        return child(step.parse().unwrap(), Path::new(dir)).await;
    }
    let (ctx, _clock) = manual_ctx();
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for (number, step) in Step::ALL.iter().enumerate() {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "tests::failpoints::dying_at_any_step_loses_nothing_that_was_acknowledged"])
            .args(["--nocapture", "--test-threads", "1"])
            .env(CHILD, format!("{number} {}", dir.path().display()))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        for line in BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok) {
            if let Some(n) = line.strip_prefix("ack ").and_then(|line| line.strip_suffix('.')) {
                acknowledged = n.parse().unwrap();
            }
        }
        assert!(!child.wait().unwrap().success(), "{step:?}: it died");
        let engine = open(&ctx, dir.path(), &Failpoints::default());
        let found = counter(&*engine.keyspace("main")).await;
        assert!(found >= acknowledged, "{step:?}: {found} of {acknowledged}");
        tidy(&*engine.keyspace("main")).await;
        acknowledged = found;
        engine.close();
    }
    assert!(acknowledged > 0);
}

async fn child(step: usize, dir: &Path) {
    let failpoints = Failpoints::default();
    let engine = open(&Ctx::system(), dir, &failpoints);
    let store: Arc<dyn Store> = engine.keyspace("main");
    let mut at = counter(&*store).await;
    // Some work first, so that there is something to lose.
    for round in 0..20 {
        if round == 1 {
            failpoints.set(Step::ALL[step], Action::Die);
        }
        at = work(&*store, at + 1).await.unwrap();
        std::io::stdout().lock().write_all(format!("ack {at}.\n").as_bytes()).unwrap();
    }
    panic!("the step was never reached");
}
