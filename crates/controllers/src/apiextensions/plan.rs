//! The conditions of one CustomResourceDefinition, as a pure function of it and of the names that others have:
//! NamesAccepted and Established, NonStructuralSchema, KubernetesAPIApprovalPolicyConformant.

use knarr_apiextensions::Names;
use knarr_apiextensions::crd::{self, approval};
use knarr_meta::go;
use knarr_meta::object::get_str;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The names that the definitions of a group have been granted.
#[derive(Clone, Debug, Default)]
pub(super) struct Used {
    /// Plural, singular and short names.
    pub resources: BTreeSet<String>,
    /// Kinds and kinds of lists.
    pub kinds: BTreeSet<String>,
}

impl Used {
    pub fn add(&mut self, names: &Names) {
        let resources = [&names.plural, &names.singular].into_iter().chain(&names.short_names);
        self.resources.extend(resources.filter(|name| !name.is_empty()).cloned());
        self.kinds
            .extend([&names.kind, &names.list_kind].into_iter().filter(|name| !name.is_empty()).cloned());
    }
}

/// The status that a definition should have; none if it has it.
pub(super) fn status(crd: &Value, used: &Used, now: &str) -> Option<Value> {
    let mut status = if crd["status"].is_object() { crd["status"].clone() } else { json!({}) };
    names(crd, &mut status, used, now);
    establish(crd, &mut status, now);
    match crd::non_structural(crd) {
        Some(found) => {
            set_condition(
                &mut status,
                "NonStructuralSchema",
                found.status,
                found.reason,
                &found.message,
                now,
            );
        }
        None => remove_condition(&mut status, "NonStructuralSchema"),
    }
    if approval::is_protected(get_str(crd, &["spec", "group"])) {
        let (state, message) = approval::state(crd);
        let (is, reason) = match state {
            approval::State::Invalid => ("False", "InvalidAnnotation"),
            approval::State::Missing => ("False", "MissingAnnotation"),
            approval::State::Approved => ("True", "ApprovedAnnotation"),
            approval::State::Bypassed => ("False", "UnapprovedAnnotation"),
        };
        set_condition(&mut status, "KubernetesAPIApprovalPolicyConformant", is, reason, &message, now);
    }
    (status != crd["status"]).then_some(status)
}

fn names(crd: &Value, status: &mut Value, used: &Used, now: &str) {
    let wanted = Names::parse(&crd["spec"]["names"]);
    let held = Names::parse(&status["acceptedNames"]);
    if wanted == held && condition(status, "NamesAccepted").is_some() {
        return;
    }
    let mut granted = held.clone();
    let mut conflict: Option<(&str, String)> = None;
    let taken = |wanted: &str, held: &str, used: &BTreeSet<String>| {
        (wanted != held && used.contains(wanted)).then(|| format!("{} is already in use", go::quote(wanted)))
    };
    let mut grant =
        |slot: &mut String, wanted: &str, held: &str, used, reason| match taken(wanted, held, used) {
            Some(message) => conflict = Some((reason, message)),
            None => *slot = wanted.to_owned(),
        };
    grant(&mut granted.plural, &wanted.plural, &held.plural, &used.resources, "PluralConflict");
    grant(&mut granted.singular, &wanted.singular, &held.singular, &used.resources, "SingularConflict");
    if wanted.short_names != held.short_names {
        let new = wanted.short_names.iter().filter(|name| !held.short_names.contains(name));
        let errors: Vec<String> = new.filter_map(|name| taken(name, "", &used.resources)).collect();
        match errors.as_slice() {
            [] => granted.short_names.clone_from(&wanted.short_names),
            [one] => conflict = Some(("ShortNamesConflict", one.clone())),
            many => conflict = Some(("ShortNamesConflict", format!("[{}]", many.join(", ")))),
        }
    }
    let mut grant =
        |slot: &mut String, wanted: &str, held: &str, used, reason| match taken(wanted, held, used) {
            Some(message) => conflict = Some((reason, message)),
            None => *slot = wanted.to_owned(),
        };
    grant(&mut granted.kind, &wanted.kind, &held.kind, &used.kinds, "KindConflict");
    grant(&mut granted.list_kind, &wanted.list_kind, &held.list_kind, &used.kinds, "ListKindConflict");
    granted.categories.clone_from(&wanted.categories);
    if granted != held || status["acceptedNames"].is_null() {
        status["acceptedNames"] = granted.to_value();
    }
    match conflict {
        Some((reason, message)) => {
            set_condition(status, "NamesAccepted", "False", reason, &message, now);
            if condition(status, "Established").is_none() {
                set_condition(
                    status,
                    "Established",
                    "False",
                    "NotAccepted",
                    "not all names are accepted",
                    now,
                );
            }
        }
        None => set_condition(status, "NamesAccepted", "True", "NoConflicts", "no conflicts found", now),
    }
}

/// One server needs no time between accepting names and serving: both are told at once.
fn establish(crd: &Value, status: &mut Value, now: &str) {
    let holds =
        |status: &Value, type_: &str| condition(status, type_).is_some_and(|found| found["status"] == "True");
    if !holds(status, "NamesAccepted") || holds(status, "Established") {
        return;
    }
    let bundle = get_str(crd, &["spec", "conversion", "webhook", "clientConfig", "caBundle"]);
    if crd::ca_bundle_problem(bundle).is_some() {
        let message = "The conversion webhook CABundle is invalid";
        set_condition(status, "Established", "False", "InvalidCABundle", message, now);
    } else {
        let message = "the initial names have been accepted";
        set_condition(status, "Established", "True", "InitialNamesAccepted", message, now);
    }
}

