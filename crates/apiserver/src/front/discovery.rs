//! Discovery: what is served, as the legacy documents (`/api`, `/apis`, `/apis/<g>`, `/apis/<g>/<v>`) and
//! aggregated (KEP-3352, apidiscovery.k8s.io v2 and v2beta1). All of it derives from the declarations.

use super::metrics::namespaced;
use super::respond;
use crate::def::{ResourceDef, Subresource};
use base64::Engine;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Response, StatusCode};
use knarr_client::Body;
use knarr_meta::gvk::api_version;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::cmp::Reverse;
use std::sync::Arc;

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

/// The documents, made once from the declarations.
pub struct Discovery {
    groups: Vec<Group>,
    address: String,
    aggregated_core: Aggregated,
    aggregated_groups: Aggregated,
}

struct Group {
    name: String,
    /// Versions, the preferred first, with their resources.
    versions: Vec<(String, Vec<Arc<ResourceDef>>)>,
}

struct Aggregated {
    v2: (Vec<u8>, HeaderValue),
    v2beta1: (Vec<u8>, HeaderValue),
}

impl Discovery {
    /// The documents about `defs`; `address` is where clients reach this server.
    pub fn new(defs: &[Arc<ResourceDef>], address: String) -> Self {
        let mut groups: Vec<Group> = Vec::new();
        for def in defs {
            let index = groups.iter().position(|g| g.name == def.group).unwrap_or_else(|| {
                groups.push(Group { name: def.group.to_owned(), versions: Vec::new() });
                groups.len() - 1
            });
            for version in &def.versions {
                let versions = &mut groups[index].versions;
                match versions.iter_mut().find(|(name, _)| name == version.version) {
                    Some((_, list)) => list.push(def.clone()),
                    None => versions.push((version.version.to_owned(), vec![def.clone()])),
                }
            }
        }
        for group in &mut groups {
            group.versions.sort_by_key(|(name, _)| Reverse(version_priority(name)));
            for (_, list) in &mut group.versions {
                list.sort_by_key(|def| def.resource);
            }
        }
        groups.sort_by_key(|group| {
            let known = GROUP_PRIORITY.iter().find(|(name, _)| *name == group.name);
            (Reverse(known.map_or(1000, |(_, priority)| *priority)), group.name.clone())
        });
        let aggregate = |core: bool| {
            let items = groups.iter().filter(|g| g.name.is_empty() == core).map(aggregated_group).collect();
            Aggregated::new(items)
        };
        let (aggregated_core, aggregated_groups) = (aggregate(true), aggregate(false));
        Self { aggregated_core, aggregated_groups, groups, address }
    }

    /// The answer to a discovery path; `None` when there is nothing at that path.
    pub fn serve(&self, path: &str, headers: &HeaderMap) -> Option<Response<Body>> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match parts.as_slice() {
            ["api"] => Some(
                self.aggregated_core.serve(headers).unwrap_or_else(|| respond::json(&self.api_versions())),
            ),
            ["apis"] => Some(
                self.aggregated_groups.serve(headers).unwrap_or_else(|| respond::json(&self.group_list())),
            ),
            ["api", version] => self.resources("", version),
            ["apis", group] => self.group(group).map(|group| {
                let mut document = legacy_group(group);
                document["kind"] = json!("APIGroup");
                document["apiVersion"] = json!("v1");
                respond::json(&document)
            }),
            ["apis", group, version] => self.resources(group, version),
            _ => None,
        }
    }

    /// The paths of all documents, for the list at `/`.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = vec!["/api".to_owned(), "/apis".to_owned()];
        for group in &self.groups {
            if group.name.is_empty() {
                paths.extend(group.versions.iter().map(|(version, _)| format!("/api/{version}")));
            } else {
                paths.push(format!("/apis/{}", group.name));
                paths.extend(
                    group.versions.iter().map(|(version, _)| format!("/apis/{}/{version}", group.name)),
                );
            }
        }
        paths
    }

    fn group(&self, name: &str) -> Option<&Group> {
        self.groups.iter().find(|group| !name.is_empty() && group.name == name)
    }

    fn api_versions(&self) -> Value {
        let core = self.groups.iter().find(|group| group.name.is_empty());
        let versions: Vec<&str> =
            core.into_iter().flat_map(|group| &group.versions).map(|(version, _)| version.as_str()).collect();
        json!({
            "kind": "APIVersions",
            "versions": versions,
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": self.address}],
        })
    }

    fn group_list(&self) -> Value {
        let groups: Vec<Value> =
            self.groups.iter().filter(|g| !g.name.is_empty()).map(legacy_group).collect();
        json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
    }

    fn resources(&self, group: &str, version: &str) -> Option<Response<Body>> {
        let group = self.groups.iter().find(|g| g.name == group)?;
        let (_, defs) = group.versions.iter().find(|(name, _)| name == version)?;
        let group_version = api_version(&group.name, version).to_string();
        let mut resources = Vec::new();
        for def in defs {
            resources.push(legacy_resource(def));
            for subresource in sorted_subresources(def) {
                resources.push(legacy_subresource(def, subresource, &group.name, version));
            }
        }
        Some(respond::json(&json!({
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": group_version,
            "resources": resources,
        })))
    }
}

