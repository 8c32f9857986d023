//! `knarr version`.

use crate::output::say;
use anyhow::Result;

/// The version of this binary.
pub const SHORT: &str = env!("CARGO_PKG_VERSION");
/// The Kubernetes version whose interface it has.
pub const KUBERNETES: &str = "v1.36.0";

/// Prints both.
pub fn run() -> Result<()> {
    say(&format!("knarr {SHORT}"));
    say(&format!("kubernetes {KUBERNETES}"));
    Ok(())
}
