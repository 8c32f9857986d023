//! Snapshots of an engine: one file with what is live in every keyspace at one revision each, saved while the engine
//! serves, and checked by a SHA-256 over all of it. Restoring makes a new store in a directory where none is; its
//! keyspaces go on at the revisions they were saved at, and older ones count as compacted.
//!
//! The file: `KNARRSNAPSHOT1\n`, then entries of `kind (1) | length (4) | content`, numbers little endian. A keyspace
//! (`revision (8) | name`) is followed by its leases (`id | seconds | end in ms since 1970`, 8 each) and its rows
//! (`revision (8) | record`) in the order of their keys. The last entry holds the digest of all before it.

use super::disk::Disk;
use super::pending::Pending;
use super::{Engine, OpenError, StoreDir, file_backend, make, open_error, plain_file, record};
use crate::index::Change;
use crate::plan::Grant;
use crate::{Range, Revision, StoreError};
use bytes::Bytes;
use knarr_base::Ctx;
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const TITLE: &[u8] = b"KNARRSNAPSHOT1\n";
const KEYSPACE: u8 = 1;
const LEASE: u8 = 2;
const ROW: u8 = 3;
const END: u8 = 4;
/// Keys read at once while saving: the engine's writers wait no longer than for these.
const PAGE: usize = 500;
/// Rows written to a new store in one transaction.
const ROWS_AT_ONCE: usize = 10_000;
/// No entry is longer: an object, its key and its numbers.
const LONGEST_ENTRY: u32 = 16 << 20;
/// How often saving starts over because a compaction passed the revision that is being saved.
const TRIES: usize = 3;

/// What a snapshot holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// The keyspaces with their revisions and numbers of keys.
    pub keyspaces: Vec<(String, Revision, u64)>,
    /// Size of the file in bytes.
    pub size_bytes: u64,
    /// SHA-256 of its content, in hexadecimal digits.
    pub hash: String,
}

impl Summary {
    /// How many keys there are.
    pub fn keys(&self) -> u64 {
        self.keyspaces.iter().map(|(_, _, keys)| keys).sum()
    }

    /// The latest revision of all keyspaces.
    pub fn revision(&self) -> Revision {
        self.keyspaces.iter().map(|(_, revision, _)| *revision).max().unwrap_or(0)
    }
}

/// Why a snapshot could not be saved, read or restored.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
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
    /// It is not a whole snapshot.
    #[error("{} is not a whole snapshot: {detail}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// Something is where the store is to be restored.
    #[error("{} is not empty; a snapshot is only restored where no store is", .0.display())]
    NotEmpty(PathBuf),
    /// Something is where the snapshot is to be saved.
    #[error("{} exists already", .0.display())]
    Exists(PathBuf),
    /// The store could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The new store could not be made.
    #[error(transparent)]
    Open(#[from] OpenError),
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SnapshotError {
    let path = path.to_owned();
    move |source| SnapshotError::Io { action, path, source }
}

/// Writes entries and digests them.
struct Out<W> {
    file: W,
    digest: Sha256,
    bytes: u64,
}

impl<W: Write> Out<W> {
    fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.digest.update(bytes);
        self.bytes += bytes.len() as u64;
        self.file.write_all(bytes)
    }

    fn entry(&mut self, kind: u8, parts: &[&[u8]]) -> io::Result<()> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let len = u32::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
        self.raw(&[kind])?;
        self.raw(&len.to_le_bytes())?;
        parts.iter().try_for_each(|part| self.raw(part))
    }
}

/// Saves a snapshot of a running engine in a new file. Blocks; the engine serves meanwhile.
pub fn save(engine: &Engine, path: &Path) -> Result<Summary, SnapshotError> {
    if path.exists() {
        return Err(SnapshotError::Exists(path.to_owned()));
    }
    // Under another name until it is whole.
    let part = path.with_extension("part");
    let mut tries = 0;
    let result = loop {
        tries += 1;
        match save_once(engine, &part) {
            Err(SnapshotError::Store(StoreError::Compacted { .. })) if tries < TRIES => {}
            result => break result,
        }
    };
    match result {
        Ok(summary) => {
            fs::rename(&part, path).map_err(failed("put in place", path))?;
            sync_folder(path)?;
            Ok(summary)
        }
        Err(error) => {
            let _ = fs::remove_file(&part);
            Err(error)
        }
    }
}

