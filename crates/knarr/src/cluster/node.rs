//! The node of this machine: image store, runtime, pod network, kubelet, service proxy, cluster DNS.

use crate::commands::version::KUBERNETES;
use crate::config::Config;
use crate::daemon::images;
use crate::host::data::Layout;
use crate::output::Progress;
use anyhow::{Context, Result};
use futures_util::future::BoxFuture;
use knarr_api::core::v1::Node as ApiNode;
use knarr_base::Ctx;
use knarr_client::{Change, Client, Informers};
use knarr_image::ImageStore;
use knarr_kubelet::{Kubelet, KubeletConfig};
use knarr_runtime::{Runtime, RuntimeOptions};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A container's log is rotated at this size, and so many files are kept (the kubelet's defaults).
const LOG_MAX_BYTES: u64 = 10 << 20;
const LOG_MAX_FILES: u32 = 5;

/// What of the node does not need the control plane, and so is opened beside it.
pub struct Parts {
    /// Images.
    pub images: Arc<ImageStore>,
    /// Containers; those of an earlier `knarr` are adopted.
    pub runtime: Arc<Runtime>,
}

/// Options of the runtime on this data directory.
pub fn runtime_options(config: &Config) -> RuntimeOptions {
    RuntimeOptions {
        state_dir: Layout(config.data_dir.clone()).runtime(),
        cgroup_root: config.cgroup_root.clone(),
        shim_program: None,
    }
}

/// Opens images and runtime.
pub async fn open(ctx: &Ctx, config: &Config) -> Result<Parts> {
    let layout = Layout(config.data_dir.clone());
    let (store_ctx, store_config, dir) = (ctx.clone(), config.clone(), layout.images());
    let images = tokio::task::spawn_blocking(move || images::open(&store_ctx, &dir, &store_config)).await??;
    let runtime =
        Runtime::open(ctx, runtime_options(config)).await.context("cannot start the container runtime")?;
    Ok(Parts { images, runtime })
}

/// What a node is told.
pub struct NodeSettings {
    /// Its address.
    pub node_ip: Ipv4Addr,
    /// Address of the service kube-dns.
    pub cluster_dns: Ipv4Addr,
    /// The cluster's domain.
    pub cluster_domain: String,
    /// The kubelet's certificate and its clients' CA.
    pub tls: Arc<rustls::ServerConfig>,
    /// Reaches the API as `system:node:<name>`, in a scope.
    pub client: Box<dyn Fn(&Ctx) -> Client + Send + Sync>,
    /// Connects pods.
    pub network: Arc<dyn knarr_kubelet::PodNetwork>,
    /// Whether starting waits for the Node to be Ready: not while the server cannot be reached.
    pub wait: bool,
}

/// A running node.
pub struct Node {
    ctx: Ctx,
    /// Its images.
    pub images: Arc<ImageStore>,
    /// Its containers.
    pub runtime: Arc<Runtime>,
    _kubelet: Kubelet,
}

impl Node {
    /// Starts the node's services; returns once the Node object is Ready.
    pub async fn start(
        ctx: &Ctx,
        config: &Config,
        settings: NodeSettings,
        parts: Parts,
        progress: &mut Progress,
    ) -> Result<Self> {
        let ctx = ctx.child("node");
        let layout = Layout(config.data_dir.clone());
        let client = (settings.client)(&ctx);
        let kubelet = KubeletConfig {
            node_name: config.node_name.clone(),
            node_ip: settings.node_ip.into(),
            root_dir: layout.kubelet(),
            log_dir: layout.logs(),
            cluster_dns: vec![settings.cluster_dns.into()],
            cluster_domain: settings.cluster_domain,
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, config.kubelet_port)),
            tls: Some(settings.tls),
            client: client.clone(),
            runtime: parts.runtime.clone(),
            images: parts.images.clone(),
            network: settings.network,
            labels: BTreeMap::new(),
            capacity: None,
            version: KUBERNETES.to_owned(),
            pod_max_pids: config.pod_max_pids,
            runtime_handlers: config.runtime_handlers.clone(),
            credential_providers: config.credential_providers.clone(),
            static_pods: Some(layout.manifests()),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            log_max_bytes: LOG_MAX_BYTES,
            housekeeping: config.housekeeping.clone(),
            shutdown: config.shutdown.clone(),
            log_max_files: LOG_MAX_FILES,
        };
        let kubelet = Kubelet::new(&ctx, kubelet).context("cannot make the kubelet")?;
        kubelet.start().await.context("cannot start the kubelet")?;
        if settings.wait {
            wait_until_ready(&ctx, &settings.client, &config.node_name).await?;
            progress.done(ctx.clock.instant(), "node", &format!("{} is Ready", config.node_name));
        }
        Ok(Self { ctx, images: parts.images, runtime: parts.runtime, _kubelet: kubelet })
    }

    /// Stops the node's services. Its pods run on.
    pub async fn shutdown(self) {
        self.ctx.tasks.shutdown(Duration::from_secs(5)).await;
    }
}

