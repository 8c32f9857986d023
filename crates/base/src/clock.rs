//! Time as a value that is handed in, so that a test can hold it still and move it on.
#![allow(clippy::disallowed_methods)] // the one place that asks the machine

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

/// A boxed future, as returned by object-safe traits.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Shared handle to a clock.
pub type ClockRef = Arc<dyn Clock>;

/// Wall-clock and monotonic time, and waiting on the latter.
pub trait Clock: Send + Sync + 'static {
    /// Wall-clock time, for timestamps in objects.
    fn now(&self) -> SystemTime;
    /// Monotonic time, for deadlines and durations.
    fn instant(&self) -> Instant;
    /// Resolves once `duration` of monotonic time has passed.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
    /// Resolves at this monotonic time. Unlike a sleep for what is left until then, it is not late by what passes
    /// between the look at the clock and the sleep.
    fn sleep_until(&self, at: Instant) -> BoxFuture<'static, ()>;
}

/// The machine's clock.
#[derive(Default)]
pub struct SystemClock;

impl SystemClock {
    /// The machine's clock.
    pub fn new() -> Self {
        Self
    }
}

impl Clock for SystemClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
    fn instant(&self) -> Instant {
        Instant::now()
    }
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
    fn sleep_until(&self, at: Instant) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep_until(at.into()))
    }
}

/// A clock that stands still until [`ManualClock::advance`] moves it.
pub struct ManualClock {
    start: Instant,
    state: Mutex<Manual>,
}

struct Manual {
    wall: SystemTime,
    elapsed: Duration,
    sleepers: Vec<(Duration, tokio::sync::oneshot::Sender<()>)>,
}

impl ManualClock {
    /// A clock whose wall time starts at `wall`.
    pub fn at(wall: SystemTime) -> Arc<Self> {
        let state = Mutex::new(Manual { wall, elapsed: Duration::ZERO, sleepers: Vec::new() });
        Arc::new(Self { start: Instant::now(), state })
    }

    /// Moves time on by `by` and wakes the sleepers whose time has come.
    pub fn advance(&self, by: Duration) {
        let mut state = self.state.lock().expect("clock lock is never poisoned");
        state.wall += by;
        state.elapsed += by;
        let elapsed = state.elapsed;
        let (due, rest) = std::mem::take(&mut state.sleepers).into_iter().partition(|(at, _)| *at <= elapsed);
        state.sleepers = rest;
        drop(state);
        let due: Vec<(Duration, tokio::sync::oneshot::Sender<()>)> = due;
        for (_, wake) in due {
            let _ = wake.send(());
        }
    }

    /// Sleeps until as much time has passed since the start as `until` says, told what has passed now.
    fn sleep_to(&self, until: impl FnOnce(Duration) -> Duration) -> BoxFuture<'static, ()> {
        let (wake, woken) = tokio::sync::oneshot::channel();
        let mut state = self.state.lock().expect("clock lock is never poisoned");
        let at = until(state.elapsed);
        if at <= state.elapsed {
            return Box::pin(std::future::ready(()));
        }
        state.sleepers.push((at, wake));
        Box::pin(async move {
            let _ = woken.await;
        })
    }
}

impl Clock for ManualClock {
    fn now(&self) -> SystemTime {
        self.state.lock().expect("clock lock is never poisoned").wall
    }
    fn instant(&self) -> Instant {
        self.start + self.state.lock().expect("clock lock is never poisoned").elapsed
    }
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.sleep_to(|elapsed| elapsed + duration)
    }
    fn sleep_until(&self, at: Instant) -> BoxFuture<'static, ()> {
        self.sleep_to(|_| at.saturating_duration_since(self.start))
    }
}

/// Limits `future` to `limit` of the clock's time; `None` when the time ran out first.
pub async fn timeout<T>(clock: &dyn Clock, limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        value = future => Some(value),
        () = clock.sleep(limit) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_manual_clock_wakes_sleepers_only_when_moved() {
        let clock = ManualClock::at(SystemTime::UNIX_EPOCH);
        let mut sleep = clock.sleep(Duration::from_secs(5));
        clock.advance(Duration::from_secs(4));
        assert!(futures_util::poll!(&mut sleep).is_pending());
        clock.advance(Duration::from_secs(1));
        sleep.await;
        assert_eq!(clock.now(), SystemTime::UNIX_EPOCH + Duration::from_secs(5));
    }

    #[tokio::test]
    async fn a_sleep_until_a_time_ends_then_whenever_it_began() {
        let clock = ManualClock::at(SystemTime::UNIX_EPOCH);
        let at = clock.instant() + Duration::from_secs(5);
        clock.advance(Duration::from_secs(4));
        let mut sleep = clock.sleep_until(at);
        assert!(futures_util::poll!(&mut sleep).is_pending());
        clock.advance(Duration::from_secs(1));
        sleep.await;
        clock.sleep_until(at).await;
        SystemClock::new().sleep_until(SystemClock::new().instant()).await;
    }
}
