//! PersistentVolumeClaims: pkg/registry/core/persistentvolumeclaim.

use super::pod::validation::scheduling::label_selector;
use super::pod::validation::{annotation_map, label_map};
use super::resource;
use crate::util::value::{Object, ensure, object, set_default, sub, text};
use crate::util::{Errs, Items, Pairs, Text, cells};
use knarr_api::Quantity as ApiQuantity;
use knarr_api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, PersistentVolumeClaimTemplate,
    TypedLocalObjectReference, TypedObjectReference,
};
use knarr_api::meta::v1::ObjectMeta;
use knarr_apiserver::def::{ResourceDef, Strategy};
use knarr_apiserver::request::RequestCx;
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::quantity::Quantity;
use knarr_meta::validate;
use serde_json::{Value, json};
use std::time::SystemTime;

/// The annotation that named the storage class before `storageClassName`.
pub const STORAGE_CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
/// Modes of access, sorted.
pub const ACCESS_MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
/// Modes of a volume, sorted.
pub const VOLUME_MODES: &[&str] = &["Block", "Filesystem"];
const RESIZE_STATES: &[&str] = &[
    "ControllerResizeInProgress",
    "ControllerResizeInfeasible",
    "NodeResizeInProgress",
    "NodeResizeInfeasible",
    "NodeResizePending",
];

struct Claims;

impl Strategy for Claims {
    type Object = PersistentVolumeClaim;

    fn default(&self, obj: &mut Value) {
        default(object(obj));
    }

    fn prepare_for_create(&self, _cx: &RequestCx, obj: &mut Value) {
        object(obj).insert("status".to_owned(), json!({"phase": "Pending"}));
        data_sources(ensure(object(obj), "spec"), None);
    }

    fn prepare_for_update(&self, _cx: &RequestCx, new: &mut Value, old: &Value) {
        data_sources(ensure(object(new), "spec"), Some(&old["spec"]));
    }

    fn validate(&self, _cx: &RequestCx, obj: &PersistentVolumeClaim) -> ErrorList {
        validate_spec(&obj.spec.clone().unwrap_or_default(), &Path::new("spec"))
    }

    fn validate_update(
        &self,
        cx: &RequestCx,
        new: &PersistentVolumeClaim,
        old: &PersistentVolumeClaim,
    ) -> ErrorList {
        let mut errs = self.validate(cx, new);
        errs.extend(update(new, old));
        errs
    }

    fn validate_status_update(
        &self,
        _cx: &RequestCx,
        new: &PersistentVolumeClaim,
        _old: &PersistentVolumeClaim,
    ) -> ErrorList {
        let status = new.status.clone().unwrap_or_default();
        let mut errs = ErrorList::default();
        let path = Path::new("status");
        for (name, amount) in status.capacity.pairs() {
            basic(&mut errs, amount, &path.child("capacity").key(name));
        }
        let at = path.child("allocatedResourceStatuses");
        for (name, state) in status.allocated_resource_statuses.pairs() {
            errs.extend(resource_key(name, &at));
            if !RESIZE_STATES.contains(&state.as_str()) {
                errs.add_not_supported(&at, name, RESIZE_STATES);
            }
        }
        let at = path.child("allocatedResources");
        for (name, amount) in status.allocated_resources.pairs() {
            let problems = resource_key(name, &at);
            if problems.is_empty() {
                basic(&mut errs, amount, &at.key(name));
            }
            errs.extend(problems);
        }
        errs
    }

    fn warnings(
        &self,
        _cx: &RequestCx,
        new: &PersistentVolumeClaim,
        _old: Option<&PersistentVolumeClaim>,
    ) -> Vec<String> {
        let mut out = Vec::new();
        if new.metadata.annotations.at(STORAGE_CLASS_ANNOTATION).is_some() {
            out.push(format!(
                "metadata.annotations[{STORAGE_CLASS_ANNOTATION}]: deprecated since v1.8; use \"storageClassName\" attribute instead"
            ));
        }
        out.extend(new.spec.iter().flat_map(|spec| spec_warnings(spec, &Path::new("spec"))));
        out
    }

    fn has_generation(&self) -> bool {
        false
    }
}

