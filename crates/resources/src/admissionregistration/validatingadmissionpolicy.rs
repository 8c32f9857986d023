//! ValidatingAdmissionPolicies (admissionregistration.k8s.io/v1, KEP-3488):
//! pkg/registry/admissionregistration/validatingadmissionpolicy.

use super::policy::{self, Variables};
use super::{params, policy_cells, static_warnings};
use crate::expressions::Returns;
use crate::util::value::{keep, object};
use crate::util::{Errs, Items, Text, conditions};
use knarr_api::admissionregistration::v1::{
    AuditAnnotation, ValidatingAdmissionPolicy, ValidatingAdmissionPolicySpec, Validation,
};
use knarr_apiserver::def::{ResourceDef, Strategy};
use knarr_apiserver::request::RequestCx;
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::validate;
use serde_json::{Value, json};
use std::time::SystemTime;

const REASONS: &[&str] = &["Forbidden", "Invalid", "RequestEntityTooLarge"];
const MAX_ANNOTATIONS: usize = 20;
/// Half of what the value of an annotation may have: what an expression makes is often longer than itself.
const MAX_ANNOTATION_EXPRESSION_BYTES: usize = 5 * 1024;
const NOTHING: &str = "validations or auditAnnotations must contain at least one item";

struct ValidatingAdmissionPolicies;

impl Strategy for ValidatingAdmissionPolicies {
    type Object = ValidatingAdmissionPolicy;

    fn default(&self, obj: &mut Value) {
        policy::default(obj);
    }

    fn prepare_for_create(&self, _cx: &RequestCx, obj: &mut Value) {
        object(obj).insert("status".to_owned(), json!({}));
    }

    fn prepare_for_status_update(&self, _cx: &RequestCx, new: &mut Value, old: &Value) {
        super::keep_metadata(new, old);
        keep(new, old, "spec");
    }

    fn validate(&self, cx: &RequestCx, obj: &ValidatingAdmissionPolicy) -> ErrorList {
        let spec = obj.spec.clone().unwrap_or_default();
        let mut errs = validate_spec(&spec, obj.metadata.name.text(), None);
        authorize(cx, &mut errs, &spec, None);
        errs
    }

    fn validate_update(
        &self,
        cx: &RequestCx,
        new: &ValidatingAdmissionPolicy,
        old: &ValidatingAdmissionPolicy,
    ) -> ErrorList {
        let spec = new.spec.clone().unwrap_or_default();
        let old = old.spec.clone().unwrap_or_default();
        let mut errs = validate_spec(&spec, new.metadata.name.text(), Some(&old));
        authorize(cx, &mut errs, &spec, Some(&old));
        errs
    }

    fn validate_status_update(
        &self,
        _cx: &RequestCx,
        new: &ValidatingAdmissionPolicy,
        _old: &ValidatingAdmissionPolicy,
    ) -> ErrorList {
        let mut errs = ErrorList::default();
        let status = new.status.clone().unwrap_or_default();
        let path = Path::new("status");
        let warnings = status.type_checking.as_ref().map_or(&[][..], |t| t.expression_warnings.items());
        for (i, warning) in warnings.iter().enumerate() {
            let at = path.child("typeChecking").child("expressionWarnings").index(i);
            if warning.warning.is_empty() {
                errs.add_required(&at.child("warning"), "");
            }
            if warning.field_ref.trim().is_empty() {
                errs.add_required(&at.child("fieldRef"), "");
            }
        }
        errs.extend(conditions::validate(&status.conditions, &path.child("conditions")));
        errs
    }

