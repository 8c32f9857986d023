//! API services as the aggregator works on them: which group version, how important, and whether this server answers
//! itself or a service does. And the order of groups and versions that follows from their priorities.

use super::transport::Backend;
use knarr_api::apiregistration::v1::APIService;
use std::cmp::Reverse;
use std::sync::Arc;

/// The port of a service where an API service names none.
const DEFAULT_PORT: u16 = 443;

/// One API service.
#[derive(Clone)]
pub struct Service {
    /// `<version>.<group>`.
    pub name: String,
    /// The group, empty for core.
    pub group: String,
    /// The version.
    pub version: String,
    /// spec.groupPriorityMinimum.
    pub group_priority: i32,
    /// spec.versionPriority.
    pub version_priority: i32,
    /// Who answers, `None` for this server.
    pub remote: Option<Remote>,
}

/// An API service that is answered elsewhere.
#[derive(Clone)]
pub struct Remote {
    /// Where and how it is reached; the reason why that cannot be said is for clients.
    pub backend: Result<Arc<Backend>, String>,
    /// What the backend was made of.
    pub place: Place,
    /// Whether its condition Available is True.
    pub available: bool,
}

/// Where an API service is answered and whom to trust there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The service's namespace.
    pub namespace: String,
    /// The service.
    pub service: String,
    /// Its port.
    pub port: u16,
    /// PEM of who may sign its certificate; empty for the machine's roots.
    pub ca_bundle: Vec<u8>,
    /// Any certificate will do.
    pub insecure: bool,
}

impl Place {
    /// Out of an API service; `None` when this server answers itself.
    pub fn of(object: &APIService) -> Option<Self> {
        let spec = object.spec.as_ref()?;
        let service = spec.service.as_ref()?;
        let port = service.port.and_then(|port| u16::try_from(port).ok()).unwrap_or(DEFAULT_PORT);
        Some(Self {
            namespace: service.namespace.clone().unwrap_or_default(),
            service: service.name.clone().unwrap_or_default(),
            port,
            ca_bundle: spec.ca_bundle.as_ref().map(|bundle| bundle.0.clone()).unwrap_or_default(),
            insecure: spec.insecure_skip_tls_verify.unwrap_or_default(),
        })
    }

    /// The name that its certificate must carry.
    pub fn server_name(&self) -> String {
        format!("{}.{}.svc", self.service, self.namespace)
    }
}

/// Whether the condition Available is there and True.
pub fn is_available(object: &APIService) -> bool {
    let conditions = object.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == "Available" && c.status == "True")
}

impl Service {
    /// Reads an API service; `backend` makes what reaches its place.
    pub fn read(object: &APIService, backend: impl FnOnce(&Place) -> Result<Arc<Backend>, String>) -> Self {
        let spec = object.spec.clone().unwrap_or_default();
        let remote = Place::of(object).map(|place| Remote {
            backend: backend(&place),
            place,
            available: is_available(object),
        });
        Self {
            name: object.metadata.name.clone().unwrap_or_default(),
            group: spec.group.unwrap_or_default(),
            version: spec.version.unwrap_or_default(),
            group_priority: spec.group_priority_minimum,
            version_priority: spec.version_priority,
            remote,
        }
    }

    /// The path of its discovery document.
    pub fn discovery_path(&self) -> String {
        if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        }
    }
}

/// A group version with its priorities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranked {
    /// The group.
    pub group: String,
    /// The version.
    pub version: String,
    /// Higher comes first.
    pub group_priority: i32,
    /// Higher comes first.
    pub version_priority: i32,
}

/// The groups, each with its versions, in the order of `/apis` (upstream's SortedByGroupAndVersion): a group has its
/// place by the highest priority that any of its versions gives it.
pub fn arrange(mut all: Vec<Ranked>) -> Vec<(String, Vec<String>)> {
    all.sort_by_cached_key(|r| (Reverse(r.group_priority), format!("{}.{}", r.version, r.group)));
    let mut groups: Vec<(String, Vec<Ranked>)> = Vec::new();
    for ranked in all {
        match groups.iter_mut().find(|(group, _)| *group == ranked.group) {
            Some((_, versions)) => versions.push(ranked),
            None => groups.push((ranked.group.clone(), vec![ranked])),
        }
    }
    let sorted = |mut versions: Vec<Ranked>| {
        versions.sort_by_cached_key(|r| (Reverse(r.version_priority), version_order(&r.version)));
        versions.into_iter().map(|r| r.version).collect()
    };
    groups.into_iter().map(|(group, versions)| (group, sorted(versions))).collect()
}

/// Orders versions: stable before beta before alpha, each by its numbers from the newest on, then all others by the
/// alphabet (apimachinery's CompareKubeAwareVersionStrings, reversed).
pub fn version_order(version: &str) -> (Reverse<(u8, u64, u64)>, String) {
    let numbers =
        |text: &str| -> Option<u64> { (!text.starts_with('+')).then(|| text.parse().ok()).flatten() };
    let rank = version.strip_prefix('v').and_then(|rest| {
        for (stage, rank) in [("beta", 2), ("alpha", 1)] {
            if let Some((major, minor)) = rest.split_once(stage) {
                return Some((rank, numbers(major)?, numbers(minor)?));
            }
        }
        Some((3, numbers(rest)?, 0))
    });
    match rank {
        Some(rank) => (Reverse(rank), String::new()),
        None => (Reverse((0, 0, 0)), version.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_and_versions_are_ordered_by_priority() {
        let ranked = |group: &str, version: &str, group_priority, version_priority| Ranked {
            group: group.into(),
            version: version.into(),
            group_priority,
            version_priority,
        };
        let arranged = arrange(vec![
            ranked("b", "v1", 100, 10),
            ranked("a", "v1", 100, 10),
            ranked("c", "v1alpha1", 50, 10),
            // One version's priority lifts the whole group.
            ranked("c", "v1", 200, 5),
            ranked("a", "v1beta1", 100, 10),
            ranked("a", "v2", 100, 10),
        ]);
        let expected: Vec<(String, Vec<String>)> =
            [("c", vec!["v1alpha1", "v1"]), ("a", vec!["v2", "v1", "v1beta1"]), ("b", vec!["v1"])]
                .into_iter()
                .map(|(group, versions)| {
                    (group.to_owned(), versions.into_iter().map(str::to_owned).collect())
                })
                .collect();
        assert_eq!(arranged, expected);
    }

    #[test]
    fn odd_versions_come_last() {
        let mut names = ["v1alpha1", "foo", "v2", "v10", "v1beta1", "bar", "v11beta2"];
        names.sort_by_cached_key(|name| version_order(name));
        assert_eq!(names, ["v10", "v2", "v11beta2", "v1beta1", "v1alpha1", "bar", "foo"]);
    }
}
