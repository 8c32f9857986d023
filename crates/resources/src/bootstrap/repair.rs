//! What a crash between two writes can leave behind: addresses of services that do not exist, and services
//! whose address nobody holds (pkg/registry/core/service/ipallocator/controller).

use crate::core::service::{address_object, is_managed};
use crate::util::ip;
use crate::util::value::{list, text};
use futures_util::future::join_all;
use http::Method;
use knarr_client::{Client, Error, ListOptions, ResourcePath};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

const URL: &str = "/apis/networking.k8s.io/v1/ipaddresses";

async fn list_all(client: &Client, group: &str, resource: &str) -> Result<Vec<Value>, Error> {
    let path =
        ResourcePath { group: group.to_owned(), version: "v1".to_owned(), resource: resource.to_owned() };
    match client.list_raw(&path, "", &ListOptions::default(), "application/json").await {
        Ok(list) => Ok(list.items.iter().filter_map(|raw| serde_json::from_slice(raw).ok()).collect()),
        Err(err) if err.is_not_found() => Ok(Vec::new()),
        Err(err) => Err(err),
    }
}

/// Compares services and addresses and corrects the addresses.
pub async fn addresses(client: &Client) -> Result<(), Error> {
    let (services, objects) = futures_util::try_join!(
        list_all(client, "", "services"),
        list_all(client, "networking.k8s.io", "ipaddresses")
    )?;
    let mut wanted: BTreeMap<String, Value> = BTreeMap::new();
    for service in &services {
        let (namespace, name) =
            (text(service, &["metadata", "namespace"]), text(service, &["metadata", "name"]));
        for address in list(service, &["spec", "clusterIPs"]).iter().filter_map(Value::as_str) {
            if let Some(ip) = ip::parse_sloppy(address) {
                wanted.insert(ip.to_string(), address_object(namespace, name, &ip));
            }
        }
    }
    let held: BTreeSet<&str> = objects.iter().map(|o| text(o, &["metadata", "name"])).collect();
    let missing = wanted.iter().filter(|(name, _)| !held.contains(name.as_str()));
    let missing = missing.map(|(_, object)| (Method::POST, URL.to_owned(), object.clone()));
    let stray = objects.iter().filter(|o| is_managed(o)).filter_map(|object| {
        let name = text(object, &["metadata", "name"]);
        let right = wanted.get(name).is_some_and(|w| w["spec"]["parentRef"] == object["spec"]["parentRef"]);
        (!right).then(|| (Method::DELETE, format!("{URL}/{name}"), Value::Null))
    });
    let work: Vec<(Method, String, Value)> = missing.chain(stray).collect();
    let done = join_all(work.iter().map(|(method, url, body)| async move {
        tracing::info!(%method, url, "repairing a service address");
        client.call(method.clone(), url, body).await
    }));
    for (result, (_, url, _)) in done.await.into_iter().zip(&work) {
        match result {
            Ok(_) => {}
            Err(err) if err.is_conflict() || err.is_not_found() => {}
            Err(err @ Error::Api(_)) => tracing::warn!(url, %err, "cannot repair a service address"),
            Err(err) => return Err(err),
        }
    }
    Ok(())
}
