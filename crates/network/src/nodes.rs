//! The way to other nodes' pods. Every node has a range of its own (`spec.podCIDR`); where two nodes share a link the
//! range is routed to the other one's address there, elsewhere packets travel in VXLAN (RFC 7348) between the nodes'
//! addresses. Watch-driven: a route is there as soon as its node is known, and gone with it.
//!
//! A node's own address may be Knarr's stable one, inside its range and unknown to other machines (ADR 0006). What other
//! machines reach it at is therefore published in an annotation of its Node.

use crate::NetworkError;
use crate::netlink::route::{self, Mac, Route, Via, Vxlan};
use crate::netlink::{Socket, monitor};
use crate::range::Range;
use knarr_api::Kind;
use knarr_api::core::v1::Node;
use knarr_base::Ctx;
use knarr_client::{Change, Client, Informer, Informers, Patch};
use serde_json::json;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// Annotation of a Node: the address at which other machines reach this one.
pub const ADDRESS: &str = "knarr.dev/node-address";
/// The VXLAN device, made when some node needs it.
pub const OVERLAY: &str = "knarr-vx";
/// Its network identifier and port: the kernel's and flannel's usual ones.
const OVERLAY_ID: u32 = 1;
const OVERLAY_PORT: u16 = 8472;
/// Outer IPv4, UDP and VXLAN headers with the inner Ethernet one, in bytes.
const OVERLAY_HEADERS: u32 = 50;
/// Changes of a link or of many nodes are gathered for this long.
const GATHER: Duration = Duration::from_millis(20);
/// How long to wait after the kernel or the server refused.
const RETRY: Duration = Duration::from_secs(1);
/// The safety net: somebody may have taken routes away.
const CHECK_EVERY: Duration = Duration::from_secs(30);

/// What routing to other nodes has to know.
#[derive(Clone, Debug)]
pub struct NodeRoutesConfig {
    /// This node.
    pub node_name: String,
    /// Its address, if it is one that other machines can reach.
    pub address: Option<Ipv4Addr>,
    /// The range of this node's pods.
    pub pod_cidr: Range,
    /// The range of all nodes' pods.
    pub cluster_cidr: Range,
    /// MTU of the links between nodes, in bytes.
    pub mtu: u32,
}

/// Keeps routes to other nodes.
#[derive(Clone)]
pub struct NodeRoutes;

/// Another node: its range and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Peer {
    pods: Range,
    address: Ipv4Addr,
}

/// A way to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Over a link that both are on.
    Link { index: u32 },
    /// In VXLAN.
    Overlay,
}

impl NodeRoutes {
    /// Starts in the tasks of `ctx`, in the network namespace of the calling thread. `client` may list nodes and patch
    /// this one; `publish` may patch this node's annotations.
    pub fn start(
        ctx: &Ctx,
        informers: &Informers,
        publish: Client,
        config: NodeRoutesConfig,
    ) -> Result<Self, NetworkError> {
        let nodes = informers.get::<Node>();
        let wake = Arc::new(Notify::new());
        let told = wake.clone();
        nodes.on_change(move |change: &Change<Node>| {
            if change.old.as_deref().map(facts) != change.new.as_deref().map(facts) {
                told.notify_one();
            }
        });
        let mut links = monitor::address_changes()?;
        let told = wake.clone();
        ctx.tasks.spawn_until_stopped("node-links", async move {
            while links.changed().await.is_ok() {
                told.notify_one();
            }
        });
        let worker = Worker { config, nodes, publish, wake };
        let clock = ctx.clock.clone();
        ctx.tasks.spawn_until_stopped("node-routes", async move { worker.run(clock).await });
        Ok(Self)
    }
}

/// What of a node matters here.
fn facts(node: &Node) -> (Option<Range>, Option<Ipv4Addr>) {
    (pods_of(node), address_of(node))
}

fn pods_of(node: &Node) -> Option<Range> {
    node.spec.as_ref()?.pod_cidr.as_ref()?.parse().ok()
}

/// Where a node is: what it published, else its internal address (other kubelets than ours publish nothing).
fn address_of(node: &Node) -> Option<Ipv4Addr> {
    let published =
        node.metadata.annotations.as_ref().and_then(|a| a.get(ADDRESS)).and_then(|a| a.parse().ok());
    let internal = || {
        let addresses = node.status.as_ref()?.addresses.as_ref()?;
        addresses.iter().find(|a| a.type_ == "InternalIP")?.address.parse().ok()
    };
    let address: Ipv4Addr = published.or_else(internal)?;
    // The stable address is inside the range that a route is wanted for.
    pods_of(node).is_none_or(|pods| !pods.contains(address)).then_some(address)
}

