//! ServiceAccounts (core/v1): pkg/registry/core/serviceaccount. The `token` subresource is the token issuer's.

use crate::util::cells;
use crate::util::value::{Object, each, object};
use knarr_api::core::v1::ServiceAccount;
use knarr_apiserver::def::{ResourceDef, Strategy};
use knarr_apiserver::request::RequestCx;
use serde_json::Value;
use std::time::SystemTime;

struct ServiceAccounts;

impl Strategy for ServiceAccounts {
    type Object = ServiceAccount;

    fn prepare_for_create(&self, _cx: &RequestCx, obj: &mut Value) {
        names_only(object(obj));
    }

    fn prepare_for_update(&self, _cx: &RequestCx, new: &mut Value, _old: &Value) {
        names_only(object(new));
    }

    fn has_generation(&self) -> bool {
        false
    }
}

/// Of the references to secrets only the name counts.
fn names_only(obj: &mut Object) {
    each(obj, "secrets", |secret| secret.retain(|key, _| key == "name"));
}

fn cells(obj: &Value, now: SystemTime) -> Vec<Value> {
    vec![cells::name(obj), cells::age(obj, now)]
}

/// The declaration.
pub fn def() -> ResourceDef {
    ResourceDef::new(ServiceAccounts).cells(cells).fixture(include_str!("testdata/serviceaccount.yaml"))
}
