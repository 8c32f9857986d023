//! The API server as a value: configuration, a store, declarations and admission plugins go in; a server that
//! listens, and transports for the parts of this process, come out. Two of them in one process share nothing.

use crate::admission::Plugin;
use crate::custom::CustomResources;
use crate::custom::outbound::Webhooks;
use crate::def::ResourceDef;
use crate::front::aggregate::priority::REGISTRATION_GROUP;
use crate::front::aggregate::{Aggregator, Loopback, trust_of};
use crate::front::authn::tokens::BadSigningKey;
use crate::front::authn::{Authenticator, Tokens};
use crate::front::authz;
use crate::front::authz::rbac::GROUP as RBAC;
use crate::front::chain::{Chain, InProcess, OWN_NAME};
use crate::front::components::{self, Components};
use crate::front::discovery::Discovery;
use crate::front::documents::Documents;
use crate::front::flowcontrol::{self, FlowControl};
use crate::front::health::Health;
use crate::front::metrics::RequestMetrics;
use crate::front::openapi::OpenApi;
use crate::front::pki::{Pki, PkiConfig, PkiError};
use crate::front::resource_metrics;
use crate::front::reviews::{self, Late};
use crate::front::serve::{Front, listen};
use crate::front::stream::{self, Kubelets};
use crate::front::tls::{self, ClientCertificates, ServingCertificate, TlsError};
use crate::measured::Measured;
use crate::registry::Registry;
use crate::request::UserInfo;
use crate::webhook::{ClientManager, ClusterIps};
use arc_swap::ArcSwap;
use knarr_base::Ctx;
use knarr_client::{Client, Transport};
use knarr_store::Store;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// How often the running server looks whether certificates are about to expire.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(3600);

/// Upstream's default of --etcd-compaction-interval.
pub const COMPACTION_INTERVAL: Duration = Duration::from_secs(300);

/// What every request may need for its authentication and authorization.
const AUTHORIZATION_KINDS: [(&str, &str); 7] = [
    (RBAC, "clusterrolebindings"),
    (RBAC, "clusterroles"),
    (RBAC, "rolebindings"),
    (RBAC, "roles"),
    ("", "serviceaccounts"),
    ("", "pods"),
    ("", "nodes"),
];

