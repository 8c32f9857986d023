//! endpoint: keeps the Endpoints object of services with selectors, which older clients read.

use super::selected::{self, Selected};
use super::{HEADLESS, has_selector, is_headless, run_over, watch_services};
use crate::framework::{Next, Reconcile, Start};
use knarr_api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service};
use knarr_api::meta::v1::ObjectMeta;
use knarr_base::clock::BoxFuture;
use knarr_client::informer::Key;
use knarr_client::{DeleteOptions, Error, Informer, WorkQueue};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Addresses in one object at most; more are left out and an annotation says so.
const MOST_ADDRESSES: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";

struct Legacy {
    start: Start,
    services: Informer<Service>,
    pods: Informer<Pod>,
    endpoints: Informer<Endpoints>,
}

/// Starts the controller.
pub fn start(start: Start) {
    let queue = WorkQueue::new(start.ctx.clone());
    let (services, pods) = watch_services(&start, &queue);
    let endpoints = start.informers.get::<Endpoints>();
    let on_endpoints = queue.clone();
    endpoints.on_change(move |change| on_endpoints.add(Key::of(&change.object().metadata)));
    let ready = {
        let (services, pods, endpoints) = (services.clone(), pods.clone(), endpoints.clone());
        async move {
            services.synced().await;
            pods.synced().await;
            endpoints.synced().await;
        }
    };
    let controller = Arc::new(Legacy { start: start.clone(), services, pods, endpoints });
    run_over(&start, "endpoint", queue, ready, controller);
}

impl Reconcile for Legacy {
    fn sync<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Next, Error>> {
        Box::pin(async move {
            let held = self.endpoints.get_key(key);
            let Some(service) = self.services.get_key(key) else {
                // Endpoints carry no owner; those that were kept here go with the service.
                let ours = held
                    .as_ref()
                    .is_some_and(|e| e.metadata.labels.as_ref().is_some_and(|l| l.contains_key(MANAGED_BY)));
                if ours && let Some(held) = held {
                    let options =
                        DeleteOptions { uid: held.metadata.uid.clone(), ..DeleteOptions::default() };
                    match self.start.client.delete::<Endpoints>(&key.namespace, &key.name, &options).await {
                        Err(error) if !error.is_not_found() => return Err(error),
                        _ => {}
                    }
                }
                return Ok(Next::Done);
            };
            if service.metadata.deletion_timestamp.is_some() || !has_selector(&service) {
                return Ok(Next::Done);
            }
            let selected =
                self.pods.list(&key.namespace).into_iter().filter(|pod| selected::selects(&service, pod));
            let selected: Vec<Selected> =
                selected.filter_map(|pod| selected::endpoint(&service, &pod)).collect();
            let wanted = wanted(&service, &selected, held.as_deref());
            match held {
                Some(held) if *held == wanted => {}
                Some(_) => drop(self.start.client.update(&wanted).await?),
                None => match self.start.client.create(&wanted).await {
                    // A namespace on its way out takes nothing new.
                    Err(error) if error.code() != 403 => return Err(error),
                    _ => {}
                },
            }
            Ok(Next::Done)
        })
    }
}

fn wanted(service: &Service, selected: &[Selected], held: Option<&Endpoints>) -> Endpoints {
    let mut by_ports: BTreeMap<String, EndpointSubset> = BTreeMap::new();
    let mut chosen: Vec<&Selected> = selected.iter().filter(|s| !s.terminating || s.ready).collect();
    chosen.sort_by_key(|s| (!s.ready, s.address));
    for endpoint in chosen.iter().take(MOST_ADDRESSES) {
        let subset = by_ports.entry(format!("{:?}", endpoint.ports)).or_insert_with(|| EndpointSubset {
            ports: Some(endpoint.ports.iter().map(port).collect::<Vec<_>>()).filter(|p| !p.is_empty()),
            ..EndpointSubset::default()
        });
        let list = if endpoint.ready { &mut subset.addresses } else { &mut subset.not_ready_addresses };
        list.get_or_insert_default().push(EndpointAddress {
            ip: endpoint.address.to_string(),
            hostname: endpoint.hostname.clone(),
            node_name: endpoint.node.clone(),
            target_ref: Some(endpoint.target.clone()),
        });
    }
    let mut metadata = held.map(|h| h.metadata.clone()).unwrap_or_else(|| ObjectMeta {
        name: service.metadata.name.clone(),
        namespace: service.metadata.namespace.clone(),
        ..ObjectMeta::default()
    });
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(MANAGED_BY.to_owned(), "endpoint-controller".to_owned());
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    metadata.labels = Some(labels);
    let annotations = metadata.annotations.get_or_insert_default();
    if chosen.len() > MOST_ADDRESSES {
        annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    } else {
        annotations.remove(OVER_CAPACITY);
    }
    if annotations.is_empty() {
        metadata.annotations = None;
    }
    let subsets: Vec<EndpointSubset> = by_ports.into_values().collect();
    Endpoints { metadata, subsets: Some(subsets).filter(|s| !s.is_empty()) }
}

fn port(port: &knarr_api::discovery::v1::EndpointPort) -> EndpointPort {
    EndpointPort {
        name: port.name.clone().filter(|n| !n.is_empty()),
        port: port.port.unwrap_or_default(),
        protocol: port.protocol.clone(),
        app_protocol: port.app_protocol.clone(),
    }
}
