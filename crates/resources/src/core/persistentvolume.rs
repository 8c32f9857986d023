//! PersistentVolumes: pkg/registry/core/persistentvolume.

use super::persistentvolumeclaim::{
    STORAGE_CLASS_ANNOTATION, VOLUME_MODES, access_modes, class, or_unset, phase, short_modes,
};
use super::pod::defaults;
use super::pod::validation::scheduling::node_selector;
use super::pod::validation::volumes;
use super::resource;
use crate::util::value::{ensure, list, object, set_default, text};
use crate::util::{Errs, Items, Pairs, Text, cells};
use knarr_api::core::v1::{
    CSIPersistentVolumeSource, NFSVolumeSource, PersistentVolume, PersistentVolumeSpec, SecretReference,
};
use knarr_apiserver::def::{ResourceDef, Strategy};
use knarr_apiserver::request::RequestCx;
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::quantity::Quantity;
use knarr_meta::{time, validate};
use serde_json::{Map, Value, json};
use std::time::SystemTime;

const RECLAIM_POLICIES: &[&str] = &["Delete", "Recycle", "Retain"];
const MOUNT_OPTIONS_ANNOTATION: &str = "volume.beta.kubernetes.io/mount-options";
/// The sources in upstream's order of checks.
const SOURCES: &[&str] = &[
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];
/// Sources whose plugins know no mount options.
const WITHOUT_MOUNT_OPTIONS: &[&str] =
    &["hostPath", "flocker", "fc", "flexVolume", "portworxVolume", "scaleIO", "local", "storageos", "csi"];