/// Waits for the Node's Ready condition, by a watch.
async fn wait_until_ready(
    ctx: &Ctx,
    client: &(dyn Fn(&Ctx) -> Client + Send + Sync),
    name: &str,
) -> Result<()> {
    const LIMIT: Duration = Duration::from_secs(60);
    let scope = ctx.child("ready");
    let informers = Informers::new(client(&scope));
    let node = informers.filtered::<ApiNode>("", "", &format!("metadata.name={name}"));
    let ready = tokio::sync::watch::Sender::new(false);
    let told = ready.clone();
    node.on_change(move |change: &Change<ApiNode>| {
        let conditions =
            change.new.as_ref().and_then(|n| n.status.as_ref()?.conditions.clone()).unwrap_or_default();
        told.send_replace(conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"));
    });
    let mut seen = ready.subscribe();
    let waited = knarr_base::clock::timeout(&*ctx.clock, LIMIT, seen.wait_for(|ready| *ready)).await;
    scope.tasks.stop();
    waited.with_context(|| {
        format!("the node {name} did not become Ready within {} s; see the log", LIMIT.as_secs())
    })??;
    Ok(())
}

/// A host port as the network has it; `None` for other address families than IPv4.
fn host_port(port: &knarr_kubelet::HostPort) -> Option<knarr_network::HostPort> {
    let host_ip = match port.host_ip {
        None => None,
        Some(std::net::IpAddr::V4(ip)) => Some(ip),
        Some(std::net::IpAddr::V6(_)) => return None,
    };
    Some(knarr_network::HostPort {
        protocol: knarr_network::proxy::rules::Protocol::parse(Some(&port.protocol))?,
        host_ip,
        host_port: port.host_port,
        pod_port: port.container_port,
    })
}

/// The kubelet's view of the pod network.
pub struct Pods(pub Arc<knarr_network::PodNetwork>);

impl knarr_kubelet::PodNetwork for Pods {
    fn attach<'a>(
        &'a self,
        request: knarr_kubelet::NetworkRequest<'a>,
    ) -> BoxFuture<'a, Result<Vec<std::net::IpAddr>, String>> {
        let (network, uid, netns) = (self.0.clone(), request.uid.to_owned(), request.netns.to_owned());
        let ports: Vec<knarr_network::HostPort> = request.host_ports.iter().filter_map(host_port).collect();
        Box::pin(async move {
            let attached = tokio::task::spawn_blocking(move || {
                let address = network.attach(&uid, &netns)?;
                network.publish(&uid, &ports)?;
                Ok::<_, knarr_network::NetworkError>(address)
            })
            .await;
            let address = attached.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
            Ok(vec![address.into()])
        })
    }

    fn detach<'a>(&'a self, uid: &'a str) -> BoxFuture<'a, Result<(), String>> {
        let (network, uid) = (self.0.clone(), uid.to_owned());
        Box::pin(async move {
            tokio::task::spawn_blocking(move || network.detach(&uid))
                .await
                .map_err(|e| e.to_string())?
                .map_err(|e| e.to_string())
        })
    }
}
