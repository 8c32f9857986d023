//! Sums over the ReplicaSets of a deployment.

use knarr_api::apps::v1::ReplicaSet;
use std::sync::Arc;

/// What the ReplicaSets have together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Pods that exist.
    pub replicas: i32,
    /// Pods of the new template.
    pub updated: i32,
    /// Ready pods.
    pub ready: i32,
    /// Available pods.
    pub available: i32,
    /// Pods on their way out, if the ReplicaSets tell.
    pub terminating: Option<i32>,
    /// Pods that are wanted by the ReplicaSets.
    pub wanted: i32,
}

impl Sizes {
    /// Adds up.
    pub fn of(all: &[Arc<ReplicaSet>], new: Option<&ReplicaSet>) -> Self {
        let mut sizes = Self::default();
        for set in all {
            let Some(status) = &set.status else { continue };
            sizes.replicas += status.replicas;
            if let Some(terminating) = status.terminating_replicas {
                *sizes.terminating.get_or_insert_default() += terminating;
            }
            sizes.ready += status.ready_replicas.unwrap_or_default();
            sizes.available += status.available_replicas.unwrap_or_default();
        }
        sizes.wanted = all.iter().map(|s| super::desired(s)).sum();
        sizes.updated = new.and_then(|n| n.status.as_ref()).map(|s| s.replicas).unwrap_or_default();
        sizes
    }
}
