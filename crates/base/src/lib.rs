//! What every room stands on: the clock, random numbers, supervised tasks, readiness, metrics, backoff
//! and typed identifiers. A control plane is a value: everything here is handed in through [`Ctx`], and
//! two control planes in one process share nothing.

pub mod backoff;
pub mod clock;
pub mod ids;
pub mod logging;
pub mod metrics;
pub mod rng;
pub mod tasks;

pub use backoff::Backoff;
pub use clock::{Clock, ClockRef, ManualClock, SystemClock};
pub use metrics::Metrics;
pub use rng::{Rng, RngRef, SystemRng};
pub use tasks::{ReadyGate, Tasks};

/// What a component needs of its surroundings. Cheap to clone; `Ctx::child` narrows the task scope.
#[derive(Clone)]
pub struct Ctx {
    /// Wall and monotonic time.
    pub clock: ClockRef,
    /// Random numbers for names, jitter and keys that are not secrets.
    pub rng: RngRef,
    /// Where tasks are spawned; ends with its parent.
    pub tasks: Tasks,
    /// The metrics of this control plane.
    pub metrics: Metrics,
}

impl Ctx {
    /// A context over the machine's own clock and random numbers. Needs a running tokio runtime.
    pub fn system() -> Self {
        let clock: ClockRef = std::sync::Arc::new(SystemClock::new());
        Self {
            rng: std::sync::Arc::new(SystemRng),
            tasks: Tasks::root(clock.clone()),
            metrics: Metrics::default(),
            clock,
        }
    }

    /// The same context with a task scope of its own named `name` under this one.
    pub fn child(&self, name: &str) -> Self {
        Self { tasks: self.tasks.child(name), ..self.clone() }
    }
}
