//! `knarr image`.
use anyhow::Result;
/// Arguments.
#[derive(clap::Args)]
pub struct Arguments {}
/// Runs.
pub fn run(_: Arguments) -> Result<()> {
    anyhow::bail!("not there yet")
}
