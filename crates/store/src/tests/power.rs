//! Power cuts: on a disk that loses what was not synced, at any operation and any sector of it, every
//! acknowledged write is there afterwards, in order, and nothing that was never asked for.

use super::suite::{all, bytes, manual_ctx};
use crate::embedded::testing::{Driven, TestDisk};
use crate::{Expect, KeyValue, Outcome, Revision, Store, StoreError};
use bytes::Bytes;
use futures_util::FutureExt;
use knarr_base::Rng;
use knarr_base::rng::SeededRng;
use std::collections::BTreeMap;

/// The keys at each revision, by the order in which requests were made; revision r is at r - 1.
type Past = Vec<BTreeMap<Bytes, KeyValue>>;

#[tokio::test]
async fn acknowledged_writes_survive_power_cuts_at_any_point() {
    let (mut acknowledged, mut lost) = (0, 0);
    for seed in 0..150 {
        let (a, l) = one_life(seed).await;
        acknowledged += a;
        lost += l;
    }
    // The test means something only if it saw both.
    assert!(acknowledged > 2_000 && lost > 200, "{acknowledged} acknowledged, {lost} lost");
}

/// Writes until the power fails, several times over on the same disk. Counts acknowledged and lost writes.
async fn one_life(seed: u64) -> (u64, u64) {
    let (ctx, _clock) = manual_ctx();
    let rng = SeededRng::new(seed);
    let rng: &dyn Rng = &rng;
    let mut disk = TestDisk::with_store();
    let mut past: Past = vec![BTreeMap::new()];
    let mut compacted = 0;
    let (mut acknowledged, mut lost) = (0, 0);
    for cut in 0..4 {
        let mut driven =
            Driven::open(&ctx, &disk).unwrap_or_else(|error| panic!("seed {seed} cut {cut}: {error}"));
        let store = driven.engine.keyspace("main");
        let at = store.revision();
        assert!(at as usize <= past.len(), "seed {seed}: nothing that was not asked for");
        lost += past.len() as u64 - at;
        past.truncate(at as usize);
        check(&*store, &past, compacted, seed).await;

        disk.fail_after(20 + rng.below(300));
        let mut last_acknowledged = at;
        'life: for _ in 0..60 {
            // A fresh budget of polls from the runtime, which otherwise makes ready futures wait.
            tokio::task::yield_now().await;
            let mut requests = Vec::new();
            for _ in 0..1 + rng.below(6) {
                requests.push(request(&store, &mut past, rng));
            }
            // Requests join the queue when first polled.
            for request in &mut requests {
                assert!(request.as_mut().now_or_never().is_none(), "nothing is answered before the commit");
            }
            driven.turn();
            for request in requests {
                match request.now_or_never().expect("a turn answers its batch") {
                    Ok(Outcome::Done(revision)) => {
                        assert_eq!(revision, last_acknowledged + 1);
                        last_acknowledged = revision;
                        acknowledged += 1;
                    }
                    Ok(Outcome::Conflict(kv)) => panic!("the model expects no conflict: {kv:?}"),
                    Err(StoreError::Unavailable(_)) => break 'life,
                    Err(error) => panic!("seed {seed}: {error}"),
                }
            }
            if rng.below(8) == 0 && last_acknowledged > compacted + 3 {
                let revision = compacted + 1 + rng.below(last_acknowledged - compacted);
                let compact = store.compact(revision);
                futures_util::pin_mut!(compact);
                assert!(compact.as_mut().now_or_never().is_none());
                driven.turn();
                if compact.now_or_never().unwrap().is_err() {
                    // It may have happened or not; the check looks only at what is readable either way.
                    compacted = revision;
                    break 'life;
                }
                compacted = revision;
            }
            // The checkpoint thread is as quick or slow as it likes.
            for _ in 0..rng.below(3) {
                driven.checkpoint();
            }
        }
        disk = disk.after_power_cut(rng);
        drop(driven);
        // All that was acknowledged must be found by the next round's check.
        let (ctx, _clock) = manual_ctx();
        let probe = disk.after_power_cut(rng);
        let reopened = Driven::open(&ctx, &probe).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let revision = reopened.engine.keyspace("main").revision();
        assert!(revision >= last_acknowledged, "seed {seed}: {revision} < {last_acknowledged}");
    }
    (acknowledged, lost)
}

type Writing = futures_util::future::BoxFuture<'static, Result<Outcome, StoreError>>;

/// A random write that must succeed after those before it, recorded in the model.
fn request(store: &std::sync::Arc<dyn Store>, past: &mut Past, rng: &dyn Rng) -> Writing {
    let mut now = past.last().unwrap().clone();
    let revision = past.len() as Revision + 1;
    let key = bytes(&format!("/k/{}", rng.below(12)));
    let current = now.get(&key).cloned();
    let store = store.clone();
    let writing: Writing = match current {
        Some(kv) if rng.below(3) == 0 => {
            now.remove(&key);
            Box::pin(async move { store.delete(key, kv.mod_revision).await })
        }
        current => {
            let value = Bytes::from(vec![revision as u8; rng.below(3000) as usize]);
            let create_revision = current.as_ref().map_or(revision, |kv| kv.create_revision);
            let expect = current.map_or(Expect::Absent, |kv| Expect::Unchanged(kv.mod_revision));
            let kv = KeyValue {
                key: key.clone(),
                value: value.clone(),
                create_revision,
                mod_revision: revision,
                lease: 0,
            };
            now.insert(key.clone(), kv);
            Box::pin(async move { store.put(key, expect, value, 0).await })
        }
    };
    past.push(now);
    writing
}

/// Compares the store with the model at every readable revision.
async fn check(store: &dyn Store, past: &Past, compacted: Revision, seed: u64) {
    let from = compacted.max(store.stats().compacted).max(1);
    for revision in from..=past.len() as Revision {
        let kvs = store.range(all(Some(revision))).await.unwrap().kvs;
        let model: Vec<KeyValue> = past[revision as usize - 1].values().cloned().collect();
        let brief = |kvs: &[KeyValue]| -> Vec<_> {
            kvs.iter().map(|kv| (kv.key.clone(), kv.create_revision, kv.mod_revision)).collect()
        };
        assert_eq!(brief(&kvs), brief(&model), "seed {seed} revision {revision}");
        assert!(kvs == model, "seed {seed} revision {revision}: the values differ");
    }
}
