//! Errors of `metav1.Condition`s in a status.

use super::{Errs, Items};
use knarr_api::meta::v1::Condition;
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::validate;

const MAX_REASON: usize = 1024;
const MAX_MESSAGE: usize = 32 * 1024;
const STATUSES: &[&str] = &["False", "True", "Unknown"];
const REASON_PROBLEM: &str = "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_'";
const REASON_FORMAT: &str = "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?";

/// Errors of a status' conditions.
pub fn validate(conditions: &Option<Vec<Condition>>, path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    let conditions = conditions.items();
    for (i, condition) in conditions.iter().enumerate() {
        let path = path.index(i);
        if conditions[..i].iter().any(|c| c.type_ == condition.type_) {
            errs.add_duplicate(&path.child("type"), &condition.type_);
        }
        errs.add_all(&path.child("type"), &condition.type_, validate::qualified_name(&condition.type_));
        if !STATUSES.contains(&condition.status.as_str()) {
            errs.add_not_supported(&path.child("status"), &condition.status, STATUSES);
        }
        if let Some(generation) = condition.observed_generation.filter(|g| *g < 0) {
            let detail = "must be greater than or equal to zero";
            errs.add_invalid(&path.child("observedGeneration"), generation, detail);
        }
        let at = path.child("reason");
        let reason = condition.reason.as_str();
        if reason.is_empty() {
            errs.add_required(&at, "");
        } else {
            if !is_reason(reason) {
                let examples = &["my_name", "MY_NAME", "MyName", "ReasonA,ReasonB", "ReasonA:ReasonB"];
                errs.add_invalid(&at, reason, validate::regex_error(REASON_PROBLEM, REASON_FORMAT, examples));
            }
            if reason.len() > MAX_REASON {
                errs.add_too_long(&at, MAX_REASON);
            }
        }
        if condition.message.len() > MAX_MESSAGE {
            errs.add_too_long(&path.child("message"), MAX_MESSAGE);
        }
    }
    errs
}

fn is_reason(reason: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    reason.starts_with(|c: char| c.is_ascii_alphabetic())
        && reason.ends_with(word)
        && reason.chars().all(|c| word(c) || ",:".contains(c))
}
