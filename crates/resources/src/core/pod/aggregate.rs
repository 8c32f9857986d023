//! What the containers of a pod need together: k8s.io/component-helpers/resource. Init containers run one
//! after the other (the greatest counts), sidecars beside everything that starts after them.

use crate::util::value::{Object, list, text};
use knarr_meta::quantity::Quantity;
use serde_json::Value;
use std::collections::BTreeMap;

/// The sum over the containers of a pod spec of their `requests` or `limits`, by resource.
pub fn total(spec: &Object, field: &str) -> BTreeMap<String, Quantity> {
    let mut total = BTreeMap::new();
    for container in containers(spec, "containers") {
        add(&mut total, &amounts(container, field));
    }
    let mut sidecars = BTreeMap::new();
    let mut init = BTreeMap::new();
    for container in containers(spec, "initContainers") {
        let amounts = amounts(container, field);
        if text(container, &["restartPolicy"]) == "Always" {
            add(&mut total, &amounts);
            add(&mut sidecars, &amounts);
            greatest(&mut init, &sidecars);
        } else {
            let mut peak = sidecars.clone();
            add(&mut peak, &amounts);
            greatest(&mut init, &peak);
        }
    }
    greatest(&mut total, &init);
    total
}

fn containers<'a>(spec: &'a Object, field: &str) -> impl Iterator<Item = &'a Value> {
    spec.get(field).and_then(Value::as_array).into_iter().flatten()
}

/// The amounts in `resources.requests` or `resources.limits` of a container.
pub fn amounts(container: &Value, field: &str) -> BTreeMap<String, Quantity> {
    let resources = container.get("resources").and_then(|r| r.get(field)).and_then(Value::as_object);
    resources
        .into_iter()
        .flatten()
        .filter_map(|(name, amount)| Some((name.clone(), Quantity::parse(amount.as_str()?).ok()?)))
        .collect()
}

fn add(sum: &mut BTreeMap<String, Quantity>, more: &BTreeMap<String, Quantity>) {
    for (name, amount) in more {
        sum.entry(name.clone())
            .and_modify(|s: &mut Quantity| s.add(amount))
            .or_insert_with(|| amount.clone());
    }
}

fn greatest(max: &mut BTreeMap<String, Quantity>, other: &BTreeMap<String, Quantity>) {
    for (name, amount) in other {
        let slot = max.entry(name.clone()).or_default();
        if *amount > *slot {
            *slot = amount.clone();
        }
    }
}

/// The containers of a pod, in the order in which rules visit them: init, regular, ephemeral.
pub fn all(spec: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(|f| list(spec, &[f]))
}
