//! Group commit: one thread takes whatever requests are queued, evaluates their expectations in order,
//! writes one batch, syncs once, then makes it visible and answers. Throughput comes from the batch, never
//! from skipping the sync. [`Committer::commit`] is one turn of the loop, which a test can drive itself.

use super::disk::{Disk, DiskError, Section};
use crate::keyspace::Keyspace;
use crate::plan::{Answer, Effects, Plan, Planned, Request};
use crate::{Revision, StoreError, lease};
use knarr_base::{ClockRef, Tasks};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// At most this many bytes of keys and values go into one batch: it bounds how long a writer waits for the
/// batch before its own, and the memory of the transaction.
const BATCH_BYTES: usize = 8 << 20;
/// At most this many requests go into one batch.
const BATCH_REQUESTS: usize = 2048;
/// Superseded rows deleted along with a batch of writes.
const SWEEP_WITH_WRITES: usize = 64;
/// Superseded rows deleted in a batch of their own while nobody writes.
const SWEEP_WHEN_IDLE: usize = 512;
/// How long writes are answered "no space" before the disk is tried again.
const FULL_DISK_PAUSE: Duration = Duration::from_millis(500);
/// The longest that a batch waits for the writers of the batch before to come back.
const COMPANY_LIMIT: Duration = Duration::from_millis(1);

/// A keyspace of an engine.
pub(crate) struct Space {
    /// Its number in the file.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Whether the file knows the name.
    pub on_disk: AtomicBool,
    /// Whether the task that ends its leases runs.
    pub expiring: AtomicBool,
    /// Its contents.
    pub keyspace: Arc<Keyspace>,
}

/// A request waiting for its batch.
pub(crate) struct Queued {
    /// The keyspace.
    pub space: Arc<Space>,
    /// What is asked.
    pub request: Request,
    /// Where the answer goes.
    pub answer: oneshot::Sender<Result<Answer, StoreError>>,
}

impl Queued {
    fn bytes(&self) -> usize {
        match &self.request {
            Request::Put { key, value, .. } => key.len() + value.len(),
            _ => 0,
        }
    }
}

/// The requests waiting for the commit thread.
#[derive(Default)]
pub(crate) struct Queue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Default)]
struct QueueState {
    waiting: VecDeque<Queued>,
    closed: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().expect("no holder of the queue lock panics")
    }

    /// Adds a request; a closed queue answers it at once.
    pub fn push(&self, queued: Queued) {
        let mut state = self.lock();
        if state.closed {
            let _ = queued.answer.send(Err(closed()));
            return;
        }
        state.waiting.push_back(queued);
        drop(state);
        self.changed.notify_one();
    }

    /// Takes no more requests; those waiting are still committed.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    /// Takes no more requests and answers those waiting that the store is closed.
    fn abandon(&self) {
        let waiting = {
            let mut state = self.lock();
            state.closed = true;
            std::mem::take(&mut state.waiting)
        };
        drop(waiting);
    }

    /// The next batch, `None` when the queue is closed and empty. Waits for requests unless `limit` passes
    /// first (then the batch is empty). When the batch before had `expected` requests, their writers are
    /// likely to be back within moments of being answered: waits for that many up to `patience`, as else the
    /// first of them would have a sync to itself and the rest another.
    pub fn take(&self, limit: Option<Duration>, expected: usize, patience: Duration) -> Option<Vec<Queued>> {
        let mut state = self.lock();
        if limit != Some(Duration::ZERO) {
            let idle = |state: &mut QueueState| state.waiting.is_empty() && !state.closed;
            const POISONED: &str = "no holder of the queue lock panics";
            state = match limit {
                None => self.changed.wait_while(state, idle).expect(POISONED),
                Some(limit) => self.changed.wait_timeout_while(state, limit, idle).expect(POISONED).0,
            };
            if !state.waiting.is_empty() && state.waiting.len() < expected {
                let few = |state: &mut QueueState| state.waiting.len() < expected && !state.closed;
                state = self.changed.wait_timeout_while(state, patience, few).expect(POISONED).0;
            }
        }
        if state.waiting.is_empty() && state.closed {
            return None;
        }
        let mut bytes = 0;
        let mut count = 0;
        while count < state.waiting.len() && count < BATCH_REQUESTS {
            bytes += state.waiting[count].bytes();
            if count > 0 && bytes > BATCH_BYTES {
                break;
            }
            count += 1;
        }
        Some(state.waiting.drain(..count).collect())
    }
}

