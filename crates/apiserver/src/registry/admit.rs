//! The admission chain: every plugin may change a write, then every plugin may refuse it.

use super::resource::Resource;
use crate::admission::{Operation, Plugin, Write};
use crate::request::RequestCx;
use knarr_meta::status::Status;
use serde_json::Value;
use std::sync::Arc;

/// The plugins that want to see one request.
pub struct Chain<'a> {
    plugins: Vec<&'a dyn Plugin>,
    cx: &'a RequestCx,
    operation: Operation,
    kind: &'a str,
}

impl<'a> Chain<'a> {
    /// Those of `plugins` that handle the operation on what the request is about.
    pub fn new(
        plugins: &'a [Arc<dyn Plugin>],
        cx: &'a RequestCx,
        kind: &'a str,
        operation: Operation,
    ) -> Self {
        let info = &cx.info;
        let handles =
            |p: &&Arc<dyn Plugin>| p.handles(operation, &info.group, &info.resource, &info.subresource);
        Self { plugins: plugins.iter().filter(handles).map(|p| &**p).collect(), cx, operation, kind }
    }

    /// Whether nobody wants to see it.
    pub fn is_empty(&self) -> bool {
        self.plugins.is_empty()
    }

    /// Lets the plugins change the object.
    pub async fn mutate(&self, object: &mut Value, old: Option<&Value>, name: &str) -> Result<(), Status> {
        for plugin in &self.plugins {
            let namespace = self.cx.info.namespace.as_str();
            let mut write = Write {
                cx: self.cx,
                operation: self.operation,
                kind: self.kind,
                namespace: if namespace.is_empty() && self.kind == "Namespace" { name } else { namespace },
                name,
                object: &mut *object,
                old,
            };
            plugin.mutate(&mut write).await?;
        }
        Ok(())
    }

    /// Lets the plugins refuse the object.
    pub async fn validate(&self, object: &mut Value, old: Option<&Value>, name: &str) -> Result<(), Status> {
        for plugin in &self.plugins {
            let namespace = self.cx.info.namespace.as_str();
            let write = Write {
                cx: self.cx,
                operation: self.operation,
                kind: self.kind,
                namespace: if namespace.is_empty() && self.kind == "Namespace" { name } else { namespace },
                name,
                object: &mut *object,
                old,
            };
            plugin.validate(&write).await?;
        }
        Ok(())
    }

    /// Both, for writes without an object of their own (deletions, connections).
    pub async fn run(&self, object: &mut Value, old: Option<&Value>, name: &str) -> Result<(), Status> {
        self.mutate(object, old, name).await?;
        self.validate(object, old, name).await
    }
}

/// Drops owner references that occur twice, as upstream does with a warning.
pub fn dedup_owners(cx: &RequestCx, object: &mut Value, after_admission: bool) {
    let Some(refs) = object.pointer_mut("/metadata/ownerReferences").and_then(Value::as_array_mut) else {
        return;
    };
    if refs.len() < 2 {
        return;
    }
    let mut kept: Vec<Value> = Vec::with_capacity(refs.len());
    let mut doubles = Vec::new();
    for owner in refs.drain(..) {
        if kept.contains(&owner) {
            doubles.push(owner["uid"].as_str().unwrap_or_default().to_owned());
        } else {
            kept.push(owner);
        }
    }
    *refs = kept;
    if !doubles.is_empty() {
        let when = if after_admission { " after mutating admission happens" } else { "" };
        cx.warn(format!(
            ".metadata.ownerReferences contains duplicate entries{when}; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
            doubles.join(", ")
        ));
    }
}

/// The object's namespace must be the path's; a missing one is filled in, that of cluster-scoped kinds cleared.
pub fn ensure_namespace(resource: &Resource, cx: &RequestCx, object: &mut Value) -> Result<(), Status> {
    use knarr_meta::object;
    let wanted = if resource.namespaced() { cx.info.namespace.as_str() } else { "" };
    let given = object::namespace(object);
    if given == wanted {
        return Ok(());
    }
    if !given.is_empty() && !wanted.is_empty() {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    object::set_namespace(object, wanted);
    Ok(())
}
