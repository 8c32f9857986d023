//! Endpoints and EndpointSlices: which addresses are behind a service. Three of upstream's controllers: the one that
//! keeps slices for services with selectors, the one that keeps the older Endpoints for them, and the one that
//! mirrors hand-made Endpoints of services without selectors into slices.

mod legacy;
mod mirroring;
mod selected;
mod slices;

use crate::framework::{Reconcile, Start, run};
use knarr_api::Kind;
use knarr_api::core::v1::{Pod, Service};
use knarr_client::informer::Key;
use knarr_client::{Change, Informer, WorkQueue};
use std::sync::Arc;

pub use legacy::start as start_endpoints;
pub use mirroring::start as start_mirroring;
pub use slices::start as start_slices;

/// Upstream's default of --concurrent-service-endpoint-syncs.
const WORKERS: usize = 5;

/// Label with the name of the service that a slice belongs to.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Label with who keeps a slice.
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Label of slices and Endpoints of services without an address of their own.
const HEADLESS: &str = "service.kubernetes.io/headless";

/// Wakes `queue` for services that change and for the services of pods that change.
fn watch_services(start: &Start, queue: &WorkQueue<Key>) -> (Informer<Service>, Informer<Pod>) {
    let (services, pods) = (start.informers.get::<Service>(), start.informers.get::<Pod>());
    let on_service = queue.clone();
    services.on_change(move |change| on_service.add(Key::of(&change.object().metadata)));
    let (on_pod, known) = (queue.clone(), services.clone());
    pods.on_change(move |change: &Change<Pod>| {
        if let (Some(old), Some(new)) = (&change.old, &change.new)
            && selected::same_to_services(old, new)
        {
            return;
        }
        let namespace = change.object().namespace();
        for service in known.list(namespace) {
            let selects = |pod: &Arc<Pod>| selected::selects(&service, pod);
            if change.old.as_ref().is_some_and(selects) || change.new.as_ref().is_some_and(selects) {
                on_pod.add(Key::of(&service.metadata));
            }
        }
    });
    (services, pods)
}

fn run_over(
    start: &Start,
    name: &'static str,
    queue: WorkQueue<Key>,
    ready: impl Future<Output = ()> + Send + 'static,
    controller: Arc<dyn Reconcile>,
) {
    run(start, name, WORKERS, queue, ready, controller);
}

/// Whether the service has no address of its own by choice.
fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()) == Some("None")
}

/// Whether the service has a selector and is not only a name for something outside.
fn has_selector(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    spec.is_some_and(|s| {
        s.selector.as_ref().is_some_and(|s| !s.is_empty()) && s.type_.as_deref() != Some("ExternalName")
    })
}
