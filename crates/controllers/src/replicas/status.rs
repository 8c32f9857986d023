//! What a set's status says about its pods.

use super::view::Replicated;
use crate::framework::pods;
use knarr_api::core::v1::Pod;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// The numbers of a status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Active pods.
    pub replicas: i32,
    /// Those that carry all labels of the template.
    pub fully_labeled: i32,
    /// Those that are ready.
    pub ready: i32,
    /// Those that have been ready for minReadySeconds.
    pub available: i32,
    /// Pods on their way out.
    pub terminating: i32,
    /// When a ready pod will become available.
    pub check_again: Option<Duration>,
}

/// Counts the active pods of a set.
pub fn count<K: Replicated>(set: &K, active: &[Arc<Pod>], now: SystemTime) -> Counts {
    let template = set.template();
    let labels = template.metadata.and_then(|m| m.labels).unwrap_or_default();
    let min_ready = Duration::from_secs(u64::try_from(set.min_ready_seconds()).unwrap_or_default());
    let mut counts = Counts { replicas: active.len() as i32, ..Counts::default() };
    for pod in active {
        let own = pod.metadata.labels.as_ref();
        counts.fully_labeled +=
            i32::from(labels.iter().all(|(k, v)| own.is_some_and(|l| l.get(k) == Some(v))));
        counts.ready += i32::from(pods::is_ready(pod));
        match pods::availability(pod, min_ready, now) {
            Ok(()) => counts.available += 1,
            Err(Some(wait)) => counts.check_again = Some(counts.check_again.map_or(wait, |w| w.min(wait))),
            Err(None) => {}
        }
    }
    counts
}
