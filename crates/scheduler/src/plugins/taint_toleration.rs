//! TaintToleration: taints keep pods away that do not tolerate them, or count against the node.

use crate::cache::{NodeInfo, PodInfo, Snapshot};
use crate::framework::{Plugin, Reason};
use knarr_api::core::v1::{Taint, Toleration};

pub struct TaintToleration;

/// Whether one of the pod's tolerations covers the taint.
pub fn tolerates(pod: &PodInfo, taint: &Taint) -> bool {
    pod.spec().tolerations.iter().flatten().any(|toleration| covers(toleration, taint))
}

fn covers(toleration: &Toleration, taint: &Taint) -> bool {
    let given = |text: &Option<String>| text.clone().filter(|t| !t.is_empty());
    if given(&toleration.effect).is_some_and(|effect| effect != taint.effect) {
        return false;
    }
    let exists = toleration.operator.as_deref() == Some("Exists");
    match given(&toleration.key) {
        None => exists,
        Some(key) if key != taint.key => false,
        Some(_) => {
            exists
                || toleration.value.as_deref().unwrap_or_default()
                    == taint.value.as_deref().unwrap_or_default()
        }
    }
}

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo, _all: &Snapshot) -> Vec<Reason> {
        let taints = node.node.spec.as_ref().and_then(|s| s.taints.as_ref()).into_iter().flatten();
        let mut keeping_away = taints.filter(|t| t.effect == "NoSchedule" || t.effect == "NoExecute");
        match keeping_away.find(|taint| !tolerates(pod, taint)) {
            Some(taint) => {
                let value = taint.value.as_deref().unwrap_or_default();
                vec![format!("node(s) had untolerated taint {{{}: {value}}}", taint.key)]
            }
            None => Vec::new(),
        }
    }

    fn score(&self, pod: &PodInfo, node: &NodeInfo, _all: &Snapshot) -> Option<i64> {
        let taints = node.node.spec.as_ref().and_then(|s| s.taints.as_ref()).into_iter().flatten();
        let against = taints.filter(|t| t.effect == "PreferNoSchedule" && !tolerates(pod, t)).count();
        Some(against as i64)
    }

    fn weight(&self) -> i64 {
        3
    }

    fn reversed(&self) -> bool {
        true
    }
}
