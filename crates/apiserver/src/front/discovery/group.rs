//! One API group: its versions in upstream's order, and the documents about it.

use super::respond;
use crate::def::{Name, ResourceDef, Subresource};
use base64::Engine;
use http::Response;
use knarr_client::Body;
use knarr_meta::gvk::api_version;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::cmp::Reverse;
use std::sync::{Arc, OnceLock};

/// Upstream's priorities of the groups: the order of `/apis`.
const GROUP_PRIORITY: [(&str, u32); 22] = [
    ("", 18000),
    ("apiregistration.k8s.io", 18000),
    ("apps", 17800),
    ("events.k8s.io", 17750),
    ("authentication.k8s.io", 17700),
    ("authorization.k8s.io", 17600),
    ("autoscaling", 17500),
    ("batch", 17400),
    ("certificates.k8s.io", 17300),
    ("networking.k8s.io", 17200),
    ("policy", 17100),
    ("rbac.authorization.k8s.io", 17000),
    ("storage.k8s.io", 16800),
    ("apiextensions.k8s.io", 16700),
    ("admissionregistration.k8s.io", 16700),
    ("scheduling.k8s.io", 16600),
    ("coordination.k8s.io", 16500),
    ("node.k8s.io", 16300),
    ("discovery.k8s.io", 16200),
    ("flowcontrol.apiserver.k8s.io", 16100),
    ("internal.apiserver.k8s.io", 16000),
    ("resource.k8s.io", 15900),
];

/// See the module's documentation.
pub struct Group {
    /// The name, empty for core.
    pub name: Name,
    /// Versions, the preferred first, with their resources.
    pub versions: Vec<(Name, Vec<Arc<ResourceDef>>)>,
    /// The entry in the aggregated document.
    aggregated: OnceLock<Vec<u8>>,
}

impl Group {
    /// The groups of `defs` in the order of `/apis`. Those that are as they were among `known` are kept.
    pub fn all(defs: &[Arc<ResourceDef>], known: &[Arc<Group>]) -> Vec<Arc<Group>> {
        let mut groups: Vec<Group> = Vec::new();
        for def in defs {
            let index = groups.iter().position(|g| g.name == def.group).unwrap_or_else(|| {
                let (versions, aggregated) = (Vec::new(), OnceLock::new());
                groups.push(Group { name: def.group.clone(), versions, aggregated });
                groups.len() - 1
            });
            for version in &def.versions {
                let versions = &mut groups[index].versions;
                match versions.iter_mut().find(|(name, _)| *name == version.version) {
                    Some((_, list)) => list.push(def.clone()),
                    None => versions.push((version.version.clone(), vec![def.clone()])),
                }
            }
        }
        for group in &mut groups {
            group.versions.sort_by_cached_key(|(name, _)| version_order(name));
            for (_, list) in &mut group.versions {
                list.sort_by(|a, b| a.resource.cmp(&b.resource));
            }
        }
        groups.sort_by_cached_key(|group| {
            let known = GROUP_PRIORITY.iter().find(|(name, _)| group.name == *name);
            (Reverse(known.map_or(1000, |(_, priority)| *priority)), group.name.clone())
        });
        let kept = |group: Group| match known.iter().find(|old| old.is_same(&group)) {
            Some(old) => old.clone(),
            None => Arc::new(group),
        };
        groups.into_iter().map(kept).collect()
    }

    fn is_same(&self, other: &Self) -> bool {
        self.name == other.name
            && self.versions.len() == other.versions.len()
            && self.versions.iter().zip(&other.versions).all(|((a, ours), (b, theirs))| {
                a == b
                    && ours.len() == theirs.len()
                    && ours.iter().zip(theirs).all(|(a, b)| Arc::ptr_eq(a, b))
            })
    }

    /// The `APIGroup`, without its type.
    pub fn legacy(&self) -> Value {
        let version = |name: &str| json!({"groupVersion": api_version(&self.name, name), "version": name});
        let versions: Vec<Value> = self.versions.iter().map(|(name, _)| version(name)).collect();
        json!({"name": self.name, "preferredVersion": versions.first(), "versions": versions})
    }

    /// The `APIResourceList` of a version.
    pub fn resources(&self, version: &str) -> Option<Response<Body>> {
        let (_, defs) = self.versions.iter().find(|(name, _)| name == version)?;
        let mut resources = Vec::new();
        for def in defs {
            resources.push(legacy_resource(def));
            for subresource in sorted_subresources(def) {
                resources.push(legacy_subresource(def, subresource, &self.name, version));
            }
        }
        Some(respond::json(&json!({
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": api_version(&self.name, version),
            "resources": resources,
        })))
    }

    /// The entry in the aggregated document.
    pub fn aggregated(&self) -> &[u8] {
        self.aggregated.get_or_init(|| {
            serde_json::to_vec(&aggregated_group(self)).expect("a JSON value always serializes")
        })
    }
}

/// Orders versions as upstream does: stable before beta before alpha, each by number, the newest first; then names
/// of another form, by the alphabet.
type VersionOrder = (Reverse<(u8, u32, u32)>, Name);

fn version_order(name: &Name) -> VersionOrder {
    let rank = version_rank(name);
    (Reverse(rank), if rank.0 == 0 { name.clone() } else { Name::default() })
}

