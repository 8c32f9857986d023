//! ResourceQuotas: pkg/registry/core/resourcequota.

use super::resource;
use crate::util::value::{at, object};
use crate::util::{Errs, Items, Pairs, cells};
use knarr_api::Quantity as ApiQuantity;
use knarr_api::core::v1::{ResourceQuota, ResourceQuotaSpec, ScopedResourceSelectorRequirement};
use knarr_apiserver::def::{ResourceDef, Strategy};
use knarr_apiserver::request::RequestCx;
use knarr_meta::field::{ErrorList, Path};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

const SCOPES: &[&str] = &[
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "VolumeAttributesClass",
    "CrossNamespacePodAffinity",
];
const POD_COMPUTE: &[&str] =
    &["cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];
const EXISTS_ONLY: &str = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";

struct ResourceQuotas;

impl Strategy for ResourceQuotas {
    type Object = ResourceQuota;

    fn prepare_for_create(&self, _cx: &RequestCx, obj: &mut Value) {
        object(obj).insert("status".to_owned(), json!({}));
    }

    fn validate(&self, _cx: &RequestCx, obj: &ResourceQuota) -> ErrorList {
        let mut errs = validate_spec(&obj.spec.clone().unwrap_or_default());
        errs.extend(status(obj));
        errs
    }

    fn validate_update(&self, _cx: &RequestCx, new: &ResourceQuota, old: &ResourceQuota) -> ErrorList {
        let (spec, was) = (new.spec.clone().unwrap_or_default(), old.spec.clone().unwrap_or_default());
        let mut errs = validate_spec(&spec);
        let set = |spec: &ResourceQuotaSpec| spec.scopes.items().iter().cloned().collect::<BTreeSet<_>>();
        if set(&spec) != set(&was) {
            errs.add_invalid(&Path::new("spec").child("scopes"), spec.scopes, "field is immutable");
        }
        errs
    }

    fn validate_status_update(
        &self,
        _cx: &RequestCx,
        new: &ResourceQuota,
        _old: &ResourceQuota,
    ) -> ErrorList {
        status(new)
    }

    fn has_generation(&self) -> bool {
        false
    }
}

fn status(quota: &ResourceQuota) -> ErrorList {
    let status = quota.status.clone().unwrap_or_default();
    let path = Path::new("status");
    let mut errs = amounts(&status.hard, &path.child("hard"));
    errs.extend(amounts(&status.used, &path.child("used")));
    errs
}

fn amounts(amounts: &Option<BTreeMap<String, ApiQuantity>>, path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    for (name, amount) in amounts.pairs() {
        let at = path.key(name);
        errs.extend(resource::validate_quota_name(&at, name));
        errs.extend(resource::validate_value(&at, name, amount));
    }
    errs
}

fn validate_spec(spec: &ResourceQuotaSpec) -> ErrorList {
    let path = Path::new("spec");
    let mut errs = amounts(&spec.hard, &path.child("hard"));
    let scopes = spec.scopes.items();
    let at = path.child("scopes");
    for scope in scopes {
        if !SCOPES.contains(&scope.as_str()) {
            errs.add_invalid(&at, scopes, "unsupported scope");
        }
        for _ in unfit(spec, scope) {
            errs.add_invalid(&at, scopes, "unsupported scope applied to resource");
        }
    }
    conflicts(&mut errs, scopes.iter().map(String::as_str), scopes, &at);
    if let Some(selector) = &spec.scope_selector {
        let at = path.child("scopeSelector").child("matchExpressions");
        let requirements = selector.match_expressions.items();
        for requirement in requirements {
            if !SCOPES.contains(&requirement.scope_name.as_str()) {
                errs.add_invalid(&at.child("scopeName"), &requirement.scope_name, "unsupported scope");
            }
            for _ in unfit(spec, &requirement.scope_name) {
                let value = serde_json::to_value(selector).unwrap_or_default();
                errs.add_invalid(&at, value, "unsupported scope applied to resource");
            }
            operator(&mut errs, requirement, &at);
        }
        conflicts(&mut errs, requirements.iter().map(|r| r.scope_name.as_str()), scopes, &at);
    }
    errs
}

/// The limited resources that a scope says nothing about.
fn unfit<'a>(spec: &'a ResourceQuotaSpec, scope: &'a str) -> impl Iterator<Item = &'a str> {
    spec.hard.pairs().map(|(name, _)| name).filter(move |name| {
        let fits = match scope {
            "BestEffort" => *name == "pods",
            "VolumeAttributesClass" => matches!(*name, "persistentvolumeclaims" | "requests.storage"),
            scope if SCOPES.contains(&scope) => *name == "pods" || POD_COMPUTE.contains(name),
            _ => true,
        };
        !fits && resource::is_standard_for_quota(name)
    })
}

fn conflicts<'a>(errs: &mut ErrorList, names: impl Iterator<Item = &'a str>, scopes: &[String], path: &Path) {
    let names: BTreeSet<&str> = names.collect();
    for pair in [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]] {
        if pair.iter().all(|scope| names.contains(scope)) {
            errs.add_invalid(path, scopes, "conflicting scopes");
        }
    }
}

fn operator(errs: &mut ErrorList, requirement: &ScopedResourceSelectorRequirement, path: &Path) {
    let (scope, operator) = (requirement.scope_name.as_str(), requirement.operator.as_str());
    let values = requirement.values.items();
    let at = path.child("operator");
    if !matches!(scope, "PriorityClass" | "VolumeAttributesClass")
        && SCOPES.contains(&scope)
        && operator != "Exists"
    {
        errs.add_invalid(&at, operator, EXISTS_ONLY);
    }
    match operator {
        "In" | "NotIn" => {
            if values.is_empty() {
                let detail =
                    "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                errs.add_required(&path.child("values"), detail);
            }
        }
        "Exists" | "DoesNotExist" => {
            if !values.is_empty() {
                let detail =
                    "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
                errs.add_invalid(&path.child("values"), values, detail);
            }
        }
        _ => errs.add_invalid(&at, operator, "not a valid selector operator"),
    }
}

fn cells(obj: &Value, now: SystemTime) -> Vec<Value> {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (name, hard) in at(obj, &["status", "hard"]).and_then(Value::as_object).into_iter().flatten() {
        let used = obj["status"]["used"].get(name).and_then(Value::as_str).unwrap_or("0");
        let line = format!("{name}: {used}/{}", hard.as_str().unwrap_or("0"));
        if name.starts_with("limits.") { limits.push(line) } else { requests.push(line) }
    }
    vec![cells::name(obj), requests.join(", ").into(), limits.join(", ").into(), cells::age(obj, now)]
}

/// The declaration.
pub fn def() -> ResourceDef {
    ResourceDef::new(ResourceQuotas)
        .status()
        .cells(cells)
        .fixture(include_str!("testdata/resourcequota.yaml"))
}
