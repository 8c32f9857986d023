//! How much a pod is given: the resources of its containers and of itself (KEP-1287, KEP-2837, KEP-753), apart
//! from the rest of its spec, because they change while it runs. Sums follow component-helpers' resource rules.

use knarr_api::Quantity;
use knarr_api::core::v1::{Container, Pod, ResourceRequirements};
use knarr_meta::quantity::Quantity as Amount;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Amounts by resource name.
pub(crate) type Amounts = BTreeMap<String, Amount>;

type List = Option<BTreeMap<String, Quantity>>;

/// Requests and limits in a form that is kept on disk and in labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Size {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) limits: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) requests: BTreeMap<String, String>,
}

/// What of a size a running container feels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Felt {
    pub(crate) cpu_request: i64,
    pub(crate) cpu_limit: i64,
    pub(crate) memory_request: i64,
    pub(crate) memory_limit: i64,
}

fn texts(list: &List) -> BTreeMap<String, String> {
    list.iter().flatten().map(|(name, q)| (name.clone(), q.0.clone())).collect()
}

fn list(texts: &BTreeMap<String, String>) -> List {
    Some(texts.iter().map(|(name, q)| (name.clone(), Quantity(q.clone()))).collect())
        .filter(|l: &BTreeMap<_, _>| !l.is_empty())
}

fn parsed(text: Option<&String>) -> Amount {
    text.and_then(|t| Amount::parse(t).ok())
        .unwrap_or_else(|| Amount::from_value(0, knarr_meta::quantity::Format::DecimalSi))
}

impl Size {
    pub(crate) fn of(requirements: Option<&ResourceRequirements>) -> Self {
        requirements
            .map_or_else(Self::default, |r| Self { requests: texts(&r.requests), limits: texts(&r.limits) })
    }

    /// What of it counts for a container of a pod whose own size is `pod`: the pod's limits hold where the
    /// container has none.
    pub(crate) fn felt(&self, pod: Option<&Self>) -> Felt {
        let limit = |name: &str| {
            let own = parsed(self.limits.get(name));
            if own.is_zero() { parsed(pod.and_then(|p| p.limits.get(name))) } else { own }
        };
        Felt {
            cpu_request: parsed(self.requests.get("cpu")).milli_value(),
            cpu_limit: limit("cpu").milli_value(),
            memory_request: parsed(self.requests.get("memory")).value(),
            memory_limit: limit("memory").value(),
        }
    }

    /// Whether both mean the same, `1` and `1000m` being the same.
    fn same(&self, other: &Self) -> bool {
        let same = |a: &BTreeMap<String, String>, b: &BTreeMap<String, String>| {
            a.len() == b.len()
                && a.iter().all(|(name, q)| b.get(name).is_some_and(|o| parsed(Some(q)) == parsed(Some(o))))
        };
        same(&self.requests, &other.requests) && same(&self.limits, &other.limits)
    }

    fn put_into(&self, requirements: &mut Option<ResourceRequirements>) {
        let held = requirements.get_or_insert_default();
        held.requests = list(&self.requests);
        held.limits = list(&self.limits);
    }

    /// As a status shows it: CPU and memory from `actual` where `self`, the allocation, speaks of them.
    pub(crate) fn shown(&self, actual: &Self) -> Value {
        let merged =
            |own: &BTreeMap<String, String>, actual: &BTreeMap<String, String>| -> Map<String, Value> {
                own.iter()
                    .map(|(name, q)| {
                        let actual = actual.get(name).filter(|_| matches!(name.as_str(), "cpu" | "memory"));
                        (name.clone(), actual.unwrap_or(q).clone().into())
                    })
                    .collect()
            };
        let mut value = Map::new();
        for (field, list) in [
            ("limits", merged(&self.limits, &actual.limits)),
            ("requests", merged(&self.requests, &actual.requests)),
        ] {
            if !list.is_empty() {
                value.insert(field.to_owned(), list.into());
            }
        }
        value.into()
    }
}

