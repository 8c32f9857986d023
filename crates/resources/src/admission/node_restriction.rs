//! NodeRestriction: a node changes its own objects and those of its pods, and nothing that places pods on it.

use super::forbidden;
use crate::util::value::{flag, list, text};
use futures_util::future::BoxFuture;
use knarr_apiserver::admission::{Operation, Plugin, Write};
use knarr_meta::gvk::GroupResource;
use knarr_meta::status::Status;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;

const MIRROR: &str = "kubernetes.io/config.mirror";
const LEASES: &str = "kube-node-lease";
/// The labels of Kubernetes that a node may set on itself.
const OWN_LABELS: &[&str] = &[
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
];

/// The plugin.
pub struct NodeRestriction;

impl Plugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn handles(&self, operation: Operation, group: &str, resource: &str, subresource: &str) -> bool {
        let write = operation != Operation::Connect;
        write
            && match (group, resource) {
                ("", "pods" | "nodes" | "persistentvolumeclaims") => true,
                ("", "serviceaccounts") => subresource == "token",
                ("coordination.k8s.io", "leases") | ("storage.k8s.io", "csinodes") => true,
                ("resource.k8s.io", "resourceslices") => true,
                _ => false,
            }
    }

    fn mutate<'a>(&'a self, write: &'a mut Write<'_>) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            match check(write) {
                // Another server may have made the pod a moment ago.
                Err(status)
                    if status.code == 404
                        && write
                            .cx
                            .reader
                            .look_for("", "pods", write.namespace, object_name(write))
                            .await =>
                {
                    check(write)
                }
                result => result,
            }
        })
    }
}

