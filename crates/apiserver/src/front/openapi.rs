//! `/openapi/v2` (JSON and the protobuf form client-go asks for) and `/openapi/v3`, made at the first request after
//! what is served has changed, kept, and answered with 304 to clients that have them.

use super::aggregate::{self, Aggregator, Service, Table};
use super::discovery::{etag, with_etag};
use super::respond;
use crate::def::ResourceDef;
use crate::registry::Registry;
use arc_swap::ArcSwap;
use bytes::Bytes;
use http::Response;
use http::header::{self, HeaderMap, HeaderValue};
use knarr_api::openapi::{self, Own, Served};
use knarr_client::Body;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, OnceLock};

/// A finished document.
#[derive(Clone)]
struct Document {
    bytes: Bytes,
    etag: HeaderValue,
}

impl Document {
    fn new(bytes: Vec<u8>) -> Self {
        Self { etag: etag(&bytes), bytes: bytes.into() }
    }

    fn json(value: &Value) -> Self {
        Self::new(serde_json::to_vec(value).expect("a JSON value always serializes"))
    }

    fn serve(&self, content_type: &str, headers: &HeaderMap) -> Response<Body> {
        let mut response =
            with_etag(headers, &self.etag, || respond::bytes(content_type, self.bytes.clone()));
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
        response
    }
}

/// The OpenAPI documents.
pub struct OpenApi {
    registry: Arc<Registry>,
    aggregator: Arc<Aggregator>,
    snapshot: ArcSwap<Snapshot>,
}

/// The documents as of one generation of the registry and of the API services.
#[derive(Default)]
struct Snapshot {
    generation: (u64, u64),
    served: Arc<Vec<Served>>,
    table: Arc<Table>,
    /// The hashes of the v3 documents, by path.
    hashes: Arc<BTreeMap<String, String>>,
    index: OnceLock<Document>,
    v2: Arc<Version2>,
    /// By path, with the hash of what they were made of.
    v3: Mutex<HashMap<String, (String, Document)>>,
}

/// OpenAPI v2 in its two forms.
#[derive(Default)]
struct Version2 {
    served: Arc<Vec<Served>>,
    /// The parts that others told.
    parts: Vec<Arc<Value>>,
    json: OnceLock<Document>,
    proto: OnceLock<Document>,
}

impl Version2 {
    fn make(&self) -> Value {
        let mut document = openapi::v2(&self.served);
        self.parts.iter().for_each(|part| aggregate::openapi::merge(&mut document, part));
        document
    }
}

impl OpenApi {
    /// Documents about what `registry` serves and what `aggregator` passes on.
    pub fn new(registry: Arc<Registry>, aggregator: Arc<Aggregator>) -> Self {
        Self { registry, aggregator, snapshot: ArcSwap::default() }
    }

    fn current(&self) -> Arc<Snapshot> {
        let known = self.snapshot.load_full();
        let table = self.aggregator.table();
        if known.generation == (self.registry.generation(), table.generation) {
            return known;
        }
        let (generation, defs) = self.registry.snapshot();
        // What has not changed need not be made again.
        let same = generation == known.generation.0;
        let served = match same {
            true => known.served.clone(),
            false => Arc::new(defs.iter().flat_map(|def| served(def)).collect()),
        };
        let parts: Vec<Arc<Value>> =
            table.remotes().filter_map(|s| table.fetched.get(&s.name)?.v2.clone()).collect();
        let same_parts = parts.len() == known.v2.parts.len()
            && parts.iter().zip(&known.v2.parts).all(|(a, b)| Arc::ptr_eq(a, b));
        let v2 = match same && same_parts {
            true => known.v2.clone(),
            false => Arc::new(Version2 { served: served.clone(), parts, ..Version2::default() }),
        };
        let mut v3 = known.v3.lock().expect("document lock is never poisoned").clone();
        let hashes = match same {
            true => known.hashes.clone(),
            false => Arc::new(openapi::v3_hashes(&served)),
        };
        v3.retain(|path, (hash, _)| hashes.get(path) == Some(hash));
        let (generation, v3) = ((generation, table.generation), Mutex::new(v3));
        let current = Arc::new(Snapshot { generation, served, table, hashes, v2, v3, ..Snapshot::default() });
        self.snapshot.store(current.clone());
        current
    }

    /// Who else answers a path under `/openapi/v3/`, if this server does not.
    pub fn owner(&self, path: &str) -> Option<Arc<Service>> {
        let path = path.strip_prefix("/openapi/v3/")?.trim_matches('/');
        let now = self.current();
        let ours = now.table.is_local() || now.hashes.contains_key(path);
        if ours { None } else { self.aggregator.owner_of_v3(path) }
    }

