//! NodePorts: a host port can be taken once per address and protocol.

use crate::cache::{NodeInfo, PodInfo, Snapshot};
use crate::framework::{Plugin, Reason};

pub struct NodePorts;

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo, _all: &Snapshot) -> Vec<Reason> {
        if pod.host_ports.is_empty() {
            return Vec::new();
        }
        let mut taken = node.pods.values().flat_map(|p| &p.host_ports);
        let clashes = taken.any(|(address, protocol, port)| {
            pod.host_ports.iter().any(|(wanted, p, n)| {
                p == protocol && n == port && (wanted == address || wanted.is_empty() || address.is_empty())
            })
        });
        if clashes {
            vec!["node(s) didn't have free ports for the requested pod ports".to_owned()]
        } else {
            Vec::new()
        }
    }
}
