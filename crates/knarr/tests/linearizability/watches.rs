//! Watches that go on where they were whenever their connection breaks, and what must be true of what they saw: every
//! change once, in the order of revisions, the same for all.

use crate::checker::Value as Id;
use crate::workload::{World, read};
use knarr_base::{Ctx, clock::timeout};
use knarr_client::{Error, ListOptions, ResourcePath, WatchEvent};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A watch that hears nothing for this long connects anew.
const SILENCE: Duration = Duration::from_secs(8);

/// A change: what happened, to which object, and its value.
type Change = (&'static str, String, Id);

/// What a watch saw from one list on: after `from`, in the order of arrival, complete up to the last or `until`.
#[derive(Clone, Debug, Default)]
pub struct Stretch {
    from: u64,
    until: u64,
    changes: Vec<(u64, Change)>,
}

/// A running watch.
pub struct Watching {
    server: usize,
    stretches: Arc<Mutex<Vec<Stretch>>>,
}

/// Starts a watch of a server.
pub fn spawn(ctx: &Ctx, world: Arc<World>, server: usize) -> Watching {
    let stretches = Arc::new(Mutex::new(Vec::new()));
    let this = Watching { server, stretches: stretches.clone() };
    let clock = ctx.clock.clone();
    ctx.tasks.spawn_until_stopped("watch", async move {
        loop {
            let _ = follow(&*clock, &world, server, &stretches).await;
            clock.sleep(Duration::from_millis(50)).await;
        }
    });
    this
}

fn configmaps() -> ResourcePath {
    ResourcePath { group: String::new(), version: "v1".into(), resource: "configmaps".into() }
}

/// One connection, from where the last one ended.
async fn follow(
    clock: &dyn knarr_base::Clock,
    world: &World,
    server: usize,
    stretches: &Mutex<Vec<Stretch>>,
) -> Result<(), Error> {
    let client = world.client(server);
    let with = |act: &mut dyn FnMut(&mut Vec<Stretch>)| act(&mut stretches.lock().expect("nobody panics"));
    let mut at = 0;
    with(&mut |all| at = all.last().map_or(0, |stretch| stretch.until));
    if at == 0 {
        let (path, first) = (configmaps(), ListOptions { limit: 1, ..ListOptions::default() });
        let list = client.list_raw(&path, "lin", &first, "application/json");
        let Some(list) = timeout(clock, SILENCE, list).await else { return Ok(()) };
        at = list?.resource_version.parse().unwrap_or(0);
        with(&mut |all| all.push(Stretch { from: at, until: at, changes: Vec::new() }));
    }
    let options = ListOptions { resource_version: at.to_string(), ..ListOptions::default() };
    let path = configmaps();
    let opening = client.watch(&path, "lin", &options, "application/json");
    let Some(watcher) = timeout(clock, SILENCE, opening).await else { return Ok(()) };
    let mut watcher = watcher?;
    while let Some(Some(event)) = timeout(clock, SILENCE, watcher.next()).await {
        let (kind, object) = match event? {
            WatchEvent::Added(object) => ("ADDED", object),
            WatchEvent::Modified(object) => ("MODIFIED", object),
            WatchEvent::Deleted(object) => ("DELETED", object),
            WatchEvent::Bookmark(object) => ("BOOKMARK", object),
            WatchEvent::Error(status) if status.code == 410 => {
                // What was in between is not known; a new list is a new beginning.
                with(&mut |all| all.push(Stretch::default()));
                return Ok(());
            }
            WatchEvent::Error(status) => {
                world.problem(format!("a watch: {status}"));
                return Ok(());
            }
        };
        let value: Value = serde_json::from_slice(&object).unwrap_or_default();
        let (name, revision, id) = read(&value);
        with(&mut |all| {
            let stretch = all.last_mut().expect("there is one");
            stretch.until = stretch.until.max(revision);
            if kind != "BOOKMARK" {
                stretch.changes.push((revision, (kind, name.clone(), id)));
            }
        });
    }
    Ok(())
}

impl Watching {
    /// Waits until it has seen `end`, and says what it saw.
    pub async fn finish(self, ctx: &Ctx, end: u64) -> Vec<Stretch> {
        for _ in 0..600 {
            {
                let stretches = self.stretches.lock().expect("nobody panics");
                if stretches.last().is_some_and(|stretch| stretch.until >= end) {
                    return stretches.clone();
                }
            }
            ctx.clock.sleep(Duration::from_millis(100)).await;
        }
        let last = self.stretches.lock().expect("nobody panics").last().map(|s| (s.from, s.until));
        panic!("a watch of server {} did not come to revision {end}: {last:?}", self.server);
    }
}

/// Compares what all watches saw with each other and with what was answered.
pub fn check(seen: &[Vec<Stretch>], acknowledged: &BTreeMap<u64, (String, Id)>, end: u64) {
    let mut all: BTreeMap<u64, Change> = BTreeMap::new();
    for stretch in seen.iter().flatten() {
        let mut last = stretch.from;
        for (revision, change) in &stretch.changes {
            assert!(*revision > last, "{change:?}: revision {revision} comes after {last}");
            last = *revision;
            let other = all.entry(*revision).or_insert_with(|| change.clone());
            assert_eq!(other, change, "two watches saw different things at revision {revision}");
        }
    }
    for stretch in seen.iter().flatten() {
        let saw: BTreeMap<u64, &Change> = stretch.changes.iter().map(|(at, change)| (*at, change)).collect();
        if stretch.until <= stretch.from {
            continue;
        }
        let range = stretch.from + 1..=stretch.until.min(end);
        for (revision, change) in all.range(range.clone()) {
            assert!(saw.contains_key(revision), "a watch missed {change:?} at {revision}");
        }
        for (revision, (name, id)) in acknowledged.range(range) {
            let Some((kind, seen_name, seen_id)) = saw.get(revision) else {
                panic!("a watch missed the acknowledged write of {id} to {name} at {revision}");
            };
            assert_eq!((seen_name, seen_id), (name, id), "{kind} at {revision}");
        }
        // An object's changes follow from each other.
        let mut exists: BTreeMap<&str, bool> = BTreeMap::new();
        for (revision, (kind, name, _)) in &saw {
            let before = exists.insert(name, *kind != "DELETED");
            let fits = match before {
                None => true,
                Some(before) => before == (*kind != "ADDED"),
            };
            assert!(fits, "{kind} of {name} at {revision}, and it was there: {before:?}");
        }
    }
    let changes = all.len();
    assert!(changes > 50, "the watches saw something: {changes}");
}
