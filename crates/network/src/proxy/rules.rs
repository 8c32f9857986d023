//! What the services' rules are to be, computed from Service and EndpointSlices alone: the virtual IP part of the
//! Services documentation, with KEP-1669 (terminating endpoints), KEP-2086 (internal traffic policy) and KEP-24
//! (external traffic policy).

use crate::hash::fnv;
use crate::netlink::nft::{Data, Verdict};
use crate::range::Range;
use knarr_api::core::v1::{Service, ServicePort, ServiceSpec};
use knarr_api::discovery::v1::{Endpoint as ApiEndpoint, EndpointSlice};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// Where a service's connections end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// Address.
    pub address: Ipv4Addr,
    /// Port.
    pub port: u16,
}

/// Transport protocols by number, as the kernel has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub enum Protocol {
    /// TCP.
    Tcp = 6,
    /// UDP.
    Udp = 17,
    /// SCTP.
    Sctp = 132,
}

impl Protocol {
    /// Reads the API's name; nothing means TCP.
    pub fn parse(name: Option<&str>) -> Option<Self> {
        match name.unwrap_or("TCP") {
            "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// One rule of a service's or an endpoint's chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// On to one endpoint.
    To(Endpoint),
    /// On to one of several endpoints, by chance.
    ToOneOf(Vec<Endpoint>),
    /// Into one of several endpoints' chains, by chance.
    IntoOneOf(Vec<String>),
    /// Clients in the set go into the chain.
    Remembered {
        /// The set of clients.
        set: String,
        /// The endpoint's chain.
        chain: String,
    },
    /// Puts the client into the set.
    Remember(String),
    /// Clients in the cluster (pods and this node) go into the chain.
    FromCluster(String),
    /// Clients in the range go into the chain.
    From(Range, String),
    /// Everybody else gets no answer.
    Drop,
}

/// The sets and maps that all services share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shared {
    /// Address, protocol and port to chain.
    ServiceIps,
    /// Protocol and port to chain.
    NodePorts,
    /// Address, protocol and port of services nobody serves: refused or dropped.
    DeadIps,
    /// Protocol and port of services nobody serves.
    DeadNodePorts,
    /// Endpoint's address twice: connections to oneself.
    Hairpin,
}

/// An element of a shared set or map.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Element {
    /// Which set.
    pub set: Shared,
    /// The key's bytes, each part padded to four.
    pub key: Vec<u8>,
}

/// Everything one service needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceRules {
    /// Chains with their rules.
    pub chains: BTreeMap<String, Vec<Rule>>,
    /// Sets that remember clients, with the time after which they forget, in seconds.
    pub clients: BTreeMap<String, u32>,
    /// Elements of the shared sets and maps.
    pub elements: BTreeMap<Element, Option<Data>>,
    /// UDP endpoints in use, whose flows must be forgotten when they go.
    pub udp: BTreeSet<Endpoint>,
}

/// The chain that refuses.
pub const REJECT: &str = "reject";

/// The key of an address, a protocol and a port.
fn address_key(address: Ipv4Addr, protocol: Protocol, port: u16) -> Vec<u8> {
    let mut key = address.octets().to_vec();
    key.extend(port_key(protocol, port));
    key
}

fn port_key(protocol: Protocol, port: u16) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    vec![protocol as u8, 0, 0, 0, high, low, 0, 0]
}

/// Whether a service has a virtual address that proxies are to serve.
fn is_proxied(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    let ip = spec.and_then(|s| s.cluster_ip.as_deref()).unwrap_or_default();
    let labels = service.metadata.labels.as_ref();
    !["", "None"].contains(&ip)
        && spec.and_then(|s| s.type_.as_deref()) != Some("ExternalName")
        && !labels.is_some_and(|l| l.contains_key("service.kubernetes.io/service-proxy-name"))
}

/// What a service needs. Nothing for headless ones, external names and those another proxy serves.
pub fn rules_of<'a>(
    service: &Service,
    slices: impl Iterator<Item = &'a EndpointSlice> + Clone,
    node: &str,
) -> ServiceRules {
    let mut rules = ServiceRules::default();
    if is_proxied(service) {
        for port in service.spec.iter().flat_map(|s| s.ports.iter().flatten()) {
            add_port(&mut rules, service, port, slices.clone(), node);
        }
    }
    rules
}

