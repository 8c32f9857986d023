//! Every built-in kind, each in a file of its own (defaults, validation, columns, subresources, fixture), the
//! admission plugins, and the objects that an empty cluster starts with. [`all`] is the one table of kinds.

pub mod admission;
pub mod admissionregistration;
pub mod apiextensions;
pub mod apiregistration;
pub mod apps;
pub mod autoscaling;
pub mod batch;
pub mod bootstrap;
pub mod certificates;
pub mod coordination;
pub mod core;
pub mod discovery;
mod expressions;
pub mod flowcontrol;
pub mod networking;
pub mod node;
pub mod policy;
pub mod rbac;
pub mod resource;
pub mod scheduling;
pub mod storage;
mod table;
mod util;

pub use admission::plugins;
pub use table::all;
