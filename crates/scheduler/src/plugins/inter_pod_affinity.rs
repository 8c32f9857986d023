//! InterPodAffinity: pods that want to be, or must not be, in the same topology domain as others.

use super::selectors::selects;
use crate::cache::{NodeInfo, PodInfo, Snapshot};
use crate::framework::{Plugin, Reason};
use knarr_api::core::v1::{PodAffinityTerm, WeightedPodAffinityTerm};

pub struct InterPodAffinity;

/// Whether `other` is a pod that `owner`'s term speaks of. (Terms with a namespaceSelector speak of all
/// namespaces here only when the selector is empty; the labels of namespaces are not watched.)
fn speaks_of(term: &PodAffinityTerm, owner: &PodInfo, other: &PodInfo) -> bool {
    let namespace = other.pod.metadata.namespace.as_deref().unwrap_or_default();
    let named = term.namespaces.as_deref().unwrap_or_default();
    let everywhere = term.namespace_selector.as_ref().is_some_and(|s| {
        s.match_labels.as_ref().is_none_or(|l| l.is_empty())
            && s.match_expressions.as_ref().is_none_or(|e| e.is_empty())
    });
    let own = named.is_empty() && term.namespace_selector.is_none();
    let in_scope = everywhere
        || named.iter().any(|n| n == namespace)
        || (own && owner.pod.metadata.namespace.as_deref().unwrap_or_default() == namespace);
    in_scope && selects(term.label_selector.as_ref(), other.labels())
}

/// Whether the two nodes are in one domain of the term.
fn together(term: &PodAffinityTerm, a: &NodeInfo, b: &NodeInfo) -> bool {
    let domain = |node: &NodeInfo| node.labels().get(&term.topology_key).cloned();
    domain(a).is_some_and(|d| domain(b) == Some(d))
}

fn required_affinity(pod: &PodInfo) -> &[PodAffinityTerm] {
    let affinity = pod.spec().affinity.as_ref().and_then(|a| a.pod_affinity.as_ref());
    affinity
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_deref())
        .unwrap_or_default()
}

fn required_anti_affinity(pod: &PodInfo) -> &[PodAffinityTerm] {
    let affinity = pod.spec().affinity.as_ref().and_then(|a| a.pod_anti_affinity.as_ref());
    affinity
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_deref())
        .unwrap_or_default()
}

impl Plugin for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo, all: &Snapshot) -> Vec<Reason> {
        for term in required_affinity(pod) {
            let mut anywhere = false;
            let here = all.placed().filter(|(_, other)| speaks_of(term, pod, other)).any(|(on, _)| {
                anywhere = true;
                together(term, on, node)
            });
            // The first pod of a group that wants to be together may go anywhere that has the domain.
            let first =
                !anywhere && speaks_of(term, pod, pod) && node.labels().contains_key(&term.topology_key);
            if !here && !first {
                return vec!["node(s) didn't match pod affinity rules".to_owned()];
            }
        }
        for term in required_anti_affinity(pod) {
            if all.placed().any(|(on, other)| speaks_of(term, pod, other) && together(term, on, node)) {
                return vec!["node(s) didn't match pod anti-affinity rules".to_owned()];
            }
        }
        let refused = all.placed().any(|(on, other)| {
            required_anti_affinity(other)
                .iter()
                .any(|term| speaks_of(term, other, pod) && together(term, on, node))
        });
        if refused {
            vec!["node(s) didn't satisfy existing pods anti-affinity rules".to_owned()]
        } else {
            Vec::new()
        }
    }

    fn score(&self, pod: &PodInfo, node: &NodeInfo, all: &Snapshot) -> Option<i64> {
        let affinity = pod.spec().affinity.as_ref()?;
        let wants = affinity
            .pod_affinity
            .as_ref()
            .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref());
        let avoids = affinity
            .pod_anti_affinity
            .as_ref()
            .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref());
        let sum = |terms: Option<&[WeightedPodAffinityTerm]>| -> i64 {
            let of = |weighted: &WeightedPodAffinityTerm| {
                let term = &weighted.pod_affinity_term;
                let met = all
                    .placed()
                    .filter(|(on, other)| speaks_of(term, pod, other) && together(term, on, node));
                met.count() as i64 * i64::from(weighted.weight)
            };
            terms.unwrap_or_default().iter().map(of).sum()
        };
        Some(sum(wants) - sum(avoids))
    }

    fn weight(&self) -> i64 {
        2
    }
}
