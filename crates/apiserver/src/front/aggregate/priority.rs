//! The priorities of group versions that this server answers itself, as upstream gives them to their API services.

use crate::front::resource_metrics;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// Where a group version stands among others; higher comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Priority {
    /// Of the group.
    pub group: i32,
    /// Of the version in its group.
    pub version: i32,
}

/// Of custom resources' group versions.
pub const CUSTOM: Priority = Priority { group: 1000, version: 100 };
/// Of the resource metrics API, as metrics-server's manifest has it.
pub const RESOURCE_METRICS: Priority = Priority { group: 100, version: 100 };
/// Of the group that the API services themselves are in: nothing comes before it.
pub const REGISTRATION: Priority = Priority { group: 20_001, version: 0 };
/// The group of API services.
pub const REGISTRATION_GROUP: &str = "apiregistration.k8s.io";

/// Out of the facts about a new cluster's objects: constants, read once.
static BUILT_IN: LazyLock<BTreeMap<(String, String), Priority>> = LazyLock::new(|| {
    let services = knarr_api::facts::initial_objects().into_iter().filter(|o| o["kind"] == "APIService");
    let number = |value: &Value| value.as_i64().and_then(|n| i32::try_from(n).ok()).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    services
        .map(|object| {
            let spec = &object["spec"];
            let priority = Priority {
                group: number(&spec["groupPriorityMinimum"]),
                version: number(&spec["versionPriority"]),
            };
            ((text(&spec["group"]), text(&spec["version"])), priority)
        })
        .collect()
});

/// The priority of a built-in group version, if upstream knows it.
pub fn built_in(group: &str, version: &str) -> Option<Priority> {
    BUILT_IN.get(&(group.to_owned(), version.to_owned())).copied()
}

/// The priority of any group version served here.
pub fn local(group: &str, version: &str) -> Priority {
    if group == REGISTRATION_GROUP {
        return REGISTRATION;
    }
    if group == resource_metrics::GROUP {
        return RESOURCE_METRICS;
    }
    built_in(group, version).unwrap_or(CUSTOM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_group_versions_have_upstreams_priorities() {
        for (group, version, priority) in [
            ("", "v1", Some((18000, 1))),
            ("apps", "v1", Some((17800, 15))),
            ("autoscaling", "v2", Some((17500, 30))),
            ("resource.k8s.io", "v1", Some((16200, 21))),
            ("apiregistration.k8s.io", "v1", None),
            ("example.com", "v1", None),
        ] {
            let found = built_in(group, version).map(|p| (p.group, p.version));
            assert_eq!(found, priority, "{group}/{version}");
        }
    }
}
