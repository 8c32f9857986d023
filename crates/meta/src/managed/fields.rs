//! The fields that a value is made of: those an applier mentions, those a new object brings, and those in which
//! two objects differ.

use super::FieldSet;
use super::set::{SELF, element_step, graft};
use crate::schema::{ListKind, ListType, Presence, Schema, StructType, Type};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

type Node = Map<String, Value>;

/// How a value of a type is owned.
#[derive(Clone, Copy)]
pub(super) enum Shape<'s> {
    /// As a whole.
    Leaf,
    /// Field by field.
    Struct(&'s StructType),
    /// Entry by entry.
    Map(&'s Type),
    /// Element by element.
    List(&'s ListType),
}

/// The shape of `value`; free-form values take it from what they are.
pub(super) fn shape<'s>(schema: &'s Schema, ty: &'s Type, atomic: bool, value: &Value) -> Shape<'s> {
    match ty {
        Type::Struct(id) => {
            let ty = schema.get(*id);
            if atomic || ty.atomic { Shape::Leaf } else { Shape::Struct(ty) }
        }
        Type::Map(elem) if !atomic => Shape::Map(elem),
        Type::List(list) if list.kind != ListKind::Atomic => Shape::List(list),
        Type::Any if value.is_object() && !atomic => Shape::Map(&Type::Any),
        _ => Shape::Leaf,
    }
}

/// What is known of a child: its type, whether it is owned as a whole, and the presence of a field that the
/// schema names.
#[derive(Clone, Copy)]
pub(super) struct Child<'s> {
    pub ty: &'s Type,
    pub atomic: bool,
    pub named: Option<Presence>,
}

impl<'s> Shape<'s> {
    pub(super) fn child(self, name: &str) -> Child<'s> {
        match self {
            Shape::Struct(ty) => match ty.field(name) {
                Some(field) => Child { ty: &field.ty, atomic: field.atomic, named: Some(field.presence) },
                None => Child { ty: ty.others.as_ref().unwrap_or(&Type::Any), atomic: false, named: None },
            },
            Shape::Map(elem) => Child { ty: elem, atomic: false, named: None },
            _ => Child { ty: &Type::Any, atomic: false, named: None },
        }
    }
}

fn step(name: &str) -> String {
    let mut step = String::with_capacity(name.len() + 2);
    step.push_str("f:");
    step.push_str(name);
    step
}

fn mark(node: &mut Node) {
    if !node.is_empty() {
        node.insert(SELF.to_owned(), Value::Object(Node::new()));
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Bool(is) => !is,
        Value::Number(number) => number.as_f64() == Some(0.0),
        other => is_empty(other),
    }
}

/// Elements of a list by step. Those that have none are left out; repeated ones are together.
fn by_step<'v>(schema: &Schema, list: &ListType, elements: &'v [Value]) -> BTreeMap<String, Vec<&'v Value>> {
    let mut result: BTreeMap<String, Vec<&Value>> = BTreeMap::new();
    for element in elements {
        if let Ok(step) = element_step(schema, list, element) {
            result.entry(step).or_default().push(element);
        }
    }
    result
}

/// The fields an applier mentions (structured-merge-diff's `ToFieldSet`).
pub(super) fn mentioned(schema: &Schema, ty: &Type, value: &Value) -> Node {
    mentioned_in(schema, ty, false, value).1
}

/// Whether the value itself is a member, and the members below it.
fn mentioned_in(schema: &Schema, ty: &Type, atomic: bool, value: &Value) -> (bool, Node) {
    let mut node = Node::new();
    let shape = shape(schema, ty, atomic, value);
    match (shape, value) {
        (Shape::Struct(_) | Shape::Map(_), Value::Object(map)) => {
            for (name, value) in map {
                let child = shape.child(name);
                let (mut member, mut below) = mentioned_in(schema, child.ty, child.atomic, value);
                member |=
                    value.is_null() || value.as_object().is_some_and(Map::is_empty) || child.named.is_none();
                if member {
                    mark(&mut below);
                }
                if member || !below.is_empty() {
                    node.insert(step(name), Value::Object(below));
                }
            }
            (false, node)
        }
        (Shape::List(list), Value::Array(elements)) => {
            for (step, elements) in by_step(schema, list, elements) {
                let mut below = match elements.as_slice() {
                    [one] => mentioned_in(schema, &list.elem, false, one).1,
                    _ => Node::new(),
                };
                mark(&mut below);
                node.insert(step, Value::Object(below));
            }
            (false, node)
        }
        (Shape::Leaf, _) => (true, node),
        _ => (false, node),
    }
}

