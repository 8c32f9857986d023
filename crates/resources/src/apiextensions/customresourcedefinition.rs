//! CustomResourceDefinitions (apiextensions.k8s.io/v1): upstream's `pkg/registry/customresourcedefinition`. What a
//! definition may say is told by `knarr_apiextensions::crd`; its conditions are kept by the controllers.

use knarr_api::Kind as _;
use knarr_api::apiextensions::v1::CustomResourceDefinition;
use knarr_apiextensions::crd;
use knarr_apiserver::def::{ResourceDef, Strategy};
use knarr_apiserver::request::RequestCx;
use knarr_meta::field::ErrorList;
use knarr_meta::{object, time};
use serde_json::{Value, json};

/// Held by every definition that is deleted, until its objects are gone.
const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

struct Definitions;

impl Strategy for Definitions {
    type Object = CustomResourceDefinition;

    fn default(&self, obj: &mut Value) {
        crd::default(obj);
    }

    fn prepare_for_create(&self, _cx: &RequestCx, obj: &mut Value) {
        object::set_path(obj, &["status"], json!({"acceptedNames": {"plural": "", "kind": ""}}));
        crd::mark_stored(obj);
    }

    fn validate(&self, _cx: &RequestCx, obj: &CustomResourceDefinition) -> ErrorList {
        crd::validate(&obj.to_value())
    }

    fn prepare_for_update(&self, _cx: &RequestCx, new: &mut Value, _old: &Value) {
        crd::mark_stored(new);
    }

    fn validate_update(
        &self,
        _cx: &RequestCx,
        new: &CustomResourceDefinition,
        old: &CustomResourceDefinition,
    ) -> ErrorList {
        crd::validate_update(&new.to_value(), &old.to_value())
    }

    fn validate_status_update(
        &self,
        _cx: &RequestCx,
        new: &CustomResourceDefinition,
        _old: &CustomResourceDefinition,
    ) -> ErrorList {
        crd::validate_status_update(&new.to_value())
    }

    fn warnings(
        &self,
        _cx: &RequestCx,
        new: &CustomResourceDefinition,
        old: Option<&CustomResourceDefinition>,
    ) -> Vec<String> {
        crd::warnings(&new.to_value(), old.map(|old| old.to_value()).as_ref())
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    /// A definition that is deleted for the first time stays until its objects are gone.
    fn has_finalizers(&self, obj: &Value) -> bool {
        !object::is_deleting(obj) || !object::finalizers(obj).is_empty()
    }

    fn mark_deleted(&self, cx: &RequestCx, obj: &mut Value) {
        if !object::has_finalizer(obj, FINALIZER) {
            let finalizers: Vec<String> =
                object::finalizers(obj).into_iter().chain([FINALIZER]).map(str::to_owned).collect();
            object::set_finalizers(obj, finalizers);
        }
        let condition = json!({"type": "Terminating", "status": "True",
            "lastTransitionTime": time::rfc3339(cx.ctx.clock.now()), "reason": "InstanceDeletionPending",
            "message": "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon"});
        let mut conditions = obj["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.retain(|known| known["type"] != "Terminating");
        conditions.push(condition);
        object::set_path(obj, &["status", "conditions"], conditions.into());
    }
}

/// The declaration.
pub fn def() -> ResourceDef {
    ResourceDef::new(Definitions).status().fixture(include_str!("testdata/customresourcedefinition.yaml"))
}
