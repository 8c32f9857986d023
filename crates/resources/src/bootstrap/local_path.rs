//! The identity of the provisioner of local paths: what it may do is what an external provisioner may, and to reach
//! nodes.

use serde_json::{Value, json};

const ACCOUNT: &str = "local-path-provisioner";
const ROLE: &str = "knarr:local-path-provisioner";

/// Account, role and binding.
pub fn objects() -> [Value; 3] {
    let rule = |group: &str, resources: &[&str], verbs: &[&str]| json!({ "apiGroups": [group], "resources": resources, "verbs": verbs });
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": { "name": ACCOUNT, "namespace": "kube-system" },
    });
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": { "name": ROLE },
        "rules": [
            rule("", &["persistentvolumes"], &["create", "delete", "update"]),
            rule("", &["persistentvolumeclaims", "persistentvolumeclaims/status"], &["update"]),
            rule("", &["nodes/proxy"], &["delete", "update"]),
            rule("storage.k8s.io", &["storageclasses"], &["create"]),
            json!({ "apiGroups": ["", "events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch", "update"] }),
        ],
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": { "name": ROLE },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": ROLE },
        "subjects": [{ "kind": "ServiceAccount", "name": ACCOUNT, "namespace": "kube-system" }],
    });
    [account, role, binding]
}
