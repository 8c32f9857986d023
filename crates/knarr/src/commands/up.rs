//! `knarr up` and `knarr server`: start a cluster, or only its control plane, and run it until told to stop.

use crate::Source;
use crate::cluster::control::ControlPlane;
use crate::config::Config;
use crate::host::{checks, data};
use crate::kubeconfig::{self, Access};
use crate::output::{Progress, say};
use anyhow::{Context, Result};
use knarr_base::Ctx;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

/// Arguments of `knarr up`.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    source: Source,
    /// Go to the background once the cluster is ready
    #[arg(short, long)]
    detach: bool,
    /// Deploy the demo application
    #[arg(long)]
    demo: bool,
}

/// Arguments of `knarr server`.
#[derive(clap::Args)]
pub struct ServerArguments {
    #[command(flatten)]
    source: Source,
}

/// Starts a cluster.
pub fn run(arguments: Arguments) -> Result<()> {
    checks::require_root("up")?;
    let _ = (arguments.detach, arguments.demo, arguments.source);
    anyhow::bail!("the node is not there yet; 'knarr server' starts a control plane")
}

/// Starts a control plane.
pub fn run_server(arguments: ServerArguments) -> Result<()> {
    knarr_base::logging::init("warn");
    let config = arguments.source.load()?;
    let _lock = data::open(&config.data_dir)?;
    checks::require(&config, false)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let ctx = Ctx::system();
        let mut progress = Progress::since(ctx.clock.instant());
        say(&format!("Starting a control plane (data in {})", config.data_dir.display()));
        let node_ip = config.node_ip.unwrap_or(Ipv4Addr::LOCALHOST);
        let control =
            ControlPlane::start(&ctx, &config, node_ip, vec![IpAddr::from(node_ip)], &mut progress).await?;
        let files = write_kubeconfigs(&control, &config)?;
        say(&format!("Ready after {} ms.", progress.elapsed(ctx.clock.instant()).as_millis()));
        files.iter().for_each(|line| say(line));
        wait_for_signal().await?;
        say("Stopping.");
        control.shutdown().await;
        Ok(())
    })
}

/// Writes the admin's kubeconfig and merges a context into the user's; says where they are.
fn write_kubeconfigs(control: &ControlPlane, config: &Config) -> Result<Vec<String>> {
    let pki = control.server.pki();
    let (ca, admin) = (pki.ca()?, pki.pem("admin")?);
    let address =
        if config.bind_address.is_unspecified() { Ipv4Addr::LOCALHOST } else { config.bind_address };
    let server = format!("https://{address}:{}", config.https_port);
    let access = Access {
        server: &server,
        ca: ca.as_bytes(),
        certificate: admin.certificate.as_bytes(),
        key: admin.key.as_bytes(),
    };
    let own = config.admin_kubeconfig();
    kubeconfig::write_admin(&own, &access)?;
    let mut lines = vec![format!("Kubeconfig: {}", own.display())];
    if let Some(path) = &config.kubeconfig {
        let (path, owner) = user_kubeconfig(path);
        match kubeconfig::merge_into(&path, owner, &access) {
            Ok(()) => lines.push(format!(
                "Context \"{}\" is in {} and is the current one.",
                kubeconfig::NAME,
                path.display()
            )),
            // The cluster runs all the same; the admin's own file works.
            Err(error) => lines.push(format!("No context was merged: {error:#}")),
        }
    }
    Ok(lines)
}

/// The user's kubeconfig and its owner: as configured, or where kubectl looks.
pub fn user_kubeconfig(configured: &std::path::Path) -> (PathBuf, Option<(u32, u32)>) {
    let (default, owner) = kubeconfig::user_file();
    if configured.as_os_str().is_empty() { (default, owner) } else { (configured.to_owned(), owner) }
}

async fn wait_for_signal() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for signals")?;
    let mut hangup = signal(SignalKind::hangup()).context("cannot wait for signals")?;
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    Ok(())
}
