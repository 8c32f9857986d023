//! The network on a host of its own: real namespaces, links, routes, rules and packets.

mod cases;
mod common;