/// What a server needs to know.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Addresses to listen on; port 0 takes any.
    pub listen: Vec<SocketAddr>,
    /// Where clients reach this server (kubeconfigs, discovery, the endpoints of `kubernetes.default`).
    pub advertise: SocketAddr,
    /// Certificates: directory and what they must cover.
    pub pki: PkiConfig,
    /// The issuer of service-account tokens.
    pub issuer: String,
    /// The audiences of this server; the issuer when empty, as upstream.
    pub audiences: Vec<String>,
    /// How many requests are served at once, besides those that are exempt (see [`flowcontrol::TOTAL_SEATS`]).
    pub seats: u64,
    /// How often the store's history is compacted; zero for never.
    pub compaction_interval: Duration,
}

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Certificates.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The key for tokens.
    #[error(transparent)]
    SigningKey(#[from] BadSigningKey),
    /// The address is taken or not this machine's.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// An API server.
pub struct ApiServer {
    config: ServerConfig,
    ctx: Ctx,
    store: Arc<dyn Store>,
    chain: Arc<Chain>,
    front: Front,
    pki: ArcSwap<Pki>,
    serving: Arc<ServingCertificate>,
    kubelet_serving: Arc<ServingCertificate>,
    kubelets: Arc<Kubelets>,
    tokens: Arc<Tokens>,
    components: Arc<Components>,
    /// Whether the custom resources that there are at the start are served.
    custom_resources: watch::Receiver<bool>,
    issued: Vec<String>,
    renewals: watch::Sender<u64>,
}

impl ApiServer {
    /// Makes a server. The declarations of reviews and the streaming subresources are added to `defs`;
    /// what is declared there already is left as it is. Nothing listens yet; [`ApiServer::transport`] works.
    pub fn new(
        config: ServerConfig,
        ctx: &Ctx,
        store: Arc<dyn Store>,
        mut defs: Vec<ResourceDef>,
        plugins: Vec<Arc<dyn Plugin>>,
    ) -> Result<Arc<Self>, ServerError> {
        let ctx = ctx.child("apiserver");
        let (pki, issued) = Pki::ensure(config.pki.clone(), ctx.clock.now())?;
        for line in &issued {
            tracing::info!("issued {line}");
        }
        let audiences =
            if config.audiences.is_empty() { vec![config.issuer.clone()] } else { config.audiences.clone() };
        let tokens = Arc::new(Tokens::new(&pki.service_account_key()?, &config.issuer, audiences)?);
        let kubelets = Kubelets::new(ctx.clone(), &pki)?;
        let late = Arc::new(Late { authorizer: OnceLock::new(), tokens: tokens.clone() });
        let components = Components::new(&ctx, store.clone());
        complete(&mut defs, &late, &kubelets, &components);
        defs.extend(resource_metrics::defs(&resource_metrics::Scraper::new(&ctx, &kubelets)));

        let store = Measured::new(&ctx, store, &defs);
        let registry = Registry::new(&ctx, store.clone(), defs, plugins);
        let reader = registry.reader();
        let authorizer = Arc::new(authz::Chain::new(reader.clone()));
        let _ = late.authorizer.set(authorizer.clone());
        registry.set_authorizer(authorizer.clone());
        let webhooks =
            Webhooks { ctx: ctx.clone(), clients: Arc::new(ClientManager::new()), reader: reader.clone() };
        let custom = CustomResources::new(&ctx, &registry, Arc::new(webhooks));
        registry.set_custom_resources(custom.clone());
        let gate = ctx.tasks.ready_gate("custom-resources");
        let (installed, custom_resources) = watch::channel(false);
        ctx.tasks.spawn_until_stopped("custom resources", async move {
            let ready = || {
                gate.open();
                installed.send_replace(true);
            };
            custom.run(ready).await;
        });
        let flow = FlowControl::new(&ctx, registry.clone(), config.seats);
        let resolver = Loopback { others: ClusterIps(reader.clone()), own: config.advertise };
        let aggregator = Aggregator::new(&ctx, &pki, Arc::new(resolver))?;
        let documents = Documents {
            flow: flow.clone(),
            ctx: ctx.clone(),
            registry: registry.clone(),
            discovery: Discovery::new(registry.clone(), aggregator.clone(), config.advertise.to_string()),
            openapi: OpenApi::new(registry.clone(), aggregator.clone()),
            health: Health::new(ctx.clone(), store.clone()),
            tokens: tokens.clone(),
            jwks_uri: format!("https://{}/openid/v1/jwks", config.advertise),
        };
        let chain = Arc::new(Chain {
            metrics: RequestMetrics::new(&ctx.metrics),
            flow,
            ctx: ctx.clone(),
            registry,
            reader,
            authenticator: Authenticator { tokens: tokens.clone() },
            authorizer,
            documents,
            aggregator,
            loopback: OnceLock::new(),
        });
        let own = UserInfo::new(OWN_NAME, &["system:masters"]);
        let loopback = Client::new(transport(&chain, own), "kube-apiserver", ctx.clone());
        let _ = chain.loopback.set(loopback);

        let serving = ServingCertificate::new(&pki.pem("apiserver")?)?;
        let kubelet_serving = ServingCertificate::new(&pki.pem("kubelet")?)?;
        let front_proxy =
            knarr_tls::roots("front-proxy-ca", pki.front_proxy_ca()?).map_err(TlsError::from)?;
        let roots = knarr_tls::roots("ca", pki.ca()?).map_err(TlsError::from)?;
        let clients = ClientCertificates::new(roots, front_proxy)?;
        let tls = Arc::new(tls::server_config(serving.clone(), clients.clone())?);
        let front = Front { chain: chain.clone(), tls, clients };
        Ok(Arc::new(Self {
            config,
            ctx,
            store,
            chain,
            front,
            pki: ArcSwap::from_pointee(pki),
            serving,
            kubelet_serving,
            kubelets,
            tokens,
            components,
            custom_resources,
            issued,
            renewals: watch::Sender::new(0),
        }))
    }

    /// Listens on the configured addresses; the result says on which ones (ports filled in). Ready once what
    /// authentication and authorization read is in memory.
    pub async fn start(self: &Arc<Self>) -> Result<Vec<SocketAddr>, ServerError> {
        let gate = self.ctx.tasks.ready_gate("authorization-caches");
        if self.store.freshness() != knarr_store::Freshness::Told {
            // What the server's own parts read without waiting is read from the caches then.
            self.chain.registry.warm_all().await;
        }
        let mut bound = Vec::new();
        for address in &self.config.listen {
            let failed = |source| ServerError::Listen { address: *address, source };
            let listener = TcpListener::bind(address).await.map_err(failed)?;
            bound.push(listener.local_addr().map_err(failed)?);
            self.serve(listener);
        }
        let registry = self.chain.registry.clone();
        self.ctx.tasks.spawn_until_stopped("authorization caches", async move {
            registry.warm(&AUTHORIZATION_KINDS).await;
            gate.open();
        });
        let loopback = self.chain.loopback.get().expect("the constructor sets the loopback client").clone();
        let served = ["flowschemas", "prioritylevelconfigurations"].iter().all(|kind| {
            let defs = self.chain.registry.defs();
            defs.iter().any(|def| def.resource == *kind && def.group == flowcontrol::GROUP)
        });
        let flow = self.chain.flow.clone().run(loopback, served);
        self.ctx.tasks.spawn_until_stopped("priority and fairness", flow);
        if self.chain.registry.def(REGISTRATION_GROUP, "apiservices", "v1").is_some() {
            let own = UserInfo::new(OWN_NAME, &["system:masters"]);
            let client = Client::new(self.transport(own), "kube-aggregator", self.ctx.clone());
            let custom_resources = self.custom_resources.clone();
            let trust = trust_of(&self.pki.load())?;
            self.chain.aggregator.start(client, &self.chain.registry, custom_resources, trust);
        }
        let (store, interval) = (self.store.clone(), self.config.compaction_interval);
        let compaction = knarr_store::compact_periodically(self.ctx.clone(), store, interval);
        self.ctx.tasks.spawn_until_stopped("compaction", compaction);
        let this = Arc::downgrade(self);
        let clock = self.ctx.clock.clone();
        self.ctx.tasks.spawn_until_stopped("certificate renewal", async move {
            loop {
                clock.sleep(RENEWAL_INTERVAL).await;
                let Some(server) = this.upgrade() else { return };
                if let Err(error) = server.renew_certificates(None).await {
                    tracing::error!(%error, "certificates could not be renewed");
                }
            }
        });
        Ok(bound)
    }

    /// Serves connections of `listener` until this server's tasks are stopped.
    pub fn serve(&self, listener: TcpListener) {
        self.ctx.tasks.spawn("listener", listen(self.front.clone(), listener));
    }

    /// A way in for a part of this process, under `user`: everything but the socket, TLS and authentication.
    pub fn transport(&self, user: UserInfo) -> Arc<dyn Transport> {
        transport(&self.chain, user)
    }

    /// The registry.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.chain.registry
    }

    /// The certificates as they are now.
    pub fn pki(&self) -> Arc<Pki> {
        self.pki.load_full()
    }

    /// Signs and checks service-account tokens.
    pub fn tokens(&self) -> &Arc<Tokens> {
        &self.tokens
    }

    /// The parts of the control plane, for component statuses: whoever runs one in this process says so here.
    pub fn components(&self) -> &Arc<Components> {
        &self.components
    }

    /// The serving certificate of this machine's kubelet, as it is at the time of each handshake.
    pub fn kubelet_certificate(&self) -> Arc<ServingCertificate> {
        self.kubelet_serving.clone()
    }

    /// The configuration.
    pub fn config(&self) -> &ServerConfig {
        &self.config
    }

    /// What was issued when the server was made, for progress lines.
    pub fn issued(&self) -> &[String] {
        &self.issued
    }

    /// Issues anew what is about to expire, or no longer covers the machine's addresses when they are given,
    /// and uses it at once for new connections. Says what was issued.
    pub async fn renew_certificates(
        &self,
        addresses: Option<Vec<IpAddr>>,
    ) -> Result<Vec<String>, ServerError> {
        let pki = self.pki.load_full();
        let pki = addresses.map_or_else(|| Pki::clone(&pki), |addresses| pki.with_addresses(addresses));
        let now = self.ctx.clock.now();
        let (pki, issued) =
            match tokio::task::spawn_blocking(move || pki.renew(now).map(|issued| (pki, issued))).await {
                Ok(result) => result?,
                Err(panic) => std::panic::resume_unwind(panic.into_panic()),
            };
        for line in &issued {
            tracing::info!("issued {line}");
        }
        self.serving.replace(&pki.pem("apiserver")?)?;
        self.kubelet_serving.replace(&pki.pem("kubelet")?)?;
        self.kubelets.reload(&pki)?;
        self.chain.aggregator.reload(&pki)?;
        self.pki.store(Arc::new(pki));
        if !issued.is_empty() {
            self.renewals.send_modify(|count| *count += 1);
        }
        Ok(issued)
    }

    /// Changes whenever certificates were issued anew: whoever holds others of them (the kubelet's) reads them
    /// again from [`ApiServer::pki`].
    pub fn renewals(&self) -> watch::Receiver<u64> {
        self.renewals.subscribe()
    }

    /// Stops listening, ends watches, lets requests finish; false when some did not within `deadline`.
    pub async fn shutdown(&self, deadline: Duration) -> bool {
        self.ctx.tasks.shutdown(deadline).await
    }
}

fn transport(chain: &Arc<Chain>, user: UserInfo) -> Arc<dyn Transport> {
    Arc::new(InProcess { chain: Arc::downgrade(chain), user: Arc::new(user) })
}

/// Adds the reviews, component statuses and the streaming subresources.
fn complete(
    defs: &mut Vec<ResourceDef>,
    late: &Arc<Late>,
    kubelets: &Arc<Kubelets>,
    components: &Arc<Components>,
) {
    for review in reviews::defs(late).into_iter().chain([components::def(components)]) {
        if !defs.iter().any(|def| def.group == review.group && def.resource == review.resource) {
            defs.push(review);
        }
    }
    for def in defs.iter_mut().filter(|def| def.group.is_empty()) {
        let mut subresources = stream::subresources(kubelets, &def.resource);
        if def.resource == "serviceaccounts" {
            subresources.push(reviews::token_subresource(late));
        }
        for subresource in subresources {
            if !def.subresources.iter().any(|known| known.name == subresource.name) {
                def.subresources.push(subresource);
            }
        }
    }
}

#[cfg(test)]
mod tests;
