//! The pod network: addresses and links of pods ([`pods`]), services over nftables ([`proxy`]) and the cluster's DNS
//! ([`dns`]). Pods are routed, not bridged; everything is written through netlink, and everything that is put on the
//! host can be taken off again ([`host`]).

pub mod dns;
pub mod error;
mod hash;
pub mod host;
pub mod netlink;
pub mod nodes;
pub mod pods;
pub mod proxy;
pub mod range;
mod state;
pub mod view;

pub use dns::{Dns, DnsConfig, Upstreams, ensure_dns_service};
pub use error::NetworkError;
pub use host::{Host, HostConfig};
pub use nodes::{NodeRoutes, NodeRoutesConfig};
pub use pods::{HostPort, PodNetwork};
pub use proxy::{ProxyConfig, ServiceProxy};
pub use range::Range;
pub use view::ServiceView;
