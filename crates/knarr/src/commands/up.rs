//! `knarr up` and `knarr server`: start a cluster, or only its control plane, and run it until told to stop.

use crate::Source;
use crate::cluster::control::ControlPlane;
use crate::cluster::network;
use crate::cluster::node::{self, Node, NodeSettings, Pods};
use crate::commands::{detach, version};
use crate::config::Config;
use crate::daemon::{self, Status, server::Served};
use crate::demo;
use crate::host::checks;
use crate::host::data::{self, Layout};
use crate::host::systemd::Systemd;
use crate::kubeconfig::{self, Access};
use crate::output::{Progress, say};
use anyhow::{Context, Result};
use knarr_apiserver::request::UserInfo;
use knarr_base::Ctx;
use knarr_client::Client;
use knarr_image::ImageStore;
use knarr_runtime::Runtime;
use knarr_store::Store;
use knarr_store::embedded::Engine;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;

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
    let config = arguments.source.load()?;
    if arguments.detach {
        return detach::run(&config);
    }
    knarr_base::logging::init("warn");
    let _lock = data::open(&config.data_dir)?;
    checks::require(&config, true, true)?;
    runtime()?.block_on(up(&config, arguments.demo))
}

/// Starts a control plane.
pub fn run_server(arguments: ServerArguments) -> Result<()> {
    knarr_base::logging::init("warn");
    let config = arguments.source.load()?;
    let _lock = data::open(&config.data_dir)?;
    checks::require(&config, true, false)?;
    runtime()?.block_on(serve(&config))
}

/// The threads that everything runs on.
pub fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")
}

async fn up(config: &Config, with_demo: bool) -> Result<()> {
    let ctx = Ctx::system();
    let mut progress = Progress::since(ctx.clock.instant());
    say(&format!("Starting Knarr on {} (data in {})", config.node_name, config.data_dir.display()));
    let network = network::prepare(&network::Plan::of_first(config))?;
    progress.done(
        ctx.clock.instant(),
        "network",
        &format!("node address {}, pods {}", network.node_ip, config.pod_cidr),
    );
    let parts_ctx = ctx.child("node");
    let (control, parts) = tokio::try_join!(
        ControlPlane::start(&ctx, config, network.node_ip, network.addresses.clone(), true, &mut progress),
        node::open(&parts_ctx, config),
    )?;
    network::start_first(control.components(), config, &control, network.node_ip).await?;
    network::follow_addresses(control.components(), &control)?;
    network::release_others(&network.pods, &parts.runtime)?;
    let pods = Arc::new(Pods(network.pods.clone()));
    let (server, identity) = (control.server.clone(), format!("system:node:{}", config.node_name));
    let settings = NodeSettings {
        node_ip: network.node_ip,
        cluster_dns: config.dns_service_ip(),
        cluster_domain: config.cluster_domain.clone(),
        tls: control.kubelet_tls()?,
        client: Box::new(move |ctx| {
            let user = UserInfo::new(&identity, &["system:nodes"]);
            Client::new(server.transport(user), "kubelet", ctx.clone())
        }),
        network: pods,
        wait: true,
    };
    let node = Node::start(&ctx, config, settings, parts, &mut progress).await?;
    // Before anything says that the cluster is ready: whoever reads that may use the socket at once.
    let stopped =
        socket(&ctx, config, Backing::of(&control), Some((node.images.clone(), node.runtime.clone())))?;
    let files = write_kubeconfigs(&control, config)?;
    let demo_address = match with_demo {
        true => Some(demo::deploy::run(&ctx, &control, &node.images, network.node_ip).await?),
        false => None,
    };
    if let Some(address) = &demo_address {
        progress.done(ctx.clock.instant(), "demo", &format!("answers at {address}"));
    }
    say(&format!("Ready after {} ms.", progress.elapsed(ctx.clock.instant()).as_millis()));
    files.iter().for_each(|line| say(line));
    say("Try: kubectl get pods -A");
    if let Some(address) = demo_address {
        say(&format!("The demo: open {address} (or: curl {address})"));
    }
    detach::ready();
    let service = Systemd::of_environment().ready(&ctx);
    wait_for_end(&ctx, &stopped.stop).await?;
    service.stopping();
    say("Stopping; the pods run on. 'knarr up' takes them over again, 'knarr down' stops them.");
    node.shutdown().await;
    control.shutdown().await;
    stopped.tell().await;
    Ok(())
}

