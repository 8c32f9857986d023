//! The nftables table: its fixed part, and changes as messages of a transaction.
//!
//! ```text
//! raw     prerouting             nothing from elsewhere to loopback addresses
//! nat     prerouting, output  -> services: service-ips (address . protocol . port), then service-nodeports
//! nat     postrouting            masquerade: to oneself, out of the cluster, to endpoints outside of it
//! filter  forward, output        refuse what still carries a service address after translation
//! filter  input                  refuse node ports that nobody serves
//! ```

use super::plan::Change;
use super::rules::{Element, Endpoint, REJECT, Rule, Shared};
use crate::netlink::Message;
use crate::netlink::nft::{
    DESTINATION, Data, Expr, LOCAL, PORT, R1, R1_1, R1_2, SOURCE, STATUS_DNAT, Table, Verdict, flags,
    in_range, types,
};
use crate::range::Range;
use std::net::Ipv4Addr;

/// The ranges that the fixed part speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ranges {
    /// Addresses of this node's pods.
    pub local: Range,
    /// Addresses of all pods.
    pub pods: Range,
    /// Addresses of services.
    pub services: Range,
}

const PREROUTING: u32 = 0;
const INPUT: u32 = 1;
const FORWARD: u32 = 2;
const OUTPUT: u32 = 3;
const POSTROUTING: u32 = 4;
const RAW_PRIORITY: i32 = -300;
const DNAT_PRIORITY: i32 = -100;
const FILTER_PRIORITY: i32 = 0;
const SNAT_PRIORITY: i32 = 100;

/// Addresses of the host's own programs.
const LOOPBACK: Range = Range { network: Ipv4Addr::new(127, 0, 0, 0), prefix: 8 };
/// The loopback link has this index in every network namespace.
const LOOPBACK_LINK: u32 = 1;

const ADDRESS_PROTOCOL_PORT: (u32, u32) =
    (types::concat(&[types::ADDRESS, types::PROTOCOL, types::PORT]), 12);
const PROTOCOL_PORT: (u32, u32) = (types::concat(&[types::PROTOCOL, types::PORT]), 8);
const TWO_ADDRESSES: (u32, u32) = (types::concat(&[types::ADDRESS, types::ADDRESS]), 8);
const ADDRESS_PORT: (u32, u32) = (types::concat(&[types::ADDRESS, types::PORT]), 8);

impl Shared {
    const ALL: [Self; 5] =
        [Self::ServiceIps, Self::NodePorts, Self::DeadIps, Self::DeadNodePorts, Self::Hairpin];

    fn name(self) -> &'static str {
        match self {
            Self::ServiceIps => "service-ips",
            Self::NodePorts => "service-nodeports",
            Self::DeadIps => "no-endpoint-services",
            Self::DeadNodePorts => "no-endpoint-nodeports",
            Self::Hairpin => "hairpin-connections",
        }
    }
}

/// Removes the table if it is there and makes it anew: together with the services' rules one transaction.
pub fn anew(name: &str, ranges: &Ranges) -> Vec<Message> {
    let table = Table(name);
    let mut messages = vec![table.add(), table.delete()];
    messages.append(&mut base(name, ranges));
    messages
}

/// Makes the table with its fixed part.
pub fn base(name: &str, ranges: &Ranges) -> Vec<Message> {
    let table = Table(name);
    let mut messages = vec![table.add()];
    for (id, set) in Shared::ALL.into_iter().enumerate() {
        let (key, set_flags) = match set {
            Shared::ServiceIps | Shared::DeadIps => (ADDRESS_PROTOCOL_PORT, flags::MAP),
            Shared::NodePorts | Shared::DeadNodePorts => (PROTOCOL_PORT, flags::MAP),
            Shared::Hairpin => (TWO_ADDRESSES, 0),
        };
        messages.push(table.set(set.name(), id as u32 + 1, set_flags, key, None, 0));
    }
    for chain in ["services", REJECT] {
        messages.push(table.chain(chain));
    }
    let mut base = |name: &str, kind: &str, hook: u32, priority: i32, rules: Vec<Vec<Expr>>| {
        messages.push(table.base_chain(name, kind, hook, priority));
        messages.extend(rules.iter().map(|rule| table.rule(name, rule)));
    };
    // Pods' links take part in connections to 127.0.0.1 (node ports); this keeps everything else out.
    let mut not_from_elsewhere = in_range(DESTINATION, LOOPBACK, true);
    not_from_elsewhere.extend([
        Expr::InputLink(R1),
        Expr::NotEqual(R1, LOOPBACK_LINK.to_ne_bytes().to_vec()),
        Expr::Verdict(Verdict::Drop),
    ]);
    base("raw-prerouting", "filter", PREROUTING, RAW_PRIORITY, vec![not_from_elsewhere]);
    let jump = vec![Expr::Verdict(Verdict::Jump("services".to_owned()))];
    base("nat-prerouting", "nat", PREROUTING, DNAT_PRIORITY, vec![jump.clone()]);
    base("nat-output", "nat", OUTPUT, DNAT_PRIORITY, vec![jump]);
    base("nat-postrouting", "nat", POSTROUTING, SNAT_PRIORITY, masquerade(ranges));
    let mut refuse_services = vec![look_up(Shared::DeadIps)];
    let mut rest = in_range(DESTINATION, ranges.services, true);
    rest.push(Expr::Verdict(Verdict::Goto(REJECT.to_owned())));
    refuse_services.push(rest);
    base("filter-forward", "filter", FORWARD, FILTER_PRIORITY, refuse_services.clone());
    base("filter-output", "filter", OUTPUT, FILTER_PRIORITY, refuse_services);
    let mut refuse_ports = vec![Expr::DestinationType(R1), Expr::Equal(R1, LOCAL.to_ne_bytes().to_vec())];
    refuse_ports.append(&mut look_up(Shared::DeadNodePorts));
    base("filter-input", "filter", INPUT, FILTER_PRIORITY, vec![look_up(Shared::DeadIps), refuse_ports]);
    messages.push(table.rule("services", &look_up(Shared::ServiceIps)));
    let mut ports = vec![Expr::DestinationType(R1), Expr::Equal(R1, LOCAL.to_ne_bytes().to_vec())];
    ports.append(&mut look_up(Shared::NodePorts));
    messages.push(table.rule("services", &ports));
    messages.push(table.rule(REJECT, &[Expr::Protocol(R1), Expr::Equal(R1, vec![6]), Expr::RejectReset]));
    messages.push(table.rule(REJECT, &[Expr::RejectUnreachable]));
    messages
}

