//! Amounts of resources: what a pod asks for and what a node has. CPU counts in millicores, all else in units.

use knarr_api::Quantity;
use knarr_api::core::v1::{Container, PodSpec, ResourceRequirements};
use std::collections::BTreeMap;

/// Resource name to amount.
pub type Amounts = BTreeMap<String, i64>;

/// CPU and memory that count for a container without requests when nodes are scored (upstream's defaults).
const UNSTATED_CPU_MILLICORES: i64 = 100;
const UNSTATED_MEMORY_BYTES: i64 = 200 * 1024 * 1024;

/// Reads a resource list. What does not parse counts as nothing; the API server does not let it in.
pub fn amounts(list: Option<&BTreeMap<String, Quantity>>) -> Amounts {
    let read = |(name, quantity): (&String, &Quantity)| {
        let quantity = knarr_meta::quantity::Quantity::parse(&quantity.0).ok()?;
        let amount = if name == "cpu" { quantity.milli_value() } else { quantity.value() };
        Some((name.clone(), amount))
    };
    list.into_iter().flatten().filter_map(read).collect()
}

fn requests(resources: Option<&ResourceRequirements>) -> Amounts {
    amounts(resources.and_then(|r| r.requests.as_ref()))
}

fn add(to: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        *to.entry(name.clone()).or_default() += amount;
    }
}

fn raise(to: &mut Amounts, floor: &Amounts) {
    for (name, amount) in floor {
        let held = to.entry(name.clone()).or_default();
        *held = (*held).max(*amount);
    }
}

/// What the pod asks for: its containers together, or more if an init container needs more at its turn;
/// restartable init containers (KEP-753) stay and add up; pod-level requests (KEP-2837) and overhead count.
pub fn of_pod(spec: &PodSpec) -> Amounts {
    total(spec, |container| requests(container.resources.as_ref()))
}

/// The same with upstream's assumption for containers that state no CPU or memory; used for scoring.
pub fn of_pod_for_scoring(spec: &PodSpec) -> Amounts {
    total(spec, |container| {
        let mut amounts = requests(container.resources.as_ref());
        amounts.entry("cpu".to_owned()).or_insert(UNSTATED_CPU_MILLICORES);
        amounts.entry("memory".to_owned()).or_insert(UNSTATED_MEMORY_BYTES);
        amounts
    })
}

fn total(spec: &PodSpec, of: impl Fn(&Container) -> Amounts) -> Amounts {
    let mut sum = Amounts::new();
    for container in &spec.containers {
        add(&mut sum, &of(container));
    }
    let (mut sidecars, mut peak) = (Amounts::new(), Amounts::new());
    for container in spec.init_containers.iter().flatten() {
        let needs = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut sum, &needs);
            add(&mut sidecars, &needs);
            raise(&mut peak, &sidecars);
        } else {
            let mut turn = sidecars.clone();
            add(&mut turn, &needs);
            raise(&mut peak, &turn);
        }
    }
    raise(&mut sum, &peak);
    sum.extend(requests(spec.resources.as_ref()));
    add(&mut sum, &amounts(spec.overhead.as_ref()));
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(json: serde_json::Value) -> PodSpec {
        let pod = serde_json::json!({ "metadata": {}, "spec": json });
        knarr_api::Kind::from_value(&pod)
            .map(|p: knarr_api::core::v1::Pod| p.spec.expect("has one"))
            .expect("a pod")
    }

    #[test]
    fn the_larger_of_start_and_run_counts() {
        let needs = |cpu: &str| serde_json::json!({ "requests": { "cpu": cpu } });
        for (containers, init, expected) in [
            (vec!["100m", "1"], vec![], 1100),
            (vec!["100m"], vec![("500m", false), ("200m", false)], 500),
            (vec!["100m"], vec![("300m", true), ("200m", false)], 500),
            (vec!["400m"], vec![("300m", true)], 700),
        ] {
            let containers: Vec<_> = containers
                .iter()
                .map(|c| serde_json::json!({ "name": "c", "resources": needs(c) }))
                .collect();
            let init: Vec<_> = init
                .iter()
                .map(|(c, stays)| serde_json::json!({ "name": "i", "resources": needs(c), "restartPolicy": stays.then_some("Always") }))
                .collect();
            let spec = pod(serde_json::json!({ "containers": containers, "initContainers": init }));
            assert_eq!(of_pod(&spec)["cpu"], expected);
        }
    }
}
