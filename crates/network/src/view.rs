//! Services and the slices that belong to them, as the proxy and the DNS server look at them: kept by service, and
//! findable by address. Fed by informers; both users share it.

use knarr_api::Kind;
use knarr_api::core::v1::Service;
use knarr_api::discovery::v1::EndpointSlice;
use knarr_client::informer::{Informer, Key};
use knarr_client::{Change, Informers};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard};

/// The label that tells which service a slice belongs to.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// A service with its slices.
#[derive(Clone, Default)]
pub struct Entry {
    /// The service, if there is one.
    pub service: Option<Arc<Service>>,
    /// Its slices by name.
    pub slices: BTreeMap<String, Arc<EndpointSlice>>,
}

#[derive(Default)]
struct Held {
    entries: BTreeMap<Key, Entry>,
    by_address: HashMap<IpAddr, BTreeSet<Key>>,
}

type Listener = Box<dyn Fn(&Key) + Send + Sync>;

#[derive(Default)]
struct Inner {
    held: RwLock<Held>,
    listeners: Mutex<Vec<Listener>>,
}

/// The shared view. Cheap to clone.
#[derive(Clone)]
pub struct ServiceView {
    inner: Arc<Inner>,
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
}

impl ServiceView {
    /// A view through `informers` (whose client needs to list and watch services and endpointslices).
    pub fn new(informers: &Informers) -> Self {
        let view = Self {
            inner: Arc::default(),
            services: informers.get::<Service>(),
            slices: informers.get::<EndpointSlice>(),
        };
        let inner = view.inner.clone();
        view.services.on_change(move |change| inner.service_changed(change));
        let inner = view.inner.clone();
        view.slices.on_change(move |change| inner.slice_changed(change));
        view
    }

    /// Resolves once both lists are in.
    pub async fn synced(&self) {
        self.services.synced().await;
        self.slices.synced().await;
    }

    /// Whether both lists are in.
    pub fn has_synced(&self) -> bool {
        self.services.has_synced() && self.slices.has_synced()
    }

    /// Calls `listener` with the key of every service that changes from now on, after the view has.
    pub fn on_change(&self, listener: impl Fn(&Key) + Send + Sync + 'static) {
        self.inner.listeners.lock().expect("the view's lock is never poisoned").push(Box::new(listener));
    }

    /// One service.
    pub fn get(&self, key: &Key) -> Option<Entry> {
        self.held().entries.get(key).cloned()
    }

    /// The keys of all services.
    pub fn keys(&self) -> Vec<Key> {
        self.held().entries.keys().cloned().collect()
    }

    /// Whether there is a service in the namespace.
    pub fn has_namespace(&self, namespace: &str) -> bool {
        let held = self.held();
        let first = held.entries.range(Key::new(namespace, "")..).next();
        first.is_some_and(|(key, _)| key.namespace == namespace)
    }

    /// The services that have this address, or an endpoint with it.
    pub fn with_address(&self, address: IpAddr) -> Vec<(Key, Entry)> {
        let held = self.held();
        let keys = held.by_address.get(&address).into_iter().flatten();
        keys.filter_map(|key| Some((key.clone(), held.entries.get(key)?.clone()))).collect()
    }

    fn held(&self) -> RwLockReadGuard<'_, Held> {
        self.inner.held.read().expect("the view's lock is never poisoned")
    }
}

impl Inner {
    fn service_changed(&self, change: &Change<Service>) {
        let key = Key::of(change.object().meta());
        self.change(&key, |entry| entry.service = change.new.clone());
    }

    fn slice_changed(&self, change: &Change<EndpointSlice>) {
        let owner = |slice: &EndpointSlice| {
            let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
            Some(Key::new(slice.namespace(), name))
        };
        let name = change.object().name();
        let (was, is) = (change.old.as_deref().and_then(owner), change.new.as_deref().and_then(owner));
        if let Some(key) = was.filter(|was| Some(was) != is.as_ref()) {
            self.change(&key, |entry| {
                entry.slices.remove(name);
            });
        }
        if let (Some(key), Some(slice)) = (is, &change.new) {
            self.change(&key, |entry| {
                entry.slices.insert(name.to_owned(), slice.clone());
            });
        }
    }

    fn change(&self, key: &Key, change: impl FnOnce(&mut Entry)) {
        let mut held = self.held.write().expect("the view's lock is never poisoned");
        let Held { entries, by_address } = &mut *held;
        let entry = entries.entry(key.clone()).or_default();
        let before = addresses(entry);
        change(entry);
        let after = addresses(entry);
        for gone in before.difference(&after) {
            if let Some(keys) = by_address.get_mut(gone) {
                keys.remove(key);
                if keys.is_empty() {
                    by_address.remove(gone);
                }
            }
        }
        for new in after.difference(&before) {
            by_address.entry(*new).or_default().insert(key.clone());
        }
        if entry.service.is_none() && entry.slices.is_empty() {
            entries.remove(key);
        }
        drop(held);
        let listeners = self.listeners.lock().expect("the view's lock is never poisoned");
        listeners.iter().for_each(|listener| listener(key));
    }
}

fn addresses(entry: &Entry) -> BTreeSet<IpAddr> {
    let spec = entry.service.as_ref().and_then(|s| s.spec.as_ref());
    let own = spec.into_iter().flat_map(|s| s.cluster_ips.iter().flatten().chain(&s.cluster_ip));
    let endpoints =
        entry.slices.values().flat_map(|s| s.endpoints.iter().flatten().flat_map(|e| &e.addresses));
    own.chain(endpoints).filter_map(|a| a.parse().ok()).collect()
}
