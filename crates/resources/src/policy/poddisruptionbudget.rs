//! PodDisruptionBudgets (policy/v1): pkg/registry/policy/poddisruptionbudget.

use crate::apps::workload::{at_most_100_percent, positive_int_or_percent};
use crate::core::pod::validation::scheduling::label_selector;
use crate::util::value::object;
use crate::util::{Errs, Number, cells, conditions};
use knarr_api::policy::v1::PodDisruptionBudget;
use knarr_apiserver::def::{ResourceDef, Strategy};
use knarr_apiserver::request::RequestCx;
use knarr_meta::field::{ErrorList, Path};
use serde_json::{Value, json};
use std::time::SystemTime;

struct PodDisruptionBudgets;

impl Strategy for PodDisruptionBudgets {
    type Object = PodDisruptionBudget;

    fn prepare_for_create(&self, _cx: &RequestCx, obj: &mut Value) {
        // Counters of the Go status that have no omitempty.
        object(obj).insert("status".to_owned(), empty_status());
    }

    fn validate(&self, _cx: &RequestCx, obj: &PodDisruptionBudget) -> ErrorList {
        let mut errs = ErrorList::default();
        let Some(spec) = &obj.spec else { return errs };
        let path = Path::new("spec");
        if spec.min_available.is_some() && spec.max_unavailable.is_some() {
            let detail = "minAvailable and maxUnavailable cannot be both set";
            errs.add_invalid(&path, serde_json::to_value(spec).unwrap_or_default(), detail);
        }
        for (field, value) in
            [("minAvailable", &spec.min_available), ("maxUnavailable", &spec.max_unavailable)]
        {
            if let Some(value) = value {
                positive_int_or_percent(&mut errs, value, &path.child(field));
                at_most_100_percent(&mut errs, value, &path.child(field));
            }
        }
        errs.extend(label_selector(spec.selector.as_ref(), &path.child("selector")));
        if let Some(policy) = &spec.unhealthy_pod_eviction_policy {
            let supported = &["AlwaysAllow", "IfHealthyBudget"];
            if !supported.contains(&policy.as_str()) {
                errs.add_not_supported(&path.child("unhealthyPodEvictionPolicy"), policy, supported);
            }
        }
        errs
    }

    fn validate_status_update(
        &self,
        _cx: &RequestCx,
        new: &PodDisruptionBudget,
        _old: &PodDisruptionBudget,
    ) -> ErrorList {
        let status = new.status.clone().unwrap_or_default();
        let path = Path::new("status");
        let mut errs = conditions::validate(&status.conditions, &path.child("conditions"));
        for (field, value) in [
            ("disruptionsAllowed", status.disruptions_allowed),
            ("currentHealthy", status.current_healthy),
            ("desiredHealthy", status.desired_healthy),
            ("expectedPods", status.expected_pods),
        ] {
            errs.add_negative(&path.child(field), value.number());
        }
        errs
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

fn empty_status() -> Value {
    json!({"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0})
}

fn cells(obj: &Value, now: SystemTime) -> Vec<Value> {
    let amount = |field: &str| match &obj["spec"][field] {
        Value::String(text) => text.as_str().into(),
        Value::Number(number) => number.to_string().into(),
        _ => Value::from("N/A"),
    };
    vec![
        cells::name(obj),
        amount("minAvailable"),
        amount("maxUnavailable"),
        cells::count(obj, &["status", "disruptionsAllowed"]),
        cells::age(obj, now),
    ]
}

/// The declaration.
pub fn def() -> ResourceDef {
    ResourceDef::new(PodDisruptionBudgets)
        .status()
        .cells(cells)
        .fixture(include_str!("testdata/poddisruptionbudget.yaml"))
}
