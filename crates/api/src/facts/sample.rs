//! Objects in which every field is set, made from the facts, for the tests that run over every kind.

use super::decl::{Field, Message, Shape};
use serde_json::{Map, Value, json};

/// The messages that are kinds.
pub(crate) fn kinds(all: &[Message]) -> impl Iterator<Item = &Message> {
    all.iter().filter(|message| message.type_meta)
}

/// A whole object of a kind.
pub(crate) fn kind_sample(all: &[Message], message: &Message) -> Value {
    let package = message.package;
    let group = if package.group.is_empty() { String::new() } else { format!("{}/", package.group) };
    let mut object = sample(all, message, 0);
    object["apiVersion"] = json!(format!("{group}{}", package.version));
    object["kind"] = json!(message.name);
    object
}

/// An object of `message` in which every field is set, three levels into messages that contain themselves.
pub(crate) fn sample(all: &[Message], message: &Message, nesting: usize) -> Value {
    let mut object = Map::new();
    for field in &message.fields {
        if field.inline {
            if let Value::Object(inner) = sample(all, find(all, message, field.ty), nesting + 1) {
                object.extend(inner);
            }
            continue;
        }
        if let Some(one) = sample_value(all, message, field, nesting) {
            let value = match field.shape {
                Shape::One => one,
                Shape::List => json!([one]),
                Shape::Map => json!({ "key": one }),
            };
            object.insert(field.name.to_owned(), value);
        }
    }
    Value::Object(object)
}

fn sample_value(all: &[Message], message: &Message, field: &Field, nesting: usize) -> Option<Value> {
    Some(match field.ty {
        "s" => json!(format!("{}-value", field.name)),
        "b" => json!(true),
        "i" => json!(-(field.number as i32)),
        "l" => json!(1i64 << 40),
        "d" => json!(1.5),
        "y" => json!("AQID"),
        "Q" => json!("100m"),
        "I" => json!("25%"),
        "T" => json!("2026-11-21T09:00:00Z"),
        "M" => json!("2026-11-21T09:00:00.123456Z"),
        "D" => json!("1m30s"),
        "R" | "F" | "J" => json!({ "f:any": { "x": [1, "two", null] } }),
        "V" => json!(["a", "b"]),
        "A" => json!([{ "type": "string" }, {}]),
        "B" => json!({ "type": "integer" }),
        "S" => json!(["a"]),
        _ if nesting > 12 => return None,
        name => sample(all, find(all, message, name), nesting + if name == message.name { 6 } else { 1 }),
    })
}

fn find<'a>(all: &'a [Message], home: &Message, code: &str) -> &'a Message {
    let (alias, name) = code.rsplit_once('.').unwrap_or((home.package.alias, code));
    let found = all.iter().find(|m| m.package.alias == alias && m.name == name);
    found.unwrap_or_else(|| panic!("{code} is not in the facts"))
}
