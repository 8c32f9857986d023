//! What is served at the moment: one immutable table that requests read without a lock, and the writer that swaps
//! it when kinds come, change or go (custom resources). A request keeps the resource it found; a watch ends when
//! its resource is replaced, so that the client lists again.

use super::resource::Resource;
use crate::cache::Cache;
use crate::def::{Name, ResourceDef};
use crate::obj::Shape;
use arc_swap::{ArcSwap, Guard};
use knarr_base::Ctx;
use knarr_store::Store;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// Every resource that is served, by its plural name.
#[derive(Default)]
pub struct Served {
    resources: HashMap<Name, Vec<Arc<Resource>>>,
    defs: Arc<[Arc<ResourceDef>]>,
    generation: u64,
}

impl Served {
    /// The resource of a group, in whichever version is declared first.
    pub fn resource(&self, group: &str, name: &str) -> Option<&Arc<Resource>> {
        self.resources.get(name)?.iter().find(|resource| resource.def.group == group)
    }

    /// The resource that serves a version, and the version's place in it.
    pub fn version(&self, group: &str, name: &str, version: &str) -> Option<(&Arc<Resource>, usize)> {
        let of_group = self.resources.get(name)?.iter().filter(|resource| resource.def.group == group);
        of_group
            .filter_map(|resource| {
                Some((resource, resource.versions.iter().position(|v| v.name == version)?))
            })
            .next()
    }

    /// The declarations, built-in kinds first.
    pub fn defs(&self) -> &Arc<[Arc<ResourceDef>]> {
        &self.defs
    }

    /// The caches of all resources that are stored (reviews are not); several resources may share one.
    pub fn caches(&self) -> Vec<Arc<Cache>> {
        let stored =
            self.resources.values().flatten().filter(|resource| !resource.def.storage_prefix.is_empty());
        stored.map(|resource| resource.cache.clone()).collect()
    }

    /// Grows with every change.
    pub fn generation(&self) -> u64 {
        self.generation
    }
}

/// What tells two caches of objects apart: the keys, and the form the objects are held in.
type CacheKey = (Name, Name, Name, String);

fn cache_key(def: &ResourceDef) -> CacheKey {
    let codec = def.codec.as_ref().map(|codec| codec.fingerprint().to_owned());
    let (prefix, group) = (def.storage_prefix.clone(), def.storage_group.clone());
    (prefix, group, def.storage_version.clone(), codec.unwrap_or_default())
}

#[derive(Default)]
struct Writer {
    caches: HashMap<CacheKey, Arc<Cache>>,
    /// The number of the last version that was numbered.
    forms: u32,
}

/// The table and its writer.
pub struct Catalog {
    ctx: Ctx,
    store: Arc<dyn Store>,
    table: ArcSwap<Served>,
    writer: Mutex<Writer>,
    changes: watch::Sender<u64>,
}

impl Catalog {
    /// A table of nothing.
    pub fn new(ctx: &Ctx, store: Arc<dyn Store>) -> Self {
        Self {
            ctx: ctx.clone(),
            store,
            table: ArcSwap::default(),
            writer: Mutex::default(),
            changes: watch::Sender::new(0),
        }
    }

    /// What is served now; costs no lock.
    pub fn load(&self) -> Guard<Arc<Served>> {
        self.table.load()
    }

    /// Tells the generation whenever it grows.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Serves `defs`, in place of whatever was served under the same groups and names.
    pub fn install(&self, defs: Vec<ResourceDef>) {
        let replaced: Vec<(Name, Name)> =
            defs.iter().map(|def| (def.group.clone(), def.resource.clone())).collect();
        let goes = |def: &ResourceDef| replaced.iter().any(|(g, r)| *g == def.group && *r == def.resource);
        self.change(defs, goes);
    }

    /// Stops serving a resource.
    pub fn remove(&self, group: &str, resource: &str) {
        self.change(Vec::new(), |def| def.group == group && def.resource == resource);
    }

    fn change(&self, new: Vec<ResourceDef>, goes: impl Fn(&ResourceDef) -> bool) {
        let mut writer = self.writer.lock().expect("no writer of the table panics");
        let before = self.table.load_full();
        let mut resources: HashMap<Name, Vec<Arc<Resource>>> = HashMap::new();
        let mut gone: Vec<Arc<Resource>> = Vec::new();
        let mut defs = Vec::with_capacity(before.defs.len() + new.len());
        for def in before.defs.iter().filter(|def| !goes(def)) {
            defs.push(def.clone());
        }
        for (name, list) in &before.resources {
            let (leaving, staying): (Vec<_>, Vec<_>) = list.iter().cloned().partition(|r| goes(&r.def));
            gone.extend(leaving);
            if !staying.is_empty() {
                resources.insert(name.clone(), staying);
            }
        }
        if new.is_empty() && gone.is_empty() {
            return;
        }
        for def in new {
            let def = Arc::new(def);
            let cache = writer
                .caches
                .entry(cache_key(&def))
                .or_insert_with(|| {
                    let shape =
                        Shape::new(&def.storage_group, &def.storage_version, &def.kind, &def.selectable);
                    let (store, codec) = (self.store.clone(), def.codec.clone());
                    Cache::coded(&self.ctx, store, shape, &def.storage_prefix, codec)
                })
                .clone();
            let mut resource = Resource::new(def.clone(), cache, &mut writer.forms);
            // What is the same to clients goes on as if nothing had happened.
            if let Some(at) = gone.iter().position(|old| old.is_same_incarnation(&def)) {
                resource.succeed(&gone.swap_remove(at));
            }
            resources.entry(def.resource.clone()).or_default().push(Arc::new(resource));
            defs.push(def);
        }
        writer.caches.retain(|_, cache| {
            resources.values().flatten().any(|resource| Arc::ptr_eq(&resource.cache, cache))
        });
        let generation = before.generation + 1;
        self.table.store(Arc::new(Served { resources, defs: defs.into(), generation }));
        gone.iter().for_each(|resource| resource.retire());
        self.changes.send_replace(generation);
    }
}
