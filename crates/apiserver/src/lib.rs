//! The API server: one front door ([`front`]: filters, identity, permission, discovery, streaming) over one
//! generic registry ([`registry`]: verbs, watch cache, tables) for every kind that is declared by a
//! [`def::ResourceDef`]. Only this room opens the store.

pub mod admission;
pub mod authorize;
pub mod cache;
pub mod custom;
pub mod def;
pub mod front;
mod measured;
mod name;
pub mod obj;
pub mod registry;
pub mod request;
pub mod server;
pub mod testing;
pub mod webhook;

pub use front::authn::Tokens;
pub use front::authz::escalation;
pub use front::authz::node::node_identity;
pub use front::pki;
pub use server::{ApiServer, COMPACTION_INTERVAL, ServerConfig, ServerError};
