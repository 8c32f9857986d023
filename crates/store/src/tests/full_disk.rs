//! A full disk: writes are refused with their own error, reads and watches go on, nothing half-written comes
//! back, and writes work again once there is room.

use super::suite::{all, bytes, done, manual_ctx, read};
use crate::embedded::testing::{Driven, TestDisk};
use crate::{Expect, Store, StoreError};
use bytes::Bytes;
use futures_util::FutureExt;

async fn put(driven: &mut Driven, store: &dyn Store, key: &str, size: usize) -> Result<u64, StoreError> {
    // A fresh budget of polls from the runtime, which otherwise makes ready futures wait.
    tokio::task::yield_now().await;
    let mut put = store.put(bytes(key), Expect::Absent, Bytes::from(vec![7; size]), 0);
    assert!(put.as_mut().now_or_never().is_none());
    driven.turn();
    let result = put.now_or_never().expect("a turn answers its batch").map(done);
    driven.checkpoint();
    result
}

#[tokio::test]
async fn a_full_disk_refuses_writes_serves_reads_and_heals() {
    let (ctx, _clock) = manual_ctx();
    let disk = TestDisk::with_store();
    let mut driven = Driven::open(&ctx, &disk).unwrap();
    let store = driven.engine.keyspace("main");
    put(&mut driven, &*store, "first", 100).await.unwrap();
    disk.set_capacity(Some(disk.size()));
    let mut written = 1;
    let full_at = loop {
        match put(&mut driven, &*store, &format!("k{written:04}"), 20_000).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 10_000, "the disk fills up");
    };
    assert!(matches!(full_at, StoreError::NoSpace), "{full_at}");
    assert_eq!(store.range(all(None)).await.unwrap().count, written);
    assert_eq!(store.get(b"first", None).await.unwrap().unwrap().value.len(), 100);
    let revision = store.revision();
    let mut watch = store.watch(Bytes::new(), Bytes::from_static(&[0]), 2).await.unwrap();
    assert_eq!(watch.try_recv().unwrap().revision, revision);

    let attempts = disk.failed_writes();
    assert!(matches!(put(&mut driven, &*store, "refused", 20_000).await, Err(StoreError::NoSpace)));
    assert!(disk.failed_writes() > attempts, "it was tried");
    assert_eq!(store.revision(), revision);

    disk.set_capacity(None);
    assert_eq!(put(&mut driven, &*store, "again", 20_000).await.unwrap(), revision + 1);
    assert_eq!(watch.try_recv().unwrap().events.len(), 1, "the watch saw no refused write");
    let before = store.range(all(None)).await.unwrap();
    drop(store);
    drop(driven);
    let driven = Driven::open(&ctx, &disk).unwrap();
    let after = driven.engine.keyspace("main").range(all(None)).await.unwrap();
    assert_eq!((after.kvs, after.revision), (before.kvs, before.revision));
}

#[tokio::test]
async fn deleting_and_compacting_makes_room_within_the_file() {
    let (ctx, _clock) = manual_ctx();
    let disk = TestDisk::with_store();
    let mut driven = Driven::open(&ctx, &disk).unwrap();
    let store = driven.engine.keyspace("main");
    let mut sizes = Vec::new();
    for round in 0..12 {
        for key in 0..40 {
            let made = put(&mut driven, &*store, &format!("{key}"), 8_000).await.unwrap();
            let mut delete = store.delete(bytes(&format!("{key}")), made);
            assert!(delete.as_mut().now_or_never().is_none());
            driven.turn();
            done(delete.await.unwrap());
        }
        let mut compact = store.compact(store.revision());
        assert!(compact.as_mut().now_or_never().is_none());
        driven.turn();
        compact.await.unwrap();
        for _ in 0..10 {
            driven.checkpoint();
        }
        if round > 2 {
            sizes.push(disk.size());
        }
    }
    assert!(sizes.iter().all(|size| size == &sizes[0]), "space is used again while serving: {sizes:?}");
    assert_eq!(read(&*store, all(None)).await, [""; 0]);
}
