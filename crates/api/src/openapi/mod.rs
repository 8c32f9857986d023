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
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

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
    /// Whether it belongs to a custom resource, which knows neither strategic merge patches nor protobuf.
    pub custom: bool,
    /// The kind's definitions, where the facts do not have them.
    pub own: Option<Own>,
}

/// What makes the definitions of a kind that the facts do not have, for v2 if the argument says so, else for v3.
pub type MakeDefinitions = Arc<dyn Fn(bool) -> Vec<(String, Value)> + Send + Sync>;

/// Definitions of a kind that the facts do not have.
#[derive(Clone)]
pub struct Own {
    /// The definition of the kind.
    pub kind: String,
    /// The kind of its lists.
    pub list_kind: String,
    /// The definition of that.
    pub list: String,
    /// Changes whenever the definitions do.
    pub identity: String,
    /// Makes both, and whatever else they need that the facts do not have.
    pub make: MakeDefinitions,
}

impl fmt::Debug for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.kind, self.list, self.identity)
    }
}

impl PartialEq for Own {
    fn eq(&self, other: &Self) -> bool {
        (&self.kind, &self.list, &self.identity) == (&other.kind, &other.list, &other.identity)
    }
}

impl Eq for Own {}

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
            custom: false,
            own: None,
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
    let address = |(path, hash): (String, String)| {
        let url = format!("/openapi/v3/{path}?hash={hash}");
        (path, json!({ "serverRelativeURL": url }))
    };
    json!({ "paths": v3_hashes(served).into_iter().map(address).collect::<Map<String, Value>>() })
}

/// The hashes of all v3 documents by path, without making the documents: they depend on this program, the facts, and
/// what is served.
pub fn v3_hashes(served: &[Served]) -> BTreeMap<String, String> {
    let mut common = Sha256::new();
    common.update(env!("CARGO_PKG_VERSION"));
    common.update(schemas::fingerprint());
    let mut hashes: BTreeMap<String, Sha256> = BTreeMap::new();
    // What is served elsewhere shows too: DeleteOptions lists every built-in group and version.
    served.iter().filter(|one| !one.custom).for_each(|one| common.update(one.group_version_path()));
    for one in served {
        let hash = hashes.entry(one.group_version_path()).or_insert_with(|| common.clone());
        hash.update(format!("{one:?}"));
    }
    let hex = |hash: Sha256| hash.finalize().iter().map(|byte| format!("{byte:02X}")).collect();
    hashes.into_iter().map(|(path, hash)| (path, hex(hash))).collect()
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
    let library = schemas::Library::new(served, own, flavor);
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
