//! The network of this machine's node: what is put on the host, addresses for pods, services, DNS.

use super::control::ControlPlane;
use crate::config::Config;
use crate::host::data::Layout;
use crate::output::say;
use anyhow::{Context, Result, bail};
use knarr_base::Ctx;
use knarr_base::clock::timeout;
use knarr_client::{Client, Informers};
use knarr_network::{
    Dns, DnsConfig, Host, HostConfig, NodeRoutes, NodeRoutesConfig, PodNetwork, ProxyConfig, Range,
    ServiceProxy, ServiceView, Upstreams, ensure_dns_service,
};
use knarr_runtime::Runtime;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Ethernet's usual size; links inside one machine need no other.
const MTU: u32 = 1500;

/// How long the start waits for services; the API server that knows them is in this process.
const SERVICES_LIMIT: Duration = Duration::from_secs(10);

/// What the network of a node is to be.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The node's name.
    pub node_name: String,
    /// Its address, if it is one of the machine's.
    pub node_ip: Option<Ipv4Addr>,
    /// The range of its pods.
    pub pod_cidr: Range,
    /// The range of all nodes' pods.
    pub cluster_cidr: Range,
    /// The range of services.
    pub service_cidr: Range,
    /// The cluster's domain.
    pub cluster_domain: String,
    /// Where its DNS listens.
    pub dns_port: u16,
    /// Where state is kept.
    pub state_dir: PathBuf,
}

impl Plan {
    /// For the node beside the control plane.
    pub fn of_first(config: &Config) -> Self {
        Self {
            node_name: config.node_name.clone(),
            node_ip: config.node_ip,
            pod_cidr: config.first_node_cidr(),
            cluster_cidr: config.pod_cidr,
            service_cidr: config.service_cidr,
            cluster_domain: config.cluster_domain.clone(),
            dns_port: config.dns_port,
            state_dir: Layout(config.data_dir.clone()).network(),
        }
    }

    fn host(&self) -> HostConfig {
        HostConfig {
            pod_cidr: self.pod_cidr,
            cluster_cidr: self.cluster_cidr,
            service_cidr: self.service_cidr,
            node_ip: self.node_ip,
            state_dir: self.state_dir.clone(),
        }
    }
}

/// A prepared host.
pub struct Network {
    /// The node's address.
    pub node_ip: Ipv4Addr,
    /// All addresses under which this machine may be reached.
    pub addresses: Vec<IpAddr>,
    /// Connects pods.
    pub pods: Arc<PodNetwork>,
}

/// Looks for what is in the way, then prepares the host.
pub fn prepare(plan: &Plan) -> Result<Network> {
    let host = plan.host();
    let problems = knarr_network::host::check(&host).context("cannot look at the host's network")?;
    let (fatal, others): (Vec<_>, Vec<_>) = problems.into_iter().partition(|p| p.fatal);
    others.iter().for_each(|problem| say(&format!("warning: {problem}")));
    if !fatal.is_empty() {
        let list: Vec<String> = fatal.iter().map(ToString::to_string).collect();
        bail!("{}", list.join("\n"));
    }
    let prepared = Host::prepare(&host).context("cannot prepare the host's network")?;
    let pods =
        PodNetwork::open(plan.pod_cidr, &host.state_dir, MTU).context("cannot open the pod network")?;
    Ok(Network { node_ip: prepared.node_ip(), addresses: addresses()?, pods: Arc::new(pods) })
}

/// All addresses of this machine but loopback and those of pods' links.
pub fn addresses() -> Result<Vec<IpAddr>> {
    use knarr_network::netlink::{Socket, route};
    let mut socket = Socket::route().context("cannot open a netlink socket")?;
    let all = route::addresses(&mut socket).context("cannot list this machine's addresses")?;
    let mut addresses: Vec<IpAddr> = all.into_iter().map(|(address, ..)| address.into()).collect();
    addresses.retain(|address: &IpAddr| !address.is_loopback());
    addresses.sort();
    addresses.dedup();
    Ok(addresses)
}

/// The address at which other machines reach this one, if there is any.
pub fn underlay() -> Result<Option<Ipv4Addr>> {
    let mut socket = knarr_network::netlink::Socket::route().context("cannot open a netlink socket")?;
    knarr_network::nodes::underlay_address(&mut socket).context("cannot look at this machine's addresses")
}

