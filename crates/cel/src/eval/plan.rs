//! From a checked expression to steps. What is constant is computed here, exactly where upstream does so, since
//! constants cost nothing.

use super::node::*;
use super::run::Run;
use crate::bindings::Bindings;
use crate::check::types::Type;
use crate::check::{Checked, Reference};
use crate::cost;
use crate::cost::runtime::rule;
use crate::decl::escape;
use crate::error::EvalError;
use crate::lib_fns::{self, pattern};
use crate::syntax::ast::{self, Comprehension, Expr, Kind, Literal, op};
use crate::value::{Text, Value};
use std::sync::Arc;

/// A program's steps and how many variables its folds need.
pub(crate) fn plan(checked: &Checked) -> Result<(Node, usize), EvalError> {
    let mut planner = Planner { checked, locals: Vec::new(), most: 0 };
    let root = planner.node(&checked.root)?;
    Ok((root, planner.most))
}

struct Planner<'c> {
    checked: &'c Checked,
    /// Names of the variables of the folds around, by their place.
    locals: Vec<Arc<str>>,
    most: usize,
}

type Planned = Result<Node, EvalError>;

impl Planner<'_> {
    fn node(&mut self, expr: &Expr) -> Planned {
        match &expr.kind {
            Kind::Unspecified => Err(EvalError::new("unsupported expression")),
            Kind::Literal(literal) => Ok(Node::Const(constant(literal))),
            Kind::Ident(name) => self.ident(expr, name),
            Kind::Select { operand, field, test_only } => self.select(operand, field, *test_only),
            Kind::Call { function, target, args } => self.call(expr, function, target.as_deref(), args),
            Kind::List(elements) => self.list(elements),
            Kind::Map(entries) => self.map(entries),
            Kind::Struct { name, fields } => {
                let mut items = Vec::with_capacity(fields.len());
                for field in fields {
                    let value = self.node(&field.value)?;
                    items.push(ObjectItem { name: field.name.clone(), value, optional: field.optional });
                }
                Ok(Node::Object { type_name: name.clone(), fields: items.into() })
            }
            Kind::Comprehension(fold) => self.fold(fold),
        }
    }

    fn local(&self, name: &str) -> Option<usize> {
        self.locals.iter().rposition(|local| &**local == name)
    }

    fn ident(&self, expr: &Expr, name: &Arc<str>) -> Planned {
        match self.checked.reference(expr) {
            // Types of declared data have a name but are no values.
            Some(Reference::Type(Type::Struct(name))) => {
                return Err(EvalError::new(format!("reference to undefined type: {name}")));
            }
            Some(Reference::Type(t)) => return Ok(Node::Const(Value::Type(Arc::new(t.clone())))),
            _ => {}
        }
        let root = match self.local(name) {
            Some(slot) => Root::Local(slot),
            None => Root::Variable(name.clone()),
        };
        Ok(Node::Attr(Box::new(Attr { root, qualifiers: Vec::new(), test_only: false })))
    }

    fn select(&mut self, operand: &Expr, field: &str, test_only: bool) -> Planned {
        let key = match self.checked.type_of(operand) {
            Type::Struct(name) if &**name == "Object" || name.starts_with("Object.") => {
                QualifierKey::ObjectField(field.into())
            }
            _ => field_key(field),
        };
        let operand = self.node(operand)?;
        let mut attr = into_attr(operand);
        push(&mut attr, Arc::new(Qualifier { key, optional: false }), test_only);
        Ok(Node::Attr(Box::new(attr)))
    }

    fn call(&mut self, expr: &Expr, function: &str, target: Option<&Expr>, args: &[Expr]) -> Planned {
        let (name, overloads) = match self.checked.reference(expr) {
            Some(Reference::Function(name, overloads)) => (*name, overloads.as_slice()),
            _ => return Err(EvalError::new(format!("no such overload: {function}"))),
        };
        let nodes: Result<Vec<Node>, EvalError> =
            target.into_iter().chain(args).map(|arg| self.node(arg)).collect();
        let mut nodes = nodes?;
        match name {
            op::AND => {
                return Ok(Node::And(flatten(nodes, |node| match node {
                    Node::And(terms) => Ok(terms),
                    other => Err(other),
                })));
            }
            op::OR => {
                return Ok(Node::Or(flatten(nodes, |node| match node {
                    Node::Or(terms) => Ok(terms),
                    other => Err(other),
                })));
            }
            _ => {}
        }
        if let (op::CONDITIONAL, 3) = (name, nodes.len()) {
            let (falsy, truthy) = (nodes.pop().map(into_attr), nodes.pop().map(into_attr));
            if let (Some(falsy), Some(truthy), Some(condition)) = (falsy, truthy, nodes.pop()) {
                let root = Root::Conditional(Box::new((condition, truthy, falsy)));
                return Ok(Node::Attr(Box::new(Attr { root, qualifiers: Vec::new(), test_only: false })));
            }
            return Err(EvalError::no_such_overload());
        }
        if nodes.len() == 2 {
            let (Some(second), Some(first)) = (nodes.pop(), nodes.pop()) else {
                return Err(EvalError::no_such_overload());
            };
            match self.binary(name, overloads, first, second)? {
                Ok(node) => return Ok(node),
                Err(pair) => nodes.extend(pair),
            }
        }
        if let (op::NOT_STRICTLY_FALSE, 1) = (name, nodes.len())
            && let Some(arg) = nodes.pop()
        {
            return Ok(Node::NotStrictlyFalse(Box::new(arg)));
        }
        if nodes.is_empty() {
            return match lib_fns::constant(name) {
                Some(value) => Ok(Node::Constant(value)),
                None => Err(EvalError::new(format!("no such overload: {name}()"))),
            };
        }
        self.function(name, overloads, nodes)
    }

    /// Operators that are steps of their own; else the operands come back.
    fn binary(
        &mut self,
        name: &'static str,
        overloads: &[&'static str],
        first: Node,
        second: Node,
    ) -> Result<Result<Node, [Node; 2]>, EvalError> {
        Ok(Ok(match name {
            op::EQUALS => Node::Equal { sides: Box::new((first, second)), negated: false },
            op::NOT_EQUALS => Node::Equal { sides: Box::new((first, second)), negated: true },
            op::INDEX | op::OPT_INDEX | op::OPT_SELECT => {
                let optional = name != op::INDEX;
                let key = match second {
                    Node::Const(Value::String(text)) => field_key(text.as_str()),
                    Node::Const(value) => QualifierKey::Const(value),
                    other => QualifierKey::Attr(into_attr(other)),
                };
                let mut attr = into_attr(first);
                push(&mut attr, Arc::new(Qualifier { key, optional }), false);
                Node::Attr(Box::new(attr))
            }
            "or" => Node::OptionalOr { sides: Box::new((first, second)), value: false },
            "orValue" => Node::OptionalOr { sides: Box::new((first, second)), value: true },
            "@in" if overloads == ["in_list"] => match set_of(&second) {
                Some(None) => Node::Const(Value::Bool(false)),
                Some(Some(set)) => Node::InSet(Box::new((first, set))),
                None => return Ok(Err([first, second])),
            },
            _ => return Ok(Err([first, second])),
        }))
    }

    fn function(&mut self, name: &'static str, overloads: &[&'static str], args: Vec<Node>) -> Planned {
        let overload = match overloads {
            [only] => only,
            _ => "",
        };
        let call = cost::Call { function: name, overload };
        if let Some(kind) = pattern_kind(name)
            && let Some(Node::Const(Value::String(text))) = args.get(1)
        {
            let regex = pattern::compile(text.as_str())?;
            return Ok(Node::Pattern(Box::new(PatternCall {
                kind,
                regex,
                args: args.into(),
                rule: rule(call),
            })));
        }
        let function = match name {
            "sum" => sum_of(overload),
            _ => {
                lib_fns::function(name).ok_or_else(|| EvalError::new(format!("no such overload: {name}")))?
            }
        };
        let singleton = is_singleton(name);
        let stops_early = args.len() > 2 || name == "format" || (overloads.len() > 1 && !singleton);
        let guarded = !singleton && !matches!(name, "contains" | "startsWith" | "endsWith" | "flatten");
        let constant = matches!(args[..], [Node::Const(_)]) && is_conversion(name);
        let node = Node::Call(Box::new(Call {
            name,
            function,
            args: args.into(),
            rule: rule(call),
            stops_early,
            guarded,
        }));
        if constant { evaluate(&node).map(Node::Const) } else { Ok(node) }
    }

    fn list(&mut self, elements: &[ast::Element]) -> Planned {
        let mut items = Vec::with_capacity(elements.len());
        for element in elements {
            items.push(Item { value: self.node(&element.value)?, optional: element.optional });
        }
        let constant = items.iter().all(|item| matches!(item.value, Node::Const(_)) && !item.optional);
        let node = Node::List(items.into());
        if constant { evaluate(&node).map(Node::Const) } else { Ok(node) }
    }

    fn map(&mut self, entries: &[ast::Entry]) -> Planned {
        let mut items = Vec::with_capacity(entries.len());
        for entry in entries {
            let key = self.node(&entry.key)?;
            items.push(MapItem { key, value: self.node(&entry.value)?, optional: entry.optional });
        }
        let constant = items.iter().all(|item| {
            matches!((&item.key, &item.value), (Node::Const(_), Node::Const(_))) && !item.optional
        });
        let node = Node::Map(items.into());
        if constant { evaluate(&node).map(Node::Const) } else { Ok(node) }
    }

    fn declare(&mut self, name: &Arc<str>) -> usize {
        self.locals.push(name.clone());
        self.most = self.most.max(self.locals.len());
        self.locals.len() - 1
    }

    fn fold(&mut self, fold: &Comprehension) -> Planned {
        let init = self.node(&fold.init)?;
        let range = self.node(&fold.range)?;
        let outside = self.locals.len();
        let accu = self.declare(&fold.accu);
        let var = self.declare(&fold.var);
        let var2 = fold.var2.as_ref().map(|name| self.declare(name));
        let condition = self.node(&fold.condition)?;
        let step = self.node(&fold.step)?;
        let accumulates = match &init {
            Node::Const(Value::List(list)) => list.len() == 0,
            Node::Const(Value::Map(map)) => map.len() == 0,
            _ => false,
        };
        let step = if accumulates { in_place(step, accu) } else { step };
        self.locals.truncate(accu + 1);
        let result = self.node(&fold.result)?;
        self.locals.truncate(outside);
        Ok(Node::Fold(Box::new(Fold { range, var, var2, accu, init, condition, step, result })))
    }
}

