//! What tests share. [`Cluster`] is a whole API server with every built-in kind, over the store that forgets, in this
//! process; it listens on a free port of the loopback interface, and its clients skip the socket.

use knarr_apiserver::pki::PkiConfig;
use knarr_apiserver::request::UserInfo;
use knarr_apiserver::{ApiServer, ServerConfig};
use knarr_base::Ctx;
use knarr_client::{Client, Transport};
use knarr_resources::bootstrap::{self, BootstrapConfig};
use knarr_store::memory::MemoryStore;
use std::fmt::Debug;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// A running API server.
pub struct Cluster {
    /// Clock, random numbers, tasks.
    pub ctx: Ctx,
    /// The server.
    pub server: Arc<ApiServer>,
    /// Where it listens.
    pub address: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Cluster {
    /// Starts a server and writes the initial objects.
    pub async fn start() -> Self {
        Self::start_with(Ctx::system()).await
    }

    /// The same over other surroundings, say with a clock that a test moves.
    pub async fn start_with(ctx: Ctx) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        let (service_ip, node_ip) = (Ipv4Addr::new(10, 96, 0, 1), Ipv4Addr::new(10, 244, 0, 1));
        let config = ServerConfig {
            listen: vec![free],
            advertise: SocketAddr::from((node_ip, 6443)),
            pki: PkiConfig {
                dir: dir.path().join("pki"),
                node_name: "alpha".to_owned(),
                addresses: Vec::new(),
                service_ip: IpAddr::from(service_ip),
                cluster_domain: "cluster.local".to_owned(),
                extra_names: Vec::new(),
            },
            issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
            audiences: Vec::new(),
            seats: knarr_apiserver::front::flowcontrol::TOTAL_SEATS,
            compaction_interval: knarr_apiserver::COMPACTION_INTERVAL,
        };
        let store = MemoryStore::new(&ctx);
        let server = ApiServer::new(config, &ctx, store, knarr_resources::all(), knarr_resources::plugins())
            .expect("the configuration of a test is right");
        let bound = server.start().await.expect("a free port can be listened on");
        let address = *bound.first().expect("it listens somewhere");
        let this = Self { ctx, server, address, _dir: dir };
        let initial = BootstrapConfig {
            service_cidr: "10.96.0.0/16".to_owned(),
            service_ip,
            endpoint: (node_ip, 6443),
            client_ca: this.server.pki().ca().expect("the CA was just made"),
            front_proxy_ca: String::new(),
        };
        bootstrap::run(&this.ctx, &this.admin(), &this.server.registry().defs(), &initial)
            .await
            .expect("the initial objects can be written");
        this
    }

    /// A client that may do anything.
    pub fn admin(&self) -> Client {
        self.client_as("admin", &["system:masters"])
    }

    /// A client under an identity.
    pub fn client_as(&self, user: &str, groups: &[&str]) -> Client {
        self.client_in(&self.ctx, user, groups)
    }

    /// The same in other surroundings, say by a clock that a test moves.
    pub fn client_in(&self, ctx: &Ctx, user: &str, groups: &[&str]) -> Client {
        Client::new(self.transport(user, groups), "test", ctx.clone())
    }

    /// What carries the requests of a client, for tests that put something in between.
    pub fn transport(&self, user: &str, groups: &[&str]) -> Arc<dyn Transport> {
        self.server.transport(UserInfo::new(user, groups))
    }

    /// A client of a service account in kube-system.
    pub fn client_of(&self, account: &str) -> Client {
        let groups = ["system:serviceaccounts", "system:serviceaccounts:kube-system"];
        self.client_as(&format!("system:serviceaccount:kube-system:{account}"), &groups)
    }

    /// Stops serving.
    pub async fn stop(self) {
        self.server.shutdown(Duration::from_secs(5)).await;
        self.ctx.tasks.shutdown(Duration::from_secs(5)).await;
    }
}

/// Asks `look` until it says yes, and panics with what it last saw after `limit`. The pause between two looks is
/// short against what tests wait for.
pub async fn wait_for<T: Debug, F>(what: &str, limit: Duration, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, String>>,
{
    let ctx = Ctx::system();
    let start = ctx.clock.instant();
    loop {
        match look().await {
            Ok(found) => return found,
            Err(seen) if ctx.clock.instant() - start > limit => {
                panic!("{what}: not within {limit:?}; last seen: {seen}")
            }
            Err(_) => ctx.clock.sleep(Duration::from_millis(20)).await,
        }
    }
}
