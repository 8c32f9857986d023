//! The service `kubernetes` in the namespace `default`, with the Endpoints and the slice that lead to this API server.
//! Kept right at every start, so that a changed address is followed.

use super::BootstrapConfig;
use http::Method;
use knarr_api::Kind;
use knarr_api::core::v1::{Endpoints, Service};
use knarr_api::discovery::v1::EndpointSlice;
use knarr_base::Ctx;
use knarr_client::{Client, Error, ResourcePath};
use serde_json::{Value, json};

const NAME: &str = "kubernetes";
const NAMESPACE: &str = "default";

/// Writes what is missing or differs.
pub async fn reconcile(_ctx: &Ctx, client: &Client, config: &BootstrapConfig) -> Result<(), Error> {
    let (address, port) = config.endpoint;
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": NAME, "namespace": NAMESPACE, "labels": { "component": "apiserver", "provider": "kubernetes" } },
        "spec": {
            "type": "ClusterIP", "clusterIP": config.service_ip.to_string(), "sessionAffinity": "None",
            "ports": [{ "name": "https", "protocol": "TCP", "port": 443, "targetPort": port }],
        },
    });
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": { "name": NAME, "namespace": NAMESPACE, "labels": { "endpointslice.kubernetes.io/skip-mirror": "true" } },
        "subsets": [{ "addresses": [{ "ip": address.to_string() }], "ports": [{ "name": "https", "port": port, "protocol": "TCP" }] }],
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": { "name": NAME, "namespace": NAMESPACE, "labels": { "kubernetes.io/service-name": NAME } },
        "addressType": "IPv4",
        "endpoints": [{ "addresses": [address.to_string()], "conditions": { "ready": true } }],
        "ports": [{ "name": "https", "port": port, "protocol": "TCP" }],
    });
    ensure::<Service>(client, &service, |live| {
        // The port may have moved; the address cannot, nor is it this function's business what else was added.
        let ports = &service["spec"]["ports"];
        (live["spec"]["ports"][0]["targetPort"] != ports[0]["targetPort"]).then(|| {
            let mut changed = live.clone();
            changed["spec"]["ports"] = ports.clone();
            changed
        })
    })
    .await?;
    ensure::<Endpoints>(client, &endpoints, |live| replaced(live, &endpoints, &["subsets"])).await?;
    ensure::<EndpointSlice>(client, &slice, |live| replaced(live, &slice, &["endpoints", "ports"])).await
}

fn replaced(live: &Value, wanted: &Value, fields: &[&str]) -> Option<Value> {
    if fields.iter().all(|field| live[*field] == wanted[*field]) {
        return None;
    }
    let mut changed = live.clone();
    fields.iter().for_each(|field| changed[*field] = wanted[*field].clone());
    Some(changed)
}

async fn ensure<K: Kind>(
    client: &Client,
    wanted: &Value,
    change: impl Fn(&Value) -> Option<Value>,
) -> Result<(), Error> {
    let path = ResourcePath::of::<K>();
    let live = match client.call(Method::GET, &path.url(NAMESPACE, NAME, ""), &Value::Null).await {
        Ok(json) => serde_json::from_slice::<Value>(&json).map_err(|e| Error::Protocol(e.to_string()))?,
        Err(error) if error.is_not_found() => {
            return client.call(Method::POST, &path.url(NAMESPACE, "", ""), wanted).await.map(drop);
        }
        Err(error) => return Err(error),
    };
    match change(&live) {
        Some(changed) => client.call(Method::PUT, &path.url(NAMESPACE, NAME, ""), &changed).await.map(drop),
        None => Ok(()),
    }
}
