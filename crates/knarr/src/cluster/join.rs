//! What a machine needs to join, on both sides. The control plane publishes kubeadm's objects (`cluster-info`, the rights
//! of bootstrap tokens to ask for a kubelet's certificate) and what nodes have to know of the network; the machine finds
//! the cluster's CA by the hash that its token carries.

use super::control::ControlPlane;
use super::token::{JoinToken, ca_hash};
use crate::config::Config;
use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use knarr_api::core::v1::ConfigMap;
use knarr_base::{Backoff, Ctx};
use knarr_client::https::Https;
use knarr_client::{Client, Error, Transport};
use knarr_network::Range;
use knarr_tls::{Identity, Trust};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

/// The group that join tokens give, kubeadm's.
pub const GROUP: &str = "system:bootstrappers:kubeadm:default-node-token";
/// Where nodes read what they have to know; kube-system.
const NODE_CONFIG: &str = "knarr-node-config";

/// What a node has to know of its cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterFacts {
    /// Range of all pods.
    pub pod_cidr: String,
    /// Range of services.
    pub service_cidr: String,
    /// Domain of the cluster.
    pub cluster_domain: String,
    /// Address of the service kube-dns.
    pub cluster_dns: Ipv4Addr,
}

impl ClusterFacts {
    fn of(config: &Config) -> Self {
        Self {
            pod_cidr: config.pod_cidr.to_string(),
            service_cidr: config.service_cidr.to_string(),
            cluster_domain: config.cluster_domain.clone(),
            cluster_dns: config.dns_service_ip(),
        }
    }

    /// The ranges of pods and of services.
    pub fn ranges(&self) -> Result<(Range, Range)> {
        let read = |text: &str| text.parse().map_err(|e: String| anyhow::anyhow!(e));
        Ok((read(&self.pod_cidr)?, read(&self.service_cidr)?))
    }

    /// Reads them.
    pub async fn read(client: &Client) -> Result<Self, Error> {
        let map = client.get::<ConfigMap>("kube-system", NODE_CONFIG).await?;
        let text = map.data.and_then(|mut data| data.remove("cluster")).unwrap_or_default();
        serde_json::from_str(&text).map_err(|e| Error::Protocol(format!("{NODE_CONFIG}: {e}")))
    }
}

/// Binds a role to groups and users.
fn binding(namespace: &str, name: &str, role: (&str, &str), subject: (&str, &str)) -> Value {
    let kind = if namespace.is_empty() { "ClusterRoleBinding" } else { "RoleBinding" };
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind,
        "metadata": { "name": name, "namespace": namespace },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": role.0, "name": role.1 },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": subject.0, "name": subject.1 }],
    })
}

/// A role that reads one ConfigMap.
fn reader(namespace: &str, name: &str, map: &str) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": { "name": name, "namespace": namespace },
        "rules": [{ "apiGroups": [""], "resources": ["configmaps"], "resourceNames": [map], "verbs": ["get"] }],
    })
}

fn map(namespace: &str, name: &str, key: &str, text: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name, "namespace": namespace },
        "data": { key: text } })
}

/// Everything that joining needs, with the path of its collection. kubeadm's names where it has one.
pub(super) fn objects(facts: &ClusterFacts, ca: &str, server: &str) -> Vec<(&'static str, Value)> {
    const BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    const PUBLIC: [&str; 2] = [
        "/apis/rbac.authorization.k8s.io/v1/namespaces/kube-public/roles",
        "/apis/rbac.authorization.k8s.io/v1/namespaces/kube-public/rolebindings",
    ];
    const SYSTEM: [&str; 2] = [
        "/apis/rbac.authorization.k8s.io/v1/namespaces/kube-system/roles",
        "/apis/rbac.authorization.k8s.io/v1/namespaces/kube-system/rolebindings",
    ];
    let info = json!({
        "apiVersion": "v1", "kind": "Config",
        "clusters": [{ "name": "", "cluster": { "certificate-authority-data": STANDARD.encode(ca), "server": server } }],
    });
    let facts = serde_json::to_string(facts).expect("facts are plain data");
    let nodes = ("Group", "system:nodes");
    let signing = "system:certificates.k8s.io:certificatesigningrequests";
    vec![
        (
            BINDINGS,
            binding(
                "",
                "kubeadm:kubelet-bootstrap",
                ("ClusterRole", "system:node-bootstrapper"),
                ("Group", GROUP),
            ),
        ),
        (
            BINDINGS,
            binding(
                "",
                "kubeadm:node-autoapprove-bootstrap",
                ("ClusterRole", &format!("{signing}:nodeclient")),
                ("Group", GROUP),
            ),
        ),
        (
            BINDINGS,
            binding(
                "",
                "kubeadm:node-autoapprove-certificate-rotation",
                ("ClusterRole", &format!("{signing}:selfnodeclient")),
                nodes,
            ),
        ),
        // A node's service proxy and its routes to other nodes work under the node's identity.
        (BINDINGS, binding("", "knarr:node-proxier", ("ClusterRole", "system:node-proxier"), nodes)),
        (PUBLIC[0], reader("kube-public", "kubeadm:bootstrap-signer-clusterinfo", "cluster-info")),
        (
            PUBLIC[1],
            binding(
                "kube-public",
                "kubeadm:bootstrap-signer-clusterinfo",
                ("Role", "kubeadm:bootstrap-signer-clusterinfo"),
                ("User", "system:anonymous"),
            ),
        ),
        (SYSTEM[0], reader("kube-system", "knarr:node-config", NODE_CONFIG)),
        (SYSTEM[1], binding("kube-system", "knarr:node-config", ("Role", "knarr:node-config"), nodes)),
        (
            "/api/v1/namespaces/kube-public/configmaps",
            map("kube-public", "cluster-info", "kubeconfig", &info.to_string()),
        ),
        ("/api/v1/namespaces/kube-system/configmaps", map("kube-system", NODE_CONFIG, "cluster", &facts)),
    ]
}

