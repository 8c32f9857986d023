//! Every built-in kind, each in a file of its own (defaults, validation, columns, subresources, fixture), the
//! admission plugins, and the objects that an empty cluster starts with. [`all`] is the one table of kinds.

pub mod core;
mod table;
mod util;

pub use table::all;
