//! The admission plugins ValidatingAdmissionPolicy (KEP-3488) and MutatingAdmissionPolicy (KEP-3962): policies are
//! expressions, bindings say where they hold and with which parameters (apiserver's `admission/plugin/policy`).

mod merge;
mod mutating;
mod params;
mod source;
mod validating;
mod validator;

pub use mutating::MutatingAdmissionPolicy;
pub use validating::ValidatingAdmissionPolicy;

use super::matching::is_exempt;
use knarr_apiserver::admission::Write;
use knarr_meta::gvk::GroupResource;
use knarr_meta::status::Status;
use serde_json::Value;
use std::sync::Arc;

/// Reviews are answers to questions; a policy in their way would break the cluster.
const REVIEWS: [(&str, &str); 6] = [
    ("authentication.k8s.io", "selfsubjectreviews"),
    ("authentication.k8s.io", "tokenreviews"),
    ("authorization.k8s.io", "localsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews"),
    ("authorization.k8s.io", "subjectaccessreviews"),
];

/// Whether no policy is ever asked about a write.
fn is_excluded(write: &Write<'_>) -> bool {
    let info = &write.cx.info;
    is_exempt(write) || REVIEWS.contains(&(info.group.as_str(), info.resource.as_str()))
}

/// The namespace an object is in, for `namespaceObject`; none for cluster-wide ones and for namespaces.
fn namespace(write: &Write<'_>) -> Result<Option<Arc<Value>>, Status> {
    if write.namespace.is_empty() || (write.group, write.version, write.kind) == ("", "v1", "Namespace") {
        return Ok(None);
    }
    match write.cx.reader.get("", "namespaces", "", write.namespace) {
        Some(namespace) => Ok(Some(namespace)),
        None => Err(Status::not_found(&GroupResource::new("", "namespaces"), write.namespace)),
    }
}
