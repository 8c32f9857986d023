//! The revision log in a redb file: one row for every change that is still readable, keyed by keyspace and
//! revision, and small tables for what is not a change. Commits reach it by way of the journal, a generation
//! at a time; nobody reads it after the replay at open, so redb's cache is kept small.

use super::failpoints::{Failpoints, Step};
use super::file::{Counted, IoCounters, OpenBackend, is_no_space};
use super::journal::{self, JournalError, Recovered};
use super::pending::Pending;
use super::record;
use crate::Revision;
use crate::index::{FIRST_REVISION, Index};
use crate::plan::Grant;
use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition,
};
use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The format this program writes. Raised when an older program could not read the file.
pub(crate) const FORMAT: u64 = 1;

/// (keyspace, revision) -> record.
const LOG: TableDefinition<'_, (u32, u64), &[u8]> = TableDefinition::new("log");
/// Name of a keyspace -> its number.
const KEYSPACES: TableDefinition<'_, &str, u32> = TableDefinition::new("keyspaces");
/// Keyspace -> the revision it was compacted at.
const COMPACTED: TableDefinition<'_, u32, u64> = TableDefinition::new("compacted");
/// (keyspace, lease) -> (granted seconds, expiry in milliseconds since 1970).
const LEASES: TableDefinition<'_, (u32, u64), (u64, u64)> = TableDefinition::new("leases");
/// `format` -> [`FORMAT`]; `salt` -> where the journal's checksums start; `generation` -> the oldest generation
/// of the journal that is not in here.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// Why the file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiskError {
    /// Nothing was written for want of room.
    #[error("no space left on the device that holds the store")]
    NoSpace,
    /// A call to the operating system failed.
    #[error("input/output error: {0}")]
    Io(io::Error),
    /// The contents make no sense.
    #[error("{0}")]
    Damaged(String),
    /// The file was written by a newer program.
    #[error("the file has format {0}")]
    Newer(u64),
}

impl<E: Into<redb::Error>> From<E> for DiskError {
    fn from(error: E) -> Self {
        match error.into() {
            redb::Error::Io(error) if is_no_space(&error) => Self::NoSpace,
            redb::Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Self::Damaged("the file ends too early".into())
            }
            // What redb says of a file that is not one of its own.
            redb::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
                Self::Damaged("it is not a database of this store".into())
            }
            redb::Error::Io(error) => Self::Io(error),
            error => Self::Damaged(error.to_string()),
        }
    }
}

/// A keyspace as read back.
pub(crate) struct Restored {
    /// Its number.
    pub id: u32,
    /// Its contents.
    pub index: Index,
    /// Its leases.
    pub leases: Vec<Grant>,
    /// Revisions whose rows are superseded and were not deleted before the program ended.
    pub dead: Vec<Revision>,
}

/// Everything read back at opening.
pub(crate) struct Opened {
    /// The database.
    pub disk: Disk,
    /// The keyspaces by name.
    pub keyspaces: BTreeMap<String, Restored>,
    /// Where the journal's checksums start.
    pub salt: u32,
    /// The generation for the journal to write.
    pub generation: u64,
}

/// The two journal files.
pub(crate) type JournalFiles = [Box<dyn redb::StorageBackend>; 2];

/// The open database. See the module's documentation.
pub(crate) struct Disk {
    /// `None` between a failed write and the next, which opens it again.
    db: Option<Database>,
    open: OpenBackend,
    cache_bytes: usize,
    counters: Arc<IoCounters>,
    pub failpoints: Failpoints,
}

impl Disk {
    /// Makes a new database in an empty file.
    pub fn create(open: OpenBackend, counters: Arc<IoCounters>, salt: u32) -> Result<(), DiskError> {
        let failpoints = Failpoints::default();
        let mut disk = Self { db: None, open, cache_bytes: 1 << 20, counters, failpoints };
        disk.connect(true, false)?;
        let transaction = disk.db()?.begin_write()?;
        {
            let mut meta = transaction.open_table(META)?;
            meta.insert("format", FORMAT)?;
            meta.insert("salt", u64::from(salt))?;
            meta.insert("generation", 1)?;
        }
        transaction.open_table(LOG)?;
        transaction.open_table(KEYSPACES)?;
        transaction.open_table(COMPACTED)?;
        transaction.open_table(LEASES)?;
        transaction.commit()?;
        Ok(())
    }

