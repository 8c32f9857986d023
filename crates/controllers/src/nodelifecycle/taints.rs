//! Taints that follow from a node's conditions (KEP-382, "taint nodes by condition").

use super::health::{condition, readiness};
use crate::framework::time::api_time;
use knarr_api::core::v1::{Node, Taint};
use std::time::SystemTime;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Condition, its status, and the taint that follows.
const BY_CONDITION: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
];

/// The node's taints.
pub fn of(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default()
}

/// Whether the node has the taint by which pods on it are evicted for this state of readiness.
pub fn has_no_execute(node: &Node, readiness: &str) -> bool {
    let key = if readiness == "Unknown" { UNREACHABLE } else { NOT_READY };
    of(node).iter().any(|t| t.effect == "NoExecute" && t.key == key)
}

/// Whether it has either of them.
pub fn has_any_no_execute(node: &Node) -> bool {
    has_no_execute(node, "Unknown") || has_no_execute(node, "False")
}

/// The taints that the node should have instead of those it has, as far as its conditions and its being unschedulable
/// say; `None` if it has them.
pub fn by_condition(node: &Node, now: SystemTime) -> Option<Vec<Taint>> {
    let holds = |row: &(&str, &str, &str)| condition(node, row.0).is_some_and(|c| c.status == row.1);
    let mut wanted: Vec<&str> = BY_CONDITION.iter().filter(|row| holds(row)).map(|row| row.2).collect();
    if node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true) {
        wanted.push(UNSCHEDULABLE);
    }
    let managed = |t: &Taint| {
        t.effect == "NoSchedule" && (t.key == UNSCHEDULABLE || BY_CONDITION.iter().any(|row| row.2 == t.key))
    };
    swapped(of(node), managed, &wanted, "NoSchedule", now)
}

/// The node's taints with the right one for eviction, or with neither if `evict` does not hold; `None` if that is so.
pub fn no_execute(node: &Node, evict: bool, now: SystemTime) -> Option<Vec<Taint>> {
    let wanted = match readiness(node) {
        Some("False") if evict => &[NOT_READY][..],
        Some("Unknown") if evict => &[UNREACHABLE],
        _ => &[],
    };
    let managed = |t: &Taint| t.effect == "NoExecute" && (t.key == NOT_READY || t.key == UNREACHABLE);
    swapped(of(node), managed, wanted, "NoExecute", now)
}

fn swapped(
    held: &[Taint],
    managed: impl Fn(&Taint) -> bool,
    wanted: &[&str],
    effect: &str,
    now: SystemTime,
) -> Option<Vec<Taint>> {
    let mut taints: Vec<Taint> =
        held.iter().filter(|t| !managed(t) || wanted.contains(&t.key.as_str())).cloned().collect();
    for key in wanted {
        if !taints.iter().any(|t| t.key == *key && t.effect == effect) {
            taints.push(Taint {
                key: (*key).to_owned(),
                effect: effect.to_owned(),
                time_added: api_time(now),
                value: None,
            });
        }
    }
    (taints != held).then_some(taints)
}

#[cfg(test)]
mod tests {
    use super::super::health::tests::node;
    use super::*;
    use knarr_api::core::v1::NodeCondition;

    fn keys(taints: Option<Vec<Taint>>) -> Option<Vec<String>> {
        taints.map(|t| {
            t.iter().map(|t| format!("{}:{}", t.key.replace("node.kubernetes.io/", ""), t.effect)).collect()
        })
    }

    fn tainted(ready: &str, taints: &[&str]) -> Node {
        let mut node = node("n", ready, 0);
        let taint = |text: &&str| {
            let (key, effect) = text.split_once(':').expect("a key and an effect");
            let key = if key == "mine" { key.to_owned() } else { format!("node.kubernetes.io/{key}") };
            Taint { key, effect: effect.to_owned(), ..Taint::default() }
        };
        node.spec.get_or_insert_default().taints = Some(taints.iter().map(taint).collect());
        node
    }

    #[test]
    fn taints_follow_the_conditions_and_others_stay() {
        let now = SystemTime::UNIX_EPOCH;
        for (ready, held, wanted) in [
            ("True", vec!["not-ready:NoSchedule", "mine:NoSchedule"], Some(vec!["mine:NoSchedule"])),
            ("False", vec!["not-ready:NoSchedule"], None),
            ("Unknown", vec!["not-ready:NoSchedule"], Some(vec!["unreachable:NoSchedule"])),
            ("True", vec!["unreachable:NoExecute"], None),
        ] {
            let wanted = wanted.map(|w| w.iter().map(|t| (*t).to_owned()).collect());
            assert_eq!(keys(by_condition(&tainted(ready, &held), now)), wanted, "{ready} {held:?}");
        }
        let mut pressed = tainted("True", &[]);
        pressed.spec.get_or_insert_default().unschedulable = Some(true);
        let condition =
            NodeCondition { type_: "DiskPressure".into(), status: "True".into(), ..NodeCondition::default() };
        pressed.status.get_or_insert_default().conditions.get_or_insert_default().push(condition);
        let both = vec!["disk-pressure:NoSchedule".to_owned(), "unschedulable:NoSchedule".to_owned()];
        assert_eq!(keys(by_condition(&pressed, now)), Some(both));
    }

    #[test]
    fn only_one_taint_evicts_at_a_time() {
        let now = SystemTime::UNIX_EPOCH;
        for (ready, held, evict, wanted) in [
            ("Unknown", vec![], true, Some(vec!["unreachable:NoExecute"])),
            ("Unknown", vec!["not-ready:NoExecute"], true, Some(vec!["unreachable:NoExecute"])),
            ("False", vec!["not-ready:NoExecute"], true, None),
            ("False", vec!["not-ready:NoExecute"], false, Some(vec![])),
            ("True", vec!["not-ready:NoExecute", "mine:NoExecute"], true, Some(vec!["mine:NoExecute"])),
        ] {
            let wanted = wanted.map(|w| w.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>());
            assert_eq!(keys(no_execute(&tainted(ready, &held), evict, now)), wanted, "{ready} {held:?}");
        }
    }
}
