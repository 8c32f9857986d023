//! The pods behind a service, as endpoints.

use crate::framework::pods;
use knarr_api::IntOrString;
use knarr_api::Kind;
use knarr_api::core::v1::{ObjectReference, Pod, Service, ServicePort};
use knarr_api::discovery::v1::EndpointPort;
use std::net::IpAddr;

/// A pod as an endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Selected {
    /// Its address.
    pub address: IpAddr,
    /// Ports, those that the pod can serve.
    pub ports: Vec<EndpointPort>,
    /// Takes traffic.
    pub ready: bool,
    /// Would answer, even while it ends.
    pub serving: bool,
    /// Is on its way out.
    pub terminating: bool,
    /// Host name for DNS, if it has one under this service.
    pub hostname: Option<String>,
    /// Node.
    pub node: Option<String>,
    /// The pod.
    pub target: ObjectReference,
}

/// Whether a service's selector matches a pod of its namespace.
pub fn selects(service: &Service, pod: &Pod) -> bool {
    let selector = service.spec.as_ref().and_then(|s| s.selector.as_ref());
    let labels = pod.metadata.labels.as_ref();
    super::has_selector(service)
        && selector.is_some_and(|s| s.iter().all(|(k, v)| labels.and_then(|l| l.get(k)) == Some(v)))
}

/// Whether a change of a pod is none of a service's business.
pub fn same_to_services(old: &Pod, new: &Pod) -> bool {
    let of = |pod: &Pod| {
        (
            pod.metadata.labels.clone(),
            pod.metadata.deletion_timestamp.is_some(),
            pods::is_ready(pod),
            pods::phase(pod).to_owned(),
            pod.status.as_ref().and_then(|s| s.pod_ips.clone()),
            pod.spec.as_ref().and_then(|s| s.node_name.clone()),
        )
    };
    of(old) == of(new)
}

/// The endpoint of a pod behind a service; `None` if it has no address or has ended.
pub fn endpoint(service: &Service, pod: &Pod) -> Option<Selected> {
    let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref()?);
    if matches!(pods::phase(pod), "Succeeded" | "Failed") {
        return None;
    }
    let addresses = status.pod_ips.iter().flatten().map(|a| a.ip.as_str()).chain(status.pod_ip.as_deref());
    let address = addresses.filter_map(|a| a.parse::<IpAddr>().ok()).find(IpAddr::is_ipv4)?;
    let service_spec = service.spec.as_ref()?;
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let publish = service_spec.publish_not_ready_addresses == Some(true);
    let serving = pods::is_ready(pod);
    let named = spec.hostname.as_deref().filter(|h| !h.is_empty());
    let hostname = named.filter(|_| spec.subdomain.as_deref() == Some(service.name()));
    let ports = service_spec.ports.iter().flatten().filter_map(|port| {
        Some(EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(target_port(port, pod)?),
            protocol: port.protocol.clone().or_else(|| Some("TCP".to_owned())),
            app_protocol: port.app_protocol.clone(),
        })
    });
    Some(Selected {
        address,
        ports: ports.collect(),
        ready: publish || (serving && !terminating),
        serving,
        terminating,
        hostname: hostname.map(str::to_owned),
        node: spec.node_name.clone().filter(|n| !n.is_empty()),
        target: ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        },
    })
}

/// The pod's port that a service port leads to.
fn target_port(port: &ServicePort, pod: &Pod) -> Option<i32> {
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            let sidecars = spec
                .init_containers
                .iter()
                .flatten()
                .filter(|c| c.restart_policy.as_deref() == Some("Always"));
            let mut ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
            ports
                .find(|p| {
                    p.name.as_deref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == protocol
                })
                .map(|p| p.container_port)
        }
    }
}
