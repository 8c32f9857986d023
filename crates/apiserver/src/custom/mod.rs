//! Custom resources: follows the CustomResourceDefinitions through the registry's own cache, and serves, changes and
//! removes what they define (upstream's `customresource_handler.go`). The definitions themselves are a kind like
//! others, and their conditions a controller's work.

mod codec;
pub mod convert;
mod declare;
pub mod outbound;
mod strategy;
#[cfg(test)]
mod tests;

use crate::cache::{Cache, Filter, WatchStart};
use crate::def::ResourceDef;
use crate::obj::Obj;
use crate::registry::Registry;
use codec::Family;
use convert::{Converter, Outbound};
use knarr_apiextensions::Definition;
use knarr_base::clock::timeout;
use knarr_base::{Backoff, Ctx};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;
use tokio::sync::watch;

/// The group of the definitions.
pub const GROUP: &str = "apiextensions.k8s.io";
/// Their plural name.
pub const DEFINITIONS: &str = "customresourcedefinitions";

/// How long a request for something unknown waits for definitions that were written a moment ago.
const SETTLE_LIMIT: Duration = Duration::from_secs(1);

/// What is served of a definition.
#[derive(Clone, PartialEq, Eq)]
struct Installed {
    group: String,
    plural: String,
    incarnation: String,
    terminating: bool,
}

/// See the module's documentation.
pub struct CustomResources {
    ctx: Ctx,
    registry: Weak<Registry>,
    outbound: Arc<dyn Outbound>,
    cache: OnceLock<Arc<Cache>>,
    installed: Mutex<HashMap<String, Installed>>,
    /// Definitions are served as they were at this revision.
    settled: watch::Sender<u64>,
}

impl CustomResources {
    /// Will serve through `registry`, and convert by way of `outbound`. [`CustomResources::run`] does the work.
    pub fn new(ctx: &Ctx, registry: &Arc<Registry>, outbound: Arc<dyn Outbound>) -> Arc<Self> {
        Arc::new(Self {
            ctx: ctx.clone(),
            registry: Arc::downgrade(registry),
            outbound,
            cache: OnceLock::new(),
            installed: Mutex::default(),
            settled: watch::Sender::new(0),
        })
    }

    /// Follows the definitions until the scope stops; nothing to do where they are not served. `ready` is called
    /// once what was defined before the start is served.
    pub async fn run(&self, ready: impl FnOnce() + Send) {
        let mut ready = Some(ready);
        let mut backoff = Backoff::new(Duration::from_millis(20), 2.0, Duration::from_secs(2));
        loop {
            let Some(cache) = self.definitions() else {
                ready.take().into_iter().for_each(|ready| ready());
                return;
            };
            let watch = match cache.wait_for(0).await {
                Ok(()) => cache.watch(Filter::default(), false, WatchStart::State).ok(),
                Err(_) => None,
            };
            let Some(mut watch) = watch else {
                self.ctx.clock.sleep(backoff.step_jittered(&*self.ctx.rng, 0.5)).await;
                continue;
            };
            backoff.reset();
            let mut defs = Vec::new();
            let mut seen = HashSet::new();
            while let Some(event) = watch.next_initial() {
                seen.insert(event.obj.name().to_owned());
                defs.extend(self.changed(&event.obj, &cache.value(&event.obj)).unwrap_or_default());
            }
            self.install(defs);
            let known: Vec<String> =
                self.known().keys().filter(|name| !seen.contains(*name)).cloned().collect();
            known.iter().for_each(|name| self.remove(name));
            self.settled.send_replace(watch.started_at);
            ready.take().into_iter().for_each(|ready| ready());
            while let Some(event) = watch.recv().await {
                if event.deleted {
                    self.remove(event.obj.name());
                } else if let Some(defs) = self.changed(&event.obj, &cache.value(&event.obj)) {
                    self.install(defs);
                }
                self.settled.send_replace(event.revision());
            }
        }
    }

