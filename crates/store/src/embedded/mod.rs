//! The store of one machine: the index in memory, group commit to a journal on a thread of its own, and a
//! revision log in a redb file that the journal is moved into (docs/adr/0002). Several keyspaces share the
//! files and the threads, each with its own revision.

mod checkpoint;
mod commit;
mod dir;
mod disk;
pub mod failpoints;
mod file;
mod journal;
mod pending;
mod record;
pub mod snapshot;
#[cfg(test)]
pub(crate) mod testing;

pub use dir::OpenError;

use crate::index::Index;
use crate::keyspace::Keyspace;
use crate::plan::{Answer, Request};
use crate::{
    Expect, KeyValue, LeaseId, Outcome, Range, RangeResult, Revision, Stats, Store, StoreError, WatchStream,
    lease,
};
use bytes::Bytes;
use checkpoint::{Progress, Work};
use commit::{Committer, CommitterOptions, Queue, Queued, Space};
use dir::{Found, Revisions, StoreDir};
use disk::{Disk, DiskError, JournalFiles, Opened};
use failpoints::{Failpoints, Step};
use file::{Counted, IoCounters, OpenBackend, PlainFile};
use futures_util::future::{BoxFuture, ready};
use journal::Journal;
use knarr_base::Ctx;
use redb::StorageBackend;
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
    /// Commits are moved from the journal into the database each time the journal has this size. There are two
    /// such files, and what they hold is also in memory until it is moved.
    pub journal_bytes: u64,
    /// The history of a keyspace is compacted early, down to two thirds of this, when it takes more memory than this.
    pub history_bytes: u64,
    /// Where it fails, in tests.
    pub failpoints: Failpoints,
}

/// History that a store keeps in memory at most. Under a heavy load it holds what happened within seconds, which is
/// what pages of lists and watches that lag behind need; without one, all of the compaction interval.
const HISTORY_BYTES: u64 = 48 << 20;

impl EngineOptions {
    /// The usual options for a store in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            cache_bytes: 4 << 20,
            journal_bytes: 1 << 20,
            history_bytes: HISTORY_BYTES,
            failpoints: Failpoints::default(),
        }
    }
}

/// An open store. It closes when the engine and every keyspace handle are gone, or by [`Engine::close`].
#[derive(Clone)]
pub struct Engine(Arc<Shared>);

struct Shared {
    ctx: Ctx,
    queue: Arc<Queue>,
    work: Arc<Work>,
    spaces: Mutex<Vec<Arc<Space>>>,
    counters: Arc<IoCounters>,
    commits: Arc<AtomicU64>,
    failpoints: Failpoints,
    closing: Mutex<Closing>,
}

/// What is left to do when the engine closes.
#[derive(Default)]
struct Closing {
    committing: Option<JoinHandle<()>>,
    checkpointing: Option<JoinHandle<()>>,
    dir: Option<StoreDir>,
}

impl Engine {
    /// Opens the store in a directory, making an empty one only where none has ever been. Everything that is
    /// stored is checked and read into memory.
    pub fn open(ctx: &Ctx, options: EngineOptions) -> Result<Self, OpenError> {
        let dir = StoreDir::lock(&options.dir)?;
        let (path, journals) = (dir.database(), dir.journals());
        let found = dir.inspect()?;
        if found == Found::Nothing {
            make(ctx, &dir)?;
        }
        let journals = [plain_file(&journals[0])?, plain_file(&journals[1])?];
        let files = Files { database: file_backend(path.clone()), journals };
        let parts =
            Self::assemble(ctx, files, &options, &options.dir).map_err(|error| open_error(error, &path))?;
        let (engine, committer, disk) = (parts.engine, parts.committer, parts.disk);
        if let Found::Database(Some(closed_at)) = &found
            && let Err(detail) = engine.check_revisions(closed_at)
        {
            return Err(OpenError::Corrupt { path, detail });
        }
        dir.write_marker(None)?;
        let thread = |name: &str, run: Box<dyn FnOnce() + Send>| {
            let thread = std::thread::Builder::new().name(name.into()).spawn(run);
            thread.map_err(|source| OpenError::Io {
                action: "start a thread for",
                path: path.clone(),
                source,
            })
        };
        let work = engine.0.work.clone();
        let checkpointing = thread("store-checkpoint", Box::new(move || checkpoint::run(disk, &work)))?;
        let (queue, tasks) = (engine.0.queue.clone(), ctx.tasks.clone());
        let committing = thread("store-commit", Box::new(move || committer.run(&queue, tasks)))?;
        *engine.closing() =
            Closing { committing: Some(committing), checkpointing: Some(checkpointing), dir: Some(dir) };
        Ok(engine)
    }

