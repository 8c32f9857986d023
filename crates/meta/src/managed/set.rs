//! Sets of fields, kept in the form in which `fieldsV1` writes them.
//!
//! A set is a trie. Steps are `f:<field>`, `k:<keys of a list element>`, `v:<value of a set>` and `i:<index>`. A
//! node without children is a member, a node with children is one if it has the entry `.`. Working on that very
//! form means that what the store holds is never translated.

use crate::schema::{ListKind, ListType, Schema, Type};
use serde_json::{Map, Value};

pub(super) const SELF: &str = ".";

type Node = Map<String, Value>;

static EMPTY: std::sync::LazyLock<Node> = std::sync::LazyLock::new(Node::new);

/// A set of fields of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet(pub(super) Node);

/// A `fieldsV1` that is malformed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FieldsError(pub(super) String);

impl FieldSet {
    /// Reads a `fieldsV1`. Keys of list elements are brought into one canonical form; steps of unknown kinds are
    /// ignored, as upstream does.
    pub fn from_fields_v1(fields: &Value) -> Result<Self, FieldsError> {
        match fields {
            Value::Null => Ok(Self::default()),
            Value::Object(map) => canonical(map).map(FieldSet),
            _ => Err(FieldsError("fieldsV1 must be an object".into())),
        }
    }

    /// The set as `fieldsV1`.
    pub fn to_fields_v1(&self) -> Value {
        Value::Object(self.0.clone())
    }

    /// The set as `fieldsV1`, without copying.
    pub fn into_fields_v1(self) -> Value {
        Value::Object(self.0)
    }

    /// All fields that an object mentions, as an applier owns them.
    pub fn of(schema: &Schema, ty: &Type, value: &Value) -> Self {
        Self(super::fields::mentioned(schema, ty, value))
    }

    /// Whether it has no members.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Members of either.
    pub fn union(&self, other: &Self) -> Self {
        let mut result = self.clone();
        result.add(other);
        result
    }

    /// Adds the members of another set.
    pub fn add(&mut self, other: &Self) {
        add_children(&mut self.0, &other.0);
    }

    /// Members of both.
    pub fn intersection(&self, other: &Self) -> Self {
        Self(intersect_children(&self.0, &other.0))
    }

    /// Members that the other does not have. (Members below a member of the other stay.)
    pub fn difference(&self, other: &Self) -> Self {
        Self(subtract_children(&self.0, &other.0))
    }

    /// Whether a path, given by its steps, is a member.
    pub fn has(&self, path: &[&str]) -> bool {
        let Some((last, parents)) = path.split_last() else { return false };
        parents
            .iter()
            .try_fold(&self.0, |node, step| node.get(*step).map(as_node))
            .and_then(|node| node.get(*last))
            .is_some_and(|node| is_member(as_node(node)))
    }

    /// The members as upstream prints paths: `.spec.containers[name="a"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        list_paths(&self.0, &mut String::new(), &mut paths);
        paths
    }
}

pub(super) fn as_node(value: &Value) -> &Node {
    value.as_object().unwrap_or(&EMPTY)
}

pub(super) fn is_member(node: &Node) -> bool {
    node.is_empty() || node.contains_key(SELF)
}

pub(super) fn has_children(node: &Node) -> bool {
    node.len() > usize::from(node.contains_key(SELF))
}

fn children(node: &Node) -> impl Iterator<Item = (&String, &Value)> {
    node.iter().filter(|(step, _)| step.as_str() != SELF)
}

/// A node of these children (which have no entry for the node itself); none if nothing is left of it.
fn build(member: bool, mut children: Node) -> Option<Value> {
    if children.is_empty() {
        return member.then_some(Value::Object(children));
    }
    if member {
        children.insert(SELF.to_owned(), Value::Object(Node::new()));
    }
    Some(Value::Object(children))
}

fn add_children(target: &mut Node, other: &Node) {
    for (step, theirs) in children(other) {
        match target.get_mut(step).and_then(Value::as_object_mut) {
            Some(ours) => {
                let theirs = as_node(theirs);
                let member = is_member(ours) || is_member(theirs);
                add_children(ours, theirs);
                if member && !ours.is_empty() {
                    ours.insert(SELF.to_owned(), Value::Object(Node::new()));
                }
            }
            None => {
                target.insert(step.clone(), theirs.clone());
            }
        }
    }
}

fn intersect_children(ours: &Node, theirs: &Node) -> Node {
    let both = |(step, ours): (&String, &Value)| {
        let (ours, theirs) = (as_node(ours), as_node(theirs.get(step)?));
        let node = build(is_member(ours) && is_member(theirs), intersect_children(ours, theirs))?;
        Some((step.clone(), node))
    };
    children(ours).filter_map(both).collect()
}

