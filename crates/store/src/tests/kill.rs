//! `kill -9`: a child process writes from many tasks and prints what was acknowledged; after it is killed at a
//! random moment everything it printed is in the store. The child is this test binary, told so by a variable.

use super::suite::{bytes, done, manual_ctx};
use crate::embedded::{Engine, EngineOptions};
use crate::{Expect, Revision, Store};
use knarr_base::{Ctx, Rng, rng::SeededRng};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

const CHILD: &str = "KNARR_STORE_TEST_CHILD_DIR";
const WRITERS: usize = 8;
const ROUNDS: u64 = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_over_200_kills() {
    if let Ok(dir) = std::env::var(CHILD) {
        return child(Path::new(&dir)).await;
    }
    let (ctx, _clock) = manual_ctx();
    let dir = tempfile::tempdir().unwrap();
    let rng = SeededRng::new(11);
    let rng: &dyn Rng = &rng;
    let mut acknowledged: BTreeMap<usize, (u64, Revision)> = BTreeMap::new();
    let mut total = 0;
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "tests::kill::nothing_acknowledged_is_lost_over_200_kills", "--nocapture"])
            .args(["--test-threads", "1"])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // Killed as soon as this many answers have come out, with the next batch under way.
        let mut left = rng.below(300);
        while let Some(Ok(line)) = lines.next() {
            // A line that the kill cut short has no full stop.
            let Some(answer) = line.strip_prefix("ack ").and_then(|line| line.strip_suffix('.')) else {
                continue;
            };
            let mut numbers = answer.split(' ').map(|number| number.parse::<u64>().unwrap());
            let mut next = || numbers.next().unwrap();
            acknowledged.insert(next() as usize, (next(), next()));
            total += 1;
            if left == 0 {
                child.kill().unwrap();
            }
            left = left.saturating_sub(1);
        }
        child.wait().unwrap();
        // Some kills follow each other without an orderly close in between.
        if round % 4 == 3 || round == ROUNDS - 1 {
            let engine = Engine::open(&ctx, EngineOptions::new(dir.path()))
                .unwrap_or_else(|error| panic!("round {round}: {error}"));
            check(&*engine.keyspace("main"), &acknowledged, round).await;
        }
    }
    assert!(total > ROUNDS * 20, "the children wrote: {total}");
    assert_eq!(acknowledged.len(), WRITERS);
}

async fn check(store: &dyn Store, acknowledged: &BTreeMap<usize, (u64, Revision)>, round: u64) {
    for (writer, (count, revision)) in acknowledged {
        let kv = store.get(format!("/w/{writer}").as_bytes(), None).await.unwrap();
        let kv = kv.unwrap_or_else(|| panic!("round {round}: writer {writer} lost everything"));
        let found: u64 = value_count(&kv.value);
        assert!(found >= *count, "round {round}: writer {writer} is at {found}, {count} was acknowledged");
        if found == *count {
            assert_eq!(kv.mod_revision, *revision);
        }
    }
}

fn value_count(value: &[u8]) -> u64 {
    std::str::from_utf8(value).unwrap().split(' ').next().unwrap().parse().unwrap()
}

/// Counts upwards in one key for each writer, printing every acknowledged step; compacts as it goes.
async fn child(dir: &Path) {
    let engine = Engine::open(&Ctx::system(), EngineOptions::new(dir)).unwrap();
    let store = engine.keyspace("main");
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let store = store.clone();
        writers.spawn(async move {
            let key = bytes(&format!("/w/{writer}"));
            loop {
                let (expect, count) = match store.get(&key, None).await.unwrap() {
                    Some(kv) => (Expect::Unchanged(kv.mod_revision), value_count(&kv.value) + 1),
                    None => (Expect::Absent, 1),
                };
                let value = bytes(&format!("{count} {}", "x".repeat(1000)));
                let revision = done(store.put(key.clone(), expect, value, 0).await.unwrap());
                let line = format!("ack {writer} {count} {revision}.\n");
                std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
                if revision.is_multiple_of(100) {
                    store.compact(revision - 10).await.unwrap();
                }
            }
        });
    }
    writers.join_all().await;
}
