//! Where a webhook is: the `clientConfig` that admission configurations and conversions share.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// The port of a service reference that names none.
const DEFAULT_PORT: u16 = 443;

/// `clientConfig`: a URL or a service, and whom to trust.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ClientConfig {
    /// The whole URL; empty when a service is named.
    pub url: String,
    /// A service of the cluster.
    pub service: Option<ServiceReference>,
    /// PEM of the certificates that may sign the server's; empty for the machine's roots.
    pub ca_bundle: Vec<u8>,
}

/// A service of the cluster, and the path there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ServiceReference {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// URL path, empty for `/`.
    pub path: String,
    /// Port of the service.
    pub port: u16,
}

impl ClientConfig {
    /// Reads the object of a stored (valid) registration. A CA bundle that is not base64 is taken for empty bytes
    /// that no certificate is in, and fails when it is used.
    pub fn from_json(config: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let service = config.get("service").filter(|service| service.is_object()).map(|service| {
            let port = service["port"].as_u64().and_then(|port| u16::try_from(port).ok());
            ServiceReference {
                namespace: text(&service["namespace"]),
                name: text(&service["name"]),
                path: text(&service["path"]),
                port: port.filter(|port| *port != 0).unwrap_or(DEFAULT_PORT),
            }
        });
        let bundle = config["caBundle"].as_str().unwrap_or_default();
        let ca_bundle = STANDARD.decode(bundle).unwrap_or_else(|_| b"?".to_vec());
        Self { url: text(&config["url"]), service, ca_bundle }
    }
}

impl ServiceReference {
    /// The name that the server's certificate must carry.
    pub fn server_name(&self) -> String {
        format!("{}.{}.svc", self.name, self.namespace)
    }
}
