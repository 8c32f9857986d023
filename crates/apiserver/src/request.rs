//! CONTRACT. One request on its way through the server: who asks for what.

use futures_util::future::BoxFuture;
use knarr_base::Ctx;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Who is asking, as an authenticator established it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// User name, for example `system:node:alpha`.
    pub name: String,
    /// UID, if the authenticator knows one.
    pub uid: String,
    /// Groups, including `system:authenticated` or `system:unauthenticated`.
    pub groups: Vec<String>,
    /// Extra attributes, for example `authentication.kubernetes.io/pod-name`.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// An authenticated user in `groups` and `system:authenticated`.
    pub fn new(name: &str, groups: &[&str]) -> Self {
        let mut groups: Vec<String> = groups.iter().map(|g| (*g).to_owned()).collect();
        groups.push("system:authenticated".to_owned());
        Self { name: name.to_owned(), groups, ..Self::default() }
    }

    /// Whether the user is in `group`.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}

/// What a request is about, parsed from method and path as upstream's RequestInfo is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// Whether the path names an API resource (`/api/v1/...`, `/apis/group/version/...`).
    pub is_resource: bool,
    /// The path as sent, without the query.
    pub path: String,
    /// get, list, watch, create, update, patch, delete, deletecollection, proxy; for other paths the lower-case method.
    pub verb: String,
    /// API group; empty is the core group.
    pub group: String,
    /// API version.
    pub version: String,
    /// Namespace, empty for cluster-wide requests.
    pub namespace: String,
    /// Plural resource name.
    pub resource: String,
    /// Subresource, or empty.
    pub subresource: String,
    /// Object name, or empty.
    pub name: String,
    /// Whatever follows the subresource in the path (`nodes/x/proxy/<rest>`).
    pub rest: String,
}

/// What is held while a watch sends its initial events: it travels with the request's extensions, and whoever sends
/// them takes it. If nobody does, it ends with the request.
#[derive(Clone)]
pub struct WhileInitializing(Arc<Mutex<Option<Box<dyn Send>>>>);

impl WhileInitializing {
    /// Holds `what` until it is taken.
    pub fn new(what: Box<dyn Send>) -> Self {
        Self(Arc::new(Mutex::new(Some(what))))
    }

    /// Hands it over to the first who asks.
    pub fn take(&self) -> Option<Box<dyn Send>> {
        self.0.lock().expect("nobody panics while taking").take()
    }
}

/// A request with its surroundings, handed to strategies, admission plugins and subresource handlers.
pub struct RequestCx {
    /// What is asked.
    pub info: RequestInfo,
    /// Who asks.
    pub user: Arc<UserInfo>,
    /// The query parameters in order, decoded.
    pub query: Vec<(String, String)>,
    /// Nothing may be persisted.
    pub dry_run: bool,
    /// Clock, random numbers, tasks, metrics of this control plane.
    pub ctx: Ctx,
    /// Reads of other objects, from the watch cache.
    pub reader: Arc<dyn Reader>,
    /// The server's own client (identity `system:apiserver`), for nested writes.
    pub loopback: knarr_client::Client,
    /// Texts for `Warning` headers.
    pub warnings: Mutex<Vec<String>>,
    /// What admission needs to know beside.
    pub admission: crate::admission::AdmissionCx,
}

impl RequestCx {
    /// The first value of query parameter `name`.
    pub fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    /// Adds a warning for the client.
    pub fn warn(&self, text: impl Into<String>) {
        self.warnings.lock().expect("warnings lock is never poisoned").push(text.into());
    }
}

/// Objects out of the watch cache, for the server's own parts (authorizers, admission). Objects carry their
/// resourceVersion, kind and apiVersion. A resource that is not served reads as empty.
pub trait Reader: Send + Sync {
    /// One object; `namespace` is empty for cluster-scoped kinds.
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>>;
    /// All objects of a namespace, or of all when it is empty.
    fn list(&self, group: &str, resource: &str, namespace: &str) -> Vec<Arc<Value>>;
    /// The objects of a namespace (of all when it is empty) whose selectable field has that value, such as the
    /// pods of a node; found without looking at the others where the watch cache knows the field.
    fn list_where(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
        field: &str,
        value: &str,
    ) -> Vec<Arc<Value>> {
        let path: Vec<&str> = field.split('.').collect();
        let mut objects = self.list(group, resource, namespace);
        objects.retain(|object| knarr_meta::object::get_str(object, &path) == value);
        objects
    }
    /// Makes sure that an object which another server has just made can be read here, where several share a store:
    /// asks the store itself. True when it was found there, and reading again may tell more than before. For
    /// what would otherwise be refused because it is missing or another one.
    fn look_for<'a>(
        &'a self,
        _group: &'a str,
        _resource: &'a str,
        _namespace: &'a str,
        _name: &'a str,
    ) -> BoxFuture<'a, bool> {
        Box::pin(std::future::ready(false))
    }
    /// The plural name under which a kind is served, and whether its objects live in namespaces.
    fn resource_of(&self, group: &str, version: &str, kind: &str) -> Option<(String, bool)> {
        let facts = knarr_api::facts::resources().iter();
        let mut found = facts.filter(|f| f.group == group && f.version == version && f.kind == kind);
        let fact = found.find(|fact| !fact.resource.contains('/'))?;
        Some((fact.resource.to_string(), fact.namespaced))
    }
    /// The revision of the last change of the resource; lets a reader keep what it compiled from it.
    fn revision(&self, group: &str, resource: &str) -> u64;
    /// The same as far as the cache has come: it may be moments behind what is committed, and does not move
    /// with writes of other resources. For what is asked at every request (permissions).
    fn settled(&self, group: &str, resource: &str) -> u64 {
        self.revision(group, resource)
    }
}
