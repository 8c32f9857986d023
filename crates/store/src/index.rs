//! The multi-version index of one keyspace, in memory: what every key is now, what it was at each revision
//! since the last compaction, and which key each of those revisions changed. It is etcd's model
//! (<https://etcd.io/docs/v3.5/learning/data_model/>) without the disk: both backends keep one, and the
//! embedded one rebuilds it from its revision log.

use crate::history::{Cold, History, Packed, Version};
use crate::{KeyValue, LeaseId, Range, RangeResult, Revision, StoreError, WatchEvent};
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ops::Bound;

/// The revision of a keyspace that nothing was ever written to, as in etcd.
pub(crate) const FIRST_REVISION: Revision = 1;

/// One committed put or delete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    /// The revision it makes.
    pub revision: Revision,
    /// The revision that created the key; for a deletion 0.
    pub created: Revision,
    /// The key.
    pub key: Bytes,
    /// The value, `None` for a deletion.
    pub value: Option<Bytes>,
    /// The lease of a put.
    pub lease: LeaseId,
}

/// The key that a revision changed, and what the history of that change takes: its entry and the version that it
/// superseded, which is kept because it can still be read.
#[derive(Debug)]
struct Logged {
    key: Bytes,
    cost: u32,
}

/// The newest changes are left as they are: they are what watches that begin a little behind ask for.
const FRESH_REVISIONS: u64 = 512;

/// What a change's place in the log and the version before it take beside the value.
const ENTRY_BYTES: usize = 128;

type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// See the module's documentation. Revisions `compacted + 1 ..= revision` can be watched from, and
/// `compacted ..= revision` can be read at.
#[derive(Debug)]
pub(crate) struct Index {
    keys: BTreeMap<Bytes, History>,
    /// The key that revision `log_start + i` changed. Every revision changes exactly one key. Starts after
    /// `compacted` except while [`Index::forget`] is not done.
    log: VecDeque<Logged>,
    log_start: Revision,
    /// About how many bytes the log and what its changes supersede take.
    history_bytes: u64,
    /// Changes before this revision have been looked at for packing.
    packed_to: Revision,
    revision: Revision,
    compacted: Revision,
    live: usize,
    /// The live keys bound to each lease.
    leased: HashMap<LeaseId, HashSet<Bytes>>,
}

impl Default for Index {
    fn default() -> Self {
        Self::new(0)
    }
}

impl Index {
    /// An index without keys whose history was compacted at `compacted` (0: never).
    pub fn new(compacted: Revision) -> Self {
        let revision = compacted.max(FIRST_REVISION);
        Self {
            keys: BTreeMap::new(),
            log: VecDeque::new(),
            log_start: revision + 1,
            history_bytes: 0,
            packed_to: revision + 1,
            revision,
            compacted,
            live: 0,
            leased: HashMap::new(),
        }
    }

    /// The revision of the last change.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The revision of the last compaction, 0 before the first.
    pub fn compacted(&self) -> Revision {
        self.compacted
    }

    /// About how many bytes of memory history takes: what would be free after a compaction now.
    pub fn history_bytes(&self) -> u64 {
        self.history_bytes
    }

    /// The revision to compact at so that history takes no more than `floor` bytes; `None` when it does not anyway.
    pub fn compaction_for(&self, floor: u64) -> Option<Revision> {
        let mut left = self.history_bytes;
        let mut at = None;
        for (logged, revision) in self.log.iter().zip(self.log_start..) {
            if left <= floor {
                break;
            }
            left -= u64::from(logged.cost);
            at = Some(revision);
        }
        at.filter(|at| *at > self.compacted)
    }

    /// How many keys there are now.
    pub fn live(&self) -> usize {
        self.live
    }

    /// The live keys bound to `lease`, in order.
    pub fn keys_of_lease(&self, lease: LeaseId) -> Vec<Bytes> {
        let mut keys: Vec<Bytes> = self.leased.get(&lease).into_iter().flatten().cloned().collect();
        keys.sort_unstable();
        keys
    }

    /// The leases that live keys are bound to.
    pub fn leases_in_use(&self) -> impl Iterator<Item = LeaseId> {
        self.leased.keys().copied()
    }

    /// One key at a revision or now.
    pub fn get(&self, key: &[u8], at: Option<Revision>) -> Result<Option<KeyValue>, StoreError> {
        let at = self.readable(at)?;
        Ok(self.keys.get_key_value(key).and_then(|(key, history)| history.at(at)?.kv(key)))
    }

    /// What the key is now.
    pub fn current(&self, key: &[u8]) -> Option<KeyValue> {
        self.keys.get_key_value(key).and_then(|(key, history)| history.last.kv(key))
    }

