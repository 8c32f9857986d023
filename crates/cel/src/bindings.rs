//! The variables of an evaluation.

use crate::composition::Composition;
use crate::error::EvalError;
use crate::lib_fns::Outcome;
use crate::value::Value;
use std::borrow::Cow;
use std::cell::{Cell, RefCell};

/// Values for the variables of an environment. What they borrow, and the programs run over them, must live as long.
#[derive(Default)]
pub struct Bindings<'a> {
    variables: Vec<(Cow<'a, str>, Value<'a>)>,
    composed: Option<Composed<'a>>,
}

/// The variables of a composition, each evaluated when first asked for.
struct Composed<'a> {
    composition: &'a Composition,
    states: Vec<RefCell<State<'a>>>,
    cost: Cell<u64>,
}

enum State<'a> {
    Unknown,
    /// Being evaluated; asking for it again would never end.
    Running,
    Known(Outcome<'a>),
}

impl<'a> Bindings<'a> {
    /// No variables.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives a variable its value.
    pub fn set(&mut self, name: impl Into<Cow<'a, str>>, value: Value<'a>) {
        let name = name.into();
        match self.variables.iter_mut().find(|(known, _)| *known == name) {
            Some((_, place)) => *place = value,
            None => self.variables.push((name, value)),
        }
    }

    /// Gives the variable `variables` the fields of a composition.
    pub fn set_composition(&mut self, composition: &'a Composition) {
        let states = (0..composition.len()).map(|_| RefCell::new(State::Unknown)).collect();
        self.composed = Some(Composed { composition, states, cost: Cell::new(0) });
        self.set("variables", Value::Variables);
    }

    /// What the composition's variables cost since this was last asked.
    pub fn take_composition_cost(&self) -> u64 {
        self.composed.as_ref().map_or(0, |composed| composed.cost.take())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Value<'a>> {
        self.variables.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// A variable of the composition.
    pub(crate) fn variable(&self, name: &str) -> Option<Outcome<'a>> {
        let composed = self.composed.as_ref()?;
        let (index, program) = composed.composition.find(name)?;
        let state = &composed.states[index];
        match &*state.borrow() {
            State::Known(outcome) => return Some(outcome.clone()),
            State::Running => {
                return Some(Err(EvalError::new(format!("composited variable {name:?} refers to itself"))));
            }
            State::Unknown => {}
        }
        *state.borrow_mut() = State::Running;
        let outcome = match program {
            Err(problem) => {
                Err(EvalError::new(format!("composited variable {name:?} fails to compile: {problem}")))
            }
            Ok(program) => {
                let evaluation = program.eval(self, crate::PER_CALL_LIMIT);
                composed.cost.set(composed.cost.get().saturating_add(evaluation.cost));
                evaluation.value.map_err(|problem| {
                    EvalError::new(format!("composited variable {name:?} fails to evaluate: {problem}"))
                })
            }
        };
        *state.borrow_mut() = State::Known(outcome.clone());
        Some(outcome)
    }
}
