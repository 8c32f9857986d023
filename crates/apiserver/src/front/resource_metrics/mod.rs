//! The resource metrics API (`metrics.k8s.io/v1beta1`): what nodes and pods use now, as `kubectl top` and autoscalers ask
//! for it. Upstream leaves it to metrics-server, an extension API server; here it is answered by this server from the
//! kubelets' /metrics/resource, in metrics-server's shapes and words, until somebody registers an API service of his own
//! for it (ADR 0026). Kubelets are asked only while clients ask.
//!
//! - [`scrape`]: the kubelets' readings, and when to take new ones.
//! - [`text`]: Prometheus' text format.
//! - [`usage`]: two readings make a rate.
//! - [`openapi`]: the types.

mod openapi;
mod scrape;
#[cfg(test)]
mod tests;
mod text;
mod usage;

pub use scrape::Scraper;

use crate::def::{Computed, OwnTypes, ResourceDef, Scope, ServedVersion, Strategy, name_and_age};
use crate::request::{Reader, RequestCx};
use futures_util::future::BoxFuture;
use knarr_api::core::v1::{Node, Pod};
use knarr_meta::gvk::GroupResource;
use knarr_meta::quantity::{Format, Quantity};
use knarr_meta::schema::{Schema, Type};
use knarr_meta::status::Status;
use knarr_meta::time::rfc3339;
use scrape::Pair;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::SystemTime;
use usage::Usage;

/// The group.
pub const GROUP: &str = "metrics.k8s.io";
/// Its only version.
pub const VERSION: &str = "v1beta1";
const VERBS: &[&str] = &["get", "list"];

/// The declarations of both kinds.
pub fn defs(scraper: &Arc<Scraper>) -> Vec<ResourceDef> {
    let nodes = declare("nodes", "NodeMetrics", Scope::Cluster, ResourceDef::new(Nodes(scraper.clone())));
    let pods = declare("pods", "PodMetrics", Scope::Namespaced, ResourceDef::new(Pods(scraper.clone())));
    vec![nodes, pods]
}

/// `base` is a declaration with the strategy; everything else in it is another kind's.
fn declare(resource: &'static str, kind: &'static str, scope: Scope, base: ResourceDef) -> ResourceDef {
    ResourceDef {
        group: GROUP.into(),
        resource: resource.into(),
        // metrics-server has none.
        singular: "".into(),
        kind: kind.into(),
        list_kind: format!("{kind}List").into(),
        short: Vec::new(),
        categories: Vec::new(),
        scope,
        versions: vec![ServedVersion::hub(VERSION)],
        storage_version: VERSION.into(),
        storage_group: GROUP.into(),
        storage_prefix: "".into(),
        verbs: VERBS,
        columns: Some(columns()),
        types: Some(OwnTypes { schema: Arc::new(Schema::default()), root: Type::Any }),
        openapi: Some(Arc::new(openapi::Published(kind))),
        ..base.cells(cells)
    }
}

fn columns() -> Vec<Value> {
    let column = |name: &str, format: &str, description: &str| json!({ "name": name, "type": "string", "format": format, "description": description, "priority": 0 });
    vec![
        column("Name", "name", "Name of the resource"),
        column("cpu", "quantity", ""),
        column("memory", "quantity", ""),
        column("Window", "duration", ""),
    ]
}

fn cells(object: &Value, now: SystemTime) -> Vec<Value> {
    let containers = object["containers"].as_array().map(Vec::as_slice);
    let usages: Vec<&Value> = match containers {
        Some(containers) => containers.iter().map(|container| &container["usage"]).collect(),
        None => vec![&object["usage"]],
    };
    let sum = |resource: &str| {
        let mut quantities = usages.iter().filter_map(|usage| Quantity::from_json(&usage[resource]).ok());
        let first = quantities.next().unwrap_or_default();
        quantities.fold(first, |mut sum, quantity| {
            sum.add(&quantity);
            sum
        })
    };
    let mut cells = name_and_age(object, now);
    cells.truncate(1);
    cells.extend([sum("cpu").to_json(), sum("memory").to_json(), object["window"].clone()]);
    cells
}

/// A reading with its name, in metrics-server's shape.
fn object(
    kind: &str,
    about: &Value,
    now: SystemTime,
    time: SystemTime,
    window: std::time::Duration,
) -> Value {
    let mut metadata = json!({ "name": about["metadata"]["name"], "creationTimestamp": rfc3339(now) });
    for field in ["namespace", "labels"] {
        if !about["metadata"][field].is_null() {
            metadata[field] = about["metadata"][field].clone();
        }
    }
    json!({
        "kind": kind,
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "metadata": metadata,
        "timestamp": rfc3339(time),
        "window": usage::window_text(window),
    })
}

