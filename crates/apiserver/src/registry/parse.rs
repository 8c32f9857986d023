//! Reading JSON and YAML into a value while noticing keys that occur twice, which strict field validation
//! reports and lenient decoding settles in favour of the last one.

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::fmt;

/// A document and the paths of its keys that occur more than once.
#[derive(Debug, Default)]
pub struct Parsed {
    /// The value.
    pub value: Value,
    /// Such as `spec.replicas`.
    pub duplicates: Vec<String>,
}

/// Reads JSON; the error is in the parser's words.
pub fn json(bytes: &[u8]) -> Result<Parsed, String> {
    let mut duplicates = Vec::new();
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = Seed { at: &Step::Root, duplicates: &mut duplicates }
        .deserialize(&mut json)
        .and_then(|value| json.end().map(|()| value))
        .map_err(|e| go_words(&e, bytes))?;
    Ok(Parsed { value, duplicates })
}

/// What Go's decoder says of malformed JSON, for the cases clients meet.
fn go_words(error: &serde_json::Error, bytes: &[u8]) -> String {
    use serde_json::error::Category;
    match error.classify() {
        Category::Eof => "unexpected end of JSON input".to_owned(),
        _ => {
            let line = bytes.split(|b| *b == b'\n').nth(error.line().saturating_sub(1)).unwrap_or_default();
            match line.get(error.column().saturating_sub(1)) {
                Some(byte) if error.line() > 0 => {
                    let what = if bytes.trim_ascii_start().first() == Some(byte)
                        && !matches!(byte, b'{' | b'[' | b'"')
                    {
                        "looking for beginning of value"
                    } else {
                        "after object key:value pair"
                    };
                    format!("invalid character '{}' {what}", char::from(*byte).escape_default())
                }
                _ => error.to_string(),
            }
        }
    }
}

/// Reads YAML (one document) as YAML 1.1 has it, booleans such as `yes` included.
pub fn yaml(bytes: &[u8]) -> Result<Parsed, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "yaml: invalid UTF-8".to_owned())?;
    // What is JSON is read as JSON, as upstream does.
    if text.trim_start().starts_with('{')
        && let Ok(parsed) = json(bytes)
    {
        return Ok(parsed);
    }
    let options = serde_saphyr::options! {
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins,
    };
    let mut duplicates = Vec::new();
    let value = serde_saphyr::with_deserializer_from_str_with_options(text, options, |yaml| {
        Seed { at: &Step::Root, duplicates: &mut duplicates }.deserialize(yaml)
    })
    .map_err(|e| format!("yaml: {}", first_line(&e.to_string())))?;
    Ok(Parsed { value, duplicates })
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// The path of every key of a JSON document, in its order and as often as it occurs.
pub fn key_paths(bytes: &[u8]) -> Vec<String> {
    let mut paths = Vec::new();
    let mut json = serde_json::Deserializer::from_slice(bytes);
    // What precedes an error is still worth something, so it is not one here.
    let _ = Paths { at: &Step::Root, paths: &mut paths }.deserialize(&mut json);
    paths
}

struct Paths<'a> {
    at: &'a Step<'a>,
    paths: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Paths<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Paths<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let mut index = 0;
        loop {
            let at = Step::Index(self.at, index);
            if seq.next_element_seed(Paths { at: &at, paths: &mut *self.paths })?.is_none() {
                return Ok(());
            }
            index += 1;
        }
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            let at = Step::Key(self.at, &key);
            self.paths.push(at.to_string());
            map.next_value_seed(Paths { at: &at, paths: &mut *self.paths })?;
        }
        Ok(())
    }
}

/// Where a value stands, for the paths of duplicates.
enum Step<'a> {
    Root,
    Key(&'a Step<'a>, &'a str),
    Index(&'a Step<'a>, usize),
}

impl fmt::Display for Step<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Key(Self::Root, key) => f.write_str(key),
            Self::Key(parent, key) => write!(f, "{parent}.{key}"),
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

struct Seed<'a> {
    at: &'a Step<'a>,
    duplicates: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }
    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        loop {
            let at = Step::Index(self.at, list.len());
            match seq.next_element_seed(Seed { at: &at, duplicates: &mut *self.duplicates })? {
                Some(value) => list.push(value),
                None => return Ok(Value::Array(list)),
            }
        }
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let at = Step::Key(self.at, &key);
            let value = map.next_value_seed(Seed { at: &at, duplicates: &mut *self.duplicates })?;
            if object.contains_key(&key) {
                self.duplicates.push(at.to_string());
            }
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn duplicate_keys_are_noticed_and_the_last_one_counts() {
        let parsed = json(br#"{"a":1,"spec":{"l":[{"n":1,"n":2}]},"a":3}"#).unwrap();
        assert_eq!(parsed.value, json!({"a": 3, "spec": {"l": [{"n": 2}]}}));
        assert_eq!(parsed.duplicates, ["spec.l[0].n", "a"]);
        assert!(json(b"{\"a\":1} x").is_err());
        assert_eq!(json(b"{\"a\":").unwrap_err(), "unexpected end of JSON input");
    }

    #[test]
    fn yaml_is_read_as_kubectl_writes_it() {
        let parsed =
            yaml(b"a: 1\nb: 'yes'\nc: [x, {d: 1.5}]\nn: null\nt: true\ne: ''\nport: 080a\n").unwrap();
        assert_eq!(
            parsed.value,
            json!({"a": 1, "b": "yes", "c": ["x", {"d": 1.5}], "n": null, "t": true, "e": "", "port": "080a"})
        );
        assert_eq!(yaml(b"{\"a\": 1}").unwrap().value, json!({"a": 1}));
        assert_eq!(
            yaml(b"a: yes\nb: off\nc: |\n  text\n").unwrap().value,
            json!({"a": true, "b": false, "c": "text\n"})
        );
        assert!(yaml(b"a: [").is_err());
    }
}