    /// The keys of a range in order.
    pub fn range(&self, range: &Range) -> Result<RangeResult, StoreError> {
        let at = self.readable(range.at)?;
        let mut result = RangeResult { revision: self.revision, ..RangeResult::default() };
        let Some(bounds) = bounds(&range.start, &range.end) else { return Ok(result) };
        let limit = match (range.count_only, range.limit) {
            (true, _) => 0,
            (false, 0) => usize::MAX,
            (false, limit) => limit,
        };
        for (key, history) in self.keys.range::<[u8], _>(bounds) {
            let Some(version) = history.at(at).filter(|version| !version.is_deleted()) else { continue };
            result.count += 1;
            if result.kvs.len() < limit {
                result.kvs.extend(version.kv(key));
            }
        }
        Ok(result)
    }

    /// The changes of revisions `from` and later to keys of `start..end`, in order.
    pub fn events(&self, start: &[u8], end: &[u8], from: Revision) -> Result<Vec<WatchEvent>, StoreError> {
        if from <= self.compacted && self.compacted > 0 {
            return Err(StoreError::Compacted { compacted: self.compacted });
        }
        let from = from.max(self.log_start);
        let mut events = Vec::new();
        for revision in from..=self.revision {
            let key = &self.log[offset(revision, self.log_start)].key;
            if in_range(key, start, end) {
                let history = self.keys.get(key).expect("a key of the log has a history");
                events.push(event(key, history, revision));
            }
        }
        Ok(events)
    }

    /// Makes the next revision. Panics when `change.revision` is not the next one.
    pub fn apply(&mut self, change: Change) -> WatchEvent {
        assert_eq!(change.revision, self.revision + 1, "revisions are applied in order");
        self.revision = change.revision;
        let (key, superseded) = self.insert(change, true);
        let history = self.keys.get(&key).expect("the key was just changed");
        let event = event(&key, history, self.revision);
        let cost = u32::try_from(superseded + ENTRY_BYTES).unwrap_or(u32::MAX);
        self.history_bytes += u64::from(cost);
        self.log.push_back(Logged { key, cost });
        event
    }

    /// Takes back a record read from disk, in revision order. Records up to the compaction may have gaps
    /// between them; what they supersede is dead, and its revisions are added to `dead`.
    pub fn restore(&mut self, change: Change, dead: &mut Vec<Revision>) {
        if change.revision > self.compacted {
            self.apply(change);
            return;
        }
        let (revision, deleted) = (change.revision, change.value.is_none());
        if let Some(previous) = self.keys.get(&change.key) {
            dead.push(previous.last.modified);
        }
        let (key, _) = self.insert(change, false);
        if deleted {
            dead.push(revision);
            self.keys.remove(&key);
        }
    }

    /// Stores the change's version, keeping the one before when `keep`. Hands back the index's own copy of the key,
    /// and how long the value before was.
    fn insert(&mut self, change: Change, keep: bool) -> (Bytes, usize) {
        let Change { revision, created, key, value, lease } = change;
        let deleted = value.is_none();
        let version = Version::new(revision, created, lease, value);
        let (key, before) = match self.keys.get_key_value(&key) {
            Some((key, history)) => (key.clone(), (!history.last.is_deleted()).then_some(history.last.lease)),
            None => (key, None),
        };
        let mut superseded = 0;
        if let Some(history) = self.keys.get_mut(&key) {
            superseded = history.last.bytes();
            let last = std::mem::replace(&mut history.last, version);
            if keep {
                history.older.push(last);
            }
        } else {
            self.keys.insert(key.clone(), History { older: Vec::new(), last: version });
        }
        match (before.is_some(), deleted) {
            (false, false) => self.live += 1,
            (true, true) => self.live -= 1,
            _ => {}
        }
        if let Some(before) = before.filter(|before| *before != 0 && (deleted || *before != lease))
            && let Some(keys) = self.leased.get_mut(&before)
        {
            keys.remove(&key);
            if keys.is_empty() {
                self.leased.remove(&before);
            }
        }
        if lease != 0 && !deleted {
            self.leased.entry(lease).or_default().insert(key.clone());
        }
        (key, superseded)
    }

    /// Makes `revision` the oldest readable one. [`Index::forget`] then frees the memory.
    pub fn compact(&mut self, revision: Revision) -> Result<(), StoreError> {
        self.compactable(revision)?;
        self.compacted = revision;
        Ok(())
    }

    /// Forgets what cannot be read any more since the last compaction, looking at no more than `limit` changes, and
    /// adds the revisions whose records are dead to `dead`. True when there is nothing more to forget.
    pub fn forget(&mut self, limit: usize, dead: &mut Vec<Revision>) -> bool {
        // Only keys changed since the compaction before have anything to forget.
        for _ in 0..limit {
            if self.log_start > self.compacted {
                break;
            }
            let logged = self.log.pop_front().expect("the log reaches to the latest revision");
            self.log_start += 1;
            self.history_bytes -= u64::from(logged.cost);
            self.forget_key(&logged.key, dead);
        }
        let done = self.log_start > self.compacted;
        if done && self.log.capacity() > 4096 && self.log.len() < self.log.capacity() / 4 {
            self.log.shrink_to_fit();
        }
        done
    }

