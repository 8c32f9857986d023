//! CONTRACT. The revisioned key-value store under the API server: etcd's model (one revision per committed
//! transaction, multi-version reads, watches from a revision, compaction, leases) as an object-safe,
//! byte-level trait. Backends: [`memory`] for tests, [`embedded`] for one machine, [`etcd`] for several. Only the
//! API server opens a store.

mod compaction;
pub mod embedded;
pub mod etcd;
mod history;
mod index;
mod keyspace;
mod lease;
pub mod memory;
mod plan;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod watch;

pub use compaction::{Compaction, compact_periodically};
pub use watch::{ProgressRequests, WatchStream};

use bytes::Bytes;
use futures_util::future::{BoxFuture, ready};

/// The number of a committed change, shared by all keys of a keyspace. Starts at 1 in an empty store
/// and grows by one with every committed put or delete.
pub type Revision = u64;

/// A lease: keys bound to it are deleted when it expires. 0 is no lease.
pub type LeaseId = u64;

/// One key at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key, for example `/registry/pods/default/web`.
    pub key: Bytes,
    /// The value as it was put.
    pub value: Bytes,
    /// The revision that created the key.
    pub create_revision: Revision,
    /// The revision that last changed it.
    pub mod_revision: Revision,
    /// The lease it is bound to, or 0.
    pub lease: LeaseId,
}

/// What a range read asks for: keys in `start..end`.
#[derive(Clone, Debug, Default)]
pub struct Range {
    /// First key, inclusive.
    pub start: Bytes,
    /// End, exclusive. [`prefix_end`] makes one from a prefix. As in etcd, an empty end asks for the one key
    /// `start`, and an end of one zero byte for everything from `start` on.
    pub end: Bytes,
    /// The revision to read at; `None` is the latest.
    pub at: Option<Revision>,
    /// At most this many keys; 0 is no limit.
    pub limit: usize,
    /// Only count.
    pub count_only: bool,
}

/// The answer to a range read.
#[derive(Clone, Debug, Default)]
pub struct RangeResult {
    /// The keys in order.
    pub kvs: Vec<KeyValue>,
    /// How many keys the whole range has at that revision, whatever the limit.
    pub count: usize,
    /// The store's revision when it answered (not the revision that was asked for).
    pub revision: Revision,
}

/// What a conditional write expects of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The key does not exist.
    Absent,
    /// The key was last changed at this revision.
    Unchanged(Revision),
}

/// The answer to a conditional write.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Committed and durable, at this revision.
    Done(Revision),
    /// The expectation did not hold: this is what the key is now.
    Conflict(Option<KeyValue>),
}

/// One change as a watch reports it.
#[derive(Clone, Debug)]
pub struct WatchEvent {
    /// The key and its new value. For a deletion the value is empty and `mod_revision` is that of the deletion.
    pub kv: KeyValue,
    /// What the key was before, `None` when the event creates it.
    pub prev: Option<KeyValue>,
    /// Whether this is a deletion.
    pub deleted: bool,
}

/// What a watch delivers: the changes of one or more revisions, in order, or only progress.
#[derive(Clone, Debug)]
pub struct WatchBatch {
    /// Changes in revision order; empty when the batch only reports progress.
    pub events: Vec<WatchEvent>,
    /// Every change up to and including this revision has been delivered.
    pub revision: Revision,
}

/// How far a reader of watches can tell that it has seen everything, without reading the store itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// [`Store::revision`] is the latest of all, and every commit is told to every watch.
    Told,
    /// The latest revision has to be asked for ([`Store::latest`]), and a watch tells how far it has come when it is
    /// asked to ([`WatchStream::request_progress`]).
    OnRequest,
    /// The same, but a watch's word on its progress is not to be trusted: only a read of the store is fresh.
    ByReading,
}

/// What `knarr status` and `/metrics` show of a store.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Current revision.
    pub revision: Revision,
    /// The revision up to which history was compacted away.
    pub compacted: Revision,
    /// Live keys.
    pub keys: usize,
    /// About how many bytes of memory the history that is kept takes; 0 where it is kept elsewhere.
    pub history_bytes: u64,
    /// Size of the database file in bytes; 0 in memory.
    pub size_bytes: u64,
    /// Commits (batches) since the store was opened.
    pub commits: u64,
    /// Syncs of the database file since the store was opened; 0 in memory.
    pub syncs: u64,
    /// Bytes written to the database file since the store was opened; 0 in memory.
    pub written_bytes: u64,
}