/// The members that a value brings where there was none. With `implicit` there was one: the empty struct or zero
/// that Go has in a field which is no pointer; then only what differs from it counts. None if nothing counts.
pub(super) fn added(schema: &Schema, ty: &Type, atomic: bool, value: &Value, implicit: bool) -> Option<Node> {
    let mut node = Node::new();
    let shape = shape(schema, ty, atomic, value);
    match (shape, value) {
        (Shape::Struct(_) | Shape::Map(_), Value::Object(map)) => {
            for (name, value) in map {
                let child = shape.child(name);
                let implicit = implicit && child.named == Some(Presence::Always);
                if let Some(below) = added(schema, child.ty, child.atomic, value, implicit) {
                    node.insert(step(name), Value::Object(below));
                }
            }
        }
        (Shape::List(list), Value::Array(elements)) => {
            for (step, elements) in by_step(schema, list, elements) {
                let below = match elements.as_slice() {
                    [one] => added(schema, &list.elem, false, one, false).unwrap_or_default(),
                    _ => Node::new(),
                };
                node.insert(step, Value::Object(below));
            }
        }
        _ => return if implicit && is_zero(value) { None } else { Some(node) },
    }
    if implicit {
        return if node.is_empty() { None } else { Some(node) };
    }
    mark(&mut node);
    Some(node)
}

/// What two objects differ in.
#[derive(Debug, Default)]
pub(super) struct Difference {
    pub removed: FieldSet,
    pub modified: FieldSet,
    pub added: FieldSet,
}

/// Compares two objects of a type (structured-merge-diff's `Compare`).
pub(super) fn compare(schema: &Schema, ty: &Type, old: &Value, new: &Value) -> Difference {
    let mut comparer = Comparer { schema, difference: Difference::default() };
    comparer.both(ty, false, old, new, &Path { parent: None, step: "" });
    comparer.difference
}

/// The way to a value; it lives on the stack and is spelled out only where something differs.
struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: &'a str,
}

impl<'a> Path<'a> {
    fn below(&'a self, step: &'a str) -> Path<'a> {
        Path { parent: Some(self), step }
    }

    fn steps(&self) -> Vec<&str> {
        let mut steps = Vec::new();
        let mut at = self;
        while let Some(parent) = at.parent {
            steps.push(at.step);
            at = parent;
        }
        steps.reverse();
        steps
    }
}

struct Comparer<'s> {
    schema: &'s Schema,
    difference: Difference,
}

impl<'s> Comparer<'s> {
    fn one(&mut self, child: Child<'s>, old: Option<&Value>, new: Option<&Value>, path: &Path<'_>) {
        match (old, new) {
            (None, None) => {}
            (Some(old), Some(new)) => self.both(child.ty, child.atomic, old, new, path),
            (None, Some(new)) => {
                if let Some(node) = added(self.schema, child.ty, child.atomic, new, false) {
                    graft(&mut self.difference.added.0, &path.steps(), node);
                }
            }
            (Some(old), None) => {
                if let Some(node) = added(self.schema, child.ty, child.atomic, old, false) {
                    graft(&mut self.difference.removed.0, &path.steps(), node);
                }
            }
        }
    }

    fn modified(&mut self, path: &Path<'_>) {
        graft(&mut self.difference.modified.0, &path.steps(), Node::new());
    }

