//! Discovery: what is served, as the legacy documents (`/api`, `/apis`, `/apis/<g>`, `/apis/<g>/<v>`) and
//! aggregated (KEP-3352, apidiscovery.k8s.io v2 and v2beta1). All of it derives from the declarations that are
//! served at the moment and from the API services that others answer; what has not changed since the last request is
//! kept, group by group.

mod etag;
mod group;

pub use etag::{etag, with_etag};
pub use group::storage_version_hash;

use super::aggregate::{Aggregator, Ranked, Table, arrange, priority};
use super::respond;
use crate::registry::Registry;
use arc_swap::ArcSwap;
use group::Group;
use http::Response;
use http::header::{self, HeaderMap, HeaderValue};
use knarr_client::Body;
use knarr_meta::gvk::api_version;
use serde_json::{Value, json};
use std::sync::{Arc, OnceLock};

/// The documents about what a registry serves.
pub struct Discovery {
    registry: Arc<Registry>,
    aggregator: Arc<Aggregator>,
    address: String,
    snapshot: ArcSwap<Snapshot>,
}

/// The documents as of one generation of the registry and of the API services.
#[derive(Default)]
struct Snapshot {
    generation: (u64, u64),
    /// What this server answers itself.
    groups: Vec<Arc<Group>>,
    /// All groups in the order of `/apis`.
    shown: Vec<Shown>,
    core: OnceLock<Aggregated>,
    others: OnceLock<Aggregated>,
}

/// A group as clients see it.
struct Shown {
    name: String,
    /// The preferred first.
    versions: Vec<String>,
    /// Its entry in the aggregated document.
    entry: Entry,
}

/// Who tells of a group.
enum Entry {
    /// This server alone.
    Local(Arc<Group>),
    /// Others too; made already.
    Merged(Vec<u8>),
}

struct Aggregated {
    v2: (Vec<u8>, HeaderValue),
    v2beta1: (Vec<u8>, HeaderValue),
}

impl Discovery {
    /// The documents about what `registry` serves and what `aggregator` passes on; `address` is where clients reach
    /// this server.
    pub fn new(registry: Arc<Registry>, aggregator: Arc<Aggregator>, address: String) -> Self {
        Self { registry, aggregator, address, snapshot: ArcSwap::default() }
    }

    fn current(&self) -> Arc<Snapshot> {
        let known = self.snapshot.load_full();
        let table = self.aggregator.table();
        if known.generation == (self.registry.generation(), table.generation) {
            return known;
        }
        let (generation, defs) = self.registry.snapshot();
        let groups = Group::all(&defs, &known.groups);
        let shown = shown(&groups, &table);
        let generation = (generation, table.generation);
        let current = Arc::new(Snapshot { generation, groups, shown, ..Snapshot::default() });
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
            ["apis", group] if !group.is_empty() => now.shown(group).map(|group| {
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
        for group in &self.current().shown {
            let root =
                if group.name.is_empty() { "/api".to_owned() } else { format!("/apis/{}", group.name) };
            paths.extend(group.versions.iter().map(|version| format!("{root}/{version}")));
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

    fn shown(&self, name: &str) -> Option<&Shown> {
        self.shown.iter().find(|group| group.name == name)
    }

    fn api_versions(&self, address: &str) -> Value {
        let versions = self.shown("").map(|core| core.versions.as_slice()).unwrap_or_default();
        json!({
            "kind": "APIVersions",
            "versions": versions,
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
        })
    }

    fn group_list(&self) -> Value {
        let groups: Vec<Value> =
            self.shown.iter().filter(|g| !g.name.is_empty()).map(Shown::legacy).collect();
        json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
    }

    fn aggregated(&self, core: bool) -> &Aggregated {
        let document = if core { &self.core } else { &self.others };
        document.get_or_init(|| {
            let groups = self.shown.iter().filter(|group| group.name.is_empty() == core);
            let entry = |group: &'_ Shown| match &group.entry {
                Entry::Local(local) => local.aggregated().to_vec(),
                Entry::Merged(entry) => entry.clone(),
            };
            Aggregated::new(&groups.map(entry).collect::<Vec<_>>())
        })
    }
}

impl Shown {
    /// The `APIGroup`, without its type.
    fn legacy(&self) -> Value {
        let version = |name: &String| json!({"groupVersion": api_version(&self.name, name), "version": name});
        let versions: Vec<Value> = self.versions.iter().map(version).collect();
        json!({"name": self.name, "preferredVersion": versions.first(), "versions": versions})
    }
}

/// All groups in the order of `/apis`, by the priorities of their API services; what is served here and has none yet
/// has that which it will get.
fn shown(groups: &[Arc<Group>], table: &Table) -> Vec<Shown> {
    let mut ranked: Vec<Ranked> = Vec::new();
    let rank = |group: &str, version: &str, group_priority, version_priority| Ranked {
        group: group.to_owned(),
        version: version.to_owned(),
        group_priority,
        version_priority,
    };
    for group in groups {
        for (version, _) in &group.versions {
            if table.remote(&group.name, version).is_some() {
                continue;
            }
            let known = table.services.get(&format!("{version}.{}", group.name));
            let ours = priority::local(&group.name, version);
            let (of_group, of_version) = known.map_or((ours.group, ours.version), |service| {
                (service.group_priority, service.version_priority)
            });
            ranked.push(rank(&group.name, version, of_group, of_version));
        }
    }
    ranked.extend(table.remotes().map(|s| rank(&s.group, &s.version, s.group_priority, s.version_priority)));
    let one = |(name, versions): (String, Vec<String>)| {
        let local = groups.iter().find(|group| group.name == name);
        let in_order = |group: &&Arc<Group>| group.versions.iter().map(|(v, _)| v.as_str()).eq(&versions);
        let entry = match local.filter(|_| table.is_local()).filter(in_order) {
            Some(group) => Entry::Local(group.clone()),
            None => Entry::Merged(merged(&name, &versions, local, table)),
        };
        Shown { name, versions, entry }
    };
    arrange(ranked).into_iter().map(one).collect()
}

/// The entry of a group some of whose versions others answer.
fn merged(name: &str, versions: &[String], local: Option<&Arc<Group>>, table: &Table) -> Vec<u8> {
    let version = |version: &String| match table.remote(name, version) {
        None => local.and_then(|group| group.aggregated_version(version)),
        Some(service) => {
            let fetched = table.fetched.get(&service.name).cloned().unwrap_or_default();
            Some(fetched.version(version))
        }
    };
    let entry = group::entry(name, versions.iter().filter_map(version).collect());
    serde_json::to_vec(&entry).expect("a JSON value always serializes")
}

impl Aggregated {
    fn new(items: &[Vec<u8>]) -> Self {
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
