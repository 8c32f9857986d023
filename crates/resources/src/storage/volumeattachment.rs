//! VolumeAttachments (storage.k8s.io/v1): pkg/registry/storage/volumeattachment.

use crate::core::pod::validation::volumes::csi_driver_name;
use crate::util::value::{flag, object, text};
use crate::util::{Errs, Pairs, cells};
use knarr_api::storage::v1::{VolumeAttachment, VolumeAttachmentSource, VolumeError};
use knarr_apiserver::def::{ResourceDef, Strategy};
use knarr_apiserver::request::RequestCx;
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::validate;
use serde_json::{Value, json};
use std::time::SystemTime;

const MAX_METADATA: usize = 256 * 1024;
const MAX_MESSAGE: usize = 1024;

struct VolumeAttachments;

impl Strategy for VolumeAttachments {
    type Object = VolumeAttachment;

    fn prepare_for_create(&self, _cx: &RequestCx, obj: &mut Value) {
        object(obj).insert("status".to_owned(), json!({"attached": false}));
    }

    fn validate(&self, _cx: &RequestCx, obj: &VolumeAttachment) -> ErrorList {
        let mut errs = ErrorList::default();
        let (spec, path) = (&obj.spec, Path::new("spec"));
        csi_driver_name(&mut errs, &spec.attacher, &path.child("attacher"));
        source(&mut errs, &spec.source, &path.child("source"));
        let node = &spec.node_name;
        errs.add_all(&path.child("nodeName"), node, validate::dns1123_subdomain(node));
        errs.extend(status(obj));
        errs
    }

    fn validate_update(&self, cx: &RequestCx, new: &VolumeAttachment, old: &VolumeAttachment) -> ErrorList {
        let mut errs = self.validate(cx, new);
        errs.add_changed(&Path::new("spec"), &new.spec, &old.spec);
        errs
    }

    fn validate_status_update(
        &self,
        _cx: &RequestCx,
        new: &VolumeAttachment,
        _old: &VolumeAttachment,
    ) -> ErrorList {
        status(new)
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn has_generation(&self) -> bool {
        false
    }
}

fn source(errs: &mut ErrorList, source: &VolumeAttachmentSource, path: &Path) {
    let detail = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    match (&source.inline_volume_spec, &source.persistent_volume_name) {
        (None, None) => errs.add_required(path, detail),
        (Some(_), Some(_)) => errs.add_forbidden(path, detail),
        (None, Some(name)) if name.is_empty() => {
            let detail = "must specify non empty persistentVolumeName";
            errs.add_required(&path.child("persistentVolumeName"), detail);
        }
        (None, Some(_)) => {}
        (Some(inline), None) => {
            let path = path.child("inlineVolumeSpec");
            if inline.claim_ref.is_some() {
                let detail = "may not be specified in the context of inline volumes";
                errs.add_forbidden(&path.child("claimRef"), detail);
            }
            if inline.csi.is_none() {
                let detail = "has to be specified in the context of inline volumes";
                errs.add_required(&path.child("csi"), detail);
            }
        }
    }
}

fn status(obj: &VolumeAttachment) -> ErrorList {
    let mut errs = ErrorList::default();
    let Some(status) = &obj.status else { return errs };
    let path = Path::new("status");
    let size: usize = status.attachment_metadata.pairs().map(|(k, v)| k.len() + v.len()).sum();
    if size > MAX_METADATA {
        errs.add_too_long(&path.child("attachmentMetadata"), MAX_METADATA);
    }
    volume_error(&mut errs, &status.attach_error, &path.child("attachError"));
    volume_error(&mut errs, &status.detach_error, &path.child("detachError"));
    errs
}

fn volume_error(errs: &mut ErrorList, error: &Option<VolumeError>, path: &Path) {
    let Some(error) = error else { return };
    if error.message.as_ref().is_some_and(|m| m.len() > MAX_MESSAGE) {
        errs.add_too_long(&path.child("message"), MAX_METADATA);
    }
    if let Some(code) = error.error_code.filter(|code| *code < 0) {
        let detail = validate::inclusive_range_error(0, i64::from(i32::MAX));
        errs.add_invalid(&path.child("errorCode"), code, detail);
    }
}

fn cells(obj: &Value, now: SystemTime) -> Vec<Value> {
    vec![
        cells::name(obj),
        text(obj, &["spec", "attacher"]).into(),
        text(obj, &["spec", "source", "persistentVolumeName"]).into(),
        text(obj, &["spec", "nodeName"]).into(),
        flag(obj, &["status", "attached"]).into(),
        cells::age(obj, now),
    ]
}

/// The declaration.
pub fn def() -> ResourceDef {
    ResourceDef::new(VolumeAttachments)
        .status()
        .cells(cells)
        .fixture(include_str!("testdata/volumeattachment.yaml"))
}
