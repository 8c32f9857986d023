//! The quality-of-service class of a pod: pkg/apis/core/helper/qos.

use super::aggregate;
use crate::util::value::{list, text};
use knarr_meta::quantity::Quantity;
use serde_json::Value;
use std::collections::BTreeMap;

/// The class from the specification alone.
pub fn compute(spec: &Value) -> &'static str {
    let pod_level: BTreeMap<String, Quantity> = aggregate::amounts(spec, "requests");
    let pod_limits = aggregate::amounts(spec, "limits");
    let relevant = |amounts: BTreeMap<String, Quantity>| -> BTreeMap<String, Quantity> {
        let zero = Quantity::default();
        amounts.into_iter().filter(|(k, v)| matches!(k.as_str(), "cpu" | "memory") && *v > zero).collect()
    };
    if !pod_level.is_empty() || !pod_limits.is_empty() {
        let (requests, limits) = (relevant(pod_level), relevant(pod_limits));
        let guaranteed = limits.len() == 2;
        return class(&requests, &limits, guaranteed);
    }
    let (mut requests, mut limits) = (BTreeMap::new(), BTreeMap::new());
    let mut guaranteed = true;
    for container in list(spec, &["containers"]).iter().chain(list(spec, &["initContainers"])) {
        let container_limits = relevant(aggregate::amounts(container, "limits"));
        guaranteed &= container_limits.len() == 2;
        for (sum, amounts) in [
            (&mut requests, relevant(aggregate::amounts(container, "requests"))),
            (&mut limits, container_limits),
        ] {
            for (name, amount) in amounts {
                let sum: &mut BTreeMap<String, Quantity> = sum;
                sum.entry(name).and_modify(|s| s.add(&amount)).or_insert(amount);
            }
        }
    }
    class(&requests, &limits, guaranteed)
}

fn class(
    requests: &BTreeMap<String, Quantity>,
    limits: &BTreeMap<String, Quantity>,
    guaranteed: bool,
) -> &'static str {
    if requests.is_empty() && limits.is_empty() {
        return "BestEffort";
    }
    let equal = requests.len() == limits.len()
        && requests.iter().all(|(name, amount)| limits.get(name).is_some_and(|l| l == amount));
    if guaranteed && equal { "Guaranteed" } else { "Burstable" }
}

/// The class that was set, or the computed one.
pub fn of(pod: &Value) -> &str {
    match text(pod, &["status", "qosClass"]) {
        "" => compute(&pod["spec"]),
        class => class,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn classes_follow_requests_and_limits() {
        let container =
            |requests: Value, limits: Value| json!({"resources":{"requests":requests,"limits":limits}});
        let both = json!({"cpu":"1","memory":"1Gi"});
        let cases = [
            (vec![container(json!({}), json!({}))], "BestEffort"),
            (vec![container(both.clone(), both.clone())], "Guaranteed"),
            (vec![container(json!({"cpu":"500m","memory":"1Gi"}), both.clone())], "Burstable"),
            (vec![container(both.clone(), both.clone()), container(json!({}), json!({}))], "Burstable"),
            (vec![container(json!({"cpu":"0"}), json!({}))], "BestEffort"),
        ];
        for (containers, want) in cases {
            assert_eq!(compute(&json!({"containers": containers})), want, "{containers:?}");
        }
    }
}
