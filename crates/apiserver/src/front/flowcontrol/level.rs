//! A priority level as requests meet it: they enter, wait if they must, and hold seats until the [`Seat`] is dropped.
//! One short lock on entry and one on leaving is all there is while nobody waits.

use super::queueset::{Place, QueueSet, Running, Start, Width};
use super::stats::Reason;
use knarr_base::Ctx;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, oneshot};

/// See the module's documentation.
pub struct Level {
    /// Its name.
    pub name: String,
    ctx: Ctx,
    epoch: Instant,
    set: Mutex<QueueSet>,
    /// The most seats of one request, 0 for no limit of its own.
    max_seats: AtomicU64,
    /// Told when a level that is to go has nothing left.
    drained: Arc<Notify>,
}

/// The seats of a request. Dropping it gives them back.
pub struct Seat {
    level: Arc<Level>,
    running: Option<Running>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            let now = self.level.now();
            let mut set = self.level.lock();
            set.finish(now, running);
            self.level.after(set);
        }
    }
}

/// Takes a request out of its queue when whoever waits for it goes away.
struct Waiter {
    level: Arc<Level>,
    place: Place,
    turn: oneshot::Receiver<Running>,
    done: bool,
}

impl Waiter {
    /// Out of the queue; the seat if its turn has come in the meantime.
    fn leave(&mut self) -> Option<Seat> {
        self.done = true;
        let now = self.level.now();
        let mut set = self.level.lock();
        let left = set.abandon(now, self.place);
        self.level.after(set);
        if left {
            return None;
        }
        let running = self.turn.try_recv().ok()?;
        Some(Seat { level: self.level.clone(), running: Some(running) })
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if !self.done {
            drop(self.leave());
        }
    }
}

impl Level {
    /// A level without seats. Times count from `epoch`.
    pub fn new(name: &str, ctx: &Ctx, epoch: Instant, drained: Arc<Notify>) -> Arc<Self> {
        let now = nanos(ctx.clock.instant(), epoch);
        Arc::new(Self {
            name: name.to_owned(),
            ctx: ctx.clone(),
            epoch,
            set: Mutex::new(QueueSet::new(now)),
            max_seats: AtomicU64::new(0),
            drained,
        })
    }

    /// Nanoseconds since the epoch.
    pub fn now(&self) -> u64 {
        nanos(self.ctx.clock.instant(), self.epoch)
    }

    fn lock(&self) -> MutexGuard<'_, QueueSet> {
        self.set.lock().expect("no holder of a priority level panics")
    }

    /// Does something to the queues.
    pub fn with<T>(self: &Arc<Self>, act: impl FnOnce(&mut QueueSet, u64) -> T) -> T {
        let now = self.now();
        let mut set = self.lock();
        let result = act(&mut set, now);
        self.after(set);
        result
    }

    /// The most seats of one request, 0 for no limit of its own.
    pub fn max_seats(&self) -> u64 {
        self.max_seats.load(Ordering::Relaxed)
    }

    /// Sets [`Level::max_seats`].
    pub fn set_max_seats(&self, seats: u64) {
        self.max_seats.store(seats, Ordering::Relaxed);
    }

    /// Enters, waiting at most `limit`. `watchers` is counted for writes, `waits` is called when it has to wait.
    #[allow(clippy::too_many_arguments)]
    pub async fn enter(
        self: &Arc<Self>,
        width: Width,
        hash: u64,
        flow: usize,
        watch: bool,
        watchers: Option<usize>,
        limit: Duration,
        waits: impl FnOnce() -> Box<dyn Send>,
    ) -> Result<Seat, Reason> {
        let started = self.with(|set, now| {
            if let Some(watchers) = watchers {
                set.observe_watchers(flow, watchers);
            }
            set.start(now, width, hash, flow, watch)
        });
        let (place, turn) = match started {
            Start::Granted(running) => return Ok(Seat { level: self.clone(), running: Some(running) }),
            Start::Rejected(reason) => return Err(reason),
            Start::Queued(place, turn) => (place, turn),
        };
        let mut waiter = Waiter { level: self.clone(), place, turn, done: false };
        let _noted = waits();
        let turn = knarr_base::clock::timeout(&*self.ctx.clock, limit, &mut waiter.turn).await;
        match turn {
            Some(Ok(running)) => {
                waiter.done = true;
                Ok(Seat { level: self.clone(), running: Some(running) })
            }
            Some(Err(_)) => Err(Reason::TimeOut),
            None => waiter.leave().ok_or(Reason::TimeOut),
        }
    }

    /// What a change of the queues calls for: a timer for lingering seats, word that the level is empty.
    fn after(self: &Arc<Self>, mut set: MutexGuard<'_, QueueSet>) {
        if set.quiescing && set.is_idle() {
            self.drained.notify_one();
        }
        let Some(until) = set.next_release().filter(|_| !set.timer_set) else { return };
        set.timer_set = true;
        drop(set);
        let level = self.clone();
        self.ctx.tasks.spawn_until_stopped("lingering seats", async move { level.run_timer(until).await });
    }

    async fn run_timer(self: Arc<Self>, mut until: u64) {
        loop {
            let left = until.saturating_sub(self.now());
            self.ctx.clock.sleep(Duration::from_nanos(left)).await;
            let now = self.now();
            let mut set = self.lock();
            set.advance(now);
            match set.next_release() {
                Some(next) => until = next,
                None => {
                    set.timer_set = false;
                    return;
                }
            }
        }
    }
}

fn nanos(at: Instant, epoch: Instant) -> u64 {
    u64::try_from(at.saturating_duration_since(epoch).as_nanos()).unwrap_or(u64::MAX)
}
