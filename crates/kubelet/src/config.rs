//! What a kubelet is given, and what can go wrong when it starts.

use crate::eviction::threshold::Housekeeping;
use crate::image::CredentialProviders;
use crate::network::PodNetwork;
use crate::shutdown::NodeShutdown;
use knarr_client::Client;
use knarr_image::ImageStore;
use knarr_runtime::Runtime;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

/// Everything a kubelet needs.
#[derive(Clone)]
pub struct KubeletConfig {
    /// Name of the Node object.
    pub node_name: String,
    /// Address of the node.
    pub node_ip: IpAddr,
    /// Directory of the pods' volumes and files.
    pub root_dir: PathBuf,
    /// Directory of the containers' logs, laid out as /var/log/pods is.
    pub log_dir: PathBuf,
    /// Addresses of the cluster's DNS service.
    pub cluster_dns: Vec<IpAddr>,
    /// Domain of the cluster, without a dot at the end.
    pub cluster_domain: String,
    /// Where logs, exec and the like are served; port 10250 usually.
    pub listen: SocketAddr,
    /// The server's certificate and the CA of its clients, who may also come without a certificate and show a token.
    /// Without it nothing is served.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Reaches the API as `system:node:<node_name>`.
    pub client: Client,
    /// Runs containers.
    pub runtime: Arc<Runtime>,
    /// Holds images.
    pub images: Arc<ImageStore>,
    /// Gives pods addresses.
    pub network: Arc<dyn PodNetwork>,
    /// Labels of the Node besides the well-known ones.
    pub labels: BTreeMap<String, String>,
    /// What the node offers; what the machine has when `None`.
    pub capacity: Option<Capacity>,
    /// Kubernetes version that the node reports, such as `v1.36.0`.
    pub version: String,
    /// Processes and threads that a pod may have; as many as the node when `None` (upstream's podPidsLimit).
    pub pod_max_pids: Option<u32>,
    /// Programs of other OCI runtimes, by the handler that a RuntimeClass names.
    pub runtime_handlers: BTreeMap<String, PathBuf>,
    /// Programs that give credentials for images.
    pub credential_providers: Arc<CredentialProviders>,
    /// Directory of static pods' manifests, if any are to be run.
    pub static_pods: Option<PathBuf>,
    /// The host's resolver configuration.
    pub resolv_conf: PathBuf,
    /// Rotate container logs at this size.
    pub log_max_bytes: u64,
    /// When pods are evicted, what is kept from them, and when images go.
    pub housekeeping: Housekeeping,
    /// How long pods have when the machine is shut down.
    pub shutdown: NodeShutdown,
    /// Log files kept per container, the current one included.
    pub log_max_files: u32,
}

/// What a node offers to pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Thousandths of a CPU.
    pub cpu_millicores: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Bytes of disk.
    pub ephemeral_storage_bytes: u64,
    /// Pods at most.
    pub pods: u32,
}

/// A kubelet cannot start.
#[derive(Debug, thiserror::Error)]
pub enum KubeletError {
    /// A directory cannot be made.
    #[error("cannot create {path}: {source}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// More is reserved than there is.
    #[error("{0}")]
    Reserves(String),
    /// Ids of users cannot be given to pods as the host says.
    #[error("create user namespace manager: {0}")]
    Users(String),
    /// The address is taken.
    #[error("the kubelet cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}
