//! Values as text: as CEL literals.

use super::Value;
use crate::lib_fns::{number, time};
use knarr_meta::go::quote;
use std::fmt::{self, Write};

/// The value as an expression that gives it, where there is one.
impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&literal(self))
    }
}

/// The value as an expression that gives it, where there is one. Map keys are sorted by their text.
pub(crate) fn literal(value: &Value<'_>) -> String {
    let mut out = String::new();
    write_literal(value, &mut out, 0);
    out
}

fn write_literal(value: &Value<'_>, out: &mut String, depth: usize) {
    if depth > 256 {
        out.push_str("...");
        return;
    }
    let _ = match value {
        Value::Null => write!(out, "null"),
        Value::Bool(value) => write!(out, "{value}"),
        Value::Int(value) => write!(out, "{value}"),
        Value::Uint(value) => write!(out, "{value}u"),
        Value::Double(value) => write!(out, "{}", number::double_literal(*value)),
        Value::String(text) => write!(out, "{}", quote(text.as_str())),
        Value::Bytes(bytes) => {
            out.push_str("b\"");
            bytes.iter().for_each(|byte| {
                let _ = write!(out, "\\{byte:03o}");
            });
            write!(out, "\"")
        }
        Value::Duration(nanos) => write!(out, "duration(\"{}\")", time::duration_text(*nanos)),
        Value::Timestamp(timestamp) => {
            let utc = super::Timestamp { offset: 0, ..*timestamp };
            write!(out, "timestamp(\"{}\")", time::timestamp_text(&utc))
        }
        Value::Type(t) => write!(out, "{}", t.name()),
        Value::List(list) => {
            out.push('[');
            for (index, item) in list.iter().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                match item {
                    Ok(item) => write_literal(&item, out, depth + 1),
                    Err(problem) => {
                        let _ = write!(out, "{problem}");
                    }
                }
            }
            write!(out, "]")
        }
        Value::Map(map) => {
            let mut entries: Vec<(String, String)> = map
                .entries()
                .iter()
                .map(|(key, value)| {
                    let value = match value {
                        Ok(value) => literal(value),
                        Err(problem) => problem.to_string(),
                    };
                    (literal(key), value)
                })
                .collect();
            entries.sort();
            let entries: Vec<String> = entries.iter().map(|(key, value)| format!("{key}: {value}")).collect();
            write!(out, "{{{}}}", entries.join(", "))
        }
        Value::Optional(None) => write!(out, "optional.none()"),
        Value::Optional(Some(value)) => {
            out.push_str("optional.of(");
            write_literal(value, out, depth + 1);
            write!(out, ")")
        }
        Value::Object(object) => {
            let fields: Vec<String> =
                object.0.fields().map(|(name, value)| format!("{name}: {}", literal(value))).collect();
            write!(out, "{}{{{}}}", object.0.type_name(), fields.join(", "))
        }
        Value::Preserved(json) => write!(out, "{json}"),
        Value::Opaque(opaque) => write!(out, "{}", opaque.0),
        Value::Variables => write!(out, "variables"),
    };
}
