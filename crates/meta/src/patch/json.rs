//! JSON patch (RFC 6902) over JSON pointers (RFC 6901), with the two liberties of the library upstream uses:
//! array indices may be negative (from the end), and `test` against null holds for a missing field.

use super::{PatchError, json_kind};
use serde_json::Value;

/// Upstream's limit on the number of operations.
const MAX_OPERATIONS: usize = 10_000;
/// Upstream's limit on what all copies of a patch add, the size of the largest request.
const MAX_COPIED_BYTES: usize = 3 << 20;

/// Applies a list of operations, in their order.
pub fn apply(target: &mut Value, ops: &Value) -> Result<(), PatchError> {
    let Some(ops) = ops.as_array() else {
        return Err(PatchError::BadRequest(format!(
            "json: cannot unmarshal {} into Go value of type jsonpatch.Patch",
            json_kind(ops)
        )));
    };
    if let Some(wrong) = ops.iter().find(|op| !op.is_object()) {
        return Err(PatchError::BadRequest(format!(
            "json: cannot unmarshal {} into Go value of type jsonpatch.Operation",
            json_kind(wrong)
        )));
    }
    if ops.len() > MAX_OPERATIONS {
        return Err(PatchError::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            ops.len()
        )));
    }
    let mut copied = 0;
    ops.iter().try_for_each(|op| apply_one(target, op, &mut copied)).map_err(PatchError::Unprocessable)
}

fn apply_one(target: &mut Value, op: &Value, copied: &mut usize) -> Result<(), String> {
    let text = |name: &str| {
        op.get(name)
            .and_then(Value::as_str)
            .ok_or_else(|| format!("operation missing {name} field: missing value"))
    };
    let kind = op.get("op").and_then(Value::as_str).unwrap_or("unknown");
    let value = || op.get("value").cloned().unwrap_or(Value::Null);
    match kind {
        "add" => add(target, text("path")?, value()),
        "remove" => remove(target, text("path")?).map(drop),
        "replace" => {
            let path = text("path")?;
            let place = get_mut(target, path).ok_or_else(|| {
                format!("replace operation does not apply: doc is missing key: {path}: missing value")
            })?;
            *place = value();
            Ok(())
        }
        "move" => {
            let (from, path) = (text("from")?, text("path")?);
            if path.strip_prefix(from).is_some_and(|rest| rest.starts_with('/')) {
                return Err(format!("move operation does not apply: {path} is inside {from}"));
            }
            let moved = remove(target, from)?;
            add(target, path, moved)
        }
        "copy" => {
            let (from, path) = (text("from")?, text("path")?);
            let copy = get_mut(target, from)
                .ok_or_else(|| {
                    format!("copy operation does not apply: doc is missing from path: {from}: missing value")
                })?
                .clone();
            *copied += copy.to_string().len();
            if *copied > MAX_COPIED_BYTES {
                return Err(format!(
                    "Unable to complete the copy, the accumulated size increase of copy is {copied}, exceeding the limit {MAX_COPIED_BYTES}"
                ));
            }
            add(target, path, copy)
        }
        "test" => {
            let path = text("path")?;
            if get_mut(target, path).map_or(Value::Null, |value| value.clone()) == value() {
                Ok(())
            } else {
                Err(format!("testing value {path} failed: test failed"))
            }
        }
        other => Err(format!("Unexpected kind: {other}")),
    }
}

/// The steps of a pointer, unescaped; none if it is not a pointer.
fn steps(path: &str) -> Option<Vec<String>> {
    if path.is_empty() {
        return Some(Vec::new());
    }
    Some(path.strip_prefix('/')?.split('/').map(|step| step.replace("~1", "/").replace("~0", "~")).collect())
}

/// An index into a list of `len` elements; negative ones count from its end.
fn index(step: &str, len: usize) -> Option<usize> {
    let at = step.parse::<i64>().ok()?;
    let at = if at < 0 { at + i64::try_from(len).ok()? } else { at };
    usize::try_from(at).ok().filter(|at| *at < len)
}

fn get_mut<'a>(target: &'a mut Value, path: &str) -> Option<&'a mut Value> {
    descend(target, &steps(path)?)
}

fn descend<'a>(target: &'a mut Value, steps: &[String]) -> Option<&'a mut Value> {
    steps.iter().try_fold(target, |value, step| match value {
        Value::Object(map) => map.get_mut(step),
        Value::Array(list) => {
            let at = index(step, list.len())?;
            list.get_mut(at)
        }
        _ => None,
    })
}

fn add(target: &mut Value, path: &str, value: Value) -> Result<(), String> {
    let missing = || format!("add operation does not apply: doc is missing path: \"{path}\": missing value");
    let steps = steps(path).ok_or_else(missing)?;
    let Some((last, parents)) = steps.split_last() else {
        *target = value;
        return Ok(());
    };
    match descend(target, parents).ok_or_else(missing)? {
        Value::Object(map) => {
            map.insert(last.clone(), value);
        }
        Value::Array(list) if last == "-" => list.push(value),
        Value::Array(list) => {
            let at = index(last, list.len() + 1).ok_or_else(|| {
                format!("error in add for path: '{path}': Unable to access invalid index: {last}: invalid index referenced")
            })?;
            list.insert(at, value);
        }
        _ => return Err(missing()),
    }
    Ok(())
}

