//! Who waits for the cache to come further, and the store's watch that is asked for its progress as long as somebody
//! does (upstream's conditional progress requester).

use knarr_base::Ctx;
use knarr_store::{Freshness, Store, WatchBatch, WatchStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

/// How often a watch is asked how far it has come while somebody waits for it, as upstream.
pub(super) const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Wishes {
    waiting: AtomicUsize,
    wanted: Notify,
}

impl Wishes {
    /// The next batch of the store's watch. May be dropped and called again.
    pub async fn next_batch(
        &self,
        ctx: &Ctx,
        store: &dyn Store,
        stream: &mut WatchStream,
    ) -> Option<WatchBatch> {
        if store.freshness() != Freshness::OnRequest {
            return stream.recv().await;
        }
        let progress = stream.progress();
        loop {
            let asked = async {
                if self.waiting.load(Ordering::Acquire) == 0 {
                    self.wanted.notified().await;
                }
                progress.request();
                ctx.clock.sleep(PROGRESS_EVERY).await;
            };
            // Neither side loses anything by being dropped: a batch stays queued, a wish is renewed.
            tokio::select! {
                biased;
                batch = stream.recv() => return batch,
                () = asked => {}
            }
        }
    }
}

/// Somebody who waits.
pub(super) struct Waiting<'a>(&'a Wishes);

impl<'a> Waiting<'a> {
    /// Waits from now on.
    pub fn new(wishes: &'a Wishes) -> Self {
        wishes.waiting.fetch_add(1, Ordering::AcqRel);
        wishes.wanted.notify_one();
        Self(wishes)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}
