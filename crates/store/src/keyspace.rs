//! One keyspace as both backends hold it: the index, the watches on it and its leases behind one lock. Reads
//! are answered from here and never touch the disk. A watch that registers sees either history or the
//! next commit, never a gap, because both happen under the lock; the revision that [`Keyspace::revision`]
//! tells moves on only after the changes up to it have been handed to every watch.

use crate::index::{Index, in_range};
use crate::lease::Leases;
use crate::plan::{Effects, Grant};
use crate::{KeyValue, Range, RangeResult, Revision, StoreError, WatchBatch, WatchStream};
use bytes::Bytes;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

/// How many changes a compaction looks at before it lets readers in: about a millisecond's worth.
const FORGET_AT_ONCE: usize = 2000;

/// How many changes are packed before a commit that has come meanwhile gets its turn.
const PACK_AT_ONCE: usize = 32;

/// See the module's documentation.
pub(crate) struct Keyspace {
    state: RwLock<State>,
    revision: AtomicU64,
    /// Wakes the task that ends leases when there is a new one.
    pub lease_granted: tokio::sync::Notify,
}

/// What the lock guards.
pub(crate) struct State {
    /// What the keys are and were.
    pub index: Index,
    /// The leases that have not ended.
    pub leases: Leases,
    watchers: Vec<Watcher>,
    /// Whether the store has closed.
    pub closed: bool,
}

struct Watcher {
    start: Bytes,
    end: Bytes,
    /// Changes before this revision are not asked for (a watch may start in the future).
    from: Revision,
    sender: UnboundedSender<WatchBatch>,
}

impl Keyspace {
    /// A keyspace over an index.
    pub fn new(index: Index) -> Self {
        Self {
            revision: AtomicU64::new(index.revision()),
            state: RwLock::new(State {
                index,
                leases: Leases::default(),
                watchers: Vec::new(),
                closed: false,
            }),
            lease_granted: tokio::sync::Notify::new(),
        }
    }

    /// The state for reading.
    pub fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().expect("no holder of the keyspace lock panics")
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().expect("no holder of the keyspace lock panics")
    }

    /// The latest committed revision.
    pub fn revision(&self) -> Revision {
        self.revision.load(Ordering::Acquire)
    }

    /// See [`crate::Store::get`].
    pub fn get(&self, key: &[u8], at: Option<Revision>) -> Result<Option<KeyValue>, StoreError> {
        self.read().index.get(key, at)
    }

    /// See [`crate::Store::range`].
    pub fn range(&self, range: &Range) -> Result<RangeResult, StoreError> {
        self.read().index.range(range)
    }

    /// See [`crate::Store::watch`].
    pub fn watch(&self, start: Bytes, end: Bytes, from: Revision) -> Result<WatchStream, StoreError> {
        let mut state = self.write();
        if state.closed {
            return Err(StoreError::Unavailable("the store is closed".into()));
        }
        let events = state.index.events(&start, &end, from)?;
        let revision = state.index.revision();
        let (sender, receiver) = unbounded_channel();
        if from <= revision {
            let _ = sender.send(WatchBatch { events, revision });
        }
        state.watchers.push(Watcher { start, end, from, sender });
        Ok(WatchStream::local(receiver))
    }

    /// Makes what was committed visible: to the index, then to the watches, then to [`Keyspace::revision`].
    /// `deadline_of` says when a granted lease ends. Returns the revisions whose records are dead.
    pub fn commit(&self, effects: Effects, deadline_of: impl Fn(&Grant) -> Instant) -> Vec<Revision> {
        let mut guard = self.write();
        let state = &mut *guard;
        for grant in effects.granted {
            if state.leases.insert(grant, deadline_of(&grant)) {
                self.lease_granted.notify_one();
            }
        }
        for lease in effects.revoked {
            state.leases.remove(lease);
        }
        if !effects.changes.is_empty() {
            let events: Vec<_> =
                effects.changes.into_iter().map(|change| state.index.apply(change)).collect();
            let revision = state.index.revision();
            state.watchers.retain(|watcher| {
                let events = events
                    .iter()
                    .filter(|event| {
                        event.kv.mod_revision >= watcher.from
                            && in_range(&event.kv.key, &watcher.start, &watcher.end)
                    })
                    .cloned()
                    .collect();
                watcher.sender.send(WatchBatch { events, revision }).is_ok()
            });
            self.revision.store(revision, Ordering::Release);
        }
        let mut dead = Vec::new();
        if let Some(revision) = effects.compact {
            state.index.compact(revision).expect("the plan checked the revision");
            drop(guard);
            // Readers get in between the slices.
            while !self.write().index.forget(FORGET_AT_ONCE, &mut dead) {}
            dead.sort_unstable();
        }
        dead
    }

    /// Makes old history smaller, some changes at a time, readers hardly noticing. False when there is nothing to do.
    pub fn pack(&self) -> bool {
        // Only one thread commits, compacts and packs; nothing else moves in between.
        let Some((cold, to)) = self.read().index.cold(PACK_AT_ONCE) else { return false };
        let packed = cold.into_iter().map(|cold| {
            let packed = cold.pack();
            (cold, packed)
        });
        let packed = packed.collect();
        self.write().index.settle(packed, to);
        true
    }

    /// Takes back a lease read from disk.
    pub fn restore_lease(&self, grant: Grant, deadline: Instant) {
        self.write().leases.insert(grant, deadline);
    }

    /// Ends every watch; later ones are refused.
    pub fn close(&self) {
        let mut state = self.write();
        state.closed = true;
        state.watchers.clear();
        // So that the task that ends leases notices and lets go.
        self.lease_granted.notify_one();
    }
}
