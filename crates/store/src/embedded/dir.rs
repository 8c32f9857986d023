//! The directory of an embedded store: `store.lock` keeps a second program out, `store.meta` says that a
//! store lives here and in which format, `store.redb` is the database and `store.journal.*` what it does not
//! have yet. A directory whose marker stands
//! without its database is damaged, not new. While the store is closed the marker also tells the last
//! revision of every keyspace, so that a database that went back in time is noticed.

use super::disk::FORMAT;
use crate::Revision;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another program has it open.
    #[error("{} is in use by another knarr; stop that one first, or give this one a directory of its own", .dir.display())]
    InUse {
        /// The store's directory.
        dir: PathBuf,
    },
    /// It was written by a newer program.
    #[error(
        "{} has store format {found}, and this knarr reads up to {FORMAT}: use the newer knarr that wrote it, or restore a backup from before the upgrade",
        .path.display()
    )]
    NewerFormat {
        /// The file that says so.
        path: PathBuf,
        /// Its format.
        found: u64,
    },
    /// The database is damaged.
    #[error(
        "the store's file {} is damaged: {detail}; nothing was changed. To restore, stop knarr, move the directory {} away and put a backup of it in its place",
        .path.display(), .path.parent().unwrap_or(.path).display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// A store was here, but its database is gone.
    #[error(
        "the store's file {} is missing, although {} says that a store was here; to restore, put a backup of the directory in its place, or remove the directory to start empty",
        .path.display(), .marker.display()
    )]
    Missing {
        /// The file.
        path: PathBuf,
        /// The file that says so.
        marker: PathBuf,
    },
    /// The disk is full.
    #[error("no space left on the device that holds {}", .path.display())]
    NoSpace {
        /// The file.
        path: PathBuf,
    },
    /// A call to the operating system failed.
    #[error("cannot {action} {}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl OpenError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// The last revision of each keyspace when the store was closed in an orderly way.
pub(crate) type Revisions = BTreeMap<String, Revision>;

/// A locked store directory. The lock goes with it.
#[derive(Debug)]
pub(crate) struct StoreDir {
    dir: PathBuf,
    _lock: File,
}

/// What a directory holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// No store yet.
    Nothing,
    /// A database, and the revisions it must have if it was closed in an orderly way.
    Database(Option<Revisions>),
}

const MARKER_TITLE: &str = "knarr store";

impl StoreDir {
    /// Makes the directory if need be and locks it.
    pub fn lock(dir: &Path) -> Result<Self, OpenError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(OpenError::io("make the directory", dir))?;
        let path = dir.join("store.lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let lock = lock.map_err(OpenError::io("open", &path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { dir: dir.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(OpenError::InUse { dir: dir.to_owned() }),
            Err(TryLockError::Error(source)) => Err(OpenError::io("lock", &path)(source)),
        }
    }

    /// The database file.
    pub fn database(&self) -> PathBuf {
        self.dir.join("store.redb")
    }

    /// A database being made; renamed to [`StoreDir::database`] once it is whole.
    pub fn new_database(&self) -> PathBuf {
        self.dir.join("store.redb.new")
    }

    /// The two files that the journal takes turns with.
    pub fn journals(&self) -> [PathBuf; 2] {
        ["store.journal.0", "store.journal.1"].map(|name| self.dir.join(name))
    }

    fn marker(&self) -> PathBuf {
        self.dir.join("store.meta")
    }

    /// What is here. Refuses a marker without a database and one of a newer format.
    pub fn inspect(&self) -> Result<Found, OpenError> {
        let (marker, database) = (self.marker(), self.database());
        let text = match fs::read(&marker) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(OpenError::io("read", &marker)(error)),
        };
        let exists = database.try_exists().map_err(OpenError::io("look for", &database))?;
        let Some(text) = text else {
            return Ok(if exists { Found::Database(None) } else { Found::Nothing });
        };
        let (format, revisions) = parse_marker(&text)
            .ok_or_else(|| OpenError::Corrupt { path: marker.clone(), detail: "it cannot be read".into() })?;
        if format > FORMAT {
            return Err(OpenError::NewerFormat { path: marker, found: format });
        }
        for path in self.journals().into_iter().chain([database]) {
            if !path.try_exists().map_err(OpenError::io("look for", &path))? {
                return Err(OpenError::Missing { path, marker });
            }
        }
        Ok(Found::Database(revisions))
    }

    /// Moves a whole new database into place.
    pub fn publish_database(&self) -> Result<(), OpenError> {
        let database = self.database();
        fs::rename(self.new_database(), &database).map_err(OpenError::io("put in place", &database))?;
        self.sync()
    }

    /// Writes the marker; `revisions` only when the store is closed.
    pub fn write_marker(&self, revisions: Option<&Revisions>) -> Result<(), OpenError> {
        let mut text = format!("{MARKER_TITLE}\nformat {FORMAT}\n");
        if let Some(revisions) = revisions {
            for (name, revision) in revisions {
                text.push_str(&format!("revision {revision} {}\n", name.escape_default()));
            }
            text.push_str("closed\n");
        }
        let (marker, new) = (self.marker(), self.dir.join("store.meta.new"));
        let written = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new);
        written
            .and_then(|mut file| {
                file.write_all(text.as_bytes())?;
                file.sync_all()
            })
            .and_then(|()| fs::rename(&new, &marker))
            .map_err(OpenError::io("write", &marker))?;
        self.sync()
    }

    fn sync(&self) -> Result<(), OpenError> {
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(OpenError::io("sync", &self.dir))
    }
}

/// The format and, of a closed store, the revisions by escaped name.
fn parse_marker(text: &[u8]) -> Option<(u64, Option<Revisions>)> {
    let mut lines = std::str::from_utf8(text).ok()?.lines();
    if lines.next()? != MARKER_TITLE {
        return None;
    }
    let format = lines.next()?.strip_prefix("format ")?.parse().ok()?;
    if format > FORMAT {
        // What else a newer format writes here is its own affair.
        return Some((format, None));
    }
    let mut revisions = Revisions::new();
    let mut closed = false;
    for line in lines {
        if line == "closed" {
            closed = true;
            continue;
        }
        let (revision, name) = line.strip_prefix("revision ")?.split_once(' ')?;
        revisions.insert(name.to_owned(), revision.parse().ok()?);
    }
    Some((format, closed.then_some(revisions)))
}

/// How a keyspace's name stands in the marker.
pub(crate) fn marker_name(name: &str) -> String {
    name.escape_default().to_string()
}
