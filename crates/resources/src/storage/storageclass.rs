//! StorageClasses (storage.k8s.io/v1): pkg/registry/storage/storageclass.

use crate::util::value::{flag, object, set_absent, text};
use crate::util::{Errs, Items, Pairs, Text, cells};
use knarr_api::core::v1::TopologySelectorTerm;
use knarr_api::storage::v1::StorageClass;
use knarr_apiserver::def::{ResourceDef, Strategy};
use knarr_apiserver::request::RequestCx;
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::validate;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::SystemTime;

const RECLAIM_POLICIES: &[&str] = &["Delete", "Retain"];
const BINDING_MODES: &[&str] = &["Immediate", "WaitForFirstConsumer"];
const MAX_PARAMETERS: usize = 512;
const MAX_PARAMETERS_SIZE: usize = 256 * 1024;
/// Annotations that make a class the default one.
pub const DEFAULT_ANNOTATIONS: &[&str] =
    &["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

struct StorageClasses;

impl Strategy for StorageClasses {
    type Object = StorageClass;

    fn default(&self, obj: &mut Value) {
        let obj = object(obj);
        set_absent(obj, "reclaimPolicy", "Delete");
        set_absent(obj, "volumeBindingMode", "Immediate");
    }

    fn validate(&self, _cx: &RequestCx, obj: &StorageClass) -> ErrorList {
        let mut errs = ErrorList::default();
        provisioner(&mut errs, &obj.provisioner, &Path::new("provisioner"));
        parameters(&mut errs, &obj.parameters, true, &Path::new("parameters"));
        let policy = obj.reclaim_policy.text();
        if !policy.is_empty() && !RECLAIM_POLICIES.contains(&policy) {
            errs.add_not_supported(&Path::new("reclaimPolicy"), policy, RECLAIM_POLICIES);
        }
        let at = Path::new("volumeBindingMode");
        match &obj.volume_binding_mode {
            None => errs.add_required(&at, ""),
            Some(mode) if !BINDING_MODES.contains(&mode.as_str()) => {
                errs.add_not_supported(&at, mode, BINDING_MODES);
            }
            Some(_) => {}
        }
        let terms = obj.allowed_topologies.items();
        for (i, term) in terms.iter().enumerate() {
            topology(&mut errs, term, &terms[..i], &Path::new("allowedTopologies").index(i));
        }
        errs
    }

    fn validate_update(&self, _cx: &RequestCx, new: &StorageClass, old: &StorageClass) -> ErrorList {
        let mut errs = ErrorList::default();
        errs.add_changed(&Path::new("parameters"), &new.parameters, &old.parameters);
        errs.add_changed(&Path::new("provisioner"), &new.provisioner, &old.provisioner);
        errs.add_changed(&Path::new("reclaimPolicy"), &new.reclaim_policy, &old.reclaim_policy);
        errs.add_changed(&Path::new("volumeBindingMode"), &new.volume_binding_mode, &old.volume_binding_mode);
        errs
    }

    fn has_generation(&self) -> bool {
        false
    }
}

/// Errors of a driver's or provisioner's name.
pub fn provisioner(errs: &mut ErrorList, name: &str, path: &Path) {
    if name.is_empty() {
        errs.add_required(path, "");
    } else {
        let name = name.to_lowercase();
        errs.add_all(path, &name, validate::qualified_name(&name));
    }
}

/// Errors of a driver's parameters.
pub fn parameters(
    errs: &mut ErrorList,
    parameters: &Option<BTreeMap<String, String>>,
    may_be_empty: bool,
    path: &Path,
) {
    if parameters.pairs().count() > MAX_PARAMETERS {
        errs.add_too_long(path, MAX_PARAMETERS);
        return;
    }
    if parameters.at("").is_some() {
        errs.add_invalid(path, "", "field can not be empty.");
    }
    let size: usize = parameters.pairs().map(|(key, value)| key.len() + value.len()).sum();
    if size > MAX_PARAMETERS_SIZE {
        errs.add_too_long(path, MAX_PARAMETERS_SIZE);
    }
    if !may_be_empty && parameters.pairs().next().is_none() {
        errs.add_required(path, "must contain at least one key/value pair");
    }
}

fn topology(errs: &mut ErrorList, term: &TopologySelectorTerm, before: &[TopologySelectorTerm], path: &Path) {
    let path = path.child("matchLabelExpressions");
    let expressions = term.match_label_expressions.items();
    for (i, expression) in expressions.iter().enumerate() {
        let path = path.index(i);
        let at = path.child("values");
        if expression.values.is_empty() {
            errs.add_required(&at, "");
        }
        for (i, value) in expression.values.iter().enumerate() {
            if expression.values[..i].contains(value) {
                errs.add_duplicate(&at.index(i), value);
            }
        }
        errs.add_all(&path.child("key"), &expression.key, validate::qualified_name(&expression.key));
        if expressions[..i].iter().any(|e| e.key == expression.key) {
            errs.add_duplicate(&path.child("key"), &expression.key);
        }
    }
    if before.contains(term) {
        errs.add_duplicate(&path, "");
    }
}

/// The name with ` (default)` behind that of the default class.
pub fn name_or_default(obj: &Value, annotations: &[&str]) -> Value {
    let name = text(obj, &["metadata", "name"]);
    let default = annotations.iter().any(|a| text(obj, &["metadata", "annotations", a]) == "true");
    if default { format!("{name} (default)").into() } else { name.into() }
}

fn cells(obj: &Value, now: SystemTime) -> Vec<Value> {
    vec![
        name_or_default(obj, DEFAULT_ANNOTATIONS),
        text(obj, &["provisioner"]).into(),
        text(obj, &["reclaimPolicy"]).into(),
        text(obj, &["volumeBindingMode"]).into(),
        flag(obj, &["allowVolumeExpansion"]).into(),
        cells::age(obj, now),
    ]
}

/// The declaration.
pub fn def() -> ResourceDef {
    ResourceDef::new(StorageClasses).cells(cells).fixture(include_str!("testdata/storageclass.yaml"))
}
