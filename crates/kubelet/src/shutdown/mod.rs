//! Graceful node shutdown (KEP-2000, by priority KEP-2712): logind is asked to wait, and when a shutdown begins the node
//! says that it is not ready, lets no pod in, and ends its pods from the lowest priority to the highest, each in the
//! time that its priority has. Nothing happens where no period is set.

mod bus;
mod logind;
mod message;
mod settings;
#[cfg(test)]
mod tests;

pub use logind::remove_logind_override;
pub use settings::{NodeShutdown, PriorityGrace};

use crate::eviction::node_ref;
use crate::kubelet::{Entry, Shared};
use crate::pod::model::GiveUp;
use crate::pod::worker::Msg;
use knarr_base::clock::timeout;
use logind::Logind;
use serde_json::json;
use settings::group;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Where the system bus is (the D-Bus specification, "Well-known Message Bus Instances").
const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";
/// Where systemd looks for more of logind's configuration.
pub const LOGIND_CONFIG_DIR: &str = "/etc/systemd/logind.conf.d";
/// A bus that is lost is looked for again after this.
const RECONNECT: Duration = Duration::from_secs(1);
/// When the last shutdown began and ended, under upstream's name.
const STATE_FILE: &str = "graceful_node_shutdown_state";
const REASON: &str = "Terminated";
const MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";

/// Whether the machine is being shut down.
#[derive(Debug, Default)]
pub(crate) struct Shutdown(AtomicBool);

impl Shutdown {
    pub(crate) fn is_under_way(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Why a new pod is not let in: reason and message.
    pub(crate) fn refusal(&self) -> Option<(String, String)> {
        let message = "Pod was rejected as the node is shutting down.";
        self.is_under_way().then(|| ("NodeShutdown".to_owned(), message.to_owned()))
    }
}

/// Watches for shutdowns for ever.
pub(crate) async fn run(kubelet: Arc<Shared>) {
    if kubelet.config.shutdown.periods().is_empty() {
        return;
    }
    show_last(&kubelet);
    let mut told = false;
    loop {
        let error = match watch(&kubelet, Path::new(SYSTEM_BUS), Path::new(LOGIND_CONFIG_DIR)).await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        // Once, so that a machine without logind does not fill its log.
        if !std::mem::replace(&mut told, true) {
            tracing::warn!(%error, "cannot watch for shutdowns of this machine: its pods get no time then");
        }
        tracing::debug!(%error, "not watching for shutdowns");
        kubelet.ctx.clock.sleep(RECONNECT).await;
    }
}

async fn watch(
    kubelet: &Arc<Shared>,
    socket: &Path,
    config_dir: &Path,
) -> io::Result<std::convert::Infallible> {
    let periods = kubelet.config.shutdown.periods();
    let mut logind = Logind::connect(socket, config_dir, kubelet.ctx.clock.clone()).await?;
    logind.ensure_delay(periods.iter().map(|p| p.grace).sum()).await?;
    let mut lock: Option<OwnedFd> = Some(logind.inhibit().await?);
    tracing::info!("shutdowns of this machine wait for its pods");
    loop {
        let begun = logind.next().await?;
        let what = if begun { "shutdown event" } else { "shutdown cancellation" };
        let message = format!("Shutdown manager detected {what}");
        kubelet.recorder.normal(&node_ref(&kubelet.config), "NodeShutdown", message);
        kubelet.shutdown.0.store(begun, Ordering::Release);
        kubelet.node_changed.notify_one();
        if begun {
            terminate(kubelet).await;
            drop(lock.take());
        } else {
            lock = Some(logind.inhibit().await?);
        }
    }
}

/// Ends all pods, one priority after the other.
async fn terminate(kubelet: &Arc<Shared>) {
    let began = kubelet.ctx.clock.now();
    keep(kubelet, Some(began), None);
    let periods = kubelet.config.shutdown.periods();
    let mut groups: Vec<Vec<Arc<Entry>>> = vec![Vec::new(); periods.len()];
    let entries: Vec<Arc<Entry>> =
        kubelet.pods.lock().expect("pod lock is never poisoned").values().cloned().collect();
    for entry in entries.into_iter().filter(|entry| !is_over(entry)) {
        let priority = entry.view().pod.spec.as_ref().and_then(|s| s.priority).unwrap_or_default();
        groups[group(&periods, priority)].push(entry);
    }
    for (period, pods) in periods.iter().zip(groups).filter(|(_, pods)| !pods.is_empty()) {
        tracing::info!(priority = period.priority, pods = pods.len(), "ending pods, the machine goes down");
        for entry in &pods {
            let own = entry.view().pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds);
            let own = own.map_or(period.grace, |s| Duration::from_secs(s.max(0).unsigned_abs()));
            let (reason, message) = (REASON.to_owned(), MESSAGE.to_owned());
            let grace = own.min(period.grace);
            entry.send(Msg::GiveUp(Box::new(GiveUp { reason, message, grace, disrupted: true })));
        }
        let all = futures_util::future::join_all(pods.iter().map(|entry| async move {
            let mut changed = entry.changed.subscribe();
            let _ = changed.wait_for(|_| is_over(entry)).await;
        }));
        if timeout(&*kubelet.ctx.clock, period.grace, all).await.is_none() {
            tracing::warn!(priority = period.priority, "not all pods ended in their time");
        }
    }
    keep(kubelet, Some(began), Some(kubelet.ctx.clock.now()));
}

fn is_over(entry: &Entry) -> bool {
    matches!(entry.view().status["phase"].as_str(), Some("Failed" | "Succeeded"))
}

type Moment = Option<std::time::SystemTime>;

/// Shows when a shutdown began and ended, now and after the machine is up again.
fn keep(kubelet: &Shared, began: Moment, ended: Moment) {
    kubelet.metrics.shutdown(began, ended);
    let text = |moment: Moment| moment.map(knarr_meta::time::rfc3339_micro);
    let state = json!({ "startTime": text(began), "endTime": text(ended) });
    let path = kubelet.config.root_dir.join(STATE_FILE);
    if let Err(error) = std::fs::write(&path, state.to_string()) {
        tracing::warn!(%error, path = %path.display(), "cannot keep when the shutdown was");
    }
}

fn show_last(kubelet: &Shared) {
    let text = std::fs::read(kubelet.config.root_dir.join(STATE_FILE)).unwrap_or_default();
    let Ok(state) = serde_json::from_slice::<serde_json::Value>(&text) else { return };
    let moment = |key: &str| state[key].as_str().and_then(|text| knarr_meta::time::parse(text).ok());
    kubelet.metrics.shutdown(moment("startTime"), moment("endTime"));
}
