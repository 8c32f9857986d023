//! The control plane: API server on the embedded store or on etcd, controllers, scheduler. Each component has an
//! identity of its own and meets the others at the API only. On etcd there may be several control planes: controllers
//! and scheduler run in the one that holds their Lease.

use super::join;
use crate::config::Config;
use crate::host::data::Layout;
use crate::output::Progress;
use anyhow::{Context, Result};
use knarr_apiserver::pki::PkiConfig;
use knarr_apiserver::request::UserInfo;
use knarr_apiserver::{ApiServer, ServerConfig};
use knarr_base::Ctx;
use knarr_client::{Client, Election};
use knarr_controllers::{Cidr, NodeIpam, SigningCa, TokenSigner, TokenSubject, manager};
use knarr_resources::bootstrap;
use knarr_scheduler::{Scheduler, SchedulerConfig};
use knarr_store::Store;
use knarr_store::embedded::{Engine, EngineOptions};
use knarr_store::etcd::EtcdStore;
use knarr_tls as tls;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// The keyspace of this cluster in the store.
pub const KEYSPACE: &str = "default";
/// Requests and writes that are under way when the cluster stops get this long.
const DRAIN: Duration = Duration::from_secs(5);

/// A running control plane.
pub struct ControlPlane {
    /// Its API server.
    pub server: Arc<ApiServer>,
    store: Arc<dyn Store>,
    /// The embedded engine; `None` on etcd.
    engine: Option<Engine>,
    ctx: Ctx,
    /// What works through the server and is stopped before it.
    components: Ctx,
}

impl ControlPlane {
    /// Opens the store, starts the server and, once it is ready, whatever works through it. `node_ip` is where
    /// pods reach the server; `addresses` are all addresses of this machine, which has a node of its own `with_node`.
    pub async fn start(
        ctx: &Ctx,
        config: &Config,
        node_ip: Ipv4Addr,
        addresses: Vec<IpAddr>,
        with_node: bool,
        progress: &mut Progress,
    ) -> Result<Self> {
        let layout = Layout(config.data_dir.clone());
        let name = format!("{}_{}", config.node_name, ctx.rng.uuid());
        let clock = ctx.clock.clone();
        let (store, engine) = open_store(ctx, config, &layout).await?;
        progress.done(
            clock.instant(),
            "store",
            &format!("{} objects at revision {}", store.stats().keys, store.revision()),
        );

        let server_config = ServerConfig {
            listen: vec![SocketAddr::from((config.bind_address, config.https_port))],
            advertise: SocketAddr::from((node_ip, config.https_port)),
            pki: PkiConfig {
                dir: layout.pki(),
                node_name: config.node_name.clone(),
                addresses,
                service_ip: config.kubernetes_service_ip().into(),
                cluster_domain: config.cluster_domain.clone(),
                extra_names: Vec::new(),
            },
            issuer: format!("https://kubernetes.default.svc.{}", config.cluster_domain),
            audiences: Vec::new(),
            seats: knarr_apiserver::front::flowcontrol::TOTAL_SEATS,
            compaction_interval: config.compaction_interval,
        };
        let server = ApiServer::new(
            server_config,
            ctx,
            store.clone(),
            knarr_resources::all(),
            knarr_resources::plugins(),
        )
        .context("cannot make the API server")?;
        let bound = server.start().await?;
        let own =
            client(&server, ctx, UserInfo::new("system:apiserver", &["system:masters"]), "kube-apiserver");
        let initial = bootstrap_config(config, node_ip, &server)?;
        let defs = server.registry().defs();
        bootstrap::run(ctx, &own, &defs, &initial).await.context("cannot write the initial objects")?;
        knarr_controllers::apiextensions::start(ctx, own.clone());
        knarr_controllers::start_kubelet_serving(ctx, own);
        let at = bound.first().map(ToString::to_string).unwrap_or_default();
        progress.done(clock.instant(), "API server", &format!("https://{at}"));

        let components = ctx.child("components");
        let this = Self { server, store, engine, ctx: ctx.clone(), components };
        let mut started = Vec::new();
        if config.controller_manager {
            let (server, config) =
                (this.server.clone(), controllers_config(&this.server, config, with_node)?);
            let start = move |ctx: &Ctx| start_controllers(&server, ctx, config.clone());
            this.run_one("system:kube-controller-manager", "kube-controller-manager", &name, start);
            started.push("controllers");
        }
        if config.scheduler {
            let server = this.server.clone();
            let start = move |ctx: &Ctx| start_scheduler(&server, ctx);
            this.run_one("system:kube-scheduler", "kube-scheduler", &name, start);
            started.push("scheduler");
        }
        if !started.is_empty() {
            progress.done(clock.instant(), "control plane", &started.join(" and "));
        }
        let reached = super::network::underlay()?.unwrap_or(node_ip);
        join::publish(&this.components, &this, config, format!("https://{reached}:{}", config.https_port))?;
        Ok(this)
    }

