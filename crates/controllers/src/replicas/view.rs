//! What the controller needs of a ReplicaSet or a ReplicationController.

use super::status::Counts;
use crate::framework::time::api_time;
use knarr_api::Kind;
use knarr_api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use knarr_api::core::v1::{
    PodTemplateSpec, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};
use knarr_api::meta::v1::LabelSelector;
use std::time::SystemTime;

/// A set of pods of one template.
pub trait Replicated: Kind {
    /// How many are wanted.
    fn replicas(&self) -> i32;
    /// Which pods belong to it.
    fn selector(&self) -> LabelSelector;
    /// What they are made from.
    fn template(&self) -> PodTemplateSpec;
    /// How long a pod must be ready to count as available.
    fn min_ready_seconds(&self) -> i32;
    /// The set with a status of these numbers, and a ReplicaFailure condition if something failed; `None` if it
    /// has that status already.
    fn with_status(&self, counts: &Counts, failure: Option<(&str, String)>, now: SystemTime) -> Option<Self>;
}

macro_rules! replicated {
    ($kind:ty, $status:ident, $condition:ident, $selector:expr, $template:expr, $more:expr) => {
        impl Replicated for $kind {
            fn replicas(&self) -> i32 {
                self.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
            }
            fn selector(&self) -> LabelSelector {
                self.spec.as_ref().map($selector).unwrap_or_default()
            }
            fn template(&self) -> PodTemplateSpec {
                self.spec.as_ref().map($template).unwrap_or_default()
            }
            fn min_ready_seconds(&self) -> i32 {
                self.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or_default()
            }
            fn with_status(
                &self,
                counts: &Counts,
                failure: Option<(&str, String)>,
                now: SystemTime,
            ) -> Option<Self> {
                let old = self.status.clone().unwrap_or_default();
                let mut conditions = old.conditions.clone().unwrap_or_default();
                let had = conditions.iter().any(|c| c.type_ == "ReplicaFailure");
                if had != failure.is_some() {
                    conditions.retain(|c| c.type_ != "ReplicaFailure");
                    conditions.extend(failure.map(|(reason, message)| $condition {
                        type_: "ReplicaFailure".to_owned(),
                        status: "True".to_owned(),
                        last_transition_time: api_time(now),
                        reason: Some(reason.to_owned()),
                        message: Some(message),
                    }));
                }
                let some = |n: i32| (n != 0).then_some(n);
                let mut new = old.clone();
                new.replicas = counts.replicas;
                new.fully_labeled_replicas = some(counts.fully_labeled);
                new.ready_replicas = some(counts.ready);
                new.available_replicas = some(counts.available);
                new.observed_generation = self.metadata.generation;
                new.conditions = (!conditions.is_empty()).then_some(conditions);
                let more: fn(&mut $status, &Counts) = $more;
                more(&mut new, counts);
                (new != old || self.status.is_none()).then(|| Self { status: Some(new), ..self.clone() })
            }
        }
    };
}

replicated!(
    ReplicaSet,
    ReplicaSetStatus,
    ReplicaSetCondition,
    |s| s.selector.clone(),
    |s| s.template.clone().unwrap_or_default(),
    |status, counts| status.terminating_replicas = Some(counts.terminating)
);
replicated!(
    ReplicationController,
    ReplicationControllerStatus,
    ReplicationControllerCondition,
    |s| LabelSelector { match_labels: s.selector.clone(), ..LabelSelector::default() },
    |s| s.template.clone().unwrap_or_default(),
    |_, _| {}
);
