//! An entry for fuzzing: any bytes through the whole of the crate, with bounds on what that takes.

use crate::{Bindings, DeclType, Env, PER_CALL_LIMIT, Type, Value};
use serde_json::json;

/// Takes bytes as an expression: parses, checks, estimates and evaluates it. Must neither panic nor run on.
pub fn expression(bytes: &[u8]) {
    let Ok(source) = std::str::from_utf8(bytes) else { return };
    let schema = json!({"type": "object", "properties": {
        "a": {"type": "string"}, "n": {"type": "integer"},
        "l": {"type": "array", "items": {"type": "string"}},
        "m": {"type": "object", "additionalProperties": {"type": "number"}}
    }});
    let Some(decl) = DeclType::from_schema(&schema, true) else { return };
    let object = json!({"a": "text", "n": 3, "l": ["x", "y"], "m": {"k": 1.5}});
    let env =
        Env::kubernetes().with_declared("self", &decl).with_variable("object", Type::Dyn).with_patch_types();
    let Ok(ast) = env.compile(source) else { return };
    let _ = ast.estimate_cost(Some(&decl));
    let Ok(program) = ast.program() else { return };
    let mut bindings = Bindings::new();
    if let Ok(value) = Value::typed(&object, &decl) {
        bindings.set("self", value);
    }
    bindings.set("object", Value::json(&object));
    if let Ok(value) = program.eval(&bindings, PER_CALL_LIMIT / 10).value {
        let _ = value.to_json();
    }
}
