//! Which manager owns which field: `metadata.managedFields` and server-side apply (KEP-555).

use crate::schema::{Schema, Type};
use serde_json::Value;

/// How a manager writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    /// Server-side apply.
    Apply,
    /// Every other write.
    Update,
}

/// Who writes.
#[derive(Clone, Copy, Debug)]
pub struct Manager<'a> {
    /// The field manager's name.
    pub name: &'a str,
    /// How it writes.
    pub operation: Operation,
    /// The version the object is written in, as `apiVersion` has it.
    pub api_version: &'a str,
    /// The subresource written to; empty for the object itself.
    pub subresource: &'a str,
    /// When, as [`crate::time::rfc3339`] prints it.
    pub time: &'a str,
}

/// A field that an apply wants and another manager owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The owner, as upstream describes it: `"kubectl" using v1`.
    pub manager: String,
    /// The field, such as `.spec.replicas`.
    pub field: String,
}

/// Why an apply is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Other managers own fields that it wants to change.
    #[error("{}", conflict_message(.0))]
    Conflicts(Vec<Conflict>),
    /// The object cannot be merged, such as a list with a key twice.
    #[error("{0}")]
    Invalid(String),
}

fn conflict_message(conflicts: &[Conflict]) -> String {
    format!("Apply failed with {} conflicts", conflicts.len())
}

/// Sets `new.metadata.managedFields` to what it is after this write.
pub fn update(_schema: &Schema, _ty: &Type, _old: Option<&Value>, _new: &mut Value, _manager: &Manager<'_>) {}

/// Merges `applied` into `live` and answers with the new object and its managed fields.
pub fn apply(
    _schema: &Schema,
    _ty: &Type,
    _live: Option<&Value>,
    _applied: &Value,
    _manager: &Manager<'_>,
    _force: bool,
) -> Result<Value, ApplyError> {
    Err(ApplyError::Invalid("server-side apply is not built yet".into()))
}
