//! Variables and values with selections: `a.b[c].?d`.

use super::node::*;
use super::run::{Run, Slot};
use crate::error::EvalError;
use crate::lib_fns::{Outcome, number, plain};
use crate::value::Value;

/// Whether something is there, and what.
type Found<'a> = Result<Option<Value<'a>>, EvalError>;

impl<'a> Run<'a, '_> {
    /// An attribute as a step: its value, and what the step itself costs.
    pub(super) fn attribute(&mut self, attr: &'a Attr) -> Outcome<'a> {
        let outcome = self.resolve(attr);
        if let Err(error) = &outcome
            && error.is_cost_exceeded()
        {
            return outcome;
        }
        match (&attr.root, attr.test_only) {
            // A choice costs nothing, and a presence test gives back what its selection cost.
            (Root::Conditional(_), true) => self.cost = self.cost.saturating_sub(1),
            (Root::Conditional(_), false) | (_, true) => {}
            _ => self.charge(1)?,
        }
        let value = outcome?;
        Ok(match value {
            Value::Optional(value) if attr.test_only => Value::Bool(value.is_some()),
            value => value,
        })
    }

    /// An attribute's value, without the cost of the step.
    fn resolve(&mut self, attr: &'a Attr) -> Outcome<'a> {
        let root = match &attr.root {
            Root::Variable(name) => match self.bindings.get(name) {
                Some(value) => value.clone(),
                None => return Err(EvalError::new(format!("no such attribute(s): {name}"))),
            },
            Root::Local(slot) => self.local(*slot)?,
            Root::Node(node) => self.eval(node)?,
            Root::Conditional(parts) => {
                return match self.eval(&parts.0)? {
                    Value::Bool(true) => self.resolve(&parts.1),
                    Value::Bool(false) => self.resolve(&parts.2),
                    _ => Err(EvalError::no_such_overload()),
                };
            }
        };
        if attr.qualifiers.is_empty() {
            return Ok(root);
        }
        self.qualify(root, attr)
    }

    /// The value of a fold's variable; an accumulator is made when first asked for.
    pub(super) fn local(&mut self, slot: usize) -> Outcome<'a> {
        match &self.locals[slot] {
            Slot::Set(outcome) => outcome.clone(),
            Slot::Lazy(init) => {
                let init: &'a Node = init;
                let outcome = self.eval(init);
                self.locals[slot] = Slot::Set(outcome.clone());
                outcome
            }
            Slot::Empty => Err(EvalError::new("no such attribute(s)")),
        }
    }

    fn qualify(&mut self, root: Value<'a>, attr: &'a Attr) -> Outcome<'a> {
        let (mut value, mut optional) = match root {
            Value::Optional(None) => return Ok(Value::none()),
            Value::Optional(Some(inner)) => ((*inner).clone(), true),
            other => (other, false),
        };
        let last = attr.qualifiers.len() - 1;
        for (index, qualifier) in attr.qualifiers.iter().enumerate() {
            let qualifier: &'a Qualifier = qualifier;
            let test = attr.test_only && index == last;
            optional = optional || qualifier.optional;
            if optional {
                let found =
                    if test { self.test(&value, qualifier)? } else { self.find(&value, qualifier, true)? };
                let Some(found) = found else { return Ok(Value::none()) };
                self.charge(1)?;
                value = found;
                continue;
            }
            let found = if test {
                self.test(&value, qualifier).map(|found| Some(Value::Bool(found.is_some())))
            } else {
                self.find(&value, qualifier, false)
            };
            if let Err(error) = &found
                && error.is_cost_exceeded()
            {
                return Err(error.clone());
            }
            self.charge(1)?;
            value = match found? {
                Some(found) => found,
                None => return Err(EvalError::no_such_overload()),
            };
        }
        Ok(if optional { Value::some(value) } else { value })
    }

    /// Whether a field is there, for `has()`; its value does not matter.
    fn test(&mut self, value: &Value<'a>, qualifier: &'a Qualifier) -> Found<'a> {
        match (value, &qualifier.key) {
            (Value::Object(object), QualifierKey::ObjectField(name)) => {
                return Ok(object.0.has(name).then_some(Value::Null));
            }
            (Value::Object(object), QualifierKey::Field { identifier, .. }) if object.0.is_json_patch() => {
                return Ok(object.0.has(identifier).then_some(Value::Null));
            }
            _ => {}
        }
        self.find(value, qualifier, true)
    }

    /// What is selected. With `presence`, what is not there is none; else it is an error.
    fn find(&mut self, value: &Value<'a>, qualifier: &'a Qualifier, presence: bool) -> Found<'a> {
        match &qualifier.key {
            QualifierKey::Field { identifier, name } => {
                let found = match value {
                    Value::Map(map) => map.find_field(identifier, name.as_deref()).transpose()?,
                    Value::Object(object) if object.0.is_json_patch() => object.0.get(identifier),
                    Value::Variables => self.bindings.variable(identifier).transpose()?,
                    Value::List(_) => return Err(EvalError::new("unsupported index type 'string' in list")),
                    _ => None,
                };
                match found {
                    None if presence => Ok(None),
                    None => Err(EvalError::new(format!("no such key: {identifier}"))),
                    found => Ok(found),
                }
            }
            // A field of an object that is known to be one is null when it is not set.
            QualifierKey::ObjectField(name) => match value {
                Value::Object(object) if presence => Ok(object.0.get(name)),
                Value::Object(object) => Ok(Some(object.0.get(name).unwrap_or(Value::Null))),
                _ if presence => Ok(None),
                _ => Err(EvalError::new(format!("cannot get field {name:?}"))),
            },
            QualifierKey::Const(key) => find_key(value, key.clone(), presence),
            QualifierKey::Attr(attr) => {
                let key = self.resolve(attr)?;
                match key {
                    Value::String(_) | Value::Int(_) | Value::Uint(_) | Value::Bool(_) | Value::Double(_) => {
                        if let (Value::Variables, Some(name)) = (value, key.as_str()) {
                            let found = self.bindings.variable(name).transpose()?;
                            return match found {
                                None if !presence => Err(EvalError::new(format!("no such key: {name}"))),
                                found => Ok(found),
                            };
                        }
                        find_key(value, key, presence)
                    }
                    other => Err(EvalError::new(format!("invalid qualifier type: {}", other.go_type()))),
                }
            }
        }
    }
}

