//! The suite on a real etcd cluster of three members, and what only a cluster can do: lose members and leaders,
//! change hands, speak TLS. The members are Debian's (`etcd-server`); without them these tests fail.

use super::suite::{Fixture, all, bytes, done, put, read, until};
use crate::etcd::{EtcdOptions, EtcdStore};
use crate::testing::etcd::EtcdCluster;
use crate::{
    Compaction, Expect, Freshness, Outcome, Range, Revision, Store, StoreError, WatchStream, prefix_end,
};
use bytes::Bytes;
use knarr_base::{Ctx, Tasks};
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::sync::{Mutex, OwnedMutexGuard};

/// The suite's tests take turns on one cluster.
static SHARED: LazyLock<Arc<Mutex<EtcdCluster>>> =
    LazyLock::new(|| Arc::new(Mutex::new(EtcdCluster::start(3, false))));

/// Ends a store's tasks with its test.
struct Scope(Tasks);

impl Drop for Scope {
    fn drop(&mut self) {
        self.0.stop();
    }
}

fn scope() -> (Ctx, Scope) {
    let ctx = Ctx::system();
    let scope = Scope(ctx.tasks.clone());
    (ctx, scope)
}

async fn make() -> Fixture {
    make_with_options().await.0
}

async fn make_with_options() -> (Fixture, EtcdOptions) {
    let cluster: OwnedMutexGuard<EtcdCluster> = SHARED.clone().lock_owned().await;
    let options = cluster.options();
    let (ctx, scope) = scope();
    let store = EtcdStore::connect(&ctx, options.clone()).await.unwrap();
    // What an earlier test left behind, and a revision that nobody has compacted at.
    for kv in store.range(all(None)).await.unwrap().kvs {
        store.delete(kv.key, kv.mod_revision).await.unwrap();
    }
    let mark = put(&*store, "mark", Expect::Absent, "").await;
    let base = done(store.delete(bytes("mark"), mark).await.unwrap());
    (Fixture { store, clock: None, base, _keep: Box::new((scope, cluster)) }, options)
}

