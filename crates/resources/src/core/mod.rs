//! The core group, v1.

pub mod configmap;
pub mod namespace;
pub mod node;
pub mod pod;
pub mod resource;
