//! The few ways in which Go prints values that clients see inside error texts.

use serde_json::Value;
use std::fmt::Write as _;

/// A string as Go's `%q` prints it.
pub fn quote(s: &str) -> String {
    let mut out = String::with_capacity(s.len() + 2);
    out.push('"');
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            c if (c as u32) < 0x20 || c == '\u{7f}' => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c if is_unprintable(c) => {
                let n = c as u32;
                let _ = if n < 0x10000 { write!(out, "\\u{n:04x}") } else { write!(out, "\\U{n:08x}") };
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Control characters, spaces other than U+0020 and invisible marks; Go escapes them in `%q`.
fn is_unprintable(c: char) -> bool {
    c.is_control()
        || (c != ' ' && c.is_whitespace())
        || matches!(c as u32, 0xad | 0x200b..=0x200f | 0x202a..=0x202e | 0x2060..=0x206f | 0xfeff | 0xe000..=0xf8ff | 0xfff0..=0xfffb)
}

/// A double as Go's `%v` prints it: shortest digits, with an exponent below 1e-4 and from 1e6 on.
pub fn float(float: f64) -> String {
    let text = format!("{float:e}");
    let Some((digits, exponent)) = text.split_once('e') else { return text };
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if (-4..6).contains(&exponent) {
        return float.to_string();
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// A value as Go's `encoding/json` writes it: compact, with `<`, `>`, `&`, U+2028 and U+2029 escaped.
pub fn json(value: &Value) -> String {
    let mut plain = value.to_string();
    if plain.contains("e+") || plain.contains(".0") {
        plain = GoNumbers(value).to_string();
    }
    if !plain.contains(['<', '>', '&', '\u{2028}', '\u{2029}']) {
        return plain;
    }
    let mut out = String::with_capacity(plain.len() + 16);
    for c in plain.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out
}

/// A value as Go's `%v` prints it once decoded into `interface{}`.
pub fn percent_v(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".into(),
        Value::String(s) => s.clone(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(percent_v).collect();
            format!("[{}]", items.join(" "))
        }
        Value::Object(map) => {
            let items: Vec<String> = map.iter().map(|(k, v)| format!("{k}:{}", percent_v(v))).collect();
            format!("map[{}]", items.join(" "))
        }
        Value::Number(number) if number.is_f64() => float(number.as_f64().unwrap_or_default()),
        other => other.to_string(),
    }
}

/// JSON with doubles as Go's encoder has them: no fraction where there is none, exponents from 1e21 on.
struct GoNumbers<'a>(&'a Value);

impl std::fmt::Display for GoNumbers<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Value::Number(number) if number.is_f64() => {
                let float = number.as_f64().unwrap_or_default();
                if float == 0.0 || (1e-6..1e21).contains(&float.abs()) {
                    return write!(f, "{float}");
                }
                let text = format!("{float:e}");
                f.write_str(&if text.contains("e-") { text } else { text.replace('e', "e+") })
            }
            Value::Array(list) => {
                f.write_str("[")?;
                for (index, value) in list.iter().enumerate() {
                    let comma = if index > 0 { "," } else { "" };
                    write!(f, "{comma}{}", GoNumbers(value))?;
                }
                f.write_str("]")
            }
            Value::Object(map) => {
                f.write_str("{")?;
                for (index, (name, value)) in map.iter().enumerate() {
                    let comma = if index > 0 { "," } else { "" };
                    write!(f, "{comma}{}:{}", Value::String(name.clone()), GoNumbers(value))?;
                }
                f.write_str("}")
            }
            other => write!(f, "{other}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn strings_are_quoted_as_go_does() {
        for (input, want) in [
            ("a", r#""a""#),
            ("a\"b\\", r#""a\"b\\""#),
            ("\n\t\u{1}\u{7f}", r#""\n\t\x01\x7f""#),
            ("é\u{200b}", "\"é\\u200b\""),
        ] {
            assert_eq!(quote(input), want);
        }
    }

    #[test]
    fn doubles_are_printed_as_go_does() {
        for (value, v, json) in [
            (0.5, "0.5", "0.5"),
            (100_000.0, "100000", "100000"),
            (1e19, "1e+19", "10000000000000000000"),
            (1e21, "1e+21", "1e+21"),
            (2_147_483_648.0, "2.147483648e+09", "2147483648"),
            (1e-5, "1e-05", "0.00001"),
            (1e-7, "1e-07", "1e-7"),
            (0.0, "0", "0"),
        ] {
            assert_eq!(
                (float(value).as_str(), super::json(&json!([value])).as_str()),
                (v, format!("[{json}]").as_str())
            );
        }
    }

    #[test]
    fn values_are_printed_as_go_does() {
        assert_eq!(super::json(&json!({"a": "<b>&"})), r#"{"a":"\u003cb\u003e\u0026"}"#);
        assert_eq!(
            percent_v(&json!({"a": [1, "x", null], "b": {"c": true}})),
            "map[a:[1 x <nil>] b:map[c:true]]"
        );
    }
}
