//! Paths of rules and selectable fields, held against the schema (upstream's `cel.ValidFieldPath`).

use crate::schema::{Schema, SchemaOrBool};
use knarr_meta::field::Path;

/// Follows a path such as `.spec['a.b'].c`; answers with it in the form of error texts and with the schema it leads to
/// (none where the values of a map have no schema).
///
/// # Errors
/// Why there is no such field, in upstream's words.
pub(crate) fn follow<'s>(
    path: &str,
    schema: &'s Schema,
    array_notation: bool,
) -> Result<(Option<Path>, Option<&'s Schema>), String> {
    let mut tokens = tokens(path).into_iter();
    let (mut at, mut schema) = (None::<Path>, Some(schema));
    let end = || "unexpected end of JSON path".to_owned();
    let lost = || "does not refer to a valid field".to_owned();
    while let Some(token) = tokens.next() {
        let name = match token {
            "[" => {
                if !array_notation {
                    return Err("array notation is not allowed".into());
                }
                let quoted = tokens.next().ok_or_else(end)?;
                let inner = quoted
                    .strip_prefix('\'')
                    .and_then(|rest| rest.strip_suffix('\''))
                    .ok_or_else(|| format!("expected single quoted string but got {quoted}"))?;
                unescape(inner)?
            }
            "." => tokens.next().ok_or_else(end)?.to_owned(),
            other => return Err(format!("expected [ or . but got: {other}")),
        };
        let current = schema.ok_or_else(lost)?;
        if !current.properties.is_empty() {
            at = Some(match at {
                Some(at) => at.child(name.clone()),
                None => Path::new(name.clone()),
            });
            schema = Some(current.properties.get(&name).ok_or_else(lost)?);
        } else if let Some(additional) = &current.additional_properties {
            at = Some(at.unwrap_or_else(Path::nil).key(name));
            schema = match additional {
                SchemaOrBool::Schema(other) => Some(other),
                SchemaOrBool::Bool(_) => None,
            };
        } else {
            return Err(lost());
        }
        if token == "[" {
            match tokens.next() {
                Some("]") => {}
                Some(other) => return Err(format!("expected ] but got {other}")),
                None => return Err(end()),
            }
        }
    }
    Ok((at, schema))
}

/// Delimiters, quoted strings, and what stands between them.
fn tokens(path: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        let bytes = rest.as_bytes();
        let end = if bytes[0] == b'\'' {
            let close = (1..bytes.len()).find(|at| bytes[*at] == b'\'' && bytes[at - 1] != b'\\');
            close.map_or(rest.len(), |at| at + 1)
        } else {
            match bytes.iter().position(|b| matches!(b, b'.' | b'[' | b']')) {
                Some(0) => 1,
                Some(at) => at,
                None => rest.len(),
            }
        };
        let (token, after) = rest.split_at(end);
        found.push(token);
        rest = after;
    }
    found
}

fn unescape(text: &str) -> Result<String, String> {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        out.push(match chars.next() {
            Some('a') => '\u{7}',
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('v') => '\u{b}',
            Some(same @ ('\'' | '\\')) => same,
            other => {
                let other = other.map(String::from).unwrap_or_default();
                return Err(format!("invalid string literal: invalid escape char \\{other}"));
            }
        });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_lead_to_schemas() {
        let schema = Schema::parse(&json!({"properties": {"spec": {"properties": {"a.b": {"type": "string"},
            "m": {"additionalProperties": {"properties": {"x": {"type": "integer"}}}}, "l": {"items": {}}}}}}))
        .unwrap();
        for (path, want) in [
            (".spec", Ok("spec ")),
            (".spec['a.b']", Ok("spec.a.b string")),
            (".spec.m.k.x", Ok("spec.m[k].x integer")),
            (".spec.m['k'].x", Ok("spec.m[k].x integer")),
            ("spec", Err("expected [ or . but got: spec")),
            (".nope", Err("does not refer to a valid field")),
            (".spec.l.x", Err("does not refer to a valid field")),
            (".spec.", Err("unexpected end of JSON path")),
            (".spec[0]", Err("expected single quoted string but got 0")),
        ] {
            let found = follow(path, &schema, true);
            let found =
                found.map(|(at, schema)| format!("{} {}", at.unwrap(), schema.map_or("", |s| &s.type_)));
            assert_eq!(found.as_deref().map_err(String::as_str), want, "{path}");
        }
        assert_eq!(follow(".spec['a.b']", &schema, false).unwrap_err(), "array notation is not allowed");
    }
}
