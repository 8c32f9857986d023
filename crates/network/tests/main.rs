//! The network on a host of its own: real namespaces, links, routes, rules and packets.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // a test fails by a panic and measures real time

mod cases;
mod common;
