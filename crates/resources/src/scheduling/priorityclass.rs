//! PriorityClasses (scheduling.k8s.io/v1): pkg/registry/scheduling/priorityclass.

use crate::core::pod::validation::one_of;
use crate::util::value::{flag, object, set_default, text};
use crate::util::{Errs, Flag, Text, cells};
use knarr_api::scheduling::v1::PriorityClass;
use knarr_apiserver::def::{ResourceDef, Strategy};
use knarr_apiserver::request::RequestCx;
use knarr_meta::field::{ErrorList, Path};
use serde_json::Value;
use std::time::SystemTime;

/// The highest value users may give a class of their own.
pub const HIGHEST_USER_PRIORITY: i32 = 1_000_000_000;
/// The classes that only the system has: name and value.
pub const SYSTEM_CLASSES: &[(&str, i32)] =
    &[("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

struct PriorityClasses;

impl Strategy for PriorityClasses {
    type Object = PriorityClass;

    fn default(&self, obj: &mut Value) {
        set_default(object(obj), "preemptionPolicy", "PreemptLowerPriority");
    }

    fn validate(&self, _cx: &RequestCx, obj: &PriorityClass) -> ErrorList {
        let mut errs = ErrorList::default();
        let name = obj.metadata.name.text();
        let value = obj.value.unwrap_or_default();
        if name.starts_with("system-") {
            if let Some(problem) = system_problem(name, value, obj.global_default.on()) {
                let detail = format!(
                    "priority class names with 'system-' prefix are reserved for system use only. error: {problem}"
                );
                errs.add_forbidden(&Path::new("metadata").child("name"), detail);
            }
        } else if value > HIGHEST_USER_PRIORITY {
            let detail =
                format!("maximum allowed value of a user defined priority is {HIGHEST_USER_PRIORITY}");
            errs.add_forbidden(&Path::new("value"), detail);
        }
        if let Some(policy) = &obj.preemption_policy {
            one_of(&mut errs, policy, &["PreemptLowerPriority", "Never"], &Path::new("preemptionPolicy"));
        }
        errs
    }

    fn validate_update(&self, _cx: &RequestCx, new: &PriorityClass, old: &PriorityClass) -> ErrorList {
        let mut errs = ErrorList::default();
        if new.value != old.value {
            errs.add_forbidden(&Path::new("value"), "may not be changed in an update.");
        }
        errs.add_changed(&Path::new("preemptionPolicy"), &new.preemption_policy, &old.preemption_policy);
        errs
    }
}

fn system_problem(name: &str, value: i32, global: bool) -> Option<String> {
    let Some((_, known)) = SYSTEM_CLASSES.iter().find(|(n, _)| *n == name) else {
        return Some(format!("{name} is not a known system priority class"));
    };
    if value != *known {
        return Some(format!("value of {name} PriorityClass must be {known}"));
    }
    global.then(|| format!("globalDefault of {name} PriorityClass must be false"))
}

fn cells(obj: &Value, now: SystemTime) -> Vec<Value> {
    vec![
        cells::name(obj),
        cells::count(obj, &["value"]),
        flag(obj, &["globalDefault"]).into(),
        cells::age(obj, now),
        text(obj, &["preemptionPolicy"]).into(),
    ]
}

/// The declaration.
pub fn def() -> ResourceDef {
    ResourceDef::new(PriorityClasses).cells(cells).fixture(include_str!("testdata/priorityclass.yaml"))
}
