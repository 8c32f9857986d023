//! What a pod asks for: its containers together (init containers one after the other, sidecars beside all that
//! start later), what is set for the whole pod, and overhead. k8s.io/component-helpers/resource, with what the
//! kubelet reports of resizes taken into account (KEP-1287, KEP-2837).

use crate::amounts::{self, Amounts};
use knarr_api::core::v1::{Container, ContainerStatus, Pod};

/// Which of the two maps is meant.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// What is set aside.
    Requests,
    /// What may be used at most.
    Limits,
}

/// Whether an amount can be set for a whole pod.
fn is_pod_level(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with(crate::names::HUGE_PAGES)
}

/// What is set for the whole pod.
pub fn pod_level(pod: &Pod, part: Part) -> Amounts {
    let resources = pod.spec.as_ref().and_then(|s| s.resources.as_ref());
    let map = resources.and_then(|r| match part {
        Part::Requests => r.requests.as_ref(),
        Part::Limits => r.limits.as_ref(),
    });
    let mut amounts = amounts::read(map);
    amounts.retain(|name, _| is_pod_level(name));
    amounts
}

/// Whether anything is set for the whole pod.
pub fn has_pod_level(pod: &Pod) -> bool {
    [Part::Requests, Part::Limits].into_iter().any(|part| !pod_level(pod, part).is_empty())
}

/// What a container's spec says.
pub fn of_spec(container: &Container, part: Part) -> Amounts {
    amounts::read(container.resources.as_ref().and_then(|r| match part {
        Part::Requests => r.requests.as_ref(),
        Part::Limits => r.limits.as_ref(),
    }))
}

/// What the pod asks for in all.
pub fn total(pod: &Pod, part: Part) -> Amounts {
    let Some(spec) = &pod.spec else { return Amounts::new() };
    let mut total = Amounts::new();
    for container in &spec.containers {
        amounts::add(&mut total, &effective(pod, container, part));
    }
    let (mut sidecars, mut init) = (Amounts::new(), Amounts::new());
    for container in spec.init_containers.iter().flatten() {
        if container.restart_policy.as_deref() == Some("Always") {
            let amounts = effective(pod, container, part);
            amounts::add(&mut total, &amounts);
            amounts::add(&mut sidecars, &amounts);
            amounts::greatest(&mut init, &sidecars);
        } else {
            let mut peak = of_spec(container, part);
            amounts::add(&mut peak, &sidecars);
            amounts::greatest(&mut init, &peak);
        }
    }
    amounts::greatest(&mut total, &init);
    total.extend(pod_level(pod, part));
    let overhead = amounts::read(spec.overhead.as_ref());
    for (name, amount) in &overhead {
        match total.get_mut(name) {
            Some(sum) if part == Part::Requests || !sum.is_zero() => sum.add(amount),
            None if part == Part::Requests => drop(total.insert(name.clone(), amount.clone())),
            _ => {}
        }
    }
    total
}

/// What a container has or is about to have: the greatest of its spec, what was allocated and what is in force.
fn effective(pod: &Pod, container: &Container, part: Part) -> Amounts {
    let spec = of_spec(container, part);
    let Some(status) = status_of(pod, &container.name) else { return spec };
    let Some(resources) = &status.resources else { return spec };
    let (actuated, allocated) = match part {
        Part::Requests => (resources.requests.as_ref(), status.allocated_resources.as_ref()),
        Part::Limits => (resources.limits.as_ref(), None),
    };
    // A resize that cannot be had does not count.
    let mut most = if is_infeasible(pod) { Amounts::new() } else { spec };
    amounts::greatest(&mut most, &amounts::read(actuated));
    amounts::greatest(&mut most, &amounts::read(allocated));
    most
}

fn status_of<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let mut all = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    all.rfind(|s| s.name == name)
}

fn is_infeasible(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let pending = conditions.filter(|c| c.type_ == "PodResizePending").map(|c| c.reason.as_deref()).next();
    pending == Some(Some("Infeasible"))
}
