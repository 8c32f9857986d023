//! Connections to kubelets over HTTPS with the API server's client certificate, and to pods and services.

use super::super::pki::Pki;
use super::super::tls::TlsError;
use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use knarr_base::Ctx;
use knarr_base::clock::timeout;
use knarr_meta::status::Status;
use knarr_tls::{Identity, Trust};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::Value;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How long connecting may take, as upstream's dialer.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);
/// The kubelet's usual port.
const KUBELET_PORT: u16 = 10250;
/// Which of a node's addresses is tried first.
const ADDRESS_TYPES: [&str; 3] = ["InternalIP", "ExternalIP", "Hostname"];

/// Any byte stream.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Where to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::front) enum Target {
    /// A kubelet, verified against the cluster's CA.
    Kubelet(SocketAddr),
    /// Plain HTTP.
    Plain(SocketAddr),
    /// HTTPS to a workload, whose certificate nobody here can verify; as upstream's proxies do.
    Unverified(SocketAddr),
}

impl Target {
    pub(super) fn address(&self) -> SocketAddr {
        match self {
            Self::Kubelet(address) | Self::Plain(address) | Self::Unverified(address) => *address,
        }
    }
}

/// Reaches kubelets and workloads.
pub struct Kubelets {
    pub(super) ctx: Ctx,
    tls: ArcSwap<ClientConfig>,
    unverified: Arc<ClientConfig>,
}

impl Kubelets {
    /// With the certificates of `pki`.
    pub fn new(ctx: Ctx, pki: &Pki) -> Result<Arc<Self>, TlsError> {
        // Workloads behind the proxies have certificates of their own making.
        let unverified = knarr_tls::client(Trust::Anyone, Identity::None, &[])?;
        Ok(Arc::new(Self { ctx, tls: ArcSwap::new(client_config(pki)?), unverified: Arc::new(unverified) }))
    }

    /// Reads the certificates again after they were issued anew.
    pub fn reload(&self, pki: &Pki) -> Result<(), TlsError> {
        self.tls.store(client_config(pki)?);
        Ok(())
    }

    /// The kubelet of a node.
    pub(in crate::front) fn of_node(&self, node: &Value) -> Result<Target, Status> {
        let name = node["metadata"]["name"].as_str().unwrap_or_default();
        let ip = node_address(node).ok_or_else(|| {
            Status::internal(format!(
                "no preferred addresses found for node {name:?}; known addresses: {}",
                node["status"]["addresses"]
            ))
        })?;
        let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64();
        let port = port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p != 0).unwrap_or(KUBELET_PORT);
        Ok(Target::Kubelet(SocketAddr::new(ip, port)))
    }

    /// Connects. The error is worded as Go's dialer words it, for messages that clients know.
    pub(super) async fn connect(&self, target: &Target) -> Result<Box<dyn Io>, String> {
        let address = target.address();
        match timeout(&*self.ctx.clock, CONNECT_LIMIT, self.dial(target)).await {
            Some(Ok(io)) => Ok(io),
            Some(Err(error)) => Err(format!("dial tcp {address}: {}", reason(&error))),
            None => Err(format!("dial tcp {address}: i/o timeout")),
        }
    }

    /// The text at a path, over a connection of its own.
    pub(in crate::front) async fn fetch(
        &self,
        target: &Target,
        path: &str,
        limit_bytes: usize,
    ) -> Result<String, String> {
        let io = self.connect(target).await?;
        let said = |error: hyper::Error| error.to_string();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(io)).await.map_err(said)?;
        self.ctx.tasks.spawn_until_stopped("request to a kubelet", async move {
            let _ = connection.await;
        });
        let request = Request::get(path)
            .header(header::HOST, target.address().to_string())
            .header(header::USER_AGENT, "kube-apiserver")
            .body(Full::<Bytes>::default())
            .map_err(|error| error.to_string())?;
        let response = sender.send_request(request).await.map_err(said)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), limit_bytes).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        let text = String::from_utf8_lossy(&body).into_owned();
        if status.is_success() { Ok(text) } else { Err(format!("{status}: {}", text.trim())) }
    }

    async fn dial(&self, target: &Target) -> std::io::Result<Box<dyn Io>> {
        let address = target.address();
        let tcp = TcpStream::connect(address).await?;
        let _ = tcp.set_nodelay(true);
        let config = match target {
            Target::Plain(_) => return Ok(Box::new(tcp)),
            Target::Kubelet(_) => self.tls.load_full(),
            Target::Unverified(_) => self.unverified.clone(),
        };
        let name = ServerName::IpAddress(address.ip().into());
        Ok(Box::new(TlsConnector::from(config).connect(name, tcp).await?))
    }
}

fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => "connect: connection refused".into(),
        ErrorKind::HostUnreachable => "connect: no route to host".into(),
        ErrorKind::NetworkUnreachable => "connect: network is unreachable".into(),
        ErrorKind::TimedOut => "i/o timeout".into(),
        _ => error.to_string(),
    }
}

/// The first address of the preferred types that is an address (names are not looked up: a node's own name
/// may mean anything in this machine's resolver).
pub(super) fn node_address(node: &Value) -> Option<IpAddr> {
    let addresses = node["status"]["addresses"].as_array()?;
    ADDRESS_TYPES.iter().find_map(|wanted| {
        addresses.iter().filter(|a| a["type"] == *wanted).find_map(|a| a["address"].as_str()?.parse().ok())
    })
}

fn client_config(pki: &Pki) -> Result<Arc<ClientConfig>, TlsError> {
    let pem = pki.pem("apiserver-kubelet-client")?;
    let identity = Identity::pem("apiserver-kubelet-client", &pem.certificate, &pem.key)?;
    let roots = knarr_tls::roots("ca", pki.ca()?)?;
    Ok(Arc::new(knarr_tls::client(Trust::Roots(roots), identity, &[])?))
}