/// Orders versions as upstream does: stable before beta before alpha, then by number.
fn version_priority(name: &str) -> (u8, u32, u32) {
    let number = |text: &str| text.parse::<u32>().ok();
    let Some(rest) = name.strip_prefix('v') else { return (0, 0, 0) };
    for (stage, rank) in [("beta", 2), ("alpha", 1)] {
        if let Some((major, minor)) = rest.split_once(stage) {
            return (rank, number(major).unwrap_or(0), number(minor).unwrap_or(0));
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

fn legacy_group(group: &Group) -> Value {
    let version =
        |name: &str| json!({"groupVersion": api_version(&group.name, name).to_string(), "version": name});
    let versions: Vec<Value> = group.versions.iter().map(|(name, _)| version(name)).collect();
    json!({"name": group.name, "preferredVersion": versions.first(), "versions": versions})
}

fn legacy_resource(def: &ResourceDef) -> Value {
    let mut resource = json!({
        "name": def.resource,
        "singularName": def.singular,
        "namespaced": namespaced(def),
        "kind": def.kind,
        "verbs": sorted(def.verbs),
    });
    if !def.short.is_empty() {
        resource["shortNames"] = json!(def.short);
    }
    if !def.categories.is_empty() {
        resource["categories"] = json!(def.categories);
    }
    if def.create_only.is_none() && !def.storage_prefix.is_empty() {
        resource["storageVersionHash"] =
            json!(storage_version_hash(def.storage_group, def.storage_version, def.kind));
    }
    resource
}

/// Group, version and kind of a subresource's body where the parent is served as `version`.
pub(super) fn subresource_kind<'a>(
    def: &ResourceDef,
    sub: &'a Subresource,
    version: &'a str,
) -> (&'a str, &'a str, &'a str) {
    let (group, declared, kind) = sub.kind;
    // Subresources of the kind itself (status) follow the version they are served in.
    let follows = group == def.group && declared == def.storage_version;
    (group, if follows { version } else { declared }, kind)
}

fn legacy_subresource(def: &ResourceDef, sub: &Subresource, group: &str, version: &str) -> Value {
    let (sub_group, sub_version, kind) = subresource_kind(def, sub, version);
    let mut resource = json!({
        "name": format!("{}/{}", def.resource, sub.name),
        "singularName": "",
        "namespaced": namespaced(def),
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
        "scope": if namespaced(def) { "Namespaced" } else { "Cluster" },
        "singularResource": def.singular,
        "verbs": sorted(def.verbs),
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
            let (group, version, kind) = subresource_kind(def, sub, version);
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

impl Aggregated {
    fn new(items: Vec<Value>) -> Self {
        let document = |version: &str| {
            let document = json!({
                "kind": "APIGroupDiscoveryList",
                "apiVersion": format!("apidiscovery.k8s.io/{version}"),
                "metadata": {},
                "items": items,
            });
            let bytes = serde_json::to_vec(&document).expect("a JSON value always serializes");
            let etag = etag(&bytes);
            (bytes, etag)
        };
        Self { v2: document("v2"), v2beta1: document("v2beta1") }
    }

    /// The document if the client prefers the aggregated form; the first acceptable media range decides.
    fn serve(&self, headers: &HeaderMap) -> Option<Response<Body>> {
        for range in respond::ranges(headers) {
            let mut parameters = range.split(';').map(str::trim);
            let media_type = parameters.next().unwrap_or_default();
            if !matches!(media_type, "application/json" | "application/*" | "*/*") {
                continue;
            }
            let (mut group, mut version, mut kind) = ("", "", "");
            for parameter in parameters {
                match parameter.split_once('=') {
                    Some(("g", value)) => group = value,
                    Some(("v", value)) => version = value,
                    Some(("as", value)) => kind = value,
                    _ => {}
                }
            }
            match (group, version, kind) {
                ("apidiscovery.k8s.io", "v2", "APIGroupDiscoveryList") => {
                    return Some(answer(&self.v2, "v2", headers));
                }
                ("apidiscovery.k8s.io", "v2beta1", "APIGroupDiscoveryList") => {
                    return Some(answer(&self.v2beta1, "v2beta1", headers));
                }
                ("", "", "") => return None,
                _ => {}
            }
        }
        None
    }
}

fn answer((bytes, etag): &(Vec<u8>, HeaderValue), version: &str, headers: &HeaderMap) -> Response<Body> {
    let content_type = format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
    let mut response = with_etag(headers, etag, || respond::bytes(&content_type, bytes.clone()));
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

/// A strong ETag over the bytes.
pub fn etag(bytes: &[u8]) -> HeaderValue {
    let hash: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02X}")).collect();
    HeaderValue::from_str(&format!("\"{hash}\"")).expect("hex digits are valid in a header")
}

/// 304 when the client has this version already, else the whole.
pub fn with_etag(
    headers: &HeaderMap,
    etag: &HeaderValue,
    whole: impl FnOnce() -> Response<Body>,
) -> Response<Body> {
    let bare = etag.to_str().unwrap_or_default();
    let known = headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','));
    let mut response = if known.map(str::trim).any(|tag| tag == "*" || tag.trim_start_matches("W/") == bare) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        whole()
    };
    response.headers_mut().insert(header::ETAG, etag.clone());
    response
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
        let mut names = ["v1alpha1", "v1", "v2", "v1beta2", "v2beta1", "v1beta1", "odd"];
        names.sort_by_key(|name| Reverse(version_priority(name)));
        assert_eq!(names, ["v2", "v1", "v2beta1", "v1beta2", "v1beta1", "v1alpha1", "odd"]);
    }

    #[test]
    fn a_client_that_has_the_document_gets_304() {
        let tag = etag(b"x");
        let mut headers = HeaderMap::new();
        assert_eq!(with_etag(&headers, &tag, || Response::new(Body::empty())).status(), 200);
        headers.insert(header::IF_NONE_MATCH, tag.clone());
        let response = with_etag(&headers, &tag, || unreachable!("the client has it"));
        assert_eq!((response.status().as_u16(), &response.headers()[header::ETAG]), (304, &tag));
    }
}
