//! Ports of the host that lead to pods (`hostPort`): an nftables table of its own, small and written as a whole.

use crate::netlink::nft::{DESTINATION, Expr, LOCAL, PORT, R1, R1_1, SOURCE, Table, in_range};
use crate::netlink::{Message, NetlinkError, Socket};
use crate::proxy::rules::{Endpoint, Protocol};
use crate::range::Range;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// The table.
pub const TABLE: &str = "knarr-hostports";
const PREROUTING: u32 = 0;
const OUTPUT: u32 = 3;
const POSTROUTING: u32 = 4;
/// Ahead of the services: a pod's own port wins over a node port, as with the CNI plugin.
const DNAT_PRIORITY: i32 = -101;
const SNAT_PRIORITY: i32 = 99;

/// A port of the host that leads to a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPort {
    /// Protocol.
    pub protocol: Protocol,
    /// The host's address, all of them when `None`.
    pub host_ip: Option<Ipv4Addr>,
    /// Port on the host.
    pub host_port: u16,
    /// Port of the pod.
    pub pod_port: u16,
}

/// Writes the table for these pods, by address; removes it when there are none.
pub fn write(socket: &mut Socket, pods: &BTreeMap<Ipv4Addr, &[HostPort]>) -> Result<(), NetlinkError> {
    let table = Table(TABLE);
    let mut messages = vec![table.add(), table.delete()];
    if !pods.is_empty() {
        messages.append(&mut whole(&table, pods));
    }
    socket.transaction(messages, "write the host ports")
}

fn whole(table: &Table<'_>, pods: &BTreeMap<Ipv4Addr, &[HostPort]>) -> Vec<Message> {
    let mut messages = vec![
        table.add(),
        table.base_chain("nat-prerouting", "nat", PREROUTING, DNAT_PRIORITY),
        table.base_chain("nat-output", "nat", OUTPUT, DNAT_PRIORITY),
        table.base_chain("nat-postrouting", "nat", POSTROUTING, SNAT_PRIORITY),
    ];
    let mut seen = BTreeSet::new();
    for (address, ports) in pods {
        for port in *ports {
            // The scheduler keeps ports apart; with two all the same the first one has it.
            if seen.insert((port.host_ip, port.protocol, port.host_port)) {
                let to = Endpoint { address: *address, port: port.pod_port };
                let rule = lead(port, to);
                messages.extend(["nat-prerouting", "nat-output"].map(|chain| table.rule(chain, &rule)));
            }
        }
        // A pod that reaches itself through the host must get its answers through the host.
        let mut oneself = in_range(SOURCE, Range::host(*address), true);
        oneself.append(&mut in_range(DESTINATION, Range::host(*address), true));
        oneself.push(Expr::Masquerade);
        messages.push(table.rule("nat-postrouting", &oneself));
    }
    messages
}

fn lead(port: &HostPort, to: Endpoint) -> Vec<Expr> {
    let mut rule = vec![
        Expr::Protocol(R1),
        Expr::Equal(R1, vec![port.protocol as u8]),
        Expr::Transport(PORT.0, PORT.1, R1),
        Expr::Equal(R1, port.host_port.to_be_bytes().to_vec()),
    ];
    match port.host_ip.filter(|ip| !ip.is_unspecified()) {
        Some(ip) => rule.append(&mut in_range(DESTINATION, Range::host(ip), true)),
        None => {
            rule.extend([Expr::DestinationType(R1), Expr::Equal(R1, LOCAL.to_ne_bytes().to_vec())]);
        }
    }
    rule.extend([
        Expr::Immediate(R1, to.address.octets().to_vec()),
        Expr::Immediate(R1_1, to.port.to_be_bytes().to_vec()),
        Expr::Dnat(R1, R1_1),
    ]);
    rule
}
