//! The project's own chores: `cargo xtask test` is the whole test command, `cargo xtask tidy` only the checks
//! that read the tree, `cargo xtask conformance` holds a run of the public conformance suite against the list of what
//! passes. None needs the network once the dependencies are there.

mod conformance;
mod layers;
mod packages;
mod test;
mod tree;

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() -> Result<()> {
    let root =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lives in the workspace")?.to_owned();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("test") => test::run(&root, &arguments[1..]),
        Some("tidy") => tidy(&root),
        Some("conformance") => conformance::run(&root, &arguments[1..]),
        other => {
            bail!("usage: cargo xtask test [--no-e2e] | tidy | conformance FOLDER [--add] (not {other:?})")
        }
    }
}

/// All checks that only read; every finding is listed before the failure.
fn tidy(root: &Path) -> Result<()> {
    let metadata = metadata(root)?;
    let mut findings = layers::check(root, &metadata)?;
    findings.extend(packages::check(root, &metadata)?);
    findings.extend(tree::check(root)?);
    for finding in &findings {
        eprintln!("tidy: {finding}");
    }
    if findings.is_empty() { Ok(()) } else { bail!("{} findings", findings.len()) }
}

fn metadata(root: &Path) -> Result<serde_json::Value> {
    let output = Command::new(cargo())
        .args(["metadata", "--format-version=1", "--locked"])
        .current_dir(root)
        .output()
        .context("cannot run cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn cargo() -> PathBuf {
    std::env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from)
}
