//! What objects use of a ResourceQuota, and whether more fits: the arithmetic that the admission plugin (before a
//! write) and the resource quota controller (after deletions) share. Upstream's `pkg/quota/v1` and
//! `k8s.io/apiserver/pkg/quota/v1`; <https://kubernetes.io/docs/concepts/policy/resource-quotas/>.
//!
//! Nothing here reads or writes the API: whoever calls brings the objects.

pub mod amounts;
pub mod check;
mod claims;
pub mod devices;
mod evaluator;
mod names;
mod pods;
mod quota;
mod scopes;
mod services;
mod totals;

pub use amounts::Amounts;
pub use devices::Devices;
pub use evaluator::{Evaluator, Item, Owned};
pub use pods::{counts as counts_pod, is_terminating};
pub use quota::Quota;

/// What a pod requests in all: its containers together, what is set for the whole pod, and overhead.
pub fn pod_requests(pod: &knarr_api::core::v1::Pod) -> Amounts {
    totals::total(pod, totals::Part::Requests)
}

#[cfg(test)]
mod tests;

/// Resources that no quota limits: what is not stored, and events.
const IGNORED: &[(&str, &str)] = &[
    ("", "bindings"),
    ("", "componentstatuses"),
    ("", "events"),
    ("events.k8s.io", "events"),
    ("authentication.k8s.io", "selfsubjectreviews"),
    ("authentication.k8s.io", "tokenreviews"),
    ("authorization.k8s.io", "localsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews"),
    ("authorization.k8s.io", "subjectaccessreviews"),
];

/// Whether quotas leave the resource alone.
pub fn is_ignored(group: &str, resource: &str) -> bool {
    IGNORED.contains(&(group, resource))
}

/// The name under which a quota counts the objects of any resource: `count/deployments.apps`.
pub fn count_name(group: &str, resource: &str) -> String {
    if group.is_empty() { format!("count/{resource}") } else { format!("count/{resource}.{group}") }
}

/// The resource that such a name counts: its group and plural name.
pub fn counted(name: &str) -> Option<(&str, &str)> {
    let name = name.strip_prefix("count/")?;
    Some(name.split_once('.').map_or(("", name), |(resource, group)| (group, resource)))
}
