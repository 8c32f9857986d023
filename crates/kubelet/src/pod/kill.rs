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
    /// The preStop hook has run already.
    pub(crate) hooked: bool,
}

/// Runs a container's preStop hook ahead of its turn and tells the worker.
pub(crate) async fn pre_stop(kubelet: Arc<Shared>, entry: Arc<Entry>, kill: Kill) {
    hook(&kubelet, &kill).await;
    entry.send(Msg::PreStopDone { name: kill.def.spec.name, id: kill.id });
}

async fn hook(kubelet: &Arc<Shared>, kill: &Kill) {
    let Kill { pod, def, id, ips, grace, .. } = kill;
    let hook = def.spec.lifecycle.as_ref().and_then(|l| l.pre_stop.clone());
    let Some(hook) = hook.filter(|_| !grace.is_zero()) else { return };
    let run = crate::probe::hook::run(kubelet, pod, def, id, ips, &hook);
    if let Some(Err(_)) = timeout(&*kubelet.ctx.clock, *grace, run).await {
        // What the hook said may be secret, so the event does not tell.
        kubelet.recorder.warning(&about(pod, Some(def)), "FailedPreStopHook", "PreStopHook failed");
    }
}

/// Stops the container and tells the worker.
pub(crate) async fn run(kubelet: Arc<Shared>, entry: Arc<Entry>, kill: Kill) {
    let name = kill.def.spec.name.clone();
    let about = about(&kill.pod, Some(&kill.def));
    if !kill.again {
        let usual = format!("Stopping container {name}");
        let message = if kill.message.is_empty() { usual } else { kill.message.clone() };
        kubelet.recorder.normal(&about, "Killing", message);
    }
    let began = kubelet.ctx.clock.instant();
    if !kill.again && !kill.hooked {
        hook(&kubelet, &kill).await;
    }
    let Kill { pod, def, id, grace, .. } = kill;
    let grace = grace.saturating_sub(kubelet.ctx.clock.instant() - began);
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