fn condition<'a>(status: &'a Value, type_: &str) -> Option<&'a Value> {
    status["conditions"].as_array()?.iter().find(|condition| condition["type"] == type_)
}

/// Sets a condition; the time of its transition changes with its status only.
pub(super) fn set_condition(
    status: &mut Value,
    type_: &str,
    is: &str,
    reason: &str,
    message: &str,
    now: &str,
) {
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    let Some(list) = status["conditions"].as_array_mut() else { return };
    match list.iter_mut().find(|condition| condition["type"] == type_) {
        None => list.push(json!({"type": type_, "status": is, "lastTransitionTime": now, "reason": reason,
            "message": message})),
        Some(held) => {
            if held["status"] != is || held["lastTransitionTime"].is_null() {
                held["lastTransitionTime"] = now.into();
            }
            held["status"] = is.into();
            held["reason"] = reason.into();
            held["message"] = message.into();
        }
    }
}

fn remove_condition(status: &mut Value, type_: &str) {
    if let Some(list) = status["conditions"].as_array_mut() {
        list.retain(|condition| condition["type"] != type_);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-01-01T00:00:00Z";

    fn tabs(status: Value) -> Value {
        json!({"spec": {"group": "example.com", "names": {"plural": "tabs", "singular": "tab", "kind": "Tab", "listKind": "TabList",
            "shortNames": ["t"]}, "versions": [{"name": "v1", "schema": {"openAPIV3Schema": {"type": "object"}}}]}, "status": status})
    }

    fn shown(status: &Value) -> Vec<String> {
        let text = |condition: &Value, name: &str| condition[name].as_str().unwrap_or_default().to_owned();
        let conditions = status["conditions"].as_array().into_iter().flatten();
        conditions
            .map(|c| {
                format!(
                    "{}={} {}: {}",
                    text(c, "type"),
                    text(c, "status"),
                    text(c, "reason"),
                    text(c, "message")
                )
            })
            .collect()
    }

    #[test]
    fn free_names_are_granted_and_served() {
        let new = status(&tabs(json!({"storedVersions": ["v1"]})), &Used::default(), NOW).unwrap();
        assert_eq!(
            shown(&new),
            [
                "NamesAccepted=True NoConflicts: no conflicts found",
                "Established=True InitialNamesAccepted: the initial names have been accepted",
            ]
        );
        assert_eq!(
            new["acceptedNames"],
            json!({"plural": "tabs", "singular": "tab", "kind": "Tab", "listKind": "TabList", "shortNames": ["t"]})
        );
        assert_eq!(new["storedVersions"], json!(["v1"]));
        // The names it has itself are in the way of nobody.
        let mut used = Used::default();
        used.add(&Names::parse(&new["acceptedNames"]));
        assert_eq!(status(&tabs(new), &used, "later"), None);
    }

    #[test]
    fn names_of_others_are_not() {
        let mut used = Used::default();
        used.add(&Names {
            singular: "tab".into(),
            short_names: vec!["t".into()],
            kind: "Tab".into(),
            ..Names::default()
        });
        let new = status(&tabs(json!({})), &used, NOW).unwrap();
        assert_eq!(
            shown(&new),
            [
                r#"NamesAccepted=False KindConflict: "Tab" is already in use"#,
                "Established=False NotAccepted: not all names are accepted",
            ]
        );
        assert_eq!(new["acceptedNames"], json!({"plural": "tabs", "kind": "", "listKind": "TabList"}));
        // Once they are free, they are granted.
        let new = status(&tabs(new), &Used::default(), "later").unwrap();
        assert_eq!(shown(&new)[0], "NamesAccepted=True NoConflicts: no conflicts found");
        assert_eq!(new["conditions"][1]["lastTransitionTime"], "later");
    }

    #[test]
    fn structure_and_approval_are_told() {
        let mut crd = tabs(json!({}));
        crd["spec"]["group"] = "x.k8s.io".into();
        crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"] = json!({"properties": {}});
        let new = status(&crd, &Used::default(), NOW).unwrap();
        assert_eq!(
            shown(&new)[2..],
            [
                "NonStructuralSchema=True Violations: spec.versions[0].schema.openAPIV3Schema.type: Required value: must not be empty at the root",
                r#"KubernetesAPIApprovalPolicyConformant=False MissingAnnotation: protected groups must have approval annotation "api-approved.kubernetes.io", see https://github.com/kubernetes/enhancements/pull/1111"#,
            ]
        );
        crd["status"] = new;
        crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"] = json!({"type": "object"});
        crd["metadata"] = json!({"annotations": {"api-approved.kubernetes.io": "https://x/y"}});
        let new = status(&crd, &Used::default(), NOW).unwrap();
        assert_eq!(
            shown(&new)[2..],
            ["KubernetesAPIApprovalPolicyConformant=True ApprovedAnnotation: approved in https://x/y"]
        );
    }

    #[test]
    fn a_webhook_without_certificates_keeps_a_definition_from_being_served() {
        let mut crd = tabs(json!({}));
        crd["spec"]["conversion"] =
            json!({"strategy": "Webhook", "webhook": {"clientConfig": {"caBundle": "bm90aGluZw=="}}});
        let new = status(&crd, &Used::default(), NOW).unwrap();
        assert_eq!(
            shown(&new)[1],
            "Established=False InvalidCABundle: The conversion webhook CABundle is invalid"
        );
    }
}
