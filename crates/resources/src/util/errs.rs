//! Adding field errors to a list, one call an error.

use knarr_meta::field::{self, ErrorList, FieldError, Path};
use serde::Serialize;

/// Constructors of field errors that push.
pub trait Errs {
    /// The list.
    fn list(&mut self) -> &mut ErrorList;

    /// A value is missing.
    fn add_required(&mut self, path: &Path, detail: impl Into<String>) {
        self.list().push(field::required(path, detail));
    }
    /// A value is malformed.
    fn add_invalid(&mut self, path: &Path, value: impl Serialize, detail: impl Into<String>) {
        self.list().push(field::invalid(path, value, detail));
    }
    /// A value occurs twice.
    fn add_duplicate(&mut self, path: &Path, value: impl Serialize) {
        self.list().push(field::duplicate(path, value));
    }
    /// A value occurs twice, with a reason why that is wrong.
    fn add_duplicate_because(&mut self, path: &Path, value: impl Serialize, detail: &str) {
        self.list().push(FieldError { detail: detail.to_owned(), ..field::duplicate(path, value) });
    }
    /// A value is not one of those that exist.
    fn add_not_supported(&mut self, path: &Path, value: impl Serialize, supported: &[&str]) {
        self.list().push(field::not_supported(path, value, supported));
    }
    /// A value may not be there.
    fn add_forbidden(&mut self, path: &Path, detail: impl Into<String>) {
        self.list().push(field::forbidden(path, detail));
    }
    /// A value refers to nothing.
    fn add_not_found(&mut self, path: &Path, value: impl Serialize) {
        self.list().push(field::not_found(path, value));
    }
    /// A value refers to nothing, with what it could refer to.
    fn add_not_found_because(&mut self, path: &Path, value: impl Serialize, detail: String) {
        self.list().push(FieldError { detail, ..field::not_found(path, value) });
    }
    /// A value has too many bytes.
    fn add_too_long(&mut self, path: &Path, max: usize) {
        self.list().push(field::too_long(path, "", max));
    }
    /// A list has too many items.
    fn add_too_many(&mut self, path: &Path, actual: usize, max: usize) {
        self.list().push(field::too_many(path, actual, max));
    }
    /// The same value is malformed in each of these ways.
    fn add_all(&mut self, path: &Path, value: &str, details: Vec<String>) {
        self.list().invalid_each(path, value, details);
    }
    /// The same, for paths that are dear to build and seldom needed.
    fn add_all_at(&mut self, path: impl FnOnce() -> Path, value: &str, details: Vec<String>) {
        if !details.is_empty() {
            self.add_all(&path(), value, details);
        }
    }
    /// A number below zero.
    fn add_negative(&mut self, path: &Path, value: i64) {
        if value < 0 {
            self.add_invalid(path, value, "must be greater than or equal to 0");
        }
    }
    /// An immutable field that changed.
    fn add_changed<T: PartialEq + Serialize>(&mut self, path: &Path, new: &T, old: &T) {
        if new != old {
            self.add_invalid(path, new, "field is immutable");
        }
    }
}

impl Errs for ErrorList {
    fn list(&mut self) -> &mut ErrorList {
        self
    }
}
