//! Cluster DNS: a server on the node's address and a high port, which pods reach through its Service.

pub mod forward;
pub mod objects;
pub mod resolv;
pub mod server;
pub mod zone;

use crate::NetworkError;
use crate::range::Range;
use crate::view::ServiceView;
use forward::Forwarder;
use hickory_proto::rr::Name;
use knarr_base::Ctx;
pub use objects::ensure_dns_service;
pub use resolv::Upstreams;
use server::Server;
use std::net::SocketAddr;
use std::sync::Arc;
use zone::Zone;

/// What the server has to know.
#[derive(Clone, Debug)]
pub struct DnsConfig {
    /// Where to listen, UDP and TCP; port 0 for any.
    pub listen: SocketAddr,
    /// The cluster's domain, such as `cluster.local`.
    pub cluster_domain: String,
    /// Ranges whose addresses nobody else can name: those of pods and services.
    pub ranges: Vec<Range>,
    /// Who is asked for other names.
    pub upstreams: Upstreams,
}

/// A running DNS server.
#[derive(Clone, Debug)]
pub struct Dns {
    address: SocketAddr,
}

impl Dns {
    /// Starts serving in the tasks of `ctx`. Needs a running tokio runtime.
    pub fn start(ctx: &Ctx, view: &ServiceView, config: DnsConfig) -> Result<Self, NetworkError> {
        let failed = |error| NetworkError::Listen { address: config.listen, error };
        let tcp = std::net::TcpListener::bind(config.listen).map_err(failed)?;
        let address = tcp.local_addr().map_err(failed)?;
        let udp = std::net::UdpSocket::bind(address).map_err(failed)?;
        tcp.set_nonblocking(true).map_err(failed)?;
        udp.set_nonblocking(true).map_err(failed)?;
        let tcp = tokio::net::TcpListener::from_std(tcp).map_err(failed)?;
        let udp = tokio::net::UdpSocket::from_std(udp).map_err(failed)?;
        let mut domain = Name::from_ascii(&config.cluster_domain)
            .map_err(|e| failed(std::io::Error::new(std::io::ErrorKind::InvalidInput, e.to_string())))?
            .to_lowercase();
        domain.set_fqdn(true);
        let server = Arc::new(Server {
            zone: Zone::new(view.clone(), domain, config.ranges),
            forwarder: Forwarder::new(config.upstreams, address, ctx.clock.clone(), ctx.rng.clone()),
            clock: ctx.clock.clone(),
            rng: ctx.rng.clone(),
        });
        ctx.tasks.spawn_until_stopped("dns-udp", server.clone().serve_udp(udp));
        ctx.tasks.spawn_until_stopped("dns-tcp", server.serve_tcp(tcp));
        Ok(Self { address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}
