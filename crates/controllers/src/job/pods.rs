//! A Job's pods: how they are made, and what their marks say.

use crate::framework::pod_control::controller_ref;
use crate::framework::pod_control::pod_from;
use crate::framework::pods::phase;
use knarr_api::Kind;
use knarr_api::batch::v1::{Job, JobSpec};
use knarr_api::core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use knarr_api::meta::v1::ObjectMeta;

/// Finalizer of pods that their Job has not counted yet.
pub const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// Annotation and label with the index of a pod of an Indexed Job.
pub const COMPLETION_INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// Annotation with how often the index failed before this pod.
const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// Annotation with how often it failed without that being counted.
const IGNORED_FAILURES: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
/// Variable with the index.
const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";
/// Room for the name before the generated part.
const LONGEST_BASE: usize = 63 - 5;

/// How often an index failed before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexFailures {
    /// Counted.
    pub counted: i32,
    /// Ignored by the pod failure policy.
    pub ignored: i32,
}

impl IndexFailures {
    /// What a pod notes.
    pub fn of(pod: &Pod) -> Self {
        let number = |key| annotation(&pod.metadata, key).and_then(|v| v.parse().ok()).filter(|n| *n >= 0);
        Self {
            counted: number(FAILURES).unwrap_or_default(),
            ignored: number(IGNORED_FAILURES).unwrap_or_default(),
        }
    }

    /// Both.
    pub fn total(self) -> i32 {
        self.counted.saturating_add(self.ignored)
    }
}

fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a String> {
    meta.annotations.as_ref()?.get(key)
}

/// The index of a pod of an Indexed Job.
pub fn index_of(pod: &Pod) -> Option<i32> {
    annotation(&pod.metadata, COMPLETION_INDEX)?.parse().ok().filter(|i| *i >= 0)
}

/// Whether the pod is yet to be counted.
pub fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER)
}

/// Whether the Job's pods are of the Indexed kind.
pub fn is_indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

/// Whether a pod is replaced only once it has ended, rather than as soon as it is being deleted (KEP-3939).
pub fn replaces_only_failed(spec: &JobSpec) -> bool {
    spec.pod_replacement_policy.as_deref() == Some("Failed") || spec.pod_failure_policy.is_some()
}

/// Whether the pod counts as failed.
pub fn is_failed(pod: &Pod, spec: &JobSpec) -> bool {
    phase(pod) == "Failed"
        || (!replaces_only_failed(spec)
            && pod.metadata.deletion_timestamp.is_some()
            && phase(pod) != "Succeeded")
}

/// A pod for the Job; for an Indexed one with its index, and with how often that failed if each index has its own
/// limit.
pub fn make(job: &Job, index: Option<i32>, failures: Option<IndexFailures>) -> Pod {
    let spec = job.spec.clone().unwrap_or_default();
    let mut pod = pod_from(&spec.template, job.namespace(), controller_ref(job));
    let finalizers = pod.metadata.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|f| f == FINALIZER) {
        finalizers.push(FINALIZER.to_owned());
    }
    let Some(index) = index else { return pod };
    let meta = &mut pod.metadata;
    meta.generate_name = Some(base_name(job.name(), index));
    meta.labels.get_or_insert_default().insert(COMPLETION_INDEX.to_owned(), index.to_string());
    let annotations = meta.annotations.get_or_insert_default();
    annotations.insert(COMPLETION_INDEX.to_owned(), index.to_string());
    if let Some(failures) = failures {
        annotations.insert(FAILURES.to_owned(), failures.counted.to_string());
        if failures.ignored > 0 {
            annotations.insert(IGNORED_FAILURES.to_owned(), failures.ignored.to_string());
        }
    }
    if let Some(spec) = &mut pod.spec {
        spec.hostname = Some(format!("{}-{index}", job.name()));
        spec.init_containers.iter_mut().flatten().chain(&mut spec.containers).for_each(add_index_variable);
    }
    pod
}

fn base_name(job: &str, index: i32) -> String {
    let suffix = format!("-{index}-");
    let room = LONGEST_BASE.saturating_sub(suffix.len());
    format!("{}{suffix}", job.get(..room).unwrap_or(job))
}

fn add_index_variable(container: &mut Container) {
    let env = container.env.get_or_insert_default();
    if env.iter().any(|v| v.name == INDEX_VARIABLE) {
        return;
    }
    env.push(EnvVar {
        name: INDEX_VARIABLE.to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                field_path: format!("metadata.labels['{COMPLETION_INDEX}']"),
                ..ObjectFieldSelector::default()
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pods_of_an_indexed_job_carry_their_index() {
        let job = Job::from_value(&json!({
            "metadata": { "name": "j", "namespace": "n", "uid": "u" },
            "spec": { "completionMode": "Indexed", "template": { "metadata": { "labels": { "a": "b" } },
                "spec": { "containers": [{ "name": "c" }] } } },
        }))
        .expect("a job");
        let pod = make(&job, Some(3), Some(IndexFailures { counted: 2, ignored: 0 }));
        assert_eq!(pod.metadata.generate_name.as_deref(), Some("j-3-"));
        assert_eq!((index_of(&pod), IndexFailures::of(&pod).total()), (Some(3), 2));
        assert!(is_tracked(&pod));
        let spec = pod.spec.expect("it has a spec");
        assert_eq!(spec.hostname.as_deref(), Some("j-3"));
        assert_eq!(spec.containers[0].env.as_ref().map(|e| e[0].name.as_str()), Some(INDEX_VARIABLE));
        let plain = make(&job, None, None);
        assert_eq!(plain.metadata.generate_name.as_deref(), Some("j-"));
        assert_eq!(base_name(&"x".repeat(63), 10), format!("{}-10-", "x".repeat(54)));
    }
}
