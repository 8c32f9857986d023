//! HorizontalPodAutoscalers (autoscaling/v2, also served as v1): pkg/registry/autoscaling.

use super::{metrics, v1};
use crate::util::value::{Object, ensure, object, set_absent, sub, text};
use crate::util::{Errs, Items, cells};
use knarr_api::autoscaling::v2::{
    CrossVersionObjectReference, HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscaler,
    HorizontalPodAutoscalerSpec,
};
use knarr_apiserver::def::{ResourceDef, ServedVersion, Strategy};
use knarr_apiserver::request::RequestCx;
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::quantity::Quantity;
use knarr_meta::validate;
use serde_json::{Value, json};
use std::time::SystemTime;

const MAX_WINDOW: i32 = 3600;
const MAX_PERIOD: i32 = 1800;
const SELECT_POLICIES: &[&str] = &["Disabled", "Max", "Min"];
const POLICY_TYPES: &[&str] = &["Percent", "Pods"];
/// The utilization aimed at when an autoscaler names no metric.
pub const DEFAULT_UTILIZATION: i32 = 80;

struct Autoscalers;

/// What an apiVersion may lack.
#[derive(Clone, Copy)]
pub struct RefRules {
    /// Anything goes.
    pub any_version: bool,
    /// The core group is fine.
    pub core_group: bool,
}

impl Strategy for Autoscalers {
    type Object = HorizontalPodAutoscaler;

    fn default(&self, obj: &mut Value) {
        let spec = ensure(object(obj), "spec");
        set_absent(spec, "minReplicas", 1);
        if spec.get("metrics").and_then(Value::as_array).is_none_or(Vec::is_empty) {
            spec.insert("metrics".to_owned(), json!([metrics::cpu(DEFAULT_UTILIZATION)]));
        }
        if let Some(behavior) = sub(spec, "behavior") {
            default_behavior(behavior);
        }
    }

    fn prepare_for_create(&self, _cx: &RequestCx, obj: &mut Value) {
        object(obj).insert("status".to_owned(), json!({"desiredReplicas": 0, "currentMetrics": null}));
    }

    fn validate(&self, _cx: &RequestCx, obj: &HorizontalPodAutoscaler) -> ErrorList {
        validate_spec(&obj.spec, None)
    }

    fn validate_update(
        &self,
        _cx: &RequestCx,
        new: &HorizontalPodAutoscaler,
        old: &HorizontalPodAutoscaler,
    ) -> ErrorList {
        validate_spec(&new.spec, Some(&old.spec))
    }

    fn validate_status_update(
        &self,
        _cx: &RequestCx,
        new: &HorizontalPodAutoscaler,
        _old: &HorizontalPodAutoscaler,
    ) -> ErrorList {
        let status = new.status.clone().unwrap_or_default();
        let path = Path::new("status");
        let mut errs = ErrorList::default();
        let current = i64::from(status.current_replicas.unwrap_or_default());
        errs.add_negative(&path.child("currentReplicas"), current);
        errs.add_negative(&path.child("desiredReplicas"), i64::from(status.desired_replicas));
        errs
    }

    fn has_generation(&self) -> bool {
        false
    }
}

/// Rules that are named at all are complete.
fn default_behavior(behavior: &mut Object) {
    let up = json!([{"type": "Pods", "value": 4, "periodSeconds": 15},
        {"type": "Percent", "value": 100, "periodSeconds": 15}]);
    let down = json!([{"type": "Percent", "value": 100, "periodSeconds": 15}]);
    let rules = ensure(behavior, "scaleUp");
    set_absent(rules, "stabilizationWindowSeconds", 0);
    for (field, policies) in [("scaleUp", up), ("scaleDown", down)] {
        let rules = ensure(behavior, field);
        set_absent(rules, "selectPolicy", "Max");
        set_absent(rules, "policies", policies);
    }
}

fn validate_spec(spec: &HorizontalPodAutoscalerSpec, old: Option<&HorizontalPodAutoscalerSpec>) -> ErrorList {
    let mut errs = ErrorList::default();
    let path = Path::new("spec");
    // The gate HPAScaleToZero is off.
    let lowest = if old.is_some_and(|old| old.min_replicas == Some(0)) { 0 } else { 1 };
    if let Some(min) = spec.min_replicas.filter(|min| *min < lowest) {
        let detail = format!("must be greater than or equal to {lowest}");
        errs.add_invalid(&path.child("minReplicas"), min, detail);
    }
    let (max, at) = (spec.max_replicas, path.child("maxReplicas"));
    if max == 0 {
        errs.add_required(&at, "must be set and greater than 0");
    } else if max < 0 {
        errs.add_invalid(&at, max, "must be greater than or equal to 1");
    }
    if spec.min_replicas.is_some_and(|min| max < min) {
        errs.add_invalid(&at, max, "must be greater than or equal to `minReplicas`");
    }
    let target = &spec.scale_target_ref;
    let same = old.is_some_and(|old| {
        (&old.scale_target_ref.api_version, &old.scale_target_ref.kind) == (&target.api_version, &target.kind)
    });
    let rules = RefRules { any_version: same, core_group: target.kind == "ReplicationController" };
    reference(&mut errs, target, rules, &path.child("scaleTargetRef"));
    metrics::validate(&mut errs, spec, &path.child("metrics"));
    if let Some(behavior) = &spec.behavior {
        let path = path.child("behavior");
        for (field, rules) in [("scaleUp", &behavior.scale_up), ("scaleDown", &behavior.scale_down)] {
            if let Some(rules) = rules {
                scaling_rules(&mut errs, rules, &path.child(field));
            }
        }
    }
    errs
}

