//! The admission plugins that upstream runs by default, one file each. [`plugins`] is their table, in the
//! order in which upstream runs them.

mod certificates;
mod default_class;
mod default_toleration_seconds;
mod limit_ranger;
mod matching;
mod namespace_lifecycle;
mod node_restriction;
mod pod_security;
mod pod_topology_labels;
mod policy;
mod priority;
mod resource_quota;
mod runtime_class;
mod service_account;
mod storage_protection;
mod taint_nodes_by_condition;
mod volume_claim_resize;
mod webhook;

use crate::util::value::text;
use knarr_apiserver::admission::{Plugin, Write};
use knarr_meta::gvk::GroupResource;
use knarr_meta::status::Status;
use std::sync::Arc;

/// All plugins in their order.
pub fn plugins() -> Vec<Arc<dyn Plugin>> {
    vec![
        Arc::new(namespace_lifecycle::NamespaceLifecycle),
        Arc::new(limit_ranger::LimitRanger),
        Arc::new(service_account::ServiceAccount),
        Arc::new(node_restriction::NodeRestriction),
        Arc::new(taint_nodes_by_condition::TaintNodesByCondition),
        Arc::new(pod_security::PodSecurity),
        Arc::new(priority::Priority),
        Arc::new(default_toleration_seconds::DefaultTolerationSeconds),
        Arc::new(default_class::DefaultStorageClass),
        Arc::new(storage_protection::StorageObjectInUseProtection),
        Arc::new(volume_claim_resize::PersistentVolumeClaimResize),
        Arc::new(runtime_class::RuntimeClass),
        Arc::new(certificates::CertificateApproval),
        Arc::new(certificates::CertificateSigning),
        Arc::new(certificates::CertificateSubjectRestriction),
        Arc::new(default_class::DefaultIngressClass),
        Arc::new(pod_topology_labels::PodTopologyLabels),
        Arc::new(policy::MutatingAdmissionPolicy::default()),
        Arc::new(webhook::MutatingAdmissionWebhook::default()),
        Arc::new(policy::ValidatingAdmissionPolicy::default()),
        Arc::new(webhook::ValidatingAdmissionWebhook::default()),
        Arc::new(resource_quota::ResourceQuota::default()),
    ]
}

/// A refusal in the name of the object under admission: what is known of its name before it is generated.
fn forbidden(write: &Write<'_>, why: impl Into<String>) -> Status {
    let resource = GroupResource::new(write.cx.info.group.clone(), write.cx.info.resource.clone());
    Status::forbidden(&resource, shown_name(write), why.into())
}

fn shown_name<'a>(write: &'a Write<'_>) -> &'a str {
    let candidates = [
        write.name,
        text(write.object, &["metadata", "name"]),
        text(write.object, &["metadata", "generateName"]),
    ];
    candidates.into_iter().find(|n| !n.is_empty()).unwrap_or("Unknown")
}
