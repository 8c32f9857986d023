//! Running steps, with the cost counted as upstream counts it.

use super::node::*;
use crate::bindings::Bindings;
use crate::cost::runtime;
use crate::cost::{LIST, MAP, OBJECT};
use crate::error::EvalError;
use crate::lib_fns::{Outcome, plain, strings};
use crate::value::{Key, Map, Object, ObjectValue, Text, Value, equal};
use std::collections::BTreeMap;
use std::sync::Arc;

/// One run of a program.
pub(crate) struct Run<'a, 'b> {
    pub bindings: &'b Bindings<'a>,
    pub cost: u64,
    limit: u64,
    pub locals: Vec<Slot<'a>>,
}

/// A variable of a fold.
pub(crate) enum Slot<'a> {
    Empty,
    /// An accumulator that nothing asked for yet.
    Lazy(&'a Node),
    Set(Outcome<'a>),
}

impl<'a, 'b> Run<'a, 'b> {
    pub fn new(bindings: &'b Bindings<'a>, limit: u64, locals: usize) -> Self {
        let mut slots = Vec::new();
        slots.resize_with(locals, || Slot::Empty);
        Self { bindings, cost: 0, limit, locals: slots }
    }

    /// Counts a cost; beyond the limit the run ends.
    pub fn charge(&mut self, cost: u64) -> Result<(), EvalError> {
        self.cost = self.cost.saturating_add(cost);
        if self.cost > self.limit { Err(EvalError::cost_exceeded()) } else { Ok(()) }
    }

    pub fn eval(&mut self, node: &'a Node) -> Outcome<'a> {
        match node {
            Node::Const(value) => Ok(borrowed(value)),
            Node::Constant(value) => {
                self.charge(1)?;
                Ok(value.clone())
            }
            Node::Attr(attr) => self.attribute(attr),
            Node::And(terms) => self.logical(terms, false),
            Node::Or(terms) => self.logical(terms, true),
            Node::Equal { sides, negated } => self.equality(&sides.0, &sides.1, *negated),
            Node::InSet(parts) => {
                let value = self.eval(&parts.0)?;
                Ok(Value::Bool(match &parts.1 {
                    Set::Texts(texts) => value.as_str().is_some_and(|text| texts.contains(text)),
                    Set::Values(values) => values.iter().any(|member| equal(member, &value) == Ok(true)),
                }))
            }
            Node::NotStrictlyFalse(inner) => {
                let value = self.absorbed(inner)?;
                self.charge(1)?;
                Ok(match value {
                    Ok(Value::Bool(value)) => Value::Bool(value),
                    _ => Value::Bool(true),
                })
            }
            Node::Call(call) => self.call(call),
            Node::Pattern(call) => self.pattern(call),
            Node::OptionalOr { sides, value } => match self.eval(&sides.0)? {
                Value::Optional(Some(inner)) if *value => Ok((*inner).clone()),
                Value::Optional(None) => self.eval(&sides.1),
                other => Ok(other),
            },
            Node::List(items) => {
                let list = self.list(items);
                self.finish(list, LIST)
            }
            Node::Map(items) => {
                let map = self.map(items);
                self.finish(map, MAP)
            }
            Node::Object { type_name, fields } => {
                let object = self.object(type_name, fields);
                self.finish(object, OBJECT)
            }
            Node::Fold(fold) => self.fold(fold),
            Node::Append { accu, element } => self.append(*accu, element),
            Node::Insert { accu, args } => self.insert(*accu, args),
        }
    }

    /// A value or an error that can be absorbed; what cannot ends the run.
    pub fn absorbed(&mut self, node: &'a Node) -> Result<Outcome<'a>, EvalError> {
        match self.eval(node) {
            Err(error) if error.is_cost_exceeded() => Err(error),
            outcome => Ok(outcome),
        }
    }

    /// Counts what was made, whether or not it could be made.
    fn finish(&mut self, outcome: Outcome<'a>, cost: u64) -> Outcome<'a> {
        if let Err(error) = &outcome
            && error.is_cost_exceeded()
        {
            return outcome;
        }
        self.charge(cost)?;
        outcome
    }

    fn logical(&mut self, terms: &'a [Node], decisive: bool) -> Outcome<'a> {
        let mut problem = None;
        for term in terms {
            match self.absorbed(term)? {
                Ok(Value::Bool(value)) if value == decisive => return Ok(Value::Bool(decisive)),
                Ok(Value::Bool(_)) => {}
                Ok(_) => problem = problem.or_else(|| Some(EvalError::no_such_overload())),
                Err(error) => problem = problem.or(Some(error)),
            }
        }
        match problem {
            Some(problem) => Err(problem),
            None => Ok(Value::Bool(!decisive)),
        }
    }

    fn equality(&mut self, left: &'a Node, right: &'a Node, negated: bool) -> Outcome<'a> {
        let left = self.absorbed(left)?;
        let right = self.absorbed(right)?;
        match (left, right) {
            (Ok(left), Ok(right)) => {
                self.charge(runtime::equality(&left, &right, negated))?;
                match equal(&left, &right) {
                    Ok(same) => Ok(Value::Bool(same != negated)),
                    // What cannot be compared is not equal.
                    Err(_) if negated => Ok(Value::Bool(true)),
                    Err(error) => Err(error),
                }
            }
            (left, right) => {
                let blank = Value::Null;
                let cost = runtime::equality(
                    left.as_ref().unwrap_or(&blank),
                    right.as_ref().unwrap_or(&blank),
                    negated,
                );
                self.charge(cost)?;
                Err(left.err().or(right.err()).unwrap_or_else(EvalError::no_such_overload))
            }
        }
    }

    /// Evaluates arguments into `args`. An argument that fails leaves a null; whether all were evaluated, and the
    /// first error.
    fn arguments(
        &mut self,
        nodes: &'a [Node],
        args: &mut [Value<'a>],
        stops_early: bool,
    ) -> Result<Option<(EvalError, bool)>, EvalError> {
        let mut problem = None;
        for (index, node) in nodes.iter().enumerate() {
            match self.absorbed(node)? {
                Ok(value) => args[index] = value,
                Err(error) => {
                    problem = problem.or(Some(error));
                    if stops_early {
                        return Ok(problem.map(|problem| (problem, index + 1 == nodes.len())));
                    }
                }
            }
        }
        Ok(problem.map(|problem| (problem, true)))
    }

    fn call(&mut self, call: &'a Call) -> Outcome<'a> {
        // Arguments live on the stack; no function has more than four.
        match call.args.len() {
            1 => self.call_with(call, &mut [Value::Null]),
            2 => self.call_with(call, &mut [Value::Null, Value::Null]),
            3 => self.call_with(call, &mut [Value::Null, Value::Null, Value::Null]),
            count => {
                let mut args = vec![Value::Null; count];
                self.call_with(call, &mut args)
            }
        }
    }

    fn call_with(&mut self, call: &'a Call, args: &mut [Value<'a>]) -> Outcome<'a> {
        if let Some((error, complete)) = self.arguments(&call.args, args, call.stops_early)? {
            if complete {
                self.charge(runtime::cost(call.rule, args, None))?;
            }
            return Err(error);
        }
        let outcome = (call.function)(args);
        self.charge(runtime::cost(call.rule, args, outcome.as_ref().ok()))?;
        match outcome {
            Err(error) if call.guarded && error.is_no_such_overload() => {
                let types: Vec<&str> = args.iter().map(Value::type_name).collect();
                Err(EvalError::new(format!("no such overload: {}({})", call.name, types.join(", "))))
            }
            outcome => outcome,
        }
    }

    fn pattern(&mut self, call: &'a PatternCall) -> Outcome<'a> {
        let mut args = [Value::Null, Value::Null, Value::Null];
        let args = &mut args[..call.args.len()];
        if let Some((error, complete)) = self.arguments(&call.args, args, true)? {
            if complete {
                self.charge(runtime::cost(call.rule, args, None))?;
            }
            return Err(error);
        }
        let limit = match args.get(2) {
            Some(Value::Int(limit)) => Ok(Some(*limit)),
            Some(_) => Err(EvalError::no_such_overload()),
            None => Ok(None),
        };
        let outcome = match (&args[0], limit) {
            (Value::String(text), Ok(limit)) => Ok(match call.kind {
                PatternKind::Matches => Value::Bool(call.regex.is_match(text.as_str())),
                PatternKind::Find => strings::find_with(&call.regex, text),
                PatternKind::FindAll => strings::find_all_with(&call.regex, text, limit),
            }),
            _ => Err(EvalError::no_such_overload()),
        };
        self.charge(runtime::cost(call.rule, args, outcome.as_ref().ok()))?;
        outcome
    }

    fn list(&mut self, items: &'a [Item]) -> Outcome<'a> {
        let mut values = Vec::with_capacity(items.len());
        for item in items {
            let value = self.eval(&item.value)?;
            match (item.optional, value) {
                (false, value) => values.push(value),
                (true, Value::Optional(value)) => values.extend(value.map(|value| (*value).clone())),
                (true, other) => {
                    let shown = plain(&other);
                    return Err(EvalError::new(format!(
                        "cannot initialize optional list element from non-optional value {shown}"
                    )));
                }
            }
        }
        Ok(Value::list(values))
    }

    fn map(&mut self, items: &'a [MapItem]) -> Outcome<'a> {
        let mut map = Map::new();
        for item in items {
            let key = self.eval(&item.key)?;
            let value = self.eval(&item.value)?;
            let Some(place) = Key::of(&key) else {
                return Err(EvalError::new(format!("unsupported key type: {}", key.type_name())));
            };
            match (item.optional, value) {
                (false, value) => {
                    map.insert(place, value);
                }
                (true, Value::Optional(Some(value))) => {
                    map.insert(place, (*value).clone());
                }
                (true, Value::Optional(None)) => {
                    map.remove(&place);
                }
                (true, other) => return Err(not_optional(&plain(&key), &other)),
            }
        }
        Ok(Value::map(map))
    }

    fn object(&mut self, type_name: &Arc<str>, items: &'a [ObjectItem]) -> Outcome<'a> {
        let mut fields = BTreeMap::new();
        for item in items {
            let value = self.eval(&item.value)?;
            match (item.optional, value) {
                (false, value) => {
                    fields.insert(item.name.clone(), value);
                }
                (true, Value::Optional(Some(value))) => {
                    fields.insert(item.name.clone(), (*value).clone());
                }
                (true, Value::Optional(None)) => {
                    fields.remove(&item.name);
                }
                (true, other) => return Err(not_optional(&item.name, &other)),
            }
        }
        Ok(Value::Object(Arc::new(ObjectValue(Object::new(type_name.clone(), fields)?))))
    }
}

fn not_optional(field: &str, value: &Value<'_>) -> EvalError {
    let shown = plain(value);
    EvalError::new(format!("cannot initialize optional entry '{field}' from non-optional value {shown}"))
}

/// A constant without counting references to its text.
fn borrowed<'a>(value: &'a Value<'static>) -> Value<'a> {
    match value {
        Value::String(text) => Value::String(Text::Borrowed(text.as_str())),
        other => other.clone(),
    }
}
