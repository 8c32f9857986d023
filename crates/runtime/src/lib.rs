//! CONTRACT. The container runtime: per-pod shims that hold namespaces, stdio, logs and exit status, and live
//! on while Knarr is restarted or upgraded; and the daemon's side that talks to them. Knows nothing of
//! Kubernetes; the kubelet translates.

pub mod spec;
