//! The node authorizer (KEP-279's successor KEP-4601 with selectors): what a kubelet, `system:node:<name>`
//! in `system:nodes`, may do. It reads only what the pods bound to its node refer to. The answer is computed
//! from the live objects at each question; nothing needs to be kept in step.

use super::rules::Rule;
use crate::authorize::{Attributes, Authorizer, Decision};
use crate::request::Reader;
use serde_json::Value;
use std::sync::{Arc, LazyLock};

/// What every node may do beside the special cases (upstream's bootstrap node rules).
static NODE_RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    let core = |verbs: &[&str], resources: &[&str]| Rule::resources(verbs, "", resources);
    vec![
        Rule::resources(&["create"], "authentication.k8s.io", &["tokenreviews"]),
        Rule::resources(
            &["create"],
            "authorization.k8s.io",
            &["subjectaccessreviews", "localsubjectaccessreviews"],
        ),
        core(&["get", "list", "watch"], &["services"]),
        core(&["create", "patch", "update"], &["events"]),
        Rule::resources(&["create", "patch", "update"], "events.k8s.io", &["events"]),
        core(&["get"], &["endpoints"]),
        Rule::resources(
            &["create", "get", "list", "watch"],
            "certificates.k8s.io",
            &["certificatesigningrequests"],
        ),
        Rule::resources(&["get", "list", "watch"], "certificates.k8s.io", &["clustertrustbundles"]),
        Rule::resources(&["get", "list", "watch"], "storage.k8s.io", &["csidrivers"]),
        Rule::resources(&["get", "list", "watch"], "node.k8s.io", &["runtimeclasses"]),
    ]
});

/// The authorizer.
pub struct NodeAuthorizer {
    reader: Arc<dyn Reader>,
}

/// The node a user stands for: its name, or empty where the user is in the group but names none.
pub fn node_identity(user: &crate::request::UserInfo) -> Option<&str> {
    if !user.in_group("system:nodes") {
        return None;
    }
    user.name.strip_prefix("system:node:")
}

impl NodeAuthorizer {
    /// An authorizer over the objects of `reader`.
    pub fn new(reader: Arc<dyn Reader>) -> Self {
        Self { reader }
    }

    fn decide(&self, node: &str, a: &Attributes) -> Result<(), String> {
        if !a.is_resource {
            return Err(String::new());
        }
        match (a.group.as_str(), a.resource.as_str()) {
            ("", "secrets") => self.read_named(node, a, "secrets"),
            ("", "configmaps") => self.read_named(node, a, "configmaps"),
            ("", "persistentvolumeclaims") if a.subresource == "status" => self.update_status(node, a),
            ("", "persistentvolumeclaims") => self.get(node, a),
            ("", "persistentvolumes") | ("storage.k8s.io", "volumeattachments") => self.get(node, a),
            ("resource.k8s.io", "resourceclaims") => self.get(node, a),
            ("", "serviceaccounts") => self.service_account(node, a),
            ("coordination.k8s.io", "leases") => own_lease(node, a),
            ("storage.k8s.io", "csinodes") => own_object(node, a, "CSINode"),
            ("resource.k8s.io", "resourceslices") => self.resource_slice(node, a),
            ("", "nodes") => nodes(node, a),
            ("", "pods") => self.pods(node, a),
            _ if NODE_RULES.iter().any(|rule| rule.allows(a)) => Ok(()),
            _ => Err(String::new()),
        }
    }

    /// Reads of one named object that a pod of the node refers to.
    fn read_named(&self, node: &str, a: &Attributes, resource: &str) -> Result<(), String> {
        if !matches!(a.verb.as_str(), "get" | "list" | "watch") {
            return Err("can only read resources of this type".into());
        }
        if !a.subresource.is_empty() {
            return Err("cannot read subresource".into());
        }
        if a.namespace.is_empty() {
            return Err("can only read namespaced object of this type".into());
        }
        self.related(node, a, resource)
    }

    fn get(&self, node: &str, a: &Attributes) -> Result<(), String> {
        if a.verb != "get" {
            return Err("can only get individual resources of this type".into());
        }
        if !a.subresource.is_empty() {
            return Err("cannot get subresource".into());
        }
        self.related(node, a, &a.resource)
    }

    fn update_status(&self, node: &str, a: &Attributes) -> Result<(), String> {
        if !matches!(a.verb.as_str(), "update" | "patch") {
            return Err("can only get individual resources of this type".into());
        }
        self.related(node, a, &a.resource)
    }

