//! Group commit: one thread takes whatever requests are queued, evaluates their expectations in order,
//! appends one frame to the journal, syncs once, then makes it visible and answers. Throughput comes from the batch, never
//! from skipping the sync. [`Committer::commit`] is one turn of the loop, which a test can drive itself.

use super::checkpoint::{Progress, Work};
use super::failpoints::{Failpoints, Step};
use super::file::{IoCounters, is_no_space};
use super::journal::Journal;
use super::pending::{self, Pending, Section};
use crate::keyspace::Keyspace;
use crate::plan::{Answer, Effects, Plan, Planned, Request};
use crate::{Revision, StoreError, lease};
use knarr_base::{ClockRef, Tasks};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::oneshot;

/// At most this many bytes of keys and values go into one batch: it bounds how long a writer waits for the
/// batch before its own, and the memory of the transaction.
const BATCH_BYTES: usize = 8 << 20;
/// At most this many requests go into one batch.
const BATCH_REQUESTS: usize = 2048;
/// While the database cannot take the journal in, the journal may grow to this many times its usual size.
const JOURNAL_EXCESS: u64 = 8;
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

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.lock().waiting.is_empty()
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

    /// The next batch, `None` when the queue is closed and empty. When the batch before had `expected`
    /// requests, their writers are likely to be back within moments of being answered: waits for that many
    /// up to `patience`, as else the first of them would have a sync to itself and the rest another.
    pub fn take(&self, expected: usize, patience: Duration) -> Option<Vec<Queued>> {
        const POISONED: &str = "no holder of the queue lock panics";
        let idle = |state: &mut QueueState| state.waiting.is_empty() && !state.closed;
        let mut state = self.changed.wait_while(self.lock(), idle).expect(POISONED);
        if state.waiting.len() < expected {
            let few = |state: &mut QueueState| state.waiting.len() < expected && !state.closed;
            state = self.changed.wait_timeout_while(state, patience, few).expect(POISONED).0;
        }
        Self::batch(state)
    }

    /// The next batch, `None` when nothing waits.
    #[cfg(test)]
    pub fn try_take(&self) -> Option<Vec<Queued>> {
        Self::batch(self.lock())
    }

    fn batch(mut state: MutexGuard<'_, QueueState>) -> Option<Vec<Queued>> {
        if state.waiting.is_empty() {
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

/// What the commit thread owns.
pub(crate) struct Committer {
    journal: Journal,
    /// What is in the journal's present generation.
    pending: Pending,
    /// Where generations go when they are full.
    work: Arc<Work>,
    options: CommitterOptions,
    /// Keyspaces whose history has become too large, and what to compact them at with the next batch.
    overgrown: Vec<(Arc<Space>, Revision)>,
    /// Keyspaces whose history may have something to pack.
    changed: Vec<Arc<Space>>,
    /// Why nothing can be written any more.
    failed: Option<String>,
    /// Whether the last write found the disk full.
    full: bool,
    payload: Vec<u8>,
    record: Vec<u8>,
}

/// What a [`Committer`] is told about its surroundings.
pub(crate) struct CommitterOptions {
    /// The directory, for messages.
    pub path: String,
    /// Time, for leases and waiting.
    pub clock: ClockRef,
    /// A generation of the journal is closed at this size.
    pub journal_bytes: u64,
    /// History that takes more memory than this is compacted early.
    pub history_bytes: u64,
    /// Where it fails, in tests.
    pub failpoints: Failpoints,
    /// Counts commits.
    pub commits: Arc<AtomicU64>,
    /// Tells the journal's size.
    pub counters: Arc<IoCounters>,
}

/// Leaves nobody waiting for a commit thread that has ended.
struct AbandonOnExit<'a> {
    queue: &'a Queue,
    work: &'a Work,
    tasks: Tasks,
}

impl Drop for AbandonOnExit<'_> {
    fn drop(&mut self) {
        self.queue.abandon();
        self.work.close();
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
    /// A committer on an opened journal.
    pub fn new(journal: Journal, work: Arc<Work>, options: CommitterOptions) -> Self {
        options.counters.journal_len.store(journal.file_bytes(), Ordering::Relaxed);
        Self {
            journal,
            pending: Pending::default(),
            work,
            options,
            overgrown: Vec::new(),
            changed: Vec::new(),
            failed: None,
            full: false,
            payload: Vec::new(),
            record: Vec::new(),
        }
    }

    /// The commit thread: batches until the queue closes, then hands everything to the checkpoint thread. Should
    /// the thread panic, the queue is closed and `tasks` is told to stop.
    pub fn run(mut self, queue: &Queue, tasks: Tasks) {
        let _abandon = AbandonOnExit { queue, work: &self.work.clone(), tasks };
        let mut expected = 0;
        let mut patience = Duration::ZERO;
        while let Some(batch) = queue.take(expected, patience) {
            expected = batch.len();
            let start = self.options.clock.instant();
            self.commit(batch);
            let took = self.options.clock.instant().saturating_duration_since(start);
            patience = (took / 2).min(COMPANY_LIMIT);
            while queue.is_empty() && self.pack() {}
        }
        self.finish();
    }

    /// Hands what is left to the checkpoint thread.
    pub fn finish(&mut self) {
        if !self.pending.is_empty() && self.failed.is_none() && self.work.wait() == Progress::Idle {
            self.hand_over();
        }
    }

    /// Commits one batch.
    pub fn commit(&mut self, mut batch: Vec<Queued>) {
        if let Err(error) = self.options.failpoints.hit(Step::Plan) {
            let error = StoreError::Unavailable(error.to_string());
            batch.into_iter().for_each(|queued| drop(queued.answer.send(Err(error.clone()))));
            return;
        }
        for (space, revision) in self.overgrown.drain(..) {
            let request = Request::Compact(revision);
            batch.push(Queued { space, request, answer: oneshot::channel().0 });
        }
        let groups = plan(batch);
        let writes = groups.iter().any(|group| !group.effects.is_empty());
        let result = if writes { self.write(&groups) } else { Ok(()) };
        // What is on disk becomes visible whatever happens, so that here it can only take long, or the process ends.
        let _ = self.options.failpoints.hit(Step::Publish);
        for group in groups {
            if result.is_ok() && !group.effects.is_empty() {
                group.space.on_disk.store(true, Ordering::Release);
                let deadline = |grant: &_| lease::deadline(&*self.options.clock, grant);
                let dead = group.space.keyspace.commit(group.effects, deadline);
                let dead = dead.into_iter().map(|revision| (group.space.id, revision));
                // What is still pending need never reach the database.
                let pending = &mut self.pending.changes;
                self.work.add_dead(dead.filter(|row| pending.remove(row).is_none()).collect::<Vec<_>>());
                self.look_at_history(&group.space);
            }
            for (planned, answer) in group.answers {
                let _ = answer.send(match &result {
                    Err(error) if planned.depends_on_commit => Err(error.clone()),
                    _ => planned.answer,
                });
            }
        }
        let _ = self.options.failpoints.hit(Step::Published);
    }

    /// Packs some of the history of a keyspace. False when there is nothing to do.
    fn pack(&mut self) -> bool {
        let Some(space) = self.changed.last() else { return false };
        if !space.keyspace.pack() {
            self.changed.pop();
        }
        true
    }

    fn look_at_history(&mut self, space: &Arc<Space>) {
        if !self.changed.iter().any(|other| other.id == space.id) {
            self.changed.push(space.clone());
        }
        let limit = self.options.history_bytes;
        let state = space.keyspace.read();
        if state.index.history_bytes() > limit
            && let Some(revision) = state.index.compaction_for(limit / 3 * 2)
        {
            self.overgrown.push((space.clone(), revision));
        }
    }

    /// Writes the groups to the journal.
    fn write(&mut self, groups: &[Group]) -> Result<(), StoreError> {
        if let Some(why) = &self.failed {
            return Err(StoreError::Unavailable(why.clone()));
        }
        self.make_room()?;
        let sections = || {
            groups.iter().filter(|group| !group.effects.is_empty()).map(|group| Section {
                id: group.space.id,
                new_name: (!group.space.on_disk.load(Ordering::Acquire)).then_some(&*group.space.name),
                effects: &group.effects,
            })
        };
        self.payload.clear();
        for section in sections() {
            pending::encode(&section, &mut self.payload, &mut self.record);
        }
        let result = self.journal.append(&self.payload);
        // The next frame is written over one that failed.
        self.options.counters.unsure.store(result.is_err(), Ordering::SeqCst);
        self.options.counters.journal_len.store(self.journal.file_bytes(), Ordering::Relaxed);
        if self.payload.capacity() > 1 << 20 {
            self.payload = Vec::new();
        }
        match result {
            Ok(()) => {
                for section in sections() {
                    self.pending.add(&section);
                }
                self.options.commits.fetch_add(1, Ordering::Relaxed);
                if std::mem::take(&mut self.full) {
                    tracing::info!(path = self.options.path, "there is room on the store's disk again");
                }
                Ok(())
            }
            Err(error)
                if is_no_space(&error) && !self.options.counters.sync_failed.load(Ordering::SeqCst) =>
            {
                Err(self.no_space())
            }
            Err(error) => Err(self.fail(error.to_string())),
        }
    }

    /// Hands a full generation over and begins the next, if the one before is in the database.
    fn make_room(&mut self) -> Result<(), StoreError> {
        if self.journal.bytes() < self.options.journal_bytes {
            return Ok(());
        }
        let excess = self.journal.bytes() >= self.options.journal_bytes * JOURNAL_EXCESS;
        match if excess { self.work.wait() } else { self.work.progress() } {
            Progress::Idle => self.hand_over(),
            Progress::Failed(why) => return Err(self.fail(why)),
            Progress::Full if excess => return Err(self.no_space()),
            Progress::Busy | Progress::Full => {}
        }
        Ok(())
    }

    fn hand_over(&mut self) {
        self.journal.rotate();
        self.work.hand_over(std::mem::take(&mut self.pending), self.journal.generation());
    }

    fn no_space(&mut self) -> StoreError {
        if !std::mem::replace(&mut self.full, true) {
            tracing::error!(
                path = self.options.path,
                "the disk is full: writes are refused until there is room"
            );
        }
        StoreError::NoSpace
    }

    fn fail(&mut self, error: String) -> StoreError {
        let why = format!("{} cannot be written: {error}", self.options.path);
        tracing::error!("{why}; restart knarr once the disk is sound, reads go on until then");
        self.failed = Some(why.clone());
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
