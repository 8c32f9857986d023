//! Whether a DaemonSet's pod belongs on a node.

use crate::framework::pods::tolerates;
use knarr_api::Kind;
use knarr_api::apps::v1::DaemonSet;
use knarr_api::core::v1::{
    Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec,
    Toleration,
};

/// Taints that a DaemonSet's pods tolerate always: they are part of the node rather than load on it.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
/// The same for pods on the node's own network.
const NETWORK_UNAVAILABLE: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

/// What a node means to a DaemonSet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fit {
    /// A pod is to run there.
    pub should_run: bool,
    /// One that runs there may go on.
    pub may_stay: bool,
}

/// Adds the tolerations that these pods always have.
pub fn tolerate(spec: &mut PodSpec) {
    let own_network = spec.host_network == Some(true);
    let tolerations = spec.tolerations.get_or_insert_default();
    for (key, effect) in TOLERATED.into_iter().chain(own_network.then_some(NETWORK_UNAVAILABLE)) {
        let toleration = Toleration {
            key: Some(key.to_owned()),
            effect: Some(effect.to_owned()),
            operator: Some("Exists".to_owned()),
            ..Toleration::default()
        };
        tolerations.retain(|t| (&t.key, &t.effect) != (&toleration.key, &toleration.effect));
        tolerations.push(toleration);
    }
}

/// Pins a pod to a node through its affinity: the scheduler still binds it.
pub fn pin(spec: &mut PodSpec, node: &str) {
    let field = NodeSelectorRequirement {
        key: "metadata.name".to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    let affinity: &mut Affinity = spec.affinity.get_or_insert_default();
    let of_nodes: &mut NodeAffinity = affinity.node_affinity.get_or_insert_default();
    of_nodes.required_during_scheduling_ignored_during_execution = Some(NodeSelector {
        node_selector_terms: vec![NodeSelectorTerm {
            match_fields: Some(vec![field]),
            ..NodeSelectorTerm::default()
        }],
    });
}

/// The node that a pod runs on or is pinned to.
pub fn node_of(pod: &Pod) -> Option<&str> {
    let spec = pod.spec.as_ref()?;
    let pinned = || {
        let of_nodes = spec.affinity.as_ref()?.node_affinity.as_ref()?;
        let required = of_nodes.required_during_scheduling_ignored_during_execution.as_ref()?;
        let fields = required.node_selector_terms.iter().flat_map(|t| t.match_fields.iter().flatten());
        fields.into_iter().find(|f| f.key == "metadata.name")?.values.as_ref()?.first()
    };
    spec.node_name.as_ref().filter(|n| !n.is_empty()).or_else(pinned).map(String::as_str)
}

/// Judges a node.
pub fn fit(set: &DaemonSet, node: &Node) -> Fit {
    let mut spec = set.spec.as_ref().and_then(|s| s.template.spec.clone()).unwrap_or_default();
    tolerate(&mut spec);
    let named = spec.node_name.as_deref().is_none_or(|n| n.is_empty() || n == node.name());
    if !named || !matches(&spec, node) {
        return Fit { should_run: false, may_stay: false };
    }
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let bars = |effects: &[&str]| {
        let relevant = taints.iter().filter(|t| effects.contains(&t.effect.as_str()));
        relevant.into_iter().any(|taint| !tolerations.iter().any(|t| tolerates(t, taint)))
    };
    Fit { should_run: !bars(&["NoSchedule", "NoExecute"]), may_stay: !bars(&["NoExecute"]) }
}

/// Whether the node selector and the required node affinity match.
fn matches(spec: &PodSpec, node: &Node) -> bool {
    let label = |key: &str| node.metadata.labels.as_ref().and_then(|l| l.get(key)).map(String::as_str);
    let field = |key: &str| (key == "metadata.name").then(|| node.name());
    let selected = spec.node_selector.iter().flatten().all(|(k, v)| label(k) == Some(v));
    let required = spec
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref())
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    let term = |term: &NodeSelectorTerm| {
        let (labels, fields) = (term.match_expressions.as_deref(), term.match_fields.as_deref());
        let (labels, fields) = (labels.unwrap_or_default(), fields.unwrap_or_default());
        !(labels.is_empty() && fields.is_empty())
            && labels.iter().all(|r| meets(r, label(&r.key)))
            && fields.iter().all(|r| meets(r, field(&r.key)))
    };
    selected && required.is_none_or(|r| r.node_selector_terms.iter().any(term))
}

fn meets(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|v| values.iter().any(|w| w == v));
    let numbers = || Some((value?.parse::<i64>().ok()?, values.first()?.parse::<i64>().ok()?));
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers().is_some_and(|(a, b)| a > b),
        "Lt" => numbers().is_some_and(|(a, b)| a < b),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_node_fits_by_name_labels_and_taints() {
        let set = |spec: Value| {
            DaemonSet::from_value(&json!({ "metadata": { "name": "d" }, "spec": { "selector": {}, "template": { "spec": spec } } }))
                .expect("a set")
        };
        let node = |taint: &str, effect: &str| {
            Node::from_value(&json!({ "metadata": { "name": "n", "labels": { "disk": "ssd" } },
                "spec": { "taints": [{ "key": taint, "effect": effect }] } }))
            .expect("a node")
        };
        let affinity = |operator: &str| {
            json!({ "containers": [], "affinity": { "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{ "matchExpressions": [{ "key": "disk", "operator": operator, "values": ["ssd"] }] }] } } } })
        };
        let plain = json!({ "containers": [] });
        for (spec, taint, effect, run, stay) in [
            (plain.clone(), "none", "PreferNoSchedule", true, true),
            (plain.clone(), "mine", "NoSchedule", false, true),
            (plain.clone(), "mine", "NoExecute", false, false),
            (plain.clone(), "node.kubernetes.io/unschedulable", "NoSchedule", true, true),
            (plain.clone(), "node.kubernetes.io/not-ready", "NoExecute", true, true),
            (plain, "node.kubernetes.io/network-unavailable", "NoSchedule", false, true),
            (
                json!({ "containers": [], "hostNetwork": true }),
                "node.kubernetes.io/network-unavailable",
                "NoSchedule",
                true,
                true,
            ),
            (json!({ "containers": [], "nodeSelector": { "disk": "hdd" } }), "none", "", false, false),
            (json!({ "containers": [], "nodeName": "m" }), "none", "", false, false),
            (affinity("In"), "none", "", true, true),
            (affinity("NotIn"), "none", "", false, false),
        ] {
            let fit = fit(&set(spec.clone()), &node(taint, effect));
            assert_eq!(fit, Fit { should_run: run, may_stay: stay }, "{spec} {taint} {effect}");
        }
        let mut spec = PodSpec::default();
        pin(&mut spec, "n");
        assert_eq!(node_of(&Pod { spec: Some(spec), ..Pod::default() }), Some("n"));
    }
}
