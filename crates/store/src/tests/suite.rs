//! What every backend must do, run over each of them.

use crate::{
    Expect, KeyValue, Outcome, Range, Revision, Store, StoreError, WatchBatch, WatchEvent, WatchStream,
    prefix_end,
};
use bytes::Bytes;
use knarr_base::{Clock, Ctx, ManualClock};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// A store to test, the clock it runs on, and whatever must live as long.
pub(super) struct Fixture {
    pub store: Arc<dyn Store>,
    /// The clock that the test moves; `None` for a backend with a clock of its own.
    pub clock: Option<Arc<ManualClock>>,
    /// The store's revision at the start.
    pub base: Revision,
    pub _keep: Box<dyn std::any::Any + Send>,
}

impl Fixture {
    /// A fixture in this process.
    pub fn local(store: Arc<dyn Store>, clock: Arc<ManualClock>, keep: impl std::any::Any + Send) -> Self {
        Self { store, clock: Some(clock), base: 1, _keep: Box::new(keep) }
    }

    /// A short and a long term of a lease, in seconds; both are waited for.
    fn terms(&self) -> (u64, u64) {
        if self.clock.is_some() { (60, 600) } else { (2, 4) }
    }

    /// How many keys there are.
    async fn keys(&self) -> usize {
        self.store.range(Range { count_only: true, ..all(None) }).await.unwrap().count
    }
}

/// A context whose clock stands still.
pub(super) fn manual_ctx() -> (Ctx, Arc<ManualClock>) {
    let clock = ManualClock::at(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000));
    (Ctx { clock: clock.clone(), ..Ctx::system() }, clock)
}

/// Makes the suite's tests for the backend that `$make` (an async fn to a [`Fixture`]) makes.
macro_rules! suite {
    ($make:path: $($case:ident),* $(,)?) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $case() {
            $crate::tests::suite::$case($make().await).await;
        })*
    };
    ($make:path) => {
        $crate::tests::suite::suite!($make, shared);
        $crate::tests::suite::suite!($make: every_commit_reaches_every_watch, keys_are_counted_at_once);
    };
    ($make:path, shared) => {
        $crate::tests::suite::suite!($make:
            an_empty_store_is_at_its_first_revision,
            a_put_creates_only_what_is_absent_and_updates_only_what_is_unchanged,
            a_delete_wants_the_revision_it_saw,
            reads_at_a_revision_see_the_store_as_it_was,
            a_range_is_ordered_limited_and_counted,
            range_ends_follow_etcd,
            a_watch_from_the_past_replays_with_previous_values,
            a_watch_from_the_future_waits_for_its_revision,
            the_latest_revision_is_that_of_the_last_write,
            periodic_compaction_keeps_one_interval,
            compaction_forgets_history_and_keeps_what_is_live,
            compacting_twice_or_into_the_future_is_refused,
            concurrent_writers_are_put_in_one_order,
            only_one_of_many_racing_writers_wins,
            an_expired_lease_deletes_its_keys,
            a_lease_lets_go_of_a_key_that_was_put_without_it,
            an_unknown_lease_is_refused,
            a_random_history_reads_the_same_as_a_simple_model,
        );
    };
}
pub(super) use suite;

mod memory {
    use super::*;

    async fn make() -> Fixture {
        let (ctx, clock) = manual_ctx();
        Fixture::local(crate::memory::MemoryStore::new(&ctx), clock, ())
    }
    suite!(make);
}

pub(super) fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// Puts and says at which revision; a conflict is a panic.
pub(super) async fn put(store: &dyn Store, key: &str, expect: Expect, value: &str) -> Revision {
    done(store.put(bytes(key), expect, bytes(value), 0).await.unwrap())
}

pub(super) fn done(outcome: Outcome) -> Revision {
    match outcome {
        Outcome::Done(revision) => revision,
        Outcome::Conflict(kv) => panic!("conflict with {kv:?}"),
    }
}

fn conflict(outcome: Outcome) -> Option<KeyValue> {
    match outcome {
        Outcome::Done(revision) => panic!("done at {revision}, a conflict was due"),
        Outcome::Conflict(kv) => kv,
    }
}

