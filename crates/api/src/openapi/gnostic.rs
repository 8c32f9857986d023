//! A v2 document in the protobuf form that gnostic's `OpenAPIv2.proto` defines. Maps are lists of named
//! values there, and anything without a type of its own is YAML text (JSON is YAML).

use crate::proto::wire::{put_bytes, put_double, put_int};
use serde_json::{Map, Value};

type Object = Map<String, Value>;

/// The whole `Document`.
pub(super) fn document(document: &Value) -> Vec<u8> {
    let mut out = Out::default();
    out.text(1, &document["swagger"]);
    out.nested(2, |out| {
        out.text(1, &document["info"]["title"]);
        out.text(2, &document["info"]["version"]);
    });
    out.nested(8, |out| {
        for (path, item) in entries(&document["paths"]) {
            out.named(2, path, |out| path_item(out, item));
        }
    });
    out.nested(9, |out| {
        for (name, definition) in entries(&document["definitions"]) {
            out.named(1, name, |out| schema(out, definition));
        }
    });
    for requirement in items(&document["security"]) {
        out.nested(12, |out| {
            for (name, scopes) in entries(requirement) {
                out.named(1, name, |out| items(scopes).for_each(|scope| out.text(1, scope)));
            }
        });
    }
    out.nested(13, |out| {
        for (name, definition) in entries(&document["securityDefinitions"]) {
            // The second alternative is an API key, the only kind that Kubernetes documents have.
            out.named(1, name, |out| {
                out.nested(2, |out| {
                    for (number, key) in [(1, "type"), (2, "name"), (3, "in"), (4, "description")] {
                        out.text(number, &definition[key]);
                    }
                });
            });
        }
    });
    out.0
}

fn path_item(out: &mut Out, item: &Value) {
    for (number, method) in
        [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (6, "options"), (7, "head"), (8, "patch")]
    {
        if let Some(found) = item.get(method) {
            out.nested(number, |out| operation(out, found));
        }
    }
    items(&item["parameters"]).for_each(|one| parameters_item(out, 9, one));
    extensions(out, 10, item);
}

fn operation(out: &mut Out, operation: &Value) {
    out.texts(1, &operation["tags"]);
    out.text(3, &operation["description"]);
    out.text(5, &operation["operationId"]);
    out.texts(6, &operation["produces"]);
    out.texts(7, &operation["consumes"]);
    items(&operation["parameters"]).for_each(|one| parameters_item(out, 8, one));
    out.nested(9, |out| {
        for (code, response) in entries(&operation["responses"]) {
            out.named(1, code, |out| {
                out.nested(1, |out| {
                    out.text(1, &response["description"]);
                    if let Some(found) = response.get("schema") {
                        out.nested(2, |out| out.nested(1, |out| schema(out, found)));
                    }
                });
            });
        }
    });
    out.texts(10, &operation["schemes"]);
    extensions(out, 13, operation);
}

fn parameters_item(out: &mut Out, number: u32, parameter: &Value) {
    out.nested(number, |out| {
        if let Some(reference) = parameter.get("$ref") {
            out.nested(2, |out| out.text(1, reference));
            return;
        }
        out.nested(1, |out| match parameter["in"].as_str() {
            Some("body") => out.nested(1, |out| {
                out.text(1, &parameter["description"]);
                out.text(2, &parameter["name"]);
                out.text(3, &parameter["in"]);
                out.flag(4, &parameter["required"]);
                out.nested(5, |out| schema(out, &parameter["schema"]));
            }),
            // Query and path parameters differ by one field number from the type on.
            Some("path") => out.nested(2, |out| out.nested(4, |out| primitive(out, parameter, 5, 19))),
            _ => out.nested(2, |out| out.nested(3, |out| primitive(out, parameter, 6, 20))),
        });
    });
}

fn primitive(out: &mut Out, parameter: &Value, type_number: u32, unique_number: u32) {
    out.flag(1, &parameter["required"]);
    out.text(2, &parameter["in"]);
    out.text(3, &parameter["description"]);
    out.text(4, &parameter["name"]);
    out.text(type_number, &parameter["type"]);
    out.text(type_number + 1, &parameter["format"]);
    out.flag(unique_number, &parameter["uniqueItems"]);
}

