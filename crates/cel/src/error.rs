//! What can go wrong while evaluating.

use std::fmt;
use std::sync::Arc;

/// An error that an evaluation came to, or that `&&` and `||` absorbed. `Display` gives upstream's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvalError(Arc<Problem>);

#[derive(Debug, PartialEq, Eq)]
struct Problem {
    message: String,
    /// Nothing absorbs it.
    fatal: bool,
}

impl EvalError {
    /// An error with this text.
    pub fn new(message: impl Into<String>) -> Self {
        Self(Arc::new(Problem { message: message.into(), fatal: false }))
    }

    pub(crate) fn no_such_overload() -> Self {
        Self::new("no such overload")
    }

    pub(crate) fn cost_exceeded() -> Self {
        let message = "operation cancelled: actual cost limit exceeded".to_owned();
        Self(Arc::new(Problem { message, fatal: true }))
    }

    /// Whether the evaluation was given up because it cost more than allowed.
    pub fn is_cost_exceeded(&self) -> bool {
        self.0.fatal
    }
}

impl fmt::Display for EvalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for EvalError {}