/// The sizes of a pod and of its containers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sizes {
    /// The pod's own, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pod: Option<Size>,
    /// By container name.
    #[serde(default)]
    pub(crate) containers: BTreeMap<String, Size>,
}

fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.spec.iter().flat_map(|s| s.init_containers.iter().flatten().chain(&s.containers))
}

impl Sizes {
    /// What the pod's spec asks for.
    pub(crate) fn of(pod: &Pod) -> Self {
        Self {
            pod: pod.spec.as_ref().and_then(|s| s.resources.as_ref()).map(|r| Size::of(Some(r))),
            containers: containers(pod).map(|c| (c.name.clone(), Size::of(c.resources.as_ref()))).collect(),
        }
    }

    /// Whether both give everything they both know of the same.
    pub(crate) fn same(&self, other: &Self) -> bool {
        let pod = match (&self.pod, &other.pod) {
            (Some(a), Some(b)) => a.same(b),
            (a, b) => a.is_none() == b.is_none(),
        };
        pod && self
            .containers
            .iter()
            .all(|(name, size)| other.containers.get(name).is_none_or(|o| size.same(o)))
    }

    /// The pod with these sizes in place of its own.
    pub(crate) fn put_into(&self, pod: &Arc<Pod>) -> Arc<Pod> {
        let mut pod = Pod::clone(pod);
        if let Some(spec) = &mut pod.spec {
            match &self.pod {
                Some(size) => size.put_into(&mut spec.resources),
                None => spec.resources = None,
            }
            for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
                if let Some(size) = self.containers.get(&container.name) {
                    size.put_into(&mut container.resources);
                }
            }
        }
        Arc::new(pod)
    }
}

/// Which list of a container's resources.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Requests,
    Limits,
}

fn amounts(list: &List) -> Amounts {
    list.iter().flatten().filter_map(|(name, q)| Some((name.clone(), Amount::parse(&q.0).ok()?))).collect()
}

fn part(requirements: Option<&ResourceRequirements>, part: Part) -> Amounts {
    requirements.map_or_else(Amounts::new, |r| match part {
        Part::Requests => amounts(&r.requests),
        Part::Limits => amounts(&r.limits),
    })
}

fn add(to: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        match to.get_mut(name) {
            Some(held) => held.add(amount),
            None => drop(to.insert(name.clone(), amount.clone())),
        }
    }
}

fn raise(to: &mut Amounts, floor: &Amounts) {
    for (name, amount) in floor {
        if to.get(name).is_none_or(|held| held < amount) {
            to.insert(name.clone(), amount.clone());
        }
    }
}

/// Sum over the containers alone: ordinary containers and sidecars run together, each init container runs
/// beside the sidecars before it.
pub(crate) fn of_containers(pod: &Pod, which: Part) -> Amounts {
    let Some(spec) = &pod.spec else { return Amounts::new() };
    let mut sum = Amounts::new();
    for container in &spec.containers {
        add(&mut sum, &part(container.resources.as_ref(), which));
    }
    let (mut sidecars, mut peak) = (Amounts::new(), Amounts::new());
    for container in spec.init_containers.iter().flatten() {
        let own = part(container.resources.as_ref(), which);
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut sum, &own);
            add(&mut sidecars, &own);
            raise(&mut peak, &sidecars);
        } else {
            let mut turn = sidecars.clone();
            add(&mut turn, &own);
            raise(&mut peak, &turn);
        }
    }
    raise(&mut sum, &peak);
    sum
}

/// Requests or limits of the pod as a whole: its own amounts before the containers', and its overhead (which
/// does not make a limit where there is none).
pub(crate) fn total(pod: &Pod, which: Part) -> Amounts {
    let mut sum = of_containers(pod, which);
    let Some(spec) = &pod.spec else { return sum };
    let own = part(spec.resources.as_ref(), which);
    let supported = |name: &str| matches!(name, "cpu" | "memory") || name.starts_with("hugepages-");
    sum.extend(own.into_iter().filter(|(name, _)| supported(name)));
    let overhead = amounts(&spec.overhead);
    match which {
        Part::Requests => add(&mut sum, &overhead),
        Part::Limits => {
            let some: Amounts = overhead
                .into_iter()
                .filter(|(name, _)| sum.get(name).is_some_and(|held| !held.is_zero()))
                .collect();
            add(&mut sum, &some);
        }
    }
    sum
}

