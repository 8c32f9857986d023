//! Stopping one container: preStop, the stop signal, grace, SIGKILL (pod-lifecycle page, pod termination).

use super::worker::Msg;
use crate::kubelet::{Entry, Shared};
use crate::util::{Def, about};
use knarr_api::Kind;
use knarr_api::core::v1::Pod;
use knarr_base::clock::timeout;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// What every process has between the stop signal and its end, at least, as upstream's.
const LEAST_GRACE: Duration = Duration::from_secs(2);

/// A stop that the runtime failed at is tried again after this.
const RETRY: Duration = Duration::from_secs(2);

/// A container to stop.
pub(crate) struct Kill {
    pub(crate) pod: Arc<Pod>,
    pub(crate) def: Def,
    pub(crate) id: String,
    pub(crate) message: String,
    pub(crate) grace: Duration,
    pub(crate) ips: Vec<IpAddr>,
    /// A kill with a longer grace is under way: no event and no hook this time.
    pub(crate) again: bool,
}

/// Stops the container and tells the worker.
pub(crate) async fn run(kubelet: Arc<Shared>, entry: Arc<Entry>, kill: Kill) {
    let Kill { pod, def, id, message, mut grace, ips, again } = kill;
    let name = def.spec.name.clone();
    let about = about(&pod, Some(&def));
    if !again {
        let message = if message.is_empty() { format!("Stopping container {name}") } else { message };
        kubelet.recorder.normal(&about, "Killing", message);
    }
    let hook = def.spec.lifecycle.as_ref().and_then(|l| l.pre_stop.clone());
    if let Some(hook) = hook.filter(|_| !again && !grace.is_zero()) {
        let clock = &kubelet.ctx.clock;
        let began = clock.instant();
        let run = crate::probe::hook::run(&kubelet, &pod, &def, &id, &ips, &hook);
        if let Some(Err(_)) = timeout(&**clock, grace, run).await {
            kubelet.recorder.warning(&about, "FailedPreStopHook", "PreStopHook failed");
        }
        grace = grace.saturating_sub(clock.instant() - began);
    }
    let grace = grace.max(LEAST_GRACE);
    let signal = def.spec.lifecycle.as_ref().and_then(|l| l.stop_signal.clone());
    let signal = signal.unwrap_or_else(|| stop_signal(&kubelet, &def));
    let result = kubelet.config.runtime.stop_container(pod.uid(), &id, grace, &signal).await;
    if let Err(error) = &result
        && !error.is_not_found()
    {
        kubelet.recorder.warning(&about, "FailedKillContainer", format!("error killing container: {error}"));
        // The worker tries again as soon as it hears of the failure.
        kubelet.ctx.clock.sleep(RETRY).await;
    }
    let gone = result.as_ref().is_err_and(|e| e.is_not_found());
    entry.send(Msg::Killed { name, id, status: result.ok().map(Box::new), gone });
}

fn stop_signal(kubelet: &Shared, def: &Def) -> String {
    let image = kubelet.config.images.resolve(def.spec.image.as_deref().unwrap_or_default());
    let signal = image.map(|i| i.config.stop_signal.clone()).unwrap_or_default();
    if signal.is_empty() { "SIGTERM".to_owned() } else { signal }
}
