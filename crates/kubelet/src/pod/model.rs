//! What is known of a pod on this node. The worker keeps it; planning and status read it.

use super::resize::Resizing;
use super::sizes::Size;
use knarr_api::core::v1::Pod;
use knarr_runtime::spec::User;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

/// Delay before the second restart of a crashing container; it doubles from there ...
pub(crate) const FIRST_BACKOFF: Duration = Duration::from_secs(10);
/// ... up to this, and starts over when a container ran for twice as long.
pub(crate) const LONGEST_BACKOFF: Duration = Duration::from_secs(300);

/// All that is known of a pod.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observed {
    /// Its sandbox.
    pub(crate) sandbox: Sandbox,
    /// Sandboxes made for it so far.
    pub(crate) sandbox_attempts: u32,
    /// Its addresses, the primary one first.
    pub(crate) ips: Vec<IpAddr>,
    /// Preparation of sandbox, network and volumes.
    pub(crate) setup: Setup,
    /// By container name.
    pub(crate) containers: BTreeMap<String, Record>,
    /// When the kubelet first saw it.
    pub(crate) start_time: Option<SystemTime>,
    /// The pod as a whole was given up: reason and message.
    pub(crate) failed: Option<(String, String)>,
    /// The grace of its containers is no longer than this.
    pub(crate) grace_limit: Option<Duration>,
    /// What the owner of a pod that was given up for others is told.
    pub(crate) disruption: Option<String>,
    /// The object is gone from the API.
    pub(crate) gone: bool,
    /// Sandbox and network are being taken down.
    pub(crate) tearing_down: bool,
    /// Everything on the node is taken down.
    pub(crate) released: bool,
    /// The API was told that the pod is gone.
    pub(crate) deleting: bool,
    /// Since when the pod is ending.
    pub(crate) ending_since: Option<SystemTime>,
    /// All containers are being ended to be started anew.
    pub(crate) restarting_all: bool,
    /// Where changes of size stand.
    pub(crate) resizing: Resizing,
    /// The pod's cgroup is to be changed before containers start in it.
    pub(crate) held_by_resize: bool,
}

/// A pod is given up from outside: evicted, or the node goes down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GiveUp {
    pub(crate) reason: String,
    pub(crate) message: String,
    /// The grace of its containers, at most.
    pub(crate) grace: Duration,
    /// Whether the pod shows that it was disrupted (KEP-3329).
    pub(crate) disrupted: bool,
}

/// A pod's sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Sandbox {
    /// None.
    #[default]
    None,
    /// There, with network.
    Ready,
    /// Its shim is gone; it must be removed.
    Lost,
}

/// Preparation of a pod before containers can start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Setup {
    /// To be done.
    #[default]
    Needed,
    /// Under way.
    Running,
    /// Failed; to be tried again then.
    Failed(SystemTime),
    /// Done.
    Done,
}

/// All that is known of a container.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    /// Restart count.
    pub(crate) attempt: u32,
    /// Identifier in the runtime; empty before the first start.
    pub(crate) id: String,
    /// State.
    pub(crate) state: State,
    /// How the run before ended.
    pub(crate) last: Option<Ended>,
    /// Image as resolved.
    pub(crate) image: String,
    /// Digest form of the image.
    pub(crate) image_id: String,
    /// Who its first process is.
    pub(crate) user: Option<User>,
    /// postStart is done and the startup probe passed.
    pub(crate) started: bool,
    /// postStart is done.
    pub(crate) hook_done: bool,
    /// The startup probe passed, or there is none.
    pub(crate) startup_passed: bool,
    /// The readiness probe passes, or there is none.
    pub(crate) readiness: bool,
    /// It is to be killed and started anew, with this message.
    pub(crate) restart: Option<Restart>,
    /// A start is under way.
    pub(crate) starting: bool,
    /// A kill is under way, with this grace.
    pub(crate) killing: Option<Duration>,
    /// Its preStop hook, where that does not wait for the container's turn.
    pub(crate) pre_stop: PreStop,
    /// Why it does not run: reason and message.
    pub(crate) waiting: Option<(String, String)>,
    /// A failed start is not tried again before.
    pub(crate) retry_at: Option<SystemTime>,
    /// Crash back-off.
    pub(crate) backoff: Option<Backoff>,
    /// What its failed postStart hook said.
    pub(crate) hook_error: Option<String>,
    /// It was ended to be started anew, and that is not done yet.
    pub(crate) restarting: bool,
    /// The size that its cgroup has.
    pub(crate) actuated: Option<Size>,
    /// The last end was the kubelet's wish (a failed probe, a changed spec): the delay counts from the end before.
    pub(crate) ended_by_wish: bool,
}

/// A preStop hook that runs before its container's turn to end has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum PreStop {
    /// It did not run.
    #[default]
    Due,
    /// It runs.
    Running,
    /// It ended, or there is none to run any more.
    Done,
}

/// A wish to restart a running container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Restart {
    /// The event's message.
    pub(crate) message: String,
    /// Grace in place of the pod's.
    pub(crate) grace: Option<Duration>,
    /// Whether it is started again however it ends; otherwise its end counts as any other.
    pub(crate) again: bool,
}