/// As JSON, canonical.
pub(crate) fn to_json(amounts: &Amounts) -> Value {
    amounts
        .iter()
        .map(|(name, amount)| (name.clone(), amount.to_json()))
        .collect::<Map<String, Value>>()
        .into()
}

/// The pod's own `status.resources`: what it is given as a whole.
pub(crate) fn pod_status(pod: &Pod) -> Value {
    let (requests, limits) = (total(pod, Part::Requests), total(pod, Part::Limits));
    let mut value = json!({});
    if !limits.is_empty() {
        value["limits"] = to_json(&limits);
    }
    if !requests.is_empty() {
        value["requests"] = to_json(&requests);
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::phase::tests::pod;
    use serde_json::json;

    fn asks(requests: Value, limits: Value) -> Value {
        json!({"name": "a", "resources": {"requests": requests, "limits": limits}})
    }

    #[test]
    fn equal_amounts_in_other_words_are_the_same_size() {
        let of = |cpu: &str| Sizes::of(&pod(json!({"containers": [asks(json!({"cpu": cpu}), json!({}))]})));
        assert!(of("1").same(&of("1000m")) && !of("1").same(&of("2")));
        let none = Sizes::of(&pod(json!({"containers": [{"name": "a"}]})));
        assert!(!none.same(&of("1")));
    }

    #[test]
    fn sizes_put_into_a_pod_replace_what_it_asks_for() {
        let small = Arc::new(pod(json!({"containers": [asks(json!({"cpu": "1"}), json!({}))]})));
        let large = pod(
            json!({"resources": {"limits": {"cpu": "4"}}, "containers": [asks(json!({"cpu": "3"}), json!({"cpu": "3"}))]}),
        );
        let sizes = Sizes::of(&large);
        assert!(Sizes::of(&sizes.put_into(&small)).same(&sizes));
        assert_eq!(Sizes::of(&Sizes::of(&small).put_into(&Arc::new(large))), Sizes::of(&small));
    }

    #[test]
    fn a_pods_own_limit_holds_where_a_container_has_none() {
        let pod_size = Size { limits: BTreeMap::from([("cpu".into(), "2".into())]), ..Size::default() };
        let own = Size { limits: BTreeMap::from([("memory".into(), "1Ki".into())]), ..Size::default() };
        let felt = own.felt(Some(&pod_size));
        assert_eq!((felt.cpu_limit, felt.memory_limit), (2000, 1024));
    }

    #[test]
    fn the_pods_own_amounts_come_before_the_sum_and_overhead_on_top() {
        let pod = pod(json!({
            "overhead": {"cpu": "10m", "memory": "1Mi"},
            "resources": {"requests": {"cpu": "1"}},
            "containers": [asks(json!({"cpu": "100m", "memory": "2Mi"}), json!({"cpu": "1"})),
                asks(json!({"cpu": "100m"}), json!({}))]}));
        let requests = total(&pod, Part::Requests);
        assert_eq!((requests["cpu"].milli_value(), requests["memory"].value()), (1010, 3 << 20));
        let limits = total(&pod, Part::Limits);
        assert_eq!((limits["cpu"].milli_value(), limits.get("memory")), (1010, None));
        assert_eq!(pod_status(&pod)["requests"], json!({"cpu": "1010m", "memory": "3Mi"}));
    }

    #[test]
    fn a_status_shows_what_is_real_where_the_allocation_speaks_of_it() {
        let of =
            |cpu: &str| Size { requests: BTreeMap::from([("cpu".into(), cpu.into())]), ..Size::default() };
        assert_eq!(of("2").shown(&of("1")), json!({"requests": {"cpu": "1"}}));
        assert_eq!(of("2").shown(&Size::default()), json!({"requests": {"cpu": "2"}}));
    }
}