/// What the store answers once it is closed.
pub(crate) fn closed() -> StoreError {
    StoreError::Unavailable("the store is closed".into())
}

/// Whether and why writes are refused.
enum Health {
    Good,
    /// The disk was full at this time.
    Full(Instant),
    /// Nothing can be written until the program starts again.
    Failed(String),
}

/// What the commit thread owns.
pub(crate) struct Committer {
    disk: Disk,
    path: String,
    clock: ClockRef,
    health: Health,
    /// Every keyspace of the engine, shared with it.
    spaces: Arc<Mutex<Vec<Arc<Space>>>>,
    /// Rows that nobody can read any more.
    dead: VecDeque<(u32, Revision)>,
    commits: Arc<AtomicU64>,
}

/// Leaves nobody waiting for a commit thread that has ended.
struct AbandonOnExit<'a> {
    queue: &'a Queue,
    tasks: Tasks,
}

impl Drop for AbandonOnExit<'_> {
    fn drop(&mut self) {
        self.queue.abandon();
        if std::thread::panicking() {
            tracing::error!("the store's commit thread panicked; stopping");
            self.tasks.stop();
        }
    }
}

/// The requests of a batch to one keyspace and what becomes of them.
struct Group {
    space: Arc<Space>,
    effects: Effects,
    answers: Vec<(Planned, oneshot::Sender<Result<Answer, StoreError>>)>,
}

impl Committer {
    /// A committer on an opened disk.
    pub fn new(
        disk: Disk,
        path: String,
        clock: ClockRef,
        spaces: Arc<Mutex<Vec<Arc<Space>>>>,
        dead: VecDeque<(u32, Revision)>,
        commits: Arc<AtomicU64>,
    ) -> Self {
        Self { disk, path, clock, health: Health::Good, spaces, dead, commits }
    }

    /// The commit thread: batches until the queue closes. True when the file holds exactly what was
    /// acknowledged. Should the thread panic, the queue is closed and `tasks` is told to stop.
    pub fn run(mut self, queue: &Queue, tasks: Tasks) -> bool {
        let _abandon = AbandonOnExit { queue, tasks };
        let mut expected = 0;
        let mut patience = Duration::ZERO;
        loop {
            // With rows left to sweep the thread comes round again at once, or after a while if it cannot.
            let limit = match (self.dead.is_empty(), &self.health) {
                (true, _) | (_, Health::Failed(_)) => None,
                (false, Health::Good) => Some(Duration::ZERO),
                (false, Health::Full(_)) => Some(FULL_DISK_PAUSE),
            };
            let Some(batch) = queue.take(limit, expected, patience) else { break };
            expected = batch.len();
            let start = self.clock.instant();
            self.commit(batch);
            let took = self.clock.instant().saturating_duration_since(start);
            patience = (took / 2).min(COMPANY_LIMIT);
        }
        self.disk.is_open() && !matches!(self.health, Health::Failed(_))
    }

    /// Commits one batch, or sweeps superseded rows if it is empty.
    pub fn commit(&mut self, batch: Vec<Queued>) {
        let idle = batch.is_empty();
        let groups = plan(batch);
        let writes = groups.iter().any(|group| !group.effects.is_empty());
        let result = if writes || idle && !self.dead.is_empty() {
            self.write(&groups, if idle { SWEEP_WHEN_IDLE } else { SWEEP_WITH_WRITES })
        } else {
            Ok(())
        };
        for group in groups {
            if result.is_ok() && !group.effects.is_empty() {
                group.space.on_disk.store(true, Ordering::Release);
                let deadline = |grant: &_| lease::deadline(&*self.clock, grant);
                let dead = group.space.keyspace.commit(group.effects, deadline);
                self.dead.extend(dead.into_iter().map(|revision| (group.space.id, revision)));
            }
            for (planned, answer) in group.answers {
                let _ = answer.send(match &result {
                    Err(error) if planned.depends_on_commit => Err(error.clone()),
                    _ => planned.answer,
                });
            }
        }
    }

