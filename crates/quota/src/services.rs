//! What services use: their number, node ports, load balancers.

use crate::amounts::{Amounts, whole};
use knarr_api::core::v1::Service;

/// Names that quotas have for it.
pub const NAMES: &[&str] = &["count/services", "services", "services.nodeports", "services.loadbalancers"];

/// What a service uses. Its node ports may not be allocated yet, so what it asks for counts.
pub fn usage(service: &Service) -> Amounts {
    let spec = service.spec.as_ref();
    let ports = spec.and_then(|s| s.ports.as_deref()).unwrap_or_default();
    let explicit = ports.iter().filter(|p| p.node_port.unwrap_or_default() != 0).count();
    let all = i64::try_from(ports.len()).unwrap_or(i64::MAX);
    let (node_ports, balancers) = match spec.and_then(|s| s.type_.as_deref()) {
        Some("NodePort") => (all, 0),
        Some("LoadBalancer") if spec.and_then(|s| s.allocate_load_balancer_node_ports) == Some(false) => {
            (i64::try_from(explicit).unwrap_or(i64::MAX), 1)
        }
        Some("LoadBalancer") => (all, 1),
        _ => (0, 0),
    };
    let amounts = [
        ("count/services", 1),
        ("services", 1),
        ("services.nodeports", node_ports),
        ("services.loadbalancers", balancers),
    ];
    amounts.into_iter().map(|(name, amount)| (name.to_owned(), whole(amount))).collect()
}

/// Whether the change of a service may set something free: its type's use of ports or balancers changed.
pub fn frees(old: &Service, new: &Service) -> bool {
    let kind = |service: &Service| {
        let kind = service.spec.as_ref().and_then(|s| s.type_.clone()).unwrap_or_default();
        matches!(kind.as_str(), "NodePort" | "LoadBalancer").then_some(kind)
    };
    kind(old) != kind(new)
}
