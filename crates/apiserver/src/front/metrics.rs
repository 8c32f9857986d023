//! Request metrics under upstream's names. Label values come from closed sets: verbs from a table, groups and
//! resources from what is served; anything else counts as empty.

use crate::def::{Name, ResourceDef};
use crate::request::RequestInfo;
use knarr_base::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use std::time::Duration;

/// Upstream's buckets of apiserver_request_duration_seconds.
const DURATION_BUCKETS: [f64; 27] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0,
    20.0, 30.0, 45.0, 60.0, 90.0, 120.0, 180.0, 300.0,
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    verb: &'static str,
    dry_run: &'static str,
    group: Name,
    version: Name,
    resource: Name,
    subresource: &'static str,
    scope: &'static str,
    component: &'static str,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DurationLabels {
    verb: &'static str,
    group: Name,
    version: Name,
    resource: Name,
    subresource: &'static str,
    scope: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    request_kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

type Histograms = Family<DurationLabels, Histogram, fn() -> Histogram>;

/// The metrics of the request path.
pub struct RequestMetrics {
    total: Family<RequestLabels, Counter>,
    duration: Histograms,
    inflight: Family<KindLabels, Gauge>,
    longrunning: Family<DurationLabels, Gauge>,
    authentication: Family<ResultLabels, Counter>,
    authorization: Family<ResultLabels, Counter>,
    panics: Counter,
}

/// What one request is counted as.
#[derive(Clone)]
pub struct Labels(DurationLabels);

/// Counts a request as under way until it is dropped.
pub struct Inflight(Gauge);

impl Drop for Inflight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl RequestMetrics {
    /// Registers the metrics.
    pub fn new(metrics: &Metrics) -> Self {
        let buckets: fn() -> Histogram = || Histogram::new(DURATION_BUCKETS);
        Self {
            total: metrics.register(
                "apiserver_request",
                "Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code",
                Family::default(),
            ),
            duration: metrics.register(
                "apiserver_request_duration_seconds",
                "Response latency distribution in seconds for each verb, group, version, resource, subresource and scope",
                Family::new_with_constructor(buckets),
            ),
            inflight: metrics.register(
                "apiserver_current_inflight_requests",
                "Number of requests under way, by kind",
                Family::default(),
            ),
            longrunning: metrics.register(
                "apiserver_longrunning_requests",
                "Gauge of all active long-running apiserver requests broken out by verb, group, version, resource, scope",
                Family::default(),
            ),
            authentication: metrics.register(
                "authentication_attempts",
                "Counter of authenticated attempts",
                Family::default(),
            ),
            authorization: metrics.register(
                "authorization_attempts",
                "Counter of authorization attempts broken down by result",
                Family::default(),
            ),
            panics: metrics.register(
                "apiserver_request_panics",
                "Number of requests that ended in a panic",
                Counter::default(),
            ),
        }
    }

    /// The labels of a request; `def` is the declaration that serves it.
    pub fn labels(&self, info: &RequestInfo, def: Option<&ResourceDef>) -> Labels {
        let (verb, none) = (verb(info), Name::default);
        Labels(match def {
            None => DurationLabels {
                verb,
                group: none(),
                version: none(),
                resource: none(),
                subresource: "",
                scope: "",
            },
            Some(def) => {
                let version = def.versions.iter().find(|served| served.version == info.version);
                let subresource = def.subresources.iter().find(|known| known.name == info.subresource);
                DurationLabels {
                    verb,
                    group: def.group.clone(),
                    version: version.map_or_else(none, |served| served.version.clone()),
                    resource: def.resource.clone(),
                    subresource: subresource.map_or("", |known| known.name),
                    scope: scope(info),
                }
            }
        })
    }

    /// Counts a request as under way.
    pub fn begin(&self, labels: &Labels, long_running: bool) -> Inflight {
        let gauge = if long_running {
            self.longrunning.get_or_create_owned(&labels.0)
        } else {
            let mutating =
                matches!(labels.0.verb, "POST" | "PUT" | "PATCH" | "APPLY" | "DELETE" | "DELETECOLLECTION");
            let request_kind = if mutating { "mutating" } else { "readOnly" };
            self.inflight.get_or_create_owned(&KindLabels { request_kind })
        };
        gauge.inc();
        Inflight(gauge)
    }

    /// Counts an answered request.
    pub fn answered(&self, labels: &Labels, dry_run: bool, code: u16, took: Duration, long_running: bool) {
        let l = &labels.0;
        self.total
            .get_or_create(&RequestLabels {
                verb: l.verb,
                dry_run: if dry_run { "All" } else { "" },
                group: l.group.clone(),
                version: l.version.clone(),
                resource: l.resource.clone(),
                subresource: l.subresource,
                scope: l.scope,
                component: "apiserver",
                code,
            })
            .inc();
        if !long_running {
            self.duration.get_or_create(l).observe(took.as_secs_f64());
        }
    }

    /// Counts an attempt to authenticate.
    pub fn authenticated(&self, success: bool) {
        let result = if success { "success" } else { "failure" };
        self.authentication.get_or_create(&ResultLabels { result }).inc();
    }

    /// Counts a decision.
    pub fn authorized(&self, allowed: bool) {
        let result = if allowed { "allowed" } else { "denied" };
        self.authorization.get_or_create(&ResultLabels { result }).inc();
    }

    /// Counts a panic.
    pub fn panicked(&self) {
        self.panics.inc();
    }
}

fn verb(info: &RequestInfo) -> &'static str {
    match info.verb.as_str() {
        "get" => "GET",
        "list" => "LIST",
        "watch" => "WATCH",
        "create" | "post" => "POST",
        "update" | "put" => "PUT",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        "proxy" => "CONNECT",
        _ => "other",
    }
}

fn scope(info: &RequestInfo) -> &'static str {
    if !info.name.is_empty() || info.verb == "create" {
        "resource"
    } else if !info.namespace.is_empty() {
        "namespace"
    } else {
        "cluster"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::front::info::resolve;
    use http::Method;

    #[test]
    fn what_is_not_served_is_not_a_label() {
        let registry = Metrics::default();
        let metrics = RequestMetrics::new(&registry);
        let labels = metrics.labels(&resolve(&Method::GET, "/apis/evil/v1/anything/x", &[]), None);
        metrics.answered(&labels, false, 404, Duration::from_millis(1), false);
        let text = registry.encode();
        assert!(text.contains("apiserver_request_total{verb=\"GET\"") && !text.contains("evil"), "{text}");
    }
}