fn version_rank(name: &str) -> (u8, u32, u32) {
    let number = |text: &str| text.parse::<u32>().ok().filter(|_| !text.starts_with('+'));
    let Some(rest) = name.strip_prefix('v') else { return (0, 0, 0) };
    for (stage, rank) in [("beta", 2), ("alpha", 1)] {
        if let Some((major, minor)) = rest.split_once(stage) {
            return number(major).zip(number(minor)).map_or((0, 0, 0), |(major, minor)| (rank, major, minor));
        }
    }
    number(rest).map_or((0, 0, 0), |major| (3, major, 0))
}

/// The hash clients tell changed storage versions by.
pub fn storage_version_hash(group: &str, version: &str, kind: &str) -> String {
    let hash = Sha256::digest(format!("{group}/{version}/{kind}"));
    base64::engine::general_purpose::STANDARD.encode(&hash[..8])
}

fn sorted<'a>(list: &[&'a str]) -> Vec<&'a str> {
    let mut list = list.to_vec();
    list.sort_unstable();
    list
}

fn sorted_subresources(def: &ResourceDef) -> Vec<&Subresource> {
    let mut list: Vec<&Subresource> = def.subresources.iter().collect();
    list.sort_by_key(|subresource| subresource.name);
    list
}

fn legacy_resource(def: &ResourceDef) -> Value {
    let mut resource = json!({
        "name": def.resource,
        "singularName": def.singular,
        "namespaced": def.namespaced(),
        "kind": def.kind,
        "verbs": def.discovery_verbs.unwrap_or(def.verbs),
    });
    if !def.short.is_empty() {
        resource["shortNames"] = json!(def.short);
    }
    if !def.categories.is_empty() {
        resource["categories"] = json!(def.categories);
    }
    if def.create_only.is_none() && !def.storage_prefix.is_empty() {
        resource["storageVersionHash"] = json!(storage_version_hash(
            &def.storage_group,
            def.codec.as_ref().map_or(&def.storage_version, |codec| codec.stored_version()),
            &def.kind
        ));
    }
    resource
}

fn legacy_subresource(def: &ResourceDef, sub: &Subresource, group: &str, version: &str) -> Value {
    let (sub_group, sub_version, kind) = sub.kind_in(def, version);
    let mut resource = json!({
        "name": format!("{}/{}", def.resource, sub.name),
        "singularName": "",
        "namespaced": def.namespaced(),
        "kind": kind,
        "verbs": sorted(sub.verbs),
    });
    if (sub_group, sub_version) != (group, version) {
        resource["group"] = json!(sub_group);
        resource["version"] = json!(sub_version);
    }
    resource
}

fn aggregated_group(group: &Group) -> Value {
    let versions: Vec<Value> = group
        .versions
        .iter()
        .map(|(version, defs)| {
            let resources: Vec<Value> =
                defs.iter().map(|def| aggregated_resource(def, &group.name, version)).collect();
            json!({"version": version, "resources": resources, "freshness": "Current"})
        })
        .collect();
    let mut metadata = json!({"creationTimestamp": null});
    if !group.name.is_empty() {
        metadata["name"] = json!(group.name);
    }
    json!({"metadata": metadata, "versions": versions})
}

fn aggregated_resource(def: &ResourceDef, group: &str, version: &str) -> Value {
    let mut resource = json!({
        "resource": def.resource,
        "responseKind": {"group": group, "version": version, "kind": def.kind},
        "scope": if def.namespaced() { "Namespaced" } else { "Cluster" },
        "singularResource": def.singular,
        "verbs": def.discovery_verbs.unwrap_or(def.verbs),
    });
    if !def.short.is_empty() {
        resource["shortNames"] = json!(def.short);
    }
    if !def.categories.is_empty() {
        resource["categories"] = json!(def.categories);
    }
    let subresources: Vec<Value> = sorted_subresources(def)
        .into_iter()
        .map(|sub| {
            let (group, version, kind) = sub.kind_in(def, version);
            json!({
                "subresource": sub.name,
                "responseKind": {"group": group, "version": version, "kind": kind},
                "verbs": sorted(sub.verbs),
            })
        })
        .collect();
    if !subresources.is_empty() {
        resource["subresources"] = Value::Array(subresources);
    }
    resource
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn storage_version_hashes_are_upstreams() {
        for (group, version, kind, hash) in [
            ("", "v1", "Pod", "xPOwRZ+Yhw8="),
            ("", "v1", "ConfigMap", "qFsyl6wFWjQ="),
            ("apps", "v1", "Deployment", "8aSe+NMegvE="),
        ] {
            assert_eq!(storage_version_hash(group, version, kind), hash, "{kind}");
        }
    }

    #[test]
    fn stable_versions_come_before_beta_before_alpha() {
        let mut names = [
            "foo1", "v1alpha1", "v11beta2", "v1", "v10", "v1beta2", "v2beta1", "foo10", "v1beta1", "v2",
            "v012",
        ]
        .map(Name::from);
        names.sort_by_cached_key(version_order);
        let sorted = [
            "v012", "v10", "v2", "v1", "v11beta2", "v2beta1", "v1beta2", "v1beta1", "v1alpha1", "foo1",
            "foo10",
        ];
        assert_eq!(names, sorted);
    }
}
