//! NodeUnschedulable: cordoned nodes take only pods that tolerate it.

use super::taint_toleration::tolerates;
use crate::cache::{NodeInfo, PodInfo, Snapshot};
use crate::framework::{Plugin, Reason};
use knarr_api::core::v1::Taint;

pub struct NodeUnschedulable;

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo, _all: &Snapshot) -> Vec<Reason> {
        let cordoned = node.node.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or_default();
        let taint = Taint {
            key: "node.kubernetes.io/unschedulable".to_owned(),
            effect: "NoSchedule".to_owned(),
            ..Taint::default()
        };
        if cordoned && !tolerates(pod, &taint) {
            return vec!["node(s) were unschedulable".to_owned()];
        }
        Vec::new()
    }
}
