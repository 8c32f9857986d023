//! What to do next for a DaemonSet: one pod on each node that fits, replaced a few at a time when the template changes.

use super::nodes::{fit, node_of};
use crate::framework::history::revision_of;
use crate::framework::pods::{availability, is_ready, phase};
use knarr_api::IntOrString;
use knarr_api::Kind;
use knarr_api::apps::v1::{DaemonSet, DaemonSetStatus};
use knarr_api::core::v1::{Node, Pod};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Most pods made or deleted in one round (upstream's BurstReplicas).
const BURST: usize = 250;

/// What follows from a look at the set, the nodes and the pods.
#[derive(Debug, Default)]
pub struct Plan {
    /// Nodes that need a pod.
    pub create: Vec<String>,
    /// Pods that are to go.
    pub delete: Vec<Arc<Pod>>,
    /// Those among them that failed on a node they belong to.
    pub failed: Vec<Arc<Pod>>,
    /// The status before all that.
    pub status: DaemonSetStatus,
    /// When a pod will become available.
    pub check_again: Option<Duration>,
}

/// Plans. `hash` is that of the template's revision.
pub fn plan(set: &DaemonSet, nodes: &[Arc<Node>], pods: &[Arc<Pod>], hash: &str, now: SystemTime) -> Plan {
    let spec = set.spec.clone().unwrap_or_default();
    let seconds = u64::try_from(spec.min_ready_seconds.unwrap_or_default()).unwrap_or_default();
    let min_ready = Duration::from_secs(seconds);
    let leaving = |pod: &Pod| pod.metadata.deletion_timestamp.is_some();
    let mut on: HashMap<&str, Vec<&Arc<Pod>>> = HashMap::new();
    for pod in pods {
        if let Some(node) = node_of(pod) {
            on.entry(node).or_default().push(pod);
        }
    }
    let mut plan = Plan::default();
    let mut available = |pod: &Pod| match availability(pod, min_ready, now) {
        Ok(()) => !leaving(pod),
        Err(left) => {
            if let Some(left) = left {
                plan.check_again = Some(plan.check_again.map_or(left, |c| c.min(left)));
            }
            false
        }
    };
    let mut status = set.status.clone().unwrap_or_default();
    let (mut ready, mut updated, mut ok) = (0, 0, 0);
    let (mut desired, mut current, mut misplaced) = (0, 0, 0);
    let mut unavailable = 0;
    let mut outdated: BTreeMap<String, (Arc<Pod>, bool)> = BTreeMap::new();
    for node in nodes {
        let fit = fit(set, node);
        let mut here = on.remove(node.name()).unwrap_or_default();
        here.sort_by_key(|p| (p.metadata.creation_timestamp.as_ref().map(|t| t.0), p.name().to_owned()));
        let staying: Vec<&Arc<Pod>> = here.iter().filter(|p| !leaving(p)).copied().collect();
        if fit.should_run {
            desired += 1;
            if let Some(oldest) = here.first() {
                current += 1;
                let is_available = available(oldest);
                ready += i32::from(is_ready(oldest));
                ok += i32::from(is_available);
                updated += i32::from(revision_of(&oldest.metadata) == Some(hash));
            }
        } else if !here.is_empty() {
            misplaced += 1;
        }
        if !fit.may_stay {
            plan.delete.extend(staying.into_iter().cloned());
            continue;
        }
        let (failed, alive): (Vec<_>, Vec<_>) =
            staying.into_iter().partition(|p| matches!(phase(p), "Failed" | "Succeeded"));
        plan.failed.extend(failed.iter().map(|p| (*p).clone()));
        plan.delete.extend(failed.into_iter().cloned());
        // Of several the oldest stays.
        plan.delete.extend(alive.iter().skip(1).map(|p| (*p).clone()));
        match alive.first() {
            None if fit.should_run => {
                unavailable += 1;
                if here.is_empty() {
                    plan.create.push(node.name().to_owned());
                }
            }
            None => {}
            Some(pod) => {
                let is_available = available(pod);
                unavailable += i32::from(!is_available);
                if revision_of(&pod.metadata) != Some(hash) {
                    outdated.insert(node.name().to_owned(), ((*pod).clone(), is_available));
                }
            }
        }
    }
    status.desired_number_scheduled = desired;
    status.current_number_scheduled = current;
    status.number_misscheduled = misplaced;
    status.number_ready = ready;
    let some = |n: i32| Some(n).filter(|n| *n != 0);
    status.number_available = some(ok);
    status.number_unavailable = some(desired - ok);
    status.updated_number_scheduled = some(updated);
    status.observed_generation = set.metadata.generation;
    plan.status = status;
    let rolling = spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref()).unwrap_or("RollingUpdate");
    if rolling == "RollingUpdate" {
        let limit = spec.update_strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
        let most = match limit.and_then(|r| r.max_unavailable.as_ref()) {
            Some(IntOrString::Int(n)) => *n,
            Some(IntOrString::String(text)) => {
                let percent: i64 = text.trim_end_matches('%').parse().unwrap_or_default();
                i32::try_from((percent * i64::from(desired) + 99) / 100).unwrap_or(i32::MAX)
            }
            None => 1,
        };
        // What is not available anyway is replaced at once; of the rest as many as may be missing.
        let mut room = (most.max(1) - unavailable).max(0);
        for (pod, is_available) in outdated.into_values() {
            if !is_available {
                plan.delete.push(pod);
            } else if room > 0 {
                room -= 1;
                plan.delete.push(pod);
            }
        }
    }
    plan.create.truncate(BURST);
    plan.delete.truncate(BURST);
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(name: &str, node: &str, hash: &str, ready: bool, phase: &str) -> Arc<Pod> {
        let ready = if ready { "True" } else { "False" };
        let pod = json!({
            "metadata": { "name": name, "uid": name, "labels": { "controller-revision-hash": hash } },
            "spec": { "nodeName": node, "containers": [] },
            "status": { "phase": phase, "conditions": [{ "type": "Ready", "status": ready }] },
        });
        Arc::new(Pod::from_value(&pod).expect("a pod"))
    }

    fn round(strategy: Value, pods: &[Arc<Pod>]) -> (Vec<String>, Vec<String>, [i32; 4]) {
        let node = |name: &str, taint: Value| {
            let node = json!({ "metadata": { "name": name }, "spec": { "taints": taint } });
            Arc::new(Node::from_value(&node).expect("a node"))
        };
        let barred = json!([{ "key": "k", "effect": "NoExecute" }]);
        let nodes = [node("a", json!([])), node("b", json!([])), node("c", json!([])), node("x", barred)];
        let set = json!({ "metadata": { "name": "d" }, "spec": { "selector": {}, "updateStrategy": strategy,
            "template": { "spec": { "containers": [] } } } });
        let set = DaemonSet::from_value(&set).expect("a set");
        let plan = plan(&set, &nodes, pods, "new", SystemTime::UNIX_EPOCH);
        let s = plan.status;
        let numbers =
            [s.desired_number_scheduled, s.current_number_scheduled, s.number_misscheduled, s.number_ready];
        (plan.create, plan.delete.iter().map(|p| p.name().to_owned()).collect(), numbers)
    }

    #[test]
    fn every_node_that_fits_has_one_pod() {
        let run = |name: &str, node: &str| pod(name, node, "new", true, "Running");
        let text = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let none = json!({ "type": "OnDelete" });
        assert_eq!(round(none.clone(), &[]), (text(&["a", "b", "c"]), vec![], [3, 0, 0, 0]));
        let pods = [run("a1", "a"), run("a2", "a"), run("x1", "x"), pod("b1", "b", "new", false, "Failed")];
        assert_eq!(round(none, &pods), (text(&["c"]), text(&["a2", "b1", "x1"]), [3, 2, 1, 1]));
    }

    #[test]
    fn an_update_keeps_to_what_may_be_missing() {
        let old = |name: &str, node: &str, ready: bool| pod(name, node, "old", ready, "Running");
        let most = |n: Value| json!({ "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": n } });
        let gone = |strategy: Value, pods: &[Arc<Pod>]| round(strategy, pods).1;
        let all = [old("a1", "a", true), old("b1", "b", true), old("c1", "c", true)];
        assert_eq!(gone(most(json!(1)), &all), ["a1"]);
        assert_eq!(gone(most(json!("50%")), &all), ["a1", "b1"]);
        let one_down = [old("a1", "a", true), old("b1", "b", false), old("c1", "c", true)];
        assert_eq!(gone(most(json!(1)), &one_down), ["b1"]);
        let one_new = [old("a1", "a", true), old("b1", "b", true), pod("c2", "c", "new", false, "Running")];
        assert!(gone(most(json!(1)), &one_new).is_empty());
    }
}
