//! The graph of owners and dependents.

use knarr_api::jiff::Timestamp;
use knarr_api::meta::v1::{ObjectMeta, OwnerReference, Time};
use knarr_client::ResourcePath;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

/// An object as the graph knows it.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its resource.
    pub path: Arc<ResourcePath>,
    /// UID.
    pub uid: String,
    /// Namespace, empty for cluster-scoped kinds.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Its owners.
    pub owners: Vec<OwnerReference>,
    /// Finalizers.
    pub finalizers: Vec<String>,
    /// Whether it is being deleted.
    pub deleting: bool,
}

impl Node {
    /// Reads metadata.
    pub fn of(path: Arc<ResourcePath>, meta: &ObjectMeta) -> Self {
        Self {
            path,
            uid: meta.uid.clone().unwrap_or_default(),
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            owners: meta.owner_references.clone().unwrap_or_default(),
            finalizers: meta.finalizers.clone().unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
        }
    }

    /// What the graph keeps of the metadata.
    pub fn meta(&self) -> ObjectMeta {
        ObjectMeta {
            uid: Some(self.uid.clone()),
            name: Some(self.name.clone()),
            finalizers: Some(self.finalizers.clone()),
            deletion_timestamp: self.deleting.then_some(Time(Timestamp::UNIX_EPOCH)),
            ..ObjectMeta::default()
        }
    }
}

/// All objects by UID, with who depends on whom. An owner may be known to have dependents before it is seen.
#[derive(Default)]
pub struct Graph {
    nodes: HashMap<String, Node>,
    dependents: HashMap<String, BTreeSet<String>>,
    /// Objects with dependents that have been seen to go, the oldest first.
    buried: VecDeque<String>,
}

/// How many objects that have gone are remembered, as upstream's cache of absent owners.
const BURIED: usize = 500;

impl Graph {
    /// One object.
    pub fn get(&self, uid: &str) -> Option<Node> {
        self.nodes.get(uid).cloned()
    }

    /// An object is new or has changed.
    pub fn set(&mut self, node: Node) {
        self.unlink(&node.uid);
        for owner in &node.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(node.uid.clone());
        }
        self.nodes.insert(node.uid.clone(), node);
    }

    /// An object is gone; these depended on it.
    pub fn remove(&mut self, uid: &str) -> Vec<String> {
        self.unlink(uid);
        self.nodes.remove(uid);
        self.dependents.get(uid).into_iter().flatten().cloned().collect()
    }

    fn unlink(&mut self, uid: &str) {
        let Some(node) = self.nodes.get(uid) else { return };
        for owner in &node.owners {
            if let Some(dependents) = self.dependents.get_mut(&owner.uid) {
                dependents.remove(uid);
                if dependents.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
        }
    }

    /// Forgets all objects of a resource that is no longer looked after; these depended on them.
    pub fn forget(&mut self, path: &ResourcePath) -> Vec<String> {
        let here: Vec<String> =
            self.nodes.values().filter(|node| *node.path == *path).map(|node| node.uid.clone()).collect();
        here.iter().flat_map(|uid| self.remove(uid)).collect()
    }

    /// Notes that an object has been seen to go.
    pub fn bury(&mut self, uid: &str) {
        if self.buried.len() >= BURIED {
            self.buried.pop_front();
        }
        self.buried.push_back(uid.to_owned());
    }

    /// Whether an object has been seen to go not long ago.
    pub fn is_buried(&self, uid: &str) -> bool {
        self.buried.iter().any(|buried| buried == uid)
    }

    /// What depends on an object.
    pub fn dependents(&self, uid: &str) -> Vec<Node> {
        self.dependents.get(uid).into_iter().flatten().filter_map(|d| self.get(d)).collect()
    }

    /// Whether anything depends on it.
    pub fn has_dependents(&self, uid: &str) -> bool {
        self.dependents.contains_key(uid)
    }

    /// What depends on an object and keeps it from being deleted in the foreground.
    pub fn blocking_dependents(&self, uid: &str) -> Vec<Node> {
        let blocks =
            |node: &Node| node.owners.iter().any(|o| o.uid == uid && o.block_owner_deletion == Some(true));
        self.dependents(uid).into_iter().filter(blocks).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(uid: &str, owners: &[(&str, bool)]) -> Node {
        let owner = |(uid, blocks): &(&str, bool)| OwnerReference {
            uid: (*uid).to_owned(),
            block_owner_deletion: Some(*blocks),
            ..OwnerReference::default()
        };
        let meta = ObjectMeta {
            uid: Some(uid.to_owned()),
            owner_references: Some(owners.iter().map(owner).collect()),
            ..ObjectMeta::default()
        };
        let path = ResourcePath { group: String::new(), version: "v1".into(), resource: "pods".into() };
        Node::of(Arc::new(path), &meta)
    }

    #[test]
    fn dependents_follow_their_references() {
        let mut graph = Graph::default();
        graph.set(node("pod", &[("set", true), ("other", false)]));
        graph.set(node("set", &[]));
        assert_eq!(graph.blocking_dependents("set").len(), 1);
        assert!(graph.blocking_dependents("other").is_empty() && graph.has_dependents("other"));
        graph.set(node("pod", &[("set", true)]));
        assert!(!graph.has_dependents("other"));
        assert_eq!(graph.remove("set"), ["pod"]);
        graph.remove("pod");
        assert!(!graph.has_dependents("set"));
    }
}
