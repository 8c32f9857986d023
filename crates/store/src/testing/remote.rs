//! A store in this process that behaves like one elsewhere: reads take a while, watches hear of changes later and only
//! of their own keys, and others write to it as well. What it holds back, and for how long, is in a test's hands.

use crate::{
    Expect, Freshness, KeyValue, LeaseId, Outcome, Range, RangeResult, Revision, Stats, Store, StoreError,
    WatchBatch, WatchStream,
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use knarr_base::Ctx;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{Notify, mpsc, watch};

/// See the module's documentation. Several over one store are several programs that share it.
pub struct Remote {
    ctx: Ctx,
    inner: Arc<dyn Store>,
    freshness: Freshness,
    known: AtomicU64,
    open: watch::Sender<bool>,
}

impl Remote {
    /// One that tells of changes at once until it is told not to.
    pub fn new(ctx: &Ctx, inner: Arc<dyn Store>, freshness: Freshness) -> Arc<Self> {
        let known = AtomicU64::new(inner.revision());
        Arc::new(Self { ctx: ctx.clone(), inner, freshness, known, open: watch::Sender::new(true) })
    }

    /// Lets watches hear of nothing more.
    pub fn hold(&self) {
        self.open.send_replace(false);
    }

    /// Lets them hear of everything.
    pub fn release(&self) {
        self.open.send_replace(true);
    }

    async fn travel(&self) {
        tokio::task::yield_now().await;
    }

    fn saw(&self, revision: Revision) {
        self.known.fetch_max(revision, Ordering::AcqRel);
    }

    async fn write(&self, write: BoxFuture<'_, Result<Outcome, StoreError>>) -> Result<Outcome, StoreError> {
        self.travel().await;
        let outcome = write.await?;
        if let Outcome::Done(revision) = &outcome {
            self.saw(*revision);
        }
        Ok(outcome)
    }
}

impl Store for Remote {
    fn get<'a>(
        &'a self,
        key: &'a [u8],
        at: Option<Revision>,
    ) -> BoxFuture<'a, Result<Option<KeyValue>, StoreError>> {
        Box::pin(async move {
            self.travel().await;
            let found = self.inner.get(key, at).await;
            self.saw(self.inner.revision());
            found
        })
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<RangeResult, StoreError>> {
        Box::pin(async move {
            self.travel().await;
            let result = self.inner.range(range).await?;
            self.saw(result.revision);
            Ok(result)
        })
    }

    fn put(
        &self,
        key: Bytes,
        expect: Expect,
        value: Bytes,
        lease: LeaseId,
    ) -> BoxFuture<'_, Result<Outcome, StoreError>> {
        Box::pin(self.write(self.inner.put(key, expect, value, lease)))
    }

    fn delete(&self, key: Bytes, expect: Revision) -> BoxFuture<'_, Result<Outcome, StoreError>> {
        Box::pin(self.write(self.inner.delete(key, expect)))
    }

    fn watch(
        &self,
        start: Bytes,
        end: Bytes,
        from: Revision,
    ) -> BoxFuture<'_, Result<WatchStream, StoreError>> {
        Box::pin(async move {
            self.travel().await;
            let mut inner = self.inner.watch(start, end, from).await?;
            let (sender, receiver) = mpsc::unbounded_channel();
            let progress = Arc::new(Notify::new());
            let (asked, mut open, freshness) = (progress.clone(), self.open.subscribe(), self.freshness);
            self.ctx.tasks.spawn_until_stopped("remote-watch", async move {
                let mut delivered = 0;
                loop {
                    let is_asked = tokio::select! {
                        biased;
                        batch = inner.recv() => {
                            let Some(batch) = batch else { return };
                            if open.wait_for(|open| *open).await.is_err() {
                                return;
                            }
                            delivered = batch.revision;
                            // As etcd: of what does not concern it a watch hears nothing.
                            let Some(last) = batch.events.last() else { continue };
                            let revision = last.kv.mod_revision;
                            if sender.send(WatchBatch { revision, ..batch }).is_err() {
                                return;
                            }
                            false
                        }
                        () = asked.notified() => true,
                        () = sender.closed() => return,
                    };
                    let answers = is_asked && freshness == Freshness::OnRequest && delivered > 0;
                    if answers && sender.send(WatchBatch { events: Vec::new(), revision: delivered }).is_err()
                    {
                        return;
                    }
                }
            });
            Ok(WatchStream::remote(receiver, progress))
        })
    }

    fn revision(&self) -> Revision {
        self.known.load(Ordering::Acquire)
    }

    fn latest(&self) -> BoxFuture<'_, Result<Revision, StoreError>> {
        Box::pin(async move {
            self.travel().await;
            self.saw(self.inner.revision());
            Ok(self.revision())
        })
    }

    fn freshness(&self) -> Freshness {
        self.freshness
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), StoreError>> {
        self.inner.compact(revision)
    }

    fn grant_lease(&self, ttl_seconds: u64) -> BoxFuture<'_, Result<LeaseId, StoreError>> {
        self.inner.grant_lease(ttl_seconds)
    }

    fn stats(&self) -> Stats {
        Stats { revision: self.revision(), ..self.inner.stats() }
    }
}
