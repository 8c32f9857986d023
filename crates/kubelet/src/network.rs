//! CONTRACT. What the kubelet asks of the pod network, and an implementation for pods that use the host's.

use futures_util::future::BoxFuture;
use std::net::IpAddr;
use std::path::Path;

/// A pod that is to be connected.
#[derive(Clone, Debug)]
pub struct NetworkRequest<'a> {
    /// Pod UID: the key.
    pub uid: &'a str,
    /// Namespace, for messages and policy.
    pub namespace: &'a str,
    /// Name.
    pub name: &'a str,
    /// Path of the pod's network namespace.
    pub netns: &'a Path,
    /// Ports of the host that lead to the pod.
    pub host_ports: &'a [HostPort],
}

/// A port of the host that leads to a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// Address on the host, all when `None`.
    pub host_ip: Option<IpAddr>,
    /// Port on the host.
    pub host_port: u16,
    /// Port of the container.
    pub container_port: u16,
}

/// Connects pods.
pub trait PodNetwork: Send + Sync {
    /// Connects the pod's network namespace and gives its addresses, the primary one first. Also called for
    /// pods that run already, after a restart of the kubelet: then it gives the addresses they have.
    fn attach<'a>(&'a self, request: NetworkRequest<'a>) -> BoxFuture<'a, Result<Vec<IpAddr>, String>>;
    /// Takes the pod's addresses and links away. Idempotent.
    fn detach<'a>(&'a self, uid: &'a str) -> BoxFuture<'a, Result<(), String>>;
}

/// A network that knows only host-network pods: every other pod is refused.
pub struct HostNetworkOnly;

impl PodNetwork for HostNetworkOnly {
    fn attach<'a>(&'a self, _: NetworkRequest<'a>) -> BoxFuture<'a, Result<Vec<IpAddr>, String>> {
        Box::pin(async { Err("no pod network is configured; only hostNetwork pods can run".to_owned()) })
    }
    fn detach<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }
}
