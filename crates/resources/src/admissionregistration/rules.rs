//! Rules: which groups, versions, resources and operations a webhook or policy is about.

use crate::core::pod::validation::scheduling::label_selector;
use crate::util::value::{Object, each, ensure, set_absent, sub};
use crate::util::{Errs, Items};
use knarr_api::admissionregistration::v1::{MatchResources, NamedRuleWithOperations, RuleWithOperations};
use knarr_api::meta::v1::LabelSelector;
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::validate;
use std::collections::BTreeSet;

/// What a failing call or expression means.
pub const FAILURE_POLICIES: &[&str] = &["Fail", "Ignore"];
/// Whether a rule stands for other versions of the resource too.
pub const MATCH_POLICIES: &[&str] = &["Equivalent", "Exact"];
/// Whether a mutation is made again after others.
pub const REINVOCATION_POLICIES: &[&str] = &["IfNeeded", "Never"];
const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const MUTATING_OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "UPDATE"];
const SCOPES: &[&str] = &["*", "Cluster", "Namespaced"];

/// A rule, named or not.
pub struct Rule<'a> {
    operations: &'a [String],
    groups: &'a [String],
    versions: &'a [String],
    resources: &'a [String],
    scope: Option<&'a str>,
}

impl<'a> From<&'a RuleWithOperations> for Rule<'a> {
    fn from(rule: &'a RuleWithOperations) -> Self {
        Self {
            operations: rule.operations.items(),
            groups: rule.api_groups.items(),
            versions: rule.api_versions.items(),
            resources: rule.resources.items(),
            scope: rule.scope.as_deref(),
        }
    }
}

impl<'a> From<&'a NamedRuleWithOperations> for Rule<'a> {
    fn from(rule: &'a NamedRuleWithOperations) -> Self {
        Self {
            operations: rule.operations.items(),
            groups: rule.api_groups.items(),
            versions: rule.api_versions.items(),
            resources: rule.resources.items(),
            scope: rule.scope.as_deref(),
        }
    }
}

/// Gives each rule under `key` its scope.
pub fn default_rules(map: &mut Object, key: &str) {
    each(map, key, |rule| set_absent(rule, "scope", "*"));
}

/// Gives what matchConstraints or matchResources lack; nothing when the field is absent.
pub fn default_match_resources(spec: &mut Object, key: &str) {
    let Some(resources) = sub(spec, key) else { return };
    set_absent(resources, "matchPolicy", "Equivalent");
    ensure(resources, "namespaceSelector");
    ensure(resources, "objectSelector");
    default_rules(resources, "resourceRules");
    default_rules(resources, "excludeResourceRules");
}

fn starred(items: &[String]) -> bool {
    items.iter().any(|item| item == "*")
}

/// Errors of a rule.
pub fn rule(errs: &mut ErrorList, rule: &Rule<'_>, path: &Path) {
    let at = path.child("operations");
    if rule.operations.is_empty() {
        errs.add_required(&at, "");
    }
    if rule.operations.len() > 1 && starred(rule.operations) {
        errs.add_invalid(&at, rule.operations, "if '*' is present, must not specify other operations");
    }
    for (i, operation) in rule.operations.iter().enumerate() {
        if !OPERATIONS.contains(&operation.as_str()) {
            errs.add_not_supported(&at.index(i), operation, OPERATIONS);
        }
    }
    for (field, items, what) in
        [("apiGroups", rule.groups, "API groups"), ("apiVersions", rule.versions, "API versions")]
    {
        let at = path.child(field);
        if items.is_empty() {
            errs.add_required(&at, "");
        }
        if items.len() > 1 && starred(items) {
            errs.add_invalid(&at, items, format!("if '*' is present, must not specify other {what}"));
        }
    }
    for (i, _) in rule.versions.iter().enumerate().filter(|(_, version)| version.is_empty()) {
        errs.add_required(&path.child("apiVersions").index(i), "");
    }
    resources(errs, rule.resources, &path.child("resources"));
    if let Some(scope) = rule.scope.filter(|scope| !SCOPES.contains(scope)) {
        errs.add_not_supported(&path.child("scope"), scope, SCOPES);
    }
}

