//! What validating and mutating policies have in common: parameters, conditions, variables.
//! pkg/apis/admissionregistration/validation.

use super::rules::{self, FAILURE_POLICIES};
use crate::expressions::{Returns, Seen, compile};
use crate::util::value::{ensure, object, set_absent};
use crate::util::{Errs, Items, Text};
use knarr_api::admissionregistration::v1::{MatchCondition, MatchResources, ParamKind, ParamRef, Variable};
use knarr_cel::{Composition, Env};
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::validate;
use serde_json::Value;

const MAX_CONDITIONS: usize = 64;
const PARAMETER_ACTIONS: &[&str] = &["Deny", "Allow"];

/// Fills in what a policy lacks.
pub fn default(obj: &mut Value) {
    let spec = ensure(object(obj), "spec");
    set_absent(spec, "failurePolicy", "Fail");
    rules::default_match_resources(spec, "matchConstraints");
}

/// Fills in what a binding lacks.
pub fn default_binding(obj: &mut Value) {
    rules::default_match_resources(ensure(object(obj), "spec"), "matchResources");
}

/// Errors of a policy's failurePolicy, paramKind and matchConstraints.
pub fn head(
    errs: &mut ErrorList,
    failure_policy: Option<&str>,
    kind: Option<&ParamKind>,
    constraints: Option<&MatchResources>,
    path: &Path,
) {
    let at = path.child("failurePolicy");
    match failure_policy {
        None => errs.add_required(&at, ""),
        Some(policy) if !FAILURE_POLICIES.contains(&policy) => {
            errs.add_not_supported(&at, policy, FAILURE_POLICIES);
        }
        Some(_) => {}
    }
    if let Some(kind) = kind {
        param_kind(errs, kind, &path.child("paramKind"));
    }
    let at = path.child("matchConstraints");
    match constraints {
        None => errs.add_required(&at, ""),
        Some(constraints) => {
            rules::match_resources(errs, constraints, &at);
            if constraints.resource_rules.items().is_empty() {
                errs.add_required(&at.child("resourceRules"), "");
            }
        }
    }
}

fn param_kind(errs: &mut ErrorList, kind: &ParamKind, path: &Path) {
    let (api_version, at) = (kind.api_version.text(), path.child("apiVersion"));
    let parts: Vec<&str> = api_version.split('/').collect();
    match parts.as_slice() {
        [""] => errs.add_required(&at, ""),
        [version] => param_version(errs, api_version, version, &at),
        ["", ""] => param_version(errs, api_version, "", &at),
        [group, version] => {
            let problems = if group.is_empty() { Vec::new() } else { validate::dns1123_subdomain(group) };
            if !problems.is_empty() {
                errs.add_invalid(&at, *group, problems.join(","));
            }
            param_version(errs, api_version, version, &at);
        }
        _ => errs.add_invalid(&at, api_version, format!("unexpected GroupVersion string: {api_version}")),
    }
    let (name, at) = (kind.kind.text(), path.child("kind"));
    let problems = validate::dns1035_label(&name.to_lowercase());
    if name.is_empty() {
        errs.add_required(&at, "");
    } else if !problems.is_empty() {
        let detail = format!("may have mixed case, but should otherwise match: {}", problems.join(","));
        errs.add_invalid(&at, name, detail);
    }
}

fn param_version(errs: &mut ErrorList, whole: &str, version: &str, path: &Path) {
    let problems = validate::dns1035_label(version);
    if version.is_empty() {
        errs.add_invalid(path, whole, "version must be specified");
    } else if !problems.is_empty() {
        errs.add_invalid(path, version, problems.join(","));
    }
}

/// Errors of the conditions of a webhook or policy.
pub fn match_conditions(errs: &mut ErrorList, conditions: &[MatchCondition], params: bool, path: &Path) {
    let env = Seen { params, authorizer: true, patches: false }.env();
    if conditions.len() > MAX_CONDITIONS {
        errs.add_too_many(path, conditions.len(), MAX_CONDITIONS);
    }
    for (i, condition) in conditions.iter().enumerate() {
        let at = path.index(i);
        let expression = condition.expression.trim();
        if expression.is_empty() {
            errs.add_required(&at.child("expression"), "");
        } else {
            self::expression(errs, &env, expression, Returns::Bool, &at.child("expression"));
        }
        let (name, at) = (condition.name.as_str(), at.child("name"));
        if name.is_empty() {
            errs.add_required(&at, "");
            continue;
        }
        errs.add_all(&at, name, validate::qualified_name(name));
        if conditions[..i].iter().any(|other| other.name == name) {
            errs.add_duplicate(&at, name);
        }
    }
}

