//! Types, declarations and the type checker.

mod checker;
pub(crate) mod functions;
pub(crate) mod types;
mod unify;
mod validate;

pub(crate) use checker::{Checked, Reference, check};
