//! DeviceClasses (resource.k8s.io/v1): pkg/registry/resource/deviceclass.

use super::validation::{claim, each_of};
use crate::core::resource::is_extended;
use crate::util::{Errs, Items, cells};
use knarr_api::resource::v1::DeviceClass;
use knarr_apiserver::def::{ResourceDef, Strategy};
use knarr_apiserver::request::RequestCx;
use knarr_meta::field::{ErrorList, Path};
use serde_json::Value;
use std::time::SystemTime;

struct DeviceClasses;

impl Strategy for DeviceClasses {
    type Object = DeviceClass;

    fn validate(&self, _cx: &RequestCx, obj: &DeviceClass) -> ErrorList {
        validate(obj, None)
    }

    fn validate_update(&self, _cx: &RequestCx, new: &DeviceClass, old: &DeviceClass) -> ErrorList {
        validate(new, Some(old))
    }
}

fn validate(obj: &DeviceClass, old: Option<&DeviceClass>) -> ErrorList {
    let mut errs = ErrorList::default();
    let (spec, path) = (&obj.spec, Path::new("spec"));
    claim::selectors(&mut errs, spec.selectors.items(), &path.child("selectors"));
    // Parameters that were there before the limit was keep their size.
    let kept = old.is_some_and(|old| old.spec.config == spec.config);
    each_of(
        &mut errs,
        spec.config.items(),
        Some(claim::MAX_CONFIG),
        &path.child("config"),
        |errs, c, path| {
            claim::configuration(errs, c.opaque.as_ref(), path, kept);
        },
    );
    if let Some(name) = spec.extended_resource_name.as_ref().filter(|name| !is_extended(name)) {
        let at = path.child("extendedResourceName");
        errs.add_invalid(&at, name, "must be a valid extended resource name");
    }
    errs
}

fn cells(obj: &Value, now: SystemTime) -> Vec<Value> {
    vec![cells::name(obj), cells::age(obj, now)]
}

/// The declaration.
pub fn def() -> ResourceDef {
    ResourceDef::new(DeviceClasses).cells(cells).fixture(include_str!("testdata/deviceclass.yaml"))
}
