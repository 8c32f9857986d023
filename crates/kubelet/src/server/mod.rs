//! The kubelet's HTTPS server: logs, exec, attach, port-forward, pods, stats, metrics.

use crate::config::KubeletError;
use crate::kubelet::Shared;
use std::sync::Arc;

/// Starts serving.
pub(crate) async fn start(kubelet: &Arc<Shared>) -> Result<(), KubeletError> {
    let _ = kubelet;
    Ok(())
}