fn check(write: &Write<'_>) -> Result<(), Status> {
    let user = &write.cx.user;
    let Some(node) = user.name.strip_prefix("system:node:").filter(|_| user.in_group("system:nodes")) else {
        return Ok(());
    };
    let refuse = |why: String| Err(forbidden(write, why));
    let info = &write.cx.info;
    match (info.resource.as_str(), info.subresource.as_str()) {
        ("pods", "") => pod(write, node),
        ("pods", "status") => pod_status(write, node),
        ("pods", "eviction") => match own_pod(write, write.name)? {
            pod if text(&pod, &["spec", "nodeName"]) == node => Ok(()),
            _ => refuse(format!("node {node} can only evict pods with spec.nodeName set to itself")),
        },
        ("pods", other) => refuse(format!(
            "unexpected pod subresource \"{other}\", only 'status' and 'eviction' are allowed"
        )),
        ("nodes", _) => node_object(write, node),
        ("persistentvolumeclaims", "status") => Ok(()),
        ("persistentvolumeclaims", _) => refuse("may only update PVC status".to_owned()),
        ("serviceaccounts", _) => token(write, node),
        ("leases", _) => lease(write, node),
        ("csinodes", _) if object_name(write) != node => {
            refuse("can only access CSINode with the same name as the requesting node".to_owned())
        }
        ("resourceslices", _) => {
            let subject = if write.operation == Operation::Delete { write.old } else { Some(&*write.object) };
            match subject.map(|o| text(o, &["spec", "nodeName"])) {
                Some(name) if name != node => refuse(
                    "can only access ResourceSlices with the same NodeName as the requesting node".to_owned(),
                ),
                _ => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

fn object_name<'a>(write: &'a Write<'_>) -> &'a str {
    if write.name.is_empty() { text(write.object, &["metadata", "name"]) } else { write.name }
}

fn own_pod(write: &Write<'_>, name: &str) -> Result<Arc<Value>, Status> {
    let found = write.cx.reader.get("", "pods", write.namespace, name);
    found.ok_or_else(|| Status::not_found(&GroupResource::new("", "pods"), name))
}

fn pod(write: &Write<'_>, node: &str) -> Result<(), Status> {
    let refuse = |why: String| Err(forbidden(write, why));
    match write.operation {
        Operation::Delete => match own_pod(write, write.name)? {
            pod if text(&pod, &["spec", "nodeName"]) == node => Ok(()),
            _ => refuse(format!("node \"{node}\" can only delete pods with spec.nodeName set to itself")),
        },
        Operation::Create => mirror_pod(write, node),
        _ => refuse(format!(
            "unexpected operation \"UPDATE\", node \"{node}\" can only create and delete mirror pods"
        )),
    }
}

fn mirror_pod(write: &Write<'_>, node: &str) -> Result<(), Status> {
    let refuse = |why: String| Err(forbidden(write, why));
    let pod = &*write.object;
    if pod["metadata"]["annotations"].get(MIRROR).is_none() {
        return refuse(format!(
            "pod does not have \"{MIRROR}\" annotation, node \"{node}\" can only create mirror pods"
        ));
    }
    if text(pod, &["spec", "nodeName"]) != node {
        return refuse(format!("node \"{node}\" can only create pods with spec.nodeName set to itself"));
    }
    let owner = match list(pod, &["metadata", "ownerReferences"]) {
        [owner] => owner,
        [] => {
            return refuse(format!(
                "node \"{node}\" can only create pods with an owner reference set to itself"
            ));
        }
        _ => {
            return refuse(format!(
                "node \"{node}\" can only create pods with a single owner reference set to itself"
            ));
        }
    };
    if text(owner, &["apiVersion"]) != "v1"
        || text(owner, &["kind"]) != "Node"
        || text(owner, &["name"]) != node
    {
        return refuse(format!("node \"{node}\" can only create pods with an owner reference set to itself"));
    }
    if !flag(owner, &["controller"]) {
        return refuse(format!(
            "node \"{node}\" can only create pods with a controller owner reference set to itself"
        ));
    }
    if flag(owner, &["blockOwnerDeletion"]) {
        return refuse(format!("node \"{node}\" must not set blockOwnerDeletion on an owner reference"));
    }
    let Some(object) = write.cx.reader.get("", "nodes", "", node) else {
        return Err(Status::not_found(&GroupResource::new("", "nodes"), node));
    };
    let (claimed, real) = (text(owner, &["uid"]), text(&object, &["metadata", "uid"]));
    if claimed != real {
        return refuse(format!("node {node} UID mismatch: expected {claimed} got {real}"));
    }
    match referenced(pod) {
        Some(what) => refuse(format!("node \"{node}\" can not create pods that reference {what}")),
        None => Ok(()),
    }
}

/// What of the API a pod refers to; mirror pods may not.
fn referenced(pod: &Value) -> Option<&'static str> {
    if !text(pod, &["spec", "serviceAccountName"]).is_empty() {
        return Some("serviceaccounts");
    }
    if !list(pod, &["spec", "imagePullSecrets"]).is_empty() {
        return Some("secrets");
    }
    for container in crate::core::pod::aggregate::all(&pod["spec"]) {
        for source in list(container, &["envFrom"]) {
            if source.get("secretRef").is_some() {
                return Some("secrets");
            }
            if source.get("configMapRef").is_some() {
                return Some("configmaps");
            }
        }
        for var in list(container, &["env"]) {
            if var["valueFrom"].get("secretKeyRef").is_some() {
                return Some("secrets");
            }
            if var["valueFrom"].get("configMapKeyRef").is_some() {
                return Some("configmaps");
            }
        }
    }
    for volume in list(pod, &["spec", "volumes"]) {
        for (field, what) in [
            ("secret", "secrets"),
            ("configMap", "configmaps"),
            ("persistentVolumeClaim", "persistentvolumeclaims"),
            ("ephemeral", "persistentvolumeclaims"),
            ("csi", "csidrivers (via CSI volumes)"),
        ] {
            if volume.get(field).is_some() {
                return Some(what);
            }
        }
        for source in list(volume, &["projected", "sources"]) {
            for (field, what) in [
                ("secret", "secrets"),
                ("configMap", "configmaps"),
                ("serviceAccountToken", "serviceaccounts"),
                ("clusterTrustBundle", "clustertrustbundles"),
            ] {
                if source.get(field).is_some() {
                    return Some(what);
                }
            }
        }
    }
    (!list(pod, &["spec", "resourceClaims"]).is_empty()).then_some("resourceclaims")
}

fn pod_status(write: &Write<'_>, node: &str) -> Result<(), Status> {
    let refuse = |why: String| Err(forbidden(write, why));
    let Some(old) = write.old else { return refuse("unexpected operation".to_owned()) };
    if text(old, &["spec", "nodeName"]) != node {
        return refuse(format!(
            "node \"{node}\" can only update pod status for pods with spec.nodeName set to itself"
        ));
    }
    if old["metadata"]["labels"] != write.object["metadata"]["labels"] {
        return refuse(format!("node \"{node}\" cannot update labels through pod status"));
    }
    if old["status"]["resourceClaimStatuses"] != write.object["status"]["resourceClaimStatuses"] {
        return refuse(format!("node \"{node}\" cannot update resource claim statues"));
    }
    Ok(())
}

fn node_object(write: &Write<'_>, node: &str) -> Result<(), Status> {
    let refuse = |why: String| Err(forbidden(write, why));
    let name = object_name(write);
    if name != node {
        return refuse(format!("node \"{node}\" is not allowed to modify node \"{name}\""));
    }
    let new = &*write.object;
    match (write.operation, write.old) {
        (Operation::Create, _) => {
            let wrong = forbidden_labels(&new["metadata"]["labels"], &Value::Null);
            if !wrong.is_empty() {
                let wrong = wrong.join(", ");
                return refuse(format!(
                    "node \"{node}\" is not allowed to set the following labels: {wrong}"
                ));
            }
        }
        (Operation::Update, Some(old)) => {
            if list(new, &["spec", "taints"]) != list(old, &["spec", "taints"]) {
                return refuse(format!("node \"{node}\" is not allowed to modify taints"));
            }
            if list(new, &["metadata", "ownerReferences"]) != list(old, &["metadata", "ownerReferences"]) {
                return refuse(format!("node \"{node}\" is not allowed to modify ownerReferences"));
            }
            let wrong = forbidden_labels(&new["metadata"]["labels"], &old["metadata"]["labels"]);
            if !wrong.is_empty() {
                return refuse(format!("is not allowed to modify labels: {}", wrong.join(", ")));
            }
        }
        _ => {}
    }
    Ok(())
}

/// The changed labels that are not a node's to change.
fn forbidden_labels(new: &Value, old: &Value) -> Vec<String> {
    let keys =
        |v: &Value| v.as_object().map(|m| m.keys().cloned().collect::<BTreeSet<_>>()).unwrap_or_default();
    let changed = keys(new).into_iter().chain(keys(old)).collect::<BTreeSet<_>>();
    changed.into_iter().filter(|key| new.get(key) != old.get(key)).filter(|key| !is_own_label(key)).collect()
}

fn is_own_label(key: &str) -> bool {
    let domain = key.split_once('/').map(|(domain, _)| domain).unwrap_or_default();
    let within = |parent: &str| domain == parent || domain.ends_with(&format!(".{parent}"));
    if within("node-restriction.kubernetes.io") {
        return false;
    }
    let of_kubernetes = within("kubernetes.io") || within("k8s.io");
    let of_kubelet = within("kubelet.kubernetes.io") || within("node.kubernetes.io");
    !of_kubernetes || of_kubelet || OWN_LABELS.contains(&key)
}

fn token(write: &Write<'_>, node: &str) -> Result<(), Status> {
    let refuse = |why: &str| Err(forbidden(write, why));
    if write.operation != Operation::Create {
        return Ok(());
    }
    let bound = |field: &str| text(write.object, &["spec", "boundObjectRef", field]);
    if bound("apiVersion") != "v1" || bound("kind") != "Pod" || bound("name").is_empty() {
        return refuse("node requested token not bound to a pod");
    }
    if bound("uid").is_empty() {
        return refuse("node requested token with a pod binding without a uid");
    }
    let pod = own_pod(write, bound("name"))?;
    if bound("uid") != text(&pod, &["metadata", "uid"]) {
        return refuse(&format!(
            "the UID in the bound object reference ({}) does not match the UID in record. The object might have been deleted and then recreated",
            bound("uid")
        ));
    }
    if text(&pod, &["spec", "nodeName"]) != node {
        return refuse("node requested token bound to a pod scheduled on a different node");
    }
    Ok(())
}

fn lease(write: &Write<'_>, node: &str) -> Result<(), Status> {
    if write.namespace != LEASES {
        return Err(forbidden(write, format!("can only access leases in the \"{LEASES}\" system namespace")));
    }
    if object_name(write) != node {
        let why = "can only access node lease with the same name as the requesting node";
        return Err(forbidden(write, why));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nodes_may_not_take_labels_that_place_pods() {
        for (key, own) in [
            ("kubernetes.io/hostname", true),
            ("example.com/zone", true),
            ("node.kubernetes.io/anything", true),
            ("node-role.kubernetes.io/control-plane", false),
            ("x.node-restriction.kubernetes.io/y", false),
            ("kubernetes.io/other", false),
        ] {
            assert_eq!(is_own_label(key), own, "{key}");
        }
        let same = json!({"kubernetes.io/other": "1"});
        assert!(forbidden_labels(&same, &same).is_empty());
    }
}
