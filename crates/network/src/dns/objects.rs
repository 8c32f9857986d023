//! The Service through which pods reach the DNS server: `kube-dns` in `kube-system`, as everywhere, without a selector
//! and with a slice that names the server.

use crate::NetworkError;
use crate::view::{Entry, SERVICE_NAME};
use knarr_api::Kind;
use knarr_api::core::v1::Service;
use knarr_api::discovery::v1::EndpointSlice;
use knarr_client::Client;
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddrV4};

const NAMESPACE: &str = "kube-system";
const NAME: &str = "kube-dns";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "knarr";

/// The Service at `ip`.
pub fn service(ip: Ipv4Addr) -> Value {
    json!({
        "kind": "Service", "apiVersion": "v1",
        "metadata": {
            "name": NAME, "namespace": NAMESPACE,
            "labels": {
                "k8s-app": NAME,
                "kubernetes.io/cluster-service": "true",
                "kubernetes.io/name": "CoreDNS",
            },
        },
        "spec": {
            "clusterIP": ip, "clusterIPs": [ip], "type": "ClusterIP",
            "ports": [
                { "name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53 },
                { "name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53 },
            ],
        },
    })
}

/// The slice that leads to the server.
pub fn slice(server: SocketAddrV4) -> Value {
    json!({
        "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "addressType": "IPv4",
        "metadata": {
            "name": format!("{NAME}-node"), "namespace": NAMESPACE,
            "labels": {
                SERVICE_NAME: NAME,
                "k8s-app": NAME,
                MANAGED_BY: MANAGER,
            },
        },
        "endpoints": [{ "addresses": [server.ip()], "conditions": { "ready": true } }],
        "ports": [
            { "name": "dns", "port": server.port(), "protocol": "UDP" },
            { "name": "dns-tcp", "port": server.port(), "protocol": "TCP" },
        ],
    })
}

/// The service as it is on a node whose own server is at `at`: slices of ours lead there, so that names are answered on
/// every node, whatever becomes of the others.
pub fn localized(entry: &Entry, at: SocketAddrV4) -> Entry {
    let mut entry = entry.clone();
    for held in entry.slices.values_mut() {
        let labels = held.metadata.labels.as_ref();
        let is_ours = held.namespace() == NAMESPACE
            && labels.and_then(|l| l.get(MANAGED_BY)).is_some_and(|by| by == MANAGER)
            && labels.and_then(|l| l.get(SERVICE_NAME)).is_some_and(|name| name == NAME);
        if is_ours && let Ok(local) = EndpointSlice::from_value(&slice(at)) {
            let mut changed = (**held).clone();
            (changed.endpoints, changed.ports) = (local.endpoints, local.ports);
            *held = changed.into();
        }
    }
    entry
}

/// Sees to it that the Service is there at `ip` and leads to the server at `node_ip` and `port`.
pub async fn ensure_dns_service(
    client: &Client,
    ip: Ipv4Addr,
    node_ip: Ipv4Addr,
    port: u16,
) -> Result<(), NetworkError> {
    // A Service that is there is the cluster's own business, its address included.
    ensure::<Service>(client, &service(ip), |_, _| false).await?;
    ensure::<EndpointSlice>(client, &slice(SocketAddrV4::new(node_ip, port)), |old, new| {
        let differ = old.endpoints != new.endpoints || old.ports != new.ports;
        if differ {
            (old.endpoints, old.ports) = (new.endpoints.clone(), new.ports.clone());
        }
        differ
    })
    .await
}

/// Creates the object, or updates the one that is there if `change` has changed it.
async fn ensure<K: Kind>(
    client: &Client,
    wanted: &Value,
    change: impl FnOnce(&mut K, &K) -> bool,
) -> Result<(), NetworkError> {
    let failed = |error| NetworkError::Api { what: format!("{} {NAMESPACE}/{NAME}", K::KIND), error };
    let wanted =
        K::from_value(wanted).map_err(|error| failed(knarr_client::Error::Protocol(error.to_string())))?;
    match client.get_opt::<K>(NAMESPACE, wanted.name()).await.map_err(failed)? {
        None => match client.create(&wanted).await {
            Err(error) if !error.is_conflict() => Err(failed(error)),
            _ => Ok(()),
        },
        Some(mut there) => {
            if change(&mut there, &wanted) {
                client.update(&there).await.map_err(failed)?;
            }
            Ok(())
        }
    }
}
