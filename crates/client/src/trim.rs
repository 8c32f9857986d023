//! Cuts `metadata.managedFields` out of an object's JSON before it is decoded: it is up to half of the text, and
//! would become a tree of small allocations that is dropped at once.

use std::borrow::Cow;

/// The object without its managed fields. Text that is not what an API server sends is left as it is, for the
/// decoder to say what is wrong with it.
pub fn without_managed_fields(json: &[u8]) -> Cow<'_, [u8]> {
    let found = member(json, 0, b"\"metadata\"").and_then(|metadata| {
        let metadata = metadata.value;
        member(json, metadata, b"\"managedFields\"")
    });
    let Some(Member { key, value }) = found else { return Cow::Borrowed(json) };
    let Some(mut end) = skip(json, value) else { return Cow::Borrowed(json) };
    let mut start = key;
    // One of the two commas goes too.
    if json.get(end) == Some(&b',') {
        end += 1;
    } else if start > 0 && json[start - 1] == b',' {
        start -= 1;
    }
    Cow::Owned([&json[..start], &json[end..]].concat())
}

struct Member {
    /// Where its name begins.
    key: usize,
    /// Where its value begins.
    value: usize,
}

/// A member, by its quoted name, of the object at `at`, which is written without spaces.
fn member(json: &[u8], at: usize, name: &[u8]) -> Option<Member> {
    let mut at = json.get(at..)?.first().filter(|byte| **byte == b'{').map(|_| at + 1)?;
    while json.get(at) == Some(&b'"') {
        let key = at;
        let colon = skip(json, at)?;
        if json.get(colon) != Some(&b':') {
            return None;
        }
        if &json[key..colon] == name {
            return Some(Member { key, value: colon + 1 });
        }
        at = skip(json, colon + 1)?;
        if json.get(at) != Some(&b',') {
            return None;
        }
        at += 1;
    }
    None
}

/// The end of the value at `at`.
fn skip(json: &[u8], at: usize) -> Option<usize> {
    let (mut at, mut depth) = (at, 0usize);
    loop {
        match json.get(at)? {
            b'"' => {
                at += 1;
                while *json.get(at)? != b'"' {
                    at += if json[at] == b'\\' { 2 } else { 1 };
                }
            }
            b'{' | b'[' => depth += 1,
            // The end of a number or a word is the end of what it is in.
            b'}' | b']' | b',' if depth == 0 => return Some(at),
            b'}' | b']' => depth -= 1,
            _ if depth == 0 => {
                at += 1;
                continue;
            }
            _ => {}
        }
        at += 1;
        if depth == 0 {
            return Some(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_objects_own_managed_fields_are_cut_out() {
        let table = [
            (
                r#"{"metadata":{"name":"a","managedFields":[{"x":"]\""}],"uid":"u"},"s":1}"#,
                r#"{"metadata":{"name":"a","uid":"u"},"s":1}"#,
            ),
            (r#"{"kind":"A","metadata":{"managedFields":[]}}"#, r#"{"kind":"A","metadata":{}}"#),
            (r#"{"metadata":{"n":1,"managedFields":[1,[2]]}}"#, r#"{"metadata":{"n":1}}"#),
            (
                r#"{"n":12,"metadata":{"b":true,"managedFields":null,"z":{}}}"#,
                r#"{"n":12,"metadata":{"b":true,"z":{}}}"#,
            ),
        ];
        for (given, wanted) in table {
            let cut = without_managed_fields(given.as_bytes());
            assert_eq!(std::str::from_utf8(&cut), Ok(wanted), "{given}");
        }
        for unchanged in [
            r#"{"metadata":{"name":"a"},"spec":{"template":{"metadata":{"managedFields":[]}}}}"#,
            r#"{"data":{"k":",\"managedFields\":["},"metadata":{"labels":{"managedFields":"x"}}}"#,
            r#"{ "metadata": {"managedFields":[]}}"#,
            r#"{"metadata":{"managedFields":[{"#,
            r#"{"metadata":{"managedFields""#,
            r#"{"metadata":"managedFields"}"#,
            r#"{"metadata":{"name":"a\"#,
            "[]",
            "",
        ] {
            assert_eq!(&*without_managed_fields(unchanged.as_bytes()), unchanged.as_bytes(), "{unchanged}");
        }
    }
}
