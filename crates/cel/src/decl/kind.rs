//! Declared types of built-in kinds, for checking the types of policies (KEP-3488's `status.typeChecking`).

use super::DeclType;
use knarr_meta::schema::{Schema, StructId, Type};
use serde_json::{Map, Value as Json, json};
use std::sync::Arc;

impl DeclType {
    /// The declared type of a kind's objects. A type within itself is not visible to expressions, and neither are
    /// quantities, which upstream's schemas give no single type.
    pub fn from_kind(schema: &Schema, kind: StructId) -> Option<Arc<Self>> {
        Self::from_schema(&object(schema, kind, &mut Vec::new()), true)
    }
}

fn object(schema: &Schema, id: StructId, within: &mut Vec<StructId>) -> Json {
    let Some(of) = schema.structs.get(id.0 as usize) else { return json!({}) };
    if within.contains(&id) {
        return json!({});
    }
    within.push(id);
    let mut properties = Map::new();
    let mut required = Vec::new();
    for field in &of.fields {
        properties.insert(field.name.clone(), node(schema, &field.ty, within));
        if field.required {
            required.push(Json::from(field.name.as_str()));
        }
    }
    within.pop();
    json!({"type": "object", "properties": properties, "required": required})
}

fn node(schema: &Schema, t: &Type, within: &mut Vec<StructId>) -> Json {
    match t {
        Type::String | Type::Duration => json!({"type": "string"}),
        Type::Bool => json!({"type": "boolean"}),
        Type::Int32 | Type::Int64 | Type::Uint32 | Type::Uint64 => json!({"type": "integer"}),
        Type::Double => json!({"type": "number"}),
        Type::Bytes => json!({"type": "string", "format": "byte"}),
        Type::Quantity => json!({}),
        Type::IntOrString => json!({"x-kubernetes-int-or-string": true}),
        Type::Time | Type::MicroTime => json!({"type": "string", "format": "date-time"}),
        Type::Any | Type::FieldsV1 => json!({"type": "object"}),
        Type::Struct(id) => object(schema, *id, within),
        Type::List(list) => json!({"type": "array", "items": node(schema, &list.elem, within)}),
        Type::Map(elem) => json!({"type": "object", "additionalProperties": node(schema, elem, within)}),
    }
}
