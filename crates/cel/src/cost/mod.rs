//! Costs. Both kinds follow upstream to the unit: what an evaluation cost ([`runtime`]) and what it can cost at
//! most ([`estimate`]). Any change here breaks rules that clusters have stored.

pub(crate) mod estimate;
pub(crate) mod runtime;

/// What the creation of a list costs.
pub(crate) const LIST: u64 = 10;
/// What the creation of a map costs.
pub(crate) const MAP: u64 = 30;
/// What the creation of an object costs.
pub(crate) const OBJECT: u64 = 40;
/// What a character costs where a text is walked through.
pub(crate) const PER_CHAR: f64 = 0.1;
/// What a character of a pattern costs.
pub(crate) const PER_PATTERN_CHAR: f64 = 0.25;
/// What a permission check costs: two are allowed in an expression.
pub(crate) const CHECK: u64 = 350_000;
/// The length that patterns of named formats count as in estimates.
pub(crate) const MAX_FORMAT_PATTERN: f64 = 128.0;

/// What a call is counted by: its function and, where it is known, its overload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub function: &'static str,
    /// Empty when several overloads can apply.
    pub overload: &'static str,
}
