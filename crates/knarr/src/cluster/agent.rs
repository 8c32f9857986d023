//! A node of another machine's cluster: joins it (once), then runs what `knarr up` runs of a node: kubelet, containers,
//! images, pod network, service proxy, cluster DNS. What it learned is kept, so that a restart works without the token,
//! and without the server too.

use super::identity::Identity;
use super::join::{self, ClusterFacts, Server};
use super::network::{self, Network, Plan};
use super::node::{self, Node, NodeSettings, Pods};
use super::token::JoinToken;
use crate::config::Config;
use crate::host::data::Layout;
use crate::output::Progress;
use anyhow::{Context, Result, bail};
use http::Method;
use knarr_api::core::v1::Node as ApiNode;
use knarr_apiserver::front::pki::write_atomic;
use knarr_base::clock::timeout;
use knarr_base::{Backoff, Ctx};
use knarr_client::https::Https;
use knarr_client::{Change, Client, Informers, ResourcePath, Transport};
use knarr_network::{Range, nodes};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// A server that is asked for the first time has to answer by then.
const FIRST_ANSWER: Duration = Duration::from_secs(60);
/// A node that has joined before starts without the server after this.
const LATER_ANSWER: Duration = Duration::from_secs(5);

/// What a machine that has joined knows.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Membership {
    server: String,
    node_name: String,
    #[serde(default)]
    facts: Option<ClusterFacts>,
    #[serde(default)]
    pod_cidr: Option<String>,
}