fn kv(key: &str, value: &str, create_revision: Revision, mod_revision: Revision) -> KeyValue {
    KeyValue { key: bytes(key), value: bytes(value), create_revision, mod_revision, lease: 0 }
}

pub(super) fn all(at: Option<Revision>) -> Range {
    Range { start: Bytes::new(), end: Bytes::from_static(&[0]), at, ..Range::default() }
}

pub(super) fn prefix(prefix: &str) -> Range {
    Range { start: bytes(prefix), end: prefix_end(prefix.as_bytes()), ..Range::default() }
}

/// `key=value` of a range.
pub(super) async fn read(store: &dyn Store, range: Range) -> Vec<String> {
    let result = store.range(range).await.unwrap();
    result
        .kvs
        .iter()
        .map(|kv| format!("{}={}", String::from_utf8_lossy(&kv.key), String::from_utf8_lossy(&kv.value)))
        .collect()
}

/// The batches of a watch up to a revision.
pub(super) async fn until(watch: &mut WatchStream, revision: Revision) -> Vec<WatchBatch> {
    let mut batches = Vec::new();
    while batches.last().is_none_or(|batch: &WatchBatch| batch.revision < revision) {
        let next = tokio::time::timeout(Duration::from_secs(30), watch.recv()).await;
        batches.push(next.expect("the watch moves on").expect("the watch goes on"));
    }
    batches
}

/// A watch's events as text: `+` made, `~` changed, `-` deleted.
fn describe(batches: &[WatchBatch]) -> Vec<String> {
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    batches
        .iter()
        .flat_map(|batch| &batch.events)
        .map(|event| {
            let (key, value) = (text(&event.kv.key), text(&event.kv.value));
            let revision = event.kv.mod_revision;
            match (&event.prev, event.deleted) {
                (None, false) => format!("+{key}={value}@{revision}"),
                (Some(prev), false) => format!("~{key}={}>{value}@{revision}", text(&prev.value)),
                (Some(prev), true) => format!("-{key}={}{value}@{revision}", text(&prev.value)),
                (None, true) => format!("deleted {key}, which was not there"),
            }
        })
        .collect()
}

pub(super) async fn an_empty_store_is_at_its_first_revision(f: Fixture) {
    assert_eq!(f.store.revision(), f.base);
    let result = f.store.range(all(None)).await.unwrap();
    assert_eq!((result.count, result.revision, result.kvs.len()), (0, f.base, 0));
    assert_eq!(f.store.get(b"a", None).await.unwrap(), None);
    assert_eq!(put(&*f.store, "a", Expect::Absent, "1").await, f.base + 1);
    assert_eq!((f.store.stats().revision, f.keys().await), (f.base + 1, 1));
}

pub(super) async fn keys_are_counted_at_once(f: Fixture) {
    for key in ["a", "b"] {
        put(&*f.store, key, Expect::Absent, "1").await;
    }
    assert_eq!(f.store.stats().keys, 2);
    done(f.store.delete(bytes("a"), f.base + 1).await.unwrap());
    assert_eq!(f.store.stats().keys, 1);
}

pub(super) async fn the_latest_revision_is_that_of_the_last_write(f: Fixture) {
    let s = &*f.store;
    assert_eq!(s.latest().await.unwrap(), f.base);
    let made = put(s, "a", Expect::Absent, "1").await;
    let asked = futures_util::future::join_all((0..20).map(|_| s.latest())).await;
    assert!(asked.into_iter().all(|answer| answer.unwrap() == made));
}

/// Two programs that share a store share the turns: history goes once an interval, whoever it was.
pub(super) async fn periodic_compaction_keeps_one_interval(f: Fixture) {
    let s = &*f.store;
    let (mut one, mut other) = (crate::Compaction::default(), crate::Compaction::default());
    let mut last = put(s, "k", Expect::Absent, "0").await;
    let mut at = vec![last];
    for round in 1..=6 {
        // Turns of the one and the other alternate, as two servers' timers do.
        s.compact_in_turn(if round % 2 == 0 { &mut one } else { &mut other }).await.unwrap();
        last = put(s, "k", Expect::Unchanged(last), &round.to_string()).await;
        at.push(last);
    }
    assert!(s.get(b"k", Some(at[5])).await.is_ok(), "the last interval is readable");
    s.compact_in_turn(&mut one).await.unwrap();
    s.compact_in_turn(&mut one).await.unwrap();
    s.compact_in_turn(&mut one).await.unwrap();
    assert!(matches!(s.get(b"k", Some(at[5])).await, Err(StoreError::Compacted { .. })));
    assert_eq!(s.get(b"k", None).await.unwrap().unwrap().mod_revision, last);
}