/// Defaults of a claim, also in the claim templates of stateful sets.
pub fn default(claim: &mut Object) {
    set_default(ensure(claim, "status"), "phase", "Pending");
    set_default(ensure(claim, "spec"), "volumeMode", "Filesystem");
}

/// `dataSource` and `dataSourceRef` say the same; what neither can name is dropped, as is a source in another
/// namespace (the gate CrossNamespaceVolumeDataSource is off).
fn data_sources(spec: &mut Object, old: Option<&Value>) {
    let has = |spec: &Value, field: &str| spec.get(field).is_some_and(|v| !v.is_null());
    let abroad = sub(spec, "dataSourceRef")
        .is_some_and(|r| r.get("namespace").is_some_and(|n| !n.is_null() && n != ""));
    if abroad && !old.is_some_and(|old| has(old, "dataSourceRef")) {
        spec.remove("dataSourceRef");
    }
    let in_use = old.is_some_and(|old| has(old, "dataSource") || has(old, "dataSourceRef"));
    let value = |spec: &Object, field: &str| spec.get(field).filter(|v| !v.is_null()).cloned();
    if !in_use && value(spec, "dataSourceRef").is_none() {
        let known = value(spec, "dataSource").is_some_and(|source| {
            matches!(
                (text(&source, &["apiGroup"]), text(&source, &["kind"])),
                ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
            )
        });
        if !known {
            spec.remove("dataSource");
        }
    }
    match (value(spec, "dataSource"), value(spec, "dataSourceRef")) {
        (Some(source), None) => {
            spec.insert("dataSourceRef".to_owned(), source);
        }
        (None, Some(reference)) if text(&reference, &["namespace"]).is_empty() => {
            let mut source = reference;
            object(&mut source).remove("namespace");
            spec.insert("dataSource".to_owned(), source);
        }
        _ => {}
    }
}

/// Errors of access modes.
pub fn access_modes(errs: &mut ErrorList, modes: &[String], path: &Path) {
    let (mut once_pod, mut others) = (false, false);
    for mode in modes {
        if mode == "ReadWriteOncePod" {
            once_pod = true;
        } else if ACCESS_MODES.contains(&mode.as_str()) {
            others = true;
        } else {
            errs.add_not_supported(path, mode, ACCESS_MODES);
        }
    }
    if once_pod && others {
        errs.add_forbidden(path, "may not use ReadWriteOncePod with other access modes");
    }
}

/// Errors of a claim that a pod's volume is made from.
pub fn template(template: &PersistentVolumeClaimTemplate, path: &Path) -> ErrorList {
    let at = path.child("metadata");
    let meta = template.metadata.clone().unwrap_or_default();
    let mut errs = annotation_map(&meta, &at.child("annotations"));
    errs.extend(label_map(meta.labels.pairs(), &at.child("labels")));
    let others = ObjectMeta { labels: None, annotations: None, ..meta };
    if let Ok(Value::Object(fields)) = serde_json::to_value(&others) {
        for field in fields.keys() {
            errs.add_forbidden(&at.child(field.clone()), "cannot be set");
        }
    }
    errs.extend(validate_spec(&template.spec, &path.child("spec")));
    errs
}

