//! One client for every component: typed and raw calls over an object-safe [`Transport`] (in-process or
//! HTTPS), watches, informers with listers, a work queue and an event recorder. Identity is bound when the
//! client is built; nothing here skips the API server's authorization or admission.

pub mod body;
pub mod client;
pub mod election;
pub mod error;
pub mod https;
pub mod informer;
pub mod kubeconfig;
pub mod path;
pub mod queue;
pub mod recorder;
pub mod reflector;
pub mod transport;
mod trim;
pub mod watch;

pub use body::Body;
pub use client::{Client, DeleteOptions, List, ListOptions, Patch};
pub use election::Election;
pub use error::Error;
pub use informer::{Change, Informer, Informers, Metadata, Object};
pub use path::ResourcePath;
pub use queue::WorkQueue;
pub use recorder::{Annotations, ObjectRef, Recorder};
pub use transport::Transport;
pub use watch::{WatchEvent, Watcher};
