//! RoleBindings (rbac.authorization.k8s.io/v1): pkg/registry/rbac/rolebinding.

use super::{
    binding_cells, confirm_binding, default_binding, only_gc_fields, validate_binding, validate_same_role,
};
use crate::util::Items;
use futures_util::future::BoxFuture;
use knarr_api::rbac::v1::RoleBinding;
use knarr_apiserver::def::{Reservation, ResourceDef, Strategy};
use knarr_apiserver::request::RequestCx;
use knarr_meta::field::ErrorList;
use knarr_meta::status::Status;
use knarr_meta::validate;
use serde_json::Value;

struct RoleBindings;

impl Strategy for RoleBindings {
    type Object = RoleBinding;

    fn default(&self, obj: &mut Value) {
        default_binding(obj);
    }

    fn validate(&self, _cx: &RequestCx, obj: &RoleBinding) -> ErrorList {
        validate_binding(&obj.role_ref, obj.subjects.items(), true)
    }

    fn validate_update(&self, cx: &RequestCx, new: &RoleBinding, old: &RoleBinding) -> ErrorList {
        let mut errs = self.validate(cx, new);
        errs.extend(validate_same_role(&new.role_ref, &old.role_ref));
        errs
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
        Box::pin(async move { confirm_binding(cx, obj).map(|()| None) })
    }

    fn begin_update<'a>(
        &'a self,
        cx: &'a RequestCx,
        new: &'a mut Value,
        old: &'a Value,
    ) -> BoxFuture<'a, Result<Option<Box<dyn Reservation>>, Status>> {
        Box::pin(async move {
            if !only_gc_fields(new, old) {
                confirm_binding(cx, new)?;
            }
            Ok(None)
        })
    }
}

/// The declaration.
pub fn def() -> ResourceDef {
    ResourceDef::new(RoleBindings).cells(binding_cells).fixture(include_str!("testdata/rolebinding.yaml"))
}
