//! Pulls from registries (OCI distribution-spec v1.1, Docker Registry HTTP API V2).

mod auth;
mod config;
mod download;
mod endpoint;
mod growth;
mod http;
mod pull;
#[cfg(test)]
mod tests;
mod tls;

pub use auth::Auth;
pub(crate) use pull::Shared;
pub use pull::Turn;
