//! Folds: what macros that iterate become.

use super::node::*;
use super::run::{Run, Slot};
use crate::cost::LIST;
use crate::error::EvalError;
use crate::lib_fns::{Outcome, ops};
use crate::value::{Elements, List, ListRepr, MapRepr, MapValue, Value};
use std::sync::Arc;

impl<'a> Run<'a, '_> {
    pub(super) fn fold(&mut self, fold: &'a Fold) -> Outcome<'a> {
        let range = self.eval(&fold.range)?;
        self.locals[fold.accu] = Slot::Lazy(&fold.init);
        match &range {
            Value::List(list) => {
                for index in 0..list.len() {
                    let Some(item) = list.get(index) else { break };
                    let variables = match fold.var2 {
                        Some(second) => {
                            [Some((fold.var, Ok(Value::Int(index as i64)))), Some((second, item))]
                        }
                        None => [Some((fold.var, item)), None],
                    };
                    if !self.iterate(fold, variables)? {
                        break;
                    }
                }
            }
            Value::Map(map) => {
                for key in map.keys() {
                    let second = match fold.var2 {
                        Some(second) => map.find(&key).map(|value| (second, value)),
                        None => None,
                    };
                    if !self.iterate(fold, [Some((fold.var, Ok(key))), second])? {
                        break;
                    }
                }
            }
            other => {
                let name = other.go_type();
                return Err(EvalError::new(format!("got '{name}', expected iterable type")));
            }
        }
        self.eval(&fold.result)
    }

    /// One round; whether there is to be another.
    fn iterate(
        &mut self,
        fold: &'a Fold,
        variables: [Option<(usize, Outcome<'a>)>; 2],
    ) -> Result<bool, EvalError> {
        for (slot, value) in variables.into_iter().flatten() {
            self.locals[slot] = Slot::Set(value);
        }
        if !matches!(fold.condition, Node::Const(Value::Bool(true)))
            && let Ok(Value::Bool(false)) = self.absorbed(&fold.condition)?
        {
            return Ok(false);
        }
        let step = self.absorbed(&fold.step)?;
        self.locals[fold.accu] = Slot::Set(step);
        Ok(true)
    }

    /// The accumulator, taken out of its place.
    fn take(&mut self, accu: usize) -> Outcome<'a> {
        if let Slot::Lazy(_) = self.locals[accu] {
            // Made like any other value; afterwards it is there to be taken.
            let _ = self.local(accu);
        }
        match std::mem::replace(&mut self.locals[accu], Slot::Empty) {
            Slot::Set(outcome) => outcome,
            _ => Err(EvalError::no_such_overload()),
        }
    }

    /// `accu + [element]`, at the cost of both operands, the list and the sum.
    pub(super) fn append(&mut self, accu: usize, element: &'a Node) -> Outcome<'a> {
        self.charge(1)?;
        let element = self.absorbed(element)?;
        self.charge(LIST)?;
        self.charge(1)?;
        let mut list = match self.take(accu)? {
            Value::List(list) => list,
            _ => return Err(EvalError::no_such_overload()),
        };
        let element = element?;
        match &mut list.0 {
            ListRepr::Shared(elements) => match Arc::get_mut(elements) {
                Some(elements) => elements.items.push(element),
                None => {
                    let mut items = Vec::with_capacity(elements.items.len() + 4);
                    items.extend(elements.items.iter().cloned());
                    items.push(element);
                    *elements = Arc::new(Elements { items, identity: None });
                }
            },
            ListRepr::Json(..) => {
                let mut items = list.to_vec()?;
                items.push(element);
                list = List(ListRepr::Shared(Arc::new(Elements { items, identity: None })));
            }
        }
        Ok(Value::List(list))
    }

    /// `cel.@mapInsert(accu, ...)`.
    pub(super) fn insert(&mut self, accu: usize, args: &'a [Node]) -> Outcome<'a> {
        self.charge(1)?;
        let mut values = Vec::with_capacity(args.len());
        let mut problem = None;
        let mut complete = true;
        for (index, arg) in args.iter().enumerate() {
            match self.absorbed(arg)? {
                Ok(value) => values.push(value),
                Err(error) => {
                    problem = Some(error);
                    complete = index + 1 == args.len();
                    break;
                }
            }
        }
        if complete {
            self.charge(1)?;
        }
        let mut map = match self.take(accu)? {
            Value::Map(MapValue(MapRepr::Shared(map))) => map,
            _ => return Err(EvalError::no_such_overload()),
        };
        if let Some(problem) = problem {
            return Err(problem);
        }
        ops::map_insert(Arc::make_mut(&mut map), &values)?;
        Ok(Value::Map(MapValue(MapRepr::Shared(map))))
    }
}
