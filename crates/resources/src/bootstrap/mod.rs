//! What an empty cluster has after its start: namespaces, default roles and bindings, priority classes, the service
//! range, and the service by which pods reach the API server. Written through the API under the server's own
//! identity. A restart writes only what is missing; default roles get back the rules and subjects they have lost
//! unless they are marked `rbac.authorization.kubernetes.io/autoupdate: "false"`, as upstream reconciles them.

mod kubernetes_service;
mod local_path;
mod rbac;
mod repair;
mod service_range;

use futures_util::future::join_all;
use http::Method;
use knarr_apiserver::def::{ResourceDef, Scope};
use knarr_base::Ctx;
use knarr_client::{Client, Error, ListOptions, ResourcePath};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

/// What depends on the configuration.
#[derive(Clone, Debug)]
pub struct BootstrapConfig {
    /// Service range, for example `10.96.0.0/16`.
    pub service_cidr: String,
    /// Address of the service `kubernetes`.
    pub service_ip: Ipv4Addr,
    /// Where the API server is reached from pods.
    pub endpoint: (Ipv4Addr, u16),
    /// CA certificates published for extension API servers: clients' and the front proxy's, PEM.
    pub client_ca: String,
    /// The front proxy's CA.
    pub front_proxy_ca: String,
}

/// Writes what is missing. `defs` says which kinds are served; initial objects of others are left out.
pub async fn run(
    ctx: &Ctx,
    client: &Client,
    defs: &[Arc<ResourceDef>],
    config: &BootstrapConfig,
) -> Result<(), Error> {
    let served: BTreeMap<(String, String), &Arc<ResourceDef>> = defs
        .iter()
        .flat_map(|def| {
            def.versions.iter().map(move |v| {
                ((knarr_meta::gvk::api_version(&def.group, &v.version), def.kind.to_string()), def)
            })
        })
        .collect();
    let mut stages: [Vec<(ResourcePath, bool, Value)>; 2] = Default::default();
    for object in objects(config).into_iter().chain([token_tracking(ctx)]) {
        let key = (
            object["apiVersion"].as_str().unwrap_or_default().to_owned(),
            object["kind"].as_str().unwrap_or_default().to_owned(),
        );
        let Some(def) = served.get(&key) else { continue };
        let version = key.0.rsplit('/').next().unwrap_or_default().to_owned();
        let path = ResourcePath { group: def.group.to_string(), version, resource: def.resource.to_string() };
        // Other objects are refused while their namespace or range is not there.
        let first = matches!(&*def.resource, "namespaces" | "servicecidrs");
        stages[usize::from(!first)].push((path, def.scope == Scope::Namespaced, object));
    }
    for stage in stages {
        write_missing(client, stage).await?;
    }
    futures_util::try_join!(
        kubernetes_service::reconcile(ctx, client, config),
        service_range::mark_ready(ctx, client)
    )?;
    repair::addresses(client).await
}

/// The initial objects with the configuration's values in them.
fn objects(config: &BootstrapConfig) -> Vec<Value> {
    let from_facts = knarr_api::facts::initial_objects().into_iter().filter_map(|mut object| {
        match object["kind"].as_str().unwrap_or_default() {
            // Made by controllers, or views of what is elsewhere.
            "ComponentStatus" | "IPAddress" | "Service" | "APIService" => return None,
            "ServiceAccount" if object["metadata"]["name"] == "default" => return None,
            "ServiceCIDR" => {
                object["spec"]["cidrs"] = json!([config.service_cidr]);
            }
            _ => {}
        }
        if let Some(fields) = object.as_object_mut() {
            fields.remove("status");
        }
        Some(object)
    });
    let authentication = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "extension-apiserver-authentication", "namespace": "kube-system" },
        "data": {
            "client-ca-file": config.client_ca,
            "requestheader-client-ca-file": config.front_proxy_ca,
            "requestheader-allowed-names": "[\"front-proxy-client\"]",
            "requestheader-extra-headers-prefix": "[\"X-Remote-Extra-\"]",
            "requestheader-group-headers": "[\"X-Remote-Group\"]",
            "requestheader-uid-headers": "[\"X-Remote-Uid\"]",
            "requestheader-username-headers": "[\"X-Remote-User\"]",
        },
    });
    from_facts.chain([authentication, metrics_reader()]).chain(local_path::objects()).collect()
}

/// The role by which viewers, editors and administrators of namespaces read what their pods use, as metrics-server brings
/// it with it.
fn metrics_reader() -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {
            "name": "system:aggregated-metrics-reader",
            "labels": {
                "rbac.authorization.k8s.io/aggregate-to-admin": "true",
                "rbac.authorization.k8s.io/aggregate-to-edit": "true",
                "rbac.authorization.k8s.io/aggregate-to-view": "true",
            },
        },
        "rules": [{
            "apiGroups": ["metrics.k8s.io"],
            "resources": ["pods", "nodes"],
            "verbs": ["get", "list", "watch"],
        }],
    })
}

/// Since when the use of tokens in secrets has been watched. Upstream's controllers look for it; who it was that used a
/// token is not noted here yet.
fn token_tracking(ctx: &Ctx) -> Value {
    let now = knarr_meta::time::rfc3339(ctx.clock.now());
    let day = now.split('T').next().unwrap_or_default();
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {
            "name": "kube-apiserver-legacy-service-account-token-tracking", "namespace": "kube-system",
        },
        "data": { "since": day },
    })
}

/// Lists each resource once, then creates what is missing and mends roles, all at once.
async fn write_missing(client: &Client, objects: Vec<(ResourcePath, bool, Value)>) -> Result<(), Error> {
    let paths: BTreeSet<&ResourcePath> = objects.iter().map(|(path, ..)| path).collect();
    let lists = join_all(paths.into_iter().map(|path| async move {
        let list = client.list_raw(path, "", &ListOptions::default(), knarr_client::client::JSON).await?;
        let objects = list.items.iter().filter_map(|item| serde_json::from_slice::<Value>(item).ok());
        let keyed = objects.map(|o| ((text(&o["metadata"]["namespace"]), text(&o["metadata"]["name"])), o));
        Ok::<_, Error>((path.clone(), keyed.collect::<BTreeMap<(String, String), Value>>()))
    }));
    let mut held = BTreeMap::new();
    for list in lists.await {
        let (path, objects) = list?;
        held.insert(path, objects);
    }
    let writes = objects.iter().filter_map(|(path, namespaced, object)| {
        let name = text(&object["metadata"]["name"]);
        let namespace = if *namespaced { text(&object["metadata"]["namespace"]) } else { String::new() };
        let live = held.get(path).and_then(|h| h.get(&(namespace.clone(), name.clone())));
        match live {
            None => Some((Method::POST, path.url(&namespace, "", ""), object.clone())),
            Some(live) => {
                let mended = rbac::mended(live, object)?;
                Some((Method::PUT, path.url(&namespace, &name, ""), mended))
            }
        }
    });
    let writes: Vec<_> = writes.collect();
    let results =
        join_all(writes.iter().map(|(method, url, object)| client.call(method.clone(), url, object))).await;
    for (result, (_, url, object)) in results.into_iter().zip(&writes) {
        match result {
            // Somebody else was quicker, which is as good.
            Err(error) if error.is_conflict() => {}
            Err(error) => {
                tracing::error!(%error, url, name = %object["metadata"]["name"], "an initial object was refused");
                return Err(error);
            }
            Ok(_) => {}
        }
    }
    Ok(())
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
