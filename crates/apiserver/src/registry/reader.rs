//! The server's own reads ([`Reader`]): consistent where the store answers from memory, sharing parsed
//! objects with the watch cache. From a store elsewhere the cache's word is taken, as upstream's informers' is, together
//! with whatever this server itself has written since; [`Reader::look_for`] is for what others may just have made.

use super::Registry;
use super::resource::Resource;
use crate::cache::{Field, Filter, Requirement};
use crate::obj::Obj;
use crate::request::Reader;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use knarr_store::{KeyValue, Range, prefix_end};
use serde_json::Value;
use std::sync::{Arc, Weak};

/// Reads by way of a registry, which it does not keep alive.
pub struct RegistryReader(pub Weak<Registry>);

impl RegistryReader {
    fn with<T: Default>(
        &self,
        group: &str,
        resource: &str,
        read: impl FnOnce(&Registry, &Resource) -> T,
    ) -> T {
        let Some(registry) = self.0.upgrade() else { return T::default() };
        let Some(resource) = registry.resource(group, resource) else { return T::default() };
        read(&registry, &resource)
    }
}

/// The object of a key, parsed at most once where the cache holds the same revision.
fn parsed(resource: &Resource, kv: KeyValue) -> Option<Arc<Value>> {
    if let Some(obj) = resource.cache.get(&kv.key).filter(|obj| obj.revision() == kv.mod_revision) {
        return Some(resource.cache.value(&obj));
    }
    if resource.def.is_custom() {
        // Other versions than the stored one take a conversion, which only the cache has the time for.
        return resource.cache.get(&kv.key).map(|obj| resource.cache.value(&obj));
    }
    let shape = resource.cache.shape();
    let obj = Obj::new(shape, resource.cache.prefix(), kv.key, kv.value, kv.mod_revision).ok()?;
    Some(obj.value().0)
}

impl Reader for RegistryReader {
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.with(group, resource, |registry, resource| {
            resource.cache.start();
            let key = resource.key(namespace, name);
            if resource.cache.is_remote() {
                return resource.cache.known(&key).map(|obj| resource.cache.value(&obj));
            }
            // Stores on this machine answer at once.
            match registry.store.get(&key, None).now_or_never() {
                Some(Ok(kv)) => parsed(resource, kv?),
                _ => resource.cache.get(&key).map(|obj| resource.cache.value(&obj)),
            }
        })
    }

    fn list(&self, group: &str, resource: &str, namespace: &str) -> Vec<Arc<Value>> {
        self.with(group, resource, |registry, resource| {
            resource.cache.start();
            let filter = Filter { namespace: namespace.to_owned(), ..Filter::default() };
            if resource.cache.is_remote() {
                let known = resource.cache.list_known(&filter, resource.namespaced());
                return known.iter().map(|obj| resource.cache.value(obj)).collect();
            }
            if !resource.cache.is_current() {
                let start = crate::cache::key(
                    resource.cache.prefix(),
                    if resource.namespaced() { namespace } else { "" },
                    "",
                );
                let range = Range { end: prefix_end(&start), start, ..Range::default() };
                if let Some(Ok(result)) = registry.store.range(range).now_or_never() {
                    return result.kvs.into_iter().filter_map(|kv| parsed(resource, kv)).collect();
                }
            }
            let listed = resource.cache.list(&filter, resource.namespaced(), &[], 0);
            listed.objs.iter().map(|obj| resource.cache.value(obj)).collect()
        })
    }

    fn list_where(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
        field: &str,
        value: &str,
    ) -> Vec<Arc<Value>> {
        let found = self.with(group, resource, |_, resource| {
            let field = Field::find(resource.cache.shape(), field)?;
            let requirement = Requirement { field, equal: true, value: value.to_owned() };
            let filter =
                Filter { namespace: namespace.to_owned(), fields: vec![requirement], ..Filter::default() };
            if resource.cache.is_remote() {
                let known = resource.cache.list_known(&filter, resource.namespaced());
                return Some(known.iter().map(|obj| resource.cache.value(obj)).collect());
            }
            if !resource.cache.is_current() {
                resource.cache.start();
                return None;
            }
            let listed = resource.cache.list(&filter, resource.namespaced(), &[], 0);
            Some(listed.objs.iter().map(|obj| resource.cache.value(obj)).collect())
        });
        found.unwrap_or_else(|| {
            let path: Vec<&str> = field.split('.').collect();
            let mut objects = self.list(group, resource, namespace);
            objects.retain(|object| knarr_meta::object::get_str(object, &path) == value);
            objects
        })
    }

    fn look_for<'a>(
        &'a self,
        group: &'a str,
        resource: &'a str,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            let Some(registry) = self.0.upgrade() else { return false };
            let Some(resource) = registry.resource(group, resource) else { return false };
            if !resource.cache.is_remote() {
                return false;
            }
            let key: Bytes = resource.key(namespace, name);
            match registry.store.get(&key, None).await {
                Ok(Some(kv)) => {
                    resource.cache.note(&key, kv.mod_revision, Some(&kv.value));
                    true
                }
                // That it is gone will be told by the watch; as of when is not known here.
                Ok(None) => false,
                Err(error) => {
                    tracing::warn!(%error, "an object could not be looked for");
                    false
                }
            }
        })
    }

    fn resource_of(&self, group: &str, version: &str, kind: &str) -> Option<(String, bool)> {
        let registry = self.0.upgrade()?;
        let defs = registry.defs();
        let mut found = defs.iter().filter(|def| def.group == group && def.kind == kind);
        let def = found.find(|def| def.versions.iter().any(|served| served.version == version))?;
        Some((def.resource.to_string(), def.namespaced()))
    }

    fn revision(&self, group: &str, resource: &str) -> u64 {
        self.with(group, resource, |_, resource| {
            resource.cache.start();
            resource.cache.changed()
        })
    }

    fn settled(&self, group: &str, resource: &str) -> u64 {
        self.with(group, resource, |registry, resource| {
            resource.cache.start();
            if resource.cache.is_ready() { resource.cache.changed() } else { registry.store.revision() }
        })
    }
}
