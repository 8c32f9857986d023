//! The work queue of controllers (client-go's workqueue): a key that is added while it waits is kept once; a
//! key that is added while it is worked on is handed out again afterwards; failures wait longer each time.

use knarr_base::Ctx;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

const FIRST_RETRY: Duration = Duration::from_millis(5);
const LONGEST_RETRY: Duration = Duration::from_secs(1000);

struct State<T> {
    waiting: VecDeque<T>,
    dirty: HashSet<T>,
    working: HashSet<T>,
    failures: HashMap<T, u32>,
    /// When keys that wait for their time are due; the soonest for each.
    due: HashMap<T, Instant>,
    closed: bool,
}

/// A de-duplicating queue. Cheap to clone.
pub struct WorkQueue<T> {
    state: Arc<Mutex<State<T>>>,
    wake: Arc<Notify>,
    ctx: Ctx,
}

impl<T> Clone for WorkQueue<T> {
    fn clone(&self) -> Self {
        Self { state: self.state.clone(), wake: self.wake.clone(), ctx: self.ctx.clone() }
    }
}

impl<T: Clone + Eq + Hash + Send + Sync + 'static> WorkQueue<T> {
    /// An empty queue; delayed keys wait in `ctx`'s task scope.
    pub fn new(ctx: Ctx) -> Self {
        let state = State {
            waiting: VecDeque::new(),
            dirty: HashSet::new(),
            working: HashSet::new(),
            failures: HashMap::new(),
            due: HashMap::new(),
            closed: false,
        };
        Self { state: Arc::new(Mutex::new(state)), wake: Arc::default(), ctx }
    }

    /// Adds a key.
    pub fn add(&self, key: T) {
        let mut state = self.lock();
        if state.closed || !state.dirty.insert(key.clone()) || state.working.contains(&key) {
            return;
        }
        state.waiting.push_back(key);
        drop(state);
        self.wake.notify_one();
    }

    /// Adds a key once `delay` has passed. A key waits for one time only, the soonest: who needs a later one too
    /// asks again when the key is worked on.
    pub fn add_after(&self, key: T, delay: Duration) {
        self.add_at(key, self.ctx.clock.instant() + delay);
    }

    /// [`WorkQueue::add_after`] for a time of the monotonic clock: who reckoned with a look at the clock that is a
    /// while ago is not late by that while.
    pub fn add_at(&self, key: T, at: Instant) {
        if at <= self.ctx.clock.instant() {
            return self.add(key);
        }
        {
            let mut state = self.lock();
            if state.due.get(&key).is_some_and(|due| *due <= at) {
                return;
            }
            state.due.insert(key.clone(), at);
        }
        let (queue, sleep) = (self.clone(), self.ctx.clock.sleep_until(at));
        self.ctx.tasks.spawn_until_stopped("queue-delay", async move {
            sleep.await;
            let is_due = {
                let mut state = queue.lock();
                let is_due = state.due.get(&key) == Some(&at);
                if is_due {
                    state.due.remove(&key);
                }
                is_due
            };
            if is_due {
                queue.add(key);
            }
        });
    }

    /// Adds a key after a delay that doubles with every call since the last [`WorkQueue::forget`].
    pub fn add_rate_limited(&self, key: T) {
        let failures = {
            let mut state = self.lock();
            let failures = state.failures.entry(key.clone()).or_default();
            *failures += 1;
            *failures - 1
        };
        let delay =
            FIRST_RETRY.saturating_mul(1u32.checked_shl(failures).unwrap_or(u32::MAX)).min(LONGEST_RETRY);
        self.add_after(key, delay);
    }

    /// How often the key was rate limited since it was last forgotten.
    pub fn failures(&self, key: &T) -> u32 {
        self.lock().failures.get(key).copied().unwrap_or_default()
    }

    /// Clears the failures of a key.
    pub fn forget(&self, key: &T) {
        self.lock().failures.remove(key);
    }

    /// The next key; `None` once the queue is closed. Call [`WorkQueue::done`] afterwards.
    pub async fn next(&self) -> Option<T> {
        loop {
            let woken = self.wake.notified();
            {
                let mut state = self.lock();
                if let Some(key) = state.waiting.pop_front() {
                    state.dirty.remove(&key);
                    state.working.insert(key.clone());
                    let more = !state.waiting.is_empty();
                    drop(state);
                    if more {
                        self.wake.notify_one();
                    }
                    return Some(key);
                }
                if state.closed {
                    drop(state);
                    self.wake.notify_one();
                    return None;
                }
            }
            woken.await;
        }
    }

    /// The key has been worked on.
    pub fn done(&self, key: &T) {
        let mut state = self.lock();
        state.working.remove(key);
        if state.dirty.contains(key) {
            state.waiting.push_back(key.clone());
            drop(state);
            self.wake.notify_one();
        }
    }

    /// Keys waiting.
    pub fn len(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Whether none wait.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Hands out what waits and then ends.
    pub fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_one();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State<T>> {
        self.state.lock().expect("queue lock is never poisoned")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_waits_once_and_comes_back_when_added_while_worked_on() {
        let queue = WorkQueue::new(Ctx::system());
        queue.add("a");
        queue.add("a");
        queue.add("b");
        assert_eq!(queue.len(), 2);
        assert_eq!(queue.next().await, Some("a"));
        queue.add("a");
        assert_eq!(queue.next().await, Some("b"));
        assert!(queue.is_empty());
        queue.done(&"a");
        assert_eq!(queue.next().await, Some("a"));
        queue.close();
        assert_eq!(queue.next().await, None);
    }
    #[tokio::test]
    async fn a_key_waits_for_the_soonest_time_only() {
        let clock = knarr_base::ManualClock::at(std::time::SystemTime::UNIX_EPOCH);
        let queue = WorkQueue::new(Ctx { clock: clock.clone(), ..Ctx::system() });
        queue.add_after("a", Duration::from_secs(30));
        queue.add_after("a", Duration::from_secs(10));
        queue.add_after("a", Duration::from_secs(20));
        clock.advance(Duration::from_secs(10));
        assert_eq!(queue.next().await, Some("a"));
        queue.done(&"a");
        clock.advance(Duration::from_secs(30));
        queue.close();
        assert_eq!(queue.next().await, None);
    }
}
