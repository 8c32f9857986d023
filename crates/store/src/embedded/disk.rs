//! The revision log in a redb file: one row for every change that is still readable, keyed by keyspace and
//! revision, and small tables for what is not a change. Only the commit thread writes; nobody reads it
//! after the replay at open, so redb's cache is kept small.

use super::file::{Counted, IoCounters, OpenBackend, is_no_space};
use super::record;
use crate::Revision;
use crate::index::{FIRST_REVISION, Index};
use crate::plan::{Effects, Grant};
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
/// `format` -> [`FORMAT`].
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

/// What one keyspace adds to a commit.
pub(crate) struct Section<'a> {
    /// Its number.
    pub id: u32,
    /// Its name, when the file does not know it yet.
    pub new_name: Option<&'a str>,
    /// What to write.
    pub effects: &'a Effects,
}

/// The open database. See the module's documentation.
pub(crate) struct Disk {
    /// `None` between a failed write and the reopening.
    db: Option<Database>,
    open: OpenBackend,
    cache_bytes: usize,
    counters: Arc<IoCounters>,
    record: Vec<u8>,
}

impl Disk {
    /// Opens the file, checks all of it and reads back the keyspaces by name. An empty file becomes a new
    /// database only if `may_create`.
    pub fn open(
        open: OpenBackend,
        cache_bytes: usize,
        counters: Arc<IoCounters>,
        may_create: bool,
    ) -> Result<(Self, BTreeMap<String, Restored>), DiskError> {
        let mut disk = Self { db: None, open, cache_bytes, counters, record: Vec::new() };
        // redb asserts in places where it trusts a file; a damaged one must not take the program down.
        let restored = catch_unwind(AssertUnwindSafe(|| {
            let created = disk.connect(may_create, true)?;
            if created {
                disk.initialize()?;
            }
            disk.replay()
        }));
        match restored {
            Ok(restored) => Ok((disk, restored?)),
            Err(_) => Err(DiskError::Damaged("its structure is inconsistent".into())),
        }
    }

