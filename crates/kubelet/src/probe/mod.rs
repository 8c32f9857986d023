//! Probes and lifecycle hooks: exec, HTTP, TCP and gRPC checks of containers, with upstream's thresholds,
//! messages and events (configure-liveness-readiness-startup-probes page).

mod check;
mod grpc;
pub(crate) mod hook;
mod http;
pub(crate) mod results;

use crate::kubelet::{Entry, Shared};
use crate::pod::model::Observed;
use crate::pod::worker::Msg;
use crate::util::{Def, about};
use knarr_api::core::v1::{Pod, Probe};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What a probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Liveness,
    Readiness,
    Startup,
}

impl Kind {
    /// As messages name it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Liveness => "liveness",
            Self::Readiness => "readiness",
            Self::Startup => "startup",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
            Self::Startup => "Startup",
        }
    }
}

/// The probes of a pod that are running.
pub(crate) struct Probing {
    kubelet: Arc<Shared>,
    entry: Arc<Entry>,
    running: HashMap<(String, Kind), CancellationToken>,
}

impl Probing {
    pub(crate) fn new(kubelet: Arc<Shared>, entry: Arc<Entry>) -> Self {
        Self { kubelet, entry, running: HashMap::new() }
    }

    /// Has exactly the probes run that the running containers want now. A pod that is ending is asked on whether
    /// it is ready, and for nothing else.
    pub(crate) fn sync(&mut self, pod: &Arc<Pod>, defs: &[Def], observed: &Observed, stopping: bool) {
        let mut wanted = HashMap::new();
        for def in defs {
            let Some(record) = observed.containers.get(&def.spec.name).filter(|r| r.is_running()) else {
                continue;
            };
            let spec = &def.spec;
            let mut want = |kind: Kind, probe: &Option<Probe>, ready: bool| {
                let asked = ready && (!stopping || kind == Kind::Readiness);
                if let Some(probe) = probe.as_ref().filter(|_| asked) {
                    wanted.insert((record.id.clone(), kind), (def.clone(), probe.clone(), record));
                }
            };
            want(Kind::Startup, &spec.startup_probe, !record.startup_passed);
            // The others begin when the container has started.
            want(Kind::Readiness, &spec.readiness_probe, record.startup_passed);
            want(Kind::Liveness, &spec.liveness_probe, record.startup_passed && record.restart.is_none());
        }
        self.running.retain(|key, stop| {
            let keep = wanted.contains_key(key);
            if !keep {
                stop.cancel();
            }
            keep
        });
        for (key, (def, probe, record)) in wanted {
            if self.running.contains_key(&key) {
                continue;
            }
            let stop = CancellationToken::new();
            self.running.insert(key.clone(), stop.clone());
            let crate::pod::model::State::Running(since) = record.state else { continue };
            let run = run(Run {
                kubelet: self.kubelet.clone(),
                entry: self.entry.clone(),
                pod: pod.clone(),
                ips: observed.ips.clone(),
                def,
                id: key.0,
                kind: key.1,
                probe,
                since,
                first: key.1 == Kind::Readiness && record.readiness,
            });
            self.kubelet.ctx.tasks.spawn_until_stopped("probe", async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = run => {}
                }
            });
        }
    }
}

impl Drop for Probing {
    fn drop(&mut self) {
        self.running.values().for_each(CancellationToken::cancel);
    }
}

struct Run {
    kubelet: Arc<Shared>,
    entry: Arc<Entry>,
    pod: Arc<Pod>,
    ips: Vec<IpAddr>,
    def: Def,
    id: String,
    kind: Kind,
    probe: Probe,
    since: std::time::SystemTime,
    /// The verdict to begin with, for readiness.
    first: bool,
}

/// Counts results until they outweigh the threshold.
#[derive(Debug)]
struct Verdict {
    now: Option<bool>,
    last: Option<bool>,
    run: i32,
    success_threshold: i32,
    failure_threshold: i32,
}

impl Verdict {
    /// Takes a result in; the new verdict if it changed.
    fn take(&mut self, ok: bool) -> Option<bool> {
        self.run = if self.last == Some(ok) { self.run.saturating_add(1) } else { 1 };
        self.last = Some(ok);
        let threshold = if ok { self.success_threshold } else { self.failure_threshold };
        if self.run < threshold || self.now == Some(ok) {
            return None;
        }
        self.now = Some(ok);
        Some(ok)
    }
}

async fn run(run: Run) {
    let Run { kubelet, entry, pod, ips, def, id, kind, probe, since, first } = run;
    let clock = kubelet.ctx.clock.clone();
    let seconds = |s: Option<i32>, default: u64| s.map_or(default, |s| s.max(0).unsigned_abs().into());
    let initial = Duration::from_secs(seconds(probe.initial_delay_seconds, 0));
    let ran = clock.now().duration_since(since).unwrap_or_default();
    clock.sleep(initial.saturating_sub(ran)).await;
    let period = Duration::from_secs(seconds(probe.period_seconds, 10).max(1));
    let limit = Duration::from_secs(seconds(probe.timeout_seconds, 1).max(1));
    let mut verdict = Verdict {
        now: match kind {
            Kind::Liveness => Some(true),
            Kind::Readiness => Some(first),
            Kind::Startup => None,
        },
        last: None,
        run: 0,
        success_threshold: probe.success_threshold.unwrap_or(1).max(1),
        failure_threshold: probe.failure_threshold.unwrap_or(3).max(1),
    };
    let about = about(&pod, Some(&def));
    let counted = kubelet.metrics.probes.record(kind.title(), &def.spec.name, &pod);
    loop {
        let began = clock.instant();
        let target = check::Target { kubelet: &kubelet, pod: &pod, def: &def, id: &id, ips: &ips };
        let result = check::check(&target, &probe, limit).await;
        let word = match result {
            check::Outcome::Success => "successful",
            check::Outcome::Failure(_) => "failed",
            check::Outcome::Unknown(_) => "unknown",
        };
        counted.count(word, clock.instant() - began);
        let ok = match result {
            check::Outcome::Success => Some(true),
            check::Outcome::Failure(message) => {
                let text = format!("{} probe failed: {message}", kind.title());
                kubelet.recorder.warning(&about, "Unhealthy", text);
                Some(false)
            }
            check::Outcome::Unknown(message) => {
                let text = format!("{} probe errored and resulted in unknown state: {message}", kind.title());
                kubelet.recorder.warning(&about, "Unhealthy", text);
                None
            }
        };
        if let Some(ok) = ok.and_then(|ok| verdict.take(ok)) {
            entry.send(Msg::Probe { name: def.spec.name.clone(), id: id.clone(), kind, ok });
            if kind != Kind::Readiness && !ok {
                // The container is killed for it; its successor is probed anew.
                return;
            }
        }
        clock.sleep(period.saturating_sub(clock.instant() - began)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_changes_after_as_many_results_as_the_threshold_says() {
        let mut verdict =
            Verdict { now: Some(true), last: None, run: 0, success_threshold: 2, failure_threshold: 3 };
        let results = [false, false, true, false, false, false, false, true, false, true, true];
        let changes: Vec<Option<bool>> = results.iter().map(|ok| verdict.take(*ok)).collect();
        let mut expected = vec![None; results.len()];
        expected[5] = Some(false);
        expected[10] = Some(true);
        assert_eq!(changes, expected);
    }
}
