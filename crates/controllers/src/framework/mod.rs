//! What controllers share: workers over a queue, expectations, creating and deleting pods, adopting and releasing
//! what selectors match.

pub mod claim;
pub mod expectations;
pub mod history;
pub mod pod_control;
pub mod pods;
pub mod served;
pub mod time;

use knarr_base::Ctx;
use knarr_base::clock::BoxFuture;
use knarr_client::informer::Key;
use knarr_client::{Client, Error, Informers, WorkQueue};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a controller is started with.
#[derive(Clone)]
pub struct Start {
    /// Clock, random numbers, and a task scope of the controller's own.
    pub ctx: Ctx,
    /// A client under the controller's own identity.
    pub client: Client,
    /// Informers shared by all controllers.
    pub informers: Informers,
    /// What is served.
    pub served: Arc<served::Served>,
    /// What all controllers are configured with.
    pub config: Arc<crate::manager::Config>,
}

/// What to do about a key after a sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Wait for the next change.
    Done,
    /// Look again after this long, whatever happens.
    After(Duration),
    /// Look again at this time of the monotonic clock, whatever happens: for what was reckoned from the clock before
    /// requests were made.
    At(Instant),
}

/// Brings what is observed closer to what is desired, for one key at a time.
pub trait Reconcile: Send + Sync + 'static {
    /// Level-triggered: reads everything it needs, whatever woke it. An error is tried again with back-off.
    fn sync<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Next, Error>>;
}

/// Runs `workers` workers over `queue` once `ready` resolves.
pub fn run(
    start: &Start,
    name: &'static str,
    workers: usize,
    queue: WorkQueue<Key>,
    ready: impl Future<Output = ()> + Send + 'static,
    controller: Arc<dyn Reconcile>,
) {
    run_in(&start.ctx, name, workers, queue, ready, controller);
}

/// [`run`] for what does not belong to the controller manager.
pub fn run_in(
    ctx: &Ctx,
    name: &'static str,
    workers: usize,
    queue: WorkQueue<Key>,
    ready: impl Future<Output = ()> + Send + 'static,
    controller: Arc<dyn Reconcile>,
) {
    let tasks = ctx.tasks.clone();
    ctx.tasks.spawn_until_stopped(name, async move {
        ready.await;
        for _ in 0..workers {
            tasks.spawn_until_stopped(name, work(name, queue.clone(), controller.clone()));
        }
    });
}

async fn work(name: &'static str, queue: WorkQueue<Key>, controller: Arc<dyn Reconcile>) {
    while let Some(key) = queue.next().await {
        match controller.sync(&key).await {
            Ok(next) => {
                queue.forget(&key);
                match next {
                    Next::Done => {}
                    Next::After(delay) => queue.add_after(key.clone(), delay),
                    Next::At(time) => queue.add_at(key.clone(), time),
                }
            }
            Err(error) => {
                // Conflicts, objects that vanished and namespaces that go are the ordinary course of things.
                if error.is_conflict() || error.is_not_found() || namespace_goes(&error) {
                    tracing::debug!(controller = name, %key, %error, "sync again");
                } else {
                    tracing::warn!(controller = name, %key, %error, "sync failed");
                }
                queue.add_rate_limited(key.clone());
            }
        }
        queue.done(&key);
    }
}

/// Whether a write was refused because its namespace is being deleted.
pub fn namespace_goes(error: &Error) -> bool {
    error.status().is_some_and(|s| s.message.contains("because it is being terminated"))
}