fn resources(usage: &Usage) -> Value {
    let nanocores = format!("{}n", usage.nanocores);
    let cpu = knarr_meta::quantity::canonicalize(&nanocores).unwrap_or(nanocores);
    let memory = i64::try_from(usage.memory_bytes).unwrap_or(i64::MAX);
    json!({ "cpu": cpu, "memory": Quantity::from_value(memory, Format::BinarySi).to_json() })
}

fn missing(resource: &str, group: &str, name: &str) -> Status {
    Status::not_found(&GroupResource::new(group.to_owned(), resource.to_owned()), name)
}

/// NodeMetrics.
struct Nodes(Arc<Scraper>);

impl Strategy for Nodes {
    /// Never decoded: nothing of the kind is written.
    type Object = Node;
    fn computed(&self) -> Option<&dyn Computed> {
        Some(self)
    }
}

impl Computed for Nodes {
    fn list<'a>(&'a self, cx: &'a RequestCx) -> BoxFuture<'a, Vec<Value>> {
        Box::pin(async move {
            let mut nodes = cx.reader.list("", "nodes", "");
            nodes.sort_by(|a, b| name(a).cmp(name(b)));
            let complete = |pair: &Pair| nodes.iter().all(|node| pair.node(name(node)).is_some());
            let pair = self.0.readings(&*cx.reader, complete).await;
            nodes.iter().filter_map(|node| of_node(&pair, node, cx.ctx.clock.now())).collect()
        })
    }

    fn missing(&self, cx: &RequestCx) -> Option<Status> {
        let known = cx.reader.get("", "nodes", "", &cx.info.name).is_some();
        Some(if known {
            missing("nodemetrics", GROUP, &cx.info.name)
        } else {
            missing("node", "", &cx.info.name)
        })
    }
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

fn of_node(pair: &Pair, node: &Value, now: SystemTime) -> Option<Value> {
    let usage = pair.node(name(node))?;
    let mut object = object("NodeMetrics", node, now, usage.time, usage.window);
    object["usage"] = resources(&usage);
    Some(object)
}

/// PodMetrics.
struct Pods(Arc<Scraper>);

impl Strategy for Pods {
    /// Never decoded: nothing of the kind is written.
    type Object = Pod;
    fn computed(&self) -> Option<&dyn Computed> {
        Some(self)
    }
}

/// The running pods that a request could be about.
fn running(reader: &dyn Reader, namespace: &str) -> Vec<Arc<Value>> {
    let mut pods = reader.list_where("", "pods", namespace, "status.phase", "Running");
    let key =
        |pod: &Arc<Value>| (pod["metadata"]["namespace"].to_string(), pod["metadata"]["name"].to_string());
    pods.sort_by_cached_key(key);
    pods
}

impl Computed for Pods {
    fn list<'a>(&'a self, cx: &'a RequestCx) -> BoxFuture<'a, Vec<Value>> {
        Box::pin(async move {
            let pods = running(&*cx.reader, &cx.info.namespace);
            let complete = |pair: &Pair| pods.iter().all(|pod| of(pair, pod).is_some());
            let pair = self.0.readings(&*cx.reader, complete).await;
            let now = cx.ctx.clock.now();
            pods.iter().filter_map(|pod| of_pod(&pair, pod, now)).collect()
        })
    }

    fn missing(&self, cx: &RequestCx) -> Option<Status> {
        let (namespace, name) = (&cx.info.namespace, &cx.info.name);
        let pod = cx.reader.get("", "pods", namespace, name);
        Some(match pod.is_some_and(|pod| pod["status"]["phase"] == "Running") {
            true => missing("podmetrics", GROUP, &format!("{namespace}/{name}")),
            false => missing("pods", "", name),
        })
    }
}

fn of<'a>(pair: &'a Pair, pod: &Value) -> Option<Vec<(&'a str, Usage)>> {
    pair.pod(pod["metadata"]["namespace"].as_str().unwrap_or_default(), name(pod))
}

/// `None` unless all of the pod's containers that run have been read twice.
fn of_pod(pair: &Pair, pod: &Value, now: SystemTime) -> Option<Value> {
    let containers = of(pair, pod)?;
    let earliest = containers.iter().map(|(_, usage)| usage).min_by_key(|usage| usage.time)?;
    let mut object = object("PodMetrics", pod, now, earliest.time, earliest.window);
    let container = |(name, usage): &(&str, Usage)| json!({ "name": name, "usage": resources(usage) });
    object["containers"] = containers.iter().map(container).collect();
    Some(object)
}