pub(super) async fn a_put_creates_only_what_is_absent_and_updates_only_what_is_unchanged(f: Fixture) {
    let s = &*f.store;
    let made = put(s, "a", Expect::Absent, "1").await;
    let was = conflict(s.put(bytes("a"), Expect::Absent, bytes("x"), 0).await.unwrap());
    assert_eq!(was, Some(kv("a", "1", made, made)));
    let changed = put(s, "a", Expect::Unchanged(made), "2").await;
    assert_eq!(changed, made + 1);
    let was = conflict(s.put(bytes("a"), Expect::Unchanged(made), bytes("x"), 0).await.unwrap());
    assert_eq!(was, Some(kv("a", "2", made, changed)));
    assert_eq!(conflict(s.put(bytes("b"), Expect::Unchanged(made), bytes("x"), 0).await.unwrap()), None);
    assert_eq!(s.get(b"a", None).await.unwrap(), Some(kv("a", "2", made, changed)));
    assert_eq!(s.revision(), changed, "conflicts make no revision");
}

pub(super) async fn a_delete_wants_the_revision_it_saw(f: Fixture) {
    let s = &*f.store;
    let made = put(s, "a", Expect::Absent, "1").await;
    let changed = put(s, "a", Expect::Unchanged(made), "2").await;
    assert_eq!(conflict(s.delete(bytes("a"), made).await.unwrap()), Some(kv("a", "2", made, changed)));
    assert_eq!(done(s.delete(bytes("a"), changed).await.unwrap()), changed + 1);
    assert_eq!(conflict(s.delete(bytes("a"), changed).await.unwrap()), None);
    assert_eq!(s.get(b"a", None).await.unwrap(), None);
    let again = put(s, "a", Expect::Absent, "3").await;
    assert_eq!(s.get(b"a", None).await.unwrap(), Some(kv("a", "3", again, again)), "a key starts anew");
    assert_eq!(f.keys().await, 1);
}

pub(super) async fn reads_at_a_revision_see_the_store_as_it_was(f: Fixture) {
    let s = &*f.store;
    let a1 = put(s, "a", Expect::Absent, "1").await;
    let b1 = put(s, "b", Expect::Absent, "1").await;
    let a2 = put(s, "a", Expect::Unchanged(a1), "2").await;
    let gone = done(s.delete(bytes("b"), b1).await.unwrap());
    assert_eq!(read(s, all(Some(f.base))).await, [""; 0]);
    assert_eq!(read(s, all(Some(a1))).await, ["a=1"]);
    assert_eq!(read(s, all(Some(b1))).await, ["a=1", "b=1"]);
    assert_eq!(read(s, all(Some(a2))).await, ["a=2", "b=1"]);
    assert_eq!(read(s, all(Some(gone))).await, ["a=2"]);
    assert_eq!(s.range(all(Some(a1))).await.unwrap().revision, gone, "the header tells the store's revision");
    assert_eq!(s.get(b"b", Some(a2)).await.unwrap(), Some(kv("b", "1", b1, b1)));
    assert_eq!(s.get(b"b", Some(gone)).await.unwrap(), None);
    let error = s.range(all(Some(gone + 1))).await.unwrap_err();
    assert!(matches!(error, StoreError::Future { asked, current } if asked == gone + 1 && current == gone));
    assert!(matches!(s.get(b"b", Some(gone + 9)).await, Err(StoreError::Future { .. })));
}

