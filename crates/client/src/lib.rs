//! One client for every component: typed and raw calls over an object-safe [`Transport`] (in-process or
//! HTTPS), watches, informers with listers, a work queue and an event recorder. Identity is bound when the
//! client is built; nothing here skips the API server's authorization or admission.

pub mod body;
pub mod error;
pub mod transport;

pub use body::Body;
pub use error::Error;
pub use transport::Transport;
