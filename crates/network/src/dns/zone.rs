//! The cluster's zone: names of services, endpoints and pods, answered from memory (Kubernetes DNS-Based Service
//! Discovery 1.1.0, with CoreDNS' choices where that leaves room).

use crate::range::Range;
use crate::view::{Entry, ServiceView};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use knarr_client::informer::Key;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Seconds that answers from the zone may be kept; CoreDNS' default.
pub const TTL: u32 = 5;
/// The version of the specification, as `dns-version` tells it.
const SPECIFICATION: &str = "1.1.0";

/// What there is to say to a question.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// These records: answers and what may help along with them. No answers: the name exists, not with this type.
    Records(Vec<Record>, Vec<Record>),
    /// An alias of a name elsewhere.
    Alias(Box<Record>, Name),
    /// No such name.
    NoSuchName,
    /// Not ours to answer.
    Elsewhere,
}

/// The zone over a view of services.
pub struct Zone {
    view: ServiceView,
    domain: Name,
    reverse: Vec<Range>,
}

/// An endpoint of a headless service.
struct Target {
    hostname: String,
    address: IpAddr,
    /// Name, protocol in lower case and number.
    ports: Vec<(String, String, u16)>,
}

impl Zone {
    /// The zone of `domain`; addresses in `reverse` are nobody else's to name.
    pub fn new(view: ServiceView, domain: Name, reverse: Vec<Range>) -> Self {
        Self { view, domain, reverse }
    }

    /// Whether the services are known yet.
    pub fn is_ready(&self) -> bool {
        self.view.has_synced()
    }

    /// The record that says who is in charge, for answers that find nothing.
    pub fn authority(&self, serial: u32) -> Record {
        let under = |labels: &[&str]| self.name(labels);
        let soa = SOA::new(under(&["ns", "dns"]), under(&["hostmaster"]), serial, 7200, 1800, 86400, TTL);
        Record::from_rdata(self.domain.clone(), TTL, RData::SOA(soa))
    }

    /// Answers a question. `turn` varies the order of addresses.
    pub fn answer(&self, name: &Name, kind: RecordType, turn: usize) -> Outcome {
        let labels: Vec<String> =
            name.iter().map(|label| String::from_utf8_lossy(label).to_ascii_lowercase()).collect();
        if let Some(address) = reverse_address(&labels) {
            return self.reverse(name, address, kind);
        }
        let own = usize::from(self.domain.num_labels());
        if !self.domain.zone_of(name) {
            return Outcome::Elsewhere;
        }
        let relative: Vec<&str> = labels[..labels.len() - own].iter().map(String::as_str).collect();
        let mut outcome = self.below(name, &relative, kind);
        if let Outcome::Records(answers, _) = &mut outcome
            && answers.len() > 1
        {
            let by = turn % answers.len();
            answers.rotate_left(by);
        }
        outcome
    }

    fn below(&self, name: &Name, labels: &[&str], kind: RecordType) -> Outcome {
        let record = |data| Record::from_rdata(name.clone(), TTL, data);
        let only = |wanted: RecordType, data: RData| {
            if kind == wanted { found(vec![record(data)]) } else { found(Vec::new()) }
        };
        match labels {
            [] => match kind {
                RecordType::SOA => found(vec![self.authority(1)]),
                _ => only(RecordType::NS, RData::NS(NS(self.name(&["ns", "dns"])))),
            },
            ["dns-version"] => only(RecordType::TXT, RData::TXT(TXT::new(vec![SPECIFICATION.to_owned()]))),
            ["ns", "dns"] => {
                let entry = self.view.get(&Key::new("kube-system", "kube-dns")).unwrap_or_default();
                found(addresses(name, cluster_ips(&entry), kind))
            }
            ["dns" | "svc" | "pod"] => found(Vec::new()),
            [namespace, "svc" | "pod"] => {
                if self.view.has_namespace(namespace) {
                    found(Vec::new())
                } else {
                    Outcome::NoSuchName
                }
            }
            [pod, _, "pod"] => match undash(pod) {
                Some(address) => found(addresses(name, vec![address], kind)),
                None => Outcome::NoSuchName,
            },
            [service, namespace, "svc"] => self.service(name, namespace, service, kind),
            [hostname, service, namespace, "svc"] => self.endpoint(name, namespace, service, hostname, kind),
            [port, protocol, service, namespace, "svc"] => {
                match (port.strip_prefix('_'), protocol.strip_prefix('_')) {
                    (Some(port), Some(protocol)) => {
                        self.port(name, namespace, service, Some((port, protocol)), kind)
                    }
                    _ => Outcome::NoSuchName,
                }
            }
            _ => Outcome::NoSuchName,
        }
    }

