//! What the scheduler knows: nodes with the pods on them, pods it has just decided about included.

use crate::resources::{self, Amounts};
use crate::volumes::Volumes;
use knarr_api::Kind;
use knarr_api::core::v1::{Node, Pod, PodSpec};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// A pod with what plugins need of it, computed once.
pub struct PodInfo {
    /// The pod.
    pub pod: Arc<Pod>,
    /// What it asks for.
    pub requests: Amounts,
    /// What it counts for in scores.
    pub scored: Amounts,
    /// Host ports it takes: address (empty for all), protocol, port.
    pub host_ports: Vec<(String, String, i32)>,
}

impl PodInfo {
    /// Reads a pod.
    pub fn new(pod: Arc<Pod>) -> Self {
        let (mut requests, mut scored, mut host_ports) = (Amounts::new(), Amounts::new(), Vec::new());
        if let Some(spec) = &pod.spec {
            requests = resources::of_pod(spec);
            scored = resources::of_pod_for_scoring(spec);
            let sidecars = spec
                .init_containers
                .iter()
                .flatten()
                .filter(|c| c.restart_policy.as_deref() == Some("Always"));
            for port in spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten()) {
                if let Some(host_port) = port.host_port.filter(|p| *p > 0) {
                    let address = port.host_ip.clone().filter(|a| a != "0.0.0.0").unwrap_or_default();
                    host_ports.push((
                        address,
                        port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                        host_port,
                    ));
                }
            }
        }
        Self { pod, requests, scored, host_ports }
    }

    /// The pod's spec.
    pub fn spec(&self) -> &PodSpec {
        self.pod.spec.as_ref().expect("every stored pod has a spec")
    }

    /// The pod's labels.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        self.pod.metadata.labels.as_ref().unwrap_or(&NONE)
    }

    fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }
}

/// A node with its pods.
pub struct NodeInfo {
    /// The node.
    pub node: Arc<Node>,
    /// Pods on it by UID.
    pub pods: HashMap<String, Arc<PodInfo>>,
    /// What it has to give.
    pub allocatable: Amounts,
    /// What its pods ask for.
    pub requested: Amounts,
    /// What its pods count for in scores.
    pub scored: Amounts,
    /// Names of images it holds.
    pub images: BTreeSet<String>,
}

impl NodeInfo {
    fn new(node: Arc<Node>) -> Self {
        let mut info = Self {
            node: node.clone(),
            pods: HashMap::new(),
            allocatable: Amounts::new(),
            requested: Amounts::new(),
            scored: Amounts::new(),
            images: BTreeSet::new(),
        };
        info.refresh(node);
        info
    }

    fn refresh(&mut self, node: Arc<Node>) {
        let status = node.status.as_ref();
        self.allocatable = resources::amounts(status.and_then(|s| s.allocatable.as_ref()));
        let images = status.and_then(|s| s.images.as_ref()).into_iter().flatten();
        self.images = images.flat_map(|i| i.names.iter().flatten().cloned()).collect();
        self.node = node;
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        self.node.name()
    }

    /// The node's labels.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        self.node.metadata.labels.as_ref().unwrap_or(&NONE)
    }

    fn add(&mut self, pod: Arc<PodInfo>) {
        for (sums, more) in [(&mut self.requested, &pod.requests), (&mut self.scored, &pod.scored)] {
            more.iter().for_each(|(name, amount)| *sums.entry(name.clone()).or_default() += amount);
        }
        self.pods.insert(pod.uid().to_owned(), pod);
    }

    fn remove(&mut self, uid: &str) {
        if let Some(pod) = self.pods.remove(uid) {
            for (sums, less) in [(&mut self.requested, &pod.requests), (&mut self.scored, &pod.scored)] {
                less.iter().for_each(|(name, amount)| *sums.entry(name.clone()).or_default() -= amount);
            }
        }
    }
}

/// All nodes; the scheduler's working state, read by plugins.
#[derive(Default)]
pub struct Snapshot {
    nodes: Vec<NodeInfo>,
    index: HashMap<String, usize>,
    // Where each pod is counted, by pod UID. A pod may be known before its node is.
    placed: HashMap<String, (String, Arc<PodInfo>)>,
    /// Claims, volumes and classes.
    pub volumes: Volumes,
}

impl Snapshot {
    /// All nodes.
    pub fn nodes(&self) -> &[NodeInfo] {
        &self.nodes
    }

    /// A node.
    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.index.get(name).map(|at| &self.nodes[*at])
    }

    /// All pods that are on nodes, with their nodes.
    pub fn placed(&self) -> impl Iterator<Item = (&NodeInfo, &PodInfo)> {
        self.nodes.iter().flat_map(|node| node.pods.values().map(move |pod| (node, &**pod)))
    }

    /// A node is new or has changed.
    pub fn set_node(&mut self, node: Arc<Node>) {
        let name = node.name().to_owned();
        if let Some(at) = self.index.get(&name) {
            return self.nodes[*at].refresh(node);
        }
        let mut info = NodeInfo::new(node);
        self.placed.values().filter(|(on, _)| *on == name).for_each(|(_, pod)| info.add(pod.clone()));
        self.index.insert(name, self.nodes.len());
        self.nodes.push(info);
    }

    /// A node is gone.
    pub fn remove_node(&mut self, name: &str) {
        if let Some(at) = self.index.remove(name) {
            self.nodes.swap_remove(at);
            if let Some(moved) = self.nodes.get(at) {
                self.index.insert(moved.name().to_owned(), at);
            }
        }
    }

    /// Counts a pod on a node: bound there, or assumed to be soon.
    pub fn place(&mut self, pod: Arc<PodInfo>, node: &str) {
        let uid = pod.uid().to_owned();
        self.displace(&uid);
        if let Some(at) = self.index.get(node) {
            self.nodes[*at].add(pod.clone());
        }
        self.placed.insert(uid, (node.to_owned(), pod));
    }

    /// A pod is gone, has ended, or could not be bound.
    pub fn displace(&mut self, uid: &str) {
        if let Some((node, _)) = self.placed.remove(uid)
            && let Some(at) = self.index.get(&node)
        {
            self.nodes[*at].remove(uid);
        }
    }

    /// Whether the pod is counted on a node.
    pub fn is_placed(&self, uid: &str) -> bool {
        self.placed.contains_key(uid)
    }
}
