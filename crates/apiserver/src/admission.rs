//! CONTRACT. Admission: what may change or refuse a write between its decoding and its validation.

use crate::request::RequestCx;
use futures_util::future::BoxFuture;
use knarr_meta::status::Status;
use serde_json::Value;

/// The kind of write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A new object, or a subresource's create (binding, eviction, token).
    Create,
    /// A changed object, by update, patch or apply.
    Update,
    /// A deletion.
    Delete,
    /// exec, attach, port-forward, proxy.
    Connect,
}

/// One write under admission. Group, resource, subresource, namespace, name and user are in `cx`.
pub struct Write<'a> {
    /// The request.
    pub cx: &'a RequestCx,
    /// What it does. (An update that creates is a Create.)
    pub operation: Operation,
    /// The object's kind.
    pub kind: &'a str,
    /// The object's namespace (from the path, or the object itself for Namespace).
    pub namespace: &'a str,
    /// The object's name; empty while generateName has not been resolved.
    pub name: &'a str,
    /// The new object, or the options for Connect; `Null` for Delete.
    pub object: &'a mut Value,
    /// The object before the write, `None` for Create and Connect.
    pub old: Option<&'a Value>,
}

/// One admission plugin. Mutating runs for all plugins before validating does.
pub trait Plugin: Send + Sync {
    /// Upstream's plugin name, for example `NamespaceLifecycle`.
    fn name(&self) -> &'static str;
    /// Whether the plugin wants to see such writes at all (cheap; keeps other writes free of it).
    fn handles(&self, operation: Operation, group: &str, resource: &str, subresource: &str) -> bool;
    /// May change the object.
    fn mutate<'a>(&'a self, _write: &'a mut Write<'_>) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(std::future::ready(Ok(())))
    }
    /// May refuse it.
    fn validate<'a>(&'a self, _write: &'a Write<'_>) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(std::future::ready(Ok(())))
    }
}
