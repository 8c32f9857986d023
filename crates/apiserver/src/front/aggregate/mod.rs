//! The aggregator (kube-aggregator): API services that a service answers are served by passing requests on to it; their
//! groups appear in discovery and OpenAPI beside this server's own.
//!
//! - [`service`]: API services, and the order of groups.
//! - [`proxy`], [`transport`], [`identity`]: requests on their way to an extension API server.
//! - [`availability`]: the condition Available.
//! - [`autoregister`], [`priority`]: API services for what is answered here.
//! - [`documents`], [`openapi`]: what extension API servers say of themselves.
//! - [`trust`]: what they need to know of this server.

pub mod autoregister;
pub mod availability;
mod documents;
mod identity;
pub mod openapi;
pub mod priority;
mod proxy;
pub mod service;
#[cfg(test)]
mod tests;
pub mod transport;
mod trust;

pub use documents::Fetched;
pub use service::{Ranked, Service, arrange};
pub use trust::required as trust_of;

use super::pki::Pki;
use super::tls::TlsError;
use crate::registry::Registry;
use crate::request::RequestInfo;
use crate::webhook::ServiceResolver;
use arc_swap::{ArcSwap, ArcSwapOption};
use knarr_api::apiregistration::v1::APIService;
use knarr_api::jiff;
use knarr_api::meta::v1::Time;
use knarr_base::Ctx;
use knarr_client::{Client, Informers};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;
use tokio::sync::watch;
use transport::{Backend, FrontProxy};

/// All API services at one moment.
#[derive(Default)]
pub struct Table {
    /// By name.
    pub services: BTreeMap<String, Arc<Service>>,
    /// Those that something else answers, by group and version.
    remote: HashMap<String, HashMap<String, Arc<Service>>>,
    /// What they say of themselves, by name.
    pub fetched: BTreeMap<String, Arc<Fetched>>,
    /// Grows with every change that discovery or OpenAPI could show.
    pub generation: u64,
}

impl Table {
    /// The API service of a group version, if something else answers it.
    pub fn remote(&self, group: &str, version: &str) -> Option<&Arc<Service>> {
        self.remote.get(group)?.get(version)
    }

    /// Whether everything is answered here.
    pub fn is_local(&self) -> bool {
        self.remote.is_empty()
    }

    /// All that something else answers.
    pub fn remotes(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values().filter(|service| service.remote.is_some())
    }
}

/// See the module's documentation.
pub struct Aggregator {
    ctx: Ctx,
    resolver: Arc<dyn ServiceResolver>,
    identity: ArcSwapOption<FrontProxy>,
    table: ArcSwap<Table>,
    /// Held while the table is changed.
    writer: Mutex<()>,
}

/// The services' addresses, but the API server's own service leads to where it listens (upstream's loopback
/// resolver).
pub struct Loopback<R> {
    /// Everything else.
    pub others: R,
    /// Where clients reach this server.
    pub own: SocketAddr,
}

impl<R: ServiceResolver> ServiceResolver for Loopback<R> {
    fn resolve(&self, namespace: &str, name: &str, port: u16) -> Result<(String, u16), String> {
        if (namespace, name, port) == ("default", "kubernetes", 443) {
            return Ok((self.own.ip().to_string(), self.own.port()));
        }
        self.others.resolve(namespace, name, port)
    }
}

impl Aggregator {
    /// An aggregator that knows no API service yet and shows the front proxy's certificate of `pki`.
    pub fn new(ctx: &Ctx, pki: &Pki, resolver: Arc<dyn ServiceResolver>) -> Result<Arc<Self>, TlsError> {
        let this = Self::nobody(ctx, resolver);
        this.identity.store(Some(Arc::new(front_proxy(pki)?)));
        Ok(this)
    }

    /// One that has no certificate and so reaches nobody, for documents about what is served here alone.
    pub fn nobody(ctx: &Ctx, resolver: Arc<dyn ServiceResolver>) -> Arc<Self> {
        Arc::new(Self {
            ctx: ctx.clone(),
            resolver,
            identity: ArcSwapOption::empty(),
            table: ArcSwap::default(),
            writer: Mutex::new(()),
        })
    }

    /// Starts to follow the API services through `client`, to check and to register them. Those of custom resources
    /// are looked at once `custom_resources` says that they are served. `trust` is told to extension API servers.
    pub fn start(
        self: &Arc<Self>,
        client: Client,
        registry: &Arc<Registry>,
        custom_resources: watch::Receiver<bool>,
        trust: trust::Data,
    ) {
        let informers = Informers::new(client);
        let gate = self.ctx.tasks.ready_gate("apiservice-registration-controller");
        let services = informers.get::<APIService>();
        let this = self.clone();
        // First of all handlers: what follows reads the table.
        services.on_change(move |change| {
            let name = change.object().metadata.name.clone().unwrap_or_default();
            this.set(&name, change.new.as_deref());
        });
        availability::start(self, &informers);
        documents::start(self, &services);
        autoregister::start(registry, &informers, custom_resources);
        trust::start(informers.client(), &informers, trust);
        self.ctx.tasks.spawn_until_stopped("API services", async move {
            services.synced().await;
            gate.open();
        });
    }