    /// `<service>.<namespace>.svc`.
    fn service(&self, name: &Name, namespace: &str, service: &str, kind: RecordType) -> Outcome {
        let Some(entry) = self.live(namespace, service) else { return Outcome::NoSuchName };
        let spec = entry.service.as_ref().and_then(|s| s.spec.as_ref());
        if spec.and_then(|s| s.type_.as_deref()) == Some("ExternalName") {
            let target = spec.and_then(|s| s.external_name.as_deref()).unwrap_or_default();
            let Ok(mut target) = Name::from_ascii(target) else { return Outcome::NoSuchName };
            target.set_fqdn(true);
            let alias = RData::CNAME(CNAME(target.clone()));
            return Outcome::Alias(Box::new(Record::from_rdata(name.clone(), TTL, alias)), target);
        }
        if kind == RecordType::SRV {
            return self.port(name, namespace, service, None, kind);
        }
        if !is_headless(&entry) {
            return found(addresses(name, cluster_ips(&entry), kind));
        }
        let targets = targets(&entry);
        if targets.is_empty() {
            // What the specification asks for.
            return Outcome::NoSuchName;
        }
        let mut all: Vec<IpAddr> = targets.into_iter().map(|t| t.address).collect();
        all.sort_unstable();
        all.dedup();
        found(addresses(name, all, kind))
    }

    /// `<hostname>.<service>.<namespace>.svc`, or the name between a service and its ports.
    fn endpoint(
        &self,
        name: &Name,
        namespace: &str,
        service: &str,
        hostname: &str,
        kind: RecordType,
    ) -> Outcome {
        let Some(entry) = self.live(namespace, service) else { return Outcome::NoSuchName };
        if let Some(protocol) = hostname.strip_prefix('_') {
            let has = ports(&entry).iter().any(|(_, p, _)| p == protocol);
            return if has { found(Vec::new()) } else { Outcome::NoSuchName };
        }
        if !is_headless(&entry) {
            return Outcome::NoSuchName;
        }
        let matching = targets(&entry).into_iter().filter(|t| t.hostname == hostname);
        let all: Vec<IpAddr> = matching.map(|t| t.address).collect();
        if all.is_empty() { Outcome::NoSuchName } else { found(addresses(name, all, kind)) }
    }

    /// `_<port>._<protocol>.<service>.<namespace>.svc`, or with `None` all ports of the service.
    fn port(
        &self,
        name: &Name,
        namespace: &str,
        service: &str,
        wanted: Option<(&str, &str)>,
        kind: RecordType,
    ) -> Outcome {
        let Some(entry) = self.live(namespace, service) else { return Outcome::NoSuchName };
        let fits = |port: &(String, String, u16)| {
            wanted.is_none_or(|(name, protocol)| port.0 == name && port.1 == protocol)
        };
        let mut pairs: Vec<(Name, Vec<IpAddr>, u16)> = Vec::new();
        if is_headless(&entry) {
            for target in targets(&entry) {
                let host = self.name(&[&target.hostname, service, namespace, "svc"]);
                let ports = target.ports.iter().filter(|p| fits(p));
                pairs.extend(ports.map(|port| (host.clone(), vec![target.address], port.2)));
            }
        } else {
            let host = self.name(&[service, namespace, "svc"]);
            let ports = ports(&entry);
            let ips = cluster_ips(&entry);
            pairs.extend(ports.iter().filter(|p| fits(p)).map(|p| (host.clone(), ips.clone(), p.2)));
        }
        if pairs.is_empty() {
            return Outcome::NoSuchName;
        }
        if kind != RecordType::SRV {
            return found(Vec::new());
        }
        let weight = (100 / pairs.len()).max(1) as u16;
        let mut answers = Vec::new();
        let mut helpful: BTreeMap<(Name, IpAddr), Record> = BTreeMap::new();
        for (host, ips, port) in pairs {
            let data = RData::SRV(SRV::new(0, weight, port, host.clone()));
            answers.push(Record::from_rdata(name.clone(), TTL, data));
            for ip in ips {
                let record = Record::from_rdata(host.clone(), TTL, address_data(ip));
                helpful.insert((host.clone(), ip), record);
            }
        }
        Outcome::Records(answers, helpful.into_values().collect())
    }

    /// The names of an address.
    fn reverse(&self, name: &Name, address: IpAddr, kind: RecordType) -> Outcome {
        let mut names = Vec::new();
        for (key, entry) in self.view.with_address(address) {
            if entry.service.is_none() {
                continue;
            }
            let service = [key.name.as_str(), key.namespace.as_str(), "svc"];
            if cluster_ips(&entry).contains(&address) {
                names.push(self.name(&service));
            } else if is_headless(&entry) {
                let own = targets(&entry).into_iter().filter(|t| t.address == address);
                names.extend(own.map(|t| self.name(&[&t.hostname, service[0], service[1], service[2]])));
            }
        }
        if names.is_empty() {
            let ours = matches!(address, IpAddr::V4(v4) if self.reverse.iter().any(|r| r.contains(v4)));
            return if ours { Outcome::NoSuchName } else { Outcome::Elsewhere };
        }
        if kind != RecordType::PTR {
            return found(Vec::new());
        }
        let record = |target| Record::from_rdata(name.clone(), TTL, RData::PTR(PTR(target)));
        found(names.into_iter().map(record).collect())
    }

