//! The server's own reads ([`Reader`]): consistent where the store answers from memory, sharing parsed
//! objects with the watch cache.

use super::Registry;
use super::resource::Resource;
use crate::cache::{Field, Filter, Requirement};
use crate::obj::Obj;
use crate::request::Reader;
use futures_util::FutureExt;
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
            // Stores on this machine answer at once; from one that does not, the cache's word is taken.
            match registry.store.get(&key, None).now_or_never() {
                Some(Ok(kv)) => parsed(resource, kv?),
                _ => resource.cache.get(&key).map(|obj| resource.cache.value(&obj)),
            }
        })
    }

    fn list(&self, group: &str, resource: &str, namespace: &str) -> Vec<Arc<Value>> {
        self.with(group, resource, |registry, resource| {
            resource.cache.start();
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
            let filter = Filter { namespace: namespace.to_owned(), ..Filter::default() };
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
            if !resource.cache.is_current() {
                resource.cache.start();
                return None;
            }
            let requirement = Requirement { field, equal: true, value: value.to_owned() };
            let filter =
                Filter { namespace: namespace.to_owned(), fields: vec![requirement], ..Filter::default() };
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
