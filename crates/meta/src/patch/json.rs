//! JSON patch (RFC 6902).

use super::PatchError;
use serde_json::Value;

/// Applies a list of operations.
pub fn apply(_target: &mut Value, _ops: &Value) -> Result<(), PatchError> {
    Err(PatchError::BadRequest("JSON patch is not built yet".into()))
}
