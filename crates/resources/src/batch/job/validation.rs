//! Validation of jobs: pkg/apis/batch/validation.

use super::indexes;
use crate::apps::workload::{selector_value, selects_template};
use crate::core::pod::validation::scheduling::label_selector;
use crate::core::pod::validation::template as validate_template;
use crate::util::{Errs, Flag, Items, Number, Pairs, Text};
use knarr_api::batch::v1::{
    Job, JobSpec, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule, SuccessPolicyRule,
};
use knarr_api::core::v1::{Affinity, PodTemplateSpec};
use knarr_meta::field::{ErrorList, FieldError, Path};
use knarr_meta::selector::LabelSelector as Selector;
use knarr_meta::validate;

const MAX_PARALLELISM_INDEXED: i32 = 100_000;
const MAX_FAILED_INDEXES: i32 = 100_000;
const COMPLETIONS_SOFT_LIMIT: i32 = 100_000;
const MANY_COMPLETIONS_LIMIT: i32 = 10_000;
const MAX_RULES: usize = 20;
const MAX_EXIT_CODES: usize = 255;
const MAX_MANAGED_BY: usize = 63;
const MAX_SUCCEEDED_INDEXES: usize = 64 * 1024;

/// Errors of a new job.
pub fn create(job: &Job) -> ErrorList {
    let Some(spec) = &job.spec else { return ErrorList::default() };
    let mut errs = generated_selector(job, spec, true);
    errs.extend(with_selector(spec));
    errs.extend(hostname(job, spec));
    errs
}

fn hostname(job: &Job, spec: &JobSpec) -> ErrorList {
    let mut errs = ErrorList::default();
    let completions = spec.completions.number();
    if spec.completion_mode.text() == "Indexed" && completions > 0 {
        let name = job.metadata.name.text();
        let longest = format!("{name}-{}", completions - 1);
        if !validate::dns1123_label(&longest).is_empty() {
            let detail = format!("will not able to create pod with invalid DNS label: {longest}");
            errs.add_invalid(&Path::new("metadata").child("name"), name, detail);
        }
    }
    errs
}

/// Unless the user takes care of it, labels and selector are the server's.
fn generated_selector(job: &Job, spec: &JobSpec, prefixed: bool) -> ErrorList {
    let mut errs = ErrorList::default();
    let Some(selector) = &spec.selector else { return errs };
    if spec.manual_selector.on() {
        return errs;
    }
    let (uid, name) = (job.metadata.uid.text(), job.metadata.name.text());
    if uid.is_empty() {
        errs.add_required(&Path::new("metadata").child("uid"), "");
    }
    let mut expected = vec![("controller-uid", uid), ("job-name", name)];
    if prefixed {
        expected.push(("batch.kubernetes.io/controller-uid", uid));
        expected.push(("batch.kubernetes.io/job-name", name));
    }
    let labels = spec.template.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
    let path = Path::new("spec").child("template").child("metadata").child("labels");
    for (key, value) in &expected {
        let detail = format!("must be '{value}'");
        match labels.get(*key) {
            None => errs.add_required(&path.key(*key), detail),
            Some(found) if found != value => errs.add_invalid(&path.key(*key), &labels, detail),
            Some(_) => {}
        }
    }
    if let Ok(parsed) = Selector::from_label_selector(&selector_value(selector))
        && !parsed.matches_with(|key| expected.iter().find(|(k, _)| *k == key).map(|(_, v)| *v))
    {
        let detail = "`selector` not auto-generated";
        errs.add_invalid(&Path::new("spec").child("selector"), selector_value(selector), detail);
    }
    errs
}

fn with_selector(spec: &JobSpec) -> ErrorList {
    let path = Path::new("spec");
    let mut errs = validate_spec(spec, &path);
    match &spec.selector {
        None => errs.add_required(&path.child("selector"), ""),
        Some(selector) => {
            errs.extend(label_selector(Some(selector), &path.child("selector")));
            selects_template(&mut errs, selector, &spec.template, &path.child("template"));
        }
    }
    errs
}

