//! JSONPath as client-go has it, as far as paths of columns and selectable fields go: fields, indices, slices, unions,
//! filters, wildcards and recursive descent. Missing keys select nothing. (`range` and text outside braces belong to
//! kubectl's templates and are refused.)

use serde_json::{Map, Value};
use std::borrow::Cow;
use thiserror::Error;

/// Why a text is no path, in client-go's words.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct PathError(String);

/// Why a path selects nothing that makes sense in a value.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct FindError(String);

/// A parsed path.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath(Vec<Node>);

#[derive(Clone, Debug, PartialEq)]
enum Node {
    Field(String),
    Wildcard,
    Recursive,
    Slice([Bound; 3]),
    Union(Vec<Vec<Node>>),
    Filter { left: Vec<Node>, operator: String, right: Vec<Node> },
    Text(String),
    Number(f64),
    Integer(i64),
    Bool(bool),
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Bound {
    value: i64,
    known: bool,
    derived: bool,
}

/// A value that a path selected: part of the object, or a constant of the path.
pub type Found<'a> = Cow<'a, Value>;

impl JsonPath {
    /// Parses a path such as `.spec.replicas` (client-go puts the braces round it).
    pub fn parse(path: &str) -> Result<Self, PathError> {
        Parser { rest: path }.nodes().map(Self)
    }

    /// What the path selects, in order.
    pub fn find<'a>(&self, value: &'a Value) -> Result<Vec<Found<'a>>, FindError> {
        walk_all(vec![Cow::Borrowed(value)], &self.0)
    }

    /// The first value that the path selects; none if there is none or the path does not fit.
    pub fn first<'a>(&self, value: &'a Value) -> Option<Found<'a>> {
        self.find(value).ok()?.into_iter().next()
    }
}

/// A value as client-go prints it: objects and lists as JSON, texts bare.
pub fn printed(value: &Value) -> String {
    match value {
        Value::Object(_) | Value::Array(_) => knarr_meta::go::json(value),
        Value::String(text) => text.clone(),
        Value::Null => "<nil>".to_owned(),
        Value::Number(number) if number.is_f64() => {
            knarr_meta::go::float(number.as_f64().unwrap_or_default())
        }
        other => other.to_string(),
    }
}

struct Parser<'p> {
    rest: &'p str,
}

fn is_terminator(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n' | '.' | ',' | '[' | ']' | '$' | '@' | '{' | '}')
}

fn is_alphanumeric(c: char) -> bool {
    c == '_' || c.is_alphabetic() || c.is_numeric()
}

fn error<T>(text: impl Into<String>) -> Result<T, PathError> {
    Err(PathError(text.into()))
}

impl<'p> Parser<'p> {
    fn nodes(mut self) -> Result<Vec<Node>, PathError> {
        let mut nodes = Vec::new();
        while let Some(c) = self.rest.chars().next() {
            let after = &self.rest[c.len_utf8()..];
            match c {
                '\r' | '\n' => return error("unclosed action"),
                // Whatever follows a closing brace is text or another path, which no caller looks at.
                '}' => return Ok(nodes),
                ' ' | '@' | '$' => self.rest = after,
                '[' if self.rest.starts_with("[?(") => nodes.push(self.filter()?),
                '[' => self.array(&mut nodes)?,
                '"' | '\'' => nodes.push(self.quoted(c)?),
                '.' if self.rest.starts_with("..") => {
                    if nodes.last() == Some(&Node::Recursive) {
                        return error("invalid multiple recursive descent");
                    }
                    self.rest = &self.rest[2..];
                    nodes.push(Node::Recursive);
                    if self.rest.starts_with(is_alphanumeric) {
                        nodes.push(self.field());
                    }
                }
                '.' => {
                    self.rest = after;
                    nodes.push(self.field());
                }
                '+' | '-' | '0'..='9' => nodes.push(self.number()?),
                c if is_alphanumeric(c) => {
                    let end = self.rest.find(is_terminator).unwrap_or(self.rest.len());
                    let (word, rest) = self.rest.split_at(end);
                    self.rest = rest;
                    match word {
                        "true" => nodes.push(Node::Bool(true)),
                        "false" => nodes.push(Node::Bool(false)),
                        // Parsed there, refused when it is evaluated; nothing is ever selected.
                        _ => nodes.push(Node::Union(Vec::new())),
                    }
                }
                c => return error(format!("unrecognized character in action: U+{:04X} '{c}'", c as u32)),
            }
        }
        Ok(nodes)
    }

