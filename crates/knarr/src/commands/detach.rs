//! `knarr up -d`: the cluster runs in a process of its own; this one shows its progress until it is ready.

use crate::config::Config;
use crate::host::data::Layout;
use crate::output::say;
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// Set for the process in the background; it then says when it is ready.
const ENVIRONMENT: &str = "KNARR_DETACHED";
/// The line by which it does.
const READY: &str = "\u{4}ready";

/// Starts this command again without `-d`, in a session of its own, and waits until it is ready.
pub fn run(config: &Config) -> Result<()> {
    let log = Layout(config.data_dir.clone()).log_file();
    std::fs::create_dir_all(&config.data_dir)
        .with_context(|| format!("cannot create {}", config.data_dir.display()))?;
    let output = std::fs::OpenOptions::new().create(true).append(true).open(&log);
    let output = output.with_context(|| format!("cannot write {}", log.display()))?;
    let arguments = std::env::args_os().skip(1).filter(|a| a != "-d" && a != "--detach");
    let mut child = Command::new(std::env::current_exe().context("cannot find this binary")?)
        .args(arguments)
        .env(ENVIRONMENT, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(output)
        .process_group(0)
        .spawn()
        .context("cannot start a process in the background")?;
    let stdout = child.stdout.take().context("the process in the background has no output")?;
    for line in BufReader::new(stdout).lines() {
        match line?.as_str() {
            READY => {
                say(&format!(
                    "It runs in the background as process {}; its log is {}.",
                    child.id(),
                    log.display()
                ));
                return Ok(());
            }
            line => say(line),
        }
    }
    let status = child.wait()?;
    let text = std::fs::read_to_string(&log).unwrap_or_default();
    let last: Vec<&str> = text.lines().rev().take(5).collect();
    let last: Vec<&str> = last.into_iter().rev().collect();
    bail!("the cluster did not start ({status}); the end of {}:\n{}", log.display(), last.join("\n"))
}

/// Tells the waiting process, if there is one.
pub fn ready() {
    if std::env::var_os(ENVIRONMENT).is_some() {
        say(READY);
    }
}