    fn related(&self, node: &str, a: &Attributes, resource: &str) -> Result<(), String> {
        if a.name.is_empty() {
            return Err("No Object name found".into());
        }
        let found = match resource {
            "persistentvolumes" => self.uses_volume(node, &a.name),
            "volumeattachments" => self
                .reader
                .get("storage.k8s.io", "volumeattachments", "", &a.name)
                .is_some_and(|va| va["spec"]["nodeName"] == node),
            _ => self.pods_of(node, &a.namespace).iter().any(|pod| refers(pod, resource, &a.name)),
        };
        if found || (resource == "secrets" && self.volume_secret(node, a)) {
            return Ok(());
        }
        Err(format!("no relationship found between node '{node}' and this object"))
    }

    fn pods_of(&self, node: &str, namespace: &str) -> Vec<Arc<Value>> {
        self.reader.list_where("", "pods", namespace, "spec.nodeName", node)
    }

    /// Whether a pod of the node uses a claim that is bound to the volume.
    fn uses_volume(&self, node: &str, volume: &str) -> bool {
        let Some(pv) = self.reader.get("", "persistentvolumes", "", volume) else { return false };
        let claim = &pv["spec"]["claimRef"];
        let (Some(namespace), Some(name)) = (claim["namespace"].as_str(), claim["name"].as_str()) else {
            return false;
        };
        self.pods_of(node, namespace).iter().any(|pod| refers(pod, "persistentvolumeclaims", name))
    }

    /// Whether the secret is one that a volume of a pod on the node needs (CSI, RBD, Ceph, ...).
    fn volume_secret(&self, node: &str, a: &Attributes) -> bool {
        let volumes = self.reader.list("", "persistentvolumes", "");
        volumes.iter().any(|pv| {
            mentions_secret(&pv["spec"], &a.namespace, &a.name)
                && pv["metadata"]["name"].as_str().is_some_and(|name| self.uses_volume(node, name))
        })
    }

    fn service_account(&self, node: &str, a: &Attributes) -> Result<(), String> {
        if a.verb == "create" && a.subresource == "token" {
            return self.related(node, a, "serviceaccounts");
        }
        if a.verb == "get" && a.subresource.is_empty() {
            return self.related(node, a, "serviceaccounts");
        }
        Err("can only create tokens for individual service accounts".into())
    }

    fn pods(&self, node: &str, a: &Attributes) -> Result<(), String> {
        match (a.subresource.as_str(), a.verb.as_str()) {
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => Ok(()),
            ("", "get") => {
                let own = self.reader.get("", "pods", &a.namespace, &a.name);
                if own.is_some_and(|pod| pod["spec"]["nodeName"] == node) {
                    return Ok(());
                }
                Err(format!("no relationship found between node '{node}' and this object"))
            }
            ("", "list" | "watch") if selects(a, "spec.nodeName", node) => Ok(()),
            ("", "list" | "watch") => {
                Err("can only list/watch pods with spec.nodeName field selector".into())
            }
            _ => Err(String::new()),
        }
    }

    fn resource_slice(&self, node: &str, a: &Attributes) -> Result<(), String> {
        if !a.subresource.is_empty() {
            return Err("cannot authorize ResourceSlice subresources".into());
        }
        match a.verb.as_str() {
            "create" => Ok(()), // NodeRestriction checks the node name.
            "get" | "update" | "patch" | "delete" => {
                let slice = self.reader.get("resource.k8s.io", "resourceslices", "", &a.name);
                if slice.is_some_and(|s| s["spec"]["nodeName"] == node) {
                    return Ok(());
                }
                Err(format!("no relationship found between node '{node}' and this object"))
            }
            "list" | "watch" | "deletecollection" if selects(a, "spec.nodeName", node) => Ok(()),
            "list" | "watch" | "deletecollection" => {
                Err("can only list/watch/deletecollection resourceslices with spec.nodeName field selector".into())
            }
            _ => Err("only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection".into()),
        }
    }
}

impl Authorizer for NodeAuthorizer {
    fn authorize(&self, a: &Attributes) -> Decision {
        let Some(node) = node_identity(&a.user) else { return Decision::NoOpinion(String::new()) };
        if node.is_empty() {
            return Decision::NoOpinion(format!("unknown node for user {}", super::quoted(&a.user.name)));
        }
        match self.decide(node, a) {
            Ok(()) => Decision::Allow(String::new()),
            Err(reason) => Decision::NoOpinion(reason),
        }
    }
}

fn selects(a: &Attributes, field: &str, value: &str) -> bool {
    a.fields.iter().any(|(key, wanted)| key == field && wanted == value)
}

