//! IPAddresses (networking.k8s.io/v1, KEP-1880): each service address in use is one object, whose name makes
//! it unique. pkg/registry/networking/ipaddress.

use crate::util::value::text;
use crate::util::{Errs, Text, cells};
use knarr_api::networking::v1::{IPAddress, ParentReference};
use knarr_apiserver::def::{ResourceDef, Strategy};
use knarr_apiserver::request::RequestCx;
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::validate;
use serde_json::Value;
use std::time::SystemTime;

struct IpAddresses;

impl Strategy for IpAddresses {
    type Object = IPAddress;

    fn validate(&self, _cx: &RequestCx, obj: &IPAddress) -> ErrorList {
        let mut errs = ErrorList::default();
        let path = Path::new("spec").child("parentRef");
        let parent = &obj.spec.parent_ref;
        if *parent == ParentReference::default() {
            errs.add_required(&path, "");
            return errs;
        }
        let group = parent.group.text();
        if !group.is_empty() {
            errs.add_all(&path.child("group"), group, validate::dns1123_subdomain(group));
        }
        for (field, value, required) in [
            ("resource", parent.resource.as_str(), true),
            ("name", parent.name.as_str(), true),
            ("namespace", parent.namespace.text(), false),
        ] {
            if !value.is_empty() {
                errs.add_all(&path.child(field), value, validate::path_segment_name(value));
            } else if required {
                errs.add_required(&path.child(field), "");
            }
        }
        errs
    }

    fn validate_update(&self, _cx: &RequestCx, new: &IPAddress, old: &IPAddress) -> ErrorList {
        let mut errs = ErrorList::default();
        if new.spec != old.spec {
            let value = serde_json::to_value(&new.spec.parent_ref).unwrap_or_default();
            errs.add_invalid(&Path::new("spec").child("parentRef"), value, "field is immutable");
        }
        errs
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        validate::ip(name)
    }

    fn has_generation(&self) -> bool {
        false
    }
}

fn cells(obj: &Value, _now: SystemTime) -> Vec<Value> {
    let part = |field: &str| text(obj, &["spec", "parentRef", field]);
    let mut parent = String::new();
    if !part("resource").is_empty() {
        parent = part("resource").to_lowercase();
        for (separator, field) in [(".", "group"), ("/", "namespace"), ("/", "name")] {
            if !part(field).is_empty() {
                parent = format!("{parent}{separator}{}", part(field));
            }
        }
    }
    vec![cells::name(obj), cells::or_none(parent)]
}

/// The declaration.
pub fn def() -> ResourceDef {
    ResourceDef::new(IpAddresses)
        .cells(cells)
        .selectable(&[
            ("spec.parentRef.group", &["spec", "parentRef", "group"], ""),
            ("spec.parentRef.resource", &["spec", "parentRef", "resource"], ""),
            ("spec.parentRef.namespace", &["spec", "parentRef", "namespace"], ""),
            ("spec.parentRef.name", &["spec", "parentRef", "name"], ""),
        ])
        .fixture(include_str!("testdata/ipaddress.yaml"))
}