pub(super) async fn a_range_is_ordered_limited_and_counted(f: Fixture) {
    let s = &*f.store;
    for key in ["/p/b", "/p/d", "/q/x", "/p/a", "/p/c", "/o/z"] {
        put(s, key, Expect::Absent, "v").await;
    }
    assert_eq!(read(s, prefix("/p/")).await, ["/p/a=v", "/p/b=v", "/p/c=v", "/p/d=v"]);
    let result = s.range(Range { limit: 3, ..prefix("/p/") }).await.unwrap();
    assert_eq!((result.kvs.len(), result.count), (3, 4));
    // A continue token: the rest, at the first page's revision, whatever happened since.
    let at = result.revision;
    put(s, "/p/bb", Expect::Absent, "v").await;
    put(s, "/p/e", Expect::Absent, "v").await;
    let rest = Range { start: bytes("/p/c\0"), at: Some(at), limit: 3, ..prefix("/p/") };
    assert_eq!(read(s, rest.clone()).await, ["/p/d=v"]);
    assert_eq!(s.range(rest).await.unwrap().count, 1);
    let counted = s.range(Range { count_only: true, ..prefix("/p/") }).await.unwrap();
    assert_eq!((counted.kvs.len(), counted.count), (0, 6));
    let exact = s.range(Range { limit: 6, ..prefix("/p/") }).await.unwrap();
    assert_eq!((exact.kvs.len(), exact.count), (6, 6));
}

pub(super) async fn range_ends_follow_etcd(f: Fixture) {
    let s = &*f.store;
    for key in ["a", "b", "b\u{0}", "c"] {
        put(s, key, Expect::Absent, "v").await;
    }
    let range = |start: &'static [u8], end: &'static [u8]| Range {
        start: Bytes::from_static(start),
        end: Bytes::from_static(end),
        ..Range::default()
    };
    let count = async |start, end| s.range(range(start, end)).await.unwrap().count;
    assert_eq!(count(b"b", b"").await, 1, "an empty end is the key itself");
    assert_eq!(count(b"b", b"\0").await, 3, "a zero end is everything from the start on");
    assert_eq!(count(b"a", b"c").await, 3, "the end is excluded");
    assert_eq!(count(b"c", b"a").await, 0, "a backward range is empty");
    assert_eq!(count(b"b", b"b").await, 0);
    assert_eq!(prefix_end(b"a\xff\xff"), Bytes::from_static(b"b"));
    assert_eq!(prefix_end(b"\xff"), Bytes::from_static(b"\0"));
}

pub(super) async fn a_watch_from_the_past_replays_with_previous_values(f: Fixture) {
    let s = &*f.store;
    let a1 = put(s, "/w/a", Expect::Absent, "1").await;
    put(s, "/x/other", Expect::Absent, "1").await;
    let a2 = put(s, "/w/a", Expect::Unchanged(a1), "2").await;
    let a3 = done(s.delete(bytes("/w/a"), a2).await.unwrap());
    let a4 = put(s, "/w/a", Expect::Absent, "4").await;

    let mut watch = s.watch(bytes("/w/"), prefix_end(b"/w/"), f.base + 1).await.unwrap();
    let past = until(&mut watch, a4).await;
    let expected: Vec<String> = vec![
        format!("+/w/a=1@{a1}"),
        format!("~/w/a=1>2@{a2}"),
        format!("-/w/a=2@{a3}"),
        format!("+/w/a=4@{a4}"),
    ];
    assert_eq!(describe(&past), expected);
    let deletion = past.iter().flat_map(|b| &b.events).find(|event| event.deleted).unwrap();
    assert_eq!(deletion.kv.mod_revision, a3);
    assert_eq!(deletion.prev, Some(kv("/w/a", "2", a1, a2)));

    let a5 = put(s, "/w/a", Expect::Unchanged(a4), "5").await;
    assert_eq!(describe(&until(&mut watch, a5).await), [format!("~/w/a=4>5@{a5}")]);
    let mut later = s.watch(bytes("/w/"), prefix_end(b"/w/"), a3).await.unwrap();
    assert_eq!(describe(&until(&mut later, a5).await)[0], expected[2]);
}