    /// Opens the database, checks all of it, moves what a crash left in the journal into it and reads back
    /// the keyspaces.
    pub fn open(
        open: OpenBackend,
        files: &JournalFiles,
        cache_bytes: usize,
        counters: Arc<IoCounters>,
    ) -> Result<Opened, DiskError> {
        let failpoints = Failpoints::default();
        let mut disk = Self { db: None, open, cache_bytes, counters, failpoints };
        // redb asserts in places where it trusts a file; a damaged one must not take the program down.
        let opened = catch_unwind(AssertUnwindSafe(|| {
            disk.connect(false, true)?;
            let (salt, wanted) = disk.meta()?;
            let Recovered { payloads, next_generation } = journal::recover(files, salt, wanted)?;
            let mut pending = Pending::default();
            for payload in &payloads {
                pending.add_payload(payload).map_err(DiskError::Damaged)?;
            }
            let keyspaces = disk.replay(&pending)?;
            if !payloads.is_empty() {
                disk.checkpoint(&pending, next_generation)?;
            }
            Ok((salt, next_generation, keyspaces))
        }));
        let opened = opened.unwrap_or_else(|_| Err(inconsistent()));
        let (salt, generation, keyspaces) = opened?;
        Ok(Opened { disk, keyspaces, salt, generation })
    }

    /// Opens the database; true when it was empty.
    fn connect(&mut self, may_create: bool, check: bool) -> Result<bool, DiskError> {
        let backend =
            Counted::database((self.open)().map_err(io_error)?, self.counters.clone()).map_err(io_error)?;
        let empty = redb::StorageBackend::len(&backend).map_err(io_error)? == 0;
        if empty && !may_create {
            return Err(DiskError::Damaged("the file is empty".into()));
        }
        let repaired = Arc::new(AtomicBool::new(false));
        let mut builder = Database::builder();
        builder.set_cache_size(self.cache_bytes);
        let told = repaired.clone();
        builder.set_repair_callback(move |_| told.store(true, Ordering::Relaxed));
        let mut db = builder.create_with_backend(backend)?;
        // After a crash redb has just verified every page. After a clean end it trusts the file, so ask.
        if check && !empty && !repaired.load(Ordering::Relaxed) {
            match db.check_integrity() {
                Ok(true) => {}
                Ok(false) => tracing::warn!("the store's file needed repair"),
                Err(DatabaseError::Storage(error)) => return Err(error.into()),
                Err(error) => return Err(DiskError::Damaged(error.to_string())),
            }
        }
        self.db = Some(db);
        Ok(empty)
    }

    fn db(&self) -> Result<&Database, DiskError> {
        self.db.as_ref().ok_or_else(inconsistent)
    }

    /// Checks the format; the journal's salt and the oldest generation that is not here.
    fn meta(&self) -> Result<(u32, u64), DiskError> {
        let transaction = self.db()?.begin_read()?;
        let meta = transaction.open_table(META)?;
        let get = |name| meta.get(name).map(|value| value.map(|value| value.value()));
        match get("format")? {
            Some(FORMAT) => {}
            Some(format) if format > FORMAT => return Err(DiskError::Newer(format)),
            format => return Err(DiskError::Damaged(format!("its format is {format:?}"))),
        }
        let salt = get("salt")?.and_then(|salt| u32::try_from(salt).ok());
        salt.zip(get("generation")?).ok_or_else(|| DiskError::Damaged("it does not know its journal".into()))
    }

    /// Rebuilds the keyspaces from the rows and, after them, the journal's changes.
    fn replay(&self, pending: &Pending) -> Result<BTreeMap<String, Restored>, DiskError> {
        let transaction = self.db()?.begin_read()?;
        let compacted = transaction.open_table(COMPACTED)?;
        let leases = transaction.open_table(LEASES)?;
        let log = transaction.open_table(LOG)?;
        let mut names: BTreeMap<u32, String> = pending.names.clone();
        for row in transaction.open_table(KEYSPACES)?.iter()? {
            let (name, id) = row?;
            names.insert(id.value(), name.value().to_owned());
        }
        let mut restored = BTreeMap::new();
        let (mut rows, mut journaled) = (0, 0);
        for (id, name) in names {
            let all = (id, 0)..=(id, u64::MAX);
            let on_disk = compacted.get(id)?.map_or(0, |revision| revision.value());
            let compacted = on_disk.max(pending.compacted.get(&id).copied().unwrap_or(0));
            let mut keyspace =
                Restored { id, index: Index::new(compacted), leases: Vec::new(), dead: Vec::new() };
            for row in log.range(all.clone())? {
                let (key, record) = row?;
                let revision = key.value().1;
                keyspace.expect(revision, &name)?;
                let change = record::decode(revision, record.value()).map_err(DiskError::Damaged)?;
                keyspace.index.restore(change, &mut keyspace.dead);
                rows += 1;
            }
            for ((_, revision), change) in pending.changes.range(all.clone()) {
                keyspace.expect(*revision, &name)?;
                keyspace.index.restore(change.clone(), &mut keyspace.dead);
                journaled += 1;
            }
            let mut granted = BTreeMap::new();
            for row in leases.range(all.clone())? {
                let (key, lease) = row?;
                let (ttl_seconds, expires_unix_ms) = lease.value();
                granted.insert(key.value().1, Grant { id: key.value().1, ttl_seconds, expires_unix_ms });
            }
            for ((_, lease), grant) in pending.leases.range(all) {
                match grant {
                    Some(grant) => drop(granted.insert(*lease, *grant)),
                    None => drop(granted.remove(lease)),
                }
            }
            // Should a key be bound to a lease that is not there, it ends now rather than never.
            for id in keyspace.index.leases_in_use() {
                granted.entry(id).or_insert(Grant { id, ttl_seconds: 0, expires_unix_ms: 0 });
            }
            keyspace.leases = granted.into_values().collect();
            restored.insert(name, keyspace);
        }
        if rows != log.len()? || journaled != pending.changes.len() {
            return Err(DiskError::Damaged("it has records of an unknown keyspace".into()));
        }
        Ok(restored)
    }

