//! The registry's behaviour over a few kinds, request by request.

mod apply;
mod delete;
mod dynamic;
mod forms;
mod letter;
mod read;
mod remote;
mod watch;
mod write;

use crate::admission::{Operation, Plugin, Write};
use crate::def::{ResourceDef, ServedVersion, Strategy, SubKind, Subresource};
use crate::request::RequestCx;
use crate::testing::Server;
use futures_util::future::BoxFuture;
use knarr_api::apps::v1::Deployment;
use knarr_api::coordination::v1::Lease;
use knarr_api::core::v1::{ConfigMap, Event, Pod};
use knarr_meta::field::{self, ErrorList, Path};
use knarr_meta::object;
use knarr_meta::status::Status;
use serde_json::{Value, json};
use std::sync::Arc;

struct ConfigMaps;

impl Strategy for ConfigMaps {
    type Object = ConfigMap;
    fn has_generation(&self) -> bool {
        false
    }
    fn validate(&self, _: &RequestCx, map: &ConfigMap) -> ErrorList {
        let mut errors = ErrorList::new();
        if map.data.as_ref().is_some_and(|data| data.contains_key("bad")) {
            errors.push(field::invalid(&Path::new("data").key("bad"), "bad", "is bad"));
        }
        errors
    }
    fn warnings(&self, _: &RequestCx, map: &ConfigMap, _: Option<&ConfigMap>) -> Vec<String> {
        let odd = map.data.as_ref().is_some_and(|data| data.contains_key("odd"));
        if odd { vec!["data[odd]: is odd".to_owned()] } else { Vec::new() }
    }
}

struct Pods;

impl Strategy for Pods {
    type Object = Pod;
    fn prepare_for_create(&self, _: &RequestCx, pod: &mut Value) {
        pod["status"] = json!({"phase": "Pending"});
    }
    fn grace_period(&self, _: &RequestCx, pod: &Value, requested: Option<i64>) -> Option<i64> {
        if object::get_str(pod, &["spec", "nodeName"]).is_empty() {
            return Some(0);
        }
        Some(requested.unwrap_or(30))
    }
}

struct Deployments;

impl Strategy for Deployments {
    type Object = Deployment;
    fn default(&self, obj: &mut Value) {
        if obj["spec"].is_object() && obj["spec"]["replicas"].is_null() {
            obj["spec"]["replicas"] = 1.into();
        }
    }
    fn prepare_for_create(&self, _: &RequestCx, obj: &mut Value) {
        object::remove_path(obj, &["status"]);
    }
}

struct Leases;

impl Strategy for Leases {
    type Object = Lease;
    fn allow_create_on_update(&self) -> bool {
        true
    }
    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

struct Events;

impl Strategy for Events {
    type Object = Event;
    fn ttl_seconds(&self, _: &Value) -> Option<u64> {
        Some(3600)
    }
}

fn events_to_hub(mut event: Value) -> Result<Value, Status> {
    event["message"] = event["note"].take();
    event["involvedObject"] = event["regarding"].take();
    object::remove_path(&mut event, &["note"]);
    object::remove_path(&mut event, &["regarding"]);
    Ok(event)
}

fn events_from_hub(mut event: Value) -> Result<Value, Status> {
    event["note"] = event["message"].take();
    event["regarding"] = event["involvedObject"].take();
    object::remove_path(&mut event, &["message"]);
    object::remove_path(&mut event, &["involvedObject"]);
    Ok(event)
}

fn defs() -> Vec<ResourceDef> {
    let binding = Subresource {
        name: "binding",
        kind: ("", "v1", "Binding"),
        verbs: &["create"],
        serve: SubKind::Change(|_, binding, pod| {
            if !object::get_str(pod, &["spec", "nodeName"]).is_empty() {
                return Err(Status::bad_request("bound already"));
            }
            pod["spec"]["nodeName"] = binding["target"]["name"].clone();
            Ok(())
        }),
    };
    let pods = ResourceDef::new(Pods).status().subresource(binding).selectable(&[
        ("spec.nodeName", &["spec", "nodeName"], ""),
        ("status.phase", &["status", "phase"], ""),
    ]);
    let deployments = ResourceDef::new(Deployments).status().scale(
        &["spec", "replicas"],
        &["status", "replicas"],
        &["spec", "selector"],
    );
    let events = ResourceDef::new(Events);
    let mut new_events = ResourceDef::new(Events);
    new_events.group = "events.k8s.io".into();
    new_events.versions = vec![ServedVersion {
        version: "v1".into(),
        to_hub: Some(events_to_hub),
        from_hub: Some(events_from_hub),
    }];
    vec![ResourceDef::new(ConfigMaps), pods, deployments, ResourceDef::new(Leases), events, new_events]
}

fn server() -> Server {
    Server::new(defs(), Vec::new())
}

/// Marks what it sees, and refuses what is labelled `refuse`.
struct Marker;

impl Plugin for Marker {
    fn name(&self) -> &'static str {
        "Marker"
    }
    fn handles(&self, _: Operation, _: &str, resource: &str, _: &str) -> bool {
        resource == "configmaps"
    }
    fn mutate<'a>(&'a self, write: &'a mut Write<'_>) -> BoxFuture<'a, Result<(), Status>> {
        if write.object.is_object() {
            object::set_annotation(write.object, "marked", &format!("{:?}", write.operation));
        }
        Box::pin(std::future::ready(Ok(())))
    }
    fn validate<'a>(&'a self, write: &'a Write<'_>) -> BoxFuture<'a, Result<(), Status>> {
        let refused = [Some(&*write.object), write.old].into_iter().flatten();
        let refused = refused.filter(|o| o.is_object()).any(|o| object::label(o, "refuse").is_some());
        let gr = knarr_meta::gvk::GroupResource::new("", "configmaps");
        let answer =
            if refused { Err(Status::forbidden(&gr, write.name, "marked for refusal")) } else { Ok(()) };
        Box::pin(std::future::ready(answer))
    }
}

fn admitting_server() -> Server {
    Server::new(defs(), vec![Arc::new(Marker)])
}

const MAPS: &str = "/api/v1/namespaces/ns/configmaps";
const PODS: &str = "/api/v1/namespaces/ns/pods";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/ns/deployments";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/ns/leases";

fn map(name: &str, data: Value) -> Value {
    json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name}, "data": data})
}

fn pod(name: &str, node: &str) -> Value {
    json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}})
}

fn deployment(name: &str) -> Value {
    json!({"kind": "Deployment", "apiVersion": "apps/v1", "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": {"app": name}}, "template": {"metadata": {"labels": {"app": name}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"]
        .as_str()
        .unwrap_or_default()
        .parse()
        .expect("a resourceVersion is a number")
}
