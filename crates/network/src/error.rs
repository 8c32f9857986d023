//! Why something about the network failed.

use crate::netlink::NetlinkError;
use crate::range::Range;
use std::path::PathBuf;

/// A failure of the pod network, the proxy or the DNS server.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The kernel refused something.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A file could not be read or written.
    #[error("{action} {}: {error}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
    /// All addresses are in use.
    #[error("no free address in the pod range {0}")]
    Exhausted(Range),
    /// The range cannot hold pods.
    #[error("the pod range {0} is too small: at most /29 is possible")]
    TooSmall(Range),
    /// A socket for DNS could not be opened.
    #[error("cannot serve DNS on {address}: {error}")]
    Listen {
        /// Where.
        address: std::net::SocketAddr,
        /// Why not.
        error: std::io::Error,
    },
    /// The API server refused an object.
    #[error("cannot write {what}: {error}")]
    Api {
        /// Which object.
        what: String,
        /// Why not.
        error: knarr_client::Error,
    },
}

impl NetworkError {
    /// Turns a file error into one that names the file.
    pub(crate) fn file(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |error| Self::File { action, path, error }
    }
}
