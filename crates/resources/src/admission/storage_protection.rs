//! StorageObjectInUseProtection: new claims, volumes and volume attributes classes carry the finalizer by which they
//! stay while they are used. Controllers take it off.

use crate::util::value::{ensure, object};
use futures_util::future::BoxFuture;
use knarr_apiserver::admission::{Operation, Plugin, Write};
use knarr_meta::status::Status;
use serde_json::{Value, json};

/// The plugin.
pub struct StorageObjectInUseProtection;

fn finalizer(group: &str, resource: &str) -> Option<&'static str> {
    match (group, resource) {
        ("", "persistentvolumeclaims") => Some("kubernetes.io/pvc-protection"),
        ("", "persistentvolumes") => Some("kubernetes.io/pv-protection"),
        ("storage.k8s.io", "volumeattributesclasses") => Some("kubernetes.io/vac-protection"),
        _ => None,
    }
}

impl Plugin for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    fn handles(&self, operation: Operation, group: &str, resource: &str, subresource: &str) -> bool {
        operation == Operation::Create && subresource.is_empty() && finalizer(group, resource).is_some()
    }

    fn mutate<'a>(&'a self, write: &'a mut Write<'_>) -> BoxFuture<'a, Result<(), Status>> {
        if let Some(finalizer) = finalizer(&write.cx.info.group, &write.cx.info.resource) {
            let meta = ensure(object(write.object), "metadata");
            let list = meta.entry("finalizers").or_insert_with(|| json!([]));
            if !list.is_array() {
                *list = json!([]);
            }
            if let Value::Array(list) = list
                && !list.iter().any(|held| held == finalizer)
            {
                list.push(finalizer.into());
            }
        }
        Box::pin(std::future::ready(Ok(())))
    }
}