/// A step that adds to the accumulator, as one that does so without a copy.
fn in_place(step: Node, accu: usize) -> Node {
    let is_accu = |node: &Node| match node {
        Node::Attr(attr) => {
            matches!(attr.root, Root::Local(slot) if slot == accu)
                && attr.qualifiers.is_empty()
                && !attr.test_only
        }
        _ => false,
    };
    match step {
        Node::Call(call) if call.name == op::ADD && call.args.first().is_some_and(is_accu) => {
            let single = match &call.args[1] {
                Node::List(items) => items.len() == 1 && !items[0].optional,
                _ => false,
            };
            if !single {
                return Node::Call(call);
            }
            let mut args = call.args.into_vec();
            let Some(Node::List(items)) = args.pop() else { return Node::Const(Value::Null) };
            let element = items.into_vec().into_iter().next();
            match element {
                Some(item) => Node::Append { accu, element: Box::new(item.value) },
                None => Node::Const(Value::Null),
            }
        }
        Node::Call(call) if call.name == "cel.@mapInsert" && call.args.first().is_some_and(is_accu) => {
            let mut args = call.args.into_vec();
            args.remove(0);
            Node::Insert { accu, args: args.into() }
        }
        Node::Attr(attr) if attr.qualifiers.is_empty() && matches!(attr.root, Root::Conditional(_)) => {
            let Attr { root, qualifiers, test_only } = *attr;
            let Root::Conditional(parts) = root else { return Node::Const(Value::Null) };
            let (condition, mut truthy, falsy) = *parts;
            if let Root::Node(inner) = truthy.root {
                truthy.root = Root::Node(in_place(inner, accu));
            }
            let root = Root::Conditional(Box::new((condition, truthy, falsy)));
            Node::Attr(Box::new(Attr { root, qualifiers, test_only }))
        }
        other => other,
    }
}

