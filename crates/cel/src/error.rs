//! What can go wrong while evaluating.

use std::fmt;
use std::sync::Arc;

/// An error that an evaluation came to, or that `&&` and `||` absorbed. `Display` gives upstream's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvalError(Arc<Problem>);

#[derive(Debug, PartialEq, Eq)]
struct Problem {
    message: String,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    /// A function was called with types it does not take.
    NoOverload,
    /// Nothing absorbs it.
    Fatal,
}

impl EvalError {
    /// An error with this text.
    pub fn new(message: impl Into<String>) -> Self {
        Self(Arc::new(Problem { message: message.into(), kind: Kind::Plain }))
    }

    pub(crate) fn no_such_overload() -> Self {
        Self(Arc::new(Problem { message: "no such overload".to_owned(), kind: Kind::NoOverload }))
    }

    pub(crate) fn is_no_such_overload(&self) -> bool {
        self.0.kind == Kind::NoOverload
    }

    pub(crate) fn cost_exceeded() -> Self {
        let message = "operation cancelled: actual cost limit exceeded".to_owned();
        Self(Arc::new(Problem { message, kind: Kind::Fatal }))
    }

    /// Whether the evaluation was given up because it cost more than allowed.
    pub fn is_cost_exceeded(&self) -> bool {
        self.0.kind == Kind::Fatal
    }
}

impl fmt::Display for EvalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for EvalError {}