    fn warnings(
        &self,
        _cx: &RequestCx,
        new: &ValidatingAdmissionPolicy,
        _old: Option<&ValidatingAdmissionPolicy>,
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
    spec: &ValidatingAdmissionPolicySpec,
    old: Option<&ValidatingAdmissionPolicySpec>,
) {
    let Some(kind) = spec.param_kind.as_ref().filter(|_| errs.is_empty()) else { return };
    if old.is_some_and(|old| old.param_kind.as_ref() == Some(kind)) {
        return;
    }
    if let Err(text) = params::of_policy(cx, kind) {
        errs.add_forbidden(&Path::new("spec").child("paramKind"), text);
    }
}

fn validate_spec(
    spec: &ValidatingAdmissionPolicySpec,
    name: &str,
    old: Option<&ValidatingAdmissionPolicySpec>,
) -> ErrorList {
    let mut errs = ErrorList::default();
    let path = Path::new("spec");
    let kind = spec.param_kind.as_ref();
    policy::head(&mut errs, spec.failure_policy.as_deref(), kind, spec.match_constraints.as_ref(), &path);
    let unchanged = old.is_some_and(|old| {
        old.param_kind == spec.param_kind && old.match_conditions.items() == spec.match_conditions.items()
    });
    if !unchanged {
        let at = path.child("matchConditions");
        let conditions = spec.match_conditions.items();
        policy::match_conditions(&mut errs, conditions, kind.is_some(), &at);
    }
    let mut variables = Variables::new(kind.is_some(), false);
    for (i, variable) in spec.variables.items().iter().enumerate() {
        variables.add(&mut errs, variable, &path.child("variables").index(i));
    }
    let (validations, annotations) = (spec.validations.items(), spec.audit_annotations.items());
    if validations.is_empty() && annotations.is_empty() {
        errs.add_required(&path.child("validations"), NOTHING);
        errs.add_required(&path.child("auditAnnotations"), NOTHING);
        return errs;
    }
    for (i, validation) in validations.iter().enumerate() {
        validate_validation(&mut errs, validation, &variables, &path.child("validations").index(i));
    }
    let at = path.child("auditAnnotations");
    if annotations.len() > MAX_ANNOTATIONS {
        let value = serde_json::to_value(annotations).unwrap_or_default();
        errs.add_invalid(&at, value, format!("must not have more than {MAX_ANNOTATIONS} auditAnnotations"));
    }
    for (i, annotation) in annotations.iter().enumerate() {
        validate_annotation(&mut errs, name, annotation, &variables, &at.index(i));
        if annotations[..i].iter().any(|other| other.key == annotation.key) {
            errs.add_duplicate(&at.index(i).child("key"), &annotation.key);
        }
    }
    errs
}

fn validate_validation(errs: &mut ErrorList, validation: &Validation, variables: &Variables, path: &Path) {
    if validation.expression.trim().is_empty() {
        errs.add_required(&path.child("expression"), "expression is not specified");
    } else {
        let at = path.child("expression");
        policy::expression(errs, &variables.env(), &validation.expression, Returns::Bool, &at);
    }
    for (field, text) in
        [("messageExpression", &validation.message_expression), ("message", &validation.message)]
    {
        let text = text.text();
        if !text.is_empty() && text.trim().is_empty() {
            errs.add_invalid(&path.child(field), text, "must be non-empty if specified");
        } else if field == "messageExpression" {
            if !text.is_empty() {
                policy::expression(errs, &variables.plain_env(), text, Returns::Text, &path.child(field));
            }
        } else if text.trim().contains(['\n', '\r']) {
            errs.add_invalid(&path.child(field), text, "must not contain line breaks");
        }
    }
    if let Some(reason) = validation.reason.as_deref().filter(|reason| !REASONS.contains(reason)) {
        errs.add_not_supported(&path.child("reason"), reason, REASONS);
    }
}

fn validate_annotation(
    errs: &mut ErrorList,
    name: &str,
    annotation: &AuditAnnotation,
    variables: &Variables,
    path: &Path,
) {
    let at = path.child("key");
    if name.is_empty() {
        errs.add_invalid(&at, &annotation.key, "requires metadata.name be non-empty");
    } else {
        let key = format!("{name}/{}", annotation.key);
        errs.add_all(&at, &key, validate::qualified_name(&key));
    }
    let (expression, at) = (annotation.value_expression.trim(), path.child("valueExpression"));
    if expression.is_empty() {
        errs.add_required(&at, "valueExpression is not specified");
    } else if expression.len() > MAX_ANNOTATION_EXPRESSION_BYTES {
        let detail = format!("must not exceed {MAX_ANNOTATION_EXPRESSION_BYTES} bytes in length");
        errs.add_required(&at, detail);
    } else {
        policy::expression(errs, &variables.env(), expression, Returns::TextOrNull, &at);
    }
}

fn cells(obj: &Value, now: SystemTime) -> Vec<Value> {
    policy_cells(obj, "validations", now)
}

/// The declaration.
pub fn def() -> ResourceDef {
    ResourceDef::new(ValidatingAdmissionPolicies)
        .status()
        .cells(cells)
        .fixture(include_str!("testdata/validatingadmissionpolicy.yaml"))
}
