//! What opening refuses: a second program, a newer format, a damaged or missing database. It never starts
//! empty where a store has been.

use super::suite::{all, manual_ctx, put};
use crate::embedded::{Engine, EngineOptions, OpenError};
use crate::{Expect, KeyValue};
use knarr_base::{Ctx, Rng, rng::SeededRng};
use std::fs;
use std::path::Path;

fn open(ctx: &Ctx, dir: &Path) -> Result<Engine, OpenError> {
    Engine::open(ctx, EngineOptions::new(dir))
}

fn refusal(ctx: &Ctx, dir: &Path) -> OpenError {
    match open(ctx, dir) {
        Ok(_) => panic!("opened"),
        Err(error) => error,
    }
}

async fn fill(ctx: &Ctx, dir: &Path, keys: usize) -> Vec<KeyValue> {
    let engine = open(ctx, dir).unwrap();
    let store = engine.keyspace("main");
    for key in 0..keys {
        put(&*store, &format!("/registry/pods/default/{key}"), Expect::Absent, &"x".repeat(900)).await;
    }
    store.range(all(None)).await.unwrap().kvs
}

#[tokio::test]
async fn a_second_opener_is_told_who_is_there() {
    let (ctx, _clock) = manual_ctx();
    let dir = tempfile::tempdir().unwrap();
    let first = open(&ctx, dir.path()).unwrap();
    let error = refusal(&ctx, dir.path());
    assert!(matches!(error, OpenError::InUse { .. }));
    let text = error.to_string();
    assert!(text.contains(dir.path().to_str().unwrap()) && text.contains("another knarr"), "{text}");
    drop(first);
    open(&ctx, dir.path()).unwrap();
}

#[tokio::test]
async fn a_newer_format_is_refused_and_left_alone() {
    let (ctx, _clock) = manual_ctx();
    let dir = tempfile::tempdir().unwrap();
    fill(&ctx, dir.path(), 3).await;
    let marker = dir.path().join("store.meta");
    fs::write(&marker, "knarr store\nformat 99\nsomething new\n").unwrap();
    let error = refusal(&ctx, dir.path());
    assert!(matches!(error, OpenError::NewerFormat { found: 99, .. }), "{error}");
    assert!(error.to_string().contains("99"));
    assert_eq!(fs::read_to_string(&marker).unwrap(), "knarr store\nformat 99\nsomething new\n");
}

#[tokio::test]
async fn a_store_whose_database_is_gone_does_not_start_empty() {
    let (ctx, _clock) = manual_ctx();
    let dir = tempfile::tempdir().unwrap();
    fill(&ctx, dir.path(), 3).await;
    let database = dir.path().join("store.redb");
    let contents = fs::read(&database).unwrap();
    fs::remove_file(&database).unwrap();
    for _ in 0..2 {
        let error = refusal(&ctx, dir.path());
        assert!(matches!(error, OpenError::Missing { .. }), "{error}");
        assert!(error.to_string().contains(database.to_str().unwrap()), "{error}");
        assert!(!database.exists());
    }
    for damaged in [&b""[..], b"not a database at all", &[0; 65536]] {
        fs::write(&database, damaged).unwrap();
        let error = refusal(&ctx, dir.path());
        assert!(matches!(error, OpenError::Corrupt { .. }), "{error}");
        assert!(error.to_string().contains("To restore"), "{error}");
        assert_eq!(fs::read(&database).unwrap(), damaged, "nothing was changed");
    }
    fs::write(&database, contents).unwrap();
    let journal = dir.path().join("store.journal.1");
    fs::rename(&journal, dir.path().join("elsewhere")).unwrap();
    let error = refusal(&ctx, dir.path());
    assert!(matches!(&error, OpenError::Missing { path, .. } if *path == journal), "{error}");
    fs::rename(dir.path().join("elsewhere"), &journal).unwrap();
    assert_eq!(open(&ctx, dir.path()).unwrap().keyspace("main").revision(), 4);
}

#[tokio::test]
async fn a_first_start_that_was_cut_short_starts_anew() {
    let (ctx, _clock) = manual_ctx();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("store.redb.new"), b"half of a databa").unwrap();
    assert_eq!(open(&ctx, dir.path()).unwrap().keyspace("main").revision(), 1);
    // Cut between the database and the marker.
    fill(&ctx, dir.path(), 2).await;
    fs::remove_file(dir.path().join("store.meta")).unwrap();
    assert_eq!(open(&ctx, dir.path()).unwrap().keyspace("main").revision(), 3);
}