    fn field(&mut self) -> Node {
        let mut name = String::new();
        while let Some(c) = self.rest.chars().next() {
            if c != '\\' && is_terminator(c) {
                break;
            }
            self.rest = &self.rest[c.len_utf8()..];
            if c == '\\' {
                if let Some(escaped) = self.rest.chars().next() {
                    self.rest = &self.rest[escaped.len_utf8()..];
                    if escaped != '\\' {
                        name.push(escaped);
                    }
                }
            } else {
                name.push(c);
            }
        }
        if name == "*" { Node::Wildcard } else { Node::Field(name) }
    }

    fn number(&mut self) -> Result<Node, PathError> {
        let signed = usize::from(self.rest.starts_with(['+', '-']));
        let digits = self.rest[signed..].find(|c: char| c != '.' && !c.is_ascii_digit());
        let end = digits.map_or(self.rest.len(), |end| end + signed);
        let (text, rest) = self.rest.split_at(end);
        self.rest = rest;
        let integer = text.strip_prefix('+').unwrap_or(text).parse().map(Node::Integer);
        integer
            .or_else(|_| text.parse().map(Node::Number))
            .or_else(|_| error(format!("cannot parse number {text}")))
    }

    fn quoted(&mut self, quote: char) -> Result<Node, PathError> {
        let mut text = String::new();
        let mut chars = self.rest[1..].char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '\n' => break,
                '\\' => match chars.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, 't')) => text.push('\t'),
                    Some((_, 'r')) => text.push('\r'),
                    Some((_, escaped)) => text.push(escaped),
                    None => break,
                },
                c if c == quote => {
                    self.rest = &self.rest[at + 2..];
                    return Ok(Node::Text(text));
                }
                c => text.push(c),
            }
        }
        error("unterminated quoted string")
    }

    fn array(&mut self, nodes: &mut Vec<Node>) -> Result<(), PathError> {
        let end = self.rest.find([']', '\n']).filter(|end| self.rest[*end..].starts_with(']'));
        let Some(end) = end else { return error("unterminated array") };
        let text = &self.rest[1..end];
        self.rest = &self.rest[end + 1..];
        if text.contains(',') {
            let parts = text.split(',').map(|part| {
                let wrapped = format!("[{}]", part.trim_matches(' '));
                Parser { rest: &wrapped }.nodes()
            });
            nodes.push(Node::Union(parts.collect::<Result<_, _>>()?));
            return Ok(());
        }
        let quoted = text
            .strip_prefix('\'')
            .and_then(|text| text.strip_suffix('\''))
            .filter(|key| !key.contains('\''));
        if let Some(key) = quoted {
            let dotted = format!(".{key}");
            nodes.extend(Parser { rest: &dotted }.nodes()?);
            return Ok(());
        }
        nodes.push(Node::Slice(slice(if text == "*" { ":" } else { text })?));
        Ok(())
    }

    fn filter(&mut self) -> Result<Node, PathError> {
        let inner = &self.rest[3..];
        let (mut quote, mut previous, mut closed) = (None, ' ', false);
        let mut end = None;
        for (at, c) in inner.char_indices() {
            match c {
                '\n' => break,
                '"' | '\'' => match quote {
                    None => quote = Some(c),
                    Some(open) => closed |= previous != '\\' && open == c,
                },
                ')' if quote.is_some() == closed => {
                    end = Some(at);
                    break;
                }
                _ => {}
            }
            previous = c;
        }
        let Some(end) = end else { return error("unterminated filter") };
        let text = &inner[..end];
        let Some(rest) = inner[end + 1..].strip_prefix(']') else { return error("unclosed array expect ]") };
        self.rest = rest;
        let is_operator = |c: char| matches!(c, '!' | '<' | '>' | '=');
        let comparison = text.find(is_operator).filter(|at| *at > 0).and_then(|at| {
            let (left, rest) = text.split_at(at);
            let length = rest.find(|c: char| !is_operator(c))?;
            let (operator, right) = rest.split_at(length);
            Some((left, operator, right))
        });
        Ok(match comparison {
            Some((left, operator, right)) => Node::Filter {
                left: Parser { rest: left }.nodes()?,
                operator: operator.to_owned(),
                right: Parser { rest: right }.nodes()?,
            },
            None => Node::Filter {
                left: Parser { rest: text }.nodes()?,
                operator: "exists".to_owned(),
                right: Vec::new(),
            },
        })
    }
}