/// Errors of a claim's spec.
pub fn validate_spec(spec: &PersistentVolumeClaimSpec, path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    let at = path.child("accessModes");
    if spec.access_modes.items().is_empty() {
        errs.add_required(&at, "at least 1 access mode is required");
    }
    if let Some(selector) = &spec.selector {
        errs.extend(label_selector(Some(selector), &path.child("selector")));
    }
    access_modes(&mut errs, spec.access_modes.items(), &at);
    let requests = spec.resources.as_ref().map(|r| r.requests.clone()).unwrap_or_default();
    let at = path.child("resources").key("storage");
    match requests.at("storage") {
        None => errs.add_required(&at, ""),
        Some(amount) if resource::parse(amount) <= Quantity::default() => {
            errs.add_invalid(&at, &amount.0, "must be greater than zero");
        }
        Some(amount) => errs.extend(resource::validate_value(&at, "storage", amount)),
    }
    class_name(&mut errs, &spec.storage_class_name, &path.child("storageClassName"));
    if let Some(mode) = &spec.volume_mode
        && !VOLUME_MODES.contains(&mode.as_str())
    {
        errs.add_not_supported(&path.child("volumeMode"), mode, VOLUME_MODES);
    }
    let (source, reference) = (&spec.data_source, &spec.data_source_ref);
    if let Some(TypedLocalObjectReference { api_group, kind, name }) = source {
        data_source(&mut errs, api_group.text(), kind, name, &path.child("dataSource"));
    }
    if let Some(TypedObjectReference { api_group, kind, name, namespace }) = reference {
        let path = path.child("dataSourceRef");
        data_source(&mut errs, api_group.text(), kind, name, &path);
        if !namespace.text().is_empty() {
            let problems = validate::dns1123_label(namespace.text());
            errs.add_all(&path.child("namespace"), namespace.text(), problems);
        }
    }
    if let (Some(source), Some(reference)) = (source, reference) {
        let value = path.child("dataSource").to_string();
        if !reference.namespace.text().is_empty() {
            let detail = "may not be specified when dataSourceRef.namespace is specified";
            errs.add_invalid(path, value, detail);
        } else if (&source.api_group, &source.kind, &source.name)
            != (&reference.api_group, &reference.kind, &reference.name)
        {
            errs.add_invalid(path, value, "must match dataSourceRef");
        }
    }
    let at = path.child("volumeAttributesClassName");
    class_name(&mut errs, &spec.volume_attributes_class_name, &at);
    errs
}

fn class_name(errs: &mut ErrorList, name: &Option<String>, path: &Path) {
    if !name.text().is_empty() {
        errs.add_all(path, name.text(), validate::dns1123_subdomain(name.text()));
    }
}

fn data_source(errs: &mut ErrorList, group: &str, kind: &str, name: &str, path: &Path) {
    if name.is_empty() {
        errs.add_required(&path.child("name"), "");
    }
    if kind.is_empty() {
        errs.add_required(&path.child("kind"), "");
    }
    if group.is_empty() {
        if kind != "PersistentVolumeClaim" {
            let detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
            errs.add_invalid(path, kind, detail);
        }
    } else {
        errs.add_all(&path.child("apiGroup"), group, validate::dns1123_subdomain(group));
    }
}

fn basic(errs: &mut ErrorList, amount: &ApiQuantity, path: &Path) {
    let value = resource::parse(amount).value();
    if value < 0 {
        errs.add_invalid(path, value, "must be a valid resource quantity");
    }
}

fn resource_key(name: &str, path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    errs.add_all(path, name, validate::qualified_name(name));
    if errs.is_empty() && resource::is_native(name) && name != "storage" {
        errs.add_not_supported(path, name, &["storage"]);
    }
    errs
}

fn request(claim: &PersistentVolumeClaim) -> Quantity {
    let resources = claim.spec.as_ref().and_then(|s| s.resources.as_ref());
    resources.and_then(|r| r.requests.at("storage")).map(resource::parse).unwrap_or_default()
}

