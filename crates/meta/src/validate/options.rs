//! What is checked of a request's options (`meta/v1/validation`).

use crate::field::{self, ErrorList, Path};

const FIELD_MANAGER_MAX_BYTES: usize = 128;

/// Checks a field manager's name: at most 128 bytes, all printable.
pub fn validate_field_manager(manager: &str, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    if manager.len() > FIELD_MANAGER_MAX_BYTES {
        errors.push(field::too_long(path, manager, FIELD_MANAGER_MAX_BYTES));
    }
    for (at, c) in manager.char_indices() {
        let printable = c == ' ' || !(c.is_control() || c.is_whitespace());
        if !printable {
            let detail = format!("invalid character U+{:04X} (at position {at})", c as u32);
            errors.push(field::invalid(path, manager, detail));
        }
    }
    errors
}

/// Checks the values of `dryRun`: each must be `All`.
pub fn validate_dry_run<S: AsRef<str>>(values: &[S], path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    if values.iter().any(|value| value.as_ref() != "All") {
        let values: Vec<&str> = values.iter().map(AsRef::as_ref).collect();
        errors.push(field::not_supported(path, values, &["All"]));
    }
    errors
}

/// Checks `fieldValidation`.
pub fn validate_field_validation(value: &str, path: &Path) -> ErrorList {
    const SUPPORTED: [&str; 4] = ["", "Ignore", "Strict", "Warn"];
    let mut errors = ErrorList::new();
    if !SUPPORTED.contains(&value) {
        errors.push(field::not_supported(path, value, &SUPPORTED));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_checked() {
        let path = Path::new("x");
        for (errors, want) in [
            (validate_field_manager("kubectl edit", &path), vec![]),
            (
                validate_field_manager("a\tb", &path),
                vec!["x: Invalid value: \"a\\tb\": invalid character U+0009 (at position 1)"],
            ),
            (
                validate_field_manager(&"a".repeat(129), &path),
                vec!["x: Too long: may not be more than 128 bytes"],
            ),
            (validate_dry_run(&["All"], &path), vec![]),
            (
                validate_dry_run(&["All", "x"], &path),
                vec!["x: Unsupported value: [\"All\",\"x\"]: supported values: \"All\""],
            ),
            (validate_field_validation("Strict", &path), vec![]),
            (
                validate_field_validation("strict", &path),
                vec![
                    "x: Unsupported value: \"strict\": supported values: \"\", \"Ignore\", \"Strict\", \"Warn\"",
                ],
            ),
        ] {
            assert_eq!(errors.iter().map(ToString::to_string).collect::<Vec<_>>(), want);
        }
    }
}
