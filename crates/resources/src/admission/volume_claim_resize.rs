//! PersistentVolumeClaimResize: only bound claims grow, and only where their class allows it.

use super::forbidden;
use crate::core::persistentvolumeclaim::class;
use crate::util::value::{flag, text};
use futures_util::future::BoxFuture;
use knarr_apiserver::admission::{Operation, Plugin, Write};
use knarr_meta::quantity::Quantity;
use knarr_meta::status::Status;
use serde_json::Value;

/// The plugin.
pub struct PersistentVolumeClaimResize;

impl Plugin for PersistentVolumeClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    fn handles(&self, operation: Operation, group: &str, resource: &str, subresource: &str) -> bool {
        operation == Operation::Update
            && group.is_empty()
            && resource == "persistentvolumeclaims"
            && subresource.is_empty()
    }

    fn validate<'a>(&'a self, write: &'a Write<'_>) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(std::future::ready(check(write)))
    }
}

fn check(write: &Write<'_>) -> Result<(), Status> {
    let (new, Some(old)) = (&*write.object, write.old) else { return Ok(()) };
    let size = |claim: &Value| {
        let amount = text(claim, &["spec", "resources", "requests", "storage"]);
        Quantity::parse(amount).unwrap_or_default()
    };
    if size(new) <= size(old) {
        return Ok(());
    }
    if text(old, &["status", "phase"]) != "Bound" {
        return Err(forbidden(write, "Only bound persistent volume claims can be expanded"));
    }
    let name = class(new);
    let allowed = !name.is_empty()
        && name == class(old)
        && write
            .cx
            .reader
            .get("storage.k8s.io", "storageclasses", "", name)
            .is_some_and(|class| flag(&class, &["allowVolumeExpansion"]));
    if allowed {
        return Ok(());
    }
    let why = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize";
    Err(forbidden(write, why))
}