fn subtract_children(ours: &Node, theirs: &Node) -> Node {
    let left = |(step, node): (&String, &Value)| {
        let Some(theirs) = theirs.get(step) else { return Some((step.clone(), node.clone())) };
        let (ours, theirs) = (as_node(node), as_node(theirs));
        let node = build(is_member(ours) && !is_member(theirs), subtract_children(ours, theirs))?;
        Some((step.clone(), node))
    };
    children(ours).filter_map(left).collect()
}

/// Puts `node` at a path of steps, beside what stands there.
pub(super) fn graft(target: &mut Node, path: &[&str], node: Node) {
    let Some((last, parents)) = path.split_last() else { return };
    let mut at = target;
    for step in parents {
        let next = at
            .entry(*step)
            .or_insert_with(|| Value::Object(Node::from_iter([(HOLE.to_owned(), Value::Null)])));
        at = next.as_object_mut().expect("every node is an object");
        if at.remove(HOLE).is_none() && at.is_empty() {
            at.insert(SELF.to_owned(), Value::Object(Node::new()));
        }
    }
    let wrapped = Node::from_iter([((*last).to_owned(), Value::Object(node))]);
    add_children(at, &wrapped);
}

/// Marks a node that is being made and so is no member yet, though it has no children.
const HOLE: &str = "";

/// Adds as members all nodes that are fields the schema names; those between others need not be members.
pub(super) fn with_named_fields(schema: &Schema, ty: Option<&Type>, set: &FieldSet) -> FieldSet {
    fn walk(schema: &Schema, ty: Option<&Type>, node: &Node) -> Node {
        let below = |(step, node): (&String, &Value)| {
            let node = as_node(node);
            let mut named = false;
            let ty = match (ty, step.strip_prefix("f:")) {
                (Some(Type::Struct(id)), Some(name)) => {
                    let ty = schema.get(*id);
                    named = ty.field(name).is_some();
                    ty.field(name).map(|field| &field.ty).or(ty.others.as_ref())
                }
                (Some(Type::Map(elem)), Some(_)) => Some(&**elem),
                (Some(Type::List(list)), None) => Some(&list.elem),
                _ => None,
            };
            Some((step.clone(), build(is_member(node) || named, walk(schema, ty, node))?))
        };
        children(node).filter_map(below).collect()
    }
    FieldSet(walk(schema, ty, &set.0))
}

/// The step to an element of a list that is not atomic.
pub(super) fn element_step(schema: &Schema, list: &ListType, element: &Value) -> Result<String, FieldsError> {
    let keys = match &list.kind {
        ListKind::Map { keys } => keys,
        _ => return value_step(element),
    };
    let Some(map) = element.as_object() else {
        let what = if element.is_null() { "a null element" } else { "non-map elements" };
        return Err(FieldsError(format!("associative list with keys may not have {what}")));
    };
    let mut parts: Vec<(&str, &Value)> = Vec::with_capacity(keys.len());
    for key in keys {
        let default = || match &list.elem {
            Type::Struct(id) => schema.get(*id).field(key).and_then(|field| field.default.as_ref()),
            _ => None,
        };
        if let Some(value) = map.get(key).filter(|value| !value.is_null()).or_else(default) {
            parts.push((key, value));
        }
    }
    if parts.is_empty() {
        let keys: Vec<String> = keys.iter().map(|key| crate::go::quote(key)).collect();
        return Err(FieldsError(format!(
            "associative list with keys has an element that omits all key fields [{}] (and doesn't have default values for any key fields)",
            keys.join(" ")
        )));
    }
    parts.sort_unstable_by_key(|(key, _)| *key);
    Ok(key_step(&parts))
}

fn key_step(parts: &[(&str, &Value)]) -> String {
    let mut step = String::from("k:{");
    for (i, (key, value)) in parts.iter().enumerate() {
        if i > 0 {
            step.push(',');
        }
        push_json_text(&mut step, key);
        step.push(':');
        match value {
            Value::String(text) => push_json_text(&mut step, text),
            other => step.push_str(&other.to_string()),
        }
    }
    step.push('}');
    step
}

fn push_json_text(out: &mut String, text: &str) {
    if text.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'"' && b != b'\\') {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        out.push_str(&Value::from(text).to_string());
    }
}

fn value_step(value: &Value) -> Result<String, FieldsError> {
    let wrong = match value {
        Value::Object(_) => "associative list without keys has an element that's a map type",
        Value::Array(_) => "not supported: associative list with lists as elements",
        Value::Null => "associative list without keys has an element that's an explicit null",
        Value::String(text) => {
            let mut step = String::from("v:");
            push_json_text(&mut step, text);
            return Ok(step);
        }
        other => return Ok(format!("v:{other}")),
    };
    Err(FieldsError(wrong.to_owned()))
}

