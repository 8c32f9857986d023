//! Patches of mutating policies: apply configurations merged as server-side apply merges them, but without owners,
//! and JSON patches (upstream's `policy/mutating/patch`).

use knarr_apiserver::admission::{Endpoint, Write};
use knarr_apiserver::def::SchemaRef;
use knarr_cel::JsonPatchOp;
use knarr_meta::managed::{self, Manager, Operation};
use knarr_meta::schema::{self, ListKind, Mode, Schema, Type};
use knarr_meta::status::Status;
use knarr_meta::{object, patch};
use serde_json::{Map, Value};

/// Why a patch is of no use.
pub enum Unfit {
    /// The request ends with this.
    Status(Status),
    /// The policy is at fault.
    Text(String),
}

/// An object as an endpoint shows it, `Null` for none.
pub async fn shown(write: &Write<'_>, object: Option<&Value>, endpoint: &Endpoint) -> Result<Value, Status> {
    match object.filter(|object| !object.is_null()) {
        Some(object) => {
            let converted = write.interfaces.convert(object, endpoint).await;
            converted.map_err(|status| Status::internal(status.message))
        }
        None => Ok(Value::Null),
    }
}

/// Merges an apply configuration into an object.
pub fn apply(types: &(SchemaRef, Type), live: &Value, mut configuration: Value) -> Result<Value, Unfit> {
    let (schema, ty) = types;
    object::set_type(&mut configuration, object::api_version(live), object::kind(live));
    let report = schema::check(schema, ty, &mut configuration, Mode::Applied);
    let unfit = |why: String| Unfit::Text(format!("error applying patch: {why}"));
    let problem = match (report.type_error, report.unknown.as_slice()) {
        (Some(error), _) => Some(error),
        (None, []) => None,
        (None, [path]) => Some(format!(".{path}: field not declared in schema")),
        (None, paths) => {
            let lines: Vec<String> =
                paths.iter().map(|path| format!("\n  .{path}: field not declared in schema")).collect();
            Some(format!("errors:{}", lines.concat()))
        }
    };
    if let Some(problem) = problem {
        return Err(unfit(format!("failed to convert patch object to typed object: {problem}")));
    }
    let mut atomics = Vec::new();
    find_atomics(schema, ty, &configuration, "", &mut atomics);
    if !atomics.is_empty() {
        let text = "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs";
        return Err(unfit(format!("{text}: {}", atomics.join(", "))));
    }
    // Nobody owns what a policy sets: the merge is that of an object without owners.
    let mut bare = live.clone();
    object::set_managed_fields(&mut bare, Vec::new());
    let manager = Manager {
        name: "admission",
        operation: Operation::Apply,
        api_version: object::api_version(live),
        subresource: "",
        reset: &[],
        custom: matches!(schema, SchemaRef::Own(_)),
        versions: managed::ONE_FORM,
        time: "",
    };
    let mut merged = managed::apply(schema, ty, Some(&bare), &configuration, &manager, true)
        .map_err(|e| unfit(format!("failed to merge patch: {e}")))?;
    object::set_managed_fields(&mut merged, object::managed_fields(live).to_vec());
    Ok(merged)
}

/// The lists, maps and structs in a configuration that are only ever replaced as a whole.
fn find_atomics(schema: &Schema, ty: &Type, value: &Value, path: &str, found: &mut Vec<String>) {
    match (ty, value) {
        (Type::Struct(id), Value::Object(map)) => {
            let known = &schema.structs[id.0 as usize];
            if known.atomic {
                found.push(path.to_owned());
            }
            for (key, value) in map {
                let Some(field) = known.field(key) else { continue };
                let path = format!("{path}.{key}");
                if field.atomic && value.is_object() {
                    found.push(path.clone());
                }
                find_atomics(schema, &field.ty, value, &path, found);
            }
        }
        (Type::Map(elem), Value::Object(map)) => {
            for (key, value) in map {
                find_atomics(schema, elem, value, &format!("{path}.{key}"), found);
            }
        }
        (Type::List(list), Value::Array(items)) => {
            if list.kind == ListKind::Atomic {
                found.push(path.to_owned());
            }
            for (index, item) in items.iter().enumerate() {
                find_atomics(schema, &list.elem, item, &format!("{path}[{index}]"), found);
            }
        }
        _ => {}
    }
}

/// Applies JSON patch operations; none when a test in them says that they are not for this object.
pub fn patch(live: &Value, operations: Vec<JsonPatchOp>) -> Result<Option<Value>, Unfit> {
    let operation = |op: JsonPatchOp| {
        let mut map = Map::new();
        map.insert("op".to_owned(), op.op.into());
        map.insert("path".to_owned(), op.path.into());
        if !op.from.is_empty() {
            map.insert("from".to_owned(), op.from.into());
        }
        if let Some(value) = op.value {
            map.insert("value".to_owned(), value);
        }
        Value::Object(map)
    };
    let operations = Value::Array(operations.into_iter().map(operation).collect());
    let mut patched = live.clone();
    match patch::json::apply(&mut patched, &operations) {
        Ok(()) => Ok(Some(patched)),
        Err(error) if error.to_string().ends_with(": test failed") => Ok(None),
        Err(error) => Err(Unfit::Text(format!("JSON Patch: {error}"))),
    }
}
