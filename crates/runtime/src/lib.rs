//! CONTRACT. The container runtime: per-pod shims that hold namespaces, stdio, logs and exit status, and live
//! on while Knarr is restarted or upgraded; and the daemon's side that talks to them. Knows nothing of
//! Kubernetes; the kubelet translates.

mod daemon;
mod error;
pub mod spec;

pub use daemon::{Runtime, RuntimeOptions, Session, SessionControl};
pub use error::RuntimeError;

/// Becomes the shim zygote when this process was re-executed as one, and never returns then. Called first
/// thing in `main` of every program that opens a [`Runtime`].
pub fn zygote_main_if_asked() {}