    /// Opens the database; true when it was empty.
    fn connect(&mut self, may_create: bool, check: bool) -> Result<bool, DiskError> {
        let backend =
            Counted::new((self.open)().map_err(io_error)?, self.counters.clone()).map_err(io_error)?;
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

    fn initialize(&self) -> Result<(), DiskError> {
        let transaction = self.db()?.begin_write()?;
        transaction.open_table(META)?.insert("format", FORMAT)?;
        transaction.open_table(LOG)?;
        transaction.open_table(KEYSPACES)?;
        transaction.open_table(COMPACTED)?;
        transaction.open_table(LEASES)?;
        transaction.commit()?;
        Ok(())
    }

    fn db(&self) -> Result<&Database, DiskError> {
        self.db.as_ref().ok_or(DiskError::NoSpace)
    }

    fn replay(&self) -> Result<BTreeMap<String, Restored>, DiskError> {
        let transaction = self.db()?.begin_read()?;
        match transaction.open_table(META)?.get("format")?.map(|format| format.value()) {
            Some(FORMAT) => {}
            Some(format) if format > FORMAT => return Err(DiskError::Newer(format)),
            format => return Err(DiskError::Damaged(format!("its format is {format:?}"))),
        }
        let compacted = transaction.open_table(COMPACTED)?;
        let leases = transaction.open_table(LEASES)?;
        let log = transaction.open_table(LOG)?;
        let mut restored = BTreeMap::new();
        let mut rows = 0;
        for row in transaction.open_table(KEYSPACES)?.iter()? {
            let (name, id) = row?;
            let id = id.value();
            let compacted = compacted.get(id)?.map_or(0, |revision| revision.value());
            let mut keyspace =
                Restored { id, index: Index::new(compacted), leases: Vec::new(), dead: Vec::new() };
            for row in log.range((id, 0)..=(id, u64::MAX))? {
                let (key, record) = row?;
                let revision = key.value().1;
                let next = keyspace.index.revision() + 1;
                if revision > compacted && revision != next || revision <= FIRST_REVISION {
                    return Err(DiskError::Damaged(format!(
                        "revision {next} of {} is missing",
                        name.value()
                    )));
                }
                let change = record::decode(revision, record.value()).map_err(DiskError::Damaged)?;
                keyspace.index.restore(change, &mut keyspace.dead);
                rows += 1;
            }
            for row in leases.range((id, 0)..=(id, u64::MAX))? {
                let (key, lease) = row?;
                let (ttl_seconds, expires_unix_ms) = lease.value();
                keyspace.leases.push(Grant { id: key.value().1, ttl_seconds, expires_unix_ms });
            }
            // Should a key be bound to a lease that is not there, it ends now rather than never.
            for id in keyspace.index.leases_in_use() {
                if keyspace.leases.iter().all(|grant| grant.id != id) {
                    keyspace.leases.push(Grant { id, ttl_seconds: 0, expires_unix_ms: 0 });
                }
            }
            restored.insert(name.value().to_owned(), keyspace);
        }
        if rows != log.len()? {
            return Err(DiskError::Damaged("it has records of an unknown keyspace".into()));
        }
        Ok(restored)
    }

    /// Writes the sections and deletes the rows of `dead` in one transaction, and syncs. On an error nothing of
    /// it is there, or it is undone by the [`Disk::reopen`] that must follow.
    pub fn write(&mut self, sections: &[Section<'_>], dead: &[(u32, Revision)]) -> Result<(), DiskError> {
        let mut record = std::mem::take(&mut self.record);
        let result = catch_unwind(AssertUnwindSafe(|| self.write_all(sections, dead, &mut record)));
        self.record = record;
        let result =
            result.unwrap_or_else(|_| Err(DiskError::Damaged("its structure is inconsistent".into())));
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

    fn write_all(
        &self,
        sections: &[Section<'_>],
        dead: &[(u32, Revision)],
        record: &mut Vec<u8>,
    ) -> Result<(), DiskError> {
        let transaction = self.db()?.begin_write()?;
        for section in sections {
            let (id, effects) = (section.id, section.effects);
            if let Some(name) = section.new_name {
                transaction.open_table(KEYSPACES)?.insert(name, id)?;
            }
            if !effects.granted.is_empty() || !effects.revoked.is_empty() {
                let mut leases = transaction.open_table(LEASES)?;
                for grant in &effects.granted {
                    leases.insert((id, grant.id), (grant.ttl_seconds, grant.expires_unix_ms))?;
                }
                for lease in &effects.revoked {
                    leases.remove((id, *lease))?;
                }
            }
            if let Some(revision) = effects.compact {
                transaction.open_table(COMPACTED)?.insert(id, revision)?;
            }
        }
        {
            let mut log = transaction.open_table(LOG)?;
            for (id, revision) in dead {
                log.remove((*id, *revision))?;
            }
            for section in sections {
                for change in &section.effects.changes {
                    record::encode(change, record);
                    log.insert((section.id, change.revision), record.as_slice())?;
                }
            }
        }
        transaction.commit()?;
        Ok(())
    }

    /// Whether the database is open; if not, [`Disk::reopen`] first.
    pub fn is_open(&self) -> bool {
        self.db.is_some()
    }

    /// Opens the database again after a failed write, and removes what that write may have left behind: rows
    /// after the last revision of each keyspace, as told by `latest`.
    pub fn reopen(&mut self, latest: &[(u32, Revision)]) -> Result<(), DiskError> {
        let result = catch_unwind(AssertUnwindSafe(|| {
            self.connect(false, false)?;
            self.roll_back(latest)
        }));
        let result =
            result.unwrap_or_else(|_| Err(DiskError::Damaged("its structure is inconsistent".into())));
        if result.is_err() {
            let db = self.db.take();
            let _ = catch_unwind(AssertUnwindSafe(|| drop(db)));
        }
        result
    }

    fn roll_back(&self, latest: &[(u32, Revision)]) -> Result<(), DiskError> {
        let mut extra = Vec::new();
        {
            let transaction = self.db()?.begin_read()?;
            let log = transaction.open_table(LOG)?;
            for (id, revision) in latest {
                for row in log.range((*id, revision + 1)..=(*id, u64::MAX))? {
                    extra.push(row?.0.value());
                }
            }
        }
        if extra.is_empty() {
            return Ok(());
        }
        let transaction = self.db()?.begin_write()?;
        {
            let mut log = transaction.open_table(LOG)?;
            for key in extra {
                log.remove(key)?;
            }
        }
        transaction.commit()?;
        Ok(())
    }
}

fn io_error(error: io::Error) -> DiskError {
    if is_no_space(&error) { DiskError::NoSpace } else { DiskError::Io(error) }
}
