//! Variables made of expressions: the `variables` of admission policies (KEP-3488).

use crate::check::types::Type;
use crate::env::Env;
use crate::program::{CompileError, Program};
use std::collections::HashMap;
use std::sync::Arc;

/// Named expressions, each of which sees those before it as `variables.name`.
pub struct Composition {
    env: Env,
    variables: Vec<Result<Program, CompileError>>,
    by_name: HashMap<Arc<str>, usize>,
}

impl Composition {
    /// A composition without variables over `env`.
    pub fn new(env: Env) -> Self {
        Self { env: env.with_composition(), variables: Vec::new(), by_name: HashMap::new() }
    }

    /// Adds a variable. One that does not compile is there all the same, and is an error when it is used.
    pub fn add(&mut self, name: &str, expression: &str) -> Result<Type, CompileError> {
        let compiled = self.env.compile(expression).map_err(CompileError::Issues).and_then(|ast| {
            let output = ast.output_type().clone();
            Ok((ast.program().map_err(CompileError::Instantiation)?, output))
        });
        let (program, output) = match compiled {
            Ok((program, output)) => (Ok(program), Ok(output)),
            Err(problem) => (Err(problem.clone()), Err(problem)),
        };
        let declared = output.as_ref().map_or(Type::Dyn, declared_type);
        self.env = self.env.clone().with_composed_variable(name, declared);
        match self.by_name.get(name) {
            Some(index) => self.variables[*index] = program,
            None => {
                self.by_name.insert(name.into(), self.variables.len());
                self.variables.push(program);
            }
        }
        output
    }

    /// The environment in which expressions see all variables added so far.
    pub fn env(&self) -> &Env {
        &self.env
    }

    pub(crate) fn len(&self) -> usize {
        self.variables.len()
    }

    pub(crate) fn find(&self, name: &str) -> Option<(usize, &Result<Program, CompileError>)> {
        let index = *self.by_name.get(name)?;
        Some((index, &self.variables[index]))
    }
}

/// The type that later expressions see: upstream keeps simple types, lists and maps, the rest is dynamic.
fn declared_type(t: &Type) -> Type {
    match t {
        Type::List(elem) => Type::list(declared_type(elem)),
        Type::Map(pair) => Type::map(declared_type(&pair.0), declared_type(&pair.1)),
        Type::Any
        | Type::Bool
        | Type::Bytes
        | Type::Double
        | Type::Duration
        | Type::Int
        | Type::Null
        | Type::String
        | Type::Timestamp
        | Type::Uint => t.clone(),
        _ => Type::Dyn,
    }
}