/// Issues certificates anew when this machine's addresses change, for as long as the control plane runs.
pub fn follow_addresses(ctx: &Ctx, control: &ControlPlane) -> Result<()> {
    /// A network that is being set up changes several times at once.
    const SETTLE: Duration = Duration::from_secs(1);
    let mut changes = knarr_network::netlink::monitor::address_changes()
        .context("cannot follow this machine's addresses")?;
    let (server, clock) = (control.server.clone(), ctx.clock.clone());
    let mut known = addresses()?;
    ctx.tasks.spawn_until_stopped("addresses", async move {
        while changes.changed().await.is_ok() {
            clock.sleep(SETTLE).await;
            changes.mark_unchanged();
            match addresses() {
                // Pods' addresses are on links of their own and do not come here.
                Ok(now) if now == known => {}
                Ok(now) => match server.renew_certificates(Some(now.clone())).await {
                    Ok(_) => known = now,
                    Err(error) => {
                        tracing::error!(%error, "certificates for the new addresses could not be issued")
                    }
                },
                Err(error) => tracing::error!(%error, "this machine's addresses cannot be read"),
            }
        }
    });
    Ok(())
}

/// Frees the addresses and links of pods that are no more: those that ended while no `knarr` was running.
pub fn release_others(pods: &PodNetwork, runtime: &Runtime) -> Result<()> {
    let there = runtime.sandboxes();
    let uids: Vec<&str> = there.iter().map(|sandbox| sandbox.spec.pod_uid.as_str()).collect();
    pods.retain(&uids).context("cannot free the addresses of pods that are gone")
}

/// Takes off the host what [`prepare`] and the services put there.
pub fn cleanup(config: &Config) -> Result<()> {
    Host::cleanup(&Layout(config.data_dir.clone()).network()).context("cannot clean up the host's network")
}

/// Starts the routes to other nodes, the service proxy and the cluster's DNS on this node. `proxy` reads nodes, services
/// and their slices; `node` is the node's own identity. The service proxy tells when what there is works.
pub fn start_services(
    ctx: &Ctx,
    plan: &Plan,
    node_ip: Ipv4Addr,
    proxy: Client,
    node: Client,
) -> Result<ServiceProxy> {
    let informers = Informers::new(proxy);
    let routes = NodeRoutesConfig {
        node_name: plan.node_name.clone(),
        address: plan.node_ip,
        pod_cidr: plan.pod_cidr,
        cluster_cidr: plan.cluster_cidr,
        mtu: MTU,
    };
    NodeRoutes::start(ctx, &informers, node, routes).context("cannot start the routes to other nodes")?;
    let view = ServiceView::new(&informers);
    let dns_at = SocketAddrV4::new(node_ip, plan.dns_port);
    let proxy = ProxyConfig {
        pod_cidr: plan.pod_cidr,
        cluster_cidr: plan.cluster_cidr,
        service_cidr: plan.service_cidr,
        node_name: plan.node_name.clone(),
        local_dns: Some(dns_at),
    };
    let proxy = ServiceProxy::start(ctx, &view, proxy).context("cannot start the service proxy")?;
    let dns = DnsConfig {
        listen: dns_at.into(),
        cluster_domain: plan.cluster_domain.clone(),
        ranges: vec![plan.cluster_cidr, plan.service_cidr],
        upstreams: Upstreams::of_host(),
    };
    Dns::start(ctx, &view, dns).context("cannot start the cluster DNS")?;
    Ok(proxy)
}

/// [`start_services`] on the node beside the control plane, and the service through which all reach their DNS.
pub async fn start_first(
    ctx: &Ctx,
    config: &Config,
    control: &ControlPlane,
    node_ip: Ipv4Addr,
) -> Result<()> {
    let ctx = ctx.child("network");
    let proxy = control.client_as("system:kube-proxy", &[], "kube-proxy", &ctx);
    let identity = format!("system:node:{}", config.node_name);
    let node = control.client_as(&identity, &["system:nodes"], "knarr", &ctx);
    let services = start_services(&ctx, &Plan::of_first(config), node_ip, proxy, node)?;
    let own = control.client_as("system:apiserver", &["system:masters"], "knarr", &ctx);
    let at = (config.dns_service_ip(), node_ip, config.dns_port);
    ensure_dns_service(&own, at.0, at.1, at.2).await.context("cannot write the service kube-dns")?;
    // Whoever is told that the cluster is ready may use services and names at once.
    if timeout(&*ctx.clock, SERVICES_LIMIT, services.synced()).await.is_none() {
        tracing::warn!(
            "services are not in the kernel after {} s; going on without",
            SERVICES_LIMIT.as_secs()
        );
    }
    Ok(())
}