/// The other nodes that have a range inside the cluster's and an address. Of two with one range the first keeps it.
fn peers<'a>(nodes: impl Iterator<Item = &'a Node>, config: &NodeRoutesConfig) -> BTreeMap<Range, Peer> {
    let mut peers = BTreeMap::new();
    for node in nodes.filter(|node| node.name() != config.node_name) {
        if let (Some(pods), Some(address)) = facts(node)
            && config.cluster_cidr.contains(pods.network)
            && pods.prefix >= config.cluster_cidr.prefix
            && !pods.overlaps(&config.pod_cidr)
        {
            peers.entry(pods).or_insert(Peer { pods, address });
        }
    }
    peers
}

/// How to reach an address, given this host's addresses (with prefix and link).
fn way(to: Ipv4Addr, own: &[(Ipv4Addr, u8, u32)]) -> Way {
    let on_link = |(address, prefix, _): &&(Ipv4Addr, u8, u32)| {
        *prefix < 32 && Range::new(*address, *prefix).contains(to)
    };
    let nearest = own.iter().filter(on_link).max_by_key(|(_, prefix, _)| *prefix);
    nearest.map_or(Way::Overlay, |(_, _, index)| Way::Link { index: *index })
}

/// The Ethernet address of a node's VXLAN device, from its pod range: nobody has to publish it.
fn overlay_mac(pods: Range) -> Mac {
    let [a, b, c, d] = pods.network.octets();
    [0x0e, 0x58, a, b, c, d]
}

/// The address by which other machines reach this one: that of the link with the default route, else the first on a
/// link that is not Knarr's own.
pub fn underlay_address(socket: &mut Socket) -> Result<Option<Ipv4Addr>, NetworkError> {
    let links = route::links(socket)?;
    let ours = |index: u32| {
        let name = links.iter().find(|(_, i)| *i == index).map_or("", |(name, _)| name.as_str());
        name == crate::host::DEVICE || name == OVERLAY || crate::pods::is_host_link(name)
    };
    let default = route::routes(socket)?.into_iter().find(|r| r.to.prefix == 0 && r.gateway).map(|r| r.link);
    let usable = |(address, prefix, index): &(Ipv4Addr, u8, u32)| {
        !address.is_loopback() && !address.is_link_local() && *prefix < 32 && !ours(*index)
    };
    let mut all: Vec<_> = route::addresses(socket)?.into_iter().filter(usable).collect();
    all.sort_by_key(|(_, _, index)| (Some(*index) != default, *index));
    Ok(all.first().map(|(address, ..)| *address))
}

struct Worker {
    config: NodeRoutesConfig,
    nodes: Informer<Node>,
    publish: Client,
    wake: Arc<Notify>,
}

impl Worker {
    async fn run(self, clock: knarr_base::ClockRef) {
        self.nodes.synced().await;
        loop {
            let outcome = self.round().await;
            let pause = match outcome {
                Ok(()) => CHECK_EVERY,
                Err(error) => {
                    tracing::warn!(%error, "cannot keep the routes to other nodes; trying again");
                    RETRY
                }
            };
            tokio::select! {
                () = self.wake.notified() => clock.sleep(GATHER).await,
                () = clock.sleep(pause) => {}
            }
        }
    }

    async fn round(&self) -> Result<(), NetworkError> {
        let nodes = self.nodes.list("");
        let peers = peers(nodes.iter().map(|n| &**n), &self.config);
        let config = self.config.clone();
        let work = move || -> Result<Option<Ipv4Addr>, NetworkError> {
            let mut socket = Socket::route()?;
            let address = match config.address {
                Some(address) => Some(address),
                None => underlay_address(&mut socket)?,
            };
            align(&mut socket, &config, &peers, address)?;
            Ok(address)
        };
        let address = tokio::task::spawn_blocking(work).await;
        let Ok(address) = address else { return Ok(()) };
        self.tell(address?).await
    }

    /// Publishes this machine's address on its Node.
    async fn tell(&self, address: Option<Ipv4Addr>) -> Result<(), NetworkError> {
        let Some(node) = self.nodes.get("", &self.config.node_name) else { return Ok(()) };
        let held = node.metadata.annotations.as_ref().and_then(|a| a.get(ADDRESS));
        let wanted = address.map(|address| address.to_string());
        if held == wanted.as_ref() {
            return Ok(());
        }
        let patch = Patch::Merge(json!({ "metadata": { "annotations": { ADDRESS: wanted } } }));
        match self.publish.patch::<Node>("", &self.config.node_name, "", &patch).await {
            Err(error) if !error.is_not_found() => {
                Err(NetworkError::Api { what: format!("node {}", self.config.node_name), error })
            }
            _ => Ok(()),
        }
    }
}

/// The routes to other nodes' ranges that are there: ours, inside the cluster's range, over a link or by a gateway.
fn held(routes: Vec<Route>, config: &NodeRoutesConfig) -> BTreeMap<Range, Route> {
    let of_nodes = routes.into_iter().filter(|r| {
        r.ours
            && r.gateway
            && r.link != 0
            && config.cluster_cidr.contains(r.to.network)
            && r.to != config.cluster_cidr
            && !config.pod_cidr.contains(r.to.network)
    });
    of_nodes.map(|r| (r.to, r)).collect()
}

