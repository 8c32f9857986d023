//! Pulls from registries (OCI distribution-spec v1.1, Docker Registry HTTP API V2).

mod auth;
mod http;
mod pull;
#[cfg(test)]
mod tests;

pub use auth::Auth;
pub(crate) use pull::Shared;
