//! NamespaceLifecycle: nothing is created in a namespace that does not exist or is being deleted, and the
//! namespaces the system needs stay.

use super::forbidden;
use crate::util::value::text;
use futures_util::future::BoxFuture;
use knarr_apiserver::admission::{Operation, Plugin, Write};
use knarr_meta::gvk::GroupResource;
use knarr_meta::status::{Cause, Status};

const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];

/// The plugin.
pub struct NamespaceLifecycle;

impl Plugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    fn handles(&self, operation: Operation, group: &str, resource: &str, _subresource: &str) -> bool {
        let namespaces = group.is_empty() && resource == "namespaces";
        match operation {
            Operation::Delete => namespaces,
            Operation::Create | Operation::Update => {
                !(namespaces || group == "authorization.k8s.io" && resource == "localsubjectaccessreviews")
            }
            Operation::Connect => false,
        }
    }

    fn mutate<'a>(&'a self, write: &'a mut Write<'_>) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            let (reader, namespace) = (&write.cx.reader, write.namespace);
            match check(write) {
                // Another server may have made the namespace a moment ago.
                Err(status)
                    if status.code == 404 && reader.look_for("", "namespaces", "", namespace).await =>
                {
                    check(write)
                }
                result => result,
            }
        })
    }
}

fn check(write: &Write<'_>) -> Result<(), Status> {
    if write.operation == Operation::Delete {
        if IMMORTAL.contains(&write.name) {
            return Err(forbidden(write, "this namespace may not be deleted"));
        }
        return Ok(());
    }
    let namespace = write.namespace;
    if namespace.is_empty() {
        return Ok(());
    }
    let Some(found) = write.cx.reader.get("", "namespaces", "", namespace) else {
        return Err(Status::not_found(&GroupResource::new("", "namespaces"), namespace));
    };
    if write.operation == Operation::Create && text(&found, &["status", "phase"]) == "Terminating" {
        let why =
            format!("unable to create new content in namespace {namespace} because it is being terminated");
        let mut status = forbidden(write, why);
        status.details.get_or_insert_default().causes.push(Cause {
            reason: "NamespaceTerminating".to_owned(),
            message: format!("namespace {namespace} is being terminated"),
            field: "metadata.namespace".to_owned(),
        });
        return Err(status);
    }
    Ok(())
}