fn slice(text: &str) -> Result<[Bound; 3], PathError> {
    let parts: Vec<&str> = text.split(':').collect();
    let shaped = |part: &&str| {
        let digits = part.strip_prefix('-').unwrap_or(part);
        digits.bytes().all(|b| b.is_ascii_digit())
    };
    if parts.len() > 3 || !parts.iter().all(shaped) {
        return error(format!("invalid array index {text}"));
    }
    let mut bounds = [Bound::default(); 3];
    for (index, bound) in bounds.iter_mut().enumerate() {
        match parts.get(index) {
            Some(&"") => {}
            Some(part) => {
                let Ok(value) = part.parse() else {
                    return error(format!("array index {part} is not a number"));
                };
                *bound = Bound { value, known: true, derived: false };
            }
            None if index == 1 => *bound = Bound { value: 0, known: true, derived: true },
            None => {}
        }
    }
    if bounds[1].derived {
        bounds[1].value = bounds[0].value + 1;
    }
    Ok(bounds)
}

type Values<'a> = Vec<Found<'a>>;

fn fail<T>(text: impl Into<String>) -> Result<T, FindError> {
    Err(FindError(text.into()))
}

fn walk_all<'a>(values: Values<'a>, nodes: &[Node]) -> Result<Values<'a>, FindError> {
    nodes.iter().try_fold(values, walk)
}

fn walk<'a>(values: Values<'a>, node: &Node) -> Result<Values<'a>, FindError> {
    let constant =
        |values: &Values<'a>, value: Value| values.iter().map(|_| Cow::Owned(value.clone())).collect();
    Ok(match node {
        Node::Field(name) => values.into_iter().filter_map(|value| field(value, name)).collect(),
        Node::Wildcard => values.into_iter().flat_map(children).collect(),
        Node::Recursive => values.into_iter().flat_map(descend).collect(),
        Node::Slice(bounds) => {
            let mut found = Vec::new();
            for value in values {
                elements(value, bounds, &mut found)?;
            }
            found
        }
        Node::Union(parts) => {
            let mut found = Vec::new();
            for part in parts {
                found.extend(walk_all(values.clone(), part)?);
            }
            found
        }
        Node::Filter { left, operator, right } => {
            let mut found = Vec::new();
            for value in values {
                let Some(_) = value.as_array() else {
                    return fail(format!("{} is not array or slice and cannot be filtered", printed(&value)));
                };
                for element in children(value) {
                    if passes(&element, left, operator, right)? {
                        found.push(element);
                    }
                }
            }
            found
        }
        Node::Text(text) => vec![Cow::Owned(text.clone().into())],
        Node::Number(number) => constant(&values, (*number).into()),
        Node::Integer(number) => constant(&values, (*number).into()),
        Node::Bool(is) => constant(&values, (*is).into()),
    })
}

