//! Groups of the Kubernetes community are protected: definitions in them say who approved the API, or that nobody did
//! (KEP-1111, "api-approved.kubernetes.io").

use knarr_meta::field::{self, ErrorList, Path};
use knarr_meta::go;
use knarr_meta::object;
use serde_json::Value;

const ANNOTATION: &str = "api-approved.kubernetes.io";
const SEE: &str = "see https://github.com/kubernetes/enhancements/pull/1111";

/// Who approved a definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The annotation says something that it should not.
    Invalid,
    /// There is an address of the approval.
    Approved,
    /// The definition says that it is not approved.
    Bypassed,
    /// There is no annotation.
    Missing,
}

/// Whether a group needs approval.
pub fn is_protected(group: &str) -> bool {
    ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|suffix| group.strip_suffix(suffix).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
}

/// Who approved a definition, and the words for it.
pub fn state(crd: &Value) -> (State, String) {
    let given = object::annotation(crd, ANNOTATION).unwrap_or_default();
    let quoted = go::quote(ANNOTATION);
    if given.is_empty() {
        (State::Missing, format!("protected groups must have approval annotation {quoted}, {SEE}"))
    } else if given.starts_with("unapproved") {
        (State::Bypassed, format!("not approved: {}", go::quote(given)))
    } else if is_address(given) {
        (State::Approved, format!("approved in {given}"))
    } else {
        let detail = format!(
            "protected groups must have approval annotation {quoted} with either a URL or a reason starting with \"unapproved\", {SEE}"
        );
        (State::Invalid, detail)
    }
}

/// A URI with a scheme and a host.
fn is_address(text: &str) -> bool {
    let host = text.split_once("://").map(|(_, rest)| rest.split(['/', '?']).next().unwrap_or_default());
    crate::validate::Format::Uri.matches(text) && host.is_some_and(|host| !host.is_empty())
}

/// What is wrong with a definition's approval; one that was wrong before and did not change is let be.
pub(super) fn validate(new: &Value, old: Option<&Value>) -> ErrorList {
    let mut errors = ErrorList::new();
    if !is_protected(object::get_str(new, &["spec", "group"])) {
        return errors;
    }
    let (now, reason) = state(new);
    if old.is_some_and(|old| state(old).0 == now) {
        return errors;
    }
    let path = Path::new("metadata").child("annotations").key(ANNOTATION);
    match now {
        State::Invalid => {
            let given = object::annotation(new, ANNOTATION).unwrap_or_default();
            errors.push(field::invalid(&path, given, reason));
        }
        State::Missing => errors.push(field::required(&path, reason)),
        State::Approved | State::Bypassed => {}
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn groups_of_the_community_are_protected() {
        for (group, want) in [
            ("k8s.io", true),
            ("x.k8s.io", true),
            ("sigs.kubernetes.io", true),
            ("k8s.io.example.com", false),
            ("myk8s.io", false),
        ] {
            assert_eq!(is_protected(group), want, "{group}");
        }
    }

    #[test]
    fn approval_is_read_from_the_annotation() {
        for (given, want) in [
            (None, State::Missing),
            (Some("https://github.com/kubernetes/enhancements/pull/1"), State::Approved),
            (Some("unapproved, experimental"), State::Bypassed),
            (Some("me"), State::Invalid),
        ] {
            let crd = json!({"metadata": {"annotations": given.map(|given| json!({ANNOTATION: given}))}, "spec": {"group": "x.k8s.io"}});
            assert_eq!(state(&crd).0, want, "{given:?}");
            let fine = matches!(want, State::Approved | State::Bypassed);
            assert_eq!(validate(&crd, None).is_empty(), fine);
            assert!(validate(&crd, Some(&crd)).is_empty());
        }
    }
}
