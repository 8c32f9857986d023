//! NodeResourcesFit: what the pod asks for must be free; scored by LeastAllocated, so that pods spread.

use crate::cache::{NodeInfo, PodInfo, Snapshot};
use crate::framework::{MAX_SCORE, Plugin, Reason};

pub struct Fit;

impl Plugin for Fit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo, _all: &Snapshot) -> Vec<Reason> {
        let mut reasons = Vec::new();
        let amount =
            |amounts: &crate::resources::Amounts, name: &str| amounts.get(name).copied().unwrap_or_default();
        if node.pods.len() as i64 + 1 > amount(&node.allocatable, "pods") {
            reasons.push("Too many pods".to_owned());
        }
        for (name, wanted) in pod.requests.iter().filter(|(_, wanted)| **wanted > 0) {
            if *wanted > amount(&node.allocatable, name) - amount(&node.requested, name) {
                reasons.push(format!("Insufficient {name}"));
            }
        }
        reasons
    }

    fn score(&self, pod: &PodInfo, node: &NodeInfo, _all: &Snapshot) -> Option<i64> {
        let mut scores = ["cpu", "memory"].into_iter().filter_map(|name| {
            let has = node.allocatable.get(name).copied().filter(|has| *has > 0)?;
            let used = node.scored.get(name).copied().unwrap_or_default()
                + pod.scored.get(name).copied().unwrap_or_default();
            Some((has - used).max(0) * MAX_SCORE / has)
        });
        let (sum, n) = scores.by_ref().fold((0, 0), |(sum, n), score| (sum + score, n + 1));
        (n > 0).then(|| sum / n)
    }

    fn normalized(&self) -> bool {
        true
    }
}
