//! The store of one machine: the index in memory, its revision log in one redb file, group commit on a thread
//! of its own (docs/adr/0002). Several keyspaces share the file and the thread, each with its own revision.

mod commit;
mod dir;
mod disk;
mod file;
mod record;
#[cfg(test)]
pub(crate) mod testing;

pub use dir::OpenError;

use crate::index::{FIRST_REVISION, Index};
use crate::keyspace::Keyspace;
use crate::plan::{Answer, Request};
use crate::{
    Expect, KeyValue, LeaseId, Outcome, Range, RangeResult, Revision, Stats, Store, StoreError, WatchStream,
    lease,
};
use bytes::Bytes;
use commit::{Committer, Queue, Queued, Space};
use dir::{Found, Revisions, StoreDir};
use disk::{Disk, DiskError, Restored};
use file::{IoCounters, OpenBackend, PlainFile};
use futures_util::future::{BoxFuture, ready};
use knarr_base::Ctx;
use redb::StorageBackend;
use std::collections::{BTreeMap, VecDeque};
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

/// How to open an [`Engine`].
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// The directory the store lives in, made if need be.
    pub dir: PathBuf,
    /// Memory for the database's page cache. Reads never use it, so it only has to hold what commits touch.
    pub cache_bytes: usize,
}

impl EngineOptions {
    /// The usual options for a store in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), cache_bytes: 8 << 20 }
    }
}

/// An open store. It closes when the engine and every keyspace handle are gone, or by [`Engine::close`].
#[derive(Clone)]
pub struct Engine(Arc<Shared>);

struct Shared {
    ctx: Ctx,
    queue: Arc<Queue>,
    spaces: Arc<Mutex<Vec<Arc<Space>>>>,
    counters: Arc<IoCounters>,
    commits: Arc<AtomicU64>,
    closing: Mutex<Closing>,
}

/// What is left to do when the engine closes.
#[derive(Default)]
struct Closing {
    /// Ends with whether the file holds exactly what was acknowledged.
    thread: Option<JoinHandle<bool>>,
    dir: Option<StoreDir>,
}

impl Engine {
    /// Opens the store in a directory, making an empty one only where none has ever been. Everything that is
    /// stored is checked and read into memory.
    pub fn open(ctx: &Ctx, options: EngineOptions) -> Result<Self, OpenError> {
        let dir = StoreDir::lock(&options.dir)?;
        let (path, counters) = (dir.database(), Arc::new(IoCounters::default()));
        let found = dir.inspect()?;
        if found == Found::Nothing {
            // Made under another name first, so that a database under its own name is always whole.
            let new = dir.new_database();
            let made = open_file(&new, true).and_then(|file| file.0.set_len(0));
            made.map_err(|source| OpenError::Io { action: "make", path: new.clone(), source })?;
            let opened = Disk::open(file_backend(new.clone()), options.cache_bytes, counters.clone(), true);
            drop(opened.map_err(|error| open_error(error, &new))?);
            dir.publish_database()?;
        }
        let (disk, restored) =
            Disk::open(file_backend(path.clone()), options.cache_bytes, counters.clone(), false)
                .map_err(|error| open_error(error, &path))?;
        if let Found::Database(Some(closed_at)) = &found {
            let now = restored.iter().map(|(name, restored)| (dir::marker_name(name), restored));
            let now: Revisions = now.map(|(name, restored)| (name, restored.index.revision())).collect();
            // A keyspace whose first write failed may have left its name behind.
            let grew =
                now.iter().any(|(name, at)| *at > closed_at.get(name).copied().unwrap_or(FIRST_REVISION));
            let shrank = closed_at.iter().any(|(name, at)| now.get(name).is_none_or(|now| now < at));
            if grew || shrank {
                let detail = format!("it was closed at revisions {closed_at:?} and is at {now:?}");
                return Err(OpenError::Corrupt { path, detail });
            }
        }
        dir.write_marker(None)?;
        let (engine, committer) = Self::assemble(ctx, disk, restored, counters, &path);
        let (queue, tasks) = (engine.0.queue.clone(), ctx.tasks.clone());
        let thread = std::thread::Builder::new()
            .name("store-commit".into())
            .spawn(move || committer.run(&queue, tasks))
            .map_err(|source| OpenError::Io { action: "start the commit thread of", path, source })?;
        *engine.closing() = Closing { thread: Some(thread), dir: Some(dir) };
        Ok(engine)
    }

