//! From a service to an address: upstream's `proxy.ResolveCluster`, which the API server uses for webhooks and
//! aggregated API servers. A node's service proxy does the rest.

use crate::request::Reader;
use std::sync::Arc;

/// Finds the place behind a service. Errors are texts that clients get to see.
pub trait ServiceResolver: Send + Sync {
    /// Host (an address or a name) and port to connect to.
    fn resolve(&self, namespace: &str, name: &str, port: u16) -> Result<(String, u16), String>;
}

/// The services' cluster addresses, from the watch cache.
pub struct ClusterIps(pub Arc<dyn Reader>);

impl ServiceResolver for ClusterIps {
    fn resolve(&self, namespace: &str, name: &str, port: u16) -> Result<(String, u16), String> {
        let service = self
            .0
            .get("", "services", namespace, name)
            .ok_or_else(|| format!("service {} not found", knarr_meta::go::quote(name)))?;
        let spec = &service["spec"];
        match spec["type"].as_str().unwrap_or_default() {
            "ClusterIP" if spec["clusterIP"] == "None" => {
                Err("cannot route to service with ClusterIP \"None\"".to_owned())
            }
            "ClusterIP" | "LoadBalancer" | "NodePort" => {
                let ports = spec["ports"].as_array().map_or(&[][..], Vec::as_slice);
                if !ports.iter().any(|known| known["port"] == port) {
                    let name = knarr_meta::go::quote(name);
                    return Err(format!("no service port {port} found for service {name}"));
                }
                Ok((spec["clusterIP"].as_str().unwrap_or_default().to_owned(), port))
            }
            "ExternalName" => Ok((spec["externalName"].as_str().unwrap_or_default().to_owned(), port)),
            other => Err(format!("unsupported service type {}", knarr_meta::go::quote(other))),
        }
    }
}
