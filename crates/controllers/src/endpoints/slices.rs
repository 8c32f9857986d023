//! endpointslice: keeps the slices of services with selectors. Pods with the same ports share slices of at most a
//! hundred endpoints; slices that are right stay as they are.

use super::selected::{self, Selected};
use super::{HEADLESS, MANAGED_BY, SERVICE_NAME, has_selector, is_headless, run_over, watch_services};
use crate::framework::pod_control::controller_ref;
use crate::framework::{Next, Reconcile, Start};
use knarr_api::Kind;
use knarr_api::core::v1::{Pod, Service};
use knarr_api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use knarr_api::meta::v1::ObjectMeta;
use knarr_base::clock::BoxFuture;
use knarr_client::informer::Key;
use knarr_client::{Client, DeleteOptions, Error, Informer, ListOptions, WorkQueue};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Endpoints in a slice (upstream's default of --max-endpoints-per-slice).
const PER_SLICE: usize = 100;
const CONTROLLER: &str = "endpointslice-controller.k8s.io";

struct Slices {
    start: Start,
    services: Informer<Service>,
    pods: Informer<Pod>,
    slices: Informer<EndpointSlice>,
}

/// Starts the controller.
pub fn start(start: Start) {
    let queue = WorkQueue::new(start.ctx.clone());
    let (services, pods) = watch_services(&start, &queue);
    let slices = start.informers.get::<EndpointSlice>();
    wake(&slices, CONTROLLER, &queue);
    let ready = {
        let (services, pods, slices) = (services.clone(), pods.clone(), slices.clone());
        async move {
            services.synced().await;
            pods.synced().await;
            slices.synced().await;
        }
    };
    let controller = Arc::new(Slices { start: start.clone(), services, pods, slices });
    run_over(&start, "endpointslice", queue, ready, controller);
}

impl Reconcile for Slices {
    fn sync<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Next, Error>> {
        Box::pin(async move {
            // Without the service its slices go by garbage collection.
            let Some(service) = self.services.get_key(key) else { return Ok(Next::Done) };
            if service.metadata.deletion_timestamp.is_some() || !has_selector(&service) {
                return Ok(Next::Done);
            }
            let selected =
                self.pods.list(&key.namespace).into_iter().filter(|pod| selected::selects(&service, pod));
            let endpoints: Vec<Selected> =
                selected.filter_map(|pod| selected::endpoint(&service, &pod)).collect();
            let wanted = group(&endpoints);
            apply(&self.start.client, &self.slices, &service, CONTROLLER, wanted).await?;
            Ok(Next::Done)
        })
    }
}

/// Has services looked at when the slices that `controller` keeps for them change.
pub fn wake(slices: &Informer<EndpointSlice>, controller: &'static str, queue: &WorkQueue<Key>) {
    let queue = queue.clone();
    slices.on_change(move |change| {
        let slice = change.object();
        let labels = slice.metadata.labels.as_ref();
        if labels.and_then(|l| l.get(MANAGED_BY)).is_some_and(|by| by == controller)
            && let Some(service) = labels.and_then(|l| l.get(SERVICE_NAME))
        {
            queue.add(Key::new(slice.namespace(), service));
        }
    });
}

/// Endpoints that share their ports.
pub type Group = (Vec<EndpointPort>, Vec<Endpoint>);

fn group(endpoints: &[Selected]) -> Vec<Group> {
    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    for endpoint in endpoints {
        let entry = groups
            .entry(format!("{:?}", endpoint.ports))
            .or_insert_with(|| (endpoint.ports.clone(), Vec::new()));
        entry.1.push(Endpoint {
            addresses: vec![endpoint.address.to_string()],
            conditions: Some(EndpointConditions {
                ready: Some(endpoint.ready),
                serving: Some(endpoint.serving),
                terminating: Some(endpoint.terminating),
            }),
            hostname: endpoint.hostname.clone(),
            node_name: endpoint.node.clone(),
            target_ref: Some(endpoint.target.clone()),
            ..Endpoint::default()
        });
    }
    groups.into_values().collect()
}

fn endpoints_of(slice: &EndpointSlice) -> &[Endpoint] {
    slice.endpoints.as_deref().unwrap_or_default()
}

/// What is to happen to a service's slices.
#[derive(Debug, Default, PartialEq)]
struct Plan {
    create: Vec<Group>,
    update: Vec<EndpointSlice>,
    delete: Vec<String>,
}

/// Fits the wanted groups into the slices there are. An endpoint stays in its slice if it can.
fn plan(held: &[Arc<EndpointSlice>], wanted: Vec<Group>, labels: &BTreeMap<String, String>) -> Plan {
    let mut plan = Plan::default();
    let mut unused: Vec<&Arc<EndpointSlice>> = held.iter().collect();
    unused.sort_by_key(|slice| slice.name().to_owned());
    for (ports, mut endpoints) in wanted {
        let (same_ports, others) =
            unused.into_iter().partition(|s| s.ports.as_deref().unwrap_or_default() == ports);
        unused = others;
        let same_ports: Vec<&Arc<EndpointSlice>> = same_ports;
        for slice in same_ports {
            let here = |e: &Endpoint| {
                endpoints_of(slice)
                    .iter()
                    .any(|held| held.addresses == e.addresses && held.target_ref == e.target_ref)
            };
            let (mut stay, rest): (Vec<Endpoint>, Vec<Endpoint>) = endpoints.into_iter().partition(here);
            endpoints = rest;
            let room = PER_SLICE.saturating_sub(stay.len());
            stay.extend(endpoints.drain(..room.min(endpoints.len())));
            if stay.is_empty() && (held.len() > 1 || !endpoints.is_empty()) {
                plan.delete.push(slice.name().to_owned());
                continue;
            }
            let order = |e: &Endpoint| {
                endpoints_of(slice).iter().position(|h| h.addresses == e.addresses).unwrap_or(usize::MAX)
            };
            stay.sort_by_key(order);
            if stay != endpoints_of(slice) || slice.metadata.labels.as_ref() != Some(labels) {
                let mut changed = (**slice).clone();
                changed.endpoints = Some(stay);
                changed.metadata.labels = Some(labels.clone());
                plan.update.push(changed);
            }
        }
        while !endpoints.is_empty() {
            let rest = endpoints.split_off(PER_SLICE.min(endpoints.len()));
            // A slice that is left over is used again rather than deleted and made anew.
            match unused.pop() {
                Some(slice) => {
                    let mut changed = (**slice).clone();
                    changed.endpoints = Some(endpoints);
                    changed.ports = Some(ports.clone());
                    changed.metadata.labels = Some(labels.clone());
                    plan.update.push(changed);
                }
                None => plan.create.push((ports.clone(), endpoints)),
            }
            endpoints = rest;
        }
    }
    // A service without endpoints keeps one empty slice, so that it is known to have been looked at.
    if plan.create.is_empty() && plan.update.is_empty() && plan.delete.len() + unused.len() == held.len() {
        match unused.pop() {
            Some(last) => {
                let mut empty = (**last).clone();
                empty.endpoints = None;
                empty.ports = None;
                empty.metadata.labels = Some(labels.clone());
                if !endpoints_of(last).is_empty() || last.metadata.labels.as_ref() != Some(labels) {
                    plan.update.push(empty);
                }
            }
            None => plan.create.push((Vec::new(), Vec::new())),
        }
    }
    plan.delete.extend(unused.iter().map(|s| s.name().to_owned()));
    plan
}

/// Brings the slices of a service that `controller` keeps to the wanted groups.
pub async fn apply(
    client: &Client,
    slices: &Informer<EndpointSlice>,
    service: &Service,
    controller: &str,
    wanted: Vec<Group>,
) -> Result<(), Error> {
    let namespace = service.namespace();
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), service.name().to_owned());
    labels.insert(MANAGED_BY.to_owned(), controller.to_owned());
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    } else {
        labels.remove(HEADLESS);
    }
    let mine = |slice: &Arc<EndpointSlice>| {
        let has = |key: &str, value: &str| {
            slice.metadata.labels.as_ref().and_then(|l| l.get(key)).is_some_and(|v| v == value)
        };
        has(SERVICE_NAME, service.name())
            && has(MANAGED_BY, controller)
            && slice.metadata.deletion_timestamp.is_none()
    };
    let held: Vec<_> = slices.list(namespace).into_iter().filter(mine).collect();
    let mut plan = plan(&held, wanted.clone(), &labels);
    if !plan.create.is_empty() {
        // What the informer has not heard of yet is not made a second time.
        let label_selector = format!("{SERVICE_NAME}={},{MANAGED_BY}={controller}", service.name());
        let options = ListOptions { label_selector, ..ListOptions::default() };
        let live = client.list::<EndpointSlice>(namespace, &options).await?.items;
        let held: Vec<_> = live.into_iter().map(Arc::new).filter(mine).collect();
        plan = self::plan(&held, wanted, &labels);
    }
    for (ports, endpoints) in plan.create {
        let slice = EndpointSlice {
            metadata: ObjectMeta {
                generate_name: Some(format!("{}-", service.name())),
                namespace: Some(namespace.to_owned()),
                labels: Some(labels.clone()),
                owner_references: Some(vec![controller_ref(service)]),
                ..ObjectMeta::default()
            },
            address_type: "IPv4".to_owned(),
            endpoints: Some(endpoints),
            ports: Some(ports).filter(|p| !p.is_empty()),
        };
        client.create(&slice).await?;
    }
    for slice in plan.update {
        client.update(&slice).await?;
    }
    for name in plan.delete {
        match client.delete::<EndpointSlice>(namespace, &name, &DeleteOptions::default()).await {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(range: std::ops::Range<usize>) -> Vec<Endpoint> {
        range
            .map(|i| Endpoint {
                addresses: vec![format!("10.0.{}.{}", i / 250, i % 250)],
                ..Endpoint::default()
            })
            .collect()
    }

    fn port(number: i32) -> Vec<EndpointPort> {
        vec![EndpointPort { port: Some(number), ..EndpointPort::default() }]
    }

    fn slice(name: &str, number: i32, range: std::ops::Range<usize>) -> Arc<EndpointSlice> {
        Arc::new(EndpointSlice {
            metadata: ObjectMeta {
                name: Some(name.into()),
                labels: Some(BTreeMap::new()),
                ..ObjectMeta::default()
            },
            ports: Some(port(number)),
            endpoints: Some(endpoints(range)),
            ..EndpointSlice::default()
        })
    }

    #[test]
    fn slices_that_are_right_stay_and_others_are_used_again() {
        let none = BTreeMap::new();
        assert_eq!(plan(&[slice("a", 80, 0..3)], vec![(port(80), endpoints(0..3))], &none), Plan::default());

        let grown = plan(&[slice("a", 80, 0..100)], vec![(port(80), endpoints(0..230))], &none);
        assert_eq!(grown.create.iter().map(|g| g.1.len()).collect::<Vec<_>>(), [100, 30]);
        assert!(grown.update.is_empty() && grown.delete.is_empty());

        let moved = plan(&[slice("a", 80, 0..3)], vec![(port(81), endpoints(0..3))], &none);
        assert_eq!((moved.create.len(), moved.update.len(), moved.delete.len()), (0, 1, 0));

        let gone = plan(&[slice("a", 80, 0..3), slice("b", 80, 3..5)], vec![], &none);
        assert_eq!((gone.create.len(), gone.update.len(), gone.delete.len()), (0, 1, 1));

        assert_eq!(plan(&[], vec![], &none).create.len(), 1);
    }
}
