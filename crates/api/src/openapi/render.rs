//! Operations in the form of each specification.

use super::Flavor;
use super::operations::{Body, Operation};
use super::schemas::Library;
use serde_json::{Map, Value, json};

const MEDIA_TYPES: [&str; 3] =
    ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const PATCH_TYPES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

/// The forms of bodies and answers that an operation has.
fn media_types(operation: &Operation) -> &'static [&'static str] {
    if operation.custom { &MEDIA_TYPES[..2] } else { &MEDIA_TYPES }
}

/// The kinds of patch that an operation takes.
fn patch_types(operation: &Operation) -> Vec<&'static str> {
    let strategic = |media: &&&str| operation.custom && media.contains("strategic");
    PATCH_TYPES.iter().filter(|media| !strategic(media)).copied().collect()
}

/// All path items.
pub(super) fn paths(operations: &[Operation], library: &Library, flavor: Flavor) -> Value {
    let mut paths = Map::new();
    for operation in operations {
        let item = paths.entry(&operation.path).or_insert_with(|| {
            let parameters: Vec<Value> = path_parameters(&operation.path, flavor);
            if parameters.is_empty() { json!({}) } else { json!({ "parameters": parameters }) }
        });
        item[operation.method] = match flavor {
            Flavor::V2 => v2_operation(operation, library),
            Flavor::V3 => v3_operation(operation, library),
        };
    }
    Value::Object(paths)
}

/// The parameters in braces.
fn path_parameters(path: &str, flavor: Flavor) -> Vec<Value> {
    let names = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    names
        .map(|name| {
            let mut parameter = parameter(name, "path", "string", flavor);
            parameter["required"] = true.into();
            parameter
        })
        .collect()
}

fn parameter(name: &str, place: &str, ty: &str, flavor: Flavor) -> Value {
    match flavor {
        Flavor::V2 => json!({ "name": name, "in": place, "type": ty, "uniqueItems": true }),
        Flavor::V3 => json!({ "name": name, "in": place, "schema": { "type": ty, "uniqueItems": true } }),
    }
}

fn common(operation: &Operation, flavor: Flavor) -> Value {
    let mut common = json!({ "operationId": operation.id, "tags": [operation.tag] });
    let parameters: Vec<Value> =
        operation.query.iter().map(|(name, ty)| parameter(name, "query", ty, flavor)).collect();
    if !parameters.is_empty() {
        common["parameters"] = parameters.into();
    }
    if !operation.action.is_empty() {
        common["x-kubernetes-action"] = operation.action.into();
    }
    if let Some((group, version, kind)) = &operation.kind {
        common["x-kubernetes-group-version-kind"] =
            json!({ "group": group, "version": version, "kind": kind });
    }
    common
}

fn describe_code(code: &str) -> &'static str {
    match code {
        "200" => "OK",
        "201" => "Created",
        "202" => "Accepted",
        _ => "Unauthorized",
    }
}

/// The schema of a body; an object of unknown fields where the facts have no type (custom resources).
fn schema(body: &Body, library: &Library) -> Value {
    match body {
        Body::Text => json!({ "type": "string" }),
        _ => match body.definition(library) {
            Some(name) => library.reference(&name),
            None => json!({ "type": "object" }),
        },
    }
}

fn v3_operation(operation: &Operation, library: &Library) -> Value {
    let mut rendered = common(operation, Flavor::V3);
    let content = |types: &[&str], schema: Value| -> Value {
        types.iter().map(|ty| ((*ty).to_owned(), json!({ "schema": schema }))).collect()
    };
    if let Some(body) = &operation.body {
        let types = match body {
            Body::Meta("Patch") => patch_types(operation),
            _ => vec!["*/*"],
        };
        rendered["requestBody"] = json!({ "content": content(&types, schema(body, library)) });
        if operation.action != "delete" && operation.action != "deletecollection" {
            rendered["requestBody"]["required"] = true.into();
        }
    }
    let answer = match operation.answer {
        Body::Text if operation.action == "connect" => content(&["*/*"], schema(&operation.answer, library)),
        Body::Text => content(&["text/plain"], schema(&operation.answer, library)),
        _ => content(media_types(operation), schema(&operation.answer, library)),
    };
    let mut responses: Map<String, Value> = operation
        .codes
        .iter()
        .map(|code| ((*code).to_owned(), json!({ "description": describe_code(code), "content": answer })))
        .collect();
    responses.insert("401".to_owned(), json!({ "description": describe_code("401") }));
    rendered["responses"] = Value::Object(responses);
    rendered
}

fn v2_operation(operation: &Operation, library: &Library) -> Value {
    let mut rendered = common(operation, Flavor::V2);
    let text = operation.answer == Body::Text;
    rendered["schemes"] = json!(["https"]);
    rendered["consumes"] = match &operation.body {
        Some(Body::Meta("Patch")) => json!(patch_types(operation)),
        _ => json!(["*/*"]),
    };
    rendered["produces"] = match text {
        true if operation.action == "connect" => json!(["*/*"]),
        true => json!(["text/plain"]),
        false => json!(media_types(operation)),
    };
    if let Some(body) = &operation.body {
        let mut parameter = json!({ "name": "body", "in": "body", "schema": schema(body, library) });
        if operation.action != "delete" && operation.action != "deletecollection" {
            parameter["required"] = true.into();
        }
        match rendered.get_mut("parameters").and_then(Value::as_array_mut) {
            Some(parameters) => parameters.insert(0, parameter),
            None => rendered["parameters"] = json!([parameter]),
        }
    }
    let answer = schema(&operation.answer, library);
    let mut responses: Map<String, Value> = operation
        .codes
        .iter()
        .map(|code| ((*code).to_owned(), json!({ "description": describe_code(code), "schema": answer })))
        .collect();
    responses.insert("401".to_owned(), json!({ "description": describe_code("401") }));
    rendered["responses"] = Value::Object(responses);
    rendered
}
