//! What mutating and validating webhooks have in common: defaults and rules.

use super::policy;
use super::rules::{self, FAILURE_POLICIES, MATCH_POLICIES, REINVOCATION_POLICIES};
use crate::util::value::{Object, each, ensure, object, set_absent, sub};
use crate::util::{Errs, Items};
use knarr_api::admissionregistration::v1::{
    MatchCondition, MutatingWebhook, RuleWithOperations, ValidatingWebhook, WebhookClientConfig,
};
use knarr_api::meta::v1::LabelSelector;
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::validate;
use serde_json::Value;

/// The versions of AdmissionReview that this server speaks.
const REVIEW_VERSIONS: &[&str] = &["v1", "v1beta1"];
const SIDE_EFFECTS: &[&str] = &["None", "NoneOnDryRun", "Some", "Unknown"];
const NO_SIDE_EFFECTS: &[&str] = &["None", "NoneOnDryRun"];

/// A webhook of either sort.
#[derive(Clone, Copy)]
pub struct Hook<'a> {
    name: &'a str,
    client: &'a WebhookClientConfig,
    rules: &'a [RuleWithOperations],
    failure_policy: Option<&'a str>,
    match_policy: Option<&'a str>,
    side_effects: &'a str,
    timeout_seconds: Option<i32>,
    namespace_selector: Option<&'a LabelSelector>,
    object_selector: Option<&'a LabelSelector>,
    reinvocation_policy: Option<&'a str>,
    conditions: &'a [MatchCondition],
    versions: &'a [String],
}

macro_rules! hook {
    ($($ty:ty: $reinvocation:expr;)*) => {$(
        impl<'a> From<&'a $ty> for Hook<'a> {
            fn from(hook: &'a $ty) -> Self {
                let reinvocation: fn(&'a $ty) -> Option<&'a str> = $reinvocation;
                Self {
                    name: &hook.name,
                    client: &hook.client_config,
                    rules: hook.rules.items(),
                    failure_policy: hook.failure_policy.as_deref(),
                    match_policy: hook.match_policy.as_deref(),
                    side_effects: &hook.side_effects,
                    timeout_seconds: hook.timeout_seconds,
                    namespace_selector: hook.namespace_selector.as_ref(),
                    object_selector: hook.object_selector.as_ref(),
                    reinvocation_policy: reinvocation(hook),
                    conditions: hook.match_conditions.items(),
                    versions: &hook.admission_review_versions,
                }
            }
        }
    )*};
}

hook! {
    MutatingWebhook: |hook| hook.reinvocation_policy.as_deref();
    ValidatingWebhook: |_| None;
}

/// What an update is held to less strictly, because the object was like that before.
pub struct Leniency {
    /// The conditions are those that were there.
    conditions_unchanged: bool,
    side_effects: bool,
    unknown_versions: bool,
    doubled_names: bool,
    label_values: bool,
}

impl Leniency {
    /// A new object has no past.
    pub fn none() -> Self {
        Self {
            conditions_unchanged: false,
            side_effects: false,
            unknown_versions: false,
            doubled_names: false,
            label_values: false,
        }
    }

    /// What `old` permits in `new`.
    pub fn of(new: &[Hook<'_>], old: &[Hook<'_>]) -> Self {
        let unchanged =
            new.len() == old.len() && new.iter().zip(old).all(|(new, old)| new.conditions == old.conditions);
        let recognized = |hook: &Hook<'_>| {
            hook.versions.is_empty() || hook.versions.iter().any(|v| REVIEW_VERSIONS.contains(&v.as_str()))
        };
        let invalid = |hook: &Hook<'_>| {
            let path = Path::nil();
            [hook.namespace_selector, hook.object_selector]
                .into_iter()
                .any(|selector| !rules::selector(selector, false, &path).is_empty())
        };
        Self {
            conditions_unchanged: unchanged,
            side_effects: old.iter().any(|hook| !NO_SIDE_EFFECTS.contains(&hook.side_effects)),
            unknown_versions: !old.iter().all(recognized),
            doubled_names: old.iter().enumerate().any(|(i, h)| old[..i].iter().any(|o| o.name == h.name)),
            label_values: old.iter().any(invalid),
        }
    }
}

/// Fills in what the webhooks of a configuration lack.
pub fn default(obj: &mut Value, mutating: bool) {
    each(object(obj), "webhooks", |hook| {
        set_absent(hook, "failurePolicy", "Fail");
        set_absent(hook, "matchPolicy", "Equivalent");
        ensure(hook, "namespaceSelector");
        ensure(hook, "objectSelector");
        set_absent(hook, "timeoutSeconds", 10);
        if mutating {
            set_absent(hook, "reinvocationPolicy", "Never");
        }
        rules::default_rules(hook, "rules");
        if let Some(service) =
            sub(hook, "clientConfig").and_then(|config: &mut Object| sub(config, "service"))
        {
            set_absent(service, "port", 443);
        }
    });
}

