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

/// Runs a hook to its end; an error is a message that names the hook.
pub(crate) async fn run(
    kubelet: &Arc<Shared>,
    pod: &Pod,
    def: &Def,
    id: &str,
    ips: &[IpAddr],
    hook: &LifecycleHandler,
) -> Result<(), String> {
    let target = Target { kubelet, pod, def, id, ips };
    let failed = |kind: &str, what: &str, error: String| {
        let (name, pod) = (&def.spec.name, crate::util::format_pod(pod));
        format!(
            "{kind} lifecycle hook ({what}) for Container \"{name}\" in Pod \"{pod}\" failed - error: {error}"
        )
    };
    if let Some(exec) = &hook.exec {
        let command = exec.command.as_deref().unwrap_or_default();
        let what = format!("[{}]", command.join(" "));
        return match run_command(&target, command, NO_LIMIT).await {
            Ok((0, _)) => Ok(()),
            Ok((code, output)) => {
                let error = format!(
                    "command '{}' exited with {code}: {output}, message: {output:?}",
                    command.join(" ")
                );
                Err(failed("Exec", &what, error))
            }
            Err(error) => Err(failed("Exec", &what, format!("{error}, message: \"\""))),
        };
    }
    if let Some(sleep) = &hook.sleep {
        kubelet.ctx.clock.sleep(Duration::from_secs(sleep.seconds.max(0).unsigned_abs())).await;
        return Ok(());
    }
    if let Some(action) = &hook.http_get {
        let what = action.path.clone().unwrap_or_default();
        let (address, mut get) = http_request(&target, action).map_err(|e| failed("HTTP", &what, e))?;
        get.agent = "kube-lifecycle/1.36";
        // As upstream, an answer of any status is good enough.
        let answer = match super::http::request(kubelet, address, &get).await {
            Err(error) if get.https && error.contains("InvalidContentType") => {
                // Hooks were once sent without TLS whatever they said, and some servers rely on it.
                get.https = false;
                let again = super::http::request(kubelet, address, &get).await;
                if again.is_ok() {
                    let text = format!(
                        "request to HTTPS lifecycle hook {address} got HTTP response, retry with HTTP succeeded"
                    );
                    kubelet.recorder.warning(&crate::util::about(pod, None), "LifecycleHTTPFallback", text);
                }
                again
            }
            other => other,
        };
        return answer.map(drop).map_err(|e| failed("HTTP", &what, e));
    }
    Err("Cannot run handler: invalid handler".to_owned())
}