/// Publishes what joining needs, in the background: the first node does not wait for it.
pub fn publish(ctx: &Ctx, control: &ControlPlane, config: &Config, server: String) -> Result<()> {
    let client = control.client_as("system:apiserver", &["system:masters"], "knarr", ctx);
    let all = objects(&ClusterFacts::of(config), &control.server.pki().ca()?, &server);
    let clock = ctx.clock.clone();
    ctx.tasks.spawn_until_stopped("join", async move {
        let mut backoff = Backoff::new(Duration::from_millis(200), 2.0, Duration::from_secs(30));
        for (collection, object) in all {
            while let Err(error) = ensure(&client, collection, &object).await {
                tracing::warn!(%error, "what nodes need to join is not all there yet");
                clock.sleep(backoff.step()).await;
            }
        }
    });
    Ok(())
}

/// Creates an object, or gives a ConfigMap that is there its data.
pub(super) async fn ensure(client: &Client, collection: &str, object: &Value) -> Result<(), Error> {
    let url = format!("{collection}/{}", object["metadata"]["name"].as_str().unwrap_or_default());
    match client.get_as(&url, "application/json").await {
        Ok(there) => {
            let there: Value = serde_json::from_slice(&there).map_err(|e| Error::Protocol(e.to_string()))?;
            let wanted = object["data"].as_object();
            let differs =
                wanted.is_some_and(|data| data.iter().any(|(key, text)| there["data"][key] != *text));
            if differs {
                let mut changed = there;
                for (key, text) in wanted.into_iter().flatten() {
                    changed["data"][key] = text.clone();
                }
                (changed["apiVersion"], changed["kind"]) =
                    (object["apiVersion"].clone(), object["kind"].clone());
                client.call(Method::PUT, &url, &changed).await?;
            }
            Ok(())
        }
        Err(error) if error.is_not_found() => match client.call(Method::POST, collection, object).await {
            Err(error) if !error.is_conflict() => Err(error),
            _ => Ok(()),
        },
        Err(error) => Err(error),
    }
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl Server {
    /// Reads `https://HOST:PORT`.
    pub fn parse(text: &str) -> Result<Self> {
        let uri: http::Uri = text.parse().with_context(|| format!("{text:?} is not a URL"))?;
        let host = uri.host().with_context(|| format!("{text:?} names no host"))?;
        if uri.scheme_str() != Some("https") || uri.path().len() > 1 {
            bail!("{text:?} is not a server such as https://192.0.2.1:6443");
        }
        Ok(Self { host: host.trim_matches(['[', ']']).to_owned(), port: uri.port_u16().unwrap_or(6443) })
    }
}

/// Fetches the CA of the cluster at `server` (`cluster-info`, for everybody to read) and checks it by the hash: PEM.
pub async fn discover(ctx: &Ctx, server: &Server, token: &JoinToken) -> Result<String> {
    // Whoever answers: what it says is checked by the hash, and nothing is told to it.
    let tls = knarr_tls::client(Trust::Anyone, Identity::None, &[])?;
    let transport = Https::new(&server.host, server.port, tls, None)?;
    let client = Client::new(Arc::new(transport), "knarr-agent", ctx.clone());
    let map = client.get::<ConfigMap>("kube-public", "cluster-info").await;
    let map = map.with_context(|| format!("cannot ask {}:{} for its CA", server.host, server.port))?;
    let text = map.data.and_then(|mut data| data.remove("kubeconfig")).unwrap_or_default();
    let info: Value = serde_saphyr::from_str(&text).context("the server's cluster-info cannot be read")?;
    let data = info["clusters"][0]["cluster"]["certificate-authority-data"].as_str().unwrap_or_default();
    let pem = STANDARD.decode(data).ok().and_then(|pem| String::from_utf8(pem).ok());
    let pem = pem.context("the server's cluster-info has no CA")?;
    let certificates = knarr_tls::certificates("ca", &pem)?;
    for certificate in &certificates {
        if ca_hash(certificate)? == token.ca_hash {
            return Ok(pem);
        }
    }
    bail!(
        "the server at {}:{} is not of the cluster that the token is for: its CA has another key. Take a token from it \
         with 'knarr token create'",
        server.host,
        server.port
    )
}

/// A transport to `server` that trusts `ca`, with a token.
pub fn with_token(server: &Server, ca: &str, token: &JoinToken) -> Result<Arc<dyn Transport>> {
    let tls = knarr_tls::client(Trust::Roots(knarr_tls::roots("ca", ca)?), Identity::None, &[])?;
    Ok(Arc::new(Https::new(&server.host, server.port, tls, Some(&token.bearer()))?))
}
