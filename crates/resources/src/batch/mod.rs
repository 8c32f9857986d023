//! The group batch, v1.

pub mod job;