mod cluster {
    use super::make;
    use crate::tests::suite::suite;
    suite!(make, shared);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_prefix_is_another_store() {
    let (fixture, options) = make_with_options().await;
    let (ctx, _scope) = scope();
    let other = EtcdStore::connect(&ctx, EtcdOptions { prefix: "/other".into(), ..options }).await.unwrap();
    let made = put(&*other, "/registry/pods/a/b", Expect::Absent, "1").await;
    assert_eq!(other.get(b"/registry/pods/a/b", None).await.unwrap().unwrap().key, "/registry/pods/a/b");
    assert_eq!(fixture.store.get(b"/registry/pods/a/b", None).await.unwrap(), None);
    assert_eq!(read(&*fixture.store, all(None)).await, ["/other/pods/a/b=1"]);
    let pods = (bytes("/registry/pods/"), prefix_end(b"/registry/pods/"));
    let range = Range { start: pods.0.clone(), end: pods.1.clone(), ..Range::default() };
    assert_eq!(read(&*other, range).await, ["/registry/pods/a/b=1"]);
    let mut watch = other.watch(pods.0, pods.1, made).await.unwrap();
    assert_eq!(until(&mut watch, made).await[0].events[0].kv.key, "/registry/pods/a/b");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_member_is_not_trusted_with_progress() {
    let fixture = make().await;
    if std::env::var_os("KNARR_TEST_ETCD").is_none() {
        // Debian's etcd is 3.4.23.
        assert_eq!(fixture.store.freshness(), Freshness::ByReading);
        return;
    }
    // Another version, run by hand.
    let made = put(&*fixture.store, "/b", Expect::Absent, "1").await;
    let mut watch = fixture.store.watch(bytes("/a/"), prefix_end(b"/a/"), made).await.unwrap();
    if fixture.store.freshness() == Freshness::OnRequest {
        watch.request_progress();
        let batch = tokio::time::timeout(Duration::from_secs(10), watch.recv()).await.unwrap().unwrap();
        assert!(batch.events.is_empty() && batch.revision >= made);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_too_large_for_one_message_come_whole() {
    let fixture = make().await;
    let s = &*fixture.store;
    let large = Bytes::from(vec![b'x'; 1 << 20]);
    let mut last = 0;
    for key in 0..8 {
        let put = s.put(bytes(&format!("/l/{key}")), Expect::Absent, large.clone(), 0);
        last = done(put.await.unwrap());
    }
    let mut watch = s.watch(bytes("/l/"), prefix_end(b"/l/"), fixture.base + 1).await.unwrap();
    let batches = until(&mut watch, last).await;
    let events: Vec<_> = batches.iter().flat_map(|batch| &batch.events).collect();
    assert_eq!(events.len(), 8);
    assert!(events.iter().all(|event| event.kv.value == large));
    let listed = s.range(all(None)).await.unwrap();
    assert_eq!((listed.count, listed.kvs.len()), (8, 8));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_range_is_read_in_pages_at_one_revision() {
    let fixture = make().await;
    let s = &fixture.store;
    for chunk in 0..41 {
        let puts = (0..100).map(|n| {
            let s = s.clone();
            async move { put(&*s, &format!("/n/{:05}", chunk * 100 + n), Expect::Absent, "1").await }
        });
        futures_util::future::join_all(puts).await;
    }
    let result = s.range(all(None)).await.unwrap();
    assert_eq!((result.kvs.len(), result.count), (4100, 4100));
    assert!(result.kvs.windows(2).all(|pair| pair[0].key < pair[1].key));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_wants_the_clusters_ca_and_a_certificate_of_its_own() {
    let cluster = EtcdCluster::start(1, true);
    let (ctx, _scope) = scope();
    let store = EtcdStore::connect(&ctx, cluster.options()).await.unwrap();
    let made = put(&*store, "a", Expect::Absent, "1").await;
    assert_eq!(store.get(b"a", None).await.unwrap().unwrap().mod_revision, made);
    let limit = Duration::from_millis(1500);
    let anonymous = EtcdOptions { cert_file: None, key_file: None, ..cluster.options() };
    assert!(
        EtcdStore::connect_within(&ctx, anonymous, limit).await.is_err(),
        "no certificate, no connection"
    );
    let strange = EtcdCluster::start(1, true);
    let other_ca = EtcdOptions { ca_file: strange.options().ca_file, ..cluster.options() };
    assert!(
        EtcdStore::connect_within(&ctx, other_ca, limit).await.is_err(),
        "another CA's server is refused"
    );
    let no_ca = EtcdOptions { ca_file: None, ..cluster.options() };
    assert!(no_ca.check().unwrap_err().contains("etcd-cafile"));
}

/// Writes and reads a key over and over; what was acknowledged is remembered.
struct Writer {
    store: Arc<dyn Store>,
    key: String,
    acknowledged: Vec<Revision>,
    failures: usize,
}

impl Writer {
    async fn write_for(mut self, count: usize) -> Self {
        let mut tries = 0;
        while self.acknowledged.len() < count {
            tries += 1;
            assert!(tries < 100 * count, "writes get through again: {} of {count}", self.acknowledged.len());
            let current = match self.store.get(self.key.as_bytes(), None).await {
                Ok(current) => current,
                Err(_) => {
                    self.failures += 1;
                    continue;
                }
            };
            let expect = current.map_or(Expect::Absent, |kv| Expect::Unchanged(kv.mod_revision));
            let value = bytes(&format!("{tries}"));
            match self.store.put(bytes(&self.key), expect, value, 0).await {
                Ok(Outcome::Done(revision)) => self.acknowledged.push(revision),
                Ok(Outcome::Conflict(_)) => {}
                // It may have been written all the same.
                Err(StoreError::Unavailable(_)) => self.failures += 1,
                Err(error) => panic!("{error}"),
            }
        }
        self
    }
}

/// Every revision of a watch in order, each once, up to `last`; checks the chain of previous values.
async fn watched(mut watch: WatchStream, last: Revision) -> Vec<Revision> {
    let mut revisions: Vec<Revision> = Vec::new();
    let mut values: BTreeMap<Bytes, Bytes> = BTreeMap::new();
    while revisions.last().is_none_or(|revision| *revision < last) {
        let batch = tokio::time::timeout(Duration::from_secs(60), watch.recv()).await;
        for event in batch.expect("the watch moves on").expect("the watch goes on").events {
            assert!(revisions.last().is_none_or(|last| *last < event.kv.mod_revision), "in order, each once");
            revisions.push(event.kv.mod_revision);
            let before = values.insert(event.kv.key.clone(), event.kv.value.clone());
            assert_eq!(event.prev.map(|prev| prev.value), before, "nothing is missing in between");
        }
    }
    revisions
}

/// Kills and pauses members one after the other, the leader among them, under writes and a watch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_misses_and_repeats_nothing_while_members_and_leaders_are_lost() {
    let mut cluster = EtcdCluster::start(3, false);
    let (ctx, _scope) = scope();
    let store = EtcdStore::connect(&ctx, cluster.options()).await.unwrap();
    let start = store.latest().await.unwrap() + 1;
    // One watch for each member to be lost.
    let mut watches = Vec::new();
    for _ in 0..3 {
        watches.push(store.watch(bytes("/w/"), prefix_end(b"/w/"), start).await.unwrap());
    }
    let mut writers: Vec<Writer> = (0..3)
        .map(|n| Writer {
            store: store.clone(),
            key: format!("/w/{n}"),
            acknowledged: Vec::new(),
            failures: 0,
        })
        .collect();
    let mut goal = 0;
    for fault in 0..3 {
        goal += 20;
        writers = futures_util::future::join_all(writers.into_iter().map(|w| w.write_for(goal))).await;
        let leader = cluster.leader(&ctx).await.unwrap_or(0);
        let victim = if fault == 1 { (leader + 1) % 3 } else { leader };
        if fault == 2 {
            cluster.pause(victim)
        } else {
            cluster.kill(victim)
        }
        goal += 20;
        writers = futures_util::future::join_all(writers.into_iter().map(|w| w.write_for(goal))).await;
        if fault == 2 { cluster.resume(victim) } else { cluster.start_member(victim) }
    }
    let last = store.latest().await.unwrap();
    let end = put(&*store, "/w/end", Expect::Absent, "").await;
    assert!(end > last);
    for watch in watches {
        let seen = watched(watch, end).await;
        for writer in &writers {
            assert!(writer.acknowledged.iter().all(|revision| seen.contains(revision)), "nothing is lost");
        }
    }
    let failures: usize = writers.iter().map(|writer| writer.failures).sum();
    assert!(failures < 60, "{failures} failures while one member of three was lost at a time");
}

/// A watch whose history is compacted away while it is cut off ends, so that its reader lists again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_whose_history_is_gone_ends() {
    let mut cluster = EtcdCluster::start(1, false);
    let (ctx, _scope) = scope();
    let store = EtcdStore::connect(&ctx, cluster.options()).await.unwrap();
    let mut last = put(&*store, "/w/a", Expect::Absent, "0").await;
    let mut watch = store.watch(bytes("/w/"), prefix_end(b"/w/"), last + 10).await.unwrap();
    for n in 1..30 {
        last = put(&*store, "/w/a", Expect::Unchanged(last), &n.to_string()).await;
    }
    until(&mut watch, last).await;
    // It waits for a revision that is compacted before it comes: cut it off, then compact past it.
    let mut lagging = store.watch(bytes("/v/"), prefix_end(b"/v/"), last + 1).await.unwrap();
    cluster.kill(0);
    cluster.start_member(0);
    let mut turns = Compaction::default();
    store.latest().await.expect("the member is back");
    for _ in 0..30 {
        last = put(&*store, "/w/b", Expect::Absent, "1").await;
        last = done(store.delete(bytes("/w/b"), last).await.unwrap());
    }
    let _ = store.compact_in_turn(&mut turns).await;
    store.compact(last).await.unwrap();
    // Either it was back in time, and goes on, or it ends; it never skips what it has not delivered.
    let made = put(&*store, "/v/new", Expect::Absent, "1").await;
    match tokio::time::timeout(Duration::from_secs(30), lagging.recv()).await.expect("it moves on") {
        Some(batch) => assert_eq!(batch.events[0].kv.mod_revision, made),
        None => {
            let refused = store.watch(bytes("/v/"), prefix_end(b"/v/"), last).await;
            assert!(matches!(refused, Err(StoreError::Compacted { .. })));
        }
    }
}