fn update(new: &PersistentVolumeClaim, old: &PersistentVolumeClaim) -> ErrorList {
    let mut errs = ErrorList::default();
    let (mut spec, mut was) = (new.spec.clone().unwrap_or_default(), old.spec.clone().unwrap_or_default());
    let status = old.status.clone().unwrap_or_default();
    if was.volume_name.text().is_empty() {
        was.volume_name.clone_from(&spec.volume_name);
    }
    let (beta, old_beta) = (
        new.metadata.annotations.at(STORAGE_CLASS_ANNOTATION),
        old.metadata.annotations.at(STORAGE_CLASS_ANNOTATION),
    );
    let class = &spec.storage_class_name;
    let moved_from_annotation = old_beta.is_some()
        && was.storage_class_name.is_none()
        && class.as_ref() == old_beta
        && (beta.is_none() || beta == old_beta);
    if moved_from_annotation {
        spec.storage_class_name = None;
    } else {
        if beta != old_beta {
            let at = Path::new("metadata").child("annotations").key(STORAGE_CLASS_ANNOTATION);
            errs.add_invalid(&at, beta.cloned().unwrap_or_default(), "field is immutable");
        }
        let set_late = class.is_some()
            && was.storage_class_name.is_none()
            && (old_beta.is_none() || class.as_ref() == old_beta);
        if set_late {
            spec.storage_class_name = None;
        }
    }
    if status.phase.text() == "Bound" {
        let old_request = was.resources.as_ref().and_then(|r| r.requests.at("storage")).cloned();
        if let (Some(requests), Some(amount)) =
            (spec.resources.as_mut().and_then(|r| r.requests.as_mut()), old_request)
        {
            requests.insert("storage".to_owned(), amount);
        }
        spec.volume_attributes_class_name.clone_from(&was.volume_attributes_class_name);
    }
    if spec != was {
        let detail = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        errs.add_forbidden(&Path::new("spec"), detail);
    }
    let capacity = status.capacity.at("storage").map(resource::parse).unwrap_or_default();
    if request(new) < request(old) && request(new) <= capacity {
        let at = Path::new("spec").child("resources").child("requests").child("storage");
        errs.add_forbidden(&at, "field can not be less than status.capacity");
    }
    let (spec, was) = (new.spec.clone().unwrap_or_default(), old.spec.clone().unwrap_or_default());
    errs.add_changed(&Path::new("volumeMode"), &spec.volume_mode, &was.volume_mode);
    if spec.volume_attributes_class_name != was.volume_attributes_class_name
        && status.current_volume_attributes_class_name.is_some()
    {
        let to = match spec.volume_attributes_class_name.as_deref() {
            None => "nil",
            Some("") => "empty string",
            Some(_) => return errs,
        };
        let detail =
            format!("update to {to} is forbidden when status.currentVolumeAttributesClassName is not nil");
        errs.add_forbidden(&Path::new("spec").child("volumeAttributesClassName"), detail);
    }
    errs
}

/// Warnings about amounts that are no whole bytes.
pub fn spec_warnings(spec: &PersistentVolumeClaimSpec, path: &Path) -> Vec<String> {
    let resources = spec.resources.clone().unwrap_or_default();
    [("requests", &resources.requests), ("limits", &resources.limits)]
        .into_iter()
        .filter_map(|(field, amounts)| {
            let amount = resource::parse(amounts.at("storage")?);
            let at = path.child("resources").child(field).key("storage");
            (amount.milli_value() % 1000 != 0)
                .then(|| format!("{at}: fractional byte value \"{amount}\" is invalid, must be an integer"))
        })
        .collect()
}

/// Access modes as `RWO,ROX`.
pub fn short_modes(modes: &[Value]) -> String {
    let short = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let known: Vec<&str> =
        short.iter().filter(|(mode, _)| modes.iter().any(|m| m == mode)).map(|m| m.1).collect();
    known.join(",")
}

/// The storage class, by annotation or by field.
pub fn class(obj: &Value) -> &str {
    let beta = obj["metadata"]["annotations"].get(STORAGE_CLASS_ANNOTATION).and_then(Value::as_str);
    beta.unwrap_or_else(|| text(obj, &["spec", "storageClassName"]))
}

/// The phase as tables show it.
pub fn phase(obj: &Value) -> &str {
    if text(obj, &["metadata", "deletionTimestamp"]).is_empty() {
        text(obj, &["status", "phase"])
    } else {
        "Terminating"
    }
}

/// A field of the spec, or what upstream prints for an absent pointer.
pub fn or_unset<'a>(obj: &'a Value, field: &str) -> &'a str {
    obj["spec"].get(field).and_then(Value::as_str).unwrap_or("<unset>")
}

fn cells(obj: &Value, now: SystemTime) -> Vec<Value> {
    let volume = text(obj, &["spec", "volumeName"]);
    let (capacity, modes) = if volume.is_empty() {
        ("", String::new())
    } else {
        let capacity = obj["status"]["capacity"].get("storage").and_then(Value::as_str).unwrap_or("0");
        (capacity, short_modes(crate::util::value::list(obj, &["status", "accessModes"])))
    };
    vec![
        cells::name(obj),
        phase(obj).into(),
        volume.into(),
        capacity.into(),
        modes.into(),
        class(obj).into(),
        or_unset(obj, "volumeAttributesClassName").into(),
        cells::age(obj, now),
        or_unset(obj, "volumeMode").into(),
    ]
}

/// The declaration.
pub fn def() -> ResourceDef {
    ResourceDef::new(Claims)
        .status()
        .cells(cells)
        .selectable(&[("name", &["metadata", "name"], "")])
        .fixture(include_str!("testdata/persistentvolumeclaim.yaml"))
}
