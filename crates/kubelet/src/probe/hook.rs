//! postStart and preStop hooks.

use super::check::{Target, http_request, run_command};
use crate::kubelet::Shared;
use crate::util::Def;
use knarr_api::core::v1::{LifecycleHandler, Pod};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Hooks have no limit of their own; the grace of the pod limits preStop.
const NO_LIMIT: Duration = Duration::from_secs(365 * 24 * 3600);

/// Runs a hook to its end.
pub(crate) async fn run(
    kubelet: &Arc<Shared>,
    pod: &Pod,
    def: &Def,
    id: &str,
    ips: &[IpAddr],
    hook: &LifecycleHandler,
) -> Result<(), String> {
    let target = Target { kubelet, pod, def, id, ips };
    if let Some(exec) = &hook.exec {
        let command = exec.command.as_deref().unwrap_or_default();
        return match run_command(&target, command, NO_LIMIT).await? {
            (0, _) => Ok(()),
            (code, output) => {
                Err(format!("command '{}' exited with {code}: {}", command.join(" "), output.trim_end()))
            }
        };
    }
    if let Some(sleep) = &hook.sleep {
        kubelet.ctx.clock.sleep(Duration::from_secs(sleep.seconds.max(0).unsigned_abs())).await;
        return Ok(());
    }
    if let Some(action) = &hook.http_get {
        let (address, get) = http_request(&target, action)?;
        // As upstream, an answer of any status is good enough.
        return super::http::request(kubelet, address, &get).await.map(drop);
    }
    Err("cannot run handler: unsupported lifecycle handler".to_owned())
}