fn field<'a>(value: Found<'a>, name: &str) -> Option<Found<'a>> {
    match value {
        Cow::Borrowed(value) => value.as_object()?.get(name).map(Cow::Borrowed),
        Cow::Owned(mut value) => value.as_object_mut()?.remove(name).map(Cow::Owned),
    }
}

fn children(value: Found<'_>) -> Values<'_> {
    let borrowed = match &value {
        Cow::Borrowed(value) => *value,
        // Constants of paths are scalars.
        Cow::Owned(_) => return Vec::new(),
    };
    match borrowed {
        Value::Object(map) => map.values().map(Cow::Borrowed).collect(),
        Value::Array(list) => list.iter().map(Cow::Borrowed).collect(),
        _ => Vec::new(),
    }
}

/// A value and everything below it that has something below itself.
fn descend(value: Found<'_>) -> Values<'_> {
    let below = children(value.clone());
    if below.is_empty() {
        return Vec::new();
    }
    let mut found = vec![value];
    found.extend(below.into_iter().flat_map(descend));
    found
}

fn elements<'a>(value: Found<'a>, bounds: &[Bound; 3], found: &mut Values<'a>) -> Result<(), FindError> {
    if value.is_null() {
        return Ok(());
    }
    let Some(list) = value.as_array() else { return fail("value is not array or slice") };
    let length = list.len() as i64;
    let [start, end, step] = bounds;
    let mut from = if start.known { start.value } else { 0 };
    if from < 0 {
        from += length;
    }
    let mut to = if end.known { end.value } else { length };
    if to < 0 || (to == 0 && end.derived) {
        to += length;
    }
    if from == to {
        return Ok(());
    }
    if from >= length || from < 0 {
        return fail(format!("array index out of bounds: index {from}, length {length}"));
    }
    if to > length || to < 0 {
        return fail(format!("array index out of bounds: index {}, length {length}", to - 1));
    }
    if from > to {
        return fail(format!("starting index {from} is greater than ending index {to}"));
    }
    if step.known && step.value <= 0 {
        return fail("step must be > 0");
    }
    let step = if step.known { step.value } else { 1 };
    let place = |n: i64| usize::try_from(n).unwrap_or_default();
    let all = children(value);
    found.extend(all.into_iter().take(place(to)).skip(place(from)).step_by(place(step).max(1)));
    Ok(())
}

fn passes(element: &Found<'_>, left: &[Node], operator: &str, right: &[Node]) -> Result<bool, FindError> {
    let side = |nodes: &[Node]| walk_all(vec![element.clone()], nodes);
    if operator == "exists" {
        return Ok(side(left).is_ok_and(|found| !found.is_empty()));
    }
    let (lefts, rights) = (side(left)?, side(right)?);
    match (lefts.as_slice(), rights.as_slice()) {
        ([], _) | (_, []) => Ok(false),
        ([left], [right]) => compare(left, right, operator),
        _ => fail("can only compare one element at a time"),
    }
}

fn compare(left: &Value, right: &Value, operator: &str) -> Result<bool, FindError> {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let order = match (left, right) {
        (Value::String(left), Value::String(right)) => Some(left.cmp(right)),
        (Value::Number(l), Value::Number(r)) if l.is_f64() == r.is_f64() => {
            l.as_f64().zip(r.as_f64()).and_then(|(l, r)| l.partial_cmp(&r))
        }
        (Value::Bool(left), Value::Bool(right)) if matches!(operator, "==" | "!=") => Some(left.cmp(right)),
        _ => None,
    };
    let Some(order) = order else { return fail("incompatible types for comparison") };
    Ok(match operator {
        "==" => order == Equal,
        "!=" => order != Equal,
        "<" => order == Less,
        "<=" => order != Greater,
        ">" => order == Greater,
        ">=" => order != Less,
        _ => return fail(format!("unrecognized filter operator {operator}")),
    })
}

/// The names of a path of plain fields, `.spec.replicas`; none for any other path.
pub fn plain_fields(path: &str) -> Option<Vec<String>> {
    let parsed = JsonPath::parse(path).ok()?;
    parsed.0.into_iter().map(|node| if let Node::Field(name) = node { Some(name) } else { None }).collect()
}

/// Looks a dotted path up as upstream's scale subresource does: by plain names.
pub(crate) fn dotted<'a>(map: &'a Map<String, Value>, path: &str) -> Result<Option<&'a Value>, String> {
    let names: Vec<&str> = path.strip_prefix('.').unwrap_or(path).split('.').collect();
    let mut at = map;
    for (index, name) in names.iter().enumerate() {
        let Some(value) = at.get(*name) else { return Ok(None) };
        if index + 1 == names.len() {
            return Ok(Some(value));
        }
        match value {
            Value::Object(map) => at = map,
            Value::Null => return Ok(None),
            other => {
                return Err(format!(
                    ".{} accessor error: {} is of the type {}, expected map[string]interface{{}}",
                    names[..=index].join("."),
                    knarr_meta::go::percent_v(other),
                    crate::objectmeta::go_type(other)
                ));
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn find(path: &str, value: &Value) -> Vec<String> {
        let path = JsonPath::parse(path).unwrap_or_else(|error| panic!("{path}: {error}"));
        path.find(value).map_or_else(
            |error| vec![format!("error: {error}")],
            |found| found.iter().map(|value| printed(value)).collect(),
        )
    }

    #[test]
    fn paths_select() {
        let value = json!({"spec": {"n": 1, "f": 0.5, "t": "x", "a.b": "dot", "l": [10, 20, 30], "none": null,
            "o": {"x": 1}}, "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Other", "n": 2}]}});
        for (path, want) in [
            (".spec.n", vec!["1"]),
            (".spec.f", vec!["0.5"]),
            (".spec.missing", vec![]),
            (".spec.missing.deeper", vec![]),
            (".spec.none", vec!["<nil>"]),
            (".spec.a\\.b", vec!["dot"]),
            (".spec['a\\.b']", vec!["dot"]),
            (".spec.o", vec![r#"{"x":1}"#]),
            (".spec.l[0]", vec!["10"]),
            (".spec.l[-1]", vec!["30"]),
            (".spec.l[*]", vec!["10", "20", "30"]),
            (".spec.l[0:2]", vec!["10", "20"]),
            (".spec.l[::2]", vec!["10", "30"]),
            (".spec.l[0,2]", vec!["10", "30"]),
            (".spec.l[5]", vec!["error: array index out of bounds: index 5, length 3"]),
            (".spec.n[0]", vec!["error: value is not array or slice"]),
            (r#".status.conditions[?(@.type=="Ready")].status"#, vec!["True"]),
            (".status.conditions[?(@.type=='Nope')].status", vec![]),
            (".status.conditions[?(@.n>1)].type", vec!["Other"]),
            (".status.conditions[?(@.n)].type", vec!["Other"]),
            ("..type", vec!["Ready", "Other"]),
            ("..conditions[*].type", vec!["Ready", "Other"]),
            ("$.spec.t", vec!["x"]),
        ] {
            assert_eq!(find(path, &value), want, "{path}");
        }
    }

    #[test]
    fn mistakes_are_told() {
        for (path, want) in [
            (".spec[", "unterminated array"),
            (".spec[a]", "invalid array index a"),
            (".spec[?(@.a]", "unterminated filter"),
            (".a....b", "invalid multiple recursive descent"),
            ("~", "unrecognized character in action: U+007E '~'"),
            ("'x", "unterminated quoted string"),
        ] {
            assert_eq!(JsonPath::parse(path).unwrap_err().to_string(), want, "{path}");
        }
    }
}