    /// What is to be packed of the next `limit` changes that have become old, and up to where that looks; `None`
    /// when there are none. [`Index::settle`] takes the result.
    pub fn cold(&self, limit: usize) -> Option<(Vec<Cold>, Revision)> {
        let old = self.revision.saturating_sub(FRESH_REVISIONS);
        let from = self.packed_to.max(self.log_start);
        let to = old.min(from + limit as u64);
        if from >= to {
            return None;
        }
        // The last of a key's changes speaks for those before it.
        let mut last = HashMap::new();
        for revision in from..to {
            last.insert(&self.log[offset(revision, self.log_start)].key, revision);
        }
        let cold = last.into_iter().filter_map(|(key, revision)| {
            let history = self.keys.get(key).expect("a key of the log has a history");
            history.cold(key, revision)
        });
        Some((cold.collect(), to))
    }

    /// Takes what [`Index::cold`] gave and what it packs to.
    pub fn settle(&mut self, cold: Vec<(Cold, Vec<Packed>)>, to: Revision) {
        self.packed_to = to;
        let Self { keys, log, log_start, history_bytes, .. } = self;
        for (cold, packed) in cold {
            let Some(history) = keys.get_mut(&cold.key) else { continue };
            history.settle(cold, packed, |revision, bytes| {
                // What was compacted meanwhile is accounted for already.
                let Some(at) = revision.checked_sub(*log_start) else { return };
                let logged = &mut log[usize::try_from(at).expect("the log fits in memory")];
                let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(logged.cost);
                logged.cost -= bytes;
                *history_bytes -= u64::from(bytes);
            });
        }
    }

    /// Whether [`Index::compact`] at `revision` is allowed.
    pub fn compactable(&self, revision: Revision) -> Result<(), StoreError> {
        if revision > self.revision {
            return Err(StoreError::Future { asked: revision, current: self.revision });
        }
        if revision <= self.compacted {
            return Err(StoreError::Compacted { compacted: self.compacted });
        }
        Ok(())
    }

    /// Drops the versions of `key` that nobody can read any more.
    fn forget_key(&mut self, key: &Bytes, dead: &mut Vec<Revision>) {
        let revision = self.compacted;
        let Some(history) = self.keys.get_mut(key) else { return };
        if history.last.modified <= revision {
            dead.extend(history.older.drain(..).map(|version| version.modified));
            history.older = Vec::new();
            if history.last.is_deleted() {
                dead.push(history.last.modified);
                self.keys.remove(key);
            }
            return;
        }
        let after = history.older.partition_point(|version| version.modified <= revision);
        let Some(mut keep_from) = after.checked_sub(1) else { return };
        if history.older[keep_from].is_deleted() {
            keep_from = after;
        }
        dead.extend(history.older.drain(..keep_from).map(|version| version.modified));
        history.older.shrink_to_fit();
    }

    /// The revision that `at` means, or why it cannot be read. 0 is the latest, as in etcd.
    fn readable(&self, at: Option<Revision>) -> Result<Revision, StoreError> {
        match at {
            None | Some(0) => Ok(self.revision),
            Some(asked) if asked > self.revision => Err(StoreError::Future { asked, current: self.revision }),
            Some(asked) if asked < self.compacted => Err(StoreError::Compacted { compacted: self.compacted }),
            Some(asked) => Ok(asked),
        }
    }
}

fn offset(revision: Revision, start: Revision) -> usize {
    usize::try_from(revision - start).expect("the log fits in memory")
}

/// The change that `revision` made to `key`.
fn event(key: &Bytes, history: &History, revision: Revision) -> WatchEvent {
    let version = history.at(revision).expect("a revision of the log is kept");
    let prev = history.at(revision - 1).and_then(|before| before.kv(key));
    let kv = KeyValue {
        key: key.clone(),
        value: version.value().unwrap_or_default(),
        create_revision: version.created,
        mod_revision: revision,
        lease: version.lease,
    };
    WatchEvent { kv, prev, deleted: version.is_deleted() }
}

/// Whether `key` is in `start..end`, by etcd's rules: an empty end is the one key `start`, and an end of one
/// zero byte is no end.
pub(crate) fn in_range(key: &[u8], start: &[u8], end: &[u8]) -> bool {
    match end {
        [] => key == start,
        [0] => key >= start,
        end => key >= start && key < end,
    }
}

/// The same as bounds of a map, `None` when nothing can be inside.
fn bounds<'a>(start: &'a [u8], end: &'a [u8]) -> Option<Bounds<'a>> {
    match end {
        [] => Some((Bound::Included(start), Bound::Included(start))),
        [0] => Some((Bound::Included(start), Bound::Unbounded)),
        end if start < end => Some((Bound::Included(start), Bound::Excluded(end))),
        _ => None,
    }
}
