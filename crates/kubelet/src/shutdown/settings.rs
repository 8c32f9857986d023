//! How long pods have when the machine is shut down (KEP-2000, KEP-2712), by their priority: upstream's
//! shutdownGracePeriod, shutdownGracePeriodCriticalPods and shutdownGracePeriodByPodPriority.

use crate::eviction::SYSTEM_CRITICAL;
use crate::util::go_duration;
use std::time::Duration;

/// How long the pods of a priority have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PriorityGrace {
    /// From this priority up to the next one's.
    pub priority: i32,
    /// Whole seconds.
    pub grace: Duration,
}

/// The settings. Nothing set: the node does not hold a shutdown up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeShutdown {
    /// All the time there is.
    pub grace_period: Duration,
    /// The part of it that is kept for critical pods.
    pub grace_period_critical_pods: Duration,
    /// Instead of the two above.
    pub by_pod_priority: Vec<PriorityGrace>,
}

impl NodeShutdown {
    /// Reads `priority=seconds,…`.
    pub fn by_priority(text: &str) -> Result<Vec<PriorityGrace>, String> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let one = |part: &str| {
            let (priority, seconds) = part.split_once('=')?;
            let seconds: u32 = seconds.trim().parse().ok()?;
            let grace = Duration::from_secs(seconds.into());
            Some(PriorityGrace { priority: priority.trim().parse().ok()?, grace })
        };
        let all: Result<Vec<_>, String> =
            parts.map(|part| one(part).ok_or_else(|| format!("{part:?} is not as 1000=30"))).collect();
        let all = all?;
        match all.iter().enumerate().find(|(i, p)| all[..*i].iter().any(|q| q.priority == p.priority)) {
            Some((_, twice)) => Err(format!("priority {} is there twice", twice.priority)),
            None => Ok(all),
        }
    }

    /// What is wrong with the settings together, in upstream's words.
    pub fn check(&self) -> Result<(), String> {
        let (all, critical) = (self.grace_period, self.grace_period_critical_pods);
        if critical > all {
            return Err(format!(
                "shutdownGracePeriodCriticalPods {} must be <= shutdownGracePeriod {}",
                go_duration(critical),
                go_duration(all)
            ));
        }
        for (name, period) in [("shutdownGracePeriod", all), ("shutdownGracePeriodCriticalPods", critical)] {
            if !period.is_zero() && period < Duration::from_secs(1) {
                let period = go_duration(period);
                return Err(format!("{name} {period} must be either zero or otherwise >= 1 sec"));
            }
        }
        if !self.by_pod_priority.is_empty() && !all.is_zero() {
            return Err(
                "Cannot specify both shutdownGracePeriodByPodPriority and shutdownGracePeriod at the same time"
                    .to_owned(),
            );
        }
        Ok(())
    }

    /// What is in force, from the lowest priority to the highest; empty when nothing is set.
    pub(crate) fn periods(&self) -> Vec<PriorityGrace> {
        let whole = |period: Duration| Duration::from_secs(period.as_secs());
        let mut all = self.by_pod_priority.clone();
        if all.is_empty() && !self.grace_period.is_zero() {
            let critical = self.grace_period_critical_pods;
            let usual = self.grace_period.saturating_sub(critical);
            all.push(PriorityGrace { priority: 0, grace: whole(usual) });
            all.push(PriorityGrace { priority: SYSTEM_CRITICAL, grace: whole(critical) });
        }
        all.sort_by_key(|period| period.priority);
        all
    }
}

/// Which of the periods (sorted, not empty) is for pods of a priority: that of the highest priority that is not above
/// theirs, or the lowest one.
pub(super) fn group(periods: &[PriorityGrace], priority: i32) -> usize {
    periods.partition_point(|period| period.priority <= priority).saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(periods: &[PriorityGrace]) -> Vec<(i32, u64)> {
        periods.iter().map(|p| (p.priority, p.grace.as_secs())).collect()
    }

    #[test]
    fn two_periods_are_those_of_usual_and_of_critical_pods() {
        let s = Duration::from_secs;
        for (all, critical, expected) in [
            (s(0), s(0), vec![]),
            (s(30), s(10), vec![(0, 20), (2_000_000_000, 10)]),
            (s(30), s(0), vec![(0, 30), (2_000_000_000, 0)]),
            (s(30), s(30), vec![(0, 0), (2_000_000_000, 30)]),
        ] {
            let settings = NodeShutdown {
                grace_period: all,
                grace_period_critical_pods: critical,
                ..Default::default()
            };
            assert_eq!(settings.check(), Ok(()));
            assert_eq!(seconds(&settings.periods()), expected, "{all:?} {critical:?}");
        }
    }

    #[test]
    fn pods_belong_to_the_priority_below_theirs() {
        let settings = NodeShutdown {
            by_pod_priority: NodeShutdown::by_priority("10000=180, 100000=10,1000=120,0=60").unwrap(),
            ..Default::default()
        };
        let periods = settings.periods();
        assert_eq!(seconds(&periods), [(0, 60), (1000, 120), (10000, 180), (100_000, 10)]);
        for (priority, expected) in
            [(-5, 0), (0, 0), (999, 0), (1000, 1), (9999, 1), (10000, 2), (100_000, 3), (2_000_001_000, 3)]
        {
            assert_eq!(group(&periods, priority), expected, "{priority}");
        }
    }

    #[test]
    fn settings_that_do_not_go_together_are_told_in_upstreams_words() {
        let s = Duration::from_secs;
        let both = NodeShutdown {
            grace_period: s(1),
            by_pod_priority: NodeShutdown::by_priority("0=1").unwrap(),
            ..Default::default()
        };
        let reversed =
            NodeShutdown { grace_period: s(10), grace_period_critical_pods: s(20), ..Default::default() };
        let short = NodeShutdown { grace_period: Duration::from_millis(10), ..Default::default() };
        for (settings, words) in [
            (both, "Cannot specify both"),
            (reversed, "shutdownGracePeriodCriticalPods 20s must be <= shutdownGracePeriod 10s"),
            (short, "must be either zero or otherwise >= 1 sec"),
        ] {
            let error = settings.check().unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        for text in ["1", "a=1", "1=-1", "1=1,1=2"] {
            assert!(NodeShutdown::by_priority(text).is_err(), "{text}");
        }
    }
}
