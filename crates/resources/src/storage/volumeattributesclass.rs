//! VolumeAttributesClasses (storage.k8s.io/v1): pkg/registry/storage/volumeattributesclass.

use super::storageclass::{parameters, provisioner};
use crate::util::value::text;
use crate::util::{Errs, cells};
use knarr_api::storage::v1::VolumeAttributesClass;
use knarr_apiserver::def::{ResourceDef, Strategy};
use knarr_apiserver::request::RequestCx;
use knarr_meta::field::{ErrorList, Path};
use serde_json::Value;
use std::time::SystemTime;

struct VolumeAttributesClasses;

impl Strategy for VolumeAttributesClasses {
    type Object = VolumeAttributesClass;

    fn validate(&self, _cx: &RequestCx, obj: &VolumeAttributesClass) -> ErrorList {
        let mut errs = ErrorList::default();
        provisioner(&mut errs, &obj.driver_name, &Path::new("driverName"));
        parameters(&mut errs, &obj.parameters, false, &Path::new("parameters"));
        errs
    }

    fn validate_update(
        &self,
        cx: &RequestCx,
        new: &VolumeAttributesClass,
        old: &VolumeAttributesClass,
    ) -> ErrorList {
        let mut errs = ErrorList::default();
        if new.driver_name != old.driver_name {
            errs.add_forbidden(&Path::new("driverName"), "updates to driverName are forbidden.");
        }
        if new.parameters != old.parameters {
            errs.add_forbidden(&Path::new("parameters"), "updates to parameters are forbidden.");
        }
        errs.extend(self.validate(cx, new));
        errs
    }

    fn has_generation(&self) -> bool {
        false
    }
}

fn cells(obj: &Value, now: SystemTime) -> Vec<Value> {
    vec![cells::name(obj), text(obj, &["driverName"]).into(), cells::age(obj, now)]
}

/// The declaration.
pub fn def() -> ResourceDef {
    ResourceDef::new(VolumeAttributesClasses)
        .cells(cells)
        .fixture(include_str!("testdata/volumeattributesclass.yaml"))
}
