//! CONTRACT. Container images: a content-addressed store of unpacked layers shared by digest, import and export of
//! docker-archive and OCI layout files, and pulls from Docker and OCI registries (OCI image-spec and
//! distribution-spec v1.1, Docker Image Manifest V2 schema 2). Knows neither containers nor Kubernetes: it
//! hands out the directories that an overlay mount is made of.

mod archive;
pub mod build;
mod digest;
mod error;
mod gc;
mod layer;
pub mod oci;
pub mod reference;
mod registry;
mod save;
mod snapshot;
mod store;
mod unpack;

pub use error::{ImportError, PullError, SaveError, StoreError};
pub use gc::{DiskUsage, ImageUse};
pub use oci::ImageConfig;
pub use reference::Reference;
pub use registry::{Auth, Turn};
pub use save::Format;
pub use snapshot::RootFs;
pub use store::{Details, Image, ImageStore, Options};

/// How far an import or a pull has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is being worked on: a digest, shortened for display by whoever shows it.
    pub item: String,
    /// Bytes done.
    pub done_bytes: u64,
    /// Bytes in all, 0 when not known.
    pub total_bytes: u64,
}

/// Hears about progress; called from any thread, must be quick.
pub type OnProgress = std::sync::Arc<dyn Fn(Progress) + Send + Sync>;

/// A progress listener that does nothing.
pub fn silent() -> OnProgress {
    std::sync::Arc::new(|_| {})
}
