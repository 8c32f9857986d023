//! node-ipam: gives every Node a range of pod addresses out of the cluster's (`spec.podCIDR`), as upstream's range
//! allocator does: ranges of one size, handed out in turn so that one that was given back is used again as late as
//! possible, none that holds service addresses. One range can be kept for the node that runs in this process, which has
//! to know it before there is an API server.

use crate::framework::{Next, Reconcile, Start, run};
use knarr_api::Kind;
use knarr_api::core::v1::Node;
use knarr_base::clock::BoxFuture;
use knarr_client::informer::Key;
use knarr_client::recorder::reference;
use knarr_client::{Change, Error, Informer, Patch, Recorder, WorkQueue};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A node for which there was no range is looked at again after this; a range that is given back wakes it as well.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// An IPv4 range: first address, length of the prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cidr {
    /// First address.
    pub network: Ipv4Addr,
    /// Length of the prefix.
    pub prefix: u8,
}

impl Cidr {
    /// Reads `10.244.1.0/24`.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/')?;
        let (network, prefix) = (address.parse().ok()?, prefix.parse().ok().filter(|p| *p <= 32)?);
        Some(Self { network, prefix })
    }

    fn mask(prefix: u8) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
    }

    fn overlaps(&self, other: &Self) -> bool {
        let mask = Self::mask(self.prefix.min(other.prefix));
        u32::from(self.network) & mask == u32::from(other.network) & mask
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

/// What is handed out.
#[derive(Clone, Debug)]
pub struct NodeIpam {
    /// The range of all pods.
    pub cluster: Cidr,
    /// Length of the prefix of a node's range (--node-cidr-mask-size).
    pub node_prefix: u8,
    /// The range of services, which no pod may have an address of.
    pub services: Cidr,
    /// A node of this name has the first range; nobody else gets it.
    pub own: Option<String>,
}

/// Who has which range.
struct Ranges {
    config: NodeIpam,
    by_node: BTreeMap<String, Cidr>,
    /// Where the search goes on.
    next: u32,
}

impl Ranges {
    fn count(&self) -> u32 {
        1 << u32::from(self.config.node_prefix.saturating_sub(self.config.cluster.prefix)).min(31)
    }

    fn nth(&self, n: u32) -> Cidr {
        let size = 1_u32.checked_shl(32 - u32::from(self.config.node_prefix)).unwrap_or(0);
        let network = u32::from(self.config.cluster.network).wrapping_add(n.wrapping_mul(size));
        Cidr { network: network.into(), prefix: self.config.node_prefix }
    }

    /// A range for a node that has none.
    fn allocate(&mut self, node: &str) -> Option<Cidr> {
        if let Some(held) = self.by_node.get(node) {
            return Some(*held);
        }
        let used: BTreeSet<Cidr> = self.by_node.values().copied().collect();
        let free = |range: &Cidr| {
            !used.iter().any(|used| used.overlaps(range)) && !self.config.services.overlaps(range)
        };
        let range = match &self.config.own {
            Some(own) if own == node => Some(self.nth(0)).filter(free),
            own => {
                let first = u32::from(own.is_some());
                let count = self.count().saturating_sub(first);
                let candidates = (0..count).map(|step| first + (self.next + step) % count);
                let found = candidates.map(|n| (n, self.nth(n))).find(|(_, range)| free(range));
                if let Some((n, _)) = found {
                    self.next = n - first + 1;
                }
                found.map(|(_, range)| range)
            }
        }?;
        self.by_node.insert(node.to_owned(), range);
        Some(range)
    }
}

struct Allocator {
    start: Start,
    nodes: Informer<Node>,
    recorder: Recorder,
    ranges: Mutex<Ranges>,
    queue: WorkQueue<Key>,
    waiting: Mutex<BTreeSet<String>>,
}

/// Starts the controller; nothing happens without a range of the cluster's.
pub fn start(start: Start) {
    let Some(config) = start.config.node_ipam.clone() else { return };
    let nodes = start.informers.get::<Node>();
    let queue: WorkQueue<Key> = WorkQueue::new(start.ctx.clone());
    let on_node = queue.clone();
    nodes.on_change(move |change: &Change<Node>| on_node.add(Key::of(&change.object().metadata)));
    let ranges = Mutex::new(Ranges { config, by_node: BTreeMap::new(), next: 0 });
    let recorder = Recorder::new(start.client.clone(), "cidrAllocator", "");
    let allocator = Arc::new(Allocator {
        start: start.clone(),
        nodes: nodes.clone(),
        recorder,
        ranges,
        queue: queue.clone(),
        waiting: Mutex::default(),
    });
    let known = allocator.clone();
    let ready = async move {
        nodes.synced().await;
        // All that have a range first: none of them may be given to somebody else.
        let mut ranges = known.ranges();
        for node in nodes.list("") {
            if let Some(range) = range_of(&node) {
                ranges.by_node.insert(node.name().to_owned(), range);
            }
        }
    };
    run(&start, "node-ipam", 1, queue, ready, allocator);
}

fn range_of(node: &Node) -> Option<Cidr> {
    Cidr::parse(node.spec.as_ref()?.pod_cidr.as_deref()?)
}

impl Allocator {
    fn ranges(&self) -> std::sync::MutexGuard<'_, Ranges> {
        self.ranges.lock().expect("range lock is never poisoned")
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let waiting = || self.waiting.lock().expect("waiting lock is never poisoned");
        let Some(node) = self.nodes.get_key(key) else {
            waiting().remove(&key.name);
            if self.ranges().by_node.remove(&key.name).is_some() {
                waiting().iter().for_each(|name| self.queue.add(Key::new("", name)));
            }
            return Ok(Next::Done);
        };
        if let Some(range) = range_of(&node) {
            self.ranges().by_node.insert(key.name.clone(), range);
            return Ok(Next::Done);
        }
        let range = self.ranges().allocate(&key.name);
        let Some(range) = range else {
            if waiting().insert(key.name.clone()) {
                let message = format!("Node {} status is now: CIDRNotAvailable", key.name);
                self.recorder.normal(&reference(&*node), "CIDRNotAvailable", message);
            }
            return Ok(Next::After(ASK_AGAIN));
        };
        waiting().remove(&key.name);
        let patch = Patch::Merge(json!({ "metadata": { "uid": node.metadata.uid },
            "spec": { "podCIDR": range.to_string(), "podCIDRs": [range.to_string()] } }));
        match self.start.client.patch::<Node>("", &key.name, "", &patch).await {
            Ok(_) => Ok(Next::Done),
            Err(error) => {
                // Whether it was written is not known: the range stays the node's, and this is tried again.
                if !error.is_conflict() && !error.is_not_found() {
                    let message = format!("Node {} status is now: CIDRAssignmentFailed", key.name);
                    self.recorder.normal(&reference(&*node), "CIDRAssignmentFailed", message);
                }
                Err(error)
            }
        }
    }
}

