//! API machinery: what every Kubernetes object has in common, whatever its kind.
//!
//! Objects are `serde_json::Value`s here. The rooms above use this crate for `Status` and field errors,
//! metadata, selectors, quantities, patches, managed fields and tables. It knows no concrete kind: what it
//! must know of one (list types, merge keys) arrives as a [`schema::Schema`].

pub mod cron;
pub mod duration;
pub mod field;
#[cfg(test)]
mod fuzz;
#[doc(hidden)]
pub mod fuzzing;
pub mod go;
pub mod gvk;
pub mod managed;
pub mod names;
pub mod object;
pub mod patch;
pub mod quantity;
pub mod schema;
pub mod selector;
pub mod status;
pub mod table;
pub mod time;
pub mod validate;
