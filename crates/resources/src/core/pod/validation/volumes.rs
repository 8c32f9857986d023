//! Volumes of a pod: ValidateVolumes and the rules of each source.

use super::env::{field_ref, resource_ref};
use super::projected;
use crate::util::{Errs, Flag, Items, Number, Text};
use knarr_api::core::v1::{DownwardAPIVolumeFile, HostPathVolumeSource, KeyToPath, Volume};
use knarr_api::meta::v1::ObjectMeta;
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::quantity::Quantity;
use knarr_meta::validate;
use std::collections::BTreeMap;

/// What other rules need to know of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A PersistentVolumeClaim, by name or made for the pod: may be a block device.
    Claim,
    /// Anything else.
    Other,
}

/// The volumes without errors, by name.
pub type Volumes<'a> = BTreeMap<&'a str, Source>;

const MODE_DETAIL: &str = "must be a number between 0 and 0777 (octal), both inclusive";

/// Checks all volumes and returns the valid ones.
pub fn validate<'a>(
    volumes: &'a [Volume],
    meta: Option<&ObjectMeta>,
    path: &Path,
) -> (Volumes<'a>, ErrorList) {
    let mut errs = ErrorList::default();
    let mut valid = Volumes::new();
    let pod_name = meta.map(|m| m.name.text()).unwrap_or_default();
    let made_for_pod = |claim: &str| {
        !pod_name.is_empty()
            && volumes.iter().any(|v| v.ephemeral.is_some() && format!("{pod_name}-{}", v.name) == claim)
    };
    for (i, volume) in volumes.iter().enumerate() {
        let at = path.index(i);
        let name_path = || at.child("name");
        let mut own = source(volume, pod_name, &at);
        if volume.name.is_empty() {
            own.add_required(&name_path(), "");
        } else {
            own.add_all_at(name_path, &volume.name, validate::dns1123_label(&volume.name));
        }
        if valid.contains_key(volume.name.as_str()) {
            own.add_duplicate(&name_path(), &volume.name);
        }
        if own.is_empty() {
            let claim = volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some();
            valid.insert(&volume.name, if claim { Source::Claim } else { Source::Other });
        }
        errs.extend(own);
        if let Some(claim) = &volume.persistent_volume_claim
            && made_for_pod(&claim.claim_name)
        {
            let path = at.child("persistentVolumeClaim").child("claimName");
            let detail = "must not reference a PVC that gets created for an ephemeral volume";
            errs.add_invalid(&path, &claim.claim_name, detail);
        }
    }
    (valid, errs)
}

