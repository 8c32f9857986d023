//! Selectors over labels and over fields, with upstream's syntax and error texts (apimachinery's `labels` and
//! `fields`).

mod field_selector;
mod label_selector;
mod parse;

pub use field_selector::{FieldRequirement, FieldSelector, escape};
pub use label_selector::{LabelSelector, Labels, Operator, Requirement, SelectorError};
