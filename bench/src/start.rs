//! A cluster of this program's own: started on an empty directory, measured, restarted full, ended.

use crate::bench::Bench;
use crate::process::Servers;
use crate::table::Table;
use crate::{Arguments, idle, load, rows};
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::Method;
use knarr_base::Ctx;
use knarr_client::https::Https;
use knarr_client::{Client, kubeconfig};
use knarr_tls::{Identity, Trust};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A start or an end that takes longer than this has failed.
const LIMIT: Duration = Duration::from_secs(60);
/// Between two looks at something that is coming up.
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// How long a cluster settles before its idling is measured.
const SETTLE: Duration = Duration::from_secs(60);
/// Making those objects takes no longer than this.
const FILL_LIMIT: Duration = Duration::from_secs(120);
/// The objects a restart is measured with.
const OBJECTS: usize = 20_000;

/// Measures a cluster from its start to its end.
pub async fn run(ctx: &Ctx, arguments: &Arguments, binary: &Path, table: &mut Table) -> Result<()> {
    let parent = arguments.scratch.clone().unwrap_or_else(std::env::temp_dir);
    let dir = tempfile::Builder::new()
        .prefix("knarr-bench-")
        .tempdir_in(parent)
        .context("no temporary directory")?;
    let binary = binary.canonicalize().with_context(|| format!("there is no {}", binary.display()))?;
    let mark = format!("KNARR_BENCH_MARK={}", ctx.rng.uuid());
    let mut own = Own {
        ctx: ctx.clone(),
        binary,
        data: dir.path().join("data"),
        node: arguments.node,
        ports: ports()?,
        mark,
        child: None,
    };
    let outcome = own.measure(arguments, table).await;
    let ended = own.end().await;
    let removed = own.take_down();
    outcome.and(ended).and(removed)
}

/// Ports that were free a moment ago: API server, kubelet, DNS.
fn ports() -> Result<[u16; 3]> {
    let listeners = [(); 3].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
    let mut ports = [0; 3];
    for (port, listener) in ports.iter_mut().zip(listeners) {
        *port = listener?.local_addr()?.port();
    }
    Ok(ports)
}

struct Own {
    ctx: Ctx,
    binary: PathBuf,
    data: PathBuf,
    node: bool,
    ports: [u16; 3],
    mark: String,
    child: Option<Child>,
}

impl Own {
    async fn measure(&mut self, arguments: &Arguments, table: &mut Table) -> Result<()> {
        let servers = Servers::Marked(self.mark.clone());
        let started = self.start()?;
        let ready = self.ready(started).await?;
        table.value("start on an empty directory -> /readyz", show(ready), "0.3 s (must: 0.5 s)");
        let kubeconfig = self.data.join("admin.kubeconfig");
        if self.node {
            let ready = self.node_ready(started).await?;
            table.value("start on an empty directory -> node Ready", show(ready), "1 s (must: 1.5 s)");
        }
        self.wait_for_file(&kubeconfig).await?;
        if let Some(archive) = &arguments.image_archive {
            self.command("image").arg("import").arg(archive).run("import the image")?;
        }
        idle::rows(&self.ctx, &servers, SETTLE, Duration::from_secs(arguments.idle_seconds), table).await?;
        let bench = Bench::connect(&self.ctx, arguments, &kubeconfig, servers.clone()).await?;
        rows::all(&mut [(&bench, &mut *table)]).await?;
        idle::memory(&servers, "memory after the load", "300 MiB after 17k objects", table);
        let restart = format!("restart with {OBJECTS} objects -> /readyz");
        if table.wants(&restart) {
            let bench = Bench::connect(&self.ctx, arguments, &kubeconfig, servers.clone()).await?;
            fill(&bench).await?;
            idle::memory(
                &servers,
                &format!("memory with {OBJECTS} ConfigMaps of 1 KB"),
                "300 MiB after 17k objects",
                table,
            );
            self.end().await?;
            let started = self.start()?;
            let ready = self.ready(started).await?;
            table.value(&restart, show(ready), "(must: 2 s)");
        }
        Ok(())
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(&self.binary);
        let (key, value) = self.mark.split_once('=').expect("the mark is a setting");
        command
            .arg(name)
            .arg("--data-dir")
            .arg(&self.data)
            .env(key, value)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        if self.node {
            command.args(["--cgroup-root", &format!("knarr-bench-{}", self.ports[0])]);
        }
        command
    }

    fn start(&mut self) -> Result<Instant> {
        let [https, kubelet, dns] = self.ports.map(|port| port.to_string());
        let mut command = self.command(if self.node { "up" } else { "server" });
        command.args(["--kubeconfig", "none", "--node-name", "alpha", "--https-port", &https]);
        command.args(["--kubelet-port", &kubelet, "--dns-port", &dns]);
        if !self.node {
            command.args(["--node-ip", "10.244.0.1", "--bind-address", "127.0.0.1"]);
        }
        let started = self.ctx.clock.instant();
        self.child =
            Some(command.spawn().with_context(|| format!("cannot start {}", self.binary.display()))?);
        Ok(started)
    }

