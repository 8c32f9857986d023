//! Expectations (upstream's ControllerExpectations): after a controller created or deleted pods, it waits until its
//! informer has seen them, so that it does not do so twice from a stale copy. Keyed by the owner's UID.

use knarr_base::Ctx;
use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Expectations older than this are given up: an event was missed.
const TIMEOUT: Duration = Duration::from_secs(300);

struct Expected {
    creations: i64,
    deletions: HashSet<String>,
    since: Instant,
}

/// What owners wait for.
pub struct Expectations {
    ctx: Ctx,
    by_owner: Mutex<HashMap<String, Expected>>,
}

impl Expectations {
    /// Nothing is expected.
    pub fn new(ctx: Ctx) -> Self {
        Self { ctx, by_owner: Mutex::default() }
    }

    /// Whether the owner's informers have caught up with what it did.
    pub fn satisfied(&self, owner: &str) -> bool {
        match self.lock().get(owner) {
            None => true,
            Some(e) => {
                (e.creations <= 0 && e.deletions.is_empty()) || self.ctx.clock.instant() - e.since > TIMEOUT
            }
        }
    }

    /// The owner is about to create `creations` pods and delete those with the UIDs in `deletions`.
    pub fn expect(&self, owner: &str, creations: usize, deletions: impl IntoIterator<Item = String>) {
        let since = self.ctx.clock.instant();
        let expected =
            Expected { creations: creations as i64, deletions: deletions.into_iter().collect(), since };
        self.lock().insert(owner.to_owned(), expected);
    }

    /// A pod of the owner was seen to appear, or will not.
    pub fn created(&self, owner: &str) {
        if let Some(expected) = self.lock().get_mut(owner) {
            expected.creations -= 1;
        }
    }

    /// A pod of the owner was seen to go, or will not.
    pub fn deleted(&self, owner: &str, uid: &str) {
        if let Some(expected) = self.lock().get_mut(owner) {
            expected.deletions.remove(uid);
        }
    }

    /// The owner is gone.
    pub fn forget(&self, owner: &str) {
        self.lock().remove(owner);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Expected>> {
        self.by_owner.lock().expect("expectations lock is never poisoned")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_owner_waits_for_what_it_did() {
        let expectations = Expectations::new(Ctx::system());
        assert!(expectations.satisfied("a"));
        expectations.expect("a", 2, ["x".to_owned()]);
        expectations.created("a");
        expectations.deleted("a", "x");
        assert!(!expectations.satisfied("a"));
        expectations.created("a");
        assert!(expectations.satisfied("a"));
    }
}