fn sync_folder(path: &Path) -> Result<(), SnapshotError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("sync", folder))
}

fn save_once(engine: &Engine, path: &Path) -> Result<Summary, SnapshotError> {
    let io = || failed("write", path);
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    let file = file.map_err(failed("make", path))?;
    let mut out = Out { file: BufWriter::new(file), digest: Sha256::new(), bytes: 0 };
    out.raw(TITLE).map_err(io())?;
    let mut keyspaces = Vec::new();
    for space in engine.spaces_on_disk() {
        // The leases first: a key that is bound to a later one was put later too.
        let (revision, leases) = {
            let state = space.keyspace.read();
            (state.index.revision(), state.leases.all())
        };
        out.entry(KEYSPACE, &[&revision.to_le_bytes(), space.name.as_bytes()]).map_err(io())?;
        for grant in leases {
            let numbers = [grant.id, grant.ttl_seconds, grant.expires_unix_ms].map(u64::to_le_bytes);
            out.entry(LEASE, &[&numbers.concat()]).map_err(io())?;
        }
        let mut range =
            Range { end: Bytes::from_static(&[0]), at: Some(revision), limit: PAGE, ..Range::default() };
        let (mut keys, mut row) = (0, Vec::new());
        loop {
            let page = space.keyspace.range(&range)?;
            let Some(last) = page.kvs.last() else { break };
            range.start = [&last.key[..], b"\0"].concat().into();
            keys += page.kvs.len() as u64;
            for kv in page.kvs {
                let revision = kv.mod_revision.to_le_bytes();
                let change = Change {
                    revision: kv.mod_revision,
                    created: kv.create_revision,
                    key: kv.key,
                    value: Some(kv.value),
                    lease: kv.lease,
                };
                record::encode(&change, &mut row);
                out.entry(ROW, &[&revision, &row]).map_err(io())?;
            }
        }
        keyspaces.push((space.name.clone(), revision, keys));
    }
    let digest = out.digest.clone().finalize();
    out.entry(END, &[&digest]).map_err(io())?;
    let file = out.file.into_inner().map_err(|error| failed("write", path)(error.into_error()))?;
    file.sync_all().map_err(failed("sync", path))?;
    Ok(Summary { keyspaces, size_bytes: out.bytes, hash: hex(&digest) })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What one entry says.
enum Entry {
    Keyspace(String, Revision),
    Lease(Grant),
    Row(Change),
}

/// Reads a snapshot from end to end and says what is in it; the digest is checked.
pub fn inspect(path: &Path) -> Result<Summary, SnapshotError> {
    read(path, |_| Ok(()))
}

fn read(
    path: &Path,
    mut take: impl FnMut(Entry) -> Result<(), SnapshotError>,
) -> Result<Summary, SnapshotError> {
    let damaged = |detail: &str| SnapshotError::Damaged { path: path.to_owned(), detail: detail.to_owned() };
    let file = File::open(path).map_err(failed("open", path))?;
    let size_bytes = file.metadata().map_err(failed("read", path))?.len();
    let mut file = BufReader::with_capacity(256 << 10, file);
    let mut digest = Sha256::new();
    let mut bytes = |buffer: &mut [u8], digest: Option<&mut Sha256>| match file.read_exact(buffer) {
        Ok(()) => {
            if let Some(digest) = digest {
                digest.update(&*buffer);
            }
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(damaged("it ends too early")),
        Err(error) => Err(failed("read", path)(error)),
    };
    let mut title = [0; TITLE.len()];
    bytes(&mut title, Some(&mut digest))?;
    if title != TITLE {
        return Err(damaged("it begins otherwise"));
    }
    let mut summary = Summary { size_bytes, ..Summary::default() };
    let mut content = Vec::new();
    loop {
        let mut head = [0; 5];
        bytes(&mut head, None)?;
        let len = u32::from_le_bytes(head[1..].try_into().expect("four bytes"));
        if len > LONGEST_ENTRY {
            return Err(damaged("an entry is longer than any can be"));
        }
        content.resize(len as usize, 0);
        if head[0] == END {
            bytes(&mut content, None)?;
            let found = digest.finalize();
            if content != found[..] {
                return Err(damaged("its checksum does not match"));
            }
            if bytes(&mut [0], None).is_ok() {
                return Err(damaged("something follows its end"));
            }
            summary.hash = hex(&found);
            return Ok(summary);
        }
        digest.update(head);
        bytes(&mut content, Some(&mut digest))?;
        let number = |at: usize| {
            let bytes = content.get(at..at + 8).ok_or_else(|| damaged("an entry is too short"))?;
            Ok::<_, SnapshotError>(u64::from_le_bytes(bytes.try_into().expect("eight bytes")))
        };
        match head[0] {
            KEYSPACE => {
                let name = std::str::from_utf8(&content[8.min(content.len())..]);
                let name = name.map_err(|_| damaged("a keyspace's name is not text"))?.to_owned();
                summary.keyspaces.push((name.clone(), number(0)?, 0));
                take(Entry::Keyspace(name, number(0)?))?;
            }
            LEASE => {
                let (id, ttl_seconds, expires_unix_ms) = (number(0)?, number(8)?, number(16)?);
                take(Entry::Lease(Grant { id, ttl_seconds, expires_unix_ms }))?;
            }
            ROW => {
                let change = record::decode(number(0)?, &content[8..]).map_err(|why| damaged(&why))?;
                let keyspace =
                    summary.keyspaces.last_mut().ok_or_else(|| damaged("a row has no keyspace"))?;
                if change.revision > keyspace.1 {
                    return Err(damaged("a row is of a later revision than its keyspace"));
                }
                keyspace.2 += 1;
                take(Entry::Row(change))?;
            }
            _ => return Err(damaged("an entry is of an unknown kind")),
        }
    }
}

/// Makes a store out of a snapshot in a directory that does not exist or is empty. Nothing is there unless all is.
pub fn restore(ctx: &Ctx, path: &Path, dir: &Path) -> Result<Summary, SnapshotError> {
    match fs::read_dir(dir) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                return Err(SnapshotError::NotEmpty(dir.to_owned()));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("read", dir)(error)),
    }
    // The whole file is checked before anything is made of it.
    let summary = inspect(path)?;
    let part = dir.with_extension("restoring");
    match fs::remove_dir_all(&part) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("remove", &part)(error)),
        _ => {}
    }
    fill(ctx, path, &part)?;
    let _ = fs::remove_dir(dir);
    fs::rename(&part, dir).map_err(failed("put in place", dir))?;
    sync_folder(dir)?;
    Ok(summary)
}