    fn live(&self, namespace: &str, service: &str) -> Option<Entry> {
        self.view.get(&Key::new(namespace, service)).filter(|entry| entry.service.is_some())
    }

    /// A name in the zone. Labels come from names of objects or from questions, so they are short enough.
    fn name(&self, labels: &[&str]) -> Name {
        let relative = Name::from_labels(labels.iter().map(|l| l.as_bytes())).unwrap_or_default();
        relative.append_domain(&self.domain).unwrap_or_else(|_| self.domain.clone())
    }
}

fn found(answers: Vec<Record>) -> Outcome {
    Outcome::Records(answers, Vec::new())
}

fn address_data(ip: IpAddr) -> RData {
    match ip {
        IpAddr::V4(v4) => RData::A(A(v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
    }
}

/// Records of the addresses that fit the question.
fn addresses(name: &Name, all: Vec<IpAddr>, kind: RecordType) -> Vec<Record> {
    let fits = |ip: &IpAddr| match kind {
        RecordType::A => ip.is_ipv4(),
        RecordType::AAAA => ip.is_ipv6(),
        _ => false,
    };
    let record = |ip| Record::from_rdata(name.clone(), TTL, address_data(ip));
    all.into_iter().filter(fits).map(record).collect()
}

fn cluster_ips(entry: &Entry) -> Vec<IpAddr> {
    let spec = entry.service.as_ref().and_then(|s| s.spec.as_ref());
    let Some(spec) = spec else { return Vec::new() };
    let mut all: Vec<IpAddr> = spec.cluster_ips.iter().flatten().filter_map(|ip| ip.parse().ok()).collect();
    if all.is_empty() {
        all.extend(spec.cluster_ip.iter().filter_map(|ip| ip.parse::<IpAddr>().ok()));
    }
    all
}

fn is_headless(entry: &Entry) -> bool {
    let spec = entry.service.as_ref().and_then(|s| s.spec.as_ref());
    spec.and_then(|s| s.cluster_ip.as_deref()) == Some("None")
}

/// Ports of a service: name, protocol in lower case, number.
fn ports(entry: &Entry) -> Vec<(String, String, u16)> {
    let spec = entry.service.as_ref().and_then(|s| s.spec.as_ref());
    let all = spec.into_iter().flat_map(|s| s.ports.iter().flatten());
    let read = |port: &knarr_api::core::v1::ServicePort| {
        let protocol = port.protocol.as_deref().unwrap_or("TCP").to_ascii_lowercase();
        Some((port.name.clone().unwrap_or_default(), protocol, u16::try_from(port.port).ok()?))
    };
    all.filter_map(read).collect()
}

/// The endpoints of a headless service that are to be known.
fn targets(entry: &Entry) -> Vec<Target> {
    let spec = entry.service.as_ref().and_then(|s| s.spec.as_ref());
    let all = spec.and_then(|s| s.publish_not_ready_addresses) == Some(true);
    let mut targets = Vec::new();
    for slice in entry.slices.values() {
        let read = |port: &knarr_api::discovery::v1::EndpointPort| {
            let protocol = port.protocol.as_deref().unwrap_or("TCP").to_ascii_lowercase();
            Some((port.name.clone().unwrap_or_default(), protocol, u16::try_from(port.port?).ok()?))
        };
        let ports: Vec<(String, String, u16)> = slice.ports.iter().flatten().filter_map(read).collect();
        for endpoint in slice.endpoints.iter().flatten() {
            let ready = endpoint.conditions.as_ref().is_none_or(|c| c.ready != Some(false));
            if !ready && !all {
                continue;
            }
            for address in endpoint.addresses.iter().filter_map(|a| a.parse::<IpAddr>().ok()) {
                let hostname = endpoint.hostname.clone().filter(|h| !h.is_empty());
                let hostname = hostname.unwrap_or_else(|| address.to_string().replace(['.', ':'], "-"));
                targets.push(Target { hostname, address, ports: ports.clone() });
            }
        }
    }
    targets
}

/// The address of a name such as `10-1-2-3`.
fn undash(label: &str) -> Option<IpAddr> {
    let v4 = label.replace('-', ".").parse::<Ipv4Addr>().ok().map(IpAddr::V4);
    v4.or_else(|| label.replace('-', ":").parse::<Ipv6Addr>().ok().map(IpAddr::V6))
}

/// The address of a name such as `3.2.1.10.in-addr.arpa`.
fn reverse_address(labels: &[String]) -> Option<IpAddr> {
    let [d, c, b, a, zone, top] = labels else { return None };
    if zone != "in-addr" || top != "arpa" {
        return None;
    }
    format!("{a}.{b}.{c}.{d}").parse().ok()
}