fn canonical(map: &Node) -> Result<Node, FieldsError> {
    let mut result = Node::new();
    for (step, node) in map {
        let Some(node) = node.as_object() else {
            return Err(FieldsError(format!("the value of {} must be an object", crate::go::quote(step))));
        };
        if step == SELF {
            result.insert(SELF.to_owned(), Value::Object(Node::new()));
            continue;
        }
        let Some((kind, rest)) = step.split_once(':') else {
            return Err(FieldsError(format!("missing colon: {step}")));
        };
        let step = match kind {
            "f" | "i" => step.clone(),
            "k" | "v" if is_canonical(rest) => step.clone(),
            "k" | "v" => {
                let value: Value =
                    serde_json::from_str(rest).map_err(|error| FieldsError(format!("{step}: {error}")))?;
                format!("{kind}:{value}")
            }
            _ => continue,
        };
        let mut node = canonical(node)?;
        if node.len() == 1 && node.contains_key(SELF) {
            node.clear();
        }
        result.insert(step, Value::Object(node));
    }
    Ok(result)
}

/// Whether the JSON of a step is surely as we write it: no blanks and escapes, and at most one key.
fn is_canonical(json: &str) -> bool {
    !json.bytes().any(|b| b.is_ascii_whitespace() || b == b'\\') && json.matches("\":").count() <= 1
}

fn list_paths(node: &Node, prefix: &mut String, paths: &mut Vec<String>) {
    for (step, node) in children(node) {
        let node = as_node(node);
        let length = prefix.len();
        push_step(prefix, step);
        if is_member(node) {
            paths.push(prefix.clone());
        }
        list_paths(node, prefix, paths);
        prefix.truncate(length);
    }
}

/// A step as it stands in a printed path.
pub(super) fn push_step(out: &mut String, step: &str) {
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap_or(Value::Null);
    match step.split_once(':') {
        Some(("f", name)) => {
            out.push('.');
            out.push_str(name);
        }
        Some(("k", keys)) => {
            let keys = json(keys);
            let keys: Vec<String> = keys
                .as_object()
                .into_iter()
                .flatten()
                .map(|(key, value)| format!("{key}={}", shown(value)))
                .collect();
            out.push_str(&format!("[{}]", keys.join(",")));
        }
        Some(("v", value)) => out.push_str(&format!("[={}]", shown(&json(value)))),
        Some((_, other)) => out.push_str(&format!("[{other}]")),
        None => out.push_str(step),
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => crate::go::quote(text),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(value: Value) -> FieldSet {
        FieldSet::from_fields_v1(&value).unwrap()
    }

    #[test]
    fn sets_are_computed_with() {
        let a = json!({"f:a": {}, "f:b": {".": {}, "f:c": {}}, "f:d": {"f:e": {}}});
        let b = json!({"f:b": {"f:c": {}, "f:x": {}}, "f:d": {}});
        let (a, b) = (set(a), set(b));
        assert_eq!(
            a.union(&b).to_fields_v1(),
            json!({"f:a": {}, "f:b": {".": {}, "f:c": {}, "f:x": {}}, "f:d": {".": {}, "f:e": {}}})
        );
        assert_eq!(a.intersection(&b).to_fields_v1(), json!({"f:b": {"f:c": {}}}));
        assert_eq!(a.difference(&b).to_fields_v1(), json!({"f:a": {}, "f:b": {}, "f:d": {"f:e": {}}}));
        assert_eq!(b.difference(&a).to_fields_v1(), json!({"f:b": {"f:x": {}}, "f:d": {}}));
        assert!(a.difference(&a).is_empty());
        assert!(a.has(&["f:b"]) && a.has(&["f:d", "f:e"]) && !a.has(&["f:d"]));
    }

    #[test]
    fn keys_are_brought_into_one_form() {
        let odd = json!({"k:{\"protocol\": \"TCP\", \"containerPort\": 80}": {".": {}}, "v:\"\\u0061\"": {}, "x:1": {}});
        assert_eq!(
            set(odd).to_fields_v1(),
            json!({"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {}, "v:\"a\"": {}})
        );
        assert!(FieldSet::from_fields_v1(&json!({"spec": {}})).is_err());
        assert!(FieldSet::from_fields_v1(&json!({"f:spec": 1})).is_err());
    }

    #[test]
    fn paths_print_as_upstream() {
        let fields = json!({"f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {".": {}, "f:image": {}}},
            "f:finalizers": {"v:\"x\"": {}}, "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {}}}});
        assert_eq!(
            set(fields).paths(),
            [
                ".spec.containers[name=\"a\"]",
                ".spec.containers[name=\"a\"].image",
                ".spec.finalizers[=\"x\"]",
                ".spec.ports[containerPort=80,protocol=\"TCP\"]",
            ]
        );
    }

    #[test]
    fn nodes_are_grafted() {
        let mut root = Node::new();
        graft(&mut root, &["f:a", "f:b"], Node::new());
        graft(&mut root, &["f:a"], Node::new());
        graft(&mut root, &["f:c"], Node::new());
        graft(&mut root, &["f:c", "f:d"], Node::new());
        assert_eq!(Value::Object(root), json!({"f:a": {".": {}, "f:b": {}}, "f:c": {".": {}, "f:d": {}}}));
    }
}
