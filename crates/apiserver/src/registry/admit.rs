//! The admission chain: every plugin may change a write, then every plugin may refuse it.

use super::Registry;
use super::interfaces::Interfaces;
use super::resource::Resource;
use crate::admission::{Operation, Plugin, Reinvocation, Write};
use crate::request::RequestCx;
use knarr_meta::field::Path;
use knarr_meta::object;
use knarr_meta::status::Status;
use serde_json::Value;
use std::sync::Arc;

/// The plugins that want to see one request.
pub struct Chain<'a> {
    plugins: Vec<&'a dyn Plugin>,
    cx: &'a RequestCx,
    operation: Operation,
    /// Group, version and kind of the object as the request sees it.
    kind: (&'a str, &'a str, &'a str),
    interfaces: Interfaces<'a>,
    delete_options: Value,
}

impl<'a> Chain<'a> {
    /// Those plugins that handle the operation on what the request is about.
    pub fn new(
        registry: &'a Registry,
        cx: &'a RequestCx,
        resource: &'a Resource,
        operation: Operation,
    ) -> Self {
        let info = &cx.info;
        let handles =
            |p: &&Arc<dyn Plugin>| p.handles(operation, &info.group, &info.resource, &info.subresource);
        Self {
            plugins: registry.plugins.iter().filter(handles).map(|p| &**p).collect(),
            cx,
            operation,
            kind: (&info.group, &info.version, &resource.def.kind),
            interfaces: Interfaces { registry, resource, subresource: &info.subresource, foreign: false },
            delete_options: Value::Null,
        }
    }

    /// The same for an object of another kind than the resource's.
    pub fn of_kind(mut self, kind: (&'a str, &'a str, &'a str)) -> Self {
        self.interfaces.foreign = kind.2 != self.kind.2;
        self.kind = kind;
        self
    }

    /// The options of a deletion.
    pub fn with_options(mut self, options: Value) -> Self {
        self.delete_options = options;
        self
    }

    /// Whether nobody wants to see it.
    pub fn is_empty(&self) -> bool {
        self.plugins.is_empty()
    }

    fn write<'b>(
        &'b self,
        object: &'b mut Value,
        old: Option<&'b Value>,
        name: &'b str,
        reinvocation: &'b Reinvocation,
    ) -> Write<'b> {
        let namespace = self.cx.info.namespace.as_str();
        let (group, version, kind) = self.kind;
        Write {
            cx: self.cx,
            operation: self.operation,
            kind,
            group,
            version,
            namespace: if namespace.is_empty() && kind == "Namespace" { name } else { namespace },
            name,
            object,
            old,
            delete_options: &self.delete_options,
            interfaces: &self.interfaces,
            reinvocation,
        }
    }

    /// Lets the plugins change the object; once more if one of them wants that because of another's change.
    pub async fn mutate(&self, object: &mut Value, old: Option<&Value>, name: &str) -> Result<(), Status> {
        let reinvocation = Reinvocation::default();
        let before = object.pointer("/metadata/managedFields").cloned();
        loop {
            for plugin in &self.plugins {
                let mut write = self.write(&mut *object, old, name, &reinvocation);
                plugin.mutate(&mut write).await?;
            }
            if reinvocation.is_again() || !reinvocation.start_again() {
                break;
            }
        }
        self.mend_managed_fields(object, before);
        Ok(())
    }

    /// Who changed what is not admission's to say badly: entries that nobody can read are put back as they were.
    fn mend_managed_fields(&self, object: &mut Value, before: Option<Value>) {
        let after = object.pointer("/metadata/managedFields");
        if after == before.as_ref() {
            return;
        }
        let entries = object::managed_fields(object);
        let errors = knarr_meta::validate::validate_managed_fields(
            entries,
            &Path::new("metadata").child("managedFields"),
        );
        let Some(error) = errors.iter().next() else { return };
        self.cx.warn(format!(
            ".metadata.managedFields was in an invalid state after admission; this could be caused by an outdated mutating admission controller; please fix your requests: {}: {}",
            error.field,
            error.body()
        ));
        let before = before.and_then(|before| before.as_array().cloned()).unwrap_or_default();
        object::set_managed_fields(object, before);
    }

    /// Lets the plugins refuse the object.
    pub async fn validate(&self, object: &mut Value, old: Option<&Value>, name: &str) -> Result<(), Status> {
        let reinvocation = Reinvocation::default();
        for plugin in &self.plugins {
            let write = self.write(&mut *object, old, name, &reinvocation);
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
