//! ValidatingAdmissionPolicyBindings (admissionregistration.k8s.io/v1):
//! pkg/registry/admissionregistration/validatingadmissionpolicybinding.

use super::{binding_cells, params, policy, static_warnings};
use crate::util::{Errs, Text};
use knarr_api::admissionregistration::v1::{
    ValidatingAdmissionPolicyBinding, ValidatingAdmissionPolicyBindingSpec,
};
use knarr_apiserver::def::{ResourceDef, Strategy};
use knarr_apiserver::request::RequestCx;
use knarr_meta::field::{ErrorList, Path};
use serde_json::Value;

const ACTIONS: &[&str] = &["Audit", "Deny", "Warn"];

struct ValidatingAdmissionPolicyBindings;

impl Strategy for ValidatingAdmissionPolicyBindings {
    type Object = ValidatingAdmissionPolicyBinding;

    fn default(&self, obj: &mut Value) {
        policy::default_binding(obj);
    }

    fn validate(&self, cx: &RequestCx, obj: &ValidatingAdmissionPolicyBinding) -> ErrorList {
        check(cx, obj, None)
    }

    fn validate_update(
        &self,
        cx: &RequestCx,
        new: &ValidatingAdmissionPolicyBinding,
        old: &ValidatingAdmissionPolicyBinding,
    ) -> ErrorList {
        check(cx, new, Some(&old.spec))
    }

    fn warnings(
        &self,
        _cx: &RequestCx,
        new: &ValidatingAdmissionPolicyBinding,
        _old: Option<&ValidatingAdmissionPolicyBinding>,
    ) -> Vec<String> {
        static_warnings(new.metadata.name.text())
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

fn check(
    cx: &RequestCx,
    obj: &ValidatingAdmissionPolicyBinding,
    old: Option<&ValidatingAdmissionPolicyBindingSpec>,
) -> ErrorList {
    let mut errs = ErrorList::default();
    let spec = &obj.spec;
    let path = Path::new("spec");
    let (param, resources) = (spec.param_ref.as_ref(), spec.match_resources.as_ref());
    policy::binding(&mut errs, &spec.policy_name, param, resources, &path);
    actions(&mut errs, &spec.validation_actions, &path.child("validationActions"));
    let Some(param) = param.filter(|_| errs.is_empty()) else { return errs };
    let same = |old: &ValidatingAdmissionPolicyBindingSpec| {
        old.param_ref.as_ref() == Some(param) && old.policy_name == spec.policy_name
    };
    if !old.is_some_and(same)
        && let Err(text) = params::of_binding(cx, "validatingadmissionpolicies", &spec.policy_name, param)
    {
        errs.add_forbidden(&path.child("paramRef"), text);
    }
    errs
}

fn actions(errs: &mut ErrorList, actions: &[String], path: &Path) {
    for (i, action) in actions.iter().enumerate() {
        if !ACTIONS.contains(&action.as_str()) {
            errs.add_not_supported(&path.index(i), action, ACTIONS);
        }
        if actions[..i].contains(action) {
            errs.add_duplicate(&path.index(i), action);
        }
    }
    let has = |wanted: &str| actions.iter().any(|action| action == wanted);
    if has("Deny") && has("Warn") {
        let detail = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
        errs.add_invalid(path, actions, detail);
    }
    if actions.is_empty() {
        errs.add_required(path, "at least one validation action is required");
    }
}

/// The declaration.
pub fn def() -> ResourceDef {
    ResourceDef::new(ValidatingAdmissionPolicyBindings)
        .cells(binding_cells)
        .fixture(include_str!("testdata/validatingadmissionpolicybinding.yaml"))
}
