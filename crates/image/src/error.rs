//! What can go wrong. The texts of [`PullError`] follow containerd's, which is what users find when they
//! search for a message of the kubelet.

use std::io;
use std::path::PathBuf;

/// The store itself failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process works with the store.
    #[error("the image store {0} is in use by another process")]
    Locked(PathBuf),
    /// A file operation failed.
    #[error("{operation} {path}: {source}")]
    Io {
        /// What was attempted.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A file of the store is not what it was written as.
    #[error("the image store's {path} is corrupt: {detail}")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// No such image.
    #[error("image {0:?}: not found")]
    NotFound(String),
    /// An image cannot have such a name.
    #[error("cannot name an image {name:?}: {detail}")]
    Name {
        /// The name.
        name: String,
        /// Why not.
        detail: String,
    },
    /// A layer cannot be unpacked.
    #[error("failed to extract layer {layer}: {detail}")]
    Layer {
        /// Its digest, or what it is.
        layer: String,
        /// Why.
        detail: String,
    },
    /// A layer as it was sent is not what its digest says.
    #[error("unexpected blob digest {actual}, expected {expected}")]
    Blob {
        /// Of the content.
        actual: String,
        /// As announced.
        expected: String,
    },
    /// Containers use the image.
    #[error("image {0:?} is in use by a container")]
    InUse(String),
    /// Content is not what its digest says.
    #[error("unexpected digest {actual}, expected {expected}")]
    Digest {
        /// Of the content.
        actual: String,
        /// As announced.
        expected: String,
    },
}

/// Images cannot be saved.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// The store failed, or has no such image.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The archive cannot be written.
    #[error("cannot write the archive: {0}")]
    Write(io::Error),
    /// How the layer came is not known.
    #[error(
        "layer {0} cannot be written as it came: it was unpacked by an older version, or has files twice. Remove the image \
         and pull or import it again"
    )]
    NoNotes(String),
    /// The layer's files are not what they were.
    #[error("layer {layer} cannot be read: {source}")]
    Layer {
        /// Its digest.
        layer: String,
        /// Why.
        source: io::Error,
    },
}

/// An archive cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// It cannot be read.
    #[error("cannot read the archive {path}: {source}")]
    Read {
        /// The archive.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is neither a docker-archive nor an OCI layout, or lacks parts.
    #[error("{path} is not a usable image archive: {detail}")]
    Format {
        /// The archive.
        path: PathBuf,
        /// What is missing or wrong.
        detail: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a pull failed, without the reference: see [`PullError`].
#[derive(Debug, thiserror::Error)]
pub enum PullFailure {
    /// The reference is malformed.
    #[error("{0}")]
    Reference(#[from] crate::reference::InvalidReference),
    /// The registry has no such repository or tag.
    #[error("failed to resolve reference \"{0}\": {0}: not found")]
    NotFound(String),
    /// The registry wants (other) credentials.
    #[error(
        "failed to resolve reference \"{reference}\": pull access denied, repository does not exist or may require authorization: {detail}"
    )]
    Denied {
        /// What was asked for.
        reference: String,
        /// The registry's words.
        detail: String,
    },
    /// The registry could not be asked.
    #[error("failed to resolve reference \"{reference}\": failed to do request: {detail}")]
    Request {
        /// What was asked for.
        reference: String,
        /// Method, URL and cause.
        detail: String,
    },
    /// The registry answered something unexpected.
    #[error("failed to resolve reference \"{reference}\": unexpected status from {request}: {status}")]
    Status {
        /// What was asked for.
        reference: String,
        /// Method and URL.
        request: String,
        /// Its answer.
        status: String,
    },
    /// Content could not be fetched.
    #[error("failed to copy: {0}")]
    Copy(String),
    /// Content is not what its digest says.
    #[error("failed to commit: unexpected commit digest {actual}, expected {expected}: failed precondition")]
    Digest {
        /// Of the content.
        actual: String,
        /// As announced.
        expected: String,
    },
    /// The registries' configuration file cannot be used.
    #[error("failed to load the registries' configuration: {0}")]
    Configuration(String),
    /// The index has nothing for this machine, or the image is made for another.
    #[error("no match for platform in manifest: not found")]
    Platform,
    /// The manifest has other layers than the configuration.
    #[error("mismatched image rootfs and manifest layers")]
    Mismatched,
    /// An image of before 2016.
    #[error("schema 1 image manifests are no longer supported: invalid argument")]
    SchemaOne,
    /// The manifest cannot be used.
    #[error("failed to unmarshal manifest: {0}")]
    Manifest(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A pull failed.
#[derive(Debug, thiserror::Error)]
#[error("failed to pull and unpack image \"{reference}\": {failure}")]
pub struct PullError {
    /// The normalized reference.
    pub reference: String,
    /// Why. Part of this error's text.
    pub failure: PullFailure,
}

impl PullError {
    /// The gRPC code under which containerd reports this failure to the kubelet.
    pub fn code(&self) -> &'static str {
        match &self.failure {
            PullFailure::NotFound(_) | PullFailure::Platform => "NotFound",
            PullFailure::Digest { .. } => "FailedPrecondition",
            PullFailure::Reference(_) | PullFailure::SchemaOne => "InvalidArgument",
            _ => "Unknown",
        }
    }

    /// Whether the reference itself is malformed, so that trying again is pointless.
    pub fn is_invalid_name(&self) -> bool {
        matches!(self.failure, PullFailure::Reference(_))
    }
}

/// Names the operation and path of an I/O error.
pub(crate) fn io_error(
    operation: &'static str,
    path: &std::path::Path,
) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { operation, path, source }
}