fn remove(target: &mut Value, path: &str) -> Result<Value, String> {
    let missing =
        || format!("remove operation does not apply: doc is missing path: \"{path}\": missing value");
    let steps = steps(path).ok_or_else(missing)?;
    let (last, parents) = steps.split_last().ok_or_else(missing)?;
    let parent = descend(target, parents).ok_or_else(missing)?;
    let removed = match parent {
        Value::Object(map) => map.remove(last),
        Value::Array(list) => index(last, list.len()).map(|at| list.remove(at)),
        _ => None,
    };
    removed.ok_or_else(|| {
        format!("error in remove for path: '{path}': Unable to remove nonexistent key: {last}: missing value")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn operations_do_what_the_rfc_says() {
        for (doc, ops, want) in [
            (
                json!({"a": 1}),
                json!([{"op": "add", "path": "/b", "value": 2}]),
                Some(json!({"a": 1, "b": 2})),
            ),
            (json!({"a": 1}), json!([{"op": "add", "path": "/a", "value": 2}]), Some(json!({"a": 2}))),
            (
                json!({"a": [1, 2]}),
                json!([{"op": "add", "path": "/a/1", "value": 9}]),
                Some(json!({"a": [1, 9, 2]})),
            ),
            (
                json!({"a": [1]}),
                json!([{"op": "add", "path": "/a/-", "value": 9}]),
                Some(json!({"a": [1, 9]})),
            ),
            (json!({"a": [1]}), json!([{"op": "add", "path": "/a/2", "value": 9}]), None),
            (json!({}), json!([{"op": "add", "path": "/a/b", "value": 9}]), None),
            (json!({"a": 1}), json!([{"op": "remove", "path": "/a"}]), Some(json!({}))),
            (json!({"a": [1, 2, 3]}), json!([{"op": "remove", "path": "/a/-1"}]), Some(json!({"a": [1, 2]}))),
            (json!({}), json!([{"op": "remove", "path": "/a"}]), None),
            (
                json!({"a": 1}),
                json!([{"op": "replace", "path": "/a", "value": null}]),
                Some(json!({"a": null})),
            ),
            (json!({}), json!([{"op": "replace", "path": "/a", "value": 1}]), None),
            (
                json!({"a": {"b": 1}, "c": {}}),
                json!([{"op": "move", "from": "/a/b", "path": "/c/d"}]),
                Some(json!({"a": {}, "c": {"d": 1}})),
            ),
            (json!({"a": {"b": 1}}), json!([{"op": "move", "from": "/a", "path": "/a/b"}]), None),
            (
                json!({"a": [1, 2]}),
                json!([{"op": "move", "from": "/a/0", "path": "/a/1"}]),
                Some(json!({"a": [2, 1]})),
            ),
            (
                json!({"a": 1}),
                json!([{"op": "copy", "from": "/a", "path": "/b"}]),
                Some(json!({"a": 1, "b": 1})),
            ),
            (json!({"a": 1}), json!([{"op": "test", "path": "/a", "value": 1}]), Some(json!({"a": 1}))),
            (json!({"a": 1}), json!([{"op": "test", "path": "/a", "value": "1"}]), None),
            (json!({}), json!([{"op": "test", "path": "/a", "value": null}]), Some(json!({}))),
            (
                json!({"a/b": {"c~d": 1}}),
                json!([{"op": "remove", "path": "/a~1b/c~0d"}]),
                Some(json!({"a/b": {}})),
            ),
            (json!({}), json!([{"op": "frobnicate", "path": "/a"}]), None),
            (json!({}), json!([{"path": "/a"}]), None),
            (json!({}), json!([{"op": "add", "value": 1}]), None),
        ] {
            let mut got = doc.clone();
            match (apply(&mut got, &ops), want) {
                (Ok(()), Some(want)) => assert_eq!(got, want, "{doc} with {ops}"),
                (Err(error), None) => assert_eq!(error.status().code, 422, "{doc} with {ops}"),
                (result, want) => panic!("{doc} with {ops}: {result:?}, want {want:?}"),
            }
        }
    }

    #[test]
    fn malformed_patches_are_refused_as_upstream_does() {
        let error = apply(&mut json!({}), &json!({})).unwrap_err();
        assert_eq!(error.status().code, 400);
        assert_eq!(error.to_string(), "json: cannot unmarshal object into Go value of type jsonpatch.Patch");
        assert_eq!(apply(&mut json!({}), &json!([1])).unwrap_err().status().code, 400);
        let many = Value::Array(vec![json!({"op": "test", "path": "/a"}); MAX_OPERATIONS + 1]);
        let status = apply(&mut json!({}), &many).unwrap_err().status();
        assert_eq!(
            (status.code, status.message.as_str()),
            (
                413,
                "Request entity too large: The allowed maximum operations in a JSON patch is 10000, got 10001"
            )
        );
        let failed =
            apply(&mut json!({}), &json!([{"op": "test", "path": "/a", "value": 1}])).unwrap_err().status();
        assert_eq!(failed.message, "the server rejected our request due to an error in our request");
        let bomb = json!([
            {"op": "add", "path": "/a", "value": "x".repeat(1 << 20)},
            {"op": "copy", "from": "/a", "path": "/b"}, {"op": "copy", "from": "/a", "path": "/c"},
            {"op": "copy", "from": "/a", "path": "/d"}]);
        assert!(matches!(apply(&mut json!({}), &bomb), Err(PatchError::Unprocessable(_))));
    }
}