/// Errors of a job's spec apart from its selector: also of a cron job's template.
pub fn validate_spec(spec: &JobSpec, path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    for (field, value) in [
        ("parallelism", spec.parallelism.number()),
        ("completions", spec.completions.number()),
        ("activeDeadlineSeconds", spec.active_deadline_seconds.number()),
        ("backoffLimit", spec.backoff_limit.number()),
        ("ttlSecondsAfterFinished", spec.ttl_seconds_after_finished.number()),
        ("backoffLimitPerIndex", spec.backoff_limit_per_index.number()),
        ("maxFailedIndexes", spec.max_failed_indexes.number()),
    ] {
        errs.add_negative(&path.child(field), value);
    }
    if spec.max_failed_indexes.is_some() && spec.backoff_limit_per_index.is_none() {
        errs.add_required(&path.child("backoffLimitPerIndex"), "when maxFailedIndexes is specified");
    }
    if let Some(manager) = &spec.managed_by {
        managed_by(&mut errs, manager, &path.child("managedBy"));
    }
    completion_mode(&mut errs, spec, path);
    if let Some(policy) = &spec.pod_failure_policy {
        let path = path.child("podFailurePolicy").child("rules");
        if policy.rules.len() > MAX_RULES {
            errs.add_too_many(&path, policy.rules.len(), MAX_RULES);
        }
        for (i, rule) in policy.rules.iter().enumerate() {
            failure_rule(&mut errs, spec, rule, &path.index(i));
        }
    }
    if let Some(policy) = &spec.success_policy {
        let path = path.child("successPolicy");
        if spec.completion_mode.text() != "Indexed" {
            let value = serde_json::to_value(policy).unwrap_or_default();
            errs.add_invalid(&path, value, "requires indexed completion mode");
        } else {
            let path = path.child("rules");
            if policy.rules.is_empty() {
                let detail = "at least one rules must be specified when the successPolicy is specified";
                errs.add_required(&path, detail);
            }
            if policy.rules.len() > MAX_RULES {
                errs.add_too_many(&path, policy.rules.len(), MAX_RULES);
            }
            for (i, rule) in policy.rules.iter().enumerate() {
                success_rule(&mut errs, spec.completions.unwrap_or_default(), rule, &path.index(i));
            }
        }
    }
    if let Some(policy) = &spec.pod_replacement_policy {
        let supported: &[&str] =
            if spec.pod_failure_policy.is_some() { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
        if !supported.contains(&policy.as_str()) {
            errs.add_not_supported(&path.child("podReplacementPolicy"), policy, supported);
        }
    }
    errs.extend(validate_template(&spec.template, &path.child("template")));
    let restart = spec.template.spec.as_ref().map(|s| s.restart_policy.text()).unwrap_or_default();
    let path = path.child("template").child("spec").child("restartPolicy");
    match restart {
        "Always" | "" => errs.add_required(&path, "valid values: \"OnFailure\", \"Never\""),
        "OnFailure" if spec.pod_failure_policy.is_some() => {
            let detail = "only \"Never\" is supported when podFailurePolicy is specified";
            errs.add_invalid(&path, restart, detail);
        }
        "OnFailure" | "Never" => {}
        other => errs.add_not_supported(&path, other, &["OnFailure", "Never"]),
    }
    errs
}

fn managed_by(errs: &mut ErrorList, manager: &str, path: &Path) {
    if manager.is_empty() {
        errs.add_required(path, "");
    } else {
        match manager.split_once('/') {
            Some((host, rest)) if !host.is_empty() && !rest.is_empty() => {
                errs.add_all(path, host, validate::dns1123_subdomain(host));
            }
            _ => errs.add_invalid(path, manager, "must be a domain-prefixed path (such as \"acme.io/foo\")"),
        }
    }
    if manager.len() > MAX_MANAGED_BY {
        errs.add_too_long(path, MAX_MANAGED_BY);
    }
}

fn completion_mode(errs: &mut ErrorList, spec: &JobSpec, path: &Path) {
    let at_most = |errs: &mut ErrorList, field: &'static str, value: Option<i32>, max: i32, when: &str| {
        if let Some(value) = value.filter(|v| *v > max) {
            let detail = format!("must be less than or equal to {max}{when}");
            errs.add_invalid(&path.child(field), value, detail);
        }
    };
    match spec.completion_mode.as_deref() {
        Some("Indexed") => {
            if spec.completions.is_none() {
                errs.add_required(&path.child("completions"), "when completion mode is Indexed");
            }
            let when = " when completion mode is Indexed";
            at_most(errs, "parallelism", spec.parallelism, MAX_PARALLELISM_INDEXED, when);
            if let (Some(completions), Some(failed)) = (spec.completions, spec.max_failed_indexes)
                && failed > completions
            {
                let detail = "must be less than or equal to completions";
                errs.add_invalid(&path.child("maxFailedIndexes"), failed, detail);
            }
            at_most(errs, "maxFailedIndexes", spec.max_failed_indexes, MAX_FAILED_INDEXES, "");
            let many = spec.completions.is_some_and(|c| c > COMPLETIONS_SOFT_LIMIT);
            if many && spec.backoff_limit_per_index.is_some() {
                if spec.max_failed_indexes.is_none() {
                    let detail =
                        format!("must be specified when completions is above {COMPLETIONS_SOFT_LIMIT}");
                    errs.add_required(&path.child("maxFailedIndexes"), detail);
                }
                let when = format!(
                    " when completions are above {COMPLETIONS_SOFT_LIMIT} and used with backoff limit per index"
                );
                at_most(errs, "parallelism", spec.parallelism, MANY_COMPLETIONS_LIMIT, &when);
                at_most(errs, "maxFailedIndexes", spec.max_failed_indexes, MANY_COMPLETIONS_LIMIT, &when);
            }
            return;
        }
        None | Some("NonIndexed") => {}
        Some(other) => {
            errs.add_not_supported(&path.child("completionMode"), other, &["NonIndexed", "Indexed"]);
            return;
        }
    }
    for (field, value) in [
        ("backoffLimitPerIndex", spec.backoff_limit_per_index),
        ("maxFailedIndexes", spec.max_failed_indexes),
    ] {
        if let Some(value) = value {
            errs.add_invalid(&path.child(field), value, "requires indexed completion mode");
        }
    }
}