fn fill(ctx: &Ctx, path: &Path, dir: &Path) -> Result<(), SnapshotError> {
    let dir = StoreDir::lock(dir)?;
    make(ctx, &dir)?;
    let (database, journals) = (dir.database(), dir.journals());
    let journals = [plain_file(&journals[0])?, plain_file(&journals[1])?];
    let opened = Disk::open(file_backend(database.clone()), &journals, 4 << 20, Arc::default());
    let mut opened = opened.map_err(|error| open_error(error, &database))?;
    let (mut pending, mut id) = (Pending::default(), 0);
    let generation = opened.generation;
    let mut write = |pending: &mut Pending| {
        let taken = std::mem::take(pending);
        opened.disk.checkpoint(&taken, generation).map_err(|error| open_error(error, &database))
    };
    read(path, |entry| {
        match entry {
            Entry::Keyspace(name, revision) => {
                id += 1;
                pending.names.insert(id, name);
                pending.compacted.insert(id, revision);
            }
            Entry::Lease(grant) => drop(pending.leases.insert((id, grant.id), Some(grant))),
            Entry::Row(change) => drop(pending.changes.insert((id, change.revision), change)),
        }
        if pending.changes.len() >= ROWS_AT_ONCE {
            write(&mut pending)?;
        }
        Ok(())
    })?;
    write(&mut pending)?;
    drop(opened);
    dir.write_marker(None)?;
    Ok(())
}
