//! How long a Job waits before it replaces pods that failed: 10 seconds, doubling up to 10 minutes, counted from the
//! last failure, over the whole Job or per index.

use crate::framework::pods::condition;
use crate::framework::time::system_time;
use knarr_api::core::v1::Pod;
use std::time::{Duration, SystemTime};

const FIRST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(600);

/// The failures of a Job since its last success. Kept in memory only: a restart forgets them, as upstream's does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    count: u32,
    last: Option<SystemTime>,
}

impl Failures {
    /// With pods that ended since.
    pub fn after<'a>(
        &self,
        succeeded: impl IntoIterator<Item = &'a Pod>,
        failed: impl IntoIterator<Item = &'a Pod>,
    ) -> Self {
        let last_success = succeeded.into_iter().map(finished_at).max();
        let failed: Vec<SystemTime> =
            failed.into_iter().map(finished_at).filter(|at| last_success.is_none_or(|s| *at > s)).collect();
        let before = if last_success.is_some() { Self::default() } else { self.clone() };
        Self { count: before.count + failed.len() as u32, last: failed.into_iter().max().or(before.last) }
    }

    /// How long to wait from `now` on.
    pub fn remaining(&self, now: SystemTime) -> Duration {
        remaining(self.count, self.last, now)
    }
}

/// How long an index waits whose last failed pod is `pod`, after `failures` failures.
pub fn remaining_for_index(pod: &Pod, failures: i32, now: SystemTime) -> Duration {
    remaining(u32::try_from(failures).unwrap_or_default(), Some(finished_at(pod)), now)
}

fn remaining(failures: u32, last: Option<SystemTime>, now: SystemTime) -> Duration {
    let Some(last) = last.filter(|_| failures > 0) else { return Duration::ZERO };
    let wait = FIRST.saturating_mul(1u32.checked_shl(failures - 1).unwrap_or(u32::MAX)).min(LONGEST);
    wait.saturating_sub(now.duration_since(last).unwrap_or_default())
}

/// When a pod ended, as well as can be told: its containers' end, else when it became unready, else when its
/// deletion was asked for, else its creation.
pub fn finished_at(pod: &Pod) -> SystemTime {
    let containers = || {
        let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
        let ends = statuses.iter().map(|s| s.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref());
        ends.map(|end| end.map(system_time)).collect::<Option<Vec<_>>>()?.into_iter().max()
    };
    let unready = || {
        let ready = condition(pod, "Ready").filter(|c| c.status == "False")?;
        ready.last_transition_time.as_ref().map(system_time)
    };
    let deleted = || {
        let due = system_time(pod.metadata.deletion_timestamp.as_ref()?);
        let grace = u64::try_from(pod.metadata.deletion_grace_period_seconds.unwrap_or_default());
        due.checked_sub(Duration::from_secs(grace.unwrap_or_default()))
    };
    let created = || pod.metadata.creation_timestamp.as_ref().map(system_time);
    containers().or_else(unready).or_else(deleted).or_else(created).unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framework::time::api_time;
    use knarr_api::meta::v1::ObjectMeta;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn ended(seconds: u64) -> Pod {
        let metadata = ObjectMeta { creation_timestamp: api_time(at(seconds)), ..ObjectMeta::default() };
        Pod { metadata, ..Pod::default() }
    }

    #[test]
    fn the_wait_doubles_with_failures_and_ends_with_a_success() {
        let seconds = |failures: &Failures, now: u64| failures.remaining(at(now)).as_secs();
        let none = Failures::default();
        assert_eq!(seconds(&none, 100), 0);
        let one = none.after([], [&ended(100)]);
        assert_eq!((seconds(&one, 100), seconds(&one, 104), seconds(&one, 200)), (10, 6, 0));
        let three = one.after([], [&ended(110), &ended(120)]);
        assert_eq!(seconds(&three, 120), 40);
        assert_eq!(
            seconds(&three.after([], (0..30).map(|_| ended(130)).collect::<Vec<_>>().iter()), 130),
            600
        );
        assert_eq!(three.after([&ended(140)], [&ended(130)]), none);
        assert_eq!(seconds(&three.after([&ended(140)], [&ended(150)]), 150), 10);
    }
}
