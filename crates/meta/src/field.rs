//! Errors of single fields, in upstream's words (apimachinery's `util/validation/field`).

use crate::go;
use serde::Serialize;
use serde_json::Value;
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// The way from the root of an object to a field. Cloning shares the way.
#[derive(Clone, Debug)]
pub struct Path(Arc<Node>);

#[derive(Debug)]
struct Node {
    parent: Option<Path>,
    step: Step,
}

#[derive(Debug)]
enum Step {
    Name(Cow<'static, str>),
    Index(usize),
    Key(String),
    /// Upstream's nil path, for callers that validate something outside an object.
    Nil,
}

impl Path {
    /// A path that starts with a field.
    pub fn new(name: impl Into<Cow<'static, str>>) -> Self {
        Path(Arc::new(Node { parent: None, step: Step::Name(name.into()) }))
    }

    /// The path to nothing; it prints as `<nil>`.
    pub fn nil() -> Self {
        Path(Arc::new(Node { parent: None, step: Step::Nil }))
    }

    /// A field of the value at this path.
    pub fn child(&self, name: impl Into<Cow<'static, str>>) -> Self {
        self.step(Step::Name(name.into()))
    }

    /// An element of the list at this path.
    pub fn index(&self, index: usize) -> Self {
        self.step(Step::Index(index))
    }

    /// An entry of the map at this path.
    pub fn key(&self, key: impl Into<String>) -> Self {
        self.step(Step::Key(key.into()))
    }

    fn step(&self, step: Step) -> Self {
        let parent = if matches!(self.0.step, Step::Nil) { None } else { Some(self.clone()) };
        Path(Arc::new(Node { parent, step }))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = &self.0.parent {
            parent.fmt(f)?;
        }
        match &self.0.step {
            Step::Name(name) if self.0.parent.is_some() => write!(f, ".{name}"),
            Step::Name(name) => f.write_str(name),
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Key(key) => write!(f, "[{key}]"),
            Step::Nil => f.write_str("<nil>"),
        }
    }
}

/// What is wrong with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorType {
    /// A value that is referred to does not exist.
    NotFound,
    /// A value is missing.
    Required,
    /// A value stands twice where it may stand once.
    Duplicate,
    /// A value is malformed or out of bounds.
    Invalid,
    /// A value is none of those allowed.
    NotSupported,
    /// A value is well formed, yet not permitted here.
    Forbidden,
    /// A value is too long.
    TooLong,
    /// A value is too short.
    TooShort,
    /// A list has too many elements.
    TooMany,
    /// A list has too few elements.
    TooFew,
    /// Something failed that is not the input's fault.
    Internal,
    /// A value has another type than the schema's.
    TypeInvalid,
}

impl ErrorType {
    /// The machine-readable reason that goes into a `StatusCause`.
    pub fn cause(self) -> &'static str {
        match self {
            ErrorType::NotFound => "FieldValueNotFound",
            ErrorType::Required => "FieldValueRequired",
            ErrorType::Duplicate => "FieldValueDuplicate",
            ErrorType::Invalid => "FieldValueInvalid",
            ErrorType::NotSupported => "FieldValueNotSupported",
            ErrorType::Forbidden => "FieldValueForbidden",
            ErrorType::TooLong => "FieldValueTooLong",
            ErrorType::TooShort => "FieldValueTooShort",
            ErrorType::TooMany => "FieldValueTooMany",
            ErrorType::TooFew => "FieldValueTooFew",
            ErrorType::Internal => "InternalError",
            ErrorType::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    /// The words an error text begins with.
    pub fn text(self) -> &'static str {
        match self {
            ErrorType::NotFound => "Not found",
            ErrorType::Required => "Required value",
            ErrorType::Duplicate => "Duplicate value",
            ErrorType::Invalid | ErrorType::TypeInvalid => "Invalid value",
            ErrorType::NotSupported => "Unsupported value",
            ErrorType::Forbidden => "Forbidden",
            ErrorType::TooLong => "Too long",
            ErrorType::TooShort => "Too short",
            ErrorType::TooMany => "Too many",
            ErrorType::TooFew => "Too few",
            ErrorType::Internal => "Internal error",
        }
    }
}