fn failure_rule(errs: &mut ErrorList, spec: &JobSpec, rule: &PodFailurePolicyRule, path: &Path) {
    const ACTIONS: &[&str] = &["Count", "FailIndex", "FailJob", "Ignore"];
    let at = path.child("action");
    match rule.action.as_str() {
        "" => errs.add_required(&at, "valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]"),
        "FailIndex" if spec.backoff_limit_per_index.is_none() => {
            errs.add_invalid(&at, &rule.action, "requires the backoffLimitPerIndex to be set");
        }
        action if !ACTIONS.contains(&action) => errs.add_not_supported(&at, action, ACTIONS),
        _ => {}
    }
    if let Some(codes) = &rule.on_exit_codes {
        exit_codes(errs, spec, codes, &path.child("onExitCodes"));
    }
    let conditions = rule.on_pod_conditions.items();
    let at = path.child("onPodConditions");
    if conditions.len() > MAX_RULES {
        errs.add_too_many(&at, conditions.len(), MAX_RULES);
    }
    for (i, pattern) in conditions.iter().enumerate() {
        let path = at.index(i);
        errs.add_all(&path.child("type"), &pattern.type_, validate::qualified_name(&pattern.type_));
        let statuses = &["False", "True", "Unknown"];
        let status = pattern.status.text();
        if status.is_empty() {
            errs.add_required(&path.child("status"), "valid values: [\"False\" \"True\" \"Unknown\"]");
        } else if !statuses.contains(&status) {
            errs.add_not_supported(&path.child("status"), status, statuses);
        }
    }
    let mut omitted = |detail: &str| {
        errs.push(FieldError { value: None, ..knarr_meta::field::invalid(path, "", detail) });
    };
    match (rule.on_exit_codes.is_some(), conditions.is_empty()) {
        (true, false) => omitted("specifying both OnExitCodes and OnPodConditions is not supported"),
        (false, true) => omitted("specifying one of OnExitCodes and OnPodConditions is required"),
        _ => {}
    }
}

