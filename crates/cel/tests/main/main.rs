//! Tables of expressions with what Kubernetes 1.36 answers to them: type, value or error, cost and estimate. The
//! expectations were taken from running upstream's environment over the same expressions.

#![allow(clippy::unwrap_used)]

mod api;
mod devices;
mod fuzz;
mod tables;
