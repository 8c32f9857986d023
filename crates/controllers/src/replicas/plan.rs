//! How many pods to make, or which to give up.

use crate::framework::pods::deletion_rank;
use knarr_api::core::v1::Pod;
use std::collections::HashMap;
use std::sync::Arc;

/// Most pods created or deleted in one sync (upstream's BurstReplicas).
const BURST: usize = 500;

/// What to do.
pub enum Plan {
    /// As it should be.
    Nothing,
    /// Make so many.
    Create(usize),
    /// Give these up.
    Delete(Vec<Arc<Pod>>),
}

/// Compares the wanted number with the active pods.
pub fn plan(wanted: i32, active: &[Arc<Pod>]) -> Plan {
    let wanted = usize::try_from(wanted).unwrap_or_default();
    if active.len() == wanted {
        return Plan::Nothing;
    }
    if active.len() < wanted {
        return Plan::Create((wanted - active.len()).min(BURST));
    }
    let surplus = (active.len() - wanted).min(BURST);
    let node = |pod: &Pod| pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default();
    let mut crowds: HashMap<String, usize> = HashMap::new();
    active.iter().for_each(|pod| *crowds.entry(node(pod)).or_default() += 1);
    let mut ranked: Vec<_> = active.iter().map(|pod| (deletion_rank(pod, crowds[&node(pod)]), pod)).collect();
    ranked.sort_by(|a, b| a.0.cmp(&b.0));
    Plan::Delete(ranked.into_iter().take(surplus).map(|(_, pod)| pod.clone()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_api::Kind;
    use serde_json::json;

    fn pod(name: &str, node: &str, phase: &str, ready: bool) -> Arc<Pod> {
        let ready = if ready { "True" } else { "False" };
        let pod = json!({
            "metadata": { "name": name }, "spec": { "nodeName": node, "containers": [] },
            "status": { "phase": phase, "conditions": [{ "type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z" }] },
        });
        Arc::new(Pod::from_value(&pod).expect("a pod"))
    }

    #[test]
    fn too_few_are_made_and_the_least_useful_go_first() {
        assert!(matches!(plan(0, &[]), Plan::Nothing));
        assert!(matches!(plan(3, &[pod("a", "n", "Running", true)]), Plan::Create(2)));
        assert!(matches!(plan(2000, &[]), Plan::Create(BURST)));
        let all = [
            pod("ready", "n", "Running", true),
            pod("unready", "n", "Running", false),
            pod("pending", "n", "Pending", false),
            pod("unscheduled", "", "Pending", false),
            pod("crowded", "m", "Running", true),
            pod("crowded2", "m", "Running", true),
            pod("crowded3", "m", "Running", true),
            pod("crowded4", "m", "Running", true),
        ];
        let Plan::Delete(victims) = plan(3, &all) else { panic!("there are too many") };
        let names: Vec<&str> = victims.iter().map(|p| p.name()).collect();
        assert_eq!(names, ["unscheduled", "pending", "unready", "crowded", "crowded2"]);
    }
}
