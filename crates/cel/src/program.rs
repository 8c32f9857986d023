//! Checked expressions, and programs made of them.

use crate::bindings::Bindings;
use crate::check::types::Type;
use crate::check::{Checked, Reference};
use crate::cost::estimate::{self, CostEstimate};
use crate::decl::DeclType;
use crate::error::EvalError;
use crate::eval::node::Node;
use crate::eval::{Run, plan};
use crate::syntax::issues::Issues;
use crate::value::Value;

/// A checked expression.
#[derive(Clone, Debug)]
pub struct Ast(Checked);

/// Why an expression cannot be used. `Display` gives upstream's text.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CompileError {
    /// It does not parse or check.
    #[error("compilation failed: {0}")]
    Issues(#[source] Issues),
    /// A constant in it cannot be computed.
    #[error("program instantiation failed: {0}")]
    Instantiation(#[source] EvalError),
}

impl Ast {
    pub(crate) fn new(checked: Checked) -> Self {
        Self(checked)
    }

    /// The type of the expression.
    pub fn output_type(&self) -> &Type {
        self.0.type_of(&self.0.root)
    }

    /// Whether the expression uses a variable of the environment.
    pub fn references(&self, variable: &str) -> bool {
        let is = |reference: &Option<Reference>| match reference {
            Some(Reference::Variable(name)) => &**name == variable,
            _ => false,
        };
        self.0.references.iter().any(is)
    }

    /// What the expression can cost at least and at most. Every variable's sizes are those of `root`.
    pub fn estimate_cost(&self, root: Option<&DeclType>) -> CostEstimate {
        estimate::estimate(&self.0, None, root)
    }

    /// The same where only one variable has declared sizes.
    pub fn estimate_cost_of(&self, variable: &str, root: &DeclType) -> CostEstimate {
        estimate::estimate(&self.0, Some(variable), Some(root))
    }

    /// The program. Fails when a constant conversion does: `int("x")`.
    pub fn program(&self) -> Result<Program, EvalError> {
        let (root, locals) = plan(&self.0)?;
        Ok(Program { root, locals })
    }
}

/// An expression ready to run; may be shared between threads.
#[derive(Debug)]
pub struct Program {
    root: Node,
    locals: usize,
}

/// What an evaluation came to.
#[derive(Debug)]
pub struct Evaluation<'a> {
    /// The value, or what went wrong.
    pub value: Result<Value<'a>, EvalError>,
    /// What it cost, also when it failed.
    pub cost: u64,
}

impl Program {
    /// Evaluates over bindings; beyond `limit` the evaluation is given up.
    pub fn eval<'a>(&'a self, bindings: &Bindings<'a>, limit: u64) -> Evaluation<'a> {
        let mut run = Run::new(bindings, limit, self.locals);
        let value = run.eval(&self.root);
        Evaluation { value, cost: run.cost }
    }
}