/// One error of one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// What is wrong.
    pub kind: ErrorType,
    /// The field, as its path prints.
    pub field: String,
    /// The offending value as the text shows it; none where the text shows no value.
    pub value: Option<String>,
    /// The rest of the text.
    pub detail: String,
}

impl FieldError {
    /// The text without the field.
    pub fn body(&self) -> String {
        let mut body = self.kind.text().to_owned();
        for part in
            self.value.as_deref().into_iter().chain((!self.detail.is_empty()).then_some(&*self.detail))
        {
            body.push_str(": ");
            body.push_str(part);
        }
        body
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

impl std::error::Error for FieldError {}

fn error(kind: ErrorType, path: &Path, value: Option<String>, detail: impl Into<String>) -> FieldError {
    FieldError { kind, field: path.to_string(), value, detail: detail.into() }
}

/// A value as error texts show it: strings quoted, everything else as JSON.
fn shown(value: impl Serialize) -> Option<String> {
    Some(match serde_json::to_value(value) {
        Ok(Value::String(s)) => go::quote(&s),
        Ok(Value::Number(n)) if n.is_f64() => go::float(n.as_f64().unwrap_or_default()),
        Ok(value) => go::json(&value),
        Err(err) => err.to_string(),
    })
}

/// `field: Required value: detail`.
pub fn required(path: &Path, detail: impl Into<String>) -> FieldError {
    error(ErrorType::Required, path, None, detail)
}

/// `field: Invalid value: value: detail`.
pub fn invalid(path: &Path, value: impl Serialize, detail: impl Into<String>) -> FieldError {
    error(ErrorType::Invalid, path, shown(value), detail)
}

/// Like [`invalid`], for a value of the wrong type.
pub fn type_invalid(path: &Path, value: impl Serialize, detail: impl Into<String>) -> FieldError {
    error(ErrorType::TypeInvalid, path, shown(value), detail)
}

/// `field: Duplicate value: value`.
pub fn duplicate(path: &Path, value: impl Serialize) -> FieldError {
    error(ErrorType::Duplicate, path, shown(value), "")
}

/// `field: Not found: value`.
pub fn not_found(path: &Path, value: impl Serialize) -> FieldError {
    error(ErrorType::NotFound, path, shown(value), "")
}

/// `field: Unsupported value: value: supported values: "A", "B"`, in the order given.
pub fn not_supported<S: AsRef<str>>(path: &Path, value: impl Serialize, supported: &[S]) -> FieldError {
    let quoted: Vec<String> = supported.iter().map(|s| go::quote(s.as_ref())).collect();
    let detail =
        if quoted.is_empty() { String::new() } else { format!("supported values: {}", quoted.join(", ")) };
    error(ErrorType::NotSupported, path, shown(value), detail)
}

/// `field: Forbidden: detail`.
pub fn forbidden(path: &Path, detail: impl Into<String>) -> FieldError {
    error(ErrorType::Forbidden, path, None, detail)
}

/// `field: Too long: may not be more than N bytes`; the value is not shown.
pub fn too_long<V>(path: &Path, _value: V, max: usize) -> FieldError {
    let unit = if max == 1 { "byte" } else { "bytes" };
    error(ErrorType::TooLong, path, None, format!("may not be more than {max} {unit}"))
}

/// `field: Too long: may not be more than N characters`; the value is not shown.
pub fn too_long_characters<V>(path: &Path, _value: V, max: usize) -> FieldError {
    let unit = if max == 1 { "character" } else { "characters" };
    error(ErrorType::TooLong, path, None, format!("may not be more than {max} {unit}"))
}

/// `field: Too short: must be at least N characters`; the value is not shown.
pub fn too_short<V>(path: &Path, _value: V, min: usize) -> FieldError {
    let unit = if min == 1 { "character" } else { "characters" };
    error(ErrorType::TooShort, path, None, format!("must be at least {min} {unit}"))
}

/// `field: Too many: N: must have at most M items`.
pub fn too_many(path: &Path, actual: usize, max: usize) -> FieldError {
    let unit = if max == 1 { "item" } else { "items" };
    error(ErrorType::TooMany, path, Some(actual.to_string()), format!("must have at most {max} {unit}"))
}

/// `field: Too few: N: must have at least M items`.
pub fn too_few(path: &Path, actual: usize, min: usize) -> FieldError {
    let unit = if min == 1 { "item" } else { "items" };
    error(ErrorType::TooFew, path, Some(actual.to_string()), format!("must have at least {min} {unit}"))
}

/// `field: Internal error: detail`.
pub fn internal(path: &Path, detail: impl fmt::Display) -> FieldError {
    error(ErrorType::Internal, path, None, detail.to_string())
}

/// All errors found in an object, in the order found. It is used like the `Vec` inside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorList(pub Vec<FieldError>);

impl ErrorList {
    /// No errors.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an `Invalid` error for each message of one of [`crate::validate`]'s functions.
    pub fn invalid_each(&mut self, path: &Path, value: &str, messages: Vec<String>) {
        self.0.extend(messages.into_iter().map(|message| invalid(path, value, message)));
    }
}

/// All errors as upstream prints their aggregate: repeated texts once, brackets round more than one.
impl fmt::Display for ErrorList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut texts: Vec<String> = Vec::with_capacity(self.0.len());
        for error in &self.0 {
            let text = error.to_string();
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
        match texts.as_slice() {
            [one] => f.write_str(one),
            many => write!(f, "[{}]", many.join(", ")),
        }
    }
}

impl std::ops::Deref for ErrorList {
    type Target = Vec<FieldError>;
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl std::ops::DerefMut for ErrorList {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl From<Vec<FieldError>> for ErrorList {
    fn from(errors: Vec<FieldError>) -> Self {
        Self(errors)
    }
}

impl From<FieldError> for ErrorList {
    fn from(error: FieldError) -> Self {
        Self(vec![error])
    }
}

impl FromIterator<FieldError> for ErrorList {
    fn from_iter<I: IntoIterator<Item = FieldError>>(errors: I) -> Self {
        Self(errors.into_iter().collect())
    }
}

impl IntoIterator for ErrorList {
    type Item = FieldError;
    type IntoIter = std::vec::IntoIter<FieldError>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a ErrorList {
    type Item = &'a FieldError;
    type IntoIter = std::slice::Iter<'a, FieldError>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_print_as_upstream() {
        let path = Path::new("spec").child("containers").index(0).child("env").key("a").child("name");
        assert_eq!(path.to_string(), "spec.containers[0].env[a].name");
        assert_eq!(Path::nil().to_string(), "<nil>");
        assert_eq!(Path::nil().child("a").to_string(), "a");
    }

    #[test]
    fn errors_print_as_upstream() {
        let path = Path::new("spec").child("x");
        for (error, want) in [
            (
                required(&path, "name or generateName is required"),
                "spec.x: Required value: name or generateName is required",
            ),
            (required(&path, ""), "spec.x: Required value"),
            (invalid(&path, -1, "must be positive"), "spec.x: Invalid value: -1: must be positive"),
            (invalid(&path, "a\"b", "no"), r#"spec.x: Invalid value: "a\"b": no"#),
            (invalid(&path, None::<i32>, "no"), "spec.x: Invalid value: null: no"),
            (duplicate(&path, "a"), r#"spec.x: Duplicate value: "a""#),
            (not_found(&path, "a"), r#"spec.x: Not found: "a""#),
            (
                not_supported(&path, "x", &["A", "B"]),
                r#"spec.x: Unsupported value: "x": supported values: "A", "B""#,
            ),
            (not_supported::<&str>(&path, "x", &[]), r#"spec.x: Unsupported value: "x""#),
            (forbidden(&path, "no"), "spec.x: Forbidden: no"),
            (too_long(&path, "", 63), "spec.x: Too long: may not be more than 63 bytes"),
            (too_long(&path, "", 1), "spec.x: Too long: may not be more than 1 byte"),
            (too_many(&path, 3, 2), "spec.x: Too many: 3: must have at most 2 items"),
            (internal(&path, "broken"), "spec.x: Internal error: broken"),
        ] {
            assert_eq!(error.to_string(), want);
        }
    }

    #[test]
    fn lists_print_repeated_errors_once() {
        let path = Path::new("a");
        let mut list = ErrorList::new();
        list.push(required(&path, ""));
        assert_eq!(list.to_string(), "a: Required value");
        list.push(required(&path, ""));
        assert_eq!(list.to_string(), "a: Required value");
        list.push(forbidden(&path, "no"));
        assert_eq!(list.to_string(), "[a: Required value, a: Forbidden: no]");
    }
}
