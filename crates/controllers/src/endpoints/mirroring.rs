//! endpointslicemirroring: Endpoints that people keep by hand for a service without a selector (a database outside
//! the cluster, say) are mirrored into slices, which is what the data path reads.

use super::slices::{Group, apply, wake};
use super::{has_selector, run_over};
use crate::framework::{Next, Reconcile, Start};
use knarr_api::core::v1::{Endpoints, Service};
use knarr_api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use knarr_base::clock::BoxFuture;
use knarr_client::informer::Key;
use knarr_client::{Error, Informer, WorkQueue};
use std::sync::Arc;

const CONTROLLER: &str = "endpointslicemirroring-controller.k8s.io";
/// Label by which Endpoints ask not to be mirrored.
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Annotation of Endpoints that are a lock of the old leader election.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";

struct Mirroring {
    start: Start,
    services: Informer<Service>,
    endpoints: Informer<Endpoints>,
    slices: Informer<EndpointSlice>,
}

/// Starts the controller.
pub fn start(start: Start) {
    let services = start.informers.get::<Service>();
    let endpoints = start.informers.get::<Endpoints>();
    let slices = start.informers.get::<EndpointSlice>();
    let queue = WorkQueue::new(start.ctx.clone());
    let on_service = queue.clone();
    services.on_change(move |change| on_service.add(Key::of(&change.object().metadata)));
    let on_endpoints = queue.clone();
    endpoints.on_change(move |change| on_endpoints.add(Key::of(&change.object().metadata)));
    wake(&slices, CONTROLLER, &queue);
    let ready = {
        let (services, endpoints, slices) = (services.clone(), endpoints.clone(), slices.clone());
        async move {
            services.synced().await;
            endpoints.synced().await;
            slices.synced().await;
        }
    };
    let controller = Arc::new(Mirroring { start: start.clone(), services, endpoints, slices });
    run_over(&start, "endpointslicemirroring", queue, ready, controller);
}

impl Reconcile for Mirroring {
    fn sync<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Next, Error>> {
        Box::pin(async move {
            let Some(service) = self.services.get_key(key) else { return Ok(Next::Done) };
            let external = service.spec.as_ref().and_then(|s| s.type_.as_deref()) == Some("ExternalName");
            if service.metadata.deletion_timestamp.is_some() || has_selector(&service) || external {
                return Ok(Next::Done);
            }
            let held = self.endpoints.get_key(key).filter(|e| is_mirrored(e));
            if held.is_none() && !self.has_slices(key) {
                return Ok(Next::Done);
            }
            let groups = held.map(|e| groups(&e)).unwrap_or_default();
            apply(&self.start.client, &self.slices, &service, CONTROLLER, groups).await?;
            Ok(Next::Done)
        })
    }
}

impl Mirroring {
    fn has_slices(&self, key: &Key) -> bool {
        self.slices.list(&key.namespace).iter().any(|slice| {
            let label = |name: &str| slice.metadata.labels.as_ref().and_then(|l| l.get(name));
            label(super::SERVICE_NAME) == Some(&key.name)
                && label(super::MANAGED_BY).is_some_and(|by| by == CONTROLLER)
        })
    }
}

fn is_mirrored(endpoints: &Endpoints) -> bool {
    let meta = &endpoints.metadata;
    let skipped = meta.labels.as_ref().and_then(|l| l.get(SKIP)).is_some_and(|v| v == "true");
    let lock = meta.annotations.as_ref().is_some_and(|a| a.contains_key(LEADER));
    // The API server keeps its own slice beside its own Endpoints.
    let own = meta.namespace.as_deref() == Some("default") && meta.name.as_deref() == Some("kubernetes");
    !skipped && !lock && !own && meta.deletion_timestamp.is_none()
}

fn groups(endpoints: &Endpoints) -> Vec<Group> {
    let of = |subset: &knarr_api::core::v1::EndpointSubset| {
        let ports = subset.ports.iter().flatten().map(|p| EndpointPort {
            name: Some(p.name.clone().unwrap_or_default()),
            port: Some(p.port),
            protocol: p.protocol.clone().or_else(|| Some("TCP".to_owned())),
            app_protocol: p.app_protocol.clone(),
        });
        let ready = subset.addresses.iter().flatten().map(|a| (a, true));
        let not_ready = subset.not_ready_addresses.iter().flatten().map(|a| (a, false));
        let addresses = ready.chain(not_ready).map(|(address, ready)| Endpoint {
            addresses: vec![address.ip.clone()],
            conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
            hostname: address.hostname.clone(),
            node_name: address.node_name.clone(),
            target_ref: address.target_ref.clone(),
            ..Endpoint::default()
        });
        (ports.collect(), addresses.collect())
    };
    endpoints.subsets.iter().flatten().map(of).collect()
}
