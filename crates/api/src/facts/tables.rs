//! What an upstream 1.36 server serves by default: its resources, their table columns, the keys they are
//! stored under, and the objects of an empty cluster.

use serde_json::Value;
use std::sync::LazyLock;

/// A resource or subresource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceFact {
    /// API group, empty for core.
    pub group: &'static str,
    /// API version.
    pub version: &'static str,
    /// The resource, or `resource/subresource`.
    pub resource: &'static str,
    /// The group of the kind, which for a subresource may be another (`autoscaling` for scale).
    pub kind_group: &'static str,
    /// The version of the kind.
    pub kind_version: &'static str,
    /// The kind that is sent and received.
    pub kind: &'static str,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// The singular name, empty for subresources.
    pub singular: &'static str,
    /// Short names.
    pub short: Vec<&'static str>,
    /// Categories such as `all`.
    pub categories: Vec<&'static str>,
    /// Verbs, in alphabetical order.
    pub verbs: Vec<&'static str>,
}

/// A column of a resource's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnFact {
    /// API group, empty for core.
    pub group: &'static str,
    /// API version.
    pub version: &'static str,
    /// The resource.
    pub resource: &'static str,
    /// Heading.
    pub name: &'static str,
    /// JSON type of the cells.
    pub ty: &'static str,
    /// Format; `name` marks the object's name.
    pub format: &'static str,
    /// 0 is always shown, more with `-o wide`.
    pub priority: i32,
}

/// Where upstream stores a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageKey {
    /// API group, empty for core.
    pub group: &'static str,
    /// The version that is read.
    pub version: &'static str,
    /// The resource.
    pub resource: &'static str,
    /// The key of all its objects: `/registry/services/specs`.
    pub prefix: &'static str,
    /// Whether the namespace follows the prefix.
    pub namespaced: bool,
    /// `group/version/Kind` that is stored where it is not this version.
    pub stored_as: Option<&'static str>,
}

static RESOURCES: LazyLock<Vec<ResourceFact>> = LazyLock::new(|| {
    rows(include_str!("../../facts/resources.tsv"), |c| {
        let (kind_group, kind) = c[3].rsplit_once('/').unwrap_or((c[0], c[3]));
        ResourceFact {
            group: group(c[0]),
            version: c[1],
            resource: c[2],
            kind_group: group(kind_group),
            // A subresource of another group (Scale, Eviction, TokenRequest) is a v1 kind.
            kind_version: if kind_group == c[0] { c[1] } else { "v1" },
            kind,
            namespaced: c[4] == "Namespaced",
            singular: c[5],
            short: words(c[6]),
            categories: words(c[7]),
            verbs: words(c[8]),
        }
    })
});

static COLUMNS: LazyLock<Vec<ColumnFact>> = LazyLock::new(|| {
    rows(include_str!("../../facts/columns.tsv"), |c| ColumnFact {
        group: group(c[0]),
        version: c[1],
        resource: c[2],
        name: c[3],
        ty: c[4],
        format: c[5],
        priority: c[6].parse().expect("a column's priority is a number"),
    })
});

static STORAGE_KEYS: LazyLock<Vec<StorageKey>> = LazyLock::new(|| {
    rows(include_str!("../../facts/storage-keys.tsv"), |c| {
        let key = c[3].strip_suffix("/<name>").expect("a storage key ends with the name");
        let prefix = key.strip_suffix("/<namespace>");
        StorageKey {
            group: group(c[0]),
            version: c[1],
            resource: c[2],
            prefix: prefix.unwrap_or(key),
            namespaced: prefix.is_some(),
            stored_as: Some(c[4]).filter(|s| !s.is_empty()),
        }
    })
});

/// Every resource and subresource that upstream serves by default.
pub fn resources() -> &'static [ResourceFact] {
    &RESOURCES
}

/// The columns of a resource's table, in order; empty where upstream prints name and age only.
pub fn columns(group: &str, version: &str, resource: &str) -> &'static [ColumnFact] {
    let of = |c: &ColumnFact| c.group == group && c.version == version && c.resource == resource;
    let start = COLUMNS.iter().position(of).unwrap_or(COLUMNS.len());
    let len = COLUMNS[start..].iter().take_while(|c| of(c)).count();
    &COLUMNS[start..start + len]
}

/// Where upstream stores a resource that is served in this version, and as what.
pub fn storage_key(group: &str, version: &str, resource: &str) -> Option<&'static StorageKey> {
    STORAGE_KEYS.iter().find(|k| k.group == group && k.version == version && k.resource == resource)
}

/// What exists in an empty cluster after start. Parsed anew at each call, so that nothing stays in memory.
pub fn initial_objects() -> Vec<Value> {
    serde_json::from_str(include_str!("../../facts/initial-objects.json")).expect("the facts are valid JSON")
}

/// The lines of a table below its heading, each padded to ten columns.
fn rows<T>(table: &'static str, row: impl Fn([&'static str; 10]) -> T) -> Vec<T> {
    let lines = table.lines().skip(1);
    lines
        .map(|line| {
            let mut columns = [""; 10];
            for (slot, column) in columns.iter_mut().zip(line.split('\t')) {
                *slot = column;
            }
            row(columns)
        })
        .collect()
}

fn group(name: &'static str) -> &'static str {
    if name == "core" { "" } else { name }
}

fn words(list: &'static str) -> Vec<&'static str> {
    list.split(',').filter(|word| !word.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_carry_names_and_the_kinds_of_their_subresources() {
        let of = |name| resources().iter().find(|r| r.group == "apps" && r.resource == name).unwrap();
        let deployments = of("deployments");
        assert_eq!(
            (deployments.kind, deployments.singular, deployments.namespaced),
            ("Deployment", "deployment", true)
        );
        assert_eq!((&deployments.short[..], &deployments.categories[..]), (&["deploy"][..], &["all"][..]));
        let scale = of("deployments/scale");
        assert_eq!((scale.kind_group, scale.kind_version, scale.kind), ("autoscaling", "v1", "Scale"));
        assert_eq!(scale.verbs, ["get", "patch", "update"]);
    }

    #[test]
    fn columns_are_those_of_one_resource_in_order() {
        let names: Vec<_> = columns("", "v1", "configmaps").iter().map(|c| c.name).collect();
        assert_eq!(names, ["Name", "Data", "Age"]);
        assert_eq!(columns("apps", "v1", "deployments").last().unwrap().priority, 1);
        assert!(columns("", "v1", "nothing").is_empty());
    }

    #[test]
    fn storage_keys_know_upstreams_historic_names() {
        assert_eq!(storage_key("", "v1", "nodes").unwrap().prefix, "/registry/minions");
        let services = storage_key("", "v1", "services").unwrap();
        assert_eq!((services.prefix, services.namespaced), ("/registry/services/specs", true));
    }

    #[test]
    fn initial_objects_are_whole() {
        let all = initial_objects();
        assert!(all.iter().any(|o| o["kind"] == "ClusterRole" && o["metadata"]["name"] == "cluster-admin"));
        assert!(all.iter().all(|o| o["apiVersion"].is_string() && o["metadata"]["name"].is_string()));
    }
}
