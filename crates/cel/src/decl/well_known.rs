//! The declared types of admission: `request` and `namespaceObject` (KEP-3488).

use super::DeclType;
use std::sync::Arc;

impl DeclType {
    /// `kubernetes.AdmissionRequest`: the type of `request`. Without `uid`, `object` and `oldObject`.
    pub fn request() -> Arc<Self> {
        let string = Self::string;
        let kind = Self::object(
            "kubernetes.GroupVersionKind",
            [("group", string()), ("version", string()), ("kind", string())],
        );
        let resource = Self::object(
            "kubernetes.GroupVersionResource",
            [("group", string()), ("version", string()), ("resource", string())],
        );
        let strings = Self::list(string(), -1);
        let user = Self::object(
            "kubernetes.UserInfo",
            [
                ("username", string()),
                ("uid", string()),
                ("groups", strings.clone()),
                ("extra", Self::map(string(), strings, -1)),
            ],
        );
        Self::object(
            "kubernetes.AdmissionRequest",
            [
                ("kind", kind.clone()),
                ("resource", resource.clone()),
                ("subResource", string()),
                ("requestKind", kind),
                ("requestResource", resource),
                ("requestSubResource", string()),
                ("name", string()),
                ("namespace", string()),
                ("operation", string()),
                ("userInfo", user),
                ("dryRun", Self::bool()),
                ("options", Self::dynamic()),
            ],
        )
    }

    /// `kubernetes.Namespace`: the type of `namespaceObject`, without what is of no use to a policy.
    pub fn namespace() -> Arc<Self> {
        let string = Self::string;
        let strings = || Self::list(string(), -1);
        let labels = || Self::map(string(), string(), -1);
        let metadata = Self::object(
            "kubernetes.NamespaceMetadata",
            [
                ("name", string()),
                ("generateName", string()),
                ("namespace", string()),
                ("labels", labels()),
                ("annotations", labels()),
                ("UID", string()),
                ("creationTimestamp", Self::timestamp()),
                ("deletionGracePeriodSeconds", Self::int()),
                ("deletionTimestamp", Self::timestamp()),
                ("generation", Self::int()),
                ("resourceVersion", string()),
                ("finalizers", strings()),
            ],
        );
        let condition = Self::object(
            "kubernetes.NamespaceCondition",
            [
                ("status", string()),
                ("type", string()),
                ("lastTransitionTime", Self::timestamp()),
                ("message", string()),
                ("reason", string()),
            ],
        );
        let spec = Self::object("kubernetes.NamespaceSpec", [("finalizers", strings())]);
        let status = Self::object(
            "kubernetes.NamespaceStatus",
            [("conditions", Self::list(condition, -1)), ("phase", string())],
        );
        Self::object("kubernetes.Namespace", [("metadata", metadata), ("spec", spec), ("status", status)])
    }
}
