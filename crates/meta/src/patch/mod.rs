//! The three patches clients send: JSON patch, JSON merge patch and strategic merge patch.
//!
//! A patch that fails leaves its target half changed: callers patch a copy.

pub mod json;
pub mod merge;
pub mod strategic;

use crate::gvk::GroupResource;
use crate::status::{Reason, Status};
use serde_json::Value;

/// Why a patch cannot be applied. [`PatchError::status`] makes the answer of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch is malformed: 400.
    #[error("{0}")]
    BadRequest(String),
    /// The patch is well formed but does not fit the object: 422, with upstream's general text. This one's own
    /// text never reaches a client, as upstream's does not.
    #[error("{0}")]
    Unprocessable(String),
    /// The patch or its result is too large: 413.
    #[error("{0}")]
    TooLarge(String),
    /// What upstream answers with 500 and the bare text, such as a list element without its merge key.
    #[error("{0}")]
    Unclassified(String),
}

impl PatchError {
    /// The answer to the client.
    pub fn status(&self) -> Status {
        match self {
            PatchError::BadRequest(message) => Status::bad_request(message.clone()),
            PatchError::Unprocessable(message) => {
                Status::generic_server_response(422, "", &GroupResource::default(), "", message)
            }
            PatchError::TooLarge(message) => Status::too_large(message),
            PatchError::Unclassified(message) => Status::new(500, Reason::Unknown, message.clone()),
        }
    }
}

impl From<PatchError> for Status {
    fn from(error: PatchError) -> Self {
        error.status()
    }
}

/// The type of a decoded JSON value as Go prints it.
fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "%!s(<nil>)",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// The kind of a JSON value as Go's decoder calls it.
pub(crate) fn json_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The answer to a patch that must be an object and is not.
fn not_an_object(patch: &Value) -> PatchError {
    PatchError::BadRequest(format!(
        "error decoding patch: json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
        json_kind(patch)
    ))
}