    /// Fails when the process has ended or time is up.
    fn alive(&mut self, since: Instant, waiting_for: &str) -> Result<()> {
        let child = self.child.as_mut().context("nothing was started")?;
        if let Some(status) = child.try_wait()? {
            bail!("{} ended ({status}) before {waiting_for}", self.binary.display());
        }
        if self.ctx.clock.instant() - since > LIMIT {
            bail!("{waiting_for} took longer than {} s", LIMIT.as_secs());
        }
        Ok(())
    }

    async fn wait_for_file(&mut self, path: &Path) -> Result<()> {
        let since = self.ctx.clock.instant();
        while !path.exists() {
            self.alive(since, "its kubeconfig was written")?;
            self.ctx.clock.sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    /// Asks /readyz as anybody may, over TLS by the cluster's CA, until it says yes.
    async fn ready(&mut self, started: Instant) -> Result<Duration> {
        loop {
            self.alive(started, "/readyz was ok")?;
            if let Some(client) = self.anonymous()
                && client.call(Method::GET, "/readyz", &Value::Null).await.is_ok()
            {
                return Ok(self.ctx.clock.instant() - started);
            }
            self.ctx.clock.sleep(LOOK_AGAIN).await;
        }
    }

    fn anonymous(&self) -> Option<Client> {
        let roots = knarr_tls::bundle_file(&self.data.join("pki/ca.crt")).ok()?;
        let tls = knarr_tls::client(Trust::Roots(roots), Identity::None, &[]).ok()?;
        let transport = Https::new("127.0.0.1", self.ports[0], tls, None).ok()?;
        Some(Client::new(Arc::new(transport), "knarr-bench", self.ctx.clone()))
    }

    /// Polls the node object with the admin's rights.
    async fn node_ready(&mut self, started: Instant) -> Result<Duration> {
        let kubeconfig = self.data.join("admin.kubeconfig");
        self.wait_for_file(&kubeconfig).await?;
        let client = Client::new(Arc::new(kubeconfig::load(&kubeconfig)?), "knarr-bench", self.ctx.clone());
        loop {
            self.alive(started, "the node was Ready")?;
            let nodes = client.call(Method::GET, "/api/v1/nodes/alpha", &Value::Null).await;
            if let Ok(node) = nodes
                && serde_json::from_slice::<Value>(&node).is_ok_and(|node| rows::node_is_ready(&node))
            {
                return Ok(self.ctx.clock.instant() - started);
            }
            self.ctx.clock.sleep(LOOK_AGAIN).await;
        }
    }

    /// Ends the process that was started, in good order if it can.
    async fn end(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        if child.try_wait()?.is_some() {
            return Ok(());
        }
        if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            kill_process(pid, Signal::TERM)?;
        }
        let since = self.ctx.clock.instant();
        while self.ctx.clock.instant() - since < LIMIT {
            if child.try_wait()?.is_some() {
                return Ok(());
            }
            self.ctx.clock.sleep(Duration::from_millis(10)).await;
        }
        child.kill()?;
        child.wait()?;
        bail!("the cluster did not end within {} s and was killed", LIMIT.as_secs())
    }

    /// Takes what a node has put on the machine off it again.
    fn take_down(&self) -> Result<()> {
        if !self.node {
            return Ok(());
        }
        self.command("down").arg("--purge").run("take the cluster down")
    }
}

trait Run {
    fn run(&mut self, what: &str) -> Result<()>;
}

impl Run for Command {
    fn run(&mut self, what: &str) -> Result<()> {
        let status = self.status().with_context(|| format!("cannot {what}"))?;
        if !status.success() {
            bail!("cannot {what}: {status}");
        }
        Ok(())
    }
}

fn show(time: Duration) -> String {
    format!("{:.0} ms", time.as_secs_f64() * 1e3)
}

async fn fill(bench: &Bench) -> Result<()> {
    let (url, filling) = (bench.path("configmaps"), "x".repeat(1024));
    let load = load::run_within(bench, FILL_LIMIT, bench.arguments.clients, OBJECTS, move |client, at| {
        let map = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": format!("fill-{at}")}, "data": {"key": filling}});
        crate::bench::send(
            client,
            Method::POST,
            url.clone(),
            "application/json",
            Bytes::from(map.to_string()),
        )
    });
    let load = load.await;
    if load.latencies.len() < OBJECTS {
        bail!("only {} of {OBJECTS} objects could be made: {}", load.latencies.len(), load.first_error);
    }
    Ok(())
}