/// A field that must not be empty: JSON name and value.
fn need(errs: &mut ErrorList, path: &Path, fields: &[(&'static str, &str)]) {
    for (field, value) in fields {
        if value.is_empty() {
            errs.add_required(&path.child(*field), "");
        }
    }
}

fn partition(errs: &mut ErrorList, path: &Path, value: Option<i32>) {
    let value = value.number();
    if !(0..=255).contains(&value) {
        errs.add_invalid(&path.child("partition"), value, "must be between 1 and 255, inclusive");
    }
}

/// Checks the one source a volume must have. The rules run in upstream's order; of several sources only the
/// first is looked into.
fn source(volume: &Volume, pod_name: &str, path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    let mut count = 0;
    // Whether `field` is the first source; later ones are forbidden.
    let mut first = |errs: &mut ErrorList, field: &'static str| {
        count += 1;
        if count > 1 {
            errs.add_forbidden(&path.child(field), "may not specify more than 1 volume type");
        }
        count == 1
    };
    if let Some(v) = &volume.empty_dir {
        first(&mut errs, "emptyDir");
        let limit = v.size_limit.as_ref().and_then(|l| Quantity::parse(&l.0).ok());
        if limit.is_some_and(|l| l < Quantity::default()) {
            let path = path.child("emptyDir").child("sizeLimit");
            errs.add_forbidden(&path, "SizeLimit field must be a valid resource quantity");
        }
    }
    if let Some(v) = &volume.host_path
        && first(&mut errs, "hostPath")
    {
        host_path(&mut errs, v, &path.child("hostPath"));
    }
    if let Some(v) = &volume.git_repo
        && first(&mut errs, "gitRepo")
    {
        let path = path.child("gitRepo");
        need(&mut errs, &path, &[("repository", &v.repository)]);
        local_descending_path(&mut errs, v.directory.text(), &path.child("directory"));
    }
    if let Some(v) = &volume.gce_persistent_disk
        && first(&mut errs, "gcePersistentDisk")
    {
        let path = path.child("persistentDisk");
        need(&mut errs, &path, &[("pdName", &v.pd_name)]);
        partition(&mut errs, &path, v.partition);
    }
    if let Some(v) = &volume.aws_elastic_block_store
        && first(&mut errs, "awsElasticBlockStore")
    {
        let path = path.child("awsElasticBlockStore");
        need(&mut errs, &path, &[("volumeID", &v.volume_id)]);
        partition(&mut errs, &path, v.partition);
    }
    if let Some(v) = &volume.secret
        && first(&mut errs, "secret")
    {
        let path = path.child("secret");
        need(&mut errs, &path, &[("secretName", v.secret_name.text())]);
        mode(&mut errs, v.default_mode, &path.child("defaultMode"));
        keys(&mut errs, v.items.items(), &path.child("items"));
    }
    if let Some(v) = &volume.nfs
        && first(&mut errs, "nfs")
    {
        let path = path.child("nfs");
        need(&mut errs, &path, &[("server", &v.server), ("path", &v.path)]);
        if !v.path.starts_with('/') {
            errs.add_invalid(&path.child("path"), &v.path, "must be an absolute path");
        }
    }
    if let Some(v) = &volume.iscsi {
        if first(&mut errs, "iscsi") {
            errs.extend(iscsi(v, &path.child("iscsi")));
        }
        let portal = &v.target_portal;
        if v.initiator_name.is_some() && volume.name.len() + 1 + portal.len() > 64 {
            let detail = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";
            errs.add_invalid(&path.child("name"), &volume.name, detail);
        }
    }
    if let Some(v) = &volume.glusterfs
        && first(&mut errs, "glusterfs")
    {
        need(&mut errs, &path.child("glusterfs"), &[("endpoints", &v.endpoints), ("path", &v.path)]);
    }
    if let Some(v) = &volume.flocker
        && first(&mut errs, "flocker")
    {
        let path = path.child("flocker");
        let (name, uuid) = (v.dataset_name.text(), v.dataset_uuid.text());
        match (name.is_empty(), uuid.is_empty()) {
            (true, true) => errs.add_required(&path, "one of datasetName and datasetUUID is required"),
            (false, false) => {
                let detail = "resource";
                errs.add_invalid(
                    &path,
                    detail,
                    "datasetName and datasetUUID can not be specified simultaneously",
                );
            }
            _ => {}
        }
        if name.contains('/') {
            errs.add_invalid(&path.child("datasetName"), name, "must not contain '/'");
        }
    }
    if let Some(v) = &volume.persistent_volume_claim
        && first(&mut errs, "persistentVolumeClaim")
    {
        need(&mut errs, &path.child("persistentVolumeClaim"), &[("claimName", &v.claim_name)]);
    }
    if let Some(v) = &volume.rbd
        && first(&mut errs, "rbd")
    {
        let path = path.child("rbd");
        if v.monitors.is_empty() {
            errs.add_required(&path.child("monitors"), "");
        }
        need(&mut errs, &path, &[("image", &v.image)]);
    }
    if let Some(v) = &volume.cinder
        && first(&mut errs, "cinder")
    {
        let path = path.child("cinder");
        need(&mut errs, &path, &[("volumeID", &v.volume_id)]);
        if let Some(secret) = &v.secret_ref {
            need(&mut errs, &path.child("secretRef"), &[("name", &secret.name)]);
        }
    }
    if let Some(v) = &volume.cephfs
        && first(&mut errs, "cephFS")
        && v.monitors.is_empty()
    {
        errs.add_required(&path.child("cephfs").child("monitors"), "");
    }
    if let Some(v) = &volume.quobyte
        && first(&mut errs, "quobyte")
    {
        let path = path.child("quobyte");
        need(&mut errs, &path, &[("registry", &v.registry), ("volume", &v.volume)]);
    }
    if let Some(v) = &volume.downward_api
        && first(&mut errs, "downwarAPI")
    {
        let path = path.child("downwardAPI");
        mode(&mut errs, v.default_mode, &path.child("defaultMode"));
        for file in v.items.items() {
            downward_file(&mut errs, file, &path);
        }
    }
    if let Some(v) = &volume.fc
        && first(&mut errs, "fc")
    {
        let path = path.child("fc");
        let (wwns, ids) = (v.target_wwns.items(), v.wwids.items());
        let at = path.child("targetWWNs");
        match (wwns.is_empty(), ids.is_empty()) {
            (true, true) => errs.add_required(&at, "must specify either targetWWNs or wwids, but not both"),
            (false, false) => {
                errs.add_invalid(&at, wwns, "targetWWNs and wwids can not be specified simultaneously");
            }
            _ => {}
        }
        if !wwns.is_empty() {
            match v.lun {
                None => errs.add_required(&path.child("lun"), "lun is required if targetWWNs is specified"),
                Some(lun) if !(0..=255).contains(&lun) => {
                    errs.add_invalid(&path.child("lun"), lun, "must be between 0 and 255, inclusive");
                }
                Some(_) => {}
            }
        }
    }
    if let Some(v) = &volume.flex_volume
        && first(&mut errs, "flexVolume")
    {
        need(&mut errs, &path.child("flexVolume"), &[("driver", &v.driver)]);
    }
    if let Some(v) = &volume.config_map
        && first(&mut errs, "configMap")
    {
        let path = path.child("configMap");
        need(&mut errs, &path, &[("name", &v.name)]);
        mode(&mut errs, v.default_mode, &path.child("defaultMode"));
        keys(&mut errs, v.items.items(), &path.child("items"));
    }
    if let Some(v) = &volume.azure_file
        && first(&mut errs, "azureFile")
    {
        let path = path.child("azureFile");
        need(&mut errs, &path, &[("secretName", &v.secret_name), ("shareName", &v.share_name)]);
    }
    if let Some(v) = &volume.vsphere_volume
        && first(&mut errs, "vsphereVolume")
    {
        need(&mut errs, &path.child("vsphereVolume"), &[("volumePath", &v.volume_path)]);
    }
    if let Some(v) = &volume.photon_persistent_disk
        && first(&mut errs, "photonPersistentDisk")
    {
        need(&mut errs, &path.child("photonPersistentDisk"), &[("pdID", &v.pd_id)]);
    }
    if let Some(v) = &volume.portworx_volume
        && first(&mut errs, "portworxVolume")
    {
        need(&mut errs, &path.child("portworxVolume"), &[("volumeID", &v.volume_id)]);
    }
    if let Some(v) = &volume.azure_disk
        && first(&mut errs, "azureDisk")
    {
        let path = path.child("azureDisk");
        need(&mut errs, &path, &[("diskName", &v.disk_name), ("diskURI", &v.disk_uri)]);
    }
    if let Some(v) = &volume.storageos
        && first(&mut errs, "storageos")
    {
        need(&mut errs, &path.child("storageos"), &[("volumeName", v.volume_name.text())]);
    }
    if let Some(v) = &volume.projected
        && first(&mut errs, "projected")
    {
        errs.extend(projected::validate(v, &path.child("projected")));
    }
    if let Some(v) = &volume.scale_io
        && first(&mut errs, "scaleIO")
    {
        let fields =
            [("gateway", v.gateway.as_str()), ("system", &v.system), ("volumeName", v.volume_name.text())];
        need(&mut errs, &path.child("scaleIO"), &fields);
    }
    if let Some(v) = &volume.csi
        && first(&mut errs, "csi")
    {
        let path = path.child("csi");
        csi_driver_name(&mut errs, &v.driver, &path.child("driver"));
        if let Some(secret) = &v.node_publish_secret_ref {
            if secret.name.is_empty() {
                errs.add_required(&path.child("nodePublishSecretRef").child("name"), "");
            } else {
                errs.add_all(&path.child("name"), &secret.name, validate::dns1123_subdomain(&secret.name));
            }
        }
    }
    if let Some(v) = &volume.ephemeral
        && first(&mut errs, "ephemeral")
    {
        let at = path.child("ephemeral").child("volumeClaimTemplate");
        match &v.volume_claim_template {
            None => errs.add_required(&at, ""),
            Some(template) => {
                errs.extend(crate::core::persistentvolumeclaim::template(template, &at));
            }
        }
        if !pod_name.is_empty() && !volume.name.is_empty() {
            let claim = format!("{pod_name}-{}", volume.name);
            for message in validate::dns1123_subdomain(&claim) {
                let detail = format!("PVC name \"{claim}\": {message}");
                errs.add_invalid(&path.child("name"), &volume.name, detail);
            }
        }
    }
    if let Some(v) = &volume.image
        && first(&mut errs, "image")
    {
        let path = path.child("image");
        if v.reference.text().is_empty() {
            errs.add_required(&path.child("reference"), "");
        }
        let policies = &["Always", "IfNotPresent", "Never"];
        super::one_of(&mut errs, v.pull_policy.text(), policies, &path.child("pullPolicy"));
    }
    if count == 0 {
        errs.add_required(path, "must specify a volume type");
    }
    errs
}

fn iscsi(v: &knarr_api::core::v1::ISCSIVolumeSource, path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    need(&mut errs, path, &[("targetPortal", &v.target_portal), ("iqn", &v.iqn)]);
    let known = |name: &str| ["iqn", "eui", "naa"].iter().any(|p| name.starts_with(p));
    if !v.iqn.is_empty() && !known(&v.iqn) {
        errs.add_invalid(&path.child("iqn"), &v.iqn, "must be valid format starting with iqn, eui, or naa");
    }
    if !(0..=255).contains(&v.lun) {
        errs.add_invalid(&path.child("lun"), v.lun, "must be between 0 and 255, inclusive");
    }
    if (v.chap_auth_discovery.on() || v.chap_auth_session.on()) && v.secret_ref.is_none() {
        errs.add_required(&path.child("secretRef"), "");
    }
    if let Some(name) = &v.initiator_name
        && !known(name)
    {
        let detail = "must be valid format starting with iqn, eui, or naa";
        errs.add_invalid(&path.child("initiatorname"), name, detail);
    }
    errs
}

/// Errors of a path on the node.
pub fn host_path(errs: &mut ErrorList, source: &HostPathVolumeSource, path: &Path) {
    const TYPES: &[&str] = &[
        "",
        "BlockDevice",
        "CharDevice",
        "Directory",
        "DirectoryOrCreate",
        "File",
        "FileOrCreate",
        "Socket",
    ];
    if source.path.is_empty() {
        errs.add_required(&path.child("path"), "");
        return;
    }
    path_no_backsteps(errs, &source.path, &path.child("path"));
    if !TYPES.contains(&source.type_.text()) {
        errs.add_not_supported(&path.child("type"), source.type_.text(), TYPES);
    }
}

/// Errors of a CSI driver's name.
pub fn csi_driver_name(errs: &mut ErrorList, name: &str, path: &Path) {
    if name.is_empty() {
        errs.add_required(path, "");
        return;
    }
    if name.len() > 63 {
        errs.add_too_long(path, 63);
    }
    errs.add_all(path, name, validate::dns1123_subdomain(&name.to_lowercase()));
}

/// Errors of a file mode.
pub fn mode(errs: &mut ErrorList, mode: Option<i32>, path: &Path) {
    if let Some(mode) = mode
        && !(0..=0o777).contains(&mode)
    {
        errs.add_invalid(path, mode, MODE_DETAIL);
    }
}

fn keys(errs: &mut ErrorList, items: &[KeyToPath], path: &Path) {
    for (i, item) in items.iter().enumerate() {
        key_to_path(errs, item, &path.index(i));
    }
}

/// Errors of a key of a Secret or ConfigMap as a file.
pub fn key_to_path(errs: &mut ErrorList, item: &KeyToPath, path: &Path) {
    need(errs, path, &[("key", &item.key), ("path", &item.path)]);
    local_non_reserved_path(errs, &item.path, &path.child("path"));
    mode(errs, item.mode, &path.child("mode"));
}

/// Errors of a field of the pod as a file.
pub fn downward_file(errs: &mut ErrorList, file: &DownwardAPIVolumeFile, path: &Path) {
    const FIELDS: &[&str] =
        &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
    need(errs, path, &[("path", &file.path)]);
    local_non_reserved_path(errs, &file.path, &path.child("path"));
    match (&file.field_ref, &file.resource_field_ref) {
        (Some(field), resource) => {
            errs.extend(field_ref(field, FIELDS, &path.child("fieldRef")));
            if resource.is_some() {
                let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errs.add_invalid(path, "resource", detail);
            }
        }
        (None, Some(resource)) => {
            errs.extend(resource_ref(resource, true, &path.child("resourceFieldRef")));
        }
        (None, None) => errs.add_required(path, "one of fieldRef and resourceFieldRef is required"),
    }
    mode(errs, file.mode, &path.child("mode"));
}

/// A relative path that does not climb.
pub fn local_descending_path(errs: &mut ErrorList, target: &str, path: &Path) {
    if target.starts_with('/') {
        errs.add_invalid(path, target, "must be a relative path");
    }
    path_no_backsteps(errs, target, path);
}

/// A path without `..` as an element.
pub fn path_no_backsteps(errs: &mut ErrorList, target: &str, path: &Path) {
    if target.split('/').any(|part| part == "..") {
        errs.add_invalid(path, target, "must not contain '..'");
    }
}

/// A relative path that does not climb and does not start with two dots.
pub fn local_non_reserved_path(errs: &mut ErrorList, target: &str, path: &Path) {
    local_descending_path(errs, target, path);
    if target.starts_with("..") && !target.starts_with("../") {
        errs.add_invalid(path, target, "must not start with '..'");
    }
}
