//! resourcequota: keeps the status of ResourceQuotas equal to what their namespace uses. The admission plugin charges
//! writes; here the limits of the spec come into force, what deletions set free is given back, and what was charged
//! for writes that failed afterwards.

mod monitors;

use crate::framework::{Next, Reconcile, Start, run};
use knarr_api::core::v1::ResourceQuota;
use knarr_base::clock::BoxFuture;
use knarr_client::informer::{Change, Key};
use knarr_client::{Error, Informer, WorkQueue};
use knarr_quota::{Amounts, Quota, amounts};
use monitors::Monitors;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Upstream's default of --concurrent-resource-quota-syncs.
const WORKERS: usize = 5;
/// Upstream's default of --resource-quota-sync-period: everything is counted anew.
const RESYNC: Duration = Duration::from_secs(300);
/// A write is charged moments before it can be seen. Until nothing was charged for this long, a lower count may only
/// mean that, and would let in more than there is room for.
const QUIET: Duration = Duration::from_millis(500);
/// A status is compared with what is there this long after it changed: writes may have failed after they were charged,
/// and somebody else may have written it.
const CHECK: Duration = Duration::from_secs(5);

struct ResourceQuotas {
    start: Start,
    quotas: Informer<ResourceQuota>,
    monitors: Arc<Monitors>,
    /// When the use of a quota last changed, by UID.
    charged: Arc<Mutex<HashMap<String, Instant>>>,
}

/// Starts the controller.
pub fn start(start: Start) {
    let quotas = start.informers.get::<ResourceQuota>();
    let queue = WorkQueue::new(start.ctx.clone());
    let charged = Arc::<Mutex<HashMap<String, Instant>>>::default();
    let monitors = Monitors::new(&start, quotas.clone(), queue.clone());
    let (on_quota, clock, times) = (queue.clone(), start.ctx.clock.clone(), charged.clone());
    quotas.on_change(move |change: &Change<ResourceQuota>| {
        let uid = change.object().metadata.uid.clone().unwrap_or_default();
        let Some(new) = &change.new else {
            times.lock().expect("the lock is never poisoned").remove(&uid);
            return;
        };
        let key = Key::of(&new.metadata);
        let hard = |quota: &ResourceQuota| quota.spec.as_ref().and_then(|s| s.hard.clone());
        let used = |quota: &ResourceQuota| quota.status.as_ref().and_then(|s| s.used.clone());
        match &change.old {
            Some(old) if hard(old) == hard(new) => {
                if used(old) != used(new) {
                    times.lock().expect("the lock is never poisoned").insert(uid, clock.instant());
                }
                if old.status != new.status {
                    on_quota.add_after(key, CHECK);
                }
            }
            _ => on_quota.add(key),
        }
    });
    let (known, all, clock) = (quotas.clone(), queue.clone(), start.ctx.clock.clone());
    start.ctx.tasks.spawn_until_stopped("resourcequota resync", async move {
        loop {
            clock.sleep(RESYNC).await;
            known.list("").iter().for_each(|quota| all.add(Key::of(&quota.metadata)));
        }
    });
    let ready = {
        let quotas = quotas.clone();
        async move { quotas.synced().await }
    };
    let controller = Arc::new(ResourceQuotas { start: start.clone(), quotas, monitors, charged });
    run(&start, "resourcequota", WORKERS, queue, ready, controller);
}

/// What a quota's status is to become: `counted` is what is used of what could be counted, the rest stays as it was.
fn used(quota: &Quota, wanted: &Amounts, counted: &Amounts) -> Amounts {
    let mut used = amounts::mask(&quota.used, wanted);
    used.extend(amounts::mask(counted, wanted));
    used
}

/// Whether the status shows these limits and this use.
fn is_shown(quota: &Quota, wanted: &Amounts, used: &Amounts) -> bool {
    let status = quota.object().status.as_ref();
    let is_set = status.is_some_and(|s| s.hard.is_some() && s.used.is_some());
    is_set && quota.hard == *wanted && quota.used == *used
}

impl ResourceQuotas {
    /// How long a lower count cannot be trusted yet.
    fn unsettled(&self, quota: &Quota, used: &Amounts) -> Option<Duration> {
        let is_lower = used.iter().any(|(name, amount)| quota.used.get(name).is_some_and(|was| amount < was));
        let uid = quota.object().metadata.uid.as_deref().unwrap_or_default();
        let charged = *self.charged.lock().expect("the lock is never poisoned").get(uid)?;
        let left = QUIET.saturating_sub(self.start.ctx.clock.instant() - charged);
        (is_lower && !left.is_zero()).then_some(left)
    }
}

impl Reconcile for ResourceQuotas {
    fn sync<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Next, Error>> {
        Box::pin(async move {
            let Some(object) = self.quotas.get_key(key) else { return Ok(Next::Done) };
            let quota = Quota::new((*object).clone());
            let wanted = quota.wanted();
            let count = self.monitors.count(&quota, &wanted).await;
            let used = used(&quota, &wanted, &count.used);
            let again = count.again.map_or(Next::Done, Next::After);
            if is_shown(&quota, &wanted, &used) {
                return Ok(again);
            }
            if quota.hard == wanted
                && let Some(left) = self.unsettled(&quota, &used)
            {
                return Ok(Next::After(left));
            }
            self.start.client.update_status(&quota.with_status(&wanted, &used)).await?;
            Ok(again)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_api::Kind;
    use serde_json::json;

    fn list(amounts: &[(&str, i64)]) -> Amounts {
        amounts.iter().map(|(name, amount)| ((*name).to_owned(), amounts::whole(*amount))).collect()
    }

    #[test]
    fn what_cannot_be_counted_stays_and_what_is_no_longer_limited_goes() {
        let object = ResourceQuota::from_value(&json!({
            "metadata": { "name": "q" },
            "spec": { "hard": { "pods": "5", "count/gadgets.example.com": "2" } },
            "status": { "hard": { "pods": "5", "secrets": "1" },
                "used": { "pods": "3", "secrets": "1", "count/gadgets.example.com": "1" } },
        }));
        let quota = Quota::new(object.expect("a quota"));
        let wanted = quota.wanted();
        let used = used(&quota, &wanted, &list(&[("pods", 2), ("cpu", 7)]));
        assert_eq!(used, list(&[("pods", 2), ("count/gadgets.example.com", 1)]));
        assert!(!is_shown(&quota, &wanted, &used));
        let shown = Quota::new(quota.with_status(&wanted, &used));
        assert!(is_shown(&shown, &wanted, &used));
    }
}