/// Errors of a reference to what is scaled or measured.
pub fn reference(errs: &mut ErrorList, target: &CrossVersionObjectReference, rules: RefRules, path: &Path) {
    for (field, value) in [("kind", &target.kind), ("name", &target.name)] {
        if value.is_empty() {
            errs.add_required(&path.child(field), "");
        } else {
            errs.add_all(&path.child(field), value, validate::path_segment_name(value));
        }
    }
    if rules.any_version {
        return;
    }
    let version = target.api_version.as_deref().unwrap_or_default();
    let at = path.child("apiVersion");
    if version.matches('/').count() > 1 {
        errs.add_invalid(&at, version, format!("unexpected GroupVersion string: {version}"));
    } else if !rules.core_group && !version.contains('/') {
        errs.add_invalid(&at, version, "apiVersion must specify API group");
    }
}

fn scaling_rules(errs: &mut ErrorList, rules: &HPAScalingRules, path: &Path) {
    if let Some(window) = rules.stabilization_window_seconds {
        let at = path.child("stabilizationWindowSeconds");
        if window < 0 {
            errs.add_invalid(&at, window, "must be greater than or equal to zero");
        }
        if window > MAX_WINDOW {
            errs.add_invalid(&at, window, format!("must be less than or equal to {MAX_WINDOW}"));
        }
    }
    if let Some(policy) = &rules.select_policy
        && !SELECT_POLICIES.contains(&policy.as_str())
    {
        errs.add_not_supported(&path.child("selectPolicy"), policy, SELECT_POLICIES);
    }
    let at = path.child("policies");
    let policies = rules.policies.items();
    if policies.is_empty() {
        errs.add_required(&at, "must specify at least one Policy");
    }
    for (i, policy) in policies.iter().enumerate() {
        scaling_policy(errs, policy, &at.index(i));
    }
    if let Some(tolerance) = &rules.tolerance
        && crate::core::resource::parse(tolerance) < Quantity::default()
    {
        errs.add_invalid(&path.child("tolerance"), &tolerance.0, "must be greater than or equal to 0");
    }
}

fn scaling_policy(errs: &mut ErrorList, policy: &HPAScalingPolicy, path: &Path) {
    if !POLICY_TYPES.contains(&policy.type_.as_str()) {
        errs.add_not_supported(&path.child("type"), &policy.type_, POLICY_TYPES);
    }
    for (field, value) in [("value", policy.value), ("periodSeconds", policy.period_seconds)] {
        if value <= 0 {
            errs.add_invalid(&path.child(field), value, "must be greater than zero");
        }
    }
    if policy.period_seconds > MAX_PERIOD {
        let detail = format!("must be less than or equal to {MAX_PERIOD}");
        errs.add_invalid(&path.child("periodSeconds"), policy.period_seconds, detail);
    }
}

fn cells(obj: &Value, now: SystemTime) -> Vec<Value> {
    let target = &obj["spec"]["scaleTargetRef"];
    let min = obj["spec"]["minReplicas"].as_i64().map_or("<unset>".to_owned(), |min| min.to_string());
    vec![
        cells::name(obj),
        format!("{}/{}", text(target, &["kind"]), text(target, &["name"])).into(),
        metrics::cell(obj).into(),
        min.into(),
        cells::count(obj, &["spec", "maxReplicas"]),
        cells::count(obj, &["status", "currentReplicas"]),
        cells::age(obj, now),
    ]
}

/// The declaration.
pub fn def() -> ResourceDef {
    let def = ResourceDef::new(Autoscalers)
        .status()
        .cells(cells)
        .fixture(include_str!("testdata/horizontalpodautoscaler.yaml"));
    let versions = vec![
        ServedVersion::hub("v2"),
        ServedVersion { version: "v1".into(), to_hub: Some(v1::to_hub), from_hub: Some(v1::from_hub) },
    ];
    ResourceDef { versions, ..def }
}