fn add_port<'a>(
    rules: &mut ServiceRules,
    service: &Service,
    port: &ServicePort,
    slices: impl Iterator<Item = &'a EndpointSlice> + Clone,
    node: &str,
) {
    let Some(spec) = &service.spec else { return };
    let (Some(protocol), Ok(number)) = (Protocol::parse(port.protocol.as_deref()), u16::try_from(port.port))
    else {
        return;
    };
    let all = endpoints(slices.clone(), port, protocol, None);
    let local = endpoints(slices, port, protocol, Some(node));
    let is_local = |policy: &Option<String>| policy.as_deref() == Some("Local");
    let internal = if is_local(&spec.internal_traffic_policy) { &local } else { &all };
    let external = if is_local(&spec.external_traffic_policy) { &local } else { &all };
    let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let config = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
        config.and_then(|c| c.timeout_seconds).and_then(|t| u32::try_from(t).ok()).unwrap_or(10_800)
    });
    let id = format!(
        "{}/{}/{}/{}",
        service.metadata.namespace.as_deref().unwrap_or_default(),
        service.metadata.name.as_deref().unwrap_or_default(),
        protocol.name(),
        port.name.as_deref().filter(|n| !n.is_empty()).map_or_else(|| number.to_string(), str::to_owned)
    );
    let inside = (!internal.is_empty()).then(|| add_chain(rules, "service", &id, internal, affinity));
    let cluster = |rules: &mut ServiceRules| {
        (!all.is_empty()).then(|| add_chain(rules, "cluster", &id, &all, affinity))
    };
    let outside = if external == internal {
        inside.clone()
    } else if external == &all {
        cluster(rules)
    } else {
        // The cluster's own clients are not bound to this node's endpoints; others without one get silence.
        cluster(rules).map(|cluster| {
            let chain = add_chain(rules, "external", &id, external, affinity);
            let list = rules.chains.entry(chain.clone()).or_default();
            list.insert(0, Rule::FromCluster(cluster));
            if external.is_empty() {
                list.push(Rule::Drop);
            }
            chain
        })
    };
    if protocol == Protocol::Udp {
        rules.udp.extend(all.iter().chain(&local));
    }
    let used: BTreeSet<Endpoint> = internal.iter().chain(external).copied().collect();
    for endpoint in used {
        let key = [endpoint.address.octets(), endpoint.address.octets()].concat();
        rules.elements.insert(Element { set: Shared::Hairpin, key }, None);
    }
    let parse = |ip: &String| ip.parse::<Ipv4Addr>().ok();
    let goto = |chain: &String| Some(Data::Verdict(Verdict::Goto(chain.clone())));
    // Where there are endpoints, only not for this kind of client, others may still succeed: silence, as upstream.
    let dead = if all.is_empty() {
        Data::Verdict(Verdict::Goto(REJECT.to_owned()))
    } else {
        Data::Verdict(Verdict::Drop)
    };
    for ip in spec.cluster_ip.iter().filter_map(parse) {
        let key = address_key(ip, protocol, number);
        match &inside {
            Some(chain) => rules.elements.insert(Element { set: Shared::ServiceIps, key }, goto(chain)),
            None => rules.elements.insert(Element { set: Shared::DeadIps, key }, Some(dead.clone())),
        };
    }
    let balancer = service.status.as_ref().and_then(|s| s.load_balancer.as_ref());
    let ingress = balancer.into_iter().flat_map(|b| b.ingress.iter().flatten());
    let ingress = ingress.filter(|i| i.ip_mode.as_deref() != Some("Proxy")).filter_map(|i| i.ip.as_ref());
    let ingress: Vec<Ipv4Addr> = ingress.filter_map(parse).collect();
    let guarded = guard(rules, &id, spec, outside.as_ref().filter(|_| !ingress.is_empty()));
    let external_ips = spec.external_ips.iter().flatten().filter_map(parse);
    let both = external_ips.map(|ip| (ip, &outside)).chain(ingress.iter().map(|ip| (*ip, &guarded)));
    for (ip, chain) in both {
        let key = address_key(ip, protocol, number);
        match chain {
            Some(chain) => rules.elements.insert(Element { set: Shared::ServiceIps, key }, goto(chain)),
            None => rules.elements.insert(Element { set: Shared::DeadIps, key }, Some(dead.clone())),
        };
    }
    if let Some(node_port) = port.node_port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p > 0) {
        let key = port_key(protocol, node_port);
        match &outside {
            Some(chain) => rules.elements.insert(Element { set: Shared::NodePorts, key }, goto(chain)),
            None => rules.elements.insert(Element { set: Shared::DeadNodePorts, key }, Some(dead)),
        };
    }
}