async fn serve(config: &Config) -> Result<()> {
    let ctx = Ctx::system();
    let mut progress = Progress::since(ctx.clock.instant());
    say(&format!("Starting a control plane (data in {})", config.data_dir.display()));
    let addresses = network::addresses()?;
    let first = addresses.iter().find_map(|a| if let IpAddr::V4(a) = a { Some(*a) } else { None });
    let node_ip = config
        .node_ip
        .or(first)
        .context("this machine has no address but loopback; give one with --node-ip")?;
    let control = ControlPlane::start(&ctx, config, node_ip, addresses, false, &mut progress).await?;
    let files = write_kubeconfigs(&control, config)?;
    say(&format!("Ready after {} ms.", progress.elapsed(ctx.clock.instant()).as_millis()));
    files.iter().for_each(|line| say(line));
    let stopped = socket(&ctx, config, Backing::of(&control), None)?;
    let service = Systemd::of_environment().ready(&ctx);
    wait_for_end(&ctx, &stopped.stop).await?;
    service.stopping();
    say("Stopping.");
    control.shutdown().await;
    stopped.tell().await;
    Ok(())
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

/// Who asked this cluster to stop, and wants to hear when it has.
pub struct Stopped {
    /// Raised by a request on the socket.
    pub stop: watch::Receiver<bool>,
    done: watch::Sender<bool>,
    ctx: Ctx,
}

impl Stopped {
    /// Tells them.
    pub async fn tell(self) {
        self.done.send_replace(true);
        self.ctx.tasks.shutdown(std::time::Duration::from_secs(1)).await;
    }
}

/// What stands behind the socket: the control plane of this process, or nothing but the address of another's.
pub struct Backing {
    /// Where the API server is.
    pub server: String,
    /// The store.
    pub store: Option<Arc<dyn Store>>,
    /// The embedded engine.
    pub engine: Option<Engine>,
}

impl Backing {
    fn of(control: &ControlPlane) -> Self {
        let server = format!("https://{}", control.server.config().advertise);
        Self { server, store: Some(control.store()), engine: control.engine() }
    }
}

/// Opens the local socket.
pub fn socket(
    ctx: &Ctx,
    config: &Config,
    backing: Backing,
    node: Option<(Arc<ImageStore>, Arc<Runtime>)>,
) -> Result<Stopped> {
    let scope = ctx.child("socket");
    let (stop, stop_seen) = watch::channel(false);
    let (done, done_seen) = watch::channel(false);
    let (images, runtime) = node.unzip();
    let (started, clock, tasks) = (ctx.clock.instant(), ctx.clock.clone(), ctx.tasks.clone());
    let name = config.node_name.clone();
    let Backing { server, store, engine } = backing;
    let status = move || {
        let stats = store.as_ref().map(|store| store.stats());
        Status {
            version: version::SHORT.to_owned(),
            pid: std::process::id(),
            uptime_seconds: (clock.instant() - started).as_secs(),
            node: if runtime.is_some() { name.clone() } else { "none".to_owned() },
            server: server.clone(),
            unready: tasks.unready(),
            objects: stats.as_ref().map_or(0, |s| s.keys),
            revision: stats.as_ref().map_or(0, |s| s.revision),
            pods: runtime.as_ref().map_or(0, |r| r.sandboxes().len()),
        }
    };
    let served = Served { status: Box::new(status), images, engine, stop, stopped: done_seen };
    daemon::server::start(&scope, &Layout(config.data_dir.clone()).socket(), served)?;
    Ok(Stopped { stop: stop_seen, done, ctx: scope })
}

/// Until a signal, a request on the socket, or the failure of a part that the cluster cannot do without.
pub async fn wait_for_end(ctx: &Ctx, stop: &watch::Receiver<bool>) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for signals")?;
    let mut hangup = signal(SignalKind::hangup()).context("cannot wait for signals")?;
    let mut stop = stop.clone();
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
        _ = stop.wait_for(|stop| *stop) => {}
        () = ctx.tasks.stopping() => anyhow::bail!("a part of the cluster failed; see the log"),
    }
    Ok(())
}