    /// `/openapi/v2`.
    pub async fn v2(&self, headers: &HeaderMap) -> Response<Body> {
        let asked = [openapi::V2_PROTO_MEDIA_TYPE, openapi::V2_PROTO_REQUEST_MEDIA_TYPE];
        let proto = asked.iter().any(|media_type| respond::names(headers, media_type));
        let this = self.current().v2.clone();
        let document = blocking(move || {
            if proto {
                this.proto.get_or_init(|| Document::new(openapi::v2_proto(&this.make()))).clone()
            } else {
                this.json.get_or_init(|| Document::json(&this.make())).clone()
            }
        })
        .await;
        let content_type = if proto { openapi::V2_PROTO_MEDIA_TYPE } else { "application/json" };
        document.serve(content_type, headers)
    }

    /// `/openapi/v3` and what is under it.
    pub async fn v3(
        &self,
        path: &str,
        query: &[(String, String)],
        headers: &HeaderMap,
    ) -> Option<Response<Body>> {
        let this = self.current();
        let rest = path.trim_start_matches("/openapi/v3").trim_matches('/').to_owned();
        if rest.is_empty() {
            let index = this.index.get_or_init(|| Document::json(&this.v3_index()));
            return Some(index.serve("application/json", headers));
        }
        let asked_hash = query.iter().find(|(key, _)| key == "hash").map(|(_, hash)| hash.as_str());
        let hash = this.hashes.get(&rest)?.clone();
        let current = asked_hash.is_some_and(|asked| asked == hash);
        let document = blocking(move || {
            let known = this.v3.lock().expect("document lock is never poisoned").get(&rest).cloned();
            if let Some((_, document)) = known {
                return Some(document);
            }
            let document = Document::json(&openapi::v3(&this.served, &rest)?);
            let mut all = this.v3.lock().expect("document lock is never poisoned");
            all.insert(rest, (hash, document.clone()));
            Some(document)
        })
        .await?;
        let mut response = document.serve("application/json", headers);
        if current {
            let forever = HeaderValue::from_static("public, immutable");
            response.headers_mut().insert(header::CACHE_CONTROL, forever);
        }
        Some(response)
    }
}

impl Snapshot {
    /// The index of OpenAPI v3, with what others answer.
    fn v3_index(&self) -> Value {
        let mut index = openapi::v3_index(&self.served);
        let Some(paths) = index["paths"].as_object_mut() else { return index };
        let fetched = self.table.remotes().filter_map(|service| self.table.fetched.get(&service.name));
        for (path, url) in fetched.flat_map(|fetched| &fetched.v3) {
            if !paths.contains_key(path) {
                paths.insert(path.clone(), serde_json::json!({"serverRelativeURL": url}));
            }
        }
        index
    }
}

/// The resource and its subresources in each version it is served in.
fn served(def: &ResourceDef) -> Vec<Served> {
    let mut all = Vec::new();
    for version in &def.versions {
        let one = |resource: String, (group, version_of, kind): (&str, &str, &str), verbs: &[&str]| Served {
            group: def.group.to_string(),
            version: version.version.to_string(),
            resource,
            namespaced: def.namespaced(),
            kind_group: group.to_owned(),
            kind_version: version_of.to_owned(),
            kind: kind.to_owned(),
            verbs: verbs.iter().map(|verb| (*verb).to_owned()).collect(),
            custom: def.is_custom(),
            own: None,
        };
        let own = own(def, &version.version);
        let main = one(def.resource.to_string(), (&def.group, &version.version, &def.kind), def.verbs);
        all.push(Served { own: own.clone(), ..main });
        for sub in &def.subresources {
            let kind = sub.kind_in(def, &version.version);
            let sub = one(format!("{}/{}", def.resource, sub.name), kind, sub.verbs);
            let own = own.clone().filter(|_| sub.kind == def.kind);
            all.push(Served { own, ..sub });
        }
    }
    all
}

/// The definitions of a kind that the facts do not have.
fn own(def: &ResourceDef, version: &str) -> Option<Own> {
    let source = def.openapi.clone()?;
    let name = |kind: &str| knarr_apiextensions::openapi::definition_name(&def.group, version, kind);
    Some(Own {
        kind: name(&def.kind),
        list_kind: def.list_kind.to_string(),
        list: name(&def.list_kind),
        identity: source.identity().to_owned(),
        make: Arc::new(move |v2| source.definitions(v2)),
    })
}

/// Runs work that takes milliseconds off the threads that serve.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}