/// An error of an expression that does not compile, or comes to something else than it must.
pub fn expression(errs: &mut ErrorList, env: &Env, expression: &str, returns: Returns, path: &Path) {
    if let Err(failure) = compile(env, expression, returns) {
        errs.add_invalid(path, expression, failure.to_string());
    }
}

/// The environments of a policy's expressions, with the variables so far.
pub struct Variables {
    full: Composition,
    /// Messages do not see the authorizer.
    plain: Composition,
    seen: Seen,
    any: bool,
}

impl Variables {
    /// Without any. `always` makes `variables` known even so.
    pub fn new(params: bool, always: bool) -> Self {
        let seen = Seen { params, authorizer: true, patches: false };
        let plain = Seen { authorizer: false, ..seen };
        let (full, plain) = (Composition::new(seen.env()), Composition::new(plain.env()));
        Self { full, plain, seen, any: always }
    }

    /// What most expressions see.
    pub fn env(&self) -> Env {
        if self.any { self.full.env().clone() } else { self.seen.env() }
    }

    /// What messages see.
    pub fn plain_env(&self) -> Env {
        let seen = Seen { authorizer: false, ..self.seen };
        if self.any { self.plain.env().clone() } else { seen.env() }
    }

    /// Errors of a variable, which those after it see.
    pub fn add(&mut self, errs: &mut ErrorList, variable: &Variable, path: &Path) {
        let (name, at) = (variable.name.as_str(), path.child("name"));
        if name.trim().is_empty() {
            errs.add_required(&at, "name is not specified");
        } else if !is_identifier(name) {
            errs.add_invalid(&at, name, "must be a valid CEL identifier");
        }
        let (expression, at) = (variable.expression.as_str(), path.child("expression"));
        self.any = true;
        if expression.trim().is_empty() {
            errs.add_required(&at, "expression is not specified");
            return;
        }
        if let Err(failure) = self.full.add(name, expression) {
            errs.add_invalid(&at, expression, failure.to_string());
        }
        // What is wrong with it has been said.
        let _ = self.plain.add(name, expression);
    }
}

fn is_identifier(name: &str) -> bool {
    !knarr_cel::is_reserved(name)
        && name.starts_with(|c: char| c == '_' || c.is_ascii_alphabetic())
        && name.chars().all(|c| c == '_' || c.is_ascii_alphanumeric())
}

/// Errors of a binding's policy name, parameters and matchResources. Whether an empty name has words of its own
/// is the caller's to say.
pub fn binding(
    errs: &mut ErrorList,
    policy: &str,
    param: Option<&ParamRef>,
    resources: Option<&MatchResources>,
    path: &Path,
) {
    let at = path.child("policyName");
    if policy.is_empty() {
        errs.add_required(&at, "");
    } else {
        errs.add_all(&at, policy, validate::dns1123_subdomain(policy));
    }
    if let Some(param) = param {
        param_ref(errs, param, &path.child("paramRef"));
    }
    if let Some(resources) = resources {
        rules::match_resources(errs, resources, &path.child("matchResources"));
    }
}

fn param_ref(errs: &mut ErrorList, param: &ParamRef, path: &Path) {
    const EXCLUSIVE: &str = "name and selector are mutually exclusive";
    let name = param.name.text();
    if !name.is_empty() {
        errs.add_all(&path.child("name"), name, validate::path_segment_name(name));
        if param.selector.is_some() {
            errs.add_forbidden(&path.child("name"), EXCLUSIVE);
        }
    }
    if let Some(selector) = &param.selector {
        errs.extend(rules::selector(Some(selector), false, &path.child("selector")));
        if !name.is_empty() {
            errs.add_forbidden(&path.child("selector"), EXCLUSIVE);
        }
    }
    if name.is_empty() && param.selector.is_none() {
        errs.add_required(path, "one of name or selector must be specified");
    }
    let (action, at) = (param.parameter_not_found_action.text(), path.child("parameterNotFoundAction"));
    if action.is_empty() {
        errs.add_required(&at, "");
    } else if !PARAMETER_ACTIONS.contains(&action) {
        errs.add_not_supported(&at, action, PARAMETER_ACTIONS);
    }
}
