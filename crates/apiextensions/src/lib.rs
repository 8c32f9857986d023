//! Custom resources without I/O (apiextensions.k8s.io/v1, upstream's apiextensions-apiserver): a CRD compiled into a
//! [`Definition`], and what its [`Version`]s do with objects (prune, default, validate, print, publish). Who serves
//! them is the API server's matter; who keeps the conditions of CRDs, the controllers'.

mod apply;
mod columns;
pub mod crd;
mod defaulting;
mod definition;
pub mod jsonpath;
pub mod kubeversion;
mod listtype;
mod number;
mod objectmeta;
pub mod openapi;
mod prune;
mod rules;
mod scale;
pub mod schema;
mod select;
pub mod validate;
mod version;

pub use columns::Columns;
pub use definition::{CompileError, Conversion, Definition, Names, Scope};
pub use scale::Scale;
pub use select::SelectableField;
pub use version::{Coerce, Version};