    /// Takes in what is pending of the journal's generations before `next_generation`, and syncs.
    pub fn checkpoint(&mut self, pending: &Pending, next_generation: u64) -> Result<(), DiskError> {
        self.failpoints.hit(Step::Checkpoint).map_err(io_error)?;
        self.write(|db| {
            let transaction = db.begin_write()?;
            {
                let mut log = transaction.open_table(LOG)?;
                let mut record = Vec::new();
                for (key, change) in &pending.changes {
                    record::encode(change, &mut record);
                    log.insert(key, record.as_slice())?;
                }
                let mut keyspaces = transaction.open_table(KEYSPACES)?;
                for (id, name) in &pending.names {
                    keyspaces.insert(name.as_str(), id)?;
                }
                let mut leases = transaction.open_table(LEASES)?;
                for (key, grant) in &pending.leases {
                    match grant {
                        Some(grant) => drop(leases.insert(key, (grant.ttl_seconds, grant.expires_unix_ms))?),
                        None => drop(leases.remove(key)?),
                    }
                }
                let mut compacted = transaction.open_table(COMPACTED)?;
                for (id, revision) in &pending.compacted {
                    compacted.insert(id, revision)?;
                }
                transaction.open_table(META)?.insert("generation", next_generation)?;
            }
            transaction.commit()?;
            Ok(())
        })?;
        self.failpoints.hit(Step::Checkpointed).map_err(io_error)
    }

    /// Deletes rows that nobody can read any more, and syncs.
    pub fn sweep(&mut self, dead: &[(u32, Revision)]) -> Result<(), DiskError> {
        self.failpoints.hit(Step::Sweep).map_err(io_error)?;
        self.write(|db| {
            let transaction = db.begin_write()?;
            {
                let mut log = transaction.open_table(LOG)?;
                for key in dead {
                    log.remove(key)?;
                }
            }
            transaction.commit()?;
            Ok(())
        })?;
        self.failpoints.hit(Step::Swept).map_err(io_error)
    }

    /// Runs a write, opening the database again first if the one before failed.
    fn write(&mut self, write: impl FnOnce(&Database) -> Result<(), DiskError>) -> Result<(), DiskError> {
        let result = catch_unwind(AssertUnwindSafe(|| {
            if self.db.is_none() {
                self.connect(false, false)?;
            }
            write(self.db()?)
        }));
        let result = result.unwrap_or_else(|_| Err(inconsistent()));
        if result.is_err() {
            // redb refuses everything after a failed write, and its memory may not match the file.
            let db = self.db.take();
            let _ = catch_unwind(AssertUnwindSafe(|| drop(db)));
        }
        if self.counters.sync_failed.load(Ordering::SeqCst) {
            return Err(DiskError::Io(io::Error::other("the file could not be synced")));
        }
        result
    }
}

impl Restored {
    /// Refuses a gap in the revisions that must all be there.
    fn expect(&self, revision: Revision, name: &str) -> Result<(), DiskError> {
        let next = self.index.revision() + 1;
        if revision > self.index.compacted() && revision != next || revision <= FIRST_REVISION {
            return Err(DiskError::Damaged(format!("revision {next} of {name} is missing")));
        }
        Ok(())
    }
}

impl From<JournalError> for DiskError {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::Io(error) => io_error(error),
            JournalError::Damaged(what) => Self::Damaged(format!("its journal: {what}")),
        }
    }
}

fn inconsistent() -> DiskError {
    DiskError::Damaged("its structure is inconsistent".into())
}

/// An error of a call outside redb.
pub(crate) fn io_error(error: io::Error) -> DiskError {
    if is_no_space(&error) { DiskError::NoSpace } else { DiskError::Io(error) }
}