/// The index that a key of a list is.
fn index(key: &Value<'_>) -> Result<i64, EvalError> {
    let unsupported = || EvalError::new(format!("unsupported index value {} in list", plain(key)));
    match key {
        Value::Int(index) => Ok(*index),
        Value::Uint(index) => i64::try_from(*index).map_err(|_| unsupported()),
        Value::Double(index) => number::whole_int(*index).ok_or_else(unsupported),
        other => Err(EvalError::new(format!("unsupported index type '{}' in list", other.type_name()))),
    }
}

fn find_key<'a>(value: &Value<'a>, key: Value<'a>, presence: bool) -> Found<'a> {
    match value {
        Value::List(list) => {
            let at = index(&key)?;
            match usize::try_from(at).ok().and_then(|at| list.get(at)) {
                Some(item) => item.map(Some),
                None if presence => Ok(None),
                None => Err(EvalError::new(format!("index out of bounds: {}", plain(&key)))),
            }
        }
        Value::Map(map) => match map.find(&key) {
            Some(found) => found.map(Some),
            None if presence => Ok(None),
            None => Err(EvalError::new(format!("no such key: {}", plain(&key)))),
        },
        Value::Object(object) if object.0.is_json_patch() => {
            match key.as_str().and_then(|name| object.0.get(name)) {
                Some(found) => Ok(Some(found)),
                None if presence => Ok(None),
                None => Err(EvalError::new(format!("no such key: {}", plain(&key)))),
            }
        }
        _ if presence => Ok(None),
        _ => Err(EvalError::new(format!("no such key: {}", plain(&key)))),
    }
}