impl Reconcile for Allocator {
    fn sync<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Next, Error>> {
        Box::pin(self.reconcile(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(cluster: &str, node_prefix: u8, own: Option<&str>) -> Ranges {
        let config = NodeIpam {
            cluster: Cidr::parse(cluster).expect("a range"),
            node_prefix,
            services: Cidr::parse("10.96.0.0/16").expect("a range"),
            own: own.map(str::to_owned),
        };
        Ranges { config, by_node: BTreeMap::new(), next: 0 }
    }

    #[test]
    fn each_node_has_a_range_of_its_own_and_old_ones_come_back_late() {
        let mut all = ranges("10.244.0.0/22", 24, Some("first"));
        let mut give = |node: &str| all.allocate(node).map(|r| r.to_string());
        assert_eq!(give("b").as_deref(), Some("10.244.1.0/24"), "the first range is kept");
        assert_eq!(give("b").as_deref(), Some("10.244.1.0/24"));
        assert_eq!(give("first").as_deref(), Some("10.244.0.0/24"));
        assert_eq!(give("c").as_deref(), Some("10.244.2.0/24"));
        all.by_node.remove("b");
        let mut give = |node: &str| all.allocate(node).map(|r| r.to_string());
        assert_eq!(give("d").as_deref(), Some("10.244.3.0/24"));
        assert_eq!(give("e").as_deref(), Some("10.244.1.0/24"));
        assert_eq!(give("f"), None);
    }

    #[test]
    fn ranges_with_service_addresses_and_foreign_ones_are_left_out() {
        let mut all = ranges("10.96.0.0/14", 16, None);
        all.by_node.insert("by hand".into(), Cidr::parse("10.97.3.0/24").expect("a range"));
        assert_eq!(all.allocate("a").map(|r| r.to_string()).as_deref(), Some("10.98.0.0/16"));
        let mut one = ranges("10.244.0.0/24", 24, Some("own"));
        assert_eq!(one.allocate("other"), None, "there is room for one node only");
        assert!(one.allocate("own").is_some());
    }
}
