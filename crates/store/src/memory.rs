//! A store that lives in memory only, for tests and throw-away control planes. Same index, planning and
//! watches as the embedded one; a commit is durable when it is applied.

use crate::index::Index;
use crate::keyspace::Keyspace;
use crate::plan::{Answer, Plan, Planned, Request};
use crate::{
    Expect, KeyValue, LeaseId, Outcome, Range, RangeResult, Revision, Stats, Store, StoreError, WatchStream,
    lease,
};
use bytes::Bytes;
use futures_util::future::{BoxFuture, ready};
use knarr_base::Ctx;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

/// See the module's documentation.
pub struct MemoryStore {
    ctx: Ctx,
    keyspace: Arc<Keyspace>,
    /// Held over planning and applying, so that a plan is made on the state it is applied to.
    committing: Mutex<()>,
    commits: AtomicU64,
    expiring: AtomicBool,
    myself: Weak<MemoryStore>,
}

impl MemoryStore {
    /// An empty store. The first lease starts a task in `ctx`'s scope.
    #[allow(clippy::new_ret_no_self)] // callers hold a store, whatever the backend
    pub fn new(ctx: &Ctx) -> Arc<dyn Store> {
        Arc::new_cyclic(|myself| Self {
            ctx: ctx.clone(),
            keyspace: Arc::new(Keyspace::new(Index::default())),
            committing: Mutex::new(()),
            commits: AtomicU64::new(0),
            expiring: AtomicBool::new(false),
            myself: myself.clone(),
        })
    }

    fn execute(&self, request: Request) -> Result<Answer, StoreError> {
        let _committing = self.committing.lock().expect("no holder of the commit lock panics");
        let (planned, effects) = {
            let state = self.keyspace.read();
            let mut plan = Plan::new(&state.index, &state.leases);
            let Planned { answer, .. } = plan.add(request);
            (answer, plan.finish())
        };
        if !effects.is_empty() {
            self.keyspace.commit(effects, |grant| lease::deadline(&*self.ctx.clock, grant));
            self.commits.fetch_add(1, Ordering::Relaxed);
        }
        planned
    }

    fn outcome(&self, request: Request) -> Result<Outcome, StoreError> {
        match self.execute(request)? {
            Answer::Outcome(outcome) => Ok(outcome),
            Answer::Done => unreachable!("puts and deletes have an outcome"),
        }
    }

    fn start_expiry(&self) {
        if !self.expiring.swap(true, Ordering::SeqCst) {
            let store = self.myself.clone();
            let revoke = move |lease| -> BoxFuture<'static, Result<(), StoreError>> {
                let result = match store.upgrade() {
                    Some(store) => store.execute(Request::Revoke(lease)).map(drop),
                    None => Ok(()),
                };
                Box::pin(ready(result))
            };
            lease::spawn_expiry(&self.ctx, &self.keyspace, Arc::new(revoke));
        }
    }
}

impl Drop for MemoryStore {
    fn drop(&mut self) {
        self.keyspace.close();
    }
}

impl Store for MemoryStore {
    fn get<'a>(
        &'a self,
        key: &'a [u8],
        at: Option<Revision>,
    ) -> BoxFuture<'a, Result<Option<KeyValue>, StoreError>> {
        Box::pin(ready(self.keyspace.get(key, at)))
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<RangeResult, StoreError>> {
        Box::pin(ready(self.keyspace.range(&range)))
    }

    fn put(
        &self,
        key: Bytes,
        expect: Expect,
        value: Bytes,
        lease: LeaseId,
    ) -> BoxFuture<'_, Result<Outcome, StoreError>> {
        Box::pin(async move { self.outcome(Request::Put { key, expect, value, lease }) })
    }

    fn delete(&self, key: Bytes, expect: Revision) -> BoxFuture<'_, Result<Outcome, StoreError>> {
        Box::pin(async move { self.outcome(Request::Delete { key, expect }) })
    }

    fn watch(
        &self,
        start: Bytes,
        end: Bytes,
        from: Revision,
    ) -> BoxFuture<'_, Result<WatchStream, StoreError>> {
        Box::pin(async move { self.keyspace.watch(start, end, from) })
    }

    fn revision(&self) -> Revision {
        self.keyspace.revision()
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { self.execute(Request::Compact(revision)).map(drop) })
    }

    fn grant_lease(&self, ttl_seconds: u64) -> BoxFuture<'_, Result<LeaseId, StoreError>> {
        Box::pin(async move {
            let grant = lease::new_grant(&self.ctx, ttl_seconds);
            self.execute(Request::Grant(grant))?;
            self.start_expiry();
            Ok(grant.id)
        })
    }

    fn stats(&self) -> Stats {
        let state = self.keyspace.read();
        Stats {
            revision: state.index.revision(),
            compacted: state.index.compacted(),
            keys: state.index.live(),
            history_bytes: state.index.history_bytes(),
            commits: self.commits.load(Ordering::Relaxed),
            ..Stats::default()
        }
    }
}
