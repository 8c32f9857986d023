//! The test command: formatting, lints as errors, tidy, unit and integration tests, then the black-box suite
//! over the built binary. One build profile throughout.

use crate::cargo;
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// Runs everything; `--no-e2e` leaves the black-box suite out.
pub fn run(root: &Path, arguments: &[String]) -> Result<()> {
    let e2e = match arguments {
        [] => true,
        [only] if only == "--no-e2e" => false,
        other => bail!("unknown arguments {other:?}"),
    };
    step(root, "formatting", &["fmt", "--all", "--check"], &[])?;
    step(
        root,
        "lints",
        &["clippy", "--workspace", "--all-targets", "--locked", "--quiet", "--", "-D", "warnings"],
        &[],
    )?;
    let start = announce("tidy");
    crate::tidy(root)?;
    done("tidy", start);
    let mut tests = vec!["test", "--workspace", "--locked", "--no-fail-fast"];
    tests.extend(["--exclude", "knarr-e2e"]);
    step(root, "unit and integration tests", &tests, &[])?;
    if e2e {
        step(root, "the binary", &["build", "--package", "knarr", "--locked"], &[])?;
        step(
            root,
            "black-box suite",
            &["test", "--package", "knarr-e2e", "--locked", "--no-fail-fast", "--", "--test-threads=1"],
            &[],
        )?;
    }
    Ok(())
}

fn step(root: &Path, what: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Result<()> {
    let start = announce(what);
    let status = Command::new(cargo())
        .args(arguments)
        .envs(environment.iter().copied())
        .current_dir(root)
        .status()
        .with_context(|| format!("cannot run cargo {arguments:?}"))?;
    if !status.success() {
        bail!("{what}: failed");
    }
    done(what, start);
    Ok(())
}

#[allow(clippy::disallowed_methods)] // a chore of the build, outside any control plane
fn announce(what: &str) -> Instant {
    println!("==> {what}");
    Instant::now()
}

fn done(what: &str, start: Instant) {
    println!("==> {what}: done in {:.0} s", start.elapsed().as_secs_f64());
}