fn resources(errs: &mut ErrorList, resources: &[String], path: &Path) {
    if resources.is_empty() {
        errs.add_required(path, "");
    }
    let (mut all_of, mut of_all) = (BTreeSet::new(), BTreeSet::new());
    let mut plain = false;
    for (i, whole) in resources.iter().enumerate() {
        if whole.is_empty() {
            errs.add_required(&path.index(i), "");
            continue;
        }
        let Some((resource, sub)) = whole.split_once('/') else {
            // Only the last of them counts, as upstream has it.
            plain = whole != "*";
            continue;
        };
        if all_of.contains(resource) {
            let detail = format!("if '{resource}/*' is present, must not specify {whole}");
            errs.add_invalid(&path.index(i), whole, detail);
        }
        if of_all.contains(sub) {
            let detail = format!("if '*/{sub}' is present, must not specify {whole}");
            errs.add_invalid(&path.index(i), whole, detail);
        }
        if sub == "*" {
            all_of.insert(resource);
        }
        if resource == "*" {
            of_all.insert(sub);
        }
    }
    if resources.len() > 1 && resources.iter().any(|r| r == "*/*") {
        errs.add_invalid(path, resources, "if '*/*' is present, must not specify other resources");
    }
    if starred(resources) && plain {
        let detail = "if '*' is present, must not specify other resources without subresources";
        errs.add_invalid(path, resources, detail);
    }
}

/// Errors of matchConstraints or matchResources.
pub fn match_resources(errs: &mut ErrorList, resources: &MatchResources, path: &Path) {
    let at = path.child("matchPolicy");
    match resources.match_policy.as_deref() {
        None => errs.add_required(&at, ""),
        Some(policy) if !MATCH_POLICIES.contains(&policy) => {
            errs.add_not_supported(&at, policy, MATCH_POLICIES);
        }
        Some(_) => {}
    }
    for (field, selector) in
        [("namespaceSelector", &resources.namespace_selector), ("objectSelector", &resources.object_selector)]
    {
        match selector {
            None => errs.add_required(&path.child(field), ""),
            Some(selector) => errs.extend(label_selector(Some(selector), &path.child(field))),
        }
    }
    for (field, rules) in [
        ("resourceRules", resources.resource_rules.items()),
        ("excludeResourceRules", resources.exclude_resource_rules.items()),
    ] {
        for (i, named) in rules.iter().enumerate() {
            named_rule(errs, named, &path.child(field).index(i));
        }
    }
}

fn named_rule(errs: &mut ErrorList, named: &NamedRuleWithOperations, path: &Path) {
    let names = named.resource_names.items();
    for (i, name) in names.iter().enumerate() {
        let at = path.child("resourceNames").index(i);
        errs.add_all(&at, name, validate::path_segment_name(name));
        if names[..i].contains(name) {
            errs.add_duplicate(&at, name);
        }
    }
    rule(errs, &named.into(), path);
}

/// Errors of rules that name operations in which nothing can be changed.
pub fn mutating_operations(errs: &mut ErrorList, resources: &MatchResources, path: &Path) {
    let operations = resources.resource_rules.items().iter().flat_map(|rule| rule.operations.items());
    for operation in operations.filter(|o| !MUTATING_OPERATIONS.contains(&o.as_str())) {
        let at = path.child("resourceRules").child("operations");
        errs.add_not_supported(&at, operation, MUTATING_OPERATIONS);
    }
}

/// Errors of a selector; with `tolerant`, values that no label can have are let pass (they were before).
pub fn selector(selector: Option<&LabelSelector>, tolerant: bool, path: &Path) -> ErrorList {
    let mut errs = label_selector(selector, path);
    if tolerant && let Some(selector) = selector {
        let mut lenient = selector.clone();
        for expression in lenient.match_expressions.iter_mut().flatten() {
            for value in expression.values.iter_mut().flatten() {
                "x".clone_into(value);
            }
        }
        errs = label_selector(Some(&lenient), path);
    }
    errs
}
