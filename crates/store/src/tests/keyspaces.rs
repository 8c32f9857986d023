//! Several keyspaces in one file: each has its own keys, revisions, watches and history.

use super::suite::{Fixture, all, manual_ctx, put, read};
use crate::Expect;
use crate::embedded::{Engine, EngineOptions};
use bytes::Bytes;

async fn make() -> Fixture {
    let (ctx, clock) = manual_ctx();
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(&ctx, EngineOptions::new(dir.path())).unwrap();
    // A neighbour with writes of its own, which must show nowhere in the suite.
    let neighbour = engine.keyspace("neighbour");
    put(&*neighbour, "a", Expect::Absent, "neighbour").await;
    let store = engine.keyspace("main");
    Fixture::local(store, clock, (engine, dir))
}

mod embedded {
    use super::make;
    use crate::tests::suite::suite;
    suite!(make);
}

#[tokio::test]
async fn two_keyspaces_do_not_touch_each_other() {
    let (ctx, _clock) = manual_ctx();
    let dir = tempfile::tempdir().unwrap();
    let open = || Engine::open(&ctx, EngineOptions::new(dir.path())).unwrap();
    let engine = open();
    let (red, blue) = (engine.keyspace("red"), engine.keyspace("blue"));
    let mut watch = blue.watch(Bytes::new(), Bytes::from_static(&[0]), 2).await.unwrap();
    let mut revision = put(&*red, "k", Expect::Absent, "red").await;
    for n in 0..5 {
        revision = put(&*red, "k", Expect::Unchanged(revision), &format!("red{n}")).await;
    }
    assert!(watch.try_recv().is_err());
    assert_eq!(blue.revision(), 1);
    put(&*blue, "k", Expect::Absent, "blue").await;
    assert_eq!(watch.try_recv().unwrap().revision, 2);
    red.compact(revision).await.unwrap();
    assert_eq!((red.stats().compacted, blue.stats().compacted), (revision, 0));
    assert_eq!(engine.keyspace("blue").revision(), 2, "a second handle is the same keyspace");
    assert_eq!(read(&*engine.keyspace("green"), all(None)).await, [""; 0]);
    drop((engine, red, blue, watch));

    let engine = open();
    let (red, blue) = (engine.keyspace("red"), engine.keyspace("blue"));
    assert_eq!((red.revision(), blue.revision()), (revision, 2));
    assert_eq!(read(&*red, all(None)).await, ["k=red4"]);
    assert_eq!(read(&*blue, all(None)).await, ["k=blue"]);
}
