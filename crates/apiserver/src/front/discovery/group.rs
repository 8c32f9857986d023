//! One API group: its versions in upstream's order, and the documents about it.

use super::super::aggregate::service::version_order;
use super::respond;
use crate::def::{Name, ResourceDef, Subresource};
use base64::Engine;
use http::Response;
use knarr_client::Body;
use knarr_meta::gvk::api_version;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::sync::{Arc, OnceLock};

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
    /// The groups of `defs`. Those that are as they were among `known` are kept.
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
            group.versions.sort_by_cached_key(|(name, _)| version_order(name.as_str()));
            for (_, list) in &mut group.versions {
                list.sort_by(|a, b| a.resource.cmp(&b.resource));
            }
        }
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
            let versions = self.versions.iter().filter_map(|(version, _)| self.aggregated_version(version));
            let entry = entry(&self.name, versions.collect());
            serde_json::to_vec(&entry).expect("a JSON value always serializes")
        })
    }

    /// What the aggregated document says of one version.
    pub fn aggregated_version(&self, version: &str) -> Option<Value> {
        let (_, defs) = self.versions.iter().find(|(name, _)| name == version)?;
        let resources: Vec<Value> =
            defs.iter().map(|def| aggregated_resource(def, &self.name, version)).collect();
        Some(json!({"version": version, "resources": resources, "freshness": "Current"}))
    }
}

/// A group's entry in the aggregated document.
pub fn entry(group: &str, versions: Vec<Value>) -> Value {
    let mut metadata = json!({"creationTimestamp": null});
    if !group.is_empty() {
        metadata["name"] = json!(group);
    }
    json!({"metadata": metadata, "versions": versions})
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
}