pub(super) async fn a_watch_from_the_future_waits_for_its_revision(f: Fixture) {
    let s = &*f.store;
    let mut watch = s.watch(Bytes::new(), Bytes::from_static(&[0]), s.revision() + 2).await.unwrap();
    put(s, "a", Expect::Absent, "1").await;
    let second = put(s, "b", Expect::Absent, "1").await;
    assert_eq!(describe(&until(&mut watch, second).await), [format!("+b=1@{second}")]);
}

pub(super) async fn every_commit_reaches_every_watch(f: Fixture) {
    let s = &*f.store;
    let mut here = s.watch(bytes("/h/"), prefix_end(b"/h/"), s.revision() + 1).await.unwrap();
    let mut there = s.watch(bytes("/t/"), prefix_end(b"/t/"), s.revision() + 1).await.unwrap();
    let revision = put(s, "/h/a", Expect::Absent, "1").await;
    // The write was answered, so both watches have it already: nothing to wait for.
    let batch = here.try_recv().unwrap();
    assert_eq!((batch.revision, batch.events.len()), (revision, 1));
    let batch = there.try_recv().unwrap();
    assert_eq!((batch.revision, batch.events.len()), (revision, 0), "progress without events");
    drop(here);
    let revision = put(s, "/t/a", Expect::Absent, "1").await;
    assert_eq!(there.try_recv().unwrap().revision, revision);
}

pub(super) async fn compaction_forgets_history_and_keeps_what_is_live(f: Fixture) {
    let s = &*f.store;
    let a1 = put(s, "a", Expect::Absent, "1").await;
    let b1 = put(s, "b", Expect::Absent, "1").await;
    let a2 = put(s, "a", Expect::Unchanged(a1), "2").await;
    let b2 = done(s.delete(bytes("b"), b1).await.unwrap());
    let a3 = put(s, "a", Expect::Unchanged(a2), "3").await;
    s.compact(b2).await.unwrap();
    assert_eq!(s.stats().compacted, b2);

    assert_eq!(read(s, all(Some(b2))).await, ["a=2"], "the revision compacted at is readable");
    assert_eq!(read(s, all(None)).await, ["a=3"]);
    let error = s.range(all(Some(a2))).await.unwrap_err();
    assert!(matches!(error, StoreError::Compacted { compacted } if compacted == b2), "{error}");
    assert!(matches!(s.get(b"a", Some(a1)).await, Err(StoreError::Compacted { .. })));
    for from in [1, a1, b2] {
        let error = s.watch(bytes("a"), bytes("c"), from).await.unwrap_err();
        assert!(matches!(error, StoreError::Compacted { compacted } if compacted == b2), "{error}");
    }
    let mut watch = s.watch(bytes("a"), bytes("c"), b2 + 1).await.unwrap();
    assert_eq!(describe(&until(&mut watch, a3).await), [format!("~a=2>3@{a3}")]);
    let b3 = put(s, "b", Expect::Absent, "3").await;
    assert_eq!(s.get(b"b", None).await.unwrap(), Some(kv("b", "3", b3, b3)));
    // Compacting at the latest revision leaves one version of each key.
    s.compact(b3).await.unwrap();
    assert_eq!(read(s, all(None)).await, ["a=3", "b=3"]);
    assert_eq!(s.get(b"a", None).await.unwrap(), Some(kv("a", "3", a1, a3)));
}

pub(super) async fn compacting_twice_or_into_the_future_is_refused(f: Fixture) {
    let s = &*f.store;
    let made = put(s, "a", Expect::Absent, "1").await;
    let error = s.compact(made + 1).await.unwrap_err();
    assert!(matches!(error, StoreError::Future { .. }), "{error}");
    s.compact(made).await.unwrap();
    let error = s.compact(made).await.unwrap_err();
    assert!(matches!(error, StoreError::Compacted { compacted } if compacted == made), "{error}");
}

