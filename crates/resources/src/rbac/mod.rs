//! The group rbac.authorization.k8s.io, v1: four kinds with the rules they share.

pub mod clusterrole;
pub mod clusterrolebinding;
pub mod role;
pub mod rolebinding;

use crate::util::value::{Object, each, list, object, set_default, text};
use crate::util::{Errs, Items, Text, cells};
use knarr_api::rbac::v1::{PolicyRule, RoleRef, Subject};
use knarr_apiserver::escalation;
use knarr_apiserver::request::RequestCx;
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::gvk::GroupResource;
use knarr_meta::status::Status;
use knarr_meta::validate;
use serde_json::{Value, json};
use std::time::SystemTime;

const GROUP: &str = "rbac.authorization.k8s.io";

/// Defaults of a binding: the group of the role and of users and groups.
fn default_binding(obj: &mut Value) {
    let obj = object(obj);
    if let Some(role) = obj.get_mut("roleRef").and_then(Value::as_object_mut) {
        set_default(role, "apiGroup", GROUP);
    }
    each(obj, "subjects", |subject| {
        if matches!(subject.get("kind").and_then(Value::as_str), Some("User" | "Group")) {
            set_default(subject, "apiGroup", GROUP);
        }
    });
}

/// Errors of a role's rules.
fn validate_rules(rules: &[PolicyRule], namespaced: bool) -> ErrorList {
    let mut errs = ErrorList::default();
    for (i, rule) in rules.iter().enumerate() {
        let path = Path::new("rules").index(i);
        if rule.verbs.is_empty() {
            errs.add_required(&path.child("verbs"), "verbs must contain at least one value");
        }
        let (groups, resources) = (rule.api_groups.items(), rule.resources.items());
        let urls = rule.non_resource_urls.items();
        if !urls.is_empty() {
            let path = path.child("nonResourceURLs");
            if namespaced {
                errs.add_invalid(&path, urls, "namespaced rules cannot apply to non-resource URLs");
            }
            if !groups.is_empty() || !resources.is_empty() || !rule.resource_names.items().is_empty() {
                let detail = "rules cannot apply to both regular resources and non-resource URLs";
                errs.add_invalid(&path, urls, detail);
            }
            continue;
        }
        if groups.is_empty() {
            errs.add_required(&path.child("apiGroups"), "resource rules must supply at least one api group");
        }
        if resources.is_empty() {
            errs.add_required(&path.child("resources"), "resource rules must supply at least one resource");
        }
    }
    errs
}

fn validate_binding(role: &RoleRef, subjects: &[Subject], namespaced: bool) -> ErrorList {
    let mut errs = ErrorList::default();
    let path = Path::new("roleRef");
    if role.api_group.text() != GROUP {
        errs.add_not_supported(&path.child("apiGroup"), role.api_group.text(), &[GROUP]);
    }
    let kinds: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    if !kinds.contains(&role.kind.as_str()) {
        errs.add_not_supported(&path.child("kind"), &role.kind, kinds);
    }
    if role.name.is_empty() {
        errs.add_required(&path.child("name"), "");
    } else {
        errs.add_all(&path.child("name"), &role.name, validate::path_segment_name(&role.name));
    }
    for (i, subject) in subjects.iter().enumerate() {
        validate_subject(&mut errs, subject, namespaced, &Path::new("subjects").index(i));
    }
    errs
}

fn validate_subject(errs: &mut ErrorList, subject: &Subject, namespaced: bool, path: &Path) {
    let (name, group) = (subject.name.as_str(), subject.api_group.text());
    if name.is_empty() {
        errs.add_required(&path.child("name"), "");
    }
    match subject.kind.as_str() {
        "ServiceAccount" => {
            if !name.is_empty() {
                errs.add_all(&path.child("name"), name, validate::dns1123_subdomain(name));
            }
            if !group.is_empty() {
                errs.add_not_supported(&path.child("apiGroup"), group, &[""]);
            }
            if !namespaced && subject.namespace.text().is_empty() {
                errs.add_required(&path.child("namespace"), "");
            }
        }
        "User" | "Group" => {
            if group != GROUP {
                errs.add_not_supported(&path.child("apiGroup"), group, &[GROUP]);
            }
        }
        other => {
            errs.add_not_supported(&path.child("kind"), other, &["ServiceAccount", "User", "Group"]);
        }
    }
}

fn validate_same_role(new: &RoleRef, old: &RoleRef) -> ErrorList {
    let mut errs = ErrorList::default();
    if new != old {
        let value = json!({"apiGroup": new.api_group, "kind": new.kind, "name": new.name});
        errs.add_invalid(&Path::new("roleRef"), value, "cannot change roleRef");
    }
    errs
}

/// Whether an update touches nothing but what the garbage collector needs.
fn only_gc_fields(new: &Value, old: &Value) -> bool {
    let strip = |obj: &Value| {
        let mut obj = obj.clone();
        if let Some(meta) = obj.get_mut("metadata").and_then(Value::as_object_mut) {
            for field in ["finalizers", "ownerReferences", "managedFields", "resourceVersion", "generation"] {
                meta.remove(field);
            }
        }
        obj
    };
    strip(new) == strip(old)
}

fn forbidden(cx: &RequestCx, obj: &Value, text: String) -> Status {
    Status::forbidden(&GroupResource::new(GROUP, cx.info.resource.clone()), name(obj), text)
}

fn name(obj: &Value) -> &str {
    text(obj, &["metadata", "name"])
}

/// Who writes a role holds what it grants.
fn confirm_role(cx: &RequestCx, obj: &Value) -> Result<(), Status> {
    escalation::confirm_role(cx, &obj["rules"]).map_err(|text| forbidden(cx, obj, text))
}

/// Who writes a binding holds what its role grants.
fn confirm_binding(cx: &RequestCx, obj: &Value) -> Result<(), Status> {
    escalation::confirm_binding(cx, &obj["roleRef"]).map_err(|text| forbidden(cx, obj, text))
}

fn role_cells(obj: &Value, _now: SystemTime) -> Vec<Value> {
    vec![cells::name(obj), cells::created(obj)]
}

fn binding_cells(obj: &Value, now: SystemTime) -> Vec<Value> {
    let subjects = |kind: &str| -> Value {
        let names: Vec<String> = list(obj, &["subjects"])
            .iter()
            .filter(|s| text(s, &["kind"]) == kind)
            .map(|s| match (kind, text(s, &["namespace"])) {
                ("ServiceAccount", namespace) if !namespace.is_empty() => {
                    format!("{namespace}/{}", text(s, &["name"]))
                }
                _ => text(s, &["name"]).to_owned(),
            })
            .collect();
        names.join(", ").into()
    };
    let role = format!("{}/{}", text(obj, &["roleRef", "kind"]), text(obj, &["roleRef", "name"]));
    vec![
        cells::name(obj),
        role.into(),
        cells::age(obj, now),
        subjects("User"),
        subjects("Group"),
        subjects("ServiceAccount"),
    ]
}

/// Whether a cluster role gathers rules of others.
fn aggregates(obj: &Value) -> bool {
    !list(obj, &["aggregationRule", "clusterRoleSelectors"]).is_empty()
}

fn everything() -> Value {
    let all: Object = [("verbs", json!(["*"])), ("apiGroups", json!(["*"])), ("resources", json!(["*"]))]
        .map(|(k, v)| (k.to_owned(), v))
        .into_iter()
        .collect();
    json!([all, {"verbs": ["*"], "nonResourceURLs": ["*"]}])
}
