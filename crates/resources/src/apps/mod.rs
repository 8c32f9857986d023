//! The group apps, v1.

pub mod controllerrevision;
pub mod deployment;
pub mod replicaset;
pub mod workload;