pub(super) async fn concurrent_writers_are_put_in_one_order(f: Fixture) {
    let mut watch = f.store.watch(Bytes::new(), Bytes::from_static(&[0]), f.base + 1).await.unwrap();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..16 {
        let store = f.store.clone();
        writers.spawn(async move {
            let mut last = 0;
            for n in 0..20 {
                let expect = if last == 0 { Expect::Absent } else { Expect::Unchanged(last) };
                let revision = put(&*store, &format!("/k/{writer}"), expect, &n.to_string()).await;
                assert!(revision > last, "a writer's later write has a later revision");
                assert!(store.revision() >= revision, "an answered write is visible");
                last = revision;
            }
        });
    }
    while let Some(writer) = writers.join_next().await {
        writer.unwrap();
    }
    let end = f.store.revision();
    assert_eq!(end, f.base + 16 * 20);
    let batches = until(&mut watch, end).await;
    let revisions: Vec<Revision> =
        batches.iter().flat_map(|b| &b.events).map(|event| event.kv.mod_revision).collect();
    assert_eq!(revisions, (f.base + 1..=end).collect::<Vec<_>>(), "every revision once, in order");
    let mut values = BTreeMap::new();
    for event in batches.iter().flat_map(|batch| &batch.events) {
        let prev = event.prev.as_ref().map(|prev| prev.value.clone());
        assert_eq!(prev, values.insert(event.kv.key.clone(), event.kv.value.clone()));
    }
}

pub(super) async fn only_one_of_many_racing_writers_wins(f: Fixture) {
    let made = put(&*f.store, "k", Expect::Absent, "0").await;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..32 {
        let store = f.store.clone();
        writers.spawn(async move {
            let outcome = store.put(bytes("k"), Expect::Unchanged(made), bytes(&writer.to_string()), 0);
            match outcome.await.unwrap() {
                Outcome::Done(revision) => Some((revision, writer.to_string())),
                Outcome::Conflict(kv) => {
                    assert_eq!(kv.unwrap().mod_revision, made + 1);
                    None
                }
            }
        });
    }
    let winners: Vec<_> = writers.join_all().await.into_iter().flatten().collect();
    assert_eq!(winners.len(), 1);
    let now = f.store.get(b"k", None).await.unwrap().unwrap();
    assert_eq!((now.mod_revision, now.value), (winners[0].0, bytes(&winners[0].1)));
}

pub(super) async fn an_expired_lease_deletes_its_keys(f: Fixture) {
    let s = &*f.store;
    let (short_term, long_term) = f.terms();
    let watch_clock = knarr_base::SystemClock::new();
    let now = || f.clock.as_ref().map_or_else(|| watch_clock.instant(), |clock| clock.instant());
    let granted = now();
    let long = s.grant_lease(long_term).await.unwrap();
    let short = s.grant_lease(short_term).await.unwrap();
    assert_ne!(long, short);
    s.put(bytes("/e/a"), Expect::Absent, bytes("1"), short).await.unwrap();
    s.put(bytes("/e/b"), Expect::Absent, bytes("1"), short).await.unwrap();
    s.put(bytes("/e/c"), Expect::Absent, bytes("1"), long).await.unwrap();
    let at = put(s, "/e/d", Expect::Absent, "1").await;
    assert_eq!(s.get(b"/e/a", None).await.unwrap().unwrap().lease, short);

    let mut watch = s.watch(bytes("/e/"), prefix_end(b"/e/"), at + 1).await.unwrap();
    let ended = ended(&f, &mut watch, 2).await;
    assert!(now() - granted >= Duration::from_secs(short_term), "not before its time");
    let keys: Vec<&[u8]> = ended.iter().map(|event| &event.kv.key[..]).collect();
    assert_eq!(keys, [b"/e/a", b"/e/b"]);
    // etcd deletes all of them in one revision, the others make one for each.
    assert!(ended[0].kv.mod_revision == at + 1 && ended[1].kv.mod_revision <= at + 2);
    assert!(ended.iter().all(|event| event.deleted && event.prev.as_ref().unwrap().value == bytes("1")));
    let refused = s.put(bytes("/e/z"), Expect::Absent, bytes("1"), short).await;
    assert!(matches!(refused, Err(StoreError::NoLease)));
    super::suite::ended(&f, &mut watch, 1).await;
    assert_eq!(read(s, prefix("/e/")).await, ["/e/d=1"]);
}

