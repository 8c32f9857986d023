//! `/openapi/v2` (JSON and the protobuf form client-go asks for) and `/openapi/v3`, made at the first request,
//! kept, and answered with 304 to clients that have them.

use super::discovery::{etag, with_etag};
use super::metrics::namespaced;
use super::respond;
use crate::def::ResourceDef;
use bytes::Bytes;
use http::Response;
use http::header::{self, HeaderMap, HeaderValue};
use knarr_api::openapi::{self, Served};
use knarr_client::Body;
use serde_json::Value;
use std::collections::HashMap;
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
pub struct OpenApi(Arc<Inner>);

struct Inner {
    served: Vec<Served>,
    v2: OnceLock<Document>,
    v2_proto: OnceLock<Document>,
    v3: Mutex<HashMap<String, Document>>,
}

impl OpenApi {
    /// Documents about `defs`.
    pub fn new(defs: &[Arc<ResourceDef>]) -> Self {
        let served = defs.iter().flat_map(|def| served(def)).collect();
        Self(Arc::new(Inner { served, v2: OnceLock::new(), v2_proto: OnceLock::new(), v3: Mutex::default() }))
    }

    /// `/openapi/v2`.
    pub async fn v2(&self, headers: &HeaderMap) -> Response<Body> {
        let asked = [openapi::V2_PROTO_MEDIA_TYPE, openapi::V2_PROTO_REQUEST_MEDIA_TYPE];
        let proto = asked.iter().any(|media_type| respond::names(headers, media_type));
        let this = self.0.clone();
        let document = blocking(move || {
            let made = || openapi::v2(&this.served);
            if proto {
                this.v2_proto.get_or_init(|| Document::new(openapi::v2_proto(&made()))).clone()
            } else {
                this.v2.get_or_init(|| Document::json(&made())).clone()
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
        let rest = path.trim_start_matches("/openapi/v3").trim_matches('/').to_owned();
        if rest.is_empty() {
            return Some(
                Document::json(&openapi::v3_index(&self.0.served)).serve("application/json", headers),
            );
        }
        let asked_hash = query.iter().find(|(key, _)| key == "hash").map(|(_, hash)| hash.as_str());
        let current = asked_hash.is_some_and(|hash| hash == openapi::v3_hash(&self.0.served, &rest));
        let this = self.0.clone();
        let document = blocking(move || {
            let known = this.v3.lock().expect("document lock is never poisoned").get(&rest).cloned();
            if known.is_some() {
                return known;
            }
            let document = Document::json(&openapi::v3(&this.served, &rest)?);
            this.v3.lock().expect("document lock is never poisoned").insert(rest, document.clone());
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

/// The resource and its subresources in each version it is served in.
fn served(def: &ResourceDef) -> Vec<Served> {
    let mut all = Vec::new();
    for version in &def.versions {
        let one = |resource: String, (group, version_of, kind): (&str, &str, &str), verbs: &[&str]| Served {
            group: def.group.to_owned(),
            version: version.version.to_owned(),
            resource,
            namespaced: namespaced(def),
            kind_group: group.to_owned(),
            kind_version: version_of.to_owned(),
            kind: kind.to_owned(),
            verbs: verbs.iter().map(|verb| (*verb).to_owned()).collect(),
        };
        all.push(one(def.resource.to_owned(), (def.group, version.version, def.kind), def.verbs));
        for sub in &def.subresources {
            let kind = super::discovery::subresource_kind(def, sub, version.version);
            all.push(one(format!("{}/{}", def.resource, sub.name), kind, sub.verbs));
        }
    }
    all
}

/// Runs work that takes milliseconds off the threads that serve.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}
