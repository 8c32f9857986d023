//! NodeName: a pod that names its node goes nowhere else.

use crate::cache::{NodeInfo, PodInfo, Snapshot};
use crate::framework::{Plugin, Reason};

pub struct NodeName;

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo, _all: &Snapshot) -> Vec<Reason> {
        match pod.spec().node_name.as_deref() {
            Some(wanted) if !wanted.is_empty() && wanted != node.name() => {
                vec!["node(s) didn't match the requested node name".to_owned()]
            }
            _ => Vec::new(),
        }
    }
}
