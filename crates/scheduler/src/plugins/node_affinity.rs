//! NodeAffinity: nodeSelector and the node affinity of the pod.

use super::selectors::term_matches;
use crate::cache::{NodeInfo, PodInfo, Snapshot};
use crate::framework::{Plugin, Reason};

pub struct NodeAffinity;

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo, _all: &Snapshot) -> Vec<Reason> {
        let spec = pod.spec();
        let labels = node.labels();
        let selected = spec.node_selector.iter().flatten().all(|(k, v)| labels.get(k) == Some(v));
        let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
        let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
        let wanted = required
            .is_none_or(|r| r.node_selector_terms.iter().any(|t| term_matches(t, labels, node.name())));
        if selected && wanted {
            Vec::new()
        } else {
            vec!["node(s) didn't match Pod's node affinity/selector".to_owned()]
        }
    }

    fn score(&self, pod: &PodInfo, node: &NodeInfo, _all: &Snapshot) -> Option<i64> {
        let affinity = pod.spec().affinity.as_ref()?.node_affinity.as_ref()?;
        let preferred = affinity.preferred_during_scheduling_ignored_during_execution.as_ref()?;
        let met = preferred.iter().filter(|p| term_matches(&p.preference, node.labels(), node.name()));
        Some(met.map(|p| i64::from(p.weight)).sum())
    }

    fn weight(&self) -> i64 {
        2
    }
}
