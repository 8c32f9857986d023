//! The black-box suite's harness: test hosts, clusters on them made by the built `knarr`, and the real `kubectl`.
//! It links none of Knarr's rooms: what it knows of Knarr is what any user can see.
#![allow(clippy::disallowed_methods)] // outside of any control plane: time is the machine's, waiting is polling

pub mod cluster;
pub mod host;
pub mod image;
pub mod kubectl;
pub mod process;
pub mod snapshot;
pub mod suite;
pub mod wait;

pub use cluster::{Cluster, Mode, Namespace};
pub use host::TestHost;
pub use process::{Output, Spawned};
pub use suite::{Case, Group};
pub use wait::wait_for;

/// The repository.
pub fn repository() -> std::path::PathBuf {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("this package has a folder of its own").to_owned()
}

/// A manifest of `examples/`.
pub fn example(name: &str) -> String {
    let path = repository().join("examples").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
