//! Strategic merge patch: `$patch`, `$retainKeys`, `$setElementOrder` and `$deleteFromPrimitiveList`.

use super::PatchError;
use crate::schema::{Schema, Type};
use serde_json::Value;

/// Merges `patch` into `target`, an object of type `ty`.
pub fn apply(_schema: &Schema, _ty: &Type, _target: &mut Value, _patch: &Value) -> Result<(), PatchError> {
    Err(PatchError::BadRequest("strategic merge patch is not built yet".into()))
}