fn exit_codes(
    errs: &mut ErrorList,
    spec: &JobSpec,
    codes: &PodFailurePolicyOnExitCodesRequirement,
    path: &Path,
) {
    let at = path.child("operator");
    match codes.operator.as_str() {
        "" => errs.add_required(&at, "valid values: [\"In\" \"NotIn\"]"),
        "In" | "NotIn" => {}
        other => errs.add_not_supported(&at, other, &["In", "NotIn"]),
    }
    if let Some(name) = &codes.container_name {
        let pod = spec.template.spec.clone().unwrap_or_default();
        if !pod.containers.iter().chain(pod.init_containers.items()).any(|c| c.name == *name) {
            let detail = "must be one of the container or initContainer names in the pod template";
            errs.add_invalid(&path.child("containerName"), name, detail);
        }
    }
    let path = path.child("values");
    let values = &codes.values;
    if values.is_empty() {
        errs.add_invalid(&path, values, "at least one value is required");
    } else if values.len() > MAX_EXIT_CODES {
        errs.add_too_many(&path, values.len(), MAX_EXIT_CODES);
    }
    for (i, value) in values.iter().enumerate() {
        if codes.operator == "In" && *value == 0 {
            errs.add_invalid(&path.index(i), value, "must not be 0 for the In operator");
        }
        if values[..i].contains(value) {
            errs.add_duplicate(&path.index(i), value);
        }
    }
    if !values.is_sorted() {
        errs.add_invalid(&path, values, "must be ordered");
    }
}

fn success_rule(errs: &mut ErrorList, completions: i32, rule: &SuccessPolicyRule, path: &Path) {
    if rule.succeeded_count.is_none() && rule.succeeded_indexes.is_none() {
        let detail = "at least one of succeededCount or succeededIndexes must be specified";
        errs.add_required(path, detail);
    }
    let mut total = 0;
    if let Some(set) = &rule.succeeded_indexes {
        let path = path.child("succeededIndexes");
        if set.len() > MAX_SUCCEEDED_INDEXES {
            errs.add_too_long(&path, MAX_SUCCEEDED_INDEXES);
        }
        match indexes::parse(set, completions) {
            Ok(intervals) => total = indexes::count(&intervals),
            Err(problem) => {
                errs.add_invalid(&path, set, format!("error parsing succeededIndexes: {problem}"));
            }
        }
    }
    if let Some(count) = rule.succeeded_count {
        let path = path.child("succeededCount");
        errs.add_negative(&path, i64::from(count));
        if count > completions {
            let detail =
                format!("must be less than or equal to {completions} (the number of specified completions)");
            errs.add_invalid(&path, count, detail);
        }
        if rule.succeeded_indexes.is_some() && i64::from(count) > total {
            let detail = format!(
                "must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
            );
            errs.add_invalid(&path, count, detail);
        }
    }
}

