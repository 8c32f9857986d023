//! What the validator found, and how upstream's custom resources report it.

use super::Place;
use knarr_meta::field::{self, ErrorList, FieldError, Path};
use knarr_meta::go;
use serde_json::Value;

/// The result of holding a value against a schema.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) failures: Vec<Failure>,
    /// How far validation went; `anyOf` and `oneOf` report the alternative with the most.
    pub(super) matches: usize,
}

/// One thing that is wrong.
pub(super) struct Failure {
    /// The place as the validator writes it.
    name: String,
    detail: Detail,
    message: String,
}

/// What is wrong.
pub(super) enum Detail {
    Type {
        expected: String,
        actual: String,
    },
    Required,
    Enum {
        value: Value,
        allowed: Vec<Value>,
    },
    TooLong {
        max: i64,
    },
    TooShort {
        min: i64,
        value: String,
    },
    Pattern {
        pattern: String,
        value: String,
    },
    TooManyItems {
        max: i64,
        size: i64,
    },
    TooFewItems {
        min: i64,
        size: i64,
    },
    Duplicates,
    TooManyProperties {
        max: i64,
        size: i64,
    },
    TooFewProperties {
        min: i64,
        size: i64,
    },
    Forbidden {
        name: String,
    },
    /// Bounds and multiples of numbers: the value, and what follows `x in body `.
    Number {
        value: Value,
        text: String,
    },
    /// What the validator says without a place.
    General,
}

impl Outcome {
    pub(super) fn is_valid(&self) -> bool {
        self.failures.is_empty()
    }

    pub(super) fn count(&mut self) {
        self.matches += 1;
    }

    pub(super) fn add(&mut self, failure: Failure) {
        if !self.failures.iter().any(|known| known.message == failure.message) {
            self.failures.push(failure);
        }
    }

    pub(super) fn merge(&mut self, other: Outcome) {
        if self.failures.is_empty() {
            self.failures = other.failures;
        } else {
            other.failures.into_iter().for_each(|failure| self.add(failure));
        }
        self.matches += other.matches;
    }

    pub(super) fn into_errors(self, path: &Path) -> ErrorList {
        self.failures.into_iter().map(|failure| failure.into_error(path)).collect()
    }
}

impl Failure {
    pub(super) fn at(place: &Place<'_>, detail: Detail) -> Self {
        let name = place.to_string();
        let message = detail.message(&name);
        Self { name, detail, message }
    }

    pub(super) fn general(message: String) -> Self {
        Self { name: String::new(), detail: Detail::General, message }
    }

    fn into_error(self, path: &Path) -> FieldError {
        if matches!(self.detail, Detail::General) {
            return field::invalid(path, "", self.message);
        }
        let name = self.name.strip_prefix('.').unwrap_or(&self.name);
        let at = if name.is_empty() { path.clone() } else { path.child(name.to_owned()) };
        let size = |n: i64| usize::try_from(n).unwrap_or_default();
        match self.detail {
            Detail::Required => field::required(&at, ""),
            Detail::Enum { value, allowed } => {
                let allowed: Vec<String> = allowed
                    .iter()
                    .map(|value| value.as_str().map_or_else(|| go::json(value), str::to_owned))
                    .collect();
                field::not_supported(&at, value, &allowed)
            }
            Detail::TooLong { max } => field::too_long(&at, "", size(max)),
            Detail::TooManyItems { max, size: actual } | Detail::TooManyProperties { max, size: actual } => {
                field::too_many(&at, size(actual), size(max))
            }
            Detail::Type { actual, .. } => field::type_invalid(&at, actual, self.message),
            Detail::TooShort { value, .. } | Detail::Pattern { value, .. } => {
                field::invalid(&at, value, self.message)
            }
            Detail::TooFewItems { size, .. } | Detail::TooFewProperties { size, .. } => {
                field::invalid(&at, size, self.message)
            }
            Detail::Forbidden { name } => field::invalid(&at, name, self.message),
            Detail::Number { value, .. } => field::invalid(&at, value, self.message),
            Detail::Duplicates | Detail::General => field::invalid(&at, "", self.message),
        }
    }
}

impl Detail {
    fn message(&self, name: &str) -> String {
        match self {
            Self::Type { expected, actual } => {
                format!("{name} in body must be of type {expected}: {}", go::quote(actual))
            }
            Self::Required => format!("{name} in body is required"),
            Self::Enum { allowed, .. } => {
                let allowed: Vec<String> = allowed.iter().map(go::percent_v).collect();
                format!("{name} in body should be one of [{}]", allowed.join(" "))
            }
            Self::TooLong { max } => format!("{name} in body should be at most {max} chars long"),
            Self::TooShort { min, .. } => format!("{name} in body should be at least {min} chars long"),
            Self::Pattern { pattern, .. } => format!("{name} in body should match '{pattern}'"),
            Self::TooManyItems { max, .. } => format!("{name} in body should have at most {max} items"),
            Self::TooFewItems { min, .. } => format!("{name} in body should have at least {min} items"),
            Self::Duplicates => format!("{name} in body shouldn't contain duplicates"),
            Self::TooManyProperties { max, .. } => {
                format!("{name} in body should have at most {max} properties")
            }
            Self::TooFewProperties { min, .. } => {
                format!("{name} in body should have at least {min} properties")
            }
            Self::Forbidden { name: field } => format!("{name}.{field} in body is a forbidden property"),
            Self::Number { text, .. } => text.replace("{name}", name),
            Self::General => String::new(),
        }
    }
}
