//! The arithmetic of rolling updates: how far each ReplicaSet may be scaled so that never more than the surge is
//! added and never more than maxUnavailable is missing.

use super::MAX_REPLICAS;
use super::replica_sets::desired;
use knarr_api::IntOrString;
use knarr_api::apps::v1::{Deployment, ReplicaSet};
use std::sync::Arc;

/// The deployment's size and the room around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Wanted pods.
    pub replicas: i32,
    /// Pods above that.
    pub max_surge: i32,
    /// Pods that may be missing.
    pub max_unavailable: i32,
}

/// Reads the bounds; percentages round up for the surge and down for the missing, and not both may be nothing.
pub fn bounds(deployment: &Deployment) -> Bounds {
    let replicas = super::replicas(deployment);
    if super::strategy(deployment) == "Recreate" {
        return Bounds { replicas, max_surge: 0, max_unavailable: 0 };
    }
    let rolling =
        deployment.spec.as_ref().and_then(|s| s.strategy.as_ref()).and_then(|s| s.rolling_update.as_ref());
    let resolve = |value: Option<&IntOrString>, up: bool| match value {
        Some(IntOrString::Int(n)) => *n,
        other => {
            let percent = match other {
                Some(IntOrString::String(text)) => text.trim_end_matches('%').parse().unwrap_or(0),
                _ => 25,
            };
            let scaled = i64::from(percent) * i64::from(replicas);
            i32::try_from(if up { (scaled + 99) / 100 } else { scaled / 100 }).unwrap_or(i32::MAX)
        }
    };
    let max_surge = resolve(rolling.and_then(|r| r.max_surge.as_ref()), true);
    let mut max_unavailable = resolve(rolling.and_then(|r| r.max_unavailable.as_ref()), false);
    if max_surge == 0 && max_unavailable == 0 {
        max_unavailable = 1;
    }
    Bounds { replicas, max_surge, max_unavailable: max_unavailable.min(replicas) }
}

fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|s| s.available_replicas).unwrap_or_default()
}

/// How large the new set may be now.
pub fn new_replicas(bounds: &Bounds, new: &ReplicaSet, old: &[Arc<ReplicaSet>]) -> i32 {
    let current = desired(new);
    if current > bounds.replicas {
        return bounds.replicas;
    }
    let total = current + old.iter().map(|s| desired(s)).sum::<i32>();
    let room = (bounds.replicas + bounds.max_surge - total).max(0);
    current + room.min(bounds.replicas - current)
}

/// The old sets (by index) that are to shrink, with their new sizes: first what is not available anyway, then as
/// many as may be missing.
pub fn old_replicas(bounds: &Bounds, new: &ReplicaSet, old: &[Arc<ReplicaSet>]) -> Vec<(usize, i32)> {
    let mut sizes: Vec<i32> = old.iter().map(|s| desired(s)).collect();
    let old_total: i32 = sizes.iter().sum();
    if old_total == 0 {
        return Vec::new();
    }
    let least = bounds.replicas - bounds.max_unavailable;
    let new_unavailable = desired(new) - available(new);
    let mut may_shrink = desired(new) + old_total - least - new_unavailable;
    if may_shrink <= 0 {
        return Vec::new();
    }
    let mut oldest_first: Vec<usize> = (0..old.len()).collect();
    oldest_first.sort_by_key(|i| {
        (old[*i].metadata.creation_timestamp.as_ref().map(|t| t.0), old[*i].metadata.name.clone())
    });
    for index in &oldest_first {
        let unhealthy = (sizes[*index] - available(&old[*index])).max(0).min(may_shrink);
        sizes[*index] -= unhealthy;
        may_shrink -= unhealthy;
    }
    let total_available = available(new) + old.iter().map(|s| available(s)).sum::<i32>();
    let mut spare = (total_available - least).max(0);
    for index in &oldest_first {
        let less = sizes[*index].min(spare);
        sizes[*index] -= less;
        spare -= less;
    }
    oldest_first.retain(|i| sizes[*i] != desired(&old[*i]));
    oldest_first.into_iter().map(|i| (i, sizes[i])).collect()
}

