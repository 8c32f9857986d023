//! MutatingAdmissionPolicies (admissionregistration.k8s.io/v1, KEP-3962):
//! pkg/registry/admissionregistration/mutatingadmissionpolicy.

use super::policy::{self, Variables};
use super::rules::{self, REINVOCATION_POLICIES};
use super::{params, policy_cells, static_warnings};
use crate::expressions::Returns;
use crate::util::{Errs, Items, Text};
use knarr_api::admissionregistration::v1::{MutatingAdmissionPolicy, MutatingAdmissionPolicySpec, Mutation};
use knarr_apiserver::def::{ResourceDef, Strategy};
use knarr_apiserver::request::RequestCx;
use knarr_cel::Env;
use knarr_meta::field::{ErrorList, Path};
use serde_json::Value;
use std::time::SystemTime;

const PATCH_TYPES: &[&str] = &["ApplyConfiguration", "JSONPatch"];

struct MutatingAdmissionPolicies;

impl Strategy for MutatingAdmissionPolicies {
    type Object = MutatingAdmissionPolicy;

    fn default(&self, obj: &mut Value) {
        policy::default(obj);
    }

    fn validate(&self, cx: &RequestCx, obj: &MutatingAdmissionPolicy) -> ErrorList {
        let spec = obj.spec.clone().unwrap_or_default();
        let mut errs = validate_spec(&spec, None);
        authorize(cx, &mut errs, &spec, None);
        errs
    }

    fn validate_update(
        &self,
        cx: &RequestCx,
        new: &MutatingAdmissionPolicy,
        old: &MutatingAdmissionPolicy,
    ) -> ErrorList {
        let (spec, old) = (new.spec.clone().unwrap_or_default(), old.spec.clone().unwrap_or_default());
        let mut errs = validate_spec(&spec, Some(&old));
        authorize(cx, &mut errs, &spec, Some(&old));
        errs
    }

    fn warnings(
        &self,
        _cx: &RequestCx,
        new: &MutatingAdmissionPolicy,
        _old: Option<&MutatingAdmissionPolicy>,
    ) -> Vec<String> {
        static_warnings(new.metadata.name.text())
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

fn authorize(
    cx: &RequestCx,
    errs: &mut ErrorList,
    spec: &MutatingAdmissionPolicySpec,
    old: Option<&MutatingAdmissionPolicySpec>,
) {
    let Some(kind) = spec.param_kind.as_ref().filter(|_| errs.is_empty()) else { return };
    if old.is_some_and(|old| old.param_kind.as_ref() == Some(kind)) {
        return;
    }
    if let Err(text) = params::of_policy(cx, kind) {
        errs.add_forbidden(&Path::new("spec").child("paramKind"), text);
    }
}

fn validate_spec(spec: &MutatingAdmissionPolicySpec, old: Option<&MutatingAdmissionPolicySpec>) -> ErrorList {
    let mut errs = ErrorList::default();
    let path = Path::new("spec");
    let (kind, constraints) = (spec.param_kind.as_ref(), spec.match_constraints.as_ref());
    policy::head(&mut errs, spec.failure_policy.as_deref(), kind, constraints, &path);
    if let Some(constraints) = constraints {
        rules::mutating_operations(&mut errs, constraints, &path.child("matchConstraints"));
    }
    let unchanged = old.is_some_and(|old| {
        old.param_kind == spec.param_kind && old.match_conditions.items() == spec.match_conditions.items()
    });
    if !unchanged {
        let at = path.child("matchConditions");
        let conditions = spec.match_conditions.items();
        policy::match_conditions(&mut errs, conditions, kind.is_some(), &at);
    }
    let mut variables = Variables::new(kind.is_some(), true);
    for (i, variable) in spec.variables.items().iter().enumerate() {
        variables.add(&mut errs, variable, &path.child("variables").index(i));
    }
    let env = variables.env().with_patch_types();
    let mutations = spec.mutations.items();
    if mutations.is_empty() {
        errs.add_required(&path.child("mutations"), "mutations must contain at least one item");
    }
    for (i, mutation) in mutations.iter().enumerate() {
        validate_mutation(&mut errs, mutation, &env, &path.child("mutations").index(i));
    }
    let (policy, at) = (spec.reinvocation_policy.text(), path.child("reinvocationPolicy"));
    if policy.is_empty() {
        errs.add_required(&at, "");
    } else if !REINVOCATION_POLICIES.contains(&policy) {
        errs.add_not_supported(&at, policy, REINVOCATION_POLICIES);
    }
    errs
}

fn validate_mutation(errs: &mut ErrorList, mutation: &Mutation, env: &Env, path: &Path) {
    let json = mutation.json_patch.as_ref().map(|patch| patch.expression.text());
    let apply = mutation.apply_configuration.as_ref().map(|apply| apply.expression.text());
    let (wanted, given, returns, other, absent) = match mutation.patch_type.as_str() {
        "JSONPatch" => ("jsonPatch", json, Returns::Operations, "applyConfiguration", apply.is_none()),
        "ApplyConfiguration" => ("applyConfiguration", apply, Returns::Object, "jsonPatch", json.is_none()),
        "" => return errs.add_required(&path.child("patchType"), ""),
        patch_type => return errs.add_not_supported(&path.child("patchType"), patch_type, PATCH_TYPES),
    };
    let patch_type = &mutation.patch_type;
    match given {
        None => {
            errs.add_required(
                &path.child(wanted),
                format!("must be specified when patchType is {patch_type}"),
            );
        }
        Some(expression) if expression.trim().is_empty() => {
            errs.add_required(&path.child(wanted).child("expression"), "");
        }
        Some(expression) => {
            let at = path.child(wanted).child("expression");
            policy::expression(errs, env, expression.trim(), returns, &at);
        }
    }
    if !absent {
        let detail = format!("must not be specified when patchType is {patch_type}");
        errs.add_invalid(&path.child(other), format!("{{{other}}}"), detail);
    }
}

fn cells(obj: &Value, now: SystemTime) -> Vec<Value> {
    policy_cells(obj, "mutations", now)
}

/// The declaration.
pub fn def() -> ResourceDef {
    ResourceDef::new(MutatingAdmissionPolicies)
        .cells(cells)
        .fixture(include_str!("testdata/mutatingadmissionpolicy.yaml"))
}
