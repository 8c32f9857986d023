//! The store with upstream's metrics of it (`storage/etcd3/metrics`): how long each operation on each resource takes, and
//! how large the database is. They keep their names where the store is not etcd.

use crate::def::{Name, ResourceDef};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use knarr_base::{ClockRef, Ctx};
use knarr_store::{
    Compaction, Expect, Freshness, KeyValue, LeaseId, Outcome, Range, RangeResult, Revision, Stats, Store,
    StoreError, WatchStream,
};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use std::collections::HashMap;
use std::sync::{Arc, Weak};

/// Upstream's buckets of etcd_request_duration_seconds.
const BUCKETS: [f64; 23] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0,
    20.0, 30.0, 45.0, 60.0,
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    operation: &'static str,
    group: Name,
    resource: Name,
}

/// See the module's documentation.
pub struct Measured {
    inner: Arc<dyn Store>,
    clock: ClockRef,
    duration: Family<Labels, Histogram, fn() -> Histogram>,
    errors: Family<Labels, Counter>,
    /// Group and resource by the prefix of their keys.
    resources: HashMap<Bytes, (Name, Name)>,
}

impl Measured {
    /// Measures `inner`. Keys of other resources than those of `defs` (custom ones) count as those of none.
    #[allow(clippy::new_ret_no_self)] // callers hold a store
    pub fn new(ctx: &Ctx, inner: Arc<dyn Store>, defs: &[ResourceDef]) -> Arc<dyn Store> {
        let buckets: fn() -> Histogram = || Histogram::new(BUCKETS);
        let duration = ctx.metrics.register(
            "etcd_request_duration_seconds",
            "Etcd request latency in seconds for each operation and object type",
            Family::new_with_constructor(buckets),
        );
        let errors = ctx.metrics.register(
            "etcd_request_errors",
            "Etcd failed request counts for each operation and object type",
            Family::default(),
        );
        ctx.metrics.register_collector(Box::new(Size(Arc::downgrade(&inner))));
        let key = |def: &ResourceDef| Bytes::copy_from_slice(def.storage_prefix.as_bytes());
        let named = |def: &ResourceDef| (def.storage_group.clone(), def.resource.clone());
        let resources = defs.iter().map(|def| (key(def), named(def))).collect();
        Arc::new(Self { inner, clock: ctx.clock.clone(), duration, errors, resources })
    }

    /// The labels of an operation on a key `/registry/<resource>/...` or `/registry/<group>/<resource>/...`.
    fn labels(&self, operation: &'static str, key: &[u8]) -> Labels {
        let slashes = key.iter().enumerate().skip(1).filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        let mut ends = slashes.chain([key.len()]).skip(1).take(2);
        let found = ends.find_map(|end| self.resources.get(&key[..end]));
        let (group, resource) = found.cloned().unwrap_or_default();
        Labels { operation, group, resource }
    }

    async fn measure<T>(
        &self,
        labels: Labels,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let start = self.clock.instant();
        let result = call.await;
        if result.is_err() {
            self.errors.get_or_create(&labels).inc();
        }
        let took = self.clock.instant().saturating_duration_since(start);
        self.duration.get_or_create(&labels).observe(took.as_secs_f64());
        result
    }
}

/// Tells the size of the database, and of the history in memory, when metrics are read.
#[derive(Debug)]
struct Size(Weak<dyn Store>);

impl Collector for Size {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(store) = self.0.upgrade() else { return Ok(()) };
        let stats = store.stats();
        let gauge = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        let help = "About how many bytes of memory the versions before the present one take";
        encoder
            .encode_descriptor("knarr_store_history_bytes", help, None, MetricType::Gauge)?
            .encode_gauge(&gauge(stats.history_bytes))?;
        let help = "Size of the storage database file physically allocated in bytes";
        let mut family =
            encoder.encode_descriptor("apiserver_storage_size_bytes", help, None, MetricType::Gauge)?;
        family.encode_family(&[("storage_cluster_id", "etcd-0")])?.encode_gauge(&gauge(stats.size_bytes))
    }
}

impl Store for Measured {
    fn get<'a>(
        &'a self,
        key: &'a [u8],
        at: Option<Revision>,
    ) -> BoxFuture<'a, Result<Option<KeyValue>, StoreError>> {
        Box::pin(self.measure(self.labels("get", key), self.inner.get(key, at)))
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<RangeResult, StoreError>> {
        let labels = self.labels("list", &range.start);
        Box::pin(self.measure(labels, self.inner.range(range)))
    }

    fn put(
        &self,
        key: Bytes,
        expect: Expect,
        value: Bytes,
        lease: LeaseId,
    ) -> BoxFuture<'_, Result<Outcome, StoreError>> {
        let operation = if expect == Expect::Absent { "create" } else { "update" };
        let labels = self.labels(operation, &key);
        Box::pin(self.measure(labels, self.inner.put(key, expect, value, lease)))
    }

    fn delete(&self, key: Bytes, expect: Revision) -> BoxFuture<'_, Result<Outcome, StoreError>> {
        let labels = self.labels("delete", &key);
        Box::pin(self.measure(labels, self.inner.delete(key, expect)))
    }

    fn watch(
        &self,
        start: Bytes,
        end: Bytes,
        from: Revision,
    ) -> BoxFuture<'_, Result<WatchStream, StoreError>> {
        self.inner.watch(start, end, from)
    }

    fn revision(&self) -> Revision {
        self.inner.revision()
    }

    fn latest(&self) -> BoxFuture<'_, Result<Revision, StoreError>> {
        self.inner.latest()
    }

    fn freshness(&self) -> Freshness {
        self.inner.freshness()
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), StoreError>> {
        self.inner.compact(revision)
    }

    fn compact_in_turn<'a>(&'a self, state: &'a mut Compaction) -> BoxFuture<'a, Result<(), StoreError>> {
        self.inner.compact_in_turn(state)
    }

    fn grant_lease(&self, ttl_seconds: u64) -> BoxFuture<'_, Result<LeaseId, StoreError>> {
        self.inner.grant_lease(ttl_seconds)
    }

    fn stats(&self) -> Stats {
        self.inner.stats()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::def::Strategy;
    use knarr_api::core::v1::ConfigMap;
    use knarr_store::memory::MemoryStore;

    struct ConfigMaps;
    impl Strategy for ConfigMaps {
        type Object = ConfigMap;
    }

    #[tokio::test]
    async fn operations_are_counted_by_resource() {
        let ctx = Ctx::system();
        let defs = [ResourceDef::new(ConfigMaps)];
        let store = Measured::new(&ctx, MemoryStore::new(&ctx), &defs);
        store.get(b"/registry/configmaps/ns/a", None).await.unwrap();
        store.put("/registry/configmaps/ns/a".into(), Expect::Absent, "{}".into(), 0).await.unwrap();
        store.get(b"/registry/example.com/things/a", None).await.unwrap();
        let text = ctx.metrics.encode();
        for line in [
            "etcd_request_duration_seconds_count{operation=\"get\",group=\"\",resource=\"configmaps\"} 1",
            "etcd_request_duration_seconds_count{operation=\"create\",group=\"\",resource=\"configmaps\"} 1",
            "etcd_request_duration_seconds_count{operation=\"get\",group=\"\",resource=\"\"} 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
