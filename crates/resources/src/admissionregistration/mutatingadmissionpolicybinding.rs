//! MutatingAdmissionPolicyBindings (admissionregistration.k8s.io/v1):
//! pkg/registry/admissionregistration/mutatingadmissionpolicybinding.

use super::{binding_cells, params, policy, rules, static_warnings};
use crate::util::{Errs, Text};
use knarr_api::admissionregistration::v1::{
    MutatingAdmissionPolicyBinding, MutatingAdmissionPolicyBindingSpec,
};
use knarr_apiserver::def::{ResourceDef, Strategy};
use knarr_apiserver::request::RequestCx;
use knarr_meta::field::{ErrorList, Path};
use serde_json::Value;

struct MutatingAdmissionPolicyBindings;

impl Strategy for MutatingAdmissionPolicyBindings {
    type Object = MutatingAdmissionPolicyBinding;

    fn default(&self, obj: &mut Value) {
        policy::default_binding(obj);
    }

    fn validate(&self, cx: &RequestCx, obj: &MutatingAdmissionPolicyBinding) -> ErrorList {
        check(cx, obj, None)
    }

    fn validate_update(
        &self,
        cx: &RequestCx,
        new: &MutatingAdmissionPolicyBinding,
        old: &MutatingAdmissionPolicyBinding,
    ) -> ErrorList {
        check(cx, new, old.spec.as_ref())
    }

    fn warnings(
        &self,
        _cx: &RequestCx,
        new: &MutatingAdmissionPolicyBinding,
        _old: Option<&MutatingAdmissionPolicyBinding>,
    ) -> Vec<String> {
        static_warnings(new.metadata.name.text())
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

fn check(
    cx: &RequestCx,
    obj: &MutatingAdmissionPolicyBinding,
    old: Option<&MutatingAdmissionPolicyBindingSpec>,
) -> ErrorList {
    let mut errs = ErrorList::default();
    let spec = obj.spec.clone().unwrap_or_default();
    let path = Path::new("spec");
    let (param, resources) = (spec.param_ref.as_ref(), spec.match_resources.as_ref());
    policy::binding(&mut errs, spec.policy_name.text(), param, resources, &path);
    if let Some(resources) = resources {
        rules::mutating_operations(&mut errs, resources, &path.child("matchResources"));
    }
    let Some(param) = param.filter(|_| errs.is_empty()) else { return errs };
    let same = |old: &MutatingAdmissionPolicyBindingSpec| {
        old.param_ref.as_ref() == Some(param) && old.policy_name == spec.policy_name
    };
    if !old.is_some_and(same)
        && let Err(text) = params::of_binding(cx, "mutatingadmissionpolicies", spec.policy_name.text(), param)
    {
        errs.add_forbidden(&path.child("paramRef"), text);
    }
    errs
}

/// The declaration.
pub fn def() -> ResourceDef {
    ResourceDef::new(MutatingAdmissionPolicyBindings)
        .cells(binding_cells)
        .fixture(include_str!("testdata/mutatingadmissionpolicybinding.yaml"))
}