    /// Writes the groups and deletes up to `sweep` superseded rows.
    fn write(&mut self, groups: &[Group], sweep: usize) -> Result<(), StoreError> {
        self.recover()?;
        let sections: Vec<Section<'_>> = groups
            .iter()
            .filter(|group| !group.effects.is_empty())
            .map(|group| Section {
                id: group.space.id,
                new_name: (!group.space.on_disk.load(Ordering::Acquire)).then_some(&*group.space.name),
                effects: &group.effects,
            })
            .collect();
        let sweep = sweep.min(self.dead.len());
        let dead: Vec<(u32, Revision)> = self.dead.iter().take(sweep).copied().collect();
        match self.disk.write(&sections, &dead) {
            Ok(()) => {
                self.dead.drain(..sweep);
                if matches!(self.health, Health::Full(_)) {
                    tracing::info!(path = self.path, "there is room on the disk again");
                    self.health = Health::Good;
                }
                self.commits.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => {
                let error = self.failed(error);
                // What the failed write left behind is removed at once if that is possible, so that it does
                // not come back should the program end now.
                if matches!(self.health, Health::Full(_))
                    && let Err(error) = self.reopen()
                {
                    self.failed(error);
                }
                Err(error)
            }
        }
    }

    /// Makes the disk ready for another try after it was full, if it is time for one.
    fn recover(&mut self) -> Result<(), StoreError> {
        match &self.health {
            Health::Good => Ok(()),
            Health::Failed(why) => Err(StoreError::Unavailable(why.clone())),
            Health::Full(since) => {
                if self.clock.instant().saturating_duration_since(*since) < FULL_DISK_PAUSE {
                    return Err(StoreError::NoSpace);
                }
                if !self.disk.is_open()
                    && let Err(error) = self.reopen()
                {
                    return Err(self.failed(error));
                }
                Ok(())
            }
        }
    }

    fn reopen(&mut self) -> Result<(), DiskError> {
        let spaces = self.spaces.lock().expect("no holder of the keyspaces lock panics").clone();
        let latest: Vec<_> = spaces.iter().map(|space| (space.id, space.keyspace.revision())).collect();
        self.disk.reopen(&latest)
    }

    fn failed(&mut self, error: DiskError) -> StoreError {
        if let DiskError::NoSpace = error {
            if !matches!(self.health, Health::Full(_)) {
                tracing::error!(path = self.path, "the disk is full: writes are refused until there is room");
            }
            self.health = Health::Full(self.clock.instant());
            return StoreError::NoSpace;
        }
        let why = format!("{} cannot be written: {error}", self.path);
        tracing::error!("{why}; restart knarr once the disk is sound, reads go on until then");
        self.health = Health::Failed(why.clone());
        StoreError::Unavailable(why)
    }
}

/// Works out what a batch does to each keyspace, requests to one keyspace in their order.
fn plan(batch: Vec<Queued>) -> Vec<Group> {
    let mut by_space: Vec<(Arc<Space>, Vec<Queued>)> = Vec::new();
    for queued in batch {
        match by_space.iter_mut().find(|(space, _)| space.id == queued.space.id) {
            Some((_, requests)) => requests.push(queued),
            None => by_space.push((queued.space.clone(), vec![queued])),
        }
    }
    by_space
        .into_iter()
        .map(|(space, requests)| {
            let keyspace = space.keyspace.clone();
            let state = keyspace.read();
            let mut plan = Plan::new(&state.index, &state.leases);
            let answers =
                requests.into_iter().map(|queued| (plan.add(queued.request), queued.answer)).collect();
            Group { space, effects: plan.finish(), answers }
        })
        .collect()
}
