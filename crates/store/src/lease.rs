//! Ending leases on time: a task sleeps until the next one expires, is woken early when a lease is
//! granted, and asks the backend to end what is due. It never polls.

use crate::keyspace::Keyspace;
use crate::plan::Grant;
use crate::{LeaseId, StoreError};
use futures_util::future::BoxFuture;
use knarr_base::{Clock, Ctx};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

/// Wait this long before asking again when the backend could not end a lease (its disk may be full).
const RETRY: Duration = Duration::from_secs(5);

/// Ends one lease.
pub(crate) type Revoke = Arc<dyn Fn(LeaseId) -> BoxFuture<'static, Result<(), StoreError>> + Send + Sync>;

/// A new lease. Identifiers are positive as signed numbers, like etcd's.
pub(crate) fn new_grant(ctx: &Ctx, ttl_seconds: u64) -> Grant {
    let expires = ctx.clock.now() + Duration::from_secs(ttl_seconds);
    Grant {
        id: (ctx.rng.u64() >> 1).max(1),
        ttl_seconds,
        expires_unix_ms: u64::try_from(since_epoch(expires).as_millis()).unwrap_or(u64::MAX),
    }
}

/// When a lease ends on the monotonic clock, now that the wall clock says `now`. Never later than a whole
/// term from now, should the wall clock have been set back.
pub(crate) fn deadline(clock: &dyn Clock, grant: &Grant) -> Instant {
    let left = Duration::from_millis(grant.expires_unix_ms).saturating_sub(since_epoch(clock.now()));
    clock.instant() + left.min(Duration::from_secs(grant.ttl_seconds))
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// The leases of a keyspace that have not ended, and when they will.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    grants: HashMap<LeaseId, (Grant, Instant)>,
    by_deadline: BTreeSet<(Instant, LeaseId)>,
}

impl Leases {
    /// Whether the lease exists.
    pub fn contains(&self, id: LeaseId) -> bool {
        self.grants.contains_key(&id)
    }

    /// Adds a lease. True when it is the next to end.
    pub fn insert(&mut self, grant: Grant, deadline: Instant) -> bool {
        self.remove(grant.id);
        self.grants.insert(grant.id, (grant, deadline));
        self.by_deadline.insert((deadline, grant.id));
        self.by_deadline.first() == Some(&(deadline, grant.id))
    }

    /// All of them.
    pub fn all(&self) -> Vec<Grant> {
        self.grants.values().map(|(grant, _)| *grant).collect()
    }

    /// Forgets a lease.
    pub fn remove(&mut self, id: LeaseId) {
        if let Some((_, deadline)) = self.grants.remove(&id) {
            self.by_deadline.remove(&(deadline, id));
        }
    }

    /// The leases that have ended by `now`, and when the next one does.
    pub fn due(&self, now: Instant) -> (Vec<LeaseId>, Option<Instant>) {
        let due: Vec<LeaseId> =
            self.by_deadline.iter().take_while(|(at, _)| *at <= now).map(|(_, id)| *id).collect();
        let next = self.by_deadline.iter().nth(due.len()).map(|(at, _)| *at);
        (due, next)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.grants.is_empty()
    }
}

/// Starts the task for a keyspace; it ends with the keyspace or the context's scope.
pub(crate) fn spawn_expiry(ctx: &Ctx, keyspace: &Arc<Keyspace>, revoke: Revoke) {
    let (clock, keyspace) = (ctx.clock.clone(), Arc::downgrade(keyspace));
    ctx.tasks.spawn_until_stopped("store-leases", async move {
        while let Some(pause) = expire_due(&*clock, &keyspace, &revoke).await {
            let Some(space) = keyspace.upgrade() else { return };
            let granted = space.lease_granted.notified();
            match pause {
                Pause::Until(instant) => {
                    let sleep = clock.sleep_until(instant);
                    tokio::select! {
                        () = granted => {}
                        () = sleep => {}
                    }
                }
                Pause::UntilGranted => granted.await,
            }
        }
    });
}

enum Pause {
    Until(Instant),
    UntilGranted,
}

async fn expire_due(clock: &dyn Clock, keyspace: &Weak<Keyspace>, revoke: &Revoke) -> Option<Pause> {
    loop {
        let (due, next) = {
            let keyspace = keyspace.upgrade()?;
            let state = keyspace.read();
            if state.closed {
                return None;
            }
            state.leases.due(clock.instant())
        };
        if due.is_empty() {
            return Some(next.map_or(Pause::UntilGranted, Pause::Until));
        }
        for lease in due {
            match revoke(lease).await {
                Ok(()) | Err(StoreError::NoLease) => {}
                Err(error) => {
                    tracing::warn!(lease, %error, "cannot end an expired lease; trying again");
                    return Some(Pause::Until(clock.instant() + RETRY));
                }
            }
        }
    }
}