/// Why a store call failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The revision asked for was compacted away.
    #[error("required revision has been compacted (compacted at {compacted})")]
    Compacted {
        /// The oldest revision still readable.
        compacted: Revision,
    },
    /// The revision asked for is in the future.
    #[error("required revision {asked} is a future revision (current {current})")]
    Future {
        /// What was asked for.
        asked: Revision,
        /// The latest revision.
        current: Revision,
    },
    /// The disk is full; nothing was written and reads go on.
    #[error("no space left on the device that holds the store")]
    NoSpace,
    /// The database file is damaged.
    #[error("the store's file {path} is damaged: {detail}")]
    Corrupt {
        /// Path of the file.
        path: String,
        /// What was found.
        detail: String,
    },
    /// The store is closed or its backend is out of reach.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// The lease does not exist.
    #[error("requested lease not found")]
    NoLease,
    /// The backend refuses for a reason of its own.
    #[error("{0}")]
    Backend(String),
}

/// A revisioned key-value store. All methods may be called concurrently.
pub trait Store: Send + Sync + 'static {
    /// One key, at a revision or the latest.
    fn get<'a>(
        &'a self,
        key: &'a [u8],
        at: Option<Revision>,
    ) -> BoxFuture<'a, Result<Option<KeyValue>, StoreError>>;

    /// Keys of a range in order.
    fn range(&self, range: Range) -> BoxFuture<'_, Result<RangeResult, StoreError>>;

    /// Writes `value` if `expect` holds. Resolves once the write is durable and has been handed to the watches.
    fn put(
        &self,
        key: Bytes,
        expect: Expect,
        value: Bytes,
        lease: LeaseId,
    ) -> BoxFuture<'_, Result<Outcome, StoreError>>;

    /// Deletes the key if it was last changed at `expect`. Resolves as [`Store::put`] does.
    fn delete(&self, key: Bytes, expect: Revision) -> BoxFuture<'_, Result<Outcome, StoreError>>;

    /// Changes of `start..end` from revision `from` (inclusive) on; `from` = current + 1 for new ones only.
    /// Where the store is [`Freshness::Told`], every commit delivers a batch to every watch of the keyspace in commit
    /// order, empty (progress) when none of its keys are in range, so that a reader learns how far it has seen. The
    /// changes of one revision are never spread over two batches.
    fn watch(
        &self,
        start: Bytes,
        end: Bytes,
        from: Revision,
    ) -> BoxFuture<'_, Result<WatchStream, StoreError>>;

    /// The latest revision that is known here, without waiting. Others may have written since unless the store is
    /// [`Freshness::Told`].
    fn revision(&self) -> Revision;

    /// The latest revision of all, at a moment between the call and its answer.
    fn latest(&self) -> BoxFuture<'_, Result<Revision, StoreError>> {
        Box::pin(ready(Ok(self.revision())))
    }

    /// What a reader of watches may rely on; may change as members of a cluster are replaced.
    fn freshness(&self) -> Freshness {
        Freshness::Told
    }

    /// Forgets history up to `revision` (keeps what is live at it).
    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), StoreError>>;

    /// One turn of periodic compaction: forgets what was history at the turn before. Where several programs share the
    /// store, they share the turns.
    fn compact_in_turn<'a>(&'a self, state: &'a mut Compaction) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let before = std::mem::replace(&mut state.revision, self.revision());
            match before {
                0 => Ok(()),
                before => match self.compact(before).await {
                    Err(StoreError::Compacted { .. }) => Ok(()),
                    result => result,
                },
            }
        })
    }

    /// A lease that expires `ttl_seconds` after now (or after its last keep-alive).
    fn grant_lease(&self, ttl_seconds: u64) -> BoxFuture<'_, Result<LeaseId, StoreError>>;

    /// Sizes and counters.
    fn stats(&self) -> Stats;
}

/// The end of the range of all keys that start with `prefix` (etcd's rule: the last byte below 0xff plus one).
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end.into();
        }
    }
    Bytes::from_static(&[0])
}