/// The chain for the balancer's addresses: `chain` itself, or one that lets only permitted clients into it.
fn guard(rules: &mut ServiceRules, id: &str, spec: &ServiceSpec, chain: Option<&String>) -> Option<String> {
    let chain = chain?;
    let ranges = spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
    if spec.type_.as_deref() != Some("LoadBalancer") || ranges.is_empty() {
        return Some(chain.clone());
    }
    // A range that cannot be read lets nobody in.
    let permitted = ranges.iter().filter_map(|range| range.trim().parse::<Range>().ok());
    let mut list: Vec<Rule> = permitted.map(|range| Rule::From(range, chain.clone())).collect();
    list.push(Rule::Drop);
    let name = chain_name("firewall", id);
    rules.chains.insert(name.clone(), list);
    Some(name)
}

/// Adds a chain that spreads connections over endpoints, with the endpoints' own chains where clients are remembered.
fn add_chain(
    rules: &mut ServiceRules,
    kind: &str,
    id: &str,
    endpoints: &BTreeSet<Endpoint>,
    affinity: Option<u32>,
) -> String {
    let name = chain_name(kind, id);
    let list: Vec<Endpoint> = endpoints.iter().copied().collect();
    let chain = match (affinity, list.as_slice()) {
        (_, []) => Vec::new(),
        (_, [only]) => vec![Rule::To(*only)],
        (None, _) => vec![Rule::ToOneOf(list)],
        (Some(seconds), _) => {
            let mut chain = Vec::new();
            let mut chains = Vec::new();
            for endpoint in list {
                let to = format!("{id}/{}/{}", endpoint.address, endpoint.port);
                // The time is part of the name: a set's cannot be changed.
                let set = chain_name("clients", &format!("{to}/{seconds}s"));
                let own = chain_name("endpoint", &to);
                rules.clients.insert(set.clone(), seconds);
                rules.chains.insert(own.clone(), vec![Rule::Remember(set.clone()), Rule::To(endpoint)]);
                chain.push(Rule::Remembered { set, chain: own.clone() });
                chains.push(own);
            }
            chain.push(Rule::IntoOneOf(chains));
            chain
        }
    };
    rules.chains.insert(name.clone(), chain);
    name
}

/// A name that tells people what it is and fits (older kernels take 31 characters of a set's name, 127 of a chain's).
fn chain_name(kind: &str, id: &str) -> String {
    let hash = fnv(id);
    if kind == "clients" {
        return format!("clients-{hash:016x}");
    }
    let mut name = format!("{kind}-{hash:016x}-{id}");
    name.truncate(120);
    name
}

/// The endpoints of a port that get connections: the ready ones, or, if there is none, those that still serve while
/// they terminate. With a `node`, only those on it.
fn endpoints<'a>(
    slices: impl Iterator<Item = &'a EndpointSlice>,
    port: &ServicePort,
    protocol: Protocol,
    node: Option<&str>,
) -> BTreeSet<Endpoint> {
    let mut ready = BTreeSet::new();
    let mut leaving = BTreeSet::new();
    for slice in slices.filter(|s| s.address_type == "IPv4") {
        let wanted = slice.ports.iter().flatten().find(|p| {
            p.name.as_deref().unwrap_or_default() == port.name.as_deref().unwrap_or_default()
                && Protocol::parse(p.protocol.as_deref()) == Some(protocol)
        });
        let Some(number) = wanted.and_then(|p| p.port).and_then(|p| u16::try_from(p).ok()) else { continue };
        for endpoint in slice.endpoints.iter().flatten() {
            if node.is_some_and(|node| endpoint.node_name.as_deref() != Some(node)) {
                continue;
            }
            let into = match condition(endpoint) {
                Condition::Ready => &mut ready,
                Condition::Leaving => &mut leaving,
                Condition::Unusable => continue,
            };
            // The first address is the endpoint's; further ones are reserved.
            let address = endpoint.addresses.first().and_then(|a| a.parse().ok());
            into.extend(address.map(|address| Endpoint { address, port: number }));
        }
    }
    if ready.is_empty() { leaving } else { ready }
}

enum Condition {
    Ready,
    Leaving,
    Unusable,
}

fn condition(endpoint: &ApiEndpoint) -> Condition {
    let Some(conditions) = &endpoint.conditions else { return Condition::Ready };
    if conditions.ready != Some(false) {
        Condition::Ready
    } else if conditions.serving == Some(true) && conditions.terminating == Some(true) {
        Condition::Leaving
    } else {
        Condition::Unusable
    }
}
