//! LimitRanges: pkg/registry/core/limitrange.

use super::resource;
use crate::util::value::{Object, each, ensure, object};
use crate::util::{Errs, Pairs};
use knarr_api::Quantity as ApiQuantity;
use knarr_api::core::v1::{LimitRange, LimitRangeItem};
use knarr_apiserver::def::{ResourceDef, Strategy};
use knarr_apiserver::request::RequestCx;
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::quantity::{Format, Quantity};
use knarr_meta::validate;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

const TYPES: &[&str] = &["Pod", "Container", "PersistentVolumeClaim"];

struct LimitRanges;

impl Strategy for LimitRanges {
    type Object = LimitRange;

    fn default(&self, obj: &mut Value) {
        each(ensure(object(obj), "spec"), "limits", |item| {
            if item.get("type").is_some_and(|t| t == "Container") {
                container_defaults(item);
            }
        });
    }

    fn validate(&self, _cx: &RequestCx, obj: &LimitRange) -> ErrorList {
        let mut errs = ErrorList::default();
        let limits = obj.spec.as_ref().map(|s| s.limits.as_slice()).unwrap_or_default();
        for (i, item) in limits.iter().enumerate() {
            let path = Path::new("spec").child("limits").index(i);
            limit_type(&mut errs, &item.type_, &path.child("type"));
            if limits[..i].iter().any(|l| l.type_ == item.type_) {
                errs.add_duplicate(&path.child("type"), &item.type_);
            }
            validate_item(&mut errs, item, &path);
        }
        errs
    }

    fn validate_update(&self, cx: &RequestCx, new: &LimitRange, _old: &LimitRange) -> ErrorList {
        self.validate(cx, new)
    }

    fn has_generation(&self) -> bool {
        false
    }
}

/// A default limit is the maximum, a default request the default limit or else the minimum.
fn container_defaults(item: &mut Object) {
    for (to, from) in [("default", "max"), ("defaultRequest", "default"), ("defaultRequest", "min")] {
        let from = item.get(from).and_then(Value::as_object).cloned().unwrap_or_default();
        let to = ensure(item, to);
        for (name, amount) in from {
            to.entry(name).or_insert(amount);
        }
    }
    // Go writes no empty maps.
    for field in ["default", "defaultRequest"] {
        if item.get(field).and_then(Value::as_object).is_some_and(Object::is_empty) {
            item.remove(field);
        }
    }
}

fn limit_type(errs: &mut ErrorList, kind: &str, path: &Path) {
    let problems = validate::qualified_name(kind);
    if problems.is_empty() && !kind.contains('/') && !TYPES.contains(&kind) {
        errs.add_invalid(path, kind, "must be a standard limit type or fully qualified");
    }
    errs.add_all(path, kind, problems);
}

type Amounts = Option<BTreeMap<String, ApiQuantity>>;

fn validate_item(errs: &mut ErrorList, item: &LimitRangeItem, path: &Path) {
    let names = |errs: &mut ErrorList, field: &'static str, amounts: &Amounts| {
        for (name, _) in amounts.pairs() {
            let at = path.child(field).key(name);
            errs.extend(match item.type_.as_str() {
                "Pod" | "Container" => resource::validate_container_name(&at, name),
                _ => resource::validate_name(&at, name),
            });
        }
    };
    let nothing = None;
    names(errs, "max", &item.max);
    names(errs, "min", &item.min);
    let (default, request) = if item.type_ == "Pod" {
        for (field, amounts) in [("default", &item.default), ("defaultRequest", &item.default_request)] {
            if amounts.pairs().next().is_some() {
                errs.add_forbidden(&path.child(field), "may not be specified when `type` is 'Pod'");
            }
        }
        (&nothing, &nothing)
    } else {
        names(errs, "default", &item.default);
        names(errs, "defaultRequest", &item.default_request);
        (&item.default, &item.default_request)
    };
    let storage = item.min.at("storage").is_some() || item.max.at("storage").is_some();
    if item.type_ == "PersistentVolumeClaim" && !storage {
        let detail = "either minimum or maximum storage value is required, but neither was provided";
        errs.add_required(&path.child("limits"), detail);
    }
    names(errs, "maxLimitRequestRatio", &item.max_limit_request_ratio);
    let all = [&item.max, &item.min, default, request, &item.max_limit_request_ratio];
    let keys: BTreeSet<&str> = all.iter().flat_map(|amounts| amounts.pairs().map(|(name, _)| name)).collect();
    for name in keys {
        relations(errs, item, default, request, name, path);
    }
}

/// How the bounds of one resource must relate.
fn relations(
    errs: &mut ErrorList,
    item: &LimitRangeItem,
    default: &Amounts,
    request: &Amounts,
    name: &str,
    path: &Path,
) {
    let amount = |amounts: &Amounts| amounts.at(name).map(resource::parse);
    let (min, max, ratio) = (amount(&item.min), amount(&item.max), amount(&item.max_limit_request_ratio));
    let (default, request) = (amount(default), amount(request));
    let mut greater = |a: &Option<Quantity>, b: &Option<Quantity>, what: [&str; 2], field, shown: usize| {
        if let (Some(a), Some(b)) = (a, b)
            && a > b
        {
            let detail = format!("{} value {a} is greater than {} value {b}", what[0], what[1]);
            errs.add_invalid(&path.child(field).key(name), [a, b][shown].to_json(), detail);
        }
    };
    greater(&min, &max, ["min", "max"], "min", 0);
    greater(&min, &request, ["min", "default request"], "defaultRequest", 1);
    greater(&request, &max, ["default request", "max"], "defaultRequest", 0);
    greater(&request, &default, ["default request", "default limit"], "defaultRequest", 0);
    greater(&min, &default, ["min", "default"], "default", 0);
    greater(&default, &max, ["default", "max"], "default", 1);
    if let Some(ratio) = &ratio {
        let at = path.child("maxLimitRequestRatio").key(name);
        if *ratio < Quantity::from_value(1, Format::DecimalSi) {
            errs.add_invalid(&at, ratio.to_json(), format!("ratio {ratio} is less than 1"));
        }
        if let (Some(min), Some(max)) = (&min, &max) {
            let limit = max.as_f64() / min.as_f64();
            if ratio.as_f64() > limit {
                let detail = format!("ratio {ratio} is greater than max/min = {limit:.6}");
                errs.add_invalid(&at, ratio.to_json(), detail);
            }
        }
    }
    if let (Some(default), Some(request)) = (&default, &request)
        && !resource::is_overcommit_allowed(name)
        && default != request
    {
        let detail =
            format!("default value {default} must equal to defaultRequest value {request} in {name}");
        errs.add_invalid(&path.child("defaultRequest").key(name), request.to_json(), detail);
    }
}

/// The declaration.
pub fn def() -> ResourceDef {
    ResourceDef::new(LimitRanges).fixture(include_str!("testdata/limitrange.yaml"))
}
