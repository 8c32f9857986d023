//! Moving commits from the journal into the database, and superseded rows out of it, on a thread of its own
//! so that no writer waits for it. The commit thread hands over one generation of the journal at a time.

use super::disk::{Disk, DiskError};
use super::pending::Pending;
use crate::Revision;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// Superseded rows deleted in one transaction.
const SWEEP_ROWS: usize = 1024;
/// How long to wait after the disk was full.
const FULL_DISK_PAUSE: Duration = Duration::from_secs(1);

/// What there is to do, shared by the commit thread and the checkpoint thread.
#[derive(Default)]
pub(crate) struct Work {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// What a closed generation holds, and the generation after it.
    generation: Option<Arc<(Pending, u64)>>,
    /// Dead rows to delete before the generation is moved: it may lack the deletion of a key, dead as well,
    /// without which an older row of that key would come back to life.
    dead_before: VecDeque<(u32, Revision)>,
    /// Other rows that nobody can read any more. Older rows of a key stand before newer ones.
    dead: VecDeque<(u32, Revision)>,
    closed: bool,
    /// Whether the last try found the disk full.
    full: bool,
    /// Why nothing can be written any more.
    failed: Option<String>,
}

/// How things stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Ready for the next generation.
    Idle,
    /// A generation is being moved.
    Busy,
    /// It cannot be moved while the disk is full.
    Full,
    /// It cannot be moved.
    Failed(String),
}

impl Work {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the checkpoint lock panics")
    }

    /// How things stand.
    pub fn progress(&self) -> Progress {
        self.lock().progress()
    }

    /// Hands over a generation; only when [`Progress::Idle`].
    pub fn hand_over(&self, pending: Pending, next_generation: u64) {
        let mut state = self.lock();
        assert!(state.generation.is_none(), "one generation at a time");
        state.generation = Some(Arc::new((pending, next_generation)));
        state.dead_before = std::mem::take(&mut state.dead);
        drop(state);
        self.changed.notify_all();
    }

    /// Hands over rows to delete. They are in the database, or in a generation handed over before.
    pub fn add_dead(&self, dead: impl IntoIterator<Item = (u32, Revision)>) {
        let mut state = self.lock();
        state.dead.extend(dead);
        let some = !state.dead.is_empty();
        drop(state);
        if some {
            self.changed.notify_all();
        }
    }

    /// Waits until a generation can be handed over, or it is known that it cannot.
    pub fn wait(&self) -> Progress {
        let busy = |state: &mut State| state.progress() == Progress::Busy;
        let state = self.changed.wait_while(self.lock(), busy);
        state.expect("no holder of the checkpoint lock panics").progress()
    }

    /// No more work comes. A generation handed over is still moved, rows are left to the next opening.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }
}

impl State {
    fn dead_rows(&mut self, before: bool) -> &mut VecDeque<(u32, Revision)> {
        if before { &mut self.dead_before } else { &mut self.dead }
    }

    fn progress(&self) -> Progress {
        match (&self.failed, &self.generation) {
            (Some(why), _) => Progress::Failed(why.clone()),
            (None, None) => Progress::Idle,
            (None, Some(_)) if self.full => Progress::Full,
            (None, Some(_)) => Progress::Busy,
        }
    }
}

/// The checkpoint thread: works until there is nothing to do and no more to come.
pub(crate) fn run(mut disk: Disk, work: &Work) {
    let _fail = FailOnPanic(work);
    loop {
        {
            let mut state = work.lock();
            if state.full && !state.closed {
                let pause = work.changed.wait_timeout_while(state, FULL_DISK_PAUSE, |state| !state.closed);
                state = pause.expect("no holder of the checkpoint lock panics").0;
            }
            let idle =
                |state: &mut State| state.generation.is_none() && state.dead.is_empty() && !state.closed;
            let state =
                work.changed.wait_while(state, idle).expect("no holder of the checkpoint lock panics");
            if state.failed.is_some() || state.closed && (state.generation.is_none() || state.full) {
                return;
            }
        }
        step(&mut disk, work);
    }
}

/// Moves a generation, or deletes one slice of rows. A test may call this itself.
pub(crate) fn step(disk: &mut Disk, work: &Work) {
    // What is worked on stays in the shared state until it is done, so that progress tells the truth.
    let mut state = work.lock();
    let before = !state.dead_before.is_empty();
    let result = if let Some(generation) = state.generation.clone().filter(|_| !before) {
        drop(state);
        let result = disk.checkpoint(&generation.0, generation.1);
        state = work.lock();
        if result.is_ok() {
            state.generation = None;
        }
        result
    } else {
        let slice = state.dead_rows(before).iter().take(SWEEP_ROWS).copied().collect::<Vec<_>>();
        if slice.is_empty() {
            return;
        }
        drop(state);
        let result = disk.sweep(&slice);
        state = work.lock();
        // A hand-over in between has moved the rows to the other list.
        let before = before || !state.dead_before.is_empty();
        if result.is_ok() {
            state.dead_rows(before).drain(..slice.len());
        }
        result
    };
    match result {
        Ok(()) => {
            if std::mem::take(&mut state.full) {
                tracing::info!("there is room on the store's disk again");
            }
        }
        Err(DiskError::NoSpace) => {
            if !std::mem::replace(&mut state.full, true) {
                tracing::error!("the store's disk is full: its journal cannot be moved into the database");
            }
        }
        Err(error) => state.failed = Some(error.to_string()),
    }
    drop(state);
    work.changed.notify_all();
}

/// Lets nobody wait for a checkpoint thread that has ended.
struct FailOnPanic<'a>(&'a Work);

impl Drop for FailOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.lock().failed = Some("the checkpoint thread panicked".into());
            self.0.changed.notify_all();
        }
    }
}