#[tokio::test]
async fn an_older_copy_of_the_database_is_noticed() {
    let (ctx, _clock) = manual_ctx();
    let dir = tempfile::tempdir().unwrap();
    fill(&ctx, dir.path(), 3).await;
    let database = dir.path().join("store.redb");
    let old = fs::read(&database).unwrap();
    for life in 0..3 {
        let engine = open(&ctx, dir.path()).unwrap();
        put(&*engine.keyspace("main"), &format!("later {life}"), Expect::Absent, "1").await;
        drop(engine);
    }
    let newest = fs::read(&database).unwrap();
    fs::write(&database, &old).unwrap();
    let error = refusal(&ctx, dir.path());
    assert!(matches!(&error, OpenError::Corrupt { detail, .. } if detail.contains("journal")), "{error}");
    // A journal without the missing writes does not hide it.
    for journal in ["store.journal.0", "store.journal.1"] {
        fs::write(dir.path().join(journal), b"").unwrap();
    }
    let error = refusal(&ctx, dir.path());
    assert!(matches!(&error, OpenError::Corrupt { detail, .. } if detail.contains("revisions")), "{error}");
    fs::write(&database, newest).unwrap();
    assert_eq!(open(&ctx, dir.path()).unwrap().keyspace("main").revision(), 7);
}

/// The same for the journal that a crash leaves behind: only its very last frame may be cut off.
#[tokio::test]
async fn a_damaged_journal_is_refused_or_whole_but_for_its_last_commit() {
    let (ctx, _clock) = manual_ctx();
    let (dir, crashed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let engine = open(&ctx, dir.path()).unwrap();
    let store = engine.keyspace("main");
    for key in 0..60 {
        put(&*store, &format!("/registry/pods/default/{key}"), Expect::Absent, &"x".repeat(900)).await;
    }
    let kvs = store.range(all(None)).await.unwrap().kvs;
    // Copied while open and at rest, the files are what a crash would leave.
    let names = ["store.redb", "store.meta", "store.journal.0", "store.journal.1"];
    let files = names.map(|name| fs::read(dir.path().join(name)).unwrap());
    let rng = SeededRng::new(6);
    let rng: &dyn Rng = &rng;
    let (mut refused, mut opened) = (0, 0);
    for round in 0..120 {
        for (name, content) in names.iter().zip(&files) {
            fs::write(crashed.path().join(name), content).unwrap();
        }
        let journal = crashed.path().join("store.journal.1");
        let mut damaged = files[3].clone();
        let at = rng.below(62_000) as usize;
        match round % 3 {
            0 => damaged.truncate(at),
            1 => damaged[at] ^= 1 << rng.below(8),
            _ => damaged[at..at + 600].fill(0),
        }
        fs::write(&journal, &damaged).unwrap();
        match open(&ctx, crashed.path()) {
            Ok(engine) => {
                opened += 1;
                let now = engine.keyspace("main").range(all(None)).await.unwrap().kvs;
                // Nothing tells a journal that lost its end from one whose last commits never were.
                let least = if round % 3 == 0 { 0 } else { kvs.len() - 1 };
                assert!(now.len() >= least, "round {round}: {} keys after damage at {at}", now.len());
                assert!(now.iter().all(|kv| kvs.contains(kv)));
            }
            Err(OpenError::Corrupt { .. }) => refused += 1,
            Err(error) => panic!("round {round}: damage at {at} is called {error}"),
        }
    }
    assert!(refused > 30 && opened > 30, "{refused} refused, {opened} opened");
}

/// Truncates at, or overwrites a few bytes of, random places of a database. It either opens with everything
/// in it or is refused; nothing is ever missing.
#[tokio::test]
async fn a_damaged_database_is_refused_or_whole() {
    let (ctx, _clock) = manual_ctx();
    let dir = tempfile::tempdir().unwrap();
    let kvs = fill(&ctx, dir.path(), 150).await;
    let database = dir.path().join("store.redb");
    let marker = dir.path().join("store.meta");
    let (whole, closed) = (fs::read(&database).unwrap(), fs::read(&marker).unwrap());
    let rng = SeededRng::new(5);
    let rng: &dyn Rng = &rng;
    let (mut refused, mut opened) = (0, 0);
    for round in 0..150 {
        let mut damaged = whole.clone();
        let at = rng.below(whole.len() as u64) as usize;
        // Every third damage is in the header, where it hurts most.
        let at = if round % 3 == 0 { at % 512 } else { at };
        let truncate = round % 5 == 0;
        if truncate {
            damaged.truncate(at);
        } else {
            for byte in damaged.iter_mut().skip(at).take(1 + rng.below(16) as usize) {
                *byte ^= 1 + rng.below(255) as u8;
            }
        }
        fs::write(&database, &damaged).unwrap();
        fs::write(&marker, &closed).unwrap();
        match open(&ctx, dir.path()) {
            Ok(engine) => {
                opened += 1;
                let now = engine.keyspace("main").range(all(None)).await.unwrap().kvs;
                assert_eq!(now, kvs, "round {round}: opened after damage at {at}, truncated: {truncate}");
            }
            Err(OpenError::Corrupt { path, .. }) => {
                refused += 1;
                assert_eq!(path, database);
            }
            Err(error) => panic!("round {round}: damage at {at} (truncated: {truncate}) is called {error}"),
        }
    }
    assert!(refused > 30 && opened > 0, "{refused} refused, {opened} opened");
}
