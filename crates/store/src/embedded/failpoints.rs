//! Places where a test makes an engine fail: every step of every operation has one. They belong to one engine, are
//! handed in when it is opened, and are not there in a program that is not built for tests.

#[cfg(any(test, feature = "testing"))]
pub use armed::{Action, Failpoints};

/// A step of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Before a key is read, at a revision or now.
    Get,
    /// Before a range is read.
    Range,
    /// Before a watch is registered.
    Watch,
    /// Before a batch of writes (puts, deletes, leases, compactions) is evaluated.
    Plan,
    /// Before its frame is written to the journal.
    Write,
    /// After that, before it is synced.
    Sync,
    /// After it is synced, before it counts as written.
    Synced,
    /// Before it is made visible and answered.
    Publish,
    /// After that.
    Published,
    /// Before a generation of the journal is moved to the database.
    Checkpoint,
    /// After that.
    Checkpointed,
    /// Before dead rows are deleted.
    Sweep,
    /// After that.
    Swept,
}

impl Step {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Get,
        Self::Range,
        Self::Watch,
        Self::Plan,
        Self::Write,
        Self::Sync,
        Self::Synced,
        Self::Publish,
        Self::Published,
        Self::Checkpoint,
        Self::Checkpointed,
        Self::Sweep,
        Self::Swept,
    ];
}

/// Stands where no test can be.
#[cfg(not(any(test, feature = "testing")))]
#[derive(Clone, Debug, Default)]
pub struct Failpoints;

#[cfg(not(any(test, feature = "testing")))]
impl Failpoints {
    /// Nothing fails here.
    #[inline]
    pub(crate) fn hit(&self, _step: Step) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(any(test, feature = "testing"))]
mod armed {
    use super::Step;
    use std::collections::HashMap;
    use std::io;
    use std::sync::{Arc, Condvar, Mutex};

    /// What happens at a step.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Action {
        /// It fails once, as if the system had said so.
        Fail(io::ErrorKind),
        /// It waits until [`Failpoints::clear`].
        Hang,
        /// The process ends at once, as by `kill -9`.
        Die,
    }

    #[derive(Debug, Default)]
    struct State {
        actions: HashMap<Step, Action>,
        hits: HashMap<Step, u64>,
    }

    /// The failpoints of an engine. Clones are the same.
    #[derive(Clone, Debug, Default)]
    pub struct Failpoints(Arc<(Mutex<State>, Condvar)>);

    impl Failpoints {
        fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
            act(&mut self.0.0.lock().expect("no holder of the failpoints panics"))
        }

        /// Has a step do something the next time (or, hanging, every time).
        pub fn set(&self, step: Step, action: Action) {
            self.with(|state| {
                state.actions.insert(step, action);
            });
        }

        /// Has nothing fail any more, and lets go whatever hangs.
        pub fn clear(&self) {
            self.with(|state| state.actions.clear());
            self.0.1.notify_all();
        }

        /// How often a step has been reached.
        pub fn hits(&self, step: Step) -> u64 {
            self.with(|state| state.hits.get(&step).copied().unwrap_or(0))
        }

        /// A step is reached.
        pub(crate) fn hit(&self, step: Step) -> io::Result<()> {
            let (lock, changed) = &*self.0;
            let mut state = lock.lock().expect("no holder of the failpoints panics");
            *state.hits.entry(step).or_default() += 1;
            match state.actions.get(&step).copied() {
                None => Ok(()),
                Some(Action::Die) => std::process::abort(),
                Some(Action::Fail(kind)) => {
                    state.actions.remove(&step);
                    Err(io::Error::new(kind, format!("the failpoint {step:?}")))
                }
                Some(Action::Hang) => {
                    let hangs = |state: &mut State| state.actions.get(&step) == Some(&Action::Hang);
                    drop(changed.wait_while(state, hangs).expect("no holder of the failpoints panics"));
                    Ok(())
                }
            }
        }
    }
}