/// Sources that no longer work: field as upstream writes it in the warning, and since when.
const REMOVED: &[(&str, &str, &str)] = &[
    ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("photonPersistentDisk", "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("storageos", "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

struct PersistentVolumes;

impl Strategy for PersistentVolumes {
    type Object = PersistentVolume;

    fn default(&self, obj: &mut Value) {
        let obj = object(obj);
        set_default(ensure(obj, "status"), "phase", "Pending");
        let spec = ensure(obj, "spec");
        set_default(spec, "persistentVolumeReclaimPolicy", "Retain");
        set_default(spec, "volumeMode", "Filesystem");
        defaults::persistent_sources(spec);
    }

    fn prepare_for_create(&self, cx: &RequestCx, obj: &mut Value) {
        let now = time::rfc3339(cx.ctx.clock.now());
        object(obj).insert("status".to_owned(), json!({"phase": "Pending", "lastPhaseTransitionTime": now}));
    }

    fn prepare_for_status_update(&self, cx: &RequestCx, new: &mut Value, old: &Value) {
        let field = "lastPhaseTransitionTime";
        let changed = new["status"]["phase"] != old["status"]["phase"];
        let (own, was) = (new["status"][field].clone(), old["status"][field].clone());
        let status = ensure(object(new), "status");
        if changed && (own.is_null() || own == was) {
            status.insert(field.to_owned(), time::rfc3339(cx.ctx.clock.now()).into());
        } else if !changed && own.is_null() && !was.is_null() {
            status.insert(field.to_owned(), was);
        }
    }

    fn validate(&self, _cx: &RequestCx, obj: &PersistentVolume) -> ErrorList {
        let spec = obj.spec.clone().unwrap_or_default();
        let mut errs = validate_spec(&spec, &Path::new("spec"));
        let without = sources(&spec).keys().any(|source| WITHOUT_MOUNT_OPTIONS.contains(&source.as_str()));
        if without && obj.metadata.annotations.at(MOUNT_OPTIONS_ANNOTATION).is_some() {
            let at = Path::new("metadata").child("annotations").child(MOUNT_OPTIONS_ANNOTATION);
            errs.add_forbidden(&at, "may not specify mount options for this volume type");
        }
        errs
    }

    fn validate_update(&self, cx: &RequestCx, new: &PersistentVolume, old: &PersistentVolume) -> ErrorList {
        let mut errs = self.validate(cx, new);
        let (mut spec, was) = (new.spec.clone().unwrap_or_default(), old.spec.clone().unwrap_or_default());
        if let (Some(csi), Some(old)) = (&mut spec.csi, &was.csi)
            && old.controller_expand_secret_ref.is_none()
        {
            csi.controller_expand_secret_ref = None;
        }
        if sources(&spec) != sources(&was) {
            let at = Path::new("spec").child("persistentvolumesource");
            errs.add_forbidden(&at, "spec.persistentvolumesource is immutable after creation");
        }
        errs.add_changed(&Path::new("volumeMode"), &spec.volume_mode, &was.volume_mode);
        if was.node_affinity.is_some() && spec.node_affinity != was.node_affinity {
            let value = serde_json::to_value(&spec.node_affinity).unwrap_or_default();
            let detail = "field is immutable, except for updating from beta label to GA";
            errs.add_invalid(&Path::new("nodeAffinity"), value, detail);
        }
        if was.volume_attributes_class_name.is_some() && spec.volume_attributes_class_name.is_none() {
            let at = Path::new("spec").child("volumeAttributesClassName");
            errs.add_forbidden(&at, "update from non-nil value to nil is forbidden");
        }
        errs
    }

    fn warnings(
        &self,
        _cx: &RequestCx,
        new: &PersistentVolume,
        _old: Option<&PersistentVolume>,
    ) -> Vec<String> {
        let mut out = Vec::new();
        for (key, message) in [
            (STORAGE_CLASS_ANNOTATION, "deprecated since v1.8; use \"storageClassName\" attribute instead"),
            (MOUNT_OPTIONS_ANNOTATION, "deprecated since v1.31; use \"mountOptions\" attribute instead"),
        ] {
            if new.metadata.annotations.at(key).is_some() {
                out.push(format!("metadata.annotations[{key}]: {message}"));
            }
        }
        let Some(spec) = &new.spec else { return out };
        if spec.persistent_volume_reclaim_policy.text() == "Recycle" {
            out.push("spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.".to_owned());
        }
        let used = sources(spec);
        for (source, field, since) in REMOVED {
            if used.contains_key(*source) {
                out.push(format!("spec.{field}: {since}"));
            }
        }
        out
    }

    fn has_generation(&self) -> bool {
        false
    }
}

/// The sources that are set, by field.
fn sources(spec: &PersistentVolumeSpec) -> Map<String, Value> {
    let mut fields = match serde_json::to_value(spec) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    fields.retain(|field, _| SOURCES.contains(&field.as_str()));
    fields
}

fn validate_spec(spec: &PersistentVolumeSpec, path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    let modes = spec.access_modes.items();
    if modes.is_empty() {
        errs.add_required(&path.child("accessModes"), "");
    }
    access_modes(&mut errs, modes, &path.child("accessModes"));
    capacity(&mut errs, spec, &path.child("capacity"));
    let policy = spec.persistent_volume_reclaim_policy.text();
    if !policy.is_empty() && !RECLAIM_POLICIES.contains(&policy) {
        errs.add_not_supported(&path.child("persistentVolumeReclaimPolicy"), policy, RECLAIM_POLICIES);
    }
    if let Some(affinity) = &spec.node_affinity {
        let at = path.child("nodeAffinity").child("required");
        match &affinity.required {
            Some(selector) => errs.extend(node_selector(selector, &at)),
            None => errs.add_required(&at, "must specify required node constraints"),
        }
    }
    source(&mut errs, spec, path);
    let root = |p: &str| p.split('/').all(|part| part.is_empty() || part == ".");
    if policy == "Recycle" && spec.host_path.as_ref().is_some_and(|h| root(&h.path)) {
        let detail = "may not be 'recycle' for a hostPath mount of '/'";
        errs.add_forbidden(&path.child("persistentVolumeReclaimPolicy"), detail);
    }
    let class = spec.storage_class_name.text();
    if !class.is_empty() {
        errs.add_all(&path.child("storageClassName"), class, validate::dns1123_subdomain(class));
    }
    if let Some(mode) = &spec.volume_mode
        && !VOLUME_MODES.contains(&mode.as_str())
    {
        errs.add_not_supported(&path.child("volumeMode"), mode, VOLUME_MODES);
    }
    if let Some(class) = &spec.volume_attributes_class_name {
        let at = path.child("volumeAttributesClassName");
        if class.is_empty() {
            errs.add_required(&at, "an empty string is disallowed");
        } else {
            errs.add_all(&at, class, validate::dns1123_subdomain(class));
        }
        if spec.csi.is_none() {
            let detail = "has to be specified when using volumeAttributesClassName";
            errs.add_required(&path.child("csi"), detail);
        }
    }
    errs
}

fn capacity(errs: &mut ErrorList, spec: &PersistentVolumeSpec, path: &Path) {
    let count = spec.capacity.pairs().count();
    if count == 0 {
        errs.add_required(path, "");
    }
    if spec.capacity.at("storage").is_none() || count > 1 {
        let value = serde_json::to_value(&spec.capacity).unwrap_or_default();
        errs.add_not_supported(path, value, &["storage"]);
    }
    for (name, amount) in spec.capacity.pairs() {
        let at = path.key(name);
        let parsed = resource::parse(amount);
        if parsed.value() < 0 {
            errs.add_invalid(&at, parsed.value(), "must be a valid resource quantity");
        }
        if parsed <= Quantity::default() {
            errs.add_invalid(&at, &amount.0, "must be greater than zero");
        }
    }
}

/// Exactly one source; the ones that exist on nodes of today are looked at closely.
fn source(errs: &mut ErrorList, spec: &PersistentVolumeSpec, path: &Path) {
    let set = sources(spec);
    let mut found = SOURCES.iter().filter(|source| set.contains_key(**source));
    let Some(first) = found.next() else {
        errs.add_required(path, "must specify a volume type");
        return;
    };
    let at = path.child(*first);
    match *first {
        "hostPath" => spec.host_path.iter().for_each(|source| volumes::host_path(errs, source, &at)),
        "nfs" => spec.nfs.iter().for_each(|source| nfs(errs, source, &at)),
        "csi" => spec.csi.iter().for_each(|source| csi(errs, source, &at)),
        "local" => {
            let target = spec.local.as_ref().map(|l| l.path.as_str()).unwrap_or_default();
            if target.is_empty() {
                errs.add_required(&at.child("path"), "");
            } else {
                volumes::path_no_backsteps(errs, target, &at.child("path"));
            }
            if spec.node_affinity.is_none() {
                errs.add_required(&path.child("nodeAffinity"), "Local volume requires node affinity");
            }
        }
        _ => {}
    }
    for second in found {
        errs.add_forbidden(&path.child(*second), "may not specify more than 1 volume type");
    }
}

fn nfs(errs: &mut ErrorList, source: &NFSVolumeSource, path: &Path) {
    if source.server.is_empty() {
        errs.add_required(&path.child("server"), "");
    }
    if source.path.is_empty() {
        errs.add_required(&path.child("path"), "");
    }
    if !source.path.starts_with('/') {
        errs.add_invalid(&path.child("path"), &source.path, "must be an absolute path");
    }
}

fn csi(errs: &mut ErrorList, source: &CSIPersistentVolumeSource, path: &Path) {
    volumes::csi_driver_name(errs, &source.driver, &path.child("driver"));
    if source.volume_handle.is_empty() {
        errs.add_required(&path.child("volumeHandle"), "");
    }
    for (field, reference) in [
        ("controllerPublishSecretRef", &source.controller_publish_secret_ref),
        ("controllerExpandSecretRef", &source.controller_expand_secret_ref),
        ("nodePublishSecretRef", &source.node_publish_secret_ref),
        ("nodeExpandSecretRef", &source.node_expand_secret_ref),
    ] {
        if let Some(reference) = reference {
            secret(errs, reference, &path.child(field));
        }
    }
}

fn secret(errs: &mut ErrorList, reference: &SecretReference, path: &Path) {
    let (name, namespace) = (reference.name.text(), reference.namespace.text());
    if name.is_empty() {
        errs.add_required(&path.child("name"), "");
    } else {
        errs.add_all(&path.child("name"), name, validate::dns1123_subdomain(name));
    }
    if namespace.is_empty() {
        errs.add_required(&path.child("namespace"), "");
    } else {
        errs.add_all(&path.child("namespace"), namespace, validate::dns1123_label(namespace));
    }
}

fn cells(obj: &Value, now: SystemTime) -> Vec<Value> {
    let claim = &obj["spec"]["claimRef"];
    let claim = if claim.is_object() {
        format!("{}/{}", text(claim, &["namespace"]), text(claim, &["name"]))
    } else {
        String::new()
    };
    vec![
        cells::name(obj),
        obj["spec"]["capacity"].get("storage").and_then(Value::as_str).unwrap_or("0").into(),
        short_modes(list(obj, &["spec", "accessModes"])).into(),
        text(obj, &["spec", "persistentVolumeReclaimPolicy"]).into(),
        phase(obj).into(),
        claim.into(),
        class(obj).into(),
        or_unset(obj, "volumeAttributesClassName").into(),
        text(obj, &["status", "reason"]).into(),
        cells::age(obj, now),
        or_unset(obj, "volumeMode").into(),
    ]
}

/// The declaration.
pub fn def() -> ResourceDef {
    ResourceDef::new(PersistentVolumes)
        .status()
        .cells(cells)
        .selectable(&[("name", &["metadata", "name"], "")])
        .fixture(include_str!("testdata/persistentvolume.yaml"))
}
