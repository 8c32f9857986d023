//! Calls to servers outside of this process: admission and conversion webhooks, and (the pieces below the call)
//! aggregated API servers. Upstream's `apiserver/pkg/util/webhook`.
//!
//! - [`config`]: where a webhook is, as `clientConfig` of its registration says.
//! - [`resolve`]: from a service to an address.
//! - [`connect`]: TCP and TLS, with errors in the words of Go's net and crypto packages.
//! - [`client`]: the client itself, with connections kept for reuse.

pub mod client;
pub mod config;
pub mod connect;
pub mod resolve;
pub mod testing;
#[cfg(test)]
mod tests;

pub use client::{CallError, ClientManager};
pub use config::{ClientConfig, ServiceReference};
pub use resolve::{ClusterIps, ServiceResolver};