fn nodes(node: &str, a: &Attributes) -> Result<(), String> {
    match (a.subresource.as_str(), a.verb.as_str()) {
        // NodeRestriction keeps a node to itself for writes.
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Ok(()),
        ("", "get" | "list" | "watch") if a.name == node => Ok(()),
        ("", "get") => Err(format!("node '{node}' cannot read '{}', only its own Node object", a.name)),
        ("", "list" | "watch") => {
            Err(format!("node '{node}' cannot read all nodes, only its own Node object"))
        }
        _ => Err(String::new()),
    }
}

fn own_lease(node: &str, a: &Attributes) -> Result<(), String> {
    if !matches!(a.verb.as_str(), "get" | "create" | "update" | "patch" | "delete") {
        return Err("can only get, create, update, patch, or delete a node lease".into());
    }
    if a.namespace != "kube-node-lease" {
        return Err(format!(
            "can only access leases in the {} system namespace",
            super::quoted("kube-node-lease")
        ));
    }
    if a.verb != "create" && a.name != node {
        return Err("can only access node lease with the same name as the requesting node".into());
    }
    Ok(())
}

fn own_object(node: &str, a: &Attributes, kind: &str) -> Result<(), String> {
    if !matches!(a.verb.as_str(), "get" | "create" | "update" | "patch" | "delete") {
        return Err(format!("can only get, create, update, patch, or delete a {kind}"));
    }
    if !a.subresource.is_empty() {
        return Err(format!("cannot authorize {kind} subresources"));
    }
    if a.verb != "create" && a.name != node {
        return Err(format!("can only access {kind} with the same name as the requesting node"));
    }
    Ok(())
}

/// Whether a pod refers to a secret, config map, claim, service account or resource claim of that name in
/// its namespace.
fn refers(pod: &Value, resource: &str, name: &str) -> bool {
    let spec = &pod["spec"];
    match resource {
        "serviceaccounts" => spec["serviceAccountName"] == name,
        "resourceclaims" => {
            let in_spec = list(&spec["resourceClaims"]).any(|c| c["resourceClaimName"] == name);
            in_spec || list(&pod["status"]["resourceClaimStatuses"]).any(|c| c["resourceClaimName"] == name)
        }
        "persistentvolumeclaims" => list(&spec["volumes"]).any(|volume| {
            let generated = || {
                let pod_name = pod["metadata"]["name"].as_str().unwrap_or_default();
                format!("{pod_name}-{}", volume["name"].as_str().unwrap_or_default())
            };
            volume["persistentVolumeClaim"]["claimName"] == name
                || (volume["ephemeral"].is_object() && generated() == name)
        }),
        "secrets" => {
            list(&spec["imagePullSecrets"]).any(|s| s["name"] == name)
                || containers(spec).any(|c| container_refers(c, "secretRef", "secretKeyRef", name))
                || list(&spec["volumes"]).any(|v| volume_secret(v, name))
        }
        "configmaps" => {
            containers(spec).any(|c| container_refers(c, "configMapRef", "configMapKeyRef", name))
                || list(&spec["volumes"]).any(|v| {
                    v["configMap"]["name"] == name
                        || list(&v["projected"]["sources"]).any(|s| s["configMap"]["name"] == name)
                })
        }
        _ => false,
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn containers(spec: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(|field| list(&spec[field]))
}

fn container_refers(container: &Value, whole: &str, key: &str, name: &str) -> bool {
    list(&container["envFrom"]).any(|source| source[whole]["name"] == name)
        || list(&container["env"]).any(|env| env["valueFrom"][key]["name"] == name)
}

fn volume_secret(volume: &Value, name: &str) -> bool {
    volume["secret"]["secretName"] == name
        || list(&volume["projected"]["sources"]).any(|source| source["secret"]["name"] == name)
        || volume["azureFile"]["secretName"] == name
        || ["cephfs", "cinder", "flexVolume", "iscsi", "rbd", "scaleIO", "storageos"]
            .iter()
            .any(|kind| volume[*kind]["secretRef"]["name"] == name)
        || volume["csi"]["nodePublishSecretRef"]["name"] == name
}

/// Whether a persistent volume's source names the secret, in whichever field.
fn mentions_secret(spec: &Value, namespace: &str, name: &str) -> bool {
    let claim_namespace = spec["claimRef"]["namespace"].as_str().unwrap_or_default();
    let fields =
        spec.as_object().into_iter().flatten().filter_map(|(_, source)| source.as_object()).flatten();
    fields.filter(|(field, _)| field.ends_with("SecretRef") || *field == "secretRef").any(|(_, reference)| {
        reference["name"] == name
            && reference["namespace"].as_str().filter(|ns| !ns.is_empty()).unwrap_or(claim_namespace)
                == namespace
    })
}