    fn both(&mut self, ty: &'s Type, atomic: bool, old: &Value, new: &Value, path: &Path<'_>) {
        if old == new {
            return;
        }
        // A null has the shape of its counterpart.
        let [old_shape, new_shape] = [(old, new), (new, old)].map(|(value, other)| {
            shape(self.schema, ty, atomic, if value.is_null() { other } else { value })
        });
        if is_empty(old) && is_empty(new) {
            return self.modified(path);
        }
        match (old_shape, new_shape) {
            (Shape::Struct(_), _) | (Shape::Map(_), Shape::Map(_)) => {
                self.entries(old_shape, old.as_object(), new.as_object(), path);
            }
            (Shape::List(list), _) => self.elements(list, old.as_array(), new.as_array(), path),
            // A free-form value that was a map, or is one now.
            (Shape::Map(_), _) => {
                self.entries(old_shape, old.as_object(), None, path);
                self.modified(path);
            }
            (_, Shape::Map(_)) => {
                self.entries(new_shape, None, new.as_object(), path);
                self.modified(path);
            }
            _ => self.modified(path),
        }
    }

    fn entries(&mut self, shape: Shape<'s>, old: Option<&Node>, new: Option<&Node>, path: &Path<'_>) {
        for (name, old) in old.into_iter().flatten() {
            let new = new.and_then(|new| new.get(name));
            if new != Some(old) {
                self.one(shape.child(name), Some(old), new, &path.below(&step(name)));
            }
        }
        for (name, new) in new.into_iter().flatten() {
            if old.is_none_or(|old| !old.contains_key(name)) {
                self.one(shape.child(name), None, Some(new), &path.below(&step(name)));
            }
        }
    }