    fn assemble(
        ctx: &Ctx,
        disk: Disk,
        restored: BTreeMap<String, Restored>,
        counters: Arc<IoCounters>,
        path: &Path,
    ) -> (Self, Committer) {
        let mut dead = VecDeque::new();
        let mut spaces = Vec::new();
        for (name, restored) in restored {
            let id = restored.id;
            dead.extend(restored.dead.into_iter().map(|revision| (id, revision)));
            let keyspace = Keyspace::new(restored.index);
            for grant in restored.leases {
                keyspace.restore_lease(grant, lease::deadline(&*ctx.clock, &grant));
            }
            spaces.push(Arc::new(Space {
                id,
                name,
                on_disk: AtomicBool::new(true),
                expiring: AtomicBool::new(false),
                keyspace: Arc::new(keyspace),
            }));
        }
        let shared = Shared {
            ctx: ctx.clone(),
            queue: Arc::default(),
            spaces: Arc::new(Mutex::new(spaces)),
            counters,
            commits: Arc::default(),
            closing: Mutex::default(),
        };
        let committer = Committer::new(
            disk,
            path.display().to_string(),
            ctx.clock.clone(),
            shared.spaces.clone(),
            dead,
            shared.commits.clone(),
        );
        (Self(Arc::new(shared)), committer)
    }

    fn closing(&self) -> MutexGuard<'_, Closing> {
        self.0.closing.lock().expect("no holder of the closing lock panics")
    }

    /// A keyspace by name, made if there is none. Two handles of one name are the same keyspace.
    pub fn keyspace(&self, name: &str) -> Arc<dyn Store> {
        let space = {
            let mut spaces = self.0.spaces.lock().expect("no holder of the keyspaces lock panics");
            match spaces.iter().find(|space| space.name == name) {
                Some(space) => space.clone(),
                None => {
                    let space = Arc::new(Space {
                        id: spaces.iter().map(|space| space.id + 1).max().unwrap_or(1),
                        name: name.to_owned(),
                        on_disk: AtomicBool::new(false),
                        expiring: AtomicBool::new(false),
                        keyspace: Arc::new(Keyspace::new(Index::default())),
                    });
                    spaces.push(space.clone());
                    space
                }
            }
        };
        let handle = Handle { engine: self.clone(), space };
        if !handle.space.keyspace.read().leases.is_empty() {
            handle.start_expiry();
        }
        Arc::new(handle)
    }

    /// Commits what is waiting, ends every watch, closes the file and lets go of the directory. Handles that
    /// are still around answer reads, and refuse writes and watches. Blocks for at most one batch.
    pub fn close(&self) {
        self.0.close();
    }
}

impl Shared {
    fn close(&self) {
        let closing =
            std::mem::take(&mut *self.closing.lock().expect("no holder of the closing lock panics"));
        self.queue.close();
        let orderly = closing.thread.is_some_and(|thread| thread.join().unwrap_or(false));
        let spaces = self.spaces.lock().expect("no holder of the keyspaces lock panics");
        for space in spaces.iter() {
            space.keyspace.close();
        }
        let Some(dir) = closing.dir else { return };
        if !orderly {
            return;
        }
        let on_disk = spaces.iter().filter(|space| space.on_disk.load(Ordering::Acquire));
        let revisions =
            on_disk.map(|space| (space.name.clone(), space.keyspace.revision())).collect::<Revisions>();
        if let Err(error) = dir.write_marker(Some(&revisions)) {
            tracing::warn!(%error, "cannot note that the store was closed");
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.close();
    }
}

fn open_file(path: &Path, create: bool) -> std::io::Result<PlainFile> {
    let file = OpenOptions::new().read(true).write(true).create(create).mode(0o600).open(path)?;
    Ok(PlainFile(file))
}

fn file_backend(path: PathBuf) -> OpenBackend {
    Arc::new(move || Ok(Box::new(open_file(&path, false)?) as Box<dyn StorageBackend>))
}

fn open_error(error: DiskError, path: &Path) -> OpenError {
    let path = path.to_owned();
    match error {
        DiskError::NoSpace => OpenError::NoSpace { path },
        DiskError::Io(source) => OpenError::Io { action: "open", path, source },
        DiskError::Damaged(detail) => OpenError::Corrupt { path, detail },
        DiskError::Newer(found) => OpenError::NewerFormat { path, found },
    }
}

/// A keyspace of an engine, as its users hold it.
struct Handle {
    engine: Engine,
    space: Arc<Space>,
}

impl Handle {
    async fn submit(&self, request: Request) -> Result<Answer, StoreError> {
        submit(&self.engine.0.queue, &self.space, request).await
    }