    /// Starts a component here, or, where several control planes share a store, in the one that holds its Lease.
    fn run_one(&self, user: &str, name: &str, identity: &str, mut start: impl FnMut(&Ctx) + Send + 'static) {
        let shown = name.trim_start_matches("kube-");
        self.server.components().host(shown, self.components.tasks.clone());
        if self.engine.is_some() {
            start(&self.components.child(name));
            return;
        }
        let client = self.client_as(user, &[], "leader-election", &self.components);
        let election = Election::new(client, "kube-system", name, identity);
        self.components.tasks.spawn("election", election.run(self.components.clone(), start));
    }

    /// A client of this control plane under an identity.
    pub fn client_as(&self, user: &str, groups: &[&str], agent: &str, ctx: &Ctx) -> Client {
        client(&self.server, ctx, UserInfo::new(user, groups), agent)
    }

    /// The scope of what works through the server and is stopped before it.
    pub fn components(&self) -> &Ctx {
        &self.components
    }

    /// The store, for its numbers.
    pub fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    /// The embedded engine, `None` on etcd.
    pub fn engine(&self) -> Option<Engine> {
        self.engine.clone()
    }

    /// TLS of this machine's kubelet: its serving certificate, and clients of the cluster's CA or without a certificate
    /// (they show tokens).
    pub fn kubelet_tls(&self) -> Result<Arc<rustls::ServerConfig>> {
        let pki = self.server.pki();
        let roots = Arc::new(tls::roots("ca", pki.ca()?)?);
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(roots, tls::provider())
            .allow_unauthenticated()
            .build()?;
        let config = rustls::ServerConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(self.server.kubelet_certificate());
        Ok(Arc::new(config))
    }

    /// Stops what works through the server, then serving; lets writes finish; closes the store.
    pub async fn shutdown(self) {
        // With a moment to give Leases up.
        self.components.tasks.shutdown(DRAIN).await;
        self.server.shutdown(DRAIN).await;
        self.ctx.tasks.shutdown(DRAIN).await;
        if let Some(engine) = self.engine {
            let _ = tokio::task::spawn_blocking(move || engine.close()).await;
        }
    }
}

/// Opens the embedded store, or connects to etcd.
async fn open_store(ctx: &Ctx, config: &Config, layout: &Layout) -> Result<(Arc<dyn Store>, Option<Engine>)> {
    if let Some(etcd) = &config.etcd {
        let store = EtcdStore::connect(ctx, etcd.clone()).await.context("cannot connect to etcd")?;
        return Ok((store, None));
    }
    let (store_ctx, options) = (ctx.clone(), EngineOptions::new(layout.store()));
    let opened = tokio::task::spawn_blocking(move || Engine::open(&store_ctx, options)).await?;
    let engine = opened.context("cannot open the store")?;
    Ok((engine.keyspace(KEYSPACE), Some(engine)))
}

fn controllers_config(server: &ApiServer, config: &Config, with_node: bool) -> Result<manager::Config> {
    let ca = server.pki().pem("ca")?;
    let tokens = server.tokens().clone();
    let sign =
        move |of: TokenSubject<'_>| tokens.sign_for_secret(of.namespace, of.account, of.uid, of.secret);
    Ok(manager::Config {
        token_signer: Some(TokenSigner(Arc::new(sign))),
        cluster_ca: ca.certificate.clone(),
        signing_ca: Some(SigningCa {
            certificate: ca.certificate,
            key: ca.key,
            duration: config.signing_duration,
        }),
        local_path: true,
        node_ipam: Some(NodeIpam {
            cluster: cidr(config.pod_cidr),
            node_prefix: config.node_prefix,
            services: cidr(config.service_cidr),
            own: with_node.then(|| config.node_name.clone()),
        }),
    })
}

fn cidr(range: knarr_network::Range) -> Cidr {
    Cidr { network: range.network, prefix: range.prefix }
}

fn start_controllers(server: &ApiServer, ctx: &Ctx, config: manager::Config) {
    let user = UserInfo::new("system:kube-controller-manager", &[]);
    let shared = client(server, ctx, user, "kube-controller-manager");
    let client_for = |account: &str| {
        let name = format!("system:serviceaccount:kube-system:{account}");
        let groups = ["system:serviceaccounts", "system:serviceaccounts:kube-system"];
        client(server, ctx, UserInfo::new(&name, &groups), account)
    };
    manager::start(ctx, shared, &client_for, config);
}

fn start_scheduler(server: &ApiServer, ctx: &Ctx) {
    let client = client(server, ctx, UserInfo::new("system:kube-scheduler", &[]), "kube-scheduler");
    Scheduler::start(ctx, client, SchedulerConfig::default());
}

fn client(server: &ApiServer, ctx: &Ctx, user: UserInfo, agent: &str) -> Client {
    Client::new(server.transport(user), agent, ctx.clone())
}

fn bootstrap_config(
    config: &Config,
    node_ip: Ipv4Addr,
    server: &ApiServer,
) -> Result<bootstrap::BootstrapConfig> {
    let pki = server.pki();
    let front_proxy_ca = std::fs::read_to_string(pki.path("front-proxy-ca.crt"))
        .context("cannot read the front proxy's CA")?;
    Ok(bootstrap::BootstrapConfig {
        service_cidr: config.service_cidr.to_string(),
        service_ip: config.kubernetes_service_ip(),
        endpoint: (node_ip, config.https_port),
        client_ca: pki.ca()?,
        front_proxy_ca,
    })
}