fn schema(out: &mut Out, schema_value: &Value) {
    let get = |key: &str| &schema_value[key];
    out.text(1, get("$ref"));
    out.text(2, get("format"));
    out.text(3, get("title"));
    out.text(4, get("description"));
    out.any(5, get("default"));
    for (number, key) in [(6, "multipleOf"), (7, "maximum"), (9, "minimum")] {
        if let Some(value) = get(key).as_f64() {
            put_double(&mut out.0, number, value);
        }
    }
    for (number, key) in [(8, "exclusiveMaximum"), (10, "exclusiveMinimum"), (16, "uniqueItems")] {
        out.flag(number, get(key));
    }
    out.text(13, get("pattern"));
    for (number, key) in [
        (11, "maxLength"),
        (12, "minLength"),
        (14, "maxItems"),
        (15, "minItems"),
        (17, "maxProperties"),
        (18, "minProperties"),
    ] {
        if let Some(value) = get(key).as_i64() {
            put_int(&mut out.0, number, value);
        }
    }
    out.texts(19, get("required"));
    items(get("enum")).for_each(|value| out.any(20, value));
    match get("additionalProperties") {
        Value::Null => {}
        Value::Bool(allowed) => out.nested(21, |out| put_int(&mut out.0, 2, i64::from(*allowed))),
        other => out.nested(21, |out| out.nested(1, |out| schema(out, other))),
    }
    match get("type") {
        Value::Null => {}
        list @ Value::Array(_) => out.nested(22, |out| out.texts(1, list)),
        one => out.nested(22, |out| out.text(1, one)),
    }
    match get("items") {
        Value::Null => {}
        one => out.nested(23, |out| out.nested(1, |out| schema(out, one))),
    }
    items(get("allOf")).for_each(|one| out.nested(24, |out| schema(out, one)));
    if let Some(properties) = get("properties").as_object() {
        out.nested(25, |out| {
            for (name, property) in properties {
                out.named(1, name, |out| schema(out, property));
            }
        });
    }
    extensions(out, 31, schema_value);
}

fn extensions(out: &mut Out, number: u32, value: &Value) {
    for (name, extension) in entries(value).filter(|(name, _)| name.starts_with("x-")) {
        out.named(number, name, |out| out.yaml(extension));
    }
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Object::iter)
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// A message under construction. Absent and empty values are not written, as in proto3.
#[derive(Default)]
struct Out(Vec<u8>);

impl Out {
    fn text(&mut self, number: u32, value: &Value) {
        if let Some(text) = value.as_str().filter(|text| !text.is_empty()) {
            put_bytes(&mut self.0, number, text.as_bytes());
        }
    }

    fn texts(&mut self, number: u32, list: &Value) {
        items(list)
            .filter_map(Value::as_str)
            .for_each(|text| put_bytes(&mut self.0, number, text.as_bytes()));
    }

    fn flag(&mut self, number: u32, value: &Value) {
        if value.as_bool() == Some(true) {
            put_int(&mut self.0, number, 1);
        }
    }

    fn nested(&mut self, number: u32, fill: impl FnOnce(&mut Out)) {
        let mut inner = Out::default();
        fill(&mut inner);
        put_bytes(&mut self.0, number, &inner.0);
    }

    /// An entry of a map: name and value.
    fn named(&mut self, number: u32, name: &str, fill: impl FnOnce(&mut Out)) {
        self.nested(number, |out| {
            put_bytes(&mut out.0, 1, name.as_bytes());
            out.nested(2, fill);
        });
    }

    fn any(&mut self, number: u32, value: &Value) {
        if !value.is_null() {
            self.nested(number, |out| out.yaml(value));
        }
    }

    /// The content of an `Any`.
    fn yaml(&mut self, value: &Value) {
        put_bytes(&mut self.0, 2, format!("{value}\n").as_bytes());
    }
}