    /// Uses the front proxy's certificate that was issued anew, from the next connection on.
    pub fn reload(&self, pki: &Pki) -> Result<(), TlsError> {
        self.identity.store(Some(Arc::new(front_proxy(pki)?)));
        self.change(|table| {
            for service in table.services.values_mut() {
                let mut changed = Service::clone(service);
                if let Some(remote) = &mut changed.remote {
                    remote.backend = self.backend(&remote.place);
                    *service = Arc::new(changed);
                }
            }
            true
        });
        Ok(())
    }

    /// The API services as they are.
    pub fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    /// One API service.
    pub fn service(&self, name: &str) -> Option<Arc<Service>> {
        self.table.load().services.get(name).cloned()
    }

    /// What an extension API server said of itself.
    pub fn fetched(&self, name: &str) -> Option<Arc<Fetched>> {
        self.table.load().fetched.get(name).cloned()
    }

    /// The names of the API services that a service answers.
    pub fn behind(&self, namespace: &str, service: &str) -> Vec<String> {
        let table = self.table.load();
        let place = |s: &&Arc<Service>| {
            s.remote.as_ref().is_some_and(|r| r.place.namespace == namespace && r.place.service == service)
        };
        table.remotes().filter(place).map(|s| s.name.clone()).collect()
    }

    /// Who answers a request, if it is not this server.
    pub fn owner(&self, info: &RequestInfo) -> Option<Arc<Service>> {
        let table = self.table.load();
        if table.is_local() {
            return None;
        }
        if info.is_resource {
            return table.remote(&info.group, &info.version).cloned();
        }
        let parts: Vec<&str> = info.path.trim_matches('/').split('/').collect();
        match parts.as_slice() {
            // The core group's only version stands for the whole of /api.
            ["api", ..] => table.remote("", "v1").cloned(),
            ["apis", group, version, ..] => table.remote(group, version).cloned(),
            _ => None,
        }
    }

    /// Who answers `/openapi/v3/<path>`, among the extension API servers.
    pub fn owner_of_v3(&self, path: &str) -> Option<Arc<Service>> {
        let table = self.table.load();
        let (name, _) = table.fetched.iter().find(|(_, fetched)| fetched.v3.contains_key(path))?;
        table.services.get(name).cloned()
    }

    fn publish(&self, name: &str, fetched: Option<Fetched>) {
        self.change(|table| match fetched {
            Some(fetched) => {
                table.fetched.insert(name.to_owned(), Arc::new(fetched));
                true
            }
            None => table.fetched.remove(name).is_some(),
        });
    }

    fn set(&self, name: &str, object: Option<&APIService>) {
        self.change(|table| {
            let before = table.services.get(name).cloned();
            let Some(object) = object else { return table.services.remove(name).is_some() };
            let service = Service::read(object, |place| {
                // Connections outlive changes that do not concern them.
                let known = before.as_ref().and_then(|s| s.remote.as_ref()).filter(|r| r.place == *place);
                known.map_or_else(|| self.backend(place), |remote| remote.backend.clone())
            });
            table.services.insert(name.to_owned(), Arc::new(service));
            true
        });
    }

    fn backend(&self, place: &service::Place) -> Result<Arc<Backend>, String> {
        let identity = self.identity.load();
        let identity = identity.as_ref().ok_or("the front proxy has no certificate")?;
        Backend::new(&self.ctx, place, identity, self.resolver.clone())
    }

    /// Swaps the table for a changed one, if `change` says that it changed.
    fn change(&self, change: impl FnOnce(&mut Table) -> bool) {
        let _one = self.writer.lock().expect("no writer of the table panics");
        let before = self.table.load_full();
        let mut after = Table {
            services: before.services.clone(),
            remote: HashMap::new(),
            fetched: before.fetched.clone(),
            generation: before.generation + 1,
        };
        if !change(&mut after) {
            return;
        }
        for service in after.services.values().filter(|service| service.remote.is_some()) {
            let versions = after.remote.entry(service.group.clone()).or_default();
            versions.insert(service.version.clone(), service.clone());
        }
        self.table.store(Arc::new(after));
    }
}

fn front_proxy(pki: &Pki) -> Result<FrontProxy, TlsError> {
    let name = "front-proxy-client";
    let pem = pki.pem(name)?;
    Ok(FrontProxy {
        chain: knarr_tls::certificates(name, &pem.certificate)?,
        key: knarr_tls::private_key(name, &pem.key)?,
    })
}

/// A moment as the API has it: whole seconds.
fn api_time(now: SystemTime) -> Time {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or_default();
    Time(jiff::Timestamp::from_second(seconds).unwrap_or_default())
}
