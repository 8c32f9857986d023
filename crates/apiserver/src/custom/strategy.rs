//! The behaviour of one served version of a custom resource, as the registry asks for it (upstream's
//! `customresource/strategy.go`): everything is decided by the definition, on JSON.

use super::codec::Family;
use crate::def::{Encoded, ErasedStrategy, Reservation, UntypedHooks};
use crate::request::RequestCx;
use futures_util::future::BoxFuture;
use knarr_apiextensions::{Coerce, Version};
use knarr_meta::field::ErrorList;
use knarr_meta::status::Status;
use serde_json::Value;
use std::sync::Arc;

/// See the module's documentation.
pub struct CustomStrategy {
    /// The definition.
    pub family: Arc<Family>,
    /// The version's place in it.
    pub version: usize,
}

impl CustomStrategy {
    fn own(&self) -> &Version {
        &self.family.definition.versions[self.version]
    }
}

impl ErasedStrategy for CustomStrategy {
    fn untyped(&self) -> &dyn UntypedHooks {
        self
    }

    fn validate(&self, _cx: &RequestCx, new: Encoded<'_>) -> Result<(ErrorList, Vec<String>), Status> {
        Ok((self.own().validate(new.value), self.own().warnings(new.value, None)))
    }

    fn validate_update(
        &self,
        _cx: &RequestCx,
        new: Encoded<'_>,
        old: Encoded<'_>,
    ) -> Result<(ErrorList, Vec<String>), Status> {
        let (errors, mut warnings) = self.own().check_update(new.value, old.value);
        warnings.extend(self.own().warnings(new.value, Some(old.value)));
        Ok((errors, warnings))
    }

    fn validate_status_update(
        &self,
        cx: &RequestCx,
        new: Encoded<'_>,
        old: Encoded<'_>,
    ) -> Result<ErrorList, Status> {
        let (errors, warnings) = self.own().check_status_update(new.value, old.value);
        warnings.into_iter().for_each(|warning| cx.warn(warning));
        Ok(errors)
    }

    fn coerce(&self, object: &mut Value, report: bool) -> Option<Result<Vec<String>, String>> {
        Some(self.own().coerce(object, Coerce::request(report)))
    }
}

impl UntypedHooks for CustomStrategy {
    fn default(&self, obj: &mut Value) {
        self.own().default(obj);
    }
    fn prepare_for_create(&self, _cx: &RequestCx, obj: &mut Value) {
        self.own().prepare_for_create(obj);
    }
    fn prepare_for_update(&self, _cx: &RequestCx, new: &mut Value, old: &Value) {
        self.own().prepare_for_update(new, old);
    }
    fn prepare_for_status_update(&self, _cx: &RequestCx, new: &mut Value, old: &Value) {
        self.own().prepare_for_status_update(new, old);
    }
    fn validate_name(&self, name: &str) -> Vec<String> {
        knarr_meta::validate::dns1123_subdomain(name)
    }
    fn allow_create_on_update(&self) -> bool {
        false
    }
    fn allow_unconditional_update(&self) -> bool {
        false
    }
    /// The definition's own rules set it.
    fn has_generation(&self) -> bool {
        false
    }
    fn grace_period(&self, _cx: &RequestCx, _obj: &Value, _requested: Option<i64>) -> Option<i64> {
        None
    }
    fn has_finalizers(&self, obj: &Value) -> bool {
        obj["metadata"]["finalizers"].as_array().is_some_and(|finalizers| !finalizers.is_empty())
    }
    fn mark_deleted(&self, _cx: &RequestCx, _obj: &mut Value) {}
    fn orphans_by_default(&self) -> bool {
        false
    }
    fn computed(&self) -> Option<&dyn crate::def::Computed> {
        None
    }
    fn ttl_seconds(&self, _obj: &Value) -> Option<u64> {
        None
    }
    fn begin_create<'a>(
        &'a self,
        _cx: &'a RequestCx,
        _obj: &'a mut Value,
    ) -> BoxFuture<'a, Result<Option<Box<dyn Reservation>>, Status>> {
        Box::pin(std::future::ready(Ok(None)))
    }
    fn begin_update<'a>(
        &'a self,
        _cx: &'a RequestCx,
        _new: &'a mut Value,
        _old: &'a Value,
    ) -> BoxFuture<'a, Result<Option<Box<dyn Reservation>>, Status>> {
        Box::pin(std::future::ready(Ok(None)))
    }
    fn after_delete<'a>(&'a self, _cx: &'a RequestCx, _obj: &'a Value) -> BoxFuture<'a, ()> {
        Box::pin(std::future::ready(()))
    }
}