/// The next `count` changes of a watch, moving the clock on a second at a time until they are there.
async fn ended(f: &Fixture, watch: &mut WatchStream, count: usize) -> Vec<WatchEvent> {
    let mut events: Vec<WatchEvent> = Vec::new();
    let mut patience = 6000;
    while events.len() < count {
        match tokio::time::timeout(Duration::from_millis(5), watch.recv()).await {
            Ok(batch) => events.extend(batch.expect("the watch goes on").events),
            Err(_) => {
                patience -= 1;
                assert!(patience > 0, "{} of {count} changes within half a minute", events.len());
                if let Some(clock) = &f.clock {
                    clock.advance(Duration::from_secs(1));
                }
            }
        }
    }
    events
}

pub(super) async fn a_lease_lets_go_of_a_key_that_was_put_without_it(f: Fixture) {
    let s = &*f.store;
    let lease = s.grant_lease(f.terms().0).await.unwrap();
    let made = done(s.put(bytes("kept"), Expect::Absent, bytes("1"), lease).await.unwrap());
    s.put(bytes("lost"), Expect::Absent, bytes("1"), lease).await.unwrap();
    let at = put(s, "kept", Expect::Unchanged(made), "2").await;
    let mut watch = s.watch(Bytes::new(), Bytes::from_static(&[0]), at + 1).await.unwrap();
    assert_eq!(ended(&f, &mut watch, 1).await[0].kv.key, bytes("lost"));
    assert_eq!(read(s, all(None)).await, ["kept=2"]);
}

pub(super) async fn an_unknown_lease_is_refused(f: Fixture) {
    let refused = f.store.put(bytes("a"), Expect::Absent, bytes("1"), 4711).await;
    assert!(matches!(refused, Err(StoreError::NoLease)), "{refused:?}");
    assert_eq!(f.store.revision(), f.base);
}

/// Random puts, deletes and compactions; after each, reads at random revisions equal those of a model that
/// keeps a whole copy of the store for every revision.
pub(super) async fn a_random_history_reads_the_same_as_a_simple_model(f: Fixture) {
    let rng = knarr_base::rng::SeededRng::new(7);
    let rng: &dyn knarr_base::Rng = &rng;
    let s = &*f.store;
    // What the store held at the revision `base` + its place here.
    let mut past: Vec<BTreeMap<Bytes, KeyValue>> = vec![BTreeMap::new()];
    let mut compacted = f.base - 1;
    for step in 0..600u64 {
        let mut now = past.last().unwrap().clone();
        let key = bytes(&format!("/{}", rng.below(20)));
        let current = now.get(&key).cloned();
        let revision = f.base + past.len() as Revision;
        match (rng.below(10), current) {
            (0..3, Some(kv)) => {
                assert_eq!(done(s.delete(key.clone(), kv.mod_revision).await.unwrap()), revision);
                now.remove(&key);
                past.push(now);
            }
            (3, _) => {
                let at = compacted + 1 + rng.below(revision - compacted);
                if at < revision {
                    s.compact(at).await.unwrap();
                    compacted = at;
                }
            }
            (_, current) => {
                let value = bytes(&step.to_string());
                let expect = current.as_ref().map_or(Expect::Absent, |kv| Expect::Unchanged(kv.mod_revision));
                assert_eq!(done(s.put(key.clone(), expect, value.clone(), 0).await.unwrap()), revision);
                let create_revision = current.map_or(revision, |kv| kv.create_revision);
                let kv =
                    KeyValue { key: key.clone(), value, create_revision, mod_revision: revision, lease: 0 };
                now.insert(key, kv);
                past.push(now);
            }
        }
        let latest = f.base + past.len() as Revision - 1;
        let at = f.base + rng.below(latest - f.base + 1);
        match s.range(all(Some(at))).await {
            Ok(result) => {
                assert!(at >= compacted);
                assert_eq!(result.kvs, past[(at - f.base) as usize].values().cloned().collect::<Vec<_>>());
            }
            Err(error) => {
                assert!(at < compacted && matches!(error, StoreError::Compacted { .. }), "{at}: {error}");
            }
        }
        assert_eq!(s.revision(), latest);
    }
}
