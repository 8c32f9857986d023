//! Periodic compaction, as upstream's compactor (`storage/etcd3/compact.go`) does it: at every turn the history before
//! the turn before is forgotten, so that between one and two intervals of it are kept.

use crate::{Revision, Store};
use knarr_base::Ctx;
use std::sync::Arc;
use std::time::Duration;

/// What a compactor remembers between its turns.
#[derive(Clone, Copy, Debug, Default)]
pub struct Compaction {
    /// The latest revision at the last turn; 0 before the first.
    pub revision: Revision,
    /// How many turns the cluster has had, as far as this one knows.
    pub round: u64,
}

/// Compacts every `interval` for as long as it is polled; never if the interval is zero.
pub async fn compact_periodically(ctx: Ctx, store: Arc<dyn Store>, interval: Duration) {
    if interval.is_zero() {
        return;
    }
    let mut state = Compaction::default();
    if store.freshness() == crate::Freshness::Told {
        state.revision = store.revision();
    }
    loop {
        ctx.clock.sleep(interval).await;
        if let Err(error) = store.compact_in_turn(&mut state).await {
            tracing::error!(%error, "the store's history could not be compacted");
        }
    }
}