    fn elements(
        &mut self,
        list: &'s ListType,
        old: Option<&Vec<Value>>,
        new: Option<&Vec<Value>>,
        path: &Path<'_>,
    ) {
        let old = by_step(self.schema, list, old.map_or(&[], Vec::as_slice));
        let new = by_step(self.schema, list, new.map_or(&[], Vec::as_slice));
        let child = Child { ty: &list.elem, atomic: false, named: None };
        for (step, old) in &old {
            let path = path.below(step);
            match (old.as_slice(), new.get(step).map_or(&[][..], Vec::as_slice)) {
                ([old], []) => self.one(child, Some(old), None, &path),
                ([old], [new]) => self.both(child.ty, false, old, new, &path),
                // An element that stands twice is owned as a whole.
                ([old], _) => {
                    self.one(child, Some(old), None, &path);
                    graft(&mut self.difference.added.0, &path.steps(), Node::new());
                }
                (_, []) => graft(&mut self.difference.removed.0, &path.steps(), Node::new()),
                (_, [new]) => {
                    self.one(child, None, Some(new), &path);
                    graft(&mut self.difference.removed.0, &path.steps(), Node::new());
                }
                (old, new) if old != new => self.modified(&path),
                _ => {}
            }
        }
        for (step, new) in new.iter().filter(|(step, _)| !old.contains_key(*step)) {
            let path = path.below(step);
            match new.as_slice() {
                [new] => self.one(child, None, Some(new), &path),
                _ => graft(&mut self.difference.added.0, &path.steps(), Node::new()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::testing::pod_like;
    use serde_json::json;

    #[test]
    fn an_applier_owns_what_it_mentions() {
        let (schema, ty) = pod_like();
        let applied = json!({"metadata": {"labels": {"a": "1"}, "annotations": {}, "finalizers": ["x"]},
            "spec": {"replicas": 1, "strategy": {"type": "x"}, "tolerations": [{"key": "a"}], "selector": {"a": "b"},
                "containers": [{"name": "a", "image": "b", "args": ["x"], "ports": [{"containerPort": 80}],
                    "resources": {}}],
                "extra": {"a": {"b": [1]}}, "volumes": []}});
        assert_eq!(
            FieldSet::of(&schema, &ty, &applied).to_fields_v1(),
            json!({
                "f:metadata": {"f:labels": {"f:a": {}}, "f:annotations": {}, "f:finalizers": {"v:\"x\"": {}}},
                "f:spec": {"f:replicas": {}, "f:strategy": {"f:type": {}}, "f:tolerations": {}, "f:selector": {},
                    "f:containers": {"k:{\"name\":\"a\"}": {".": {}, "f:name": {}, "f:image": {}, "f:args": {},
                        "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}},
                        "f:resources": {}}},
                    "f:extra": {"f:a": {".": {}, "f:b": {}}}}
            })
        );
    }

    #[test]
    fn a_new_object_brings_its_fields() {
        let (schema, ty) = pod_like();
        let object = json!({"metadata": {"name": "a", "labels": {"a": "1"}},
            "spec": {"replicas": 1, "containers": [{"name": "a", "resources": {"deep": {}}}]}, "status": {}});
        assert_eq!(
            Value::Object(added(&schema, &ty, false, &object, true).unwrap()),
            json!({"f:metadata": {"f:name": {}, "f:labels": {".": {}, "f:a": {}}},
                "f:spec": {".": {}, "f:replicas": {}, "f:containers": {".": {},
                    "k:{\"name\":\"a\"}": {".": {}, "f:name": {}, "f:resources": {".": {}, "f:deep": {}}}}}})
        );
    }

    #[test]
    fn objects_are_compared() {
        let (schema, ty) = pod_like();
        for (what, old, new, removed, modified, added) in [
            (
                "scalars",
                json!({"spec": {"replicas": 1, "seconds": 2}}),
                json!({"spec": {"replicas": 2, "ratio": 1}}),
                json!({"f:spec": {"f:seconds": {}}}),
                json!({"f:spec": {"f:replicas": {}}}),
                json!({"f:spec": {"f:ratio": {}}}),
            ),
            (
                "elements",
                json!({"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b"}]}}),
                json!({"spec": {"containers": [{"name": "c"}, {"name": "a", "image": "2"}]}}),
                json!({"f:spec": {"f:containers": {"k:{\"name\":\"b\"}": {".": {}, "f:name": {}}}}}),
                json!({"f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {"f:image": {}}}}}),
                json!({"f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:name": {}}}}}),
            ),
            (
                "order of elements",
                json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}}),
                json!({"spec": {"containers": [{"name": "b"}, {"name": "a"}]}}),
                json!({}),
                json!({}),
                json!({}),
            ),
            (
                "sets",
                json!({"metadata": {"finalizers": ["a", "b"]}}),
                json!({"metadata": {"finalizers": ["b", "c"]}}),
                json!({"f:metadata": {"f:finalizers": {"v:\"a\"": {}}}}),
                json!({}),
                json!({"f:metadata": {"f:finalizers": {"v:\"c\"": {}}}}),
            ),
            (
                "atomic values",
                json!({"spec": {"selector": {"a": "b"}, "tolerations": [{"key": "a"}]}}),
                json!({"spec": {"selector": {"a": "c"}, "tolerations": []}}),
                json!({}),
                json!({"f:spec": {"f:selector": {}, "f:tolerations": {}}}),
                json!({}),
            ),
            (
                "a map appears",
                json!({"metadata": {}}),
                json!({"metadata": {"labels": {"a": "b"}}}),
                json!({}),
                json!({}),
                json!({"f:metadata": {"f:labels": {".": {}, "f:a": {}}}}),
            ),
            (
                "a free-form value changes its kind",
                json!({"spec": {"extra": {"a": 1}}}),
                json!({"spec": {"extra": [1]}}),
                json!({"f:spec": {"f:extra": {"f:a": {}}}}),
                json!({"f:spec": {"f:extra": {}}}),
                json!({}),
            ),
            (
                "an element is doubled",
                json!({"spec": {"containers": [{"name": "a"}]}}),
                json!({"spec": {"containers": [{"name": "a"}, {"name": "a"}]}}),
                json!({"f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {".": {}, "f:name": {}}}}}),
                json!({}),
                json!({"f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {}}}}),
            ),
        ] {
            let got = compare(&schema, &ty, &old, &new);
            let got = [got.removed, got.modified, got.added].map(FieldSet::into_fields_v1);
            assert_eq!(got, [removed, modified, added], "{what}");
        }
    }
}
