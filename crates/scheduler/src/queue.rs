//! The scheduling queue: pods waiting for a decision by priority and age; pods without a node wait aside until
//! something changes that may help them, with a back-off against busy loops.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

/// Back-off after the first failed attempt (upstream's podInitialBackoffSeconds).
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// Longest back-off (upstream's podMaxBackoffSeconds).
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);

/// Order in the queue: high priority first, then whoever came first.
type Rank = (std::cmp::Reverse<i32>, u64);

#[derive(Debug)]
struct Entry {
    priority: i32,
    arrival: u64,
    attempts: u32,
    not_before: Option<Instant>,
    place: Place,
}

#[derive(Debug, PartialEq, Eq)]
enum Place {
    Active,
    Aside,
    BeingDecided,
}

/// Pods that need a node, by UID.
#[derive(Default, Debug)]
pub struct Queue {
    entries: HashMap<String, Entry>,
    active: BTreeMap<Rank, String>,
    aside: BTreeSet<String>,
    arrivals: u64,
    // Raised when the cluster changed in a way that may help a pod; a pod that was being decided about
    // meanwhile is tried again at once.
    changes: u64,
}

impl Queue {
    /// A pod needs a node, or changed while it waits (which may be what it waited for).
    pub fn add(&mut self, uid: &str, priority: i32) {
        if let Some(entry) = self.entries.get_mut(uid) {
            if entry.place == Place::Aside {
                self.aside.remove(uid);
                entry.place = Place::Active;
                self.active.insert((std::cmp::Reverse(entry.priority), entry.arrival), uid.to_owned());
            }
            return;
        }
        self.arrivals += 1;
        let entry =
            Entry { priority, arrival: self.arrivals, attempts: 0, not_before: None, place: Place::Active };
        self.active.insert((std::cmp::Reverse(priority), entry.arrival), uid.to_owned());
        self.entries.insert(uid.to_owned(), entry);
    }

    /// A pod needs no node any more.
    pub fn remove(&mut self, uid: &str) {
        if let Some(entry) = self.entries.remove(uid) {
            self.active.remove(&(std::cmp::Reverse(entry.priority), entry.arrival));
            self.aside.remove(uid);
        }
    }

    /// The next pod whose back-off is over; otherwise when to ask again, if any is backing off.
    pub fn next(&mut self, now: Instant) -> Result<(String, u64), Option<Instant>> {
        let mut soonest: Option<Instant> = None;
        let ready = self.active.iter().find_map(|(rank, uid)| match self.entries.get(uid)?.not_before {
            Some(at) if at > now => {
                soonest = Some(soonest.map_or(at, |s| s.min(at)));
                None
            }
            _ => Some((*rank, uid.clone())),
        });
        let Some((rank, uid)) = ready else { return Err(soonest) };
        self.active.remove(&rank);
        if let Some(entry) = self.entries.get_mut(&uid) {
            entry.place = Place::BeingDecided;
        }
        Ok((uid, self.changes))
    }

    /// No node takes the pod, or its binding failed; `seen` is what [`Queue::next`] gave with it.
    pub fn failed(&mut self, uid: &str, seen: u64, now: Instant) {
        let changed = self.changes != seen;
        let Some(entry) = self.entries.get_mut(uid) else { return };
        entry.attempts += 1;
        let backoff = FIRST_BACKOFF.saturating_mul(1 << (entry.attempts - 1).min(8)).min(LONGEST_BACKOFF);
        entry.not_before = Some(now + backoff);
        if changed {
            entry.place = Place::Active;
            self.active.insert((std::cmp::Reverse(entry.priority), entry.arrival), uid.to_owned());
        } else {
            entry.place = Place::Aside;
            self.aside.insert(uid.to_owned());
        }
    }

    /// The cluster changed in a way that may help: all pods that wait aside are tried again.
    pub fn cluster_changed(&mut self) {
        self.changes += 1;
        for uid in std::mem::take(&mut self.aside) {
            if let Some(entry) = self.entries.get_mut(&uid) {
                entry.place = Place::Active;
                self.active.insert((std::cmp::Reverse(entry.priority), entry.arrival), uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn high_priority_goes_first_and_a_failed_pod_waits_for_a_change_and_its_backoff() {
        let start = knarr_base::Clock::instant(&knarr_base::SystemClock::new());
        let mut queue = Queue::default();
        queue.add("low", 0);
        queue.add("high", 10);
        let (uid, seen) = queue.next(start).expect("one is ready");
        assert_eq!(uid, "high");
        queue.failed("high", seen, start);
        assert_eq!(queue.next(start).expect("one is ready").0, "low");
        queue.remove("low");
        assert_eq!(queue.next(start), Err(None));
        queue.cluster_changed();
        assert_eq!(queue.next(start), Err(Some(start + FIRST_BACKOFF)));
        assert_eq!(queue.next(start + FIRST_BACKOFF).expect("the back-off is over").0, "high");
    }

    #[test]
    fn a_change_during_the_decision_is_not_lost() {
        let start = knarr_base::Clock::instant(&knarr_base::SystemClock::new());
        let mut queue = Queue::default();
        queue.add("a", 0);
        let (_, seen) = queue.next(start).expect("one is ready");
        queue.cluster_changed();
        queue.failed("a", seen, start);
        assert!(queue.next(start + FIRST_BACKOFF).is_ok());
    }
}