/// Errors of a configuration's webhooks.
pub fn validate(hooks: &[Hook<'_>], lenient: &Leniency) -> ErrorList {
    let mut errs = ErrorList::default();
    for (i, hook) in hooks.iter().enumerate() {
        let path = Path::new("webhooks").index(i);
        one(&mut errs, hook, lenient, &path);
        review_versions(&mut errs, hook.versions, lenient, &path.child("admissionReviewVersions"));
        let doubled = !hook.name.is_empty() && hooks[..i].iter().any(|other| other.name == hook.name);
        if doubled && !lenient.doubled_names {
            errs.add_duplicate(&path.child("name"), hook.name);
        }
    }
    errs
}

fn one(errs: &mut ErrorList, hook: &Hook<'_>, lenient: &Leniency, path: &Path) {
    full_name(errs, hook.name, &path.child("name"));
    for (i, rule) in hook.rules.iter().enumerate() {
        rules::rule(errs, &rule.into(), &path.child("rules").index(i));
    }
    let allowed = if lenient.side_effects { SIDE_EFFECTS } else { NO_SIDE_EFFECTS };
    for (field, value, supported) in [
        ("failurePolicy", hook.failure_policy, FAILURE_POLICIES),
        ("matchPolicy", hook.match_policy, MATCH_POLICIES),
    ] {
        if let Some(value) = value.filter(|value| !supported.contains(value)) {
            errs.add_not_supported(&path.child(field), value, supported);
        }
    }
    if hook.side_effects.is_empty() {
        let detail = format!("must specify one of {}", allowed.join(", "));
        errs.add_required(&path.child("sideEffects"), detail);
    } else if !allowed.contains(&hook.side_effects) {
        errs.add_not_supported(&path.child("sideEffects"), hook.side_effects, allowed);
    }
    if let Some(seconds) = hook.timeout_seconds.filter(|seconds| !(1..=30).contains(seconds)) {
        let detail = "the timeout value must be between 1 and 30 seconds";
        errs.add_invalid(&path.child("timeoutSeconds"), seconds, detail);
    }
    for (field, selector) in
        [("namespaceSelector", hook.namespace_selector), ("objectSelector", hook.object_selector)]
    {
        errs.extend(rules::selector(selector, lenient.label_values, &path.child(field)));
    }
    if let Some(value) = hook.reinvocation_policy.filter(|value| !REINVOCATION_POLICIES.contains(value)) {
        errs.add_not_supported(&path.child("reinvocationPolicy"), value, REINVOCATION_POLICIES);
    }
    client(errs, hook.client, &path.child("clientConfig"));
    if !lenient.conditions_unchanged {
        let at = path.child("matchConditions");
        policy::match_conditions(errs, hook.conditions, false, &at);
    }
}

fn client(errs: &mut ErrorList, client: &WebhookClientConfig, path: &Path) {
    match (&client.url, &client.service) {
        (Some(url), None) => errs.extend(validate::webhook_url(url, &path.child("url"))),
        (None, Some(service)) => {
            let port = i64::from(service.port.unwrap_or_default());
            // The order is upstream's.
            errs.extend(validate::webhook_service(
                &service.name,
                &service.namespace,
                service.path.as_deref(),
                port,
                &path.child("service"),
            ));
        }
        _ => errs.add_required(path, "exactly one of url or service is required"),
    }
}

fn full_name(errs: &mut ErrorList, name: &str, path: &Path) {
    let problems = validate::dns1123_subdomain(name);
    if name.is_empty() {
        errs.add_required(path, "");
    } else if !problems.is_empty() {
        errs.add_invalid(path, name, problems.join(","));
    } else if name.split('.').count() < 3 {
        let detail = "should be a domain with at least three segments separated by dots";
        errs.add_invalid(path, name, detail);
    }
}

fn review_versions(errs: &mut ErrorList, versions: &[String], lenient: &Leniency, path: &Path) {
    if versions.is_empty() {
        errs.add_required(path, format!("must specify one of {}", REVIEW_VERSIONS.join(", ")));
        return;
    }
    for (i, version) in versions.iter().enumerate() {
        if versions[..i].contains(version) {
            errs.add_invalid(&path.index(i), version, "duplicate version");
            continue;
        }
        errs.add_all(&path.index(i), version, validate::dns1035_label(version));
    }
    let known = versions.iter().any(|version| REVIEW_VERSIONS.contains(&version.as_str()));
    if !known && !lenient.unknown_versions {
        let detail = format!("must include at least one of {}", REVIEW_VERSIONS.join(", "));
        errs.add_invalid(path, versions, detail);
    }
}