/// Brings the kernel's routes to where the nodes are.
fn align(
    socket: &mut Socket,
    config: &NodeRoutesConfig,
    peers: &BTreeMap<Range, Peer>,
    address: Option<Ipv4Addr>,
) -> Result<(), NetworkError> {
    let own = route::addresses(socket)?;
    let held = held(route::routes(socket)?, config);
    let mut overlay = None;
    for peer in peers.values() {
        let via = match way(peer.address, &own) {
            Way::Link { index } => Via::Gateway { index, gateway: peer.address },
            Way::Overlay => {
                let Some(address) = address else { continue };
                let index = match overlay {
                    Some(index) => index,
                    None => *overlay.insert(ensure_overlay(socket, config, address)?),
                };
                let mac = overlay_mac(peer.pods);
                route::set_forwarding(socket, index, mac, peer.address)?;
                route::set_neighbour(socket, index, peer.pods.network, mac)?;
                Via::Gateway { index, gateway: peer.pods.network }
            }
        };
        let Via::Gateway { index, gateway } = via else { continue };
        let is = held.get(&peer.pods).is_some_and(|r| r.link == index && r.via == Some(gateway));
        if !is {
            route::set_route(socket, peer.pods, via, 0)?;
        }
    }
    for gone in held.keys().filter(|range| !peers.contains_key(range)) {
        route::remove_any_route(socket, *gone)?;
    }
    if overlay.is_none() {
        route::remove_link(socket, OVERLAY)?;
    }
    Ok(())
}

/// The VXLAN device's index; it is made if need be.
fn ensure_overlay(
    socket: &mut Socket,
    config: &NodeRoutesConfig,
    address: Ipv4Addr,
) -> Result<u32, NetworkError> {
    if let Some(index) = route::link_index(socket, OVERLAY)? {
        return Ok(index);
    }
    let vxlan = Vxlan {
        id: OVERLAY_ID,
        port: OVERLAY_PORT,
        local: address,
        mac: overlay_mac(config.pod_cidr),
        mtu: config.mtu - OVERLAY_HEADERS,
    };
    route::add_vxlan(socket, OVERLAY, vxlan)?;
    let index = route::link_index(socket, OVERLAY)?.unwrap_or_default();
    // What this node itself sends has an address that the other one can answer to.
    route::add_address(socket, index, config.pod_cidr.network, 32)?;
    Ok(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, cidr: &str, published: &str, internal: &str) -> Node {
        Node::from_value(&json!({ "metadata": { "name": name, "annotations": { ADDRESS: published } },
            "spec": { "podCIDR": cidr }, "status": { "addresses": [{ "type": "InternalIP", "address": internal }] } }))
        .expect("a node")
    }

    #[test]
    fn nodes_with_a_range_and_an_address_are_peers() {
        let config = NodeRoutesConfig {
            node_name: "a".into(),
            address: None,
            pod_cidr: "10.244.0.0/24".parse().unwrap(),
            cluster_cidr: "10.244.0.0/16".parse().unwrap(),
            mtu: 1500,
        };
        let nodes = [
            node("a", "10.244.0.0/24", "192.0.2.1", "10.244.0.1"),
            node("b", "10.244.1.0/24", "192.0.2.2", "10.244.1.1"),
            node("c", "10.244.2.0/24", "", "192.0.2.3"),
            node("stable", "10.244.3.0/24", "", "10.244.3.1"),
            node("thief", "10.244.0.0/25", "192.0.2.5", ""),
            node("elsewhere", "10.0.0.0/24", "192.0.2.6", ""),
            node("everything", "0.0.0.0/0", "192.0.2.7", ""),
            node("none", "", "192.0.2.8", ""),
        ];
        let found: Vec<String> =
            peers(nodes.iter(), &config).values().map(|p| format!("{} {}", p.pods, p.address)).collect();
        assert_eq!(found, ["10.244.1.0/24 192.0.2.2", "10.244.2.0/24 192.0.2.3"]);
    }

    #[test]
    fn the_nearest_shared_link_is_taken_and_else_the_overlay() {
        let own = [
            (Ipv4Addr::new(10, 0, 0, 1), 8, 2),
            (Ipv4Addr::new(10, 0, 1, 1), 24, 3),
            (Ipv4Addr::new(192, 0, 2, 1), 32, 4),
        ];
        assert_eq!(way(Ipv4Addr::new(10, 0, 1, 9), &own), Way::Link { index: 3 });
        assert_eq!(way(Ipv4Addr::new(10, 9, 1, 9), &own), Way::Link { index: 2 });
        assert_eq!(way(Ipv4Addr::new(192, 0, 2, 1), &own), Way::Overlay);
    }
}