fn look_up(set: Shared) -> Vec<Expr> {
    match set {
        Shared::ServiceIps | Shared::DeadIps => vec![
            Expr::Network(DESTINATION.0, DESTINATION.1, R1),
            Expr::Protocol(R1_1),
            Expr::Transport(PORT.0, PORT.1, R1_2),
            Expr::VerdictMap(set.name(), R1),
        ],
        Shared::NodePorts | Shared::DeadNodePorts => {
            vec![Expr::Protocol(R1), Expr::Transport(PORT.0, PORT.1, R1_1), Expr::VerdictMap(set.name(), R1)]
        }
        Shared::Hairpin => vec![
            Expr::Network(SOURCE.0, SOURCE.1, R1),
            Expr::Network(DESTINATION.0, DESTINATION.1, R1_1),
            Expr::In(set.name().to_owned(), R1),
        ],
    }
}

fn masquerade(ranges: &Ranges) -> Vec<Vec<Expr>> {
    let mut to_oneself = look_up(Shared::Hairpin);
    to_oneself.push(Expr::Masquerade);
    let local = vec![
        Expr::DestinationType(R1),
        Expr::Equal(R1, LOCAL.to_ne_bytes().to_vec()),
        Expr::Verdict(Verdict::Accept),
    ];
    // Answers from this node's own pods come back through here whoever asked.
    let mut to_local = in_range(DESTINATION, ranges.local, true);
    to_local.push(Expr::Verdict(Verdict::Accept));
    let mut between_pods = in_range(SOURCE, ranges.pods, true);
    between_pods.append(&mut in_range(DESTINATION, ranges.pods, true));
    between_pods.push(Expr::Verdict(Verdict::Accept));
    let mut from_pods = in_range(SOURCE, ranges.pods, true);
    from_pods.push(Expr::Masquerade);
    // Whoever's address it is: the answers must come back through here to be translated.
    let translated = vec![
        Expr::ConnectionStatus(R1),
        Expr::Mask(R1, STATUS_DNAT.to_ne_bytes()),
        Expr::NotEqual(R1, vec![0; 4]),
        Expr::Masquerade,
    ];
    // Nobody can answer to a loopback address.
    let mut from_loopback = in_range(SOURCE, LOOPBACK, true);
    from_loopback.push(Expr::Masquerade);
    vec![to_oneself, local, from_loopback, to_local, between_pods, from_pods, translated]
}

