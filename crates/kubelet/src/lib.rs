//! CONTRACT. The kubelet: registers the node, runs the pods that are bound to it, reports their status, and
//! serves logs, exec, attach and port-forward. It speaks to the API under the identity `system:node:<name>`
//! and to nobody else but the runtime, the image store and the network it is given.

mod config;
mod container;
mod eviction;
mod image;
mod kubelet;
mod metrics;
mod network;
mod node;
mod objects;
mod pod;
mod probe;
mod server;
mod shutdown;
mod sys;
mod util;
mod volume;

pub use config::{Capacity, KubeletConfig, KubeletError};
pub use eviction::threshold::{Amount, DEFAULT_HARD, Housekeeping, Signal, Threshold, thresholds};
pub use image::CredentialProviders;
pub use kubelet::Kubelet;
pub use network::{HostNetworkOnly, HostPort, NetworkRequest, PodNetwork};
pub use shutdown::{LOGIND_CONFIG_DIR, NodeShutdown, PriorityGrace, remove_logind_override};
