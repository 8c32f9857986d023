//! Rules that the kinds with a pod template and a selector share.

use crate::core::pod::validation::scheduling::label_selector;
use crate::core::pod::validation::{one_of, template as validate_template};
use crate::util::{Errs, Items, Pairs, Text};
use knarr_api::IntOrString;
use knarr_api::core::v1::PodTemplateSpec;
use knarr_api::meta::v1::LabelSelector;
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::selector::LabelSelector as Selector;
use knarr_meta::validate;
use serde_json::Value;

/// A typed selector as JSON.
pub fn selector_value(selector: &LabelSelector) -> Value {
    serde_json::to_value(selector).unwrap_or_default()
}

/// Whether the selector has no requirement at all.
pub fn is_empty(selector: &LabelSelector) -> bool {
    selector.match_labels.pairs().next().is_none() && selector.match_expressions.items().is_empty()
}

/// Errors of a required selector that must not be empty; `kind` is how the message calls the object.
pub fn selector(errs: &mut ErrorList, selector: &LabelSelector, kind: &str, path: &Path) {
    errs.extend(label_selector(Some(selector), path));
    if is_empty(selector) {
        let detail = format!("empty selector is invalid for {kind}");
        errs.add_invalid(path, selector_value(selector), detail);
    }
}

/// The selector must select the template's pods.
pub fn selects_template(
    errs: &mut ErrorList,
    selector: &LabelSelector,
    template: &PodTemplateSpec,
    path: &Path,
) {
    let Ok(parsed) = Selector::from_label_selector(&selector_value(selector)) else { return };
    let labels = template.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
    if !parsed.matches_with(|key| labels.get(key).map(String::as_str)) {
        let path = path.child("metadata").child("labels");
        errs.add_invalid(&path, &labels, "`selector` does not match template `labels`");
    }
}

/// Pods of lasting workloads restart always and have no deadline.
pub fn always_restarts(errs: &mut ErrorList, template: &PodTemplateSpec, kind: &str, path: &Path) {
    let Some(spec) = &template.spec else { return };
    let path = path.child("spec");
    let policy = spec.restart_policy.text();
    if policy != "Always" {
        errs.add_not_supported(&path.child("restartPolicy"), policy, &["Always"]);
    }
    if spec.active_deadline_seconds.is_some() {
        let detail = format!("activeDeadlineSeconds in {kind} is not Supported");
        errs.add_forbidden(&path.child("activeDeadlineSeconds"), detail);
    }
}

/// Selector and template of Deployments and ReplicaSets.
pub fn replica_set(
    errs: &mut ErrorList,
    selector_field: &LabelSelector,
    template: &PodTemplateSpec,
    path: &Path,
) {
    let at = path.child("selector");
    selector(errs, selector_field, "deployment", &at);
    let path = path.child("template");
    if Selector::from_label_selector(&selector_value(selector_field)).is_err() {
        errs.add_invalid(&at, selector_value(selector_field), "invalid label selector");
        return;
    }
    if !is_empty(selector_field) {
        selects_template(errs, selector_field, template, &path);
    }
    errs.extend(validate_template(template, &path));
    always_restarts(errs, template, "ReplicaSet", &path);
}

/// Counters of a status: none below zero, none beyond `replicas`, no more available than ready.
pub fn replica_counts(replicas: i64, counts: &[(&'static str, Option<i64>)]) -> ErrorList {
    let mut errs = ErrorList::default();
    let path = Path::new("status");
    for (field, count) in counts {
        errs.add_negative(&path.child(*field), count.unwrap_or_default());
    }
    for (field, count) in counts {
        let bounded = matches!(
            *field,
            "fullyLabeledReplicas"
                | "updatedReplicas"
                | "currentReplicas"
                | "readyReplicas"
                | "availableReplicas"
        );
        let count = count.unwrap_or_default();
        if bounded && count > replicas {
            errs.add_invalid(&path.child(*field), count, "cannot be greater than status.replicas");
        }
    }
    let count =
        |name: &str| counts.iter().find(|(f, _)| *f == name).and_then(|(_, c)| *c).unwrap_or_default();
    if count("availableReplicas") > count("readyReplicas") {
        let detail = "cannot be greater than readyReplicas";
        errs.add_invalid(&path.child("availableReplicas"), count("availableReplicas"), detail);
    }
    errs
}

/// A counter that never goes back.
pub fn not_decremented(errs: &mut ErrorList, new: Option<i32>, old: Option<i32>) {
    if let Some(old) = old
        && new.is_none_or(|new| new < old)
    {
        let path = Path::new("status").child("collisionCount");
        errs.add_invalid(&path, new.unwrap_or_default(), "cannot be decremented");
    }
}

/// The number or percentage as JSON.
pub fn int_or_string(value: &IntOrString) -> Value {
    match value {
        IntOrString::Int(i) => (*i).into(),
        IntOrString::String(s) => s.as_str().into(),
    }
}

/// The number, or the number before the percent sign.
pub fn amount(value: Option<&IntOrString>) -> i64 {
    match value {
        None => 0,
        Some(IntOrString::Int(i)) => i64::from(*i),
        Some(IntOrString::String(s)) => s.trim_end_matches('%').parse().unwrap_or_default(),
    }
}

/// Errors of a number or percentage that must not be negative.
pub fn positive_int_or_percent(errs: &mut ErrorList, value: &IntOrString, path: &Path) {
    match value {
        IntOrString::Int(i) => errs.add_negative(path, i64::from(*i)),
        IntOrString::String(s) => errs.add_all(path, s, validate::percent(s)),
    }
}

/// A percentage of at most a hundred.
pub fn at_most_100_percent(errs: &mut ErrorList, value: &IntOrString, path: &Path) {
    if let IntOrString::String(s) = value
        && validate::percent(s).is_empty()
        && amount(Some(value)) > 100
    {
        errs.add_invalid(path, s, "must not be greater than 100%");
    }
}

/// The warning about names that make bad host names.
pub fn name_warning(name: &str) -> Option<String> {
    let problems = validate::dns1123_label(name);
    (!problems.is_empty()).then(|| {
        format!(
            "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: [{}]",
            problems.join(" ")
        )
    })
}

/// A required value out of a few, refused as upstream's older kinds do: `must be 'A' or 'B'`.
pub fn must_be(errs: &mut ErrorList, value: &str, a: &str, b: &str, path: &Path) {
    if value.is_empty() {
        one_of(errs, value, &[a, b], path);
    } else if value != a && value != b {
        errs.add_invalid(path, value, format!("must be '{a}' or '{b}'"));
    }
}