/// Errors of a changed job.
pub fn update(new: &Job, old: &Job) -> ErrorList {
    let (Some(spec), Some(was)) = (&new.spec, &old.spec) else { return ErrorList::default() };
    let labels = was.template.metadata.as_ref().and_then(|m| m.labels.clone());
    let prefixed = labels.at("batch.kubernetes.io/job-name").is_some()
        && labels.at("batch.kubernetes.io/controller-uid").is_some();
    let mut errs = generated_selector(new, spec, prefixed);
    errs.extend(with_selector(spec));
    errs.extend(hostname(new, spec));
    let path = Path::new("spec");
    if spec.completion_mode.text() != "Indexed" {
        errs.add_changed(&path.child("completions"), &spec.completions, &was.completions);
    } else if spec.completions != was.completions
        && spec.completions.is_some()
        && spec.completions != spec.parallelism
    {
        let detail = "can only be modified in tandem with spec.parallelism";
        errs.add_invalid(&path.child("completions"), spec.completions, detail);
    }
    errs.add_changed(&path.child("selector"), &spec.selector, &was.selector);
    changed_template(&mut errs, old, spec, was, &path);
    errs.add_changed(&path.child("completionMode"), &spec.completion_mode, &was.completion_mode);
    errs.add_changed(&path.child("podFailurePolicy"), &spec.pod_failure_policy, &was.pod_failure_policy);
    let at = path.child("backoffLimitPerIndex");
    errs.add_changed(&at, &spec.backoff_limit_per_index, &was.backoff_limit_per_index);
    errs.add_changed(&path.child("managedBy"), &spec.managed_by, &was.managed_by);
    errs.add_changed(&path.child("successPolicy"), &spec.success_policy, &was.success_policy);
    errs
}

/// The template is fixed; while a job is suspended and has no pods, where its pods go and what they ask for
/// may change (KEP-2926, KEP-5440).
fn changed_template(errs: &mut ErrorList, old: &Job, spec: &JobSpec, was: &JobSpec, path: &Path) {
    let status = old.status.clone().unwrap_or_default();
    let suspended = was.suspend.on();
    let resting = status.start_time.is_none()
        || status.conditions.items().iter().any(|c| c.type_ == "Suspended" && c.status == "True");
    let mut allowed: PodTemplateSpec = was.template.clone();
    let mutable = suspended && resting && status.active.number() == 0;
    if mutable && let (Some(old), Some(new)) = (&mut allowed.spec, &spec.template.spec) {
        let node_affinity = new.affinity.as_ref().and_then(|a| a.node_affinity.clone());
        match (&mut old.affinity, &new.affinity) {
            (Some(affinity), _) => affinity.node_affinity = node_affinity,
            (None, Some(_)) => old.affinity = Some(Affinity { node_affinity, ..Affinity::default() }),
            (None, None) => {}
        }
        if new.affinity.is_none() && old.affinity == Some(Affinity::default()) {
            old.affinity = None;
        }
        old.node_selector.clone_from(&new.node_selector);
        old.tolerations.clone_from(&new.tolerations);
        old.scheduling_gates.clone_from(&new.scheduling_gates);
        for (old, new) in old.containers.iter_mut().zip(&new.containers).filter(|(o, n)| o.name == n.name) {
            old.resources.clone_from(&new.resources);
        }
        let pairs = old.init_containers.iter_mut().flatten().zip(new.init_containers.items());
        for (old, new) in pairs.filter(|(o, n)| o.name == n.name) {
            old.resources.clone_from(&new.resources);
        }
        let meta = allowed.metadata.get_or_insert_default();
        let new_meta = spec.template.metadata.clone().unwrap_or_default();
        (meta.labels, meta.annotations) = (new_meta.labels, new_meta.annotations);
    }
    if !suspended {
        errs.add_changed(&path.child("template"), &spec.template, &allowed);
    } else if spec.template.spec != allowed.spec {
        let value = serde_json::to_value(&spec.template.spec).unwrap_or_default();
        let at = if mutable { path.child("template.spec") } else { path.child("template") };
        errs.add_invalid(&at, value, "field is immutable");
    }
}
