//! The OCI command line alone, without the rest of Knarr: for measuring and for trying.
//!
//!     cargo build --release -p knarr-runtime --example knarr-oci

/// As in the whole program.
#[global_allocator]
static ALLOCATOR: knarr_runtime::ShimAware<mimalloc::MiMalloc> =
    knarr_runtime::ShimAware::new(mimalloc::MiMalloc);

fn main() {
    knarr_runtime::oci_main_if_asked();
    eprintln!("run me under the name knarr-oci");
}