fn constant(literal: &Literal) -> Value<'static> {
    match literal {
        Literal::Null => Value::Null,
        Literal::Bool(value) => Value::Bool(*value),
        Literal::Int(value) => Value::Int(*value),
        Literal::Uint(value) => Value::Uint(*value),
        Literal::Double(value) => Value::Double(*value),
        Literal::String(text) => Value::String(Text::Shared(text.clone())),
        Literal::Bytes(bytes) => Value::Bytes(bytes.clone()),
    }
}

/// The value of a step that needs nothing from outside, owned.
fn evaluate(node: &Node) -> Result<Value<'static>, EvalError> {
    let bindings = Bindings::new();
    let value = Run::new(&bindings, u64::MAX, 0).eval(node)?;
    Ok(owned(&value))
}

/// A constant without anything borrowed; constants are made of literals only.
fn owned(value: &Value<'_>) -> Value<'static> {
    match value {
        Value::Null => Value::Null,
        Value::Bool(value) => Value::Bool(*value),
        Value::Int(value) => Value::Int(*value),
        Value::Uint(value) => Value::Uint(*value),
        Value::Double(value) => Value::Double(*value),
        Value::String(text) => Value::text(text.as_str()),
        Value::Bytes(bytes) => Value::Bytes(bytes.clone()),
        Value::Duration(nanos) => Value::Duration(*nanos),
        Value::Timestamp(timestamp) => Value::Timestamp(*timestamp),
        Value::Type(t) => Value::Type(t.clone()),
        Value::List(list) => Value::list(list.iter().flatten().map(|item| owned(&item)).collect()),
        Value::Map(map) => {
            let mut copy = crate::value::Map::new();
            for (key, value) in map.entries() {
                if let (Some(key), Ok(value)) = (crate::value::Key::of(&owned(&key)), value) {
                    copy.insert(key, owned(&value));
                }
            }
            Value::map(copy)
        }
        Value::Opaque(opaque) => Value::Opaque(opaque.clone()),
        Value::Optional(value) => Value::Optional(value.as_ref().map(|value| Arc::new(owned(value)))),
        Value::Object(_) | Value::Preserved(_) | Value::Variables => Value::Null,
    }
}

fn field_key(identifier: &str) -> QualifierKey {
    let name = escape::unescape(identifier).map(|name| name.as_ref().into());
    QualifierKey::Field { identifier: identifier.into(), name }
}

/// A step as something to select from.
fn into_attr(node: Node) -> Attr {
    match node {
        Node::Attr(attr) if !attr.test_only => *attr,
        other => Attr { root: Root::Node(other), qualifiers: Vec::new(), test_only: false },
    }
}

/// Selections from one of two values are made from each.
fn push(attr: &mut Attr, qualifier: Arc<Qualifier>, test_only: bool) {
    attr.test_only = test_only;
    if let Root::Conditional(parts) = &mut attr.root {
        push(&mut parts.1, qualifier.clone(), test_only);
        push(&mut parts.2, qualifier, test_only);
    } else {
        attr.qualifiers.push(qualifier);
    }
}

fn flatten(nodes: Vec<Node>, unwrap: impl Fn(Node) -> Result<Box<[Node]>, Node>) -> Box<[Node]> {
    let mut terms = Vec::with_capacity(nodes.len());
    for node in nodes {
        match unwrap(node) {
            Ok(inner) => terms.extend(inner.into_vec()),
            Err(node) => terms.push(node),
        }
    }
    terms.into()
}

/// The members of a constant list; `Some(None)` for an empty one, none if it is not of simple values.
fn set_of(node: &Node) -> Option<Option<Set>> {
    let Node::Const(Value::List(list)) = node else { return None };
    let items: Vec<Value<'static>> = list.iter().flatten().map(|item| owned(&item)).collect();
    if items.is_empty() {
        return Some(None);
    }
    let simple = |item: &Value<'_>| {
        matches!(item, Value::Bool(_) | Value::Int(_) | Value::Uint(_) | Value::Double(_) | Value::String(_))
    };
    if !items.iter().all(simple) {
        return None;
    }
    let texts: Option<std::collections::HashSet<Arc<str>>> = items
        .iter()
        .map(|item| match item {
            Value::String(Text::Shared(text)) => Some(text.clone()),
            _ => None,
        })
        .collect();
    Some(Some(match texts {
        Some(texts) if texts.len() > 8 => Set::Texts(texts),
        _ => Set::Values(items),
    }))
}

fn pattern_kind(name: &str) -> Option<PatternKind> {
    match name {
        "matches" => Some(PatternKind::Matches),
        "find" => Some(PatternKind::Find),
        "findAll" => Some(PatternKind::FindAll),
        _ => None,
    }
}

/// The sum of nothing depends on the overload.
fn sum_of(overload: &str) -> lib_fns::Function {
    match overload {
        "list_uint_sum_uint" => |args| lib_fns::sum(args, "list_uint_sum_uint"),
        "list_double_sum_double" => |args| lib_fns::sum(args, "list_double_sum_double"),
        "list_duration_sum_duration" => |args| lib_fns::sum(args, "list_duration_sum_duration"),
        _ => |args| lib_fns::sum(args, ""),
    }
}

/// Functions with one implementation for all overloads.
fn is_singleton(name: &str) -> bool {
    name.starts_with(['_', '!', '-', '@']) || matches!(name, "size" | "type" | "dyn" | "matches" | "sort")
}

fn is_conversion(name: &str) -> bool {
    matches!(
        name,
        "bool" | "bytes" | "double" | "duration" | "dyn" | "int" | "string" | "timestamp" | "type" | "uint"
    )
}
