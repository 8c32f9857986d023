//! The store's files: positioned reads and writes, counted, with a note of any failed sync. redb and the journal
//! are given redb's trait, so that tests put a disk of their own underneath.

use redb::StorageBackend;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Opens the storage under the database; called again when the database is reopened after a full disk.
pub(crate) type OpenBackend = Arc<dyn Fn() -> io::Result<Box<dyn StorageBackend>> + Send + Sync>;

/// What has happened to the file since the store was opened.
#[derive(Debug, Default)]
pub(crate) struct IoCounters {
    /// Length of the database file.
    pub len: AtomicU64,
    /// Length of the journal files.
    pub journal_len: AtomicU64,
    /// Successful syncs.
    pub syncs: AtomicU64,
    /// Bytes written.
    pub written_bytes: AtomicU64,
    /// Whether the journal may end with a frame that was refused, and that a restart would find all the same.
    pub unsure: AtomicBool,
    /// Whether a sync ever failed. The kernel may then have dropped what it could not write while
    /// reads still show it, so nothing written since the last good sync may be trusted again.
    pub sync_failed: AtomicBool,
}

/// The database file on a file system.
#[derive(Debug)]
pub(crate) struct PlainFile(pub File);

impl StorageBackend for PlainFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }
}

/// Counts what passes through to the storage below.
#[derive(Debug)]
pub(crate) struct Counted {
    inner: Box<dyn StorageBackend>,
    counters: Arc<IoCounters>,
    is_database: bool,
}

impl Counted {
    /// Counts into `counters` what is done to the database file.
    pub fn database(inner: Box<dyn StorageBackend>, counters: Arc<IoCounters>) -> io::Result<Self> {
        counters.len.store(inner.len()?, Ordering::Relaxed);
        Ok(Self { inner, counters, is_database: true })
    }

    /// Counts into `counters` what is done to a journal file.
    pub fn journal(inner: Box<dyn StorageBackend>, counters: Arc<IoCounters>) -> Self {
        Self { inner, counters, is_database: false }
    }
}

impl StorageBackend for Counted {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)?;
        if self.is_database {
            self.counters.len.store(len, Ordering::Relaxed);
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let result = self.inner.sync_data();
        match &result {
            Ok(()) => self.counters.syncs.fetch_add(1, Ordering::Relaxed),
            Err(_) => u64::from(self.counters.sync_failed.swap(true, Ordering::SeqCst)),
        };
        result
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.inner.write(offset, data)?;
        self.counters.written_bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }
}

/// Whether an error says that there is no room: the disk, the quota or the largest file size.
pub(crate) fn is_no_space(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}
