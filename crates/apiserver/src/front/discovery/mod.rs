//! Discovery: what is served, as the legacy documents (`/api`, `/apis`, `/apis/<g>`, `/apis/<g>/<v>`) and
//! aggregated (KEP-3352, apidiscovery.k8s.io v2 and v2beta1). All of it derives from the declarations that are
//! served at the moment; what has not changed since the last request is kept, group by group.

mod etag;
mod group;

pub use etag::{etag, with_etag};
pub use group::storage_version_hash;

use super::respond;
use crate::registry::Registry;
use arc_swap::ArcSwap;
use group::Group;
use http::Response;
use http::header::{self, HeaderMap, HeaderValue};
use knarr_client::Body;
use serde_json::{Value, json};
use std::sync::{Arc, OnceLock};

/// The documents about what a registry serves.
pub struct Discovery {
    registry: Arc<Registry>,
    address: String,
    snapshot: ArcSwap<Snapshot>,
}

/// The documents as of one generation of the registry.
#[derive(Default)]
struct Snapshot {
    generation: u64,
    groups: Vec<Arc<Group>>,
    core: OnceLock<Aggregated>,
    others: OnceLock<Aggregated>,
}

struct Aggregated {
    v2: (Vec<u8>, HeaderValue),
    v2beta1: (Vec<u8>, HeaderValue),
}

impl Discovery {
    /// The documents about what `registry` serves; `address` is where clients reach this server.
    pub fn new(registry: Arc<Registry>, address: String) -> Self {
        Self { registry, address, snapshot: ArcSwap::default() }
    }

    fn current(&self) -> Arc<Snapshot> {
        let known = self.snapshot.load_full();
        if known.generation == self.registry.generation() {
            return known;
        }
        let (generation, defs) = self.registry.snapshot();
        let groups = Group::all(&defs, &known.groups);
        let current = Arc::new(Snapshot { generation, groups, ..Snapshot::default() });
        self.snapshot.store(current.clone());
        current
    }

    /// The answer to a discovery path; `None` when there is nothing at that path.
    pub fn serve(&self, path: &str, headers: &HeaderMap) -> Option<Response<Body>> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let now = self.current();
        match parts.as_slice() {
            ["api"] => Some(
                now.aggregated(true)
                    .serve(headers)
                    .unwrap_or_else(|| respond::json(&now.api_versions(&self.address))),
            ),
            ["apis"] => {
                Some(now.aggregated(false).serve(headers).unwrap_or_else(|| respond::json(&now.group_list())))
            }
            ["api", version] => now.group("")?.resources(version),
            ["apis", group] if !group.is_empty() => now.group(group).map(|group| {
                let mut document = group.legacy();
                document["kind"] = json!("APIGroup");
                document["apiVersion"] = json!("v1");
                respond::json(&document)
            }),
            ["apis", group, version] if !group.is_empty() => now.group(group)?.resources(version),
            _ => None,
        }
    }

    /// The paths of all documents, for the list at `/`.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = vec!["/api".to_owned(), "/apis".to_owned()];
        for group in &self.current().groups {
            let root =
                if group.name.is_empty() { "/api".to_owned() } else { format!("/apis/{}", group.name) };
            paths.extend(group.versions.iter().map(|(version, _)| format!("{root}/{version}")));
            if !group.name.is_empty() {
                paths.push(root);
            }
        }
        paths
    }
}

impl Snapshot {
    fn group(&self, name: &str) -> Option<&Arc<Group>> {
        self.groups.iter().find(|group| group.name == name)
    }

    fn api_versions(&self, address: &str) -> Value {
        let core = self.group("");
        let versions: Vec<&str> =
            core.into_iter().flat_map(|group| &group.versions).map(|(version, _)| &**version).collect();
        json!({
            "kind": "APIVersions",
            "versions": versions,
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
        })
    }

    fn group_list(&self) -> Value {
        let groups: Vec<Value> =
            self.groups.iter().filter(|g| !g.name.is_empty()).map(|g| g.legacy()).collect();
        json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
    }

    fn aggregated(&self, core: bool) -> &Aggregated {
        let document = if core { &self.core } else { &self.others };
        document.get_or_init(|| {
            let groups = self.groups.iter().filter(|group| group.name.is_empty() == core);
            Aggregated::new(&groups.map(|group| group.aggregated()).collect::<Vec<_>>())
        })
    }
}

impl Aggregated {
    fn new(items: &[&[u8]]) -> Self {
        let items = items.join(&b","[..]);
        let document = |version: &str| {
            let head = format!(
                "{{\"kind\":\"APIGroupDiscoveryList\",\"apiVersion\":\"apidiscovery.k8s.io/{version}\",\"metadata\":{{}},\"items\":["
            );
            let bytes = [head.as_bytes(), &items, b"]}"].concat();
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