    /// Reads everything back and puts the parts together, without starting a thread.
    fn assemble(ctx: &Ctx, files: Files, options: &EngineOptions, path: &Path) -> Result<Parts, DiskError> {
        let counters = Arc::new(IoCounters::default());
        let journals = files
            .journals
            .map(|file| Box::new(Counted::journal(file, counters.clone())) as Box<dyn StorageBackend>);
        let Opened { mut disk, keyspaces, salt, generation } =
            Disk::open(files.database, &journals, options.cache_bytes, counters.clone())?;
        disk.failpoints = options.failpoints.clone();
        let mut journal = Journal::new(journals, salt, generation).map_err(disk::io_error)?;
        journal.failpoints = options.failpoints.clone();
        let work = Arc::new(Work::default());
        let mut spaces = Vec::new();
        for (name, restored) in keyspaces {
            let id = restored.id;
            work.add_dead(restored.dead.into_iter().map(|revision| (id, revision)));
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
        let commits = Arc::new(AtomicU64::new(0));
        let committer = Committer::new(
            journal,
            work.clone(),
            CommitterOptions {
                path: path.display().to_string(),
                clock: ctx.clock.clone(),
                journal_bytes: options.journal_bytes,
                history_bytes: options.history_bytes,
                failpoints: options.failpoints.clone(),
                commits: commits.clone(),
                counters: counters.clone(),
            },
        );
        let shared = Shared {
            ctx: ctx.clone(),
            queue: Arc::default(),
            work,
            spaces: Mutex::new(spaces),
            counters,
            commits,
            failpoints: options.failpoints.clone(),
            closing: Mutex::default(),
        };
        Ok(Parts { engine: Self(Arc::new(shared)), committer, disk })
    }

    /// Compares the keyspaces with what they were when the store was closed.
    fn check_revisions(&self, closed_at: &Revisions) -> Result<(), String> {
        let now = self.0.revisions();
        let now: Revisions = now.into_iter().map(|(name, at)| (dir::marker_name(&name), at)).collect();
        if *closed_at == now {
            return Ok(());
        }
        Err(format!("it was closed at revisions {closed_at:?} and is at {now:?}"))
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

    /// The keyspaces that the disk knows of.
    fn spaces_on_disk(&self) -> Vec<Arc<Space>> {
        let spaces = self.0.spaces.lock().expect("no holder of the keyspaces lock panics");
        spaces.iter().filter(|space| space.on_disk.load(Ordering::Acquire)).cloned().collect()
    }

    /// Commits what is waiting, ends every watch, closes the file and lets go of the directory. Handles that
    /// are still around answer reads, and refuse writes and watches. Blocks while the journal is moved into the
    /// database, a fraction of a second.
    pub fn close(&self) {
        self.0.close();
    }
}

impl Shared {
    fn close(&self) {
        let closing =
            std::mem::take(&mut *self.closing.lock().expect("no holder of the closing lock panics"));
        self.queue.close();
        let mut orderly = closing.committing.is_some_and(|thread| thread.join().is_ok());
        self.work.close();
        orderly &= closing.checkpointing.is_some_and(|thread| thread.join().is_ok());
        orderly &= self.work.progress() == Progress::Idle;
        orderly &= !self.counters.sync_failed.load(Ordering::SeqCst);
        orderly &= !self.counters.unsure.load(Ordering::SeqCst);
        for space in self.spaces.lock().expect("no holder of the keyspaces lock panics").iter() {
            space.keyspace.close();
        }
        if let Some(dir) = closing.dir.filter(|_| orderly)
            && let Err(error) = dir.write_marker(Some(&self.revisions()))
        {
            tracing::warn!(%error, "cannot note that the store was closed");
        }
    }

    /// The revisions of the keyspaces that were ever written to, by name.
    fn revisions(&self) -> Revisions {
        let spaces = self.spaces.lock().expect("no holder of the keyspaces lock panics");
        let on_disk = spaces.iter().filter(|space| space.on_disk.load(Ordering::Acquire));
        on_disk.map(|space| (space.name.clone(), space.keyspace.revision())).collect()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.close();
    }
}

/// Where a store is kept.
struct Files {
    database: OpenBackend,
    journals: JournalFiles,
}

/// An engine whose threads have not started.
struct Parts {
    engine: Engine,
    committer: Committer,
    disk: Disk,
}

/// Makes an empty store. The database comes last and under another name first, so that where one stands under
/// its own name everything is there.
fn make(ctx: &Ctx, dir: &StoreDir) -> Result<(), OpenError> {
    let new = dir.new_database();
    for path in dir.journals().iter().chain([&new]) {
        let made = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
        let made = made.and_then(|file| file.sync_all());
        made.map_err(|source| OpenError::Io { action: "make", path: path.clone(), source })?;
    }
    let salt = u32::try_from(ctx.rng.below(1 << 32)).expect("it is below 2^32");
    Disk::create(file_backend(new.clone()), Arc::default(), salt).map_err(|error| open_error(error, &new))?;
    dir.publish_database()
}

fn open_file(path: &Path) -> std::io::Result<Box<dyn StorageBackend>> {
    Ok(Box::new(PlainFile(OpenOptions::new().read(true).write(true).open(path)?)))
}

fn plain_file(path: &Path) -> Result<Box<dyn StorageBackend>, OpenError> {
    open_file(path).map_err(|source| OpenError::Io { action: "open", path: path.to_owned(), source })
}

fn file_backend(path: PathBuf) -> OpenBackend {
    Arc::new(move || open_file(&path))
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

    fn reach(&self, step: Step) -> Result<(), StoreError> {
        self.engine.0.failpoints.hit(step).map_err(|error| StoreError::Unavailable(error.to_string()))
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
        Box::pin(ready(self.reach(Step::Get).and_then(|()| self.space.keyspace.get(key, at))))
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<RangeResult, StoreError>> {
        Box::pin(ready(self.reach(Step::Range).and_then(|()| self.space.keyspace.range(&range))))
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
        Box::pin(async move {
            self.reach(Step::Watch)?;
            self.space.keyspace.watch(start, end, from)
        })
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
            history_bytes: state.index.history_bytes(),
            size_bytes: shared.counters.len.load(Ordering::Relaxed)
                + shared.counters.journal_len.load(Ordering::Relaxed),
            commits: shared.commits.load(Ordering::Relaxed),
            syncs: shared.counters.syncs.load(Ordering::Relaxed),
            written_bytes: shared.counters.written_bytes.load(Ordering::Relaxed),
        }
    }
}