    /// Waits until every definition that this server has written is served as it was written: whoever was told that
    /// one is established finds it so. Costs next to nothing when that is the case.
    pub async fn settle(&self) {
        let Some(cache) = self.definitions() else { return };
        let wanted = cache.changed();
        if *self.settled.borrow() >= wanted {
            return;
        }
        let mut settled = self.settled.subscribe();
        let arrived = settled.wait_for(|revision| *revision >= wanted);
        let _ = timeout(&*self.ctx.clock, SETTLE_LIMIT, arrived).await;
    }

    /// The cache of the definitions, if they are served.
    fn definitions(&self) -> Option<Arc<Cache>> {
        if let Some(cache) = self.cache.get() {
            return Some(cache.clone());
        }
        let cache = self.registry.upgrade()?.cache_of(GROUP, DEFINITIONS)?;
        Some(self.cache.get_or_init(|| cache).clone())
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<String, Installed>> {
        self.installed.lock().expect("no holder of the installed definitions panics")
    }

    /// What is to be served of a definition now, if that has changed.
    fn changed(&self, obj: &Obj, crd: &Value) -> Option<Vec<ResourceDef>> {
        let name = obj.name();
        let definition = match Definition::compile(crd) {
            Ok(definition) => definition,
            Err(error) => {
                tracing::error!(%error, name, "a custom resource definition cannot be served");
                self.remove(name);
                return None;
            }
        };
        let accepted = &definition.accepted;
        let named = ![&accepted.plural, &accepted.singular, &accepted.kind, &accepted.list_kind]
            .iter()
            .any(|name| name.is_empty());
        if !definition.is_established() || !named {
            self.remove(name);
            return None;
        }
        let family = Family {
            converter: Converter::of(&self.ctx, &definition, &self.outbound),
            fingerprint: fingerprint(&crd["spec"]),
            incarnation: hash(&json!([crd["metadata"]["uid"], crd["spec"], crd["status"]["acceptedNames"]])),
            definition,
        };
        let definition = &family.definition;
        let installed = Installed {
            group: definition.group.clone(),
            plural: definition.accepted.plural.clone(),
            incarnation: family.incarnation.clone(),
            terminating: definition.is_terminating(),
        };
        let before = self.known().get(name).cloned();
        match before {
            Some(before) if before == installed => return None,
            Some(before) if (&before.group, &before.plural) != (&installed.group, &installed.plural) => {
                self.remove(name);
            }
            _ => {}
        }
        let built_in = self
            .registry
            .upgrade()
            .is_some_and(|registry| registry.is_built_in(&installed.group, &installed.plural));
        if built_in {
            tracing::warn!(name, "a custom resource definition names what is built in");
            return None;
        }
        let served = definition.served().next().is_some();
        if !served {
            // Nothing of it is asked for any more.
            self.remove(name);
            return None;
        }
        tracing::debug!(name, terminating = installed.terminating, "serving a custom resource");
        self.known().insert(name.to_owned(), installed);
        Some(declare::declare(&Arc::new(family)))
    }

    fn install(&self, defs: Vec<ResourceDef>) {
        if let Some(registry) = self.registry.upgrade().filter(|_| !defs.is_empty()) {
            registry.install(defs);
        }
    }

    fn remove(&self, name: &str) {
        let Some(installed) = self.known().remove(name) else { return };
        if let Some(registry) = self.registry.upgrade() {
            tracing::debug!(name, "no longer serving a custom resource");
            registry.uninstall(&installed.group, &installed.plural);
        }
    }
}

/// Of everything that decides what a stored object looks like to readers.
fn fingerprint(spec: &Value) -> String {
    let versions = spec["versions"].as_array().into_iter().flatten();
    let versions: Vec<Value> =
        versions.map(|v| json!([v["name"], v["schema"], v["selectableFields"]])).collect();
    hash(&json!([
        spec["group"],
        spec["names"]["kind"],
        spec["conversion"],
        spec["preserveUnknownFields"],
        versions
    ]))
}

fn hash(value: &Value) -> String {
    let bytes = serde_json::to_vec(value).expect("a JSON value always serializes");
    Sha256::digest(bytes).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}
