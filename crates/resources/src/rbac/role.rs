//! Roles (rbac.authorization.k8s.io/v1): pkg/registry/rbac/role.

use super::{confirm_role, only_gc_fields, role_cells, validate_rules};
use crate::util::Items;
use futures_util::future::BoxFuture;
use knarr_api::rbac::v1::Role;
use knarr_apiserver::def::{Reservation, ResourceDef, Strategy};
use knarr_apiserver::request::RequestCx;
use knarr_meta::field::ErrorList;
use knarr_meta::status::Status;
use knarr_meta::validate;
use serde_json::Value;

struct Roles;

impl Strategy for Roles {
    type Object = Role;

    fn validate(&self, _cx: &RequestCx, obj: &Role) -> ErrorList {
        validate_rules(obj.rules.items(), true)
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        validate::path_segment_name(name)
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn has_generation(&self) -> bool {
        false
    }

    fn begin_create<'a>(
        &'a self,
        cx: &'a RequestCx,
        obj: &'a mut Value,
    ) -> BoxFuture<'a, Result<Option<Box<dyn Reservation>>, Status>> {
        Box::pin(async move { confirm_role(cx, obj).map(|()| None) })
    }

    fn begin_update<'a>(
        &'a self,
        cx: &'a RequestCx,
        new: &'a mut Value,
        old: &'a Value,
    ) -> BoxFuture<'a, Result<Option<Box<dyn Reservation>>, Status>> {
        Box::pin(async move {
            if !only_gc_fields(new, old) {
                confirm_role(cx, new)?;
            }
            Ok(None)
        })
    }
}

/// The declaration.
pub fn def() -> ResourceDef {
    ResourceDef::new(Roles).cells(role_cells).fixture(include_str!("testdata/role.yaml"))
}
