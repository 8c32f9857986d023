//! How fast replicas may change: what was recommended lately, and how much was changed lately.

use knarr_api::autoscaling::v2::{HPAScalingRules, HorizontalPodAutoscalerBehavior};
use std::time::{Duration, SystemTime};

/// Upstream's default of --horizontal-pod-autoscaler-downscale-stabilization.
const DOWNSCALE_WINDOW: Duration = Duration::from_secs(300);
/// Without rules, replicas may double at a time, and grow to four.
const GROWTH: f64 = 2.0;
const GROWTH_AT_LEAST: f64 = 4.0;

/// What an autoscaler remembers.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    recommended: Vec<(i32, SystemTime)>,
    added: Vec<(i32, SystemTime)>,
    removed: Vec<(i32, SystemTime)>,
}

/// A number of replicas within limits, with what the conditions say about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limited {
    /// Replicas.
    pub replicas: i32,
    /// Reason and message of `AbleToScale`.
    pub able: (&'static str, &'static str),
    /// Status of `ScalingLimited`.
    pub is_limited: bool,
    /// Reason and message of `ScalingLimited`.
    pub limited: (&'static str, &'static str),
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// Replicas now.
    pub current: i32,
    /// Replicas that the metrics ask for.
    pub desired: i32,
    /// The least.
    pub min: i32,
    /// The most.
    pub max: i32,
}

const READY: (&str, &str) = ("ReadyForNewScale", "recommended size matches current size");
const DOWN_STABLE: (&str, &str) = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
);
const UP_STABLE: (&str, &str) = (
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
);
const WITHIN: (&str, &str) = ("DesiredWithinRange", "the desired count is within the acceptable range");
const UP_LIMIT: (&str, &str) =
    ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const TOO_MANY: (&str, &str) =
    ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const DOWN_LIMIT: (&str, &str) =
    ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate");
const TOO_FEW: (&str, &str) =
    ("TooFewReplicas", "the desired replica count is less than the minimum replica count");

impl Memory {
    /// The first recommendation is what there is.
    pub fn begin(&mut self, current: i32, now: SystemTime) {
        if self.recommended.is_empty() {
            self.recommended.push((current, now));
        }
    }

    fn remember(&mut self, desired: i32, now: SystemTime, is_old: impl Fn(SystemTime) -> bool) {
        match self.recommended.iter_mut().rfind(|(_, at)| is_old(*at)) {
            Some(old) => *old = (desired, now),
            None => self.recommended.push((desired, now)),
        }
    }

    /// Without rules: the highest of the last five minutes, at most double.
    pub fn limit(&mut self, wish: Wish, now: SystemTime) -> Limited {
        let cutoff = now - DOWNSCALE_WINDOW;
        let recent = self.recommended.iter().filter(|(_, at)| *at >= cutoff).map(|(replicas, _)| *replicas);
        let stable = recent.max().unwrap_or(wish.desired).max(wish.desired);
        self.remember(wish.desired, now, |at| at < cutoff);
        let able = if stable == wish.desired { READY } else { DOWN_STABLE };
        let most =
            crate::podautoscaler::calculator::ceil((GROWTH * f64::from(wish.current)).max(GROWTH_AT_LEAST));
        let (most, why) = if wish.max > most { (most, UP_LIMIT) } else { (wish.max, TOO_MANY) };
        let (replicas, limited) = match stable {
            few if few < wish.min => (wish.min, TOO_FEW),
            many if many > most => (most, why),
            within => (within, WITHIN),
        };
        Limited { replicas, able, is_limited: replicas != stable, limited }
    }

    /// With rules for growing and for shrinking.
    pub fn limit_by(
        &mut self,
        wish: Wish,
        behavior: &HorizontalPodAutoscalerBehavior,
        now: SystemTime,
    ) -> Limited {
        let (up, down) = rules(behavior);
        let ago = |seconds: i32| now - Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
        let up_cutoff = ago(up.stabilization_window_seconds.unwrap_or_default());
        let window = i32::try_from(DOWNSCALE_WINDOW.as_secs()).unwrap_or_default();
        let down_cutoff = ago(down.stabilization_window_seconds.unwrap_or(window));
        let since = |cutoff: SystemTime| {
            self.recommended.iter().filter(move |(_, at)| *at > cutoff).map(|(replicas, _)| *replicas)
        };
        let lowest = since(up_cutoff).min().unwrap_or(wish.desired).min(wish.desired);
        let highest = since(down_cutoff).max().unwrap_or(wish.desired).max(wish.desired);
        let stable = wish.current.max(lowest).min(highest);
        self.remember(wish.desired, now, |at| at < up_cutoff && at < down_cutoff);
        let able = match stable == wish.desired {
            true => READY,
            false if wish.desired >= wish.current => UP_STABLE,
            false => DOWN_STABLE,
        };
        let (replicas, limited) = if stable > wish.current {
            let most = self.most(wish.current, &up, now).max(wish.current);
            let (most, why) = if wish.max > most { (most, UP_LIMIT) } else { (wish.max, TOO_MANY) };
            if stable > most { (most, why) } else { (stable, WITHIN) }
        } else if stable < wish.current {
            let least = self.least(wish.current, &down, now).min(wish.current);
            let (least, why) = if wish.min < least { (least, DOWN_LIMIT) } else { (wish.min, TOO_FEW) };
            if stable < least { (least, why) } else { (stable, WITHIN) }
        } else {
            (stable, WITHIN)
        };
        Limited { replicas, able, is_limited: replicas != stable, limited }
    }

