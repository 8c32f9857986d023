//! Supervised tasks: every long-running part is a named task in a scope that can be told to stop, is
//! given a deadline to drain, and is then ended. A panic in a task is logged and stops its scope, so that
//! a core service fails loudly.
#![allow(clippy::disallowed_methods)] // the one place that spawns

use crate::clock::{ClockRef, timeout};
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A scope of tasks. Clones share the scope; [`Tasks::child`] makes a scope that ends with this one.
#[derive(Clone)]
pub struct Tasks {
    name: Arc<str>,
    stop: CancellationToken,
    tracker: TaskTracker,
    gates: Arc<Mutex<Vec<ReadyGate>>>,
    clock: ClockRef,
    panicked: Arc<AtomicBool>,
}

impl Tasks {
    /// The outermost scope.
    pub fn root(clock: ClockRef) -> Self {
        Self {
            name: "".into(),
            stop: CancellationToken::new(),
            tracker: TaskTracker::new(),
            gates: Arc::default(),
            clock,
            panicked: Arc::default(),
        }
    }

    /// A scope within this one, with tasks and a stop of its own.
    pub fn child(&self, name: &str) -> Self {
        let name = if self.name.is_empty() { name.into() } else { format!("{}/{name}", self.name).into() };
        Self { name, stop: self.stop.child_token(), tracker: TaskTracker::new(), ..self.clone() }
    }

    /// Runs `future` until it ends or is dropped at the end of the drain deadline. The future itself must
    /// watch [`Tasks::stopping`] if it has something to finish; [`Tasks::spawn_until_stopped`] is for the rest.
    pub fn spawn<F>(&self, name: &str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let label = format!("{}/{name}", self.name);
        let stop = self.stop.clone();
        let panicked = self.panicked.clone();
        let inner = tokio::spawn(self.tracker.track_future(future));
        tokio::spawn(async move {
            if let Err(error) = inner.await
                && error.is_panic()
            {
                tracing::error!(task = label, "task panicked; stopping its scope");
                panicked.store(true, Ordering::SeqCst);
                stop.cancel();
            }
        });
    }

    /// Runs `future` and drops it when the scope is told to stop.
    pub fn spawn_until_stopped<F>(&self, name: &str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let stop = self.stop.clone();
        self.spawn(name, async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = future => {}
            }
        });
    }

    /// Resolves when the scope is told to stop.
    pub async fn stopping(&self) {
        self.stop.cancelled().await;
    }

    /// Whether the scope was told to stop.
    pub fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Tells the scope and its children to stop, without waiting.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Stops the scope and waits for its own tasks (not its children's), at most `deadline`. False when
    /// tasks were still running then.
    pub async fn shutdown(&self, deadline: Duration) -> bool {
        self.stop.cancel();
        self.tracker.close();
        let drained = timeout(&*self.clock, deadline, self.tracker.wait()).await.is_some();
        if !drained {
            tracing::warn!(
                scope = &*self.name,
                left = self.tracker.len(),
                "tasks outlived the drain deadline"
            );
        }
        drained
    }

    /// Whether any task of this tree of scopes has panicked.
    pub fn has_panicked(&self) -> bool {
        self.panicked.load(Ordering::SeqCst)
    }

    /// A gate that keeps [`Tasks::unready`] non-empty until it is opened. Fails closed.
    pub fn ready_gate(&self, name: &str) -> ReadyGate {
        let gate = ReadyGate { name: name.into(), open: Arc::default() };
        self.gates.lock().expect("gate lock is never poisoned").push(gate.clone());
        gate
    }

    /// The names of the gates, each with whether it is open, in the order they were made.
    pub fn gates(&self) -> Vec<(String, bool)> {
        let gates = self.gates.lock().expect("gate lock is never poisoned");
        gates.iter().map(|g| (g.name.to_string(), g.is_open())).collect()
    }

    /// The names of the gates not opened yet, over the whole tree of scopes.
    pub fn unready(&self) -> Vec<String> {
        self.gates().into_iter().filter(|(_, open)| !open).map(|(name, _)| name).collect()
    }
}

/// One part's word that it is ready.
#[derive(Clone)]
pub struct ReadyGate {
    name: Arc<str>,
    open: Arc<AtomicBool>,
}

impl ReadyGate {
    /// Says that the part is ready.
    pub fn open(&self) {
        self.open.store(true, Ordering::SeqCst);
    }
    /// Says that the part is not ready (any more).
    pub fn close(&self) {
        self.open.store(false, Ordering::SeqCst);
    }
    /// Whether the part is ready.
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SystemClock;

    #[tokio::test]
    async fn a_stopped_scope_ends_its_children_and_a_panic_ends_its_scope() {
        let root = Tasks::root(Arc::new(SystemClock::new()));
        let child = root.child("child");
        child.spawn_until_stopped("forever", std::future::pending());
        root.stop();
        assert!(child.shutdown(Duration::from_secs(5)).await);

        let root = Tasks::root(Arc::new(SystemClock::new()));
        root.spawn("bad", async { panic!("on purpose") });
        root.stopping().await;
        assert!(root.has_panicked());
    }

    #[test]
    fn gates_fail_closed() {
        let root = Tasks::root(Arc::new(SystemClock::new()));
        let gate = root.child("x").ready_gate("cache");
        assert_eq!(root.unready(), ["cache"]);
        gate.open();
        assert!(root.unready().is_empty());
    }
}
