//! IngressClasses (networking.k8s.io/v1): pkg/registry/networking/ingressclass.

use crate::storage::storageclass::name_or_default;
use crate::util::value::{ensure, object, set_absent, sub, text};
use crate::util::{Errs, Text, cells};
use knarr_api::networking::v1::{IngressClass, IngressClassParametersReference};
use knarr_apiserver::def::{ResourceDef, Strategy};
use knarr_apiserver::request::RequestCx;
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::validate;
use serde_json::Value;
use std::time::SystemTime;

const MAX_CONTROLLER: usize = 250;
const DEFAULT_ANNOTATIONS: &[&str] = &["ingressclass.kubernetes.io/is-default-class"];

struct IngressClasses;

impl Strategy for IngressClasses {
    type Object = IngressClass;

    fn default(&self, obj: &mut Value) {
        if let Some(parameters) = sub(ensure(object(obj), "spec"), "parameters") {
            set_absent(parameters, "scope", "Cluster");
        }
    }

    fn validate(&self, _cx: &RequestCx, obj: &IngressClass) -> ErrorList {
        let mut errs = ErrorList::default();
        let spec = obj.spec.clone().unwrap_or_default();
        let path = Path::new("spec");
        let (controller, at) = (spec.controller.text(), path.child("controller"));
        if controller.len() > MAX_CONTROLLER {
            errs.add_too_long(&at, MAX_CONTROLLER);
        }
        domain_prefixed(&mut errs, controller, &at);
        if let Some(parameters) = &spec.parameters {
            parameters_reference(&mut errs, parameters, &path.child("parameters"));
        }
        errs
    }

    fn validate_update(&self, cx: &RequestCx, new: &IngressClass, old: &IngressClass) -> ErrorList {
        let mut errs = ErrorList::default();
        let controller = |c: &IngressClass| c.spec.as_ref().and_then(|s| s.controller.clone());
        let at = Path::new("spec").child("controller");
        errs.add_changed(&at, &controller(new), &controller(old));
        errs.extend(self.validate(cx, new));
        errs
    }
}

fn domain_prefixed(errs: &mut ErrorList, value: &str, path: &Path) {
    if value.is_empty() {
        errs.add_required(path, "");
        return;
    }
    match value.split_once('/') {
        Some((host, rest)) if !host.is_empty() && !rest.is_empty() => {
            errs.add_all(path, host, validate::dns1123_subdomain(host));
            let problems = validate::http_path(rest);
            errs.add_all(path, rest, problems);
        }
        _ => errs.add_invalid(path, value, "must be a domain-prefixed path (such as \"acme.io/foo\")"),
    }
}

/// Errors of a reference's group, kind and name.
pub fn typed_reference(errs: &mut ErrorList, group: Option<&str>, kind: &str, name: &str, path: &Path) {
    if let Some(group) = group {
        errs.add_all(&path.child("apiGroup"), group, validate::dns1123_subdomain(group));
    }
    for (field, value) in [("kind", kind), ("name", name)] {
        if value.is_empty() {
            errs.add_required(&path.child(field), "");
        } else {
            errs.add_all(&path.child(field), value, validate::path_segment_name(value));
        }
    }
}

fn parameters_reference(errs: &mut ErrorList, reference: &IngressClassParametersReference, path: &Path) {
    typed_reference(errs, reference.api_group.as_deref(), &reference.kind, &reference.name, path);
    let at = path.child("namespace");
    match (reference.scope.as_deref(), &reference.namespace) {
        (None, _) => errs.add_required(&path.child("scope"), ""),
        (Some("Namespace"), None) => errs.add_required(&at, "`parameters.scope` is set to 'Namespace'"),
        (Some("Namespace"), Some(namespace)) => {
            errs.add_all(&at, namespace, validate::dns1123_label(namespace));
        }
        (Some("Cluster"), Some(_)) => errs.add_forbidden(&at, "`parameters.scope` is set to 'Cluster'"),
        (Some("Cluster"), None) => {}
        (Some(other), _) => errs.add_not_supported(&path.child("scope"), other, &["Cluster", "Namespace"]),
    }
}

fn cells(obj: &Value, now: SystemTime) -> Vec<Value> {
    let parameters = &obj["spec"]["parameters"];
    let parameters = if parameters.is_object() {
        let group = parameters.get("apiGroup").and_then(Value::as_str);
        let group = group.map(|g| format!(".{g}")).unwrap_or_default();
        format!("{}{group}/{}", text(parameters, &["kind"]), text(parameters, &["name"]))
    } else {
        String::new()
    };
    vec![
        name_or_default(obj, DEFAULT_ANNOTATIONS),
        text(obj, &["spec", "controller"]).into(),
        cells::or_none(parameters),
        cells::age(obj, now),
    ]
}

/// The declaration.
pub fn def() -> ResourceDef {
    ResourceDef::new(IngressClasses).cells(cells).fixture(include_str!("testdata/ingressclass.yaml"))
}
