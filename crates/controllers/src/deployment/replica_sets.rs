//! The ReplicaSets of a deployment: finding the one of the current template, making it, and their revisions.

use super::hash::template_hash;
use super::{DESIRED_REPLICAS, MAX_REPLICAS, REVISION, REVISION_HISTORY, TEMPLATE_HASH, rolling};
use crate::framework::pod_control::controller_ref;
use knarr_api::Kind;
use knarr_api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use knarr_api::core::v1::PodTemplateSpec;
use knarr_api::meta::v1::ObjectMeta;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Annotations of a deployment that its ReplicaSets do not inherit.
const NOT_INHERITED: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
];

/// How many pods the set wants.
pub fn desired(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

/// The set's revision, 0 without one.
pub fn revision(set: &ReplicaSet) -> i64 {
    let noted = set.metadata.annotations.as_ref().and_then(|a| a.get(REVISION));
    noted.and_then(|r| r.parse().ok()).unwrap_or_default()
}

/// Whether nothing runs or is wanted of the set.
pub fn is_unused(set: &ReplicaSet) -> bool {
    let status = set.status.clone().unwrap_or_default();
    status.replicas == 0
        && desired(set) == 0
        && set.metadata.generation <= status.observed_generation.or(Some(0))
        && set.metadata.deletion_timestamp.is_none()
}

/// Whether the set was made from the deployment's template.
pub fn same_template(set: &ReplicaSet, deployment: &Deployment) -> bool {
    let plain = |template: Option<PodTemplateSpec>| {
        let mut template = template.unwrap_or_default();
        if let Some(labels) = template.metadata.as_mut().and_then(|m| m.labels.as_mut()) {
            labels.remove(TEMPLATE_HASH);
            if labels.is_empty() {
                template.metadata.get_or_insert_default().labels = None;
            }
        }
        template
    };
    plain(set.spec.as_ref().and_then(|s| s.template.clone()))
        == plain(deployment.spec.as_ref().map(|s| s.template.clone()))
}

/// The set of the deployment's template, the oldest if there are several.
pub fn find_new(deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> Option<Arc<ReplicaSet>> {
    let matching = sets.iter().filter(|s| same_template(s, deployment));
    matching
        .min_by_key(|s| (s.metadata.creation_timestamp.as_ref().map(|t| t.0), s.name().to_owned()))
        .cloned()
}

/// The new set with the deployment's annotations and, if it is not the newest, the next revision.
pub fn refreshed(deployment: &Deployment, set: &ReplicaSet, next: i64) -> ReplicaSet {
    let mut set = set.clone();
    let current = revision(&set);
    let notes = set.metadata.annotations.get_or_insert_default();
    inherit(deployment, notes);
    if current < next {
        if let Some(was) = notes.get(REVISION).cloned() {
            let history = notes.get(REVISION_HISTORY).filter(|h| !h.is_empty());
            let history = history.map_or_else(|| was.clone(), |h| format!("{h},{was}"));
            notes.insert(REVISION_HISTORY.to_owned(), history);
        }
        notes.insert(REVISION.to_owned(), next.to_string());
    }
    if let Some(spec) = &mut set.spec {
        spec.min_ready_seconds = deployment.spec.as_ref().and_then(|s| s.min_ready_seconds);
    }
    set
}

fn inherit(deployment: &Deployment, notes: &mut BTreeMap<String, String>) {
    for (key, value) in deployment.metadata.annotations.iter().flatten() {
        if !NOT_INHERITED.contains(&key.as_str()) {
            notes.insert(key.clone(), value.clone());
        }
    }
}

/// A set for the deployment's template; its size is the caller's to say.
pub fn make(deployment: &Deployment, revision: i64) -> ReplicaSet {
    let spec = deployment.spec.clone().unwrap_or_default();
    let collisions = deployment.status.as_ref().and_then(|s| s.collision_count);
    let hash = template_hash(&spec.template, collisions);
    let mut template = spec.template.clone();
    template
        .metadata
        .get_or_insert_default()
        .labels
        .get_or_insert_default()
        .insert(TEMPLATE_HASH.to_owned(), hash.clone());
    let mut selector = spec.selector.clone();
    selector.match_labels.get_or_insert_default().insert(TEMPLATE_HASH.to_owned(), hash.clone());
    let bounds = rolling::bounds(deployment);
    let mut notes = BTreeMap::from([
        (REVISION.to_owned(), revision.to_string()),
        (DESIRED_REPLICAS.to_owned(), bounds.replicas.to_string()),
        (MAX_REPLICAS.to_owned(), (bounds.replicas + bounds.max_surge).to_string()),
    ]);
    inherit(deployment, &mut notes);
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", deployment.name())),
            namespace: deployment.metadata.namespace.clone(),
            labels: template.metadata.as_ref().and_then(|m| m.labels.clone()),
            annotations: Some(notes),
            owner_references: Some(vec![controller_ref(deployment)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(0),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    }
}
