//! `knarr agent`: join this machine to a cluster as another node, and run it until told to stop.

use crate::Source;
use crate::cluster::agent::{Agent, Joining};
use crate::commands::detach;
use crate::commands::up::{Backing, runtime, socket, wait_for_end};
use crate::config::Config;
use crate::host::systemd::Systemd;
use crate::host::{checks, data};
use crate::output::{Progress, say};
use anyhow::{Context, Result};
use knarr_base::Ctx;
use std::path::PathBuf;

/// Arguments.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    source: Source,
    /// The cluster's API server, https://HOST:6443; kept once the machine has joined
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// Token of 'knarr token create'; needed once
    #[arg(long, value_name = "TOKEN", conflicts_with = "token_file")]
    token: Option<String>,
    /// File with the token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Hash of the cluster's CA (sha256:...), beside a token that does not carry it
    #[arg(long, value_name = "HASH")]
    discovery_token_ca_cert_hash: Option<String>,
    /// Go to the background once the node is ready
    #[arg(short, long)]
    detach: bool,
}

/// Runs the node.
pub fn run(arguments: Arguments) -> Result<()> {
    checks::require_root("agent")?;
    let config = arguments.source.load()?;
    if arguments.detach {
        return detach::run(&config);
    }
    knarr_base::logging::init("warn");
    let token = match (arguments.token, arguments.token_file) {
        (Some(token), _) => Some(token),
        (None, Some(file)) => Some(
            std::fs::read_to_string(&file)
                .with_context(|| format!("cannot read {}", file.display()))?
                .trim()
                .to_owned(),
        ),
        (None, None) => None,
    };
    let _lock = data::open(&config.data_dir)?;
    checks::require(&config, false, true)?;
    let joining =
        Joining { server: arguments.server, token, ca_hash: arguments.discovery_token_ca_cert_hash };
    runtime()?.block_on(agent(&config, &joining))
}

async fn agent(config: &Config, joining: &Joining) -> Result<()> {
    let ctx = Ctx::system();
    let mut progress = Progress::since(ctx.clock.instant());
    say(&format!("Starting a node of Knarr, {} (data in {})", config.node_name, config.data_dir.display()));
    let agent = Agent::start(&ctx, config, joining, &mut progress).await?;
    let backing = Backing { server: agent.server.clone(), store: None, engine: None };
    let node = (agent.node.images.clone(), agent.node.runtime.clone());
    let stopped = socket(&ctx, config, backing, Some(node))?;
    say(&format!("Ready after {} ms.", progress.elapsed(ctx.clock.instant()).as_millis()));
    detach::ready();
    let service = Systemd::of_environment().ready(&ctx);
    wait_for_end(&ctx, &stopped.stop).await?;
    service.stopping();
    say("Stopping; the pods run on. 'knarr agent' takes them over again, 'knarr down' stops them.");
    agent.shutdown().await;
    ctx.tasks.shutdown(std::time::Duration::from_secs(5)).await;
    stopped.tell().await;
    Ok(())
}
