//! Addresses of pods. They are keyed by the pod's UID; one that was given back is used again as late as possible, so
//! that a client which has not heard yet does not reach somebody else.

use crate::range::Range;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::net::Ipv4Addr;

/// Who has which address.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Addresses {
    /// By pod UID.
    pub by_uid: BTreeMap<String, Ipv4Addr>,
    /// Where the search for a free one goes on, as a distance from the first address of the range.
    next: u32,
}

impl Addresses {
    /// The pod's address; a new one if it has none in this range. `None` if all are in use. `taken` are addresses
    /// in use that are not in the table.
    pub fn allocate(&mut self, uid: &str, range: Range, taken: &HashSet<Ipv4Addr>) -> Option<Ipv4Addr> {
        if let Some(address) = self.by_uid.get(uid).filter(|a| range.contains(**a)) {
            return Some(*address);
        }
        let used: HashSet<Ipv4Addr> = self.by_uid.values().copied().collect();
        // The network's own address, the node's and the broadcast address are nobody's.
        let (first, last) = (2, u32::try_from(range.size() - 2).unwrap_or(u32::MAX - 1));
        let count = last.checked_sub(first)? + 1;
        let start = self.next.clamp(first, last) - first;
        let free = (0..count).map(|step| first + (u64::from(start) + u64::from(step)) as u32 % count);
        for distance in free {
            let Some(address) = range.nth(distance) else { continue };
            if !used.contains(&address) && !taken.contains(&address) {
                self.next = if distance == last { first } else { distance + 1 };
                self.by_uid.insert(uid.to_owned(), address);
                return Some(address);
            }
        }
        None
    }

    /// Takes the pod's address back.
    pub fn release(&mut self, uid: &str) -> Option<Ipv4Addr> {
        self.by_uid.remove(uid)
    }

    /// Forgets all pods, not which addresses were given out last.
    pub fn forget_all(&mut self) {
        self.by_uid.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_kept_reused_late_and_end_some_day() {
        let range: Range = "10.0.0.0/29".parse().unwrap();
        let none = HashSet::new();
        let mut all = Addresses::default();
        let ip = |last| Some(Ipv4Addr::new(10, 0, 0, last));
        assert_eq!(all.allocate("a", range, &none), ip(2));
        assert_eq!(all.allocate("a", range, &none), ip(2), "the same pod keeps its address");
        assert_eq!(all.release("a"), ip(2));
        assert_eq!(all.allocate("b", range, &none), ip(3), "a free address is not the one just given back");
        assert_eq!(all.allocate("c", range, &HashSet::from([Ipv4Addr::new(10, 0, 0, 4)])), ip(5));
        for (uid, last) in [("d", 6), ("e", 2), ("f", 4)] {
            assert_eq!(all.allocate(uid, range, &none), ip(last));
        }
        assert_eq!(all.allocate("g", range, &none), None, "neither broadcast nor network nor node address");
        all.release("d");
        assert_eq!(all.allocate("g", range, &none), ip(6));
    }

    #[test]
    fn a_pod_from_another_range_gets_a_new_address() {
        let mut all = Addresses::default();
        let none = HashSet::new();
        all.allocate("a", "10.0.0.0/24".parse().unwrap(), &none);
        let moved = all.allocate("a", "10.1.0.0/24".parse().unwrap(), &none);
        assert_eq!(moved, Some(Ipv4Addr::new(10, 1, 0, 3)));
    }
}