impl Membership {
    fn read(path: &Path) -> Result<Option<Self>> {
        match std::fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .with_context(|| format!("{} cannot be read", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(self).context("what is known is plain data")?;
        write_atomic(path, &text).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// How to join.
pub struct Joining {
    /// `https://host:port`; not needed by a machine that has joined.
    pub server: Option<String>,
    /// Token, as given.
    pub token: Option<String>,
    /// The hash of the CA, beside a token that does not carry it.
    pub ca_hash: Option<String>,
}

/// A running agent.
pub struct Agent {
    /// The node.
    pub node: Node,
    /// Where the API server is.
    pub server: String,
    network: Ctx,
}

impl Agent {
    /// Joins if need be, and starts the node.
    pub async fn start(
        ctx: &Ctx,
        config: &Config,
        joining: &Joining,
        progress: &mut Progress,
    ) -> Result<Self> {
        let layout = Layout(config.data_dir.clone());
        let mut known = membership(config, joining)?;
        let server = Server::parse(&known.server)?;
        let identity = join_cluster(ctx, config, joining, &server).await?;
        known.write(&layout.membership())?;
        progress.done(ctx.clock.instant(), "membership", &known.server);

        let transport = identity.transport(&server)?;
        let node_ip = match config.node_ip {
            Some(ip) => ip,
            None => local_address(&server)?,
        };
        let scope = ctx.child("network");
        let client = Client::new(transport.clone(), "knarr-agent", scope.clone());
        let (answered, parts) =
            tokio::try_join!(learn(ctx, &client, &transport, node_ip, &mut known), node::open(ctx, config),)?;
        known.write(&layout.membership())?;
        let (facts, pod_cidr) = match (&known.facts, &known.pod_cidr) {
            (Some(facts), Some(pod_cidr)) => (facts.clone(), pod_cidr.clone()),
            _ => bail!("the server at {} said nothing of the cluster's network", known.server),
        };
        let plan = plan(config, node_ip, &facts, &pod_cidr)?;
        let Network { pods, .. } = network::prepare(&plan)?;
        let described = format!("node address {node_ip}, pods {}", plan.pod_cidr);
        progress.done(ctx.clock.instant(), "network", &described);
        network::start_services(&scope, &plan, node_ip, client.clone(), client)?;
        network::release_others(&pods, &parts.runtime)?;
        let of_node = transport.clone();
        let settings = NodeSettings {
            node_ip,
            cluster_dns: facts.cluster_dns,
            cluster_domain: facts.cluster_domain,
            tls: identity.server_tls()?,
            client: Box::new(move |ctx| Client::new(of_node.clone(), "kubelet", ctx.clone())),
            network: Arc::new(Pods(pods)),
            wait: answered,
        };
        let node = Node::start(ctx, config, settings, parts, progress).await?;
        identity.keep(&scope, transport, IpAddr::V4(node_ip));
        Ok(Self { node, server: known.server, network: scope })
    }

    /// Stops the node's services. Its pods run on.
    pub async fn shutdown(self) {
        self.node.shutdown().await;
        self.network.tasks.shutdown(Duration::from_secs(5)).await;
    }
}

/// Which cluster this machine is, or is to be, a node of.
fn membership(config: &Config, joining: &Joining) -> Result<Membership> {
    let layout = Layout(config.data_dir.clone());
    if layout.store().exists() {
        bail!(
            "{} holds a cluster of its own; give the agent another --data-dir, or take that one away with 'knarr down \
             --purge'",
            config.data_dir.display()
        );
    }
    match Membership::read(&layout.membership())? {
        Some(known) => {
            if known.node_name != config.node_name {
                bail!(
                    "this machine joined as {}, not as {}; 'knarr down --purge' makes it forget that",
                    known.node_name,
                    config.node_name
                );
            }
            Ok(Membership { server: joining.server.clone().unwrap_or(known.server), ..known })
        }
        None => {
            let server =
                joining.server.clone().context("say which cluster to join, with --server and --token")?;
            Ok(Membership { server, node_name: config.node_name.clone(), facts: None, pod_cidr: None })
        }
    }
}

/// The node's identity: the one that is kept, or a new one by the token.
async fn join_cluster(
    ctx: &Ctx,
    config: &Config,
    joining: &Joining,
    server: &Server,
) -> Result<Arc<Identity>> {
    let dir = Layout(config.data_dir.clone()).pki();
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dir)
        .with_context(|| format!("cannot create {}", dir.display()))?;
    let ca_file = dir.join("ca.crt");
    if let Ok(ca) = std::fs::read_to_string(&ca_file) {
        let identity = Identity::open(&dir, &config.node_name, &ca, ctx.clock.now())?;
        if identity.has_client() {
            return Ok(identity);
        }
    }
    let token =
        joining.token.as_deref().context("joining needs a token: 'knarr token create' on the first node")?;
    let token = JoinToken::parse(token, joining.ca_hash.as_deref())?;
    let ca = join::discover(ctx, server, &token).await?;
    write_atomic(&ca_file, ca.as_bytes()).with_context(|| format!("cannot write {}", ca_file.display()))?;
    let identity = Identity::open(&dir, &config.node_name, &ca, ctx.clock.now())?;
    let transport = join::with_token(server, &ca, &token)?;
    identity.ask_client(ctx, &transport).await.context("cannot join")?;
    Ok(identity)
}

/// Asks the server for what this node has to know; whether it answered. One that does not is no obstacle to a node that
/// knows everything from before.
async fn learn(
    ctx: &Ctx,
    client: &Client,
    transport: &Arc<Https>,
    node_ip: Ipv4Addr,
    known: &mut Membership,
) -> Result<bool> {
    let limit = if known.pod_cidr.is_some() { LATER_ANSWER } else { FIRST_ANSWER };
    let ask = async {
        let mut backoff = Backoff::new(Duration::from_millis(100), 2.0, Duration::from_secs(5));
        loop {
            let asked = async {
                let facts = ClusterFacts::read(client).await?;
                register(client, &known.node_name, node_ip).await?;
                Ok::<_, knarr_client::Error>(facts)
            };
            match asked.await {
                Ok(facts) => break facts,
                Err(error) => {
                    tracing::debug!(%error, "the server does not answer yet");
                    ctx.clock.sleep(backoff.step()).await;
                }
            }
        }
    };
    let Some(facts) = timeout(&*ctx.clock, limit, ask).await else {
        if known.pod_cidr.is_some() {
            tracing::warn!(server = known.server, "starting without the server: it does not answer");
            return Ok(false);
        }
        bail!("the server at {} does not tell what nodes have to know; see the log", known.server);
    };
    known.facts = Some(facts);
    let transport: Arc<dyn Transport> = transport.clone();
    let pod_cidr = pod_range(ctx, transport, &known.node_name, FIRST_ANSWER).await.with_context(|| {
        format!("the node {} got no range of pod addresses; see 'kubectl describe node'", known.node_name)
    })?;
    known.pod_cidr = Some(pod_cidr);
    Ok(true)
}

/// Makes the Node if there is none, so that it gets a range; the kubelet fills it in.
async fn register(client: &Client, name: &str, node_ip: Ipv4Addr) -> Result<(), knarr_client::Error> {
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "spec": {},
        "metadata": { "name": name, "annotations": {
            "volumes.kubernetes.io/controller-managed-attach-detach": "true",
            nodes::ADDRESS: node_ip.to_string(),
        } },
    });
    match client.call(Method::POST, &ResourcePath::of::<ApiNode>().url("", "", ""), &node).await {
        Err(error) if !error.is_conflict() => Err(error),
        _ => Ok(()),
    }
}

/// Waits, by a watch, for the node's range of pod addresses.
async fn pod_range(ctx: &Ctx, transport: Arc<dyn Transport>, name: &str, limit: Duration) -> Result<String> {
    let scope = ctx.child("pod-range");
    let informers = Informers::new(Client::new(transport, "knarr-agent", scope.clone()));
    let node = informers.filtered::<ApiNode>("", "", &format!("metadata.name={name}"));
    let range = tokio::sync::watch::Sender::new(None::<String>);
    let told = range.clone();
    node.on_change(move |change: &Change<ApiNode>| {
        let range = change.new.as_ref().and_then(|n| n.spec.as_ref()?.pod_cidr.clone());
        told.send_replace(range.filter(|range| !range.is_empty()));
    });
    let mut seen = range.subscribe();
    let waited = timeout(&*ctx.clock, limit, seen.wait_for(Option::is_some)).await;
    let range = waited.and_then(|seen| seen.ok().and_then(|range| range.clone()));
    scope.tasks.stop();
    range.context("nobody gave it one")
}

fn plan(config: &Config, node_ip: Ipv4Addr, facts: &ClusterFacts, pod_cidr: &str) -> Result<Plan> {
    let (cluster_cidr, service_cidr) = facts.ranges()?;
    let pod_cidr: Range = pod_cidr.parse().map_err(|e: String| anyhow::anyhow!(e))?;
    Ok(Plan {
        node_name: config.node_name.clone(),
        node_ip: Some(node_ip),
        pod_cidr,
        cluster_cidr,
        service_cidr,
        cluster_domain: facts.cluster_domain.clone(),
        dns_port: config.dns_port,
        state_dir: Layout(config.data_dir.clone()).network(),
    })
}

/// The address of this machine from which the server is reached. Nothing is sent for it.
fn local_address(server: &Server) -> Result<Ipv4Addr> {
    let ask = || {
        let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect((server.host.as_str(), server.port))?;
        socket.local_addr()
    };
    match ask().with_context(|| format!("there is no way to the server {}", server.host))?.ip() {
        IpAddr::V4(ip) if !ip.is_loopback() => Ok(ip),
        other => bail!("the server is reached from {other}, which no other node can reach; give --node-ip"),
    }
}