/// Changes as messages. `ids` counts the sets of the transaction.
pub fn messages(name: &str, ranges: &Ranges, changes: &[Change], ids: &mut u32) -> Vec<Message> {
    let table = Table(name);
    let mut all = Vec::new();
    let mut rest = changes;
    while let Some(change) = rest.first() {
        // Elements of the same set that follow each other travel together.
        let run = match change {
            Change::AddElement(first, _) => rest
                .iter()
                .take_while(|c| matches!(c, Change::AddElement(e, _) if e.set == first.set))
                .count(),
            Change::RemoveElement(first) => rest
                .iter()
                .take_while(|c| matches!(c, Change::RemoveElement(e) if e.set == first.set))
                .count(),
            _ => 1,
        };
        let (now, later) = rest.split_at(run);
        rest = later;
        match change {
            Change::AddClients(set, seconds) => {
                *ids += 1;
                let kind = flags::DYNAMIC | flags::TIMEOUT;
                all.push(table.set(set, *ids, kind, (types::ADDRESS, 4), None, u64::from(*seconds) * 1000));
            }
            Change::AddChain(chain) => all.push(table.chain(chain)),
            Change::Flush(chain) => all.push(table.flush(chain)),
            Change::RemoveElement(element) => {
                let keys: Vec<Vec<u8>> =
                    now.iter().filter_map(|c| key_of(c)).map(|e| e.key.clone()).collect();
                all.append(&mut table.delete_elements(element.set.name(), &keys));
            }
            Change::AddElement(element, _) => {
                let elements: Vec<(Vec<u8>, Option<Data>)> = now
                    .iter()
                    .filter_map(|c| match c {
                        Change::AddElement(e, data) => Some((e.key.clone(), data.clone())),
                        _ => None,
                    })
                    .collect();
                all.append(&mut table.elements(element.set.name(), 0, &elements));
            }
            Change::Fill(chain, rules) => {
                for rule in rules {
                    write_rule(&mut all, &table, ranges, chain, rule, ids);
                }
            }
            Change::RemoveChain(chain) => all.push(table.delete_chain(chain)),
            Change::RemoveClients(set) => all.push(table.delete_set(set)),
        }
    }
    all
}

fn key_of(change: &Change) -> Option<&Element> {
    match change {
        Change::AddElement(element, _) | Change::RemoveElement(element) => Some(element),
        _ => None,
    }
}

fn write_rule(
    all: &mut Vec<Message>,
    table: &Table<'_>,
    ranges: &Ranges,
    chain: &str,
    rule: &Rule,
    ids: &mut u32,
) {
    let go = |chain: &str| Verdict::Goto(chain.to_owned());
    let anonymous = flags::ANONYMOUS | flags::CONSTANT | flags::MAP;
    let numbered = |i: usize| (i as u32).to_ne_bytes().to_vec();
    match rule {
        Rule::To(endpoint) => all.push(table.rule(
            chain,
            &[
                Expr::Immediate(R1, endpoint.address.octets().to_vec()),
                Expr::Immediate(R1_1, endpoint.port.to_be_bytes().to_vec()),
                Expr::Dnat(R1, R1_1),
            ],
        )),
        Rule::ToOneOf(endpoints) => {
            *ids += 1;
            let id = *ids;
            all.push(table.set("__map%d", id, anonymous, (types::INTEGER, 4), Some(ADDRESS_PORT), 0));
            let value = |e: &Endpoint| {
                let [high, low] = e.port.to_be_bytes();
                let [a, b, c, d] = e.address.octets();
                Data::Value(vec![a, b, c, d, high, low, 0, 0])
            };
            let elements: Vec<(Vec<u8>, Option<Data>)> =
                endpoints.iter().enumerate().map(|(i, e)| (numbered(i), Some(value(e)))).collect();
            all.append(&mut table.elements("__map%d", id, &elements));
            let random = Expr::Random(R1, endpoints.len() as u32);
            all.push(table.rule(chain, &[random, Expr::Load(id, R1, R1), Expr::Dnat(R1, R1_1)]));
        }
        Rule::IntoOneOf(chains) => {
            *ids += 1;
            let id = *ids;
            all.push(table.set("__map%d", id, anonymous, (types::INTEGER, 4), None, 0));
            let elements: Vec<(Vec<u8>, Option<Data>)> =
                chains.iter().enumerate().map(|(i, c)| (numbered(i), Some(Data::Verdict(go(c))))).collect();
            all.append(&mut table.elements("__map%d", id, &elements));
            // Register 0 holds verdicts.
            all.push(table.rule(chain, &[Expr::Random(R1, chains.len() as u32), Expr::Load(id, R1, 0)]));
        }
        Rule::Remembered { set, chain: to } => all.push(table.rule(
            chain,
            &[Expr::Network(SOURCE.0, SOURCE.1, R1), Expr::In(set.clone(), R1), Expr::Verdict(go(to))],
        )),
        Rule::Remember(set) => all.push(
            table.rule(chain, &[Expr::Network(SOURCE.0, SOURCE.1, R1), Expr::Remember(set.clone(), R1)]),
        ),
        Rule::From(range, to) => {
            let mut rule = in_range(SOURCE, *range, true);
            rule.push(Expr::Verdict(go(to)));
            all.push(table.rule(chain, &rule));
        }
        Rule::Drop => all.push(table.rule(chain, &[Expr::Verdict(Verdict::Drop)])),
        Rule::FromCluster(to) => {
            let mut pods = in_range(SOURCE, ranges.pods, true);
            pods.push(Expr::Verdict(go(to)));
            all.push(table.rule(chain, &pods));
            let node =
                [Expr::SourceType(R1), Expr::Equal(R1, LOCAL.to_ne_bytes().to_vec()), Expr::Verdict(go(to))];
            all.push(table.rule(chain, &node));
        }
    }
}