    async fn outcome(&self, request: Request) -> Result<Outcome, StoreError> {
        match self.submit(request).await? {
            Answer::Outcome(outcome) => Ok(outcome),
            Answer::Done => unreachable!("puts and deletes have an outcome"),
        }
    }

    fn start_expiry(&self) {
        if !self.space.expiring.swap(true, Ordering::SeqCst) {
            // The task must not keep the engine open, so it holds only the queue, which outlives it closed.
            let (queue, space) = (self.engine.0.queue.clone(), Arc::downgrade(&self.space));
            let revoke = move |lease| -> BoxFuture<'static, Result<(), StoreError>> {
                let (queue, space) = (queue.clone(), space.clone());
                Box::pin(async move {
                    match space.upgrade() {
                        Some(space) => submit(&queue, &space, Request::Revoke(lease)).await.map(drop),
                        None => Ok(()),
                    }
                })
            };
            lease::spawn_expiry(&self.engine.0.ctx, &self.space.keyspace, Arc::new(revoke));
        }
    }
}

async fn submit(queue: &Queue, space: &Arc<Space>, request: Request) -> Result<Answer, StoreError> {
    let (answer, answered) = tokio::sync::oneshot::channel();
    queue.push(Queued { space: space.clone(), request, answer });
    answered.await.unwrap_or_else(|_| Err(commit::closed()))
}

impl Store for Handle {
    fn get<'a>(
        &'a self,
        key: &'a [u8],
        at: Option<Revision>,
    ) -> BoxFuture<'a, Result<Option<KeyValue>, StoreError>> {
        Box::pin(ready(self.space.keyspace.get(key, at)))
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<RangeResult, StoreError>> {
        Box::pin(ready(self.space.keyspace.range(&range)))
    }

    fn put(
        &self,
        key: Bytes,
        expect: Expect,
        value: Bytes,
        lease: LeaseId,
    ) -> BoxFuture<'_, Result<Outcome, StoreError>> {
        Box::pin(self.outcome(Request::Put { key, expect, value, lease }))
    }

    fn delete(&self, key: Bytes, expect: Revision) -> BoxFuture<'_, Result<Outcome, StoreError>> {
        Box::pin(self.outcome(Request::Delete { key, expect }))
    }

    fn watch(
        &self,
        start: Bytes,
        end: Bytes,
        from: Revision,
    ) -> BoxFuture<'_, Result<WatchStream, StoreError>> {
        Box::pin(async move { self.space.keyspace.watch(start, end, from) })
    }

    fn revision(&self) -> Revision {
        self.space.keyspace.revision()
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { self.submit(Request::Compact(revision)).await.map(drop) })
    }

    fn grant_lease(&self, ttl_seconds: u64) -> BoxFuture<'_, Result<LeaseId, StoreError>> {
        Box::pin(async move {
            let grant = lease::new_grant(&self.engine.0.ctx, ttl_seconds);
            self.submit(Request::Grant(grant)).await?;
            self.start_expiry();
            Ok(grant.id)
        })
    }

    fn stats(&self) -> Stats {
        let shared = &self.engine.0;
        let state = self.space.keyspace.read();
        Stats {
            revision: state.index.revision(),
            compacted: state.index.compacted(),
            keys: state.index.live(),
            size_bytes: shared.counters.len.load(Ordering::Relaxed),
            commits: shared.commits.load(Ordering::Relaxed),
            syncs: shared.counters.syncs.load(Ordering::Relaxed),
            written_bytes: shared.counters.written_bytes.load(Ordering::Relaxed),
        }
    }
}
