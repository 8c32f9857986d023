//! Evaluation: a checked expression becomes a tree of steps, and steps are run over bindings.

mod attribute;
mod fold;
pub(crate) mod node;
mod plan;
mod run;

pub(crate) use plan::plan;
pub(crate) use run::Run;
