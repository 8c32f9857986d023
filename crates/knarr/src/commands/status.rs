//! `knarr status`.

use crate::Source;
use crate::daemon::{Answer, Request, Status, ask};
use crate::host::data::Layout;
use crate::output::say;
use anyhow::{Result, bail};

/// Arguments.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    source: Source,
}

/// Says how the cluster is; fails when it is not running or not ready.
pub fn run(arguments: Arguments) -> Result<()> {
    let config = arguments.source.load()?;
    let mut found = None;
    let show = |answer| {
        if let Answer::Status(status) = answer {
            found = Some(status);
        }
    };
    let running = ask(&Layout(config.data_dir.clone()).socket(), &Request::Status, show)?;
    let (Some(()), Some(status)) = (running, found) else {
        bail!("no cluster is running on {}; start one with 'knarr up'", config.data_dir.display());
    };
    lines(&status).iter().for_each(|line| say(line));
    if status.unready.is_empty() { Ok(()) } else { bail!("not ready: {}", status.unready.join(", ")) }
}

fn lines(status: &Status) -> Vec<String> {
    let up = knarr_meta::time::human_duration(std::time::Duration::from_secs(status.uptime_seconds));
    vec![
        format!("{:<10} {}", "state", if status.unready.is_empty() { "ready" } else { "starting" }),
        format!("{:<10} knarr {}, process {}, up {up}", "version", status.version, status.pid),
        format!("{:<10} {}", "server", status.server),
        format!("{:<10} {}, {} pods", "node", status.node, status.pods),
        format!("{:<10} {} objects at revision {}", "store", status.objects, status.revision),
    ]
}