/// Sizes after the deployment itself was scaled in the middle of a rollout or while paused: the sets (by index; the
/// new one comes after the old) grow or shrink in proportion.
pub fn proportions(bounds: &Bounds, new: Option<&ReplicaSet>, old: &[Arc<ReplicaSet>]) -> Vec<(usize, i32)> {
    let sets: Vec<&ReplicaSet> = old.iter().map(|s| &**s).chain(new).collect();
    let active: Vec<usize> = (0..sets.len()).filter(|i| desired(sets[*i]) > 0).collect();
    // One active set (or none but the newest) simply takes the deployment's size.
    if active.len() <= 1 {
        let latest = sets.iter().enumerate().max_by_key(|(_, s)| super::revision(s)).map(|(i, _)| i);
        return match active.first().copied().or(if new.is_some() { Some(sets.len() - 1) } else { latest }) {
            Some(index) => vec![(index, bounds.replicas)],
            None => Vec::new(),
        };
    }
    // A new set that is complete leaves nothing to the old ones.
    if let Some(new) = new
        && desired(new) == bounds.replicas
        && available(new) == bounds.replicas
    {
        return active.into_iter().filter(|i| *i < old.len()).map(|i| (i, 0)).collect();
    }
    let total: i32 = sets.iter().map(|s| desired(s)).sum();
    let allowed = if bounds.replicas > 0 { bounds.replicas + bounds.max_surge } else { 0 };
    let to_add = allowed - total;
    // The largest sets take most; among equals the newest when growing, the oldest when shrinking.
    let mut order = active;
    order.sort_by_key(|i| {
        let age = sets[*i].metadata.creation_timestamp.as_ref().map(|t| t.0.as_second()).unwrap_or_default();
        (std::cmp::Reverse(desired(sets[*i])), if to_add > 0 { -age } else { age })
    });
    let (mut added, mut sizes) = (0, Vec::new());
    for index in &order {
        let share = if to_add == 0 { 0 } else { share(bounds, sets[*index], to_add, added) };
        added += share;
        sizes.push((*index, desired(sets[*index]) + share));
    }
    if let Some(first) = sizes.first_mut() {
        first.1 = (first.1 + to_add - added).max(0);
    }
    sizes
}

/// A set's part of the change, by its size when the deployment was last scaled.
fn share(bounds: &Bounds, set: &ReplicaSet, to_add: i32, added: i32) -> i32 {
    let size = f64::from(desired(set));
    let noted = set
        .metadata
        .annotations
        .as_ref()
        .and_then(|a| a.get(MAX_REPLICAS))
        .and_then(|n| n.parse::<f64>().ok());
    let before = noted.filter(|n| *n > 0.0).unwrap_or(f64::from(bounds.replicas));
    let after = f64::from(bounds.replicas + bounds.max_surge);
    let wanted = if bounds.replicas == 0 {
        -desired(set)
    } else {
        (size * after / before).round() as i32 - desired(set)
    };
    let left = to_add - added;
    if to_add > 0 { wanted.clamp(0, left.max(0)) } else { wanted.clamp(left.min(0), 0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_api::Kind;
    use serde_json::json;

    fn set(desired: i32, available: i32, noted: i32, second: u8) -> Arc<ReplicaSet> {
        let value = json!({
            "metadata": { "name": format!("s{second}"), "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z"),
                "annotations": { MAX_REPLICAS: noted.to_string() } },
            "spec": { "replicas": desired, "selector": {} },
            "status": { "replicas": desired, "availableReplicas": available },
        });
        Arc::new(ReplicaSet::from_value(&value).expect("a set"))
    }

    fn of(replicas: i32, surge: serde_json::Value, unavailable: serde_json::Value) -> Bounds {
        let value = json!({ "metadata": { "name": "d" }, "spec": { "replicas": replicas, "selector": {}, "template": {},
            "strategy": { "rollingUpdate": { "maxSurge": surge, "maxUnavailable": unavailable } } } });
        bounds(&Deployment::from_value(&value).expect("a deployment"))
    }

    #[test]
    fn percentages_round_in_favour_of_progress() {
        assert_eq!(
            of(5, json!("25%"), json!("25%")),
            Bounds { replicas: 5, max_surge: 2, max_unavailable: 1 }
        );
        assert_eq!(
            of(1, json!("0%"), json!("25%")),
            Bounds { replicas: 1, max_surge: 0, max_unavailable: 1 }
        );
        assert_eq!(of(3, json!(1), json!(0)), Bounds { replicas: 3, max_surge: 1, max_unavailable: 0 });
    }

    #[test]
    fn a_rollout_never_leaves_its_bounds() {
        let bounds = Bounds { replicas: 10, max_surge: 3, max_unavailable: 2 };
        for (new, old, grown, shrunk) in [
            ((0, 0), vec![(10, 10)], 3, vec![(0, 8)]),
            ((3, 0), vec![(10, 10)], 3, vec![(0, 8)]),
            ((3, 3), vec![(8, 8)], 5, vec![(0, 5)]),
            ((5, 0), vec![(8, 4)], 5, vec![(0, 8)]),
            ((10, 10), vec![(2, 2)], 10, vec![(0, 0)]),
        ] {
            let old: Vec<_> = old.iter().enumerate().map(|(i, (d, a))| set(*d, *a, 10, i as u8)).collect();
            let new = set(new.0, new.1, 10, 50);
            assert_eq!(new_replicas(&bounds, &new, &old), grown);
            let shrunk: Vec<_> = shrunk.into_iter().filter(|(i, n)| desired(&old[*i]) != *n).collect();
            assert_eq!(old_replicas(&bounds, &new, &old), shrunk);
        }
    }

    #[test]
    fn scaling_in_the_middle_of_a_rollout_keeps_the_proportions() {
        let bounds = Bounds { replicas: 20, max_surge: 0, max_unavailable: 1 };
        let (old, new) = ([set(5, 5, 10, 1)], set(5, 5, 10, 2));
        let mut sizes = proportions(&bounds, Some(&new), &old);
        sizes.sort_unstable();
        assert_eq!(sizes, [(0, 10), (1, 10)]);
        assert_eq!(proportions(&bounds, Some(&set(5, 5, 5, 2)), &[]), [(0, 20)]);
    }
}
