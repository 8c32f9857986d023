//! ResourceQuota: a write that would use more than a quota of its namespace allows is refused, and one that fits is
//! charged to the quota before it happens. What is set free, the resource quota controller gives back.

mod accounting;
mod devices;

use super::forbidden;
use crate::util::value::{at, text};
use accounting::{Accountant, Outcome, Write as Charge};
use futures_util::future::BoxFuture;
use knarr_apiserver::admission::{Operation, Plugin, Write};
use knarr_meta::status::{Reason, Status};
use knarr_quota::Evaluator;
use serde_json::Value;
use std::sync::Arc;

/// The plugin.
#[derive(Default)]
pub struct ResourceQuota {
    accountant: Arc<Accountant>,
}

impl Plugin for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    fn handles(&self, operation: Operation, group: &str, resource: &str, subresource: &str) -> bool {
        let (create, update) = (operation == Operation::Create, operation == Operation::Update);
        match (group, resource, subresource) {
            ("", "pods", "resize") | ("", "persistentvolumeclaims", "status") => update,
            ("", "pods" | "services" | "persistentvolumeclaims", "")
            | ("resource.k8s.io", "resourceclaims", "") => create || update,
            ("", "namespaces", _) => false,
            (_, _, subresource) => {
                create && subresource.is_empty() && !knarr_quota::is_ignored(group, resource)
            }
        }
    }

    fn validate<'a>(&'a self, write: &'a Write<'_>) -> BoxFuture<'a, Result<(), Status>> {
        let info = &write.cx.info;
        let untouched = info.namespace.is_empty()
            || write.cx.reader.list("", "resourcequotas", &info.namespace).is_empty()
            || is_plain_pod_update(write);
        if untouched {
            return Box::pin(std::future::ready(Ok(())));
        }
        Box::pin(self.charge(write))
    }
}

/// Pods change without effect on quotas, unless their deadline comes or goes.
fn is_plain_pod_update(write: &Write<'_>) -> bool {
    let Some(old) = write.old else { return false };
    let has_deadline = |pod: &Value| {
        at(pod, &["spec", "activeDeadlineSeconds"])
            .and_then(Value::as_i64)
            .is_some_and(|seconds| seconds >= 0)
    };
    write.kind == "Pod"
        && write.cx.info.subresource.is_empty()
        && has_deadline(old) == has_deadline(write.object)
}

impl ResourceQuota {
    async fn charge(&self, write: &Write<'_>) -> Result<(), Status> {
        let info = &write.cx.info;
        let evaluator = Evaluator::of(&info.group, &info.resource);
        let mut object = write.object.clone();
        if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            meta.insert("namespace".to_owned(), info.namespace.as_str().into());
        }
        let read = |object: &Value| evaluator.read(object).map_err(Status::internal);
        let old = write.old.filter(|old| !text(old, &["metadata", "resourceVersion"]).is_empty());
        let (new, old) = (read(&object)?, old.map(read).transpose()?);
        let charge = Charge {
            group: info.group.clone(),
            resource: info.resource.clone(),
            subresource: info.subresource.clone(),
            dry_run: write.cx.dry_run,
            evaluator,
            new,
            old,
        };
        match self.accountant.charge(write.cx, charge).await {
            Outcome::Fits => Ok(()),
            Outcome::Forbidden(why) => Err(forbidden(write, why)),
            Outcome::Error(why) => Err(Status::new(500, Reason::Unknown, why)),
            Outcome::Status(status) => Err(*status),
        }
    }
}