/// A container's state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum State {
    /// Not started (in this sandbox).
    #[default]
    None,
    /// Running since.
    Running(SystemTime),
    /// Ended.
    Ended(Ended),
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) id: String,
    pub(crate) exit_code: i32,
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) started_at: Option<SystemTime>,
    pub(crate) finished_at: SystemTime,
}

/// Crash back-off of one container, as client-go's flowcontrol.Backoff keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Backoff {
    pub(crate) delay: Duration,
    pub(crate) at: SystemTime,
}

impl Record {
    pub(crate) fn is_running(&self) -> bool {
        matches!(self.state, State::Running(_))
    }

    /// Whether it ever ran, not counting what was before all containers were started anew.
    pub(crate) fn has_run(&self) -> bool {
        let before = |last: &Ended| last.reason != super::phase::RESTARTING_ALL;
        self.state != State::None || self.last.as_ref().is_some_and(before)
    }

    /// Whether it is news that the container `id` has ended; `starting`: it is the one that is being started. An end is
    /// heard of twice, from the runtime and from who stopped it, and its successor may be starting by then.
    pub(crate) fn is_news(&self, id: &str, starting: bool) -> bool {
        let known = |ended: &Ended| ended.id == id;
        (starting || self.id == id)
            && !self.ended().is_some_and(known)
            && !self.last.as_ref().is_some_and(known)
    }

    pub(crate) fn ended(&self) -> Option<&Ended> {
        match &self.state {
            State::Ended(ended) => Some(ended),
            _ => None,
        }
    }

    /// Until when a container that ended then must not be started again. One that was ended to be started
    /// anew need not wait when its delay has passed since the end before.
    pub(crate) fn held_until(&self, ended_at: SystemTime) -> Option<SystemTime> {
        let backoff = self.backoff.filter(|b| !b.is_over(ended_at))?;
        let before = self.last.as_ref().map(|l| l.finished_at);
        if self.ended_by_wish && before.is_none_or(|before| before + backoff.delay <= ended_at) {
            return None;
        }
        Some(ended_at + backoff.delay)
    }

    /// Counts a restart after an end at `ended_at`; the first one that is the kubelet's own wish does not count.
    pub(crate) fn count_restart(&mut self, ended_at: SystemTime) {
        let ended_at = match (std::mem::take(&mut self.ended_by_wish), &self.last) {
            (true, None) => return,
            (true, Some(last)) => last.finished_at,
            (false, _) => ended_at,
        };
        let delay = match self.backoff.filter(|b| !b.is_over(ended_at)) {
            Some(backoff) => (backoff.delay * 2).min(LONGEST_BACKOFF),
            None => FIRST_BACKOFF,
        };
        self.backoff = Some(Backoff { delay, at: ended_at });
    }
}

impl Backoff {
    fn is_over(&self, ended_at: SystemTime) -> bool {
        ended_at.duration_since(self.at).is_ok_and(|d| d > 2 * LONGEST_BACKOFF)
    }
}

/// Whether the API asks for the pod's end.
pub(crate) fn is_deleted(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// The grace for stopping the pod's containers.
pub(crate) fn grace(pod: &Pod, observed: &Observed) -> Duration {
    // What is deleted from the API without waiting for the kubelet is not wanted any more.
    let from_file = super::static_pods::is_static(pod);
    if observed.gone && !is_deleted(pod) && !from_file {
        return Duration::from_secs(1);
    }
    let spec = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds).unwrap_or(30);
    let seconds = match (is_deleted(pod), pod.metadata.deletion_grace_period_seconds) {
        (true, Some(seconds)) => seconds,
        _ => spec,
    };
    let seconds = if observed.gone && !from_file { seconds.min(1) } else { seconds };
    let grace = Duration::from_secs(seconds.max(0).unsigned_abs());
    observed.grace_limit.map_or(grace, |limit| grace.min(limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crash_delays_double_up_to_five_minutes_and_start_over_after_a_long_run() {
        let t0 = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let mut record = Record::default();
        let mut ended = t0;
        let mut delays = Vec::new();
        for _ in 0..8 {
            delays.push(record.held_until(ended).map_or(0, |u| u.duration_since(ended).unwrap().as_secs()));
            record.count_restart(ended);
            ended += Duration::from_secs(1);
        }
        assert_eq!(delays, [0, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(record.held_until(ended + Duration::from_secs(601)), None);
    }

    #[test]
    fn an_end_is_news_once() {
        let ended = |id: &str| Ended {
            id: id.to_owned(),
            exit_code: 0,
            reason: String::new(),
            message: String::new(),
            started_at: None,
            finished_at: SystemTime::UNIX_EPOCH,
        };
        let mut record = Record {
            id: "one".to_owned(),
            state: State::Running(SystemTime::UNIX_EPOCH),
            ..Record::default()
        };
        assert!(record.is_news("one", false));
        assert!(!record.is_news("before", false));
        record.state = State::Ended(ended("one"));
        assert!(!record.is_news("one", false));
        // The next one is being started: it may end before that is heard, the old one has ended already.
        record.last = Some(ended("one"));
        record.state = State::None;
        assert!(!record.is_news("one", false));
        assert!(record.is_news("two", true));
    }
}
