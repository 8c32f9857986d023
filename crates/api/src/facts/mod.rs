//! CONTRACT. Facts about the Kubernetes 1.36 interface, kept as compact tables under `facts/` and parsed when
//! they are first asked for.

pub(crate) mod decl;
#[cfg(test)]
pub(crate) mod sample;
mod schema;
mod tables;

pub use schema::{meta_type, root, schema};
pub use tables::{ColumnFact, ResourceFact, StorageKey, columns, initial_objects, resources, storage_key};