    /// How many there were when a policy's period began.
    fn at_start(&self, current: i32, period_seconds: i32, now: SystemTime) -> i32 {
        let cutoff = now - Duration::from_secs(u64::try_from(period_seconds).unwrap_or_default());
        let changed = |changes: &[(i32, SystemTime)]| -> i32 {
            changes.iter().filter(|(_, at)| *at > cutoff).map(|(change, _)| change).sum()
        };
        current - changed(&self.added) + changed(&self.removed)
    }

    fn most(&self, current: i32, rules: &HPAScalingRules, now: SystemTime) -> i32 {
        let proposed = rules.policies.iter().flatten().map(|policy| {
            let start = self.at_start(current, policy.period_seconds, now);
            match policy.type_.as_str() {
                "Pods" => start.saturating_add(policy.value),
                _ => crate::podautoscaler::calculator::ceil(
                    f64::from(start) * (1.0 + f64::from(policy.value) / 100.0),
                ),
            }
        });
        match rules.select_policy.as_deref() {
            Some("Disabled") => current,
            Some("Min") => proposed.min().unwrap_or(i32::MAX),
            _ => proposed.max().unwrap_or(i32::MIN),
        }
    }

    fn least(&self, current: i32, rules: &HPAScalingRules, now: SystemTime) -> i32 {
        let proposed = rules.policies.iter().flatten().map(|policy| {
            let start = self.at_start(current, policy.period_seconds, now);
            match policy.type_.as_str() {
                "Pods" => start.saturating_sub(policy.value),
                _ => (f64::from(start) * (1.0 - f64::from(policy.value) / 100.0)) as i32,
            }
        });
        match rules.select_policy.as_deref() {
            Some("Disabled") => current,
            Some("Min") => proposed.max().unwrap_or(i32::MIN),
            _ => proposed.min().unwrap_or(i32::MAX),
        }
    }

    /// Replicas were changed; what is older than all policies' periods is forgotten.
    pub fn changed(
        &mut self,
        behavior: Option<&HorizontalPodAutoscalerBehavior>,
        from: i32,
        to: i32,
        now: SystemTime,
    ) {
        let Some(behavior) = behavior else { return };
        let (up, down) = rules(behavior);
        let (changes, rules, by) =
            if to > from { (&mut self.added, up, to - from) } else { (&mut self.removed, down, from - to) };
        let longest = rules.policies.iter().flatten().map(|policy| policy.period_seconds).max();
        let longest = Duration::from_secs(u64::try_from(longest.unwrap_or_default()).unwrap_or_default());
        changes.retain(|(_, at)| *at >= now - longest);
        changes.push((by, now));
    }
}

/// The rules for growing and shrinking; the API server has filled their defaults in.
fn rules(behavior: &HorizontalPodAutoscalerBehavior) -> (HPAScalingRules, HPAScalingRules) {
    (behavior.scale_up.clone().unwrap_or_default(), behavior.scale_down.clone().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(100_000 + seconds)
    }

    fn wish(current: i32, desired: i32) -> Wish {
        Wish { current, desired, min: 1, max: 20 }
    }

    #[test]
    fn without_rules_growth_is_at_once_and_shrinking_waits() {
        let mut memory = Memory::default();
        memory.begin(3, at(0));
        let grown = memory.limit(wish(3, 10), at(15));
        assert_eq!((grown.replicas, grown.limited, grown.is_limited), (6, UP_LIMIT, true));
        assert_eq!(memory.limit(wish(1, 10), at(20)).replicas, 4);
        let kept = memory.limit(wish(10, 2), at(100));
        assert_eq!((kept.replicas, kept.able), (10, DOWN_STABLE));
        let shrunk = memory.limit(wish(10, 2), at(320 + 1));
        assert_eq!((shrunk.replicas, shrunk.able, shrunk.limited), (2, READY, WITHIN));
        assert_eq!(memory.limit(wish(2, 0), at(1000)).limited, TOO_FEW);
        assert_eq!(memory.limit(wish(20, 30), at(2000)).limited, TOO_MANY);
    }

    #[test]
    fn rules_bound_the_rate() {
        let behavior = json!({
            "scaleUp": { "stabilizationWindowSeconds": 0, "selectPolicy": "Max", "policies": [
                { "type": "Pods", "value": 4, "periodSeconds": 60 },
                { "type": "Percent", "value": 100, "periodSeconds": 60 }] },
            "scaleDown": { "stabilizationWindowSeconds": 60, "selectPolicy": "Min", "policies": [
                { "type": "Pods", "value": 1, "periodSeconds": 60 },
                { "type": "Percent", "value": 50, "periodSeconds": 60 }] },
        });
        let behavior: HorizontalPodAutoscalerBehavior = serde_json::from_value(behavior).expect("a behavior");
        let mut memory = Memory::default();
        memory.begin(5, at(0));
        let grown = memory.limit_by(wish(5, 20), &behavior, at(10));
        assert_eq!((grown.replicas, grown.limited), (10, UP_LIMIT));
        memory.changed(Some(&behavior), 5, 10, at(10));
        // Within the same minute there is no more.
        assert_eq!(memory.limit_by(wish(10, 20), &behavior, at(30)).replicas, 10);
        assert_eq!(memory.limit_by(wish(10, 20), &behavior, at(71)).replicas, 20);
        let kept = memory.limit_by(wish(10, 2), &behavior, at(100));
        assert_eq!((kept.replicas, kept.able), (10, DOWN_STABLE));
        let shrunk = memory.limit_by(wish(10, 2), &behavior, at(200));
        assert_eq!((shrunk.replicas, shrunk.limited), (9, DOWN_LIMIT));
        let mut never = behavior;
        never.scale_down.as_mut().expect("rules").select_policy = Some("Disabled".into());
        assert_eq!(memory.limit_by(wish(10, 2), &never, at(300)).replicas, 10);
    }
}
