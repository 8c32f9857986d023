//! Leases for objects that the store forgets after a while (events). As in upstream's lease manager, objects
//! written within a short time share one, so that there are not as many leases as objects.

use super::Registry;
use super::resource::Resource;
use super::write::store_error;
use knarr_meta::status::Status;
use knarr_store::LeaseId;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// For how long objects join a lease; they live that much longer at most.
const REUSE: Duration = Duration::from_secs(60);
/// How many objects share a lease at most.
const MAX_OBJECTS: usize = 1000;

struct Shared {
    lease: LeaseId,
    granted: Instant,
    objects: usize,
}

/// The leases that are still open to new objects, by their length in seconds.
#[derive(Default)]
pub struct Leases(Mutex<HashMap<u64, Shared>>);

impl Registry {
    /// The lease of a new or changed object, 0 for those that stay.
    pub(super) async fn lease_for(&self, resource: &Resource, hub: &Value) -> Result<LeaseId, Status> {
        let Some(ttl) = resource.hooks().ttl_seconds(hub).filter(|ttl| *ttl > 0) else { return Ok(0) };
        let now = self.ctx.clock.instant();
        let reuse = REUSE.min(Duration::from_secs(ttl) / 20);
        if let Some(lease) = self.leases.join(ttl, now, reuse) {
            return Ok(lease);
        }
        let length = ttl + reuse.as_secs();
        let lease = self.store.grant_lease(length).await.map_err(|e| store_error(resource, "create", e))?;
        let shared = Shared { lease, granted: now, objects: 1 };
        self.leases.0.lock().expect("no holder of the lease lock panics").insert(ttl, shared);
        Ok(lease)
    }
}

impl Leases {
    fn join(&self, ttl: u64, now: Instant, reuse: Duration) -> Option<LeaseId> {
        let mut leases = self.0.lock().expect("no holder of the lease lock panics");
        let shared = leases.get_mut(&ttl)?;
        if now.saturating_duration_since(shared.granted) >= reuse || shared.objects >= MAX_OBJECTS {
            return None;
        }
        shared.objects += 1;
        Some(shared.lease)
    }
}
