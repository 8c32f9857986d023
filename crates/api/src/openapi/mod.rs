//! CONTRACT. The OpenAPI documents that clients read: v3, one per group and version with an index
//! (`/openapi/v3`, KEP-2896), and v2 as one document (`/openapi/v2`), as JSON and in gnostic's protobuf form,
//! which is what client-go asks for. kubectl takes from them the fields for `explain`, the merge keys for
//! `apply` and `diff`, and whether PATCH takes `dryRun` and `fieldValidation`.
//!
//! Documents are a pure function of the facts and of the served resources, made when they are asked for. What
//! upstream's documents have and these have not: descriptions of operations, parameters and lists, and the
//! deprecated `/watch/` paths.

mod descriptions;
mod gnostic;
mod operations;
mod render;
mod schemas;
#[cfg(test)]
mod tests;

use crate::facts::ResourceFact;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

/// The media type of the v2 document in protobuf form.
pub const V2_PROTO_MEDIA_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// The older spelling, under which client-go asks for it. It is not a valid media type (RFC 9110 has no `@` in
/// tokens) and clients fail on an answer that says so: answer with [`V2_PROTO_MEDIA_TYPE`].
pub const V2_PROTO_REQUEST_MEDIA_TYPE: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// A resource or subresource that a server serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// API group, empty for core.
    pub group: String,
    /// API version.
    pub version: String,
    /// The resource, or `resource/subresource`.
    pub resource: String,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// The group of the kind that is sent and received.
    pub kind_group: String,
    /// Its version.
    pub kind_version: String,
    /// The kind.
    pub kind: String,
    /// `create`, `delete`, `deletecollection`, `get`, `list`, `patch`, `update`, `watch`.
    pub verbs: Vec<String>,
}

impl From<&ResourceFact> for Served {
    fn from(fact: &ResourceFact) -> Self {
        Self {
            group: fact.group.to_owned(),
            version: fact.version.to_owned(),
            resource: fact.resource.to_owned(),
            namespaced: fact.namespaced,
            kind_group: fact.kind_group.to_owned(),
            kind_version: fact.kind_version.to_owned(),
            kind: fact.kind.to_owned(),
            verbs: fact.verbs.iter().map(|verb| (*verb).to_owned()).collect(),
        }
    }
}

impl Served {
    /// Where its group and version live: `api/v1`, `apis/apps/v1`. Also the name of its v3 document.
    pub fn group_version_path(&self) -> String {
        if self.group.is_empty() {
            format!("api/{}", self.version)
        } else {
            format!("apis/{}/{}", self.group, self.version)
        }
    }
}

/// Which of the two specifications a document follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flavor {
    V2,
    V3,
}

/// The index of the v3 documents. The hash in each address changes whenever the document does, so that
/// clients may cache it for ever.
pub fn v3_index(served: &[Served]) -> Value {
    let mut paths = Map::new();
    for one in served {
        let path = one.group_version_path();
        if !paths.contains_key(&path) {
            let url = format!("/openapi/v3/{path}?hash={}", v3_hash(served, &path));
            paths.insert(path, json!({ "serverRelativeURL": url }));
        }
    }
    json!({ "paths": paths })
}

/// The hash of a v3 document, without making the document: it depends on this program, the facts, and what is
/// served.
pub fn v3_hash(served: &[Served], group_version_path: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(env!("CARGO_PKG_VERSION"));
    hash.update(schemas::fingerprint());
    for one in served {
        // What is served elsewhere shows too: DeleteOptions lists every group and version.
        hash.update(one.group_version_path());
        if one.group_version_path() == group_version_path {
            hash.update(format!("{one:?}"));
        }
    }
    hash.finalize().iter().map(|byte| format!("{byte:02X}")).collect()
}

/// The v3 document of `api/v1`, `apis/apps/v1`, ...; `None` where nothing of it is served.
pub fn v3(served: &[Served], group_version_path: &str) -> Option<Value> {
    let own: Vec<&Served> = served.iter().filter(|s| s.group_version_path() == group_version_path).collect();
    if own.is_empty() {
        return None;
    }
    let (paths, schemas) = document(served, &own, Flavor::V3);
    Some(json!({
        "openapi": "3.0.0",
        "info": info(),
        "paths": paths,
        "components": { "schemas": schemas, "securitySchemes": { "BearerToken": bearer_token() } },
    }))
}

/// The v2 document of everything that is served.
pub fn v2(served: &[Served]) -> Value {
    let own: Vec<&Served> = served.iter().collect();
    let (paths, definitions) = document(served, &own, Flavor::V2);
    json!({
        "swagger": "2.0",
        "info": info(),
        "paths": paths,
        "definitions": definitions,
        "securityDefinitions": { "BearerToken": bearer_token() },
        "security": [{ "BearerToken": [] }],
    })
}

/// A v2 document in gnostic's protobuf form ([`V2_PROTO_MEDIA_TYPE`]).
pub fn v2_proto(document: &Value) -> Vec<u8> {
    gnostic::document(document)
}

/// The description of a type (`field` empty), or of one of its fields by its JSON name. Each call reads the whole
/// table: keep what is needed often.
pub fn description(definition: &str, field: &str) -> Option<String> {
    descriptions::Descriptions::load().find(definition, field)
}

fn document(served: &[Served], own: &[&Served], flavor: Flavor) -> (Value, Value) {
    let library = schemas::Library::new(served, flavor);
    let operations = operations::all(own);
    let mut roots: Vec<String> = operations.iter().flat_map(|op| op.roots(&library)).collect();
    roots.sort();
    roots.dedup();
    let schemas = library.closure(roots);
    (render::paths(&operations, &library, flavor), Value::Object(schemas))
}

fn info() -> Value {
    json!({ "title": "Kubernetes", "version": "v1.36.0" })
}

fn bearer_token() -> Value {
    json!({
        "type": "apiKey",
        "name": "authorization",
        "in": "header",
        "description": "Bearer Token authentication",
    })
}
