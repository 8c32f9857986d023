//! Expressions (CEL) over a write, as admission has them: match conditions, validations, mutations. What they
//! see, how they are compiled and what they may cost is upstream's `admission/plugin/cel`.

mod asker;
mod compile;
mod conditions;
mod input;

pub use compile::{Compiled, Returns, Seen, compile};
pub use conditions::{Conditions, Matched};
pub use input::{Input, Stop, evaluate};

/// What the match conditions of one webhook or binding may cost together.
pub const CONDITIONS_BUDGET: u64 = 2_500_000;
