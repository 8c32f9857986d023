//! The scheduling framework (KEP-624): plugins filter nodes for a pod and score those that are left.

use crate::cache::{NodeInfo, PodInfo, Snapshot};

/// Scores run from 0 to this.
pub const MAX_SCORE: i64 = 100;

/// Why a node does not take a pod, in upstream's words, for example `Insufficient cpu`.
pub type Reason = String;

/// A plugin of the default profile. Plugins only read.
pub trait Plugin: Send + Sync {
    /// Upstream's name.
    fn name(&self) -> &'static str;
    /// Why no node at all can take `pod`, if that is so.
    fn pre_filter(&self, _pod: &PodInfo, _all: &Snapshot) -> Option<Reason> {
        None
    }
    /// Reasons why `node` cannot take `pod`; none if it can.
    fn filter(&self, _pod: &PodInfo, _node: &NodeInfo, _all: &Snapshot) -> Vec<Reason> {
        Vec::new()
    }
    /// How well `node` suits `pod`; `None` where the plugin does not score. Any range; normalized per pod.
    fn score(&self, _pod: &PodInfo, _node: &NodeInfo, _all: &Snapshot) -> Option<i64> {
        None
    }
    /// The scores' weight in the sum.
    fn weight(&self) -> i64 {
        1
    }
    /// Whether a high raw score means a bad node.
    fn reversed(&self) -> bool {
        false
    }
    /// Whether raw scores are already on the scale of 0 to [`MAX_SCORE`].
    fn normalized(&self) -> bool {
        false
    }
}

/// What came of looking for a node.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    /// The node to bind to.
    Node(String),
    /// No node takes the pod; the message for its condition and event.
    Unschedulable(String),
}

/// Filters and scores all nodes; `tie` picks among equals (a random number).
pub fn decide(plugins: &[Box<dyn Plugin>], pod: &PodInfo, all: &Snapshot, tie: u64) -> Decision {
    let mut counts: std::collections::BTreeMap<Reason, usize> = std::collections::BTreeMap::new();
    let mut feasible = Vec::new();
    let total = all.nodes().len();
    if total > 0
        && let Some(reason) = plugins.iter().find_map(|plugin| plugin.pre_filter(pod, all))
    {
        return Decision::Unschedulable(format!("0/{total} nodes are available: {reason}."));
    }
    for node in all.nodes() {
        // The first plugin that objects speaks for the node, with all of its reasons.
        let objections = plugins.iter().find_map(|plugin| {
            let reasons = plugin.filter(pod, node, all);
            tracing::trace!(plugin = plugin.name(), node = node.name(), ?reasons, "filtered");
            (!reasons.is_empty()).then_some(reasons)
        });
        match objections {
            None => feasible.push(node),
            Some(reasons) => reasons.into_iter().for_each(|reason| *counts.entry(reason).or_default() += 1),
        }
    }
    if feasible.is_empty() {
        return Decision::Unschedulable(explain(total, &counts));
    }
    if let [only] = feasible[..] {
        return Decision::Node(only.name().to_owned());
    }
    let mut sums = vec![0i64; feasible.len()];
    for plugin in plugins {
        let raw: Vec<Option<i64>> = feasible.iter().map(|node| plugin.score(pod, node, all)).collect();
        let highest = raw.iter().flatten().copied().max().unwrap_or_default();
        let lowest = raw.iter().flatten().copied().min().unwrap_or_default().min(0);
        for (sum, raw) in sums.iter_mut().zip(raw) {
            let Some(raw) = raw else { continue };
            let score = match (plugin.normalized(), highest - lowest) {
                (true, _) => raw,
                (false, 0) => 0,
                (false, span) => (raw - lowest) * MAX_SCORE / span,
            };
            *sum += plugin.weight() * if plugin.reversed() { MAX_SCORE - score } else { score };
        }
    }
    let best = sums.iter().copied().max().unwrap_or_default();
    let winners: Vec<&&NodeInfo> =
        feasible.iter().zip(&sums).filter(|(_, s)| **s == best).map(|(n, _)| n).collect();
    Decision::Node(winners[(tie % winners.len() as u64) as usize].name().to_owned())
}

/// Upstream's FitError text.
fn explain(total: usize, counts: &std::collections::BTreeMap<Reason, usize>) -> String {
    if total == 0 {
        return "no nodes available to schedule pods".to_owned();
    }
    let mut parts: Vec<String> = counts.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
    parts.sort();
    format!("0/{total} nodes are available: {}.", parts.join(", "))
}
