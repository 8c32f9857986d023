//! How fast nodes that are not ready are given the taints that evict their pods. If many are lost at once, the fault
//! is rather on this side: with most of a zone gone evictions slow down, with every node gone they stop.

use super::health::readiness;
use super::taints;
use knarr_api::Kind;
use knarr_api::core::v1::Node;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One node in ten seconds (--node-eviction-rate).
const USUAL_PAUSE: Duration = Duration::from_secs(10);
/// One in a hundred seconds in a large zone that is mostly lost (--secondary-node-eviction-rate).
const SLOW_PAUSE: Duration = Duration::from_secs(100);
/// A zone with more nodes is large (--large-cluster-size-threshold).
const LARGE: usize = 50;
/// A zone with this share of its nodes lost is mostly lost (--unhealthy-zone-threshold).
const MOSTLY_LOST: f64 = 0.55;
/// Label of nodes that do not count here.
const EXCLUDED: &str = "node.kubernetes.io/exclude-disruption";

/// What follows for the nodes.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// Nodes whose taint for eviction is to be brought in line with their readiness.
    pub align: Vec<String>,
    /// Nodes that lose it, whatever their readiness.
    pub spare: Vec<String>,
    /// Whether every node is lost, and all evictions have stopped.
    pub all_lost: bool,
    /// When the next node may be tainted.
    pub next: Option<Duration>,
}

/// When a node of each zone was last tainted.
pub type LastTainted = HashMap<String, Instant>;

/// The zone of a node, with its region.
pub fn zone(node: &Node) -> String {
    let label =
        |key: &str| node.metadata.labels.as_ref().and_then(|l| l.get(key)).cloned().unwrap_or_default();
    format!("{}/{}", label("topology.kubernetes.io/region"), label("topology.kubernetes.io/zone"))
}

/// Decides for all nodes. `last` is brought up to date for those that are tainted.
pub fn plan(nodes: &[Arc<Node>], last: &mut LastTainted, now: Instant) -> Plan {
    let is_ready = |node: &Node| readiness(node) == Some("True");
    let counts = |node: &Node| !node.metadata.labels.as_ref().is_some_and(|l| l.contains_key(EXCLUDED));
    let counted = || nodes.iter().filter(|n| counts(n));
    let mut plan =
        Plan { all_lost: counted().count() > 0 && !counted().any(|n| is_ready(n)), ..Plan::default() };
    if plan.all_lost {
        let tainted = nodes.iter().filter(|n| taints::has_any_no_execute(n));
        plan.spare = tainted.map(|n| n.name().to_owned()).collect();
        return plan;
    }
    let mut by_zone: BTreeMap<String, Vec<&Arc<Node>>> = BTreeMap::new();
    nodes.iter().for_each(|node| by_zone.entry(zone(node)).or_default().push(node));
    for (zone, nodes) in by_zone {
        let counted: Vec<_> = nodes.iter().filter(|n| counts(n)).collect();
        let lost = counted.iter().filter(|n| !is_ready(n)).count();
        let mostly = lost < counted.len() && lost > 2 && lost as f64 / counted.len() as f64 >= MOSTLY_LOST;
        let pause = match mostly {
            false => Some(USUAL_PAUSE),
            true if counted.len() > LARGE => Some(SLOW_PAUSE),
            true => None,
        };
        for node in nodes {
            let name = node.name().to_owned();
            let Some(state) = readiness(node) else { continue };
            if state == "True" || taints::has_any_no_execute(node) {
                let right = if state == "True" { 0 } else { 1 };
                let held = ["Unknown", "False"].map(|s| taints::has_no_execute(node, s));
                let is_right = held.iter().filter(|h| **h).count() == right
                    && (right == 0 || taints::has_no_execute(node, state));
                if !is_right {
                    plan.align.push(name);
                }
                continue;
            }
            let Some(pause) = pause else { continue };
            let since = last.get(&zone).map(|at| now.saturating_duration_since(*at));
            let left = since.map_or(Duration::ZERO, |since| pause.saturating_sub(since));
            if left.is_zero() {
                last.insert(zone.clone(), now);
                plan.align.push(name);
            } else {
                plan.next = Some(plan.next.map_or(left, |n| n.min(left)));
            }
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::super::health::tests::node;
    use super::*;
    use knarr_base::Clock;

    fn nodes(states: &[&str]) -> Vec<Arc<Node>> {
        states.iter().enumerate().map(|(i, s)| Arc::new(node(&format!("n{i}"), s, 0))).collect()
    }

    #[test]
    fn nodes_are_given_up_one_by_one_and_never_all() {
        let start = knarr_base::SystemClock::new().instant();
        let mut last = LastTainted::new();
        let two = nodes(&["True", "Unknown", "False"]);
        let first = plan(&two, &mut last, start);
        assert_eq!((first.align, first.next), (vec!["n1".to_owned()], Some(USUAL_PAUSE)));
        let again = plan(&two, &mut last, start + USUAL_PAUSE);
        assert_eq!(again.align, ["n1"]); // n1 has not been seen tainted; its turn comes first again

        assert!(plan(&nodes(&["Unknown"]), &mut LastTainted::new(), start).all_lost);
        let mostly = nodes(&["True", "Unknown", "Unknown", "Unknown"]);
        assert_eq!(plan(&mostly, &mut LastTainted::new(), start), Plan::default());
        assert_eq!(plan(&nodes(&["True", "True"]), &mut LastTainted::new(), start), Plan::default());
    }

    #[test]
    fn when_every_node_is_lost_those_that_were_given_up_are_spared() {
        let now = std::time::SystemTime::UNIX_EPOCH;
        let start = knarr_base::SystemClock::new().instant();
        let mut lost = node("n", "Unknown", 0);
        lost.spec.get_or_insert_default().taints = taints::no_execute(&lost, true, now);
        let plan_alone = plan(&[Arc::new(lost.clone())], &mut LastTainted::new(), start);
        assert_eq!((plan_alone.all_lost, plan_alone.spare), (true, vec!["n".to_owned()]));
        let beside = [Arc::new(lost), Arc::new(node("m", "True", 0))];
        assert_eq!(plan(&beside, &mut LastTainted::new(), start), Plan::default());
    }
}
