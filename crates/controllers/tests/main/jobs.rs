//! Jobs from start to end.

use crate::Running;
use knarr_api::Kind;
use knarr_api::batch::v1::Job;
use serde_json::{Value, json};

fn job(name: &str, spec: Value) -> Value {
    let mut job = json!({
        "metadata": { "name": name, "namespace": "default" },
        "spec": { "template": { "spec": { "restartPolicy": "Never", "containers": [{ "name": "c", "image": "i" }] } } },
    });
    job["spec"].as_object_mut().expect("an object").extend(spec.as_object().expect("an object").clone());
    job
}

/// The types of the conditions that hold.
fn conditions(job: &Job) -> Vec<String> {
    let all = job.status.iter().flat_map(|s| s.conditions.iter().flatten());
    all.filter(|c| c.status == "True").map(|c| c.type_.clone()).collect()
}

fn numbers(job: &Job) -> [i32; 4] {
    let status = job.status.clone().unwrap_or_default();
    [status.active, status.succeeded, status.failed, status.ready].map(Option::unwrap_or_default)
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_run_their_pods_to_the_end() {
    let running = Running::start().await;

    // Two at a time, three in all.
    running.create::<Job>(job("three", json!({ "parallelism": 2, "completions": 3 }))).await;
    let selector = "batch.kubernetes.io/job-name=three";
    for pod in running.active_pods(selector, 2).await {
        assert!(pod.metadata.finalizers.iter().flatten().any(|f| f == "batch.kubernetes.io/job-tracking"));
        running.set_phase(&pod, "Succeeded").await;
    }
    let last = running.active_pods(selector, 1).await;
    running.set_phase(&last[0], "Running").await;
    running.until::<Job>("three", "one is ready", |j| numbers(j) == [1, 2, 0, 1]).await;
    running.set_phase(&last[0], "Succeeded").await;
    let done =
        running.until::<Job>("three", "complete", |j| conditions(j).contains(&"Complete".into())).await;
    assert_eq!(conditions(&done), ["SuccessCriteriaMet", "Complete"]);
    assert_eq!(numbers(&done), [0, 3, 0, 0]);
    let status = done.status.expect("a status");
    assert!(status.start_time.is_some() && status.completion_time.is_some());
    assert_eq!(status.uncounted_terminated_pods, Some(Default::default()));
    let pods = running.pods(selector).await;
    assert_eq!(pods.len(), 3);
    assert!(pods.iter().all(|p| p.metadata.finalizers.is_none()), "a pod that is counted can be deleted");

    // Each index once, and no more once the policy is met.
    let spec = json!({ "completionMode": "Indexed", "completions": 3, "parallelism": 3,
        "successPolicy": { "rules": [{ "succeededIndexes": "1" }] } });
    running.create::<Job>(job("indexed", spec)).await;
    let pods = running.active_pods("batch.kubernetes.io/job-name=indexed", 3).await;
    let index = |p: &knarr_api::core::v1::Pod| {
        p.metadata.labels.as_ref().and_then(|l| l.get("batch.kubernetes.io/job-completion-index").cloned())
    };
    let mut indexes: Vec<_> = pods.iter().filter_map(index).collect();
    indexes.sort();
    assert_eq!(indexes, ["0", "1", "2"]);
    let leader = pods.iter().find(|p| index(p).as_deref() == Some("1")).expect("index 1");
    assert!(leader.name().starts_with("indexed-1-"));
    running.set_phase(leader, "Succeeded").await;
    let done =
        running.until::<Job>("indexed", "complete", |j| conditions(j).contains(&"Complete".into())).await;
    assert_eq!(done.status.and_then(|s| s.completed_indexes).as_deref(), Some("1"));

    // A failure too many.
    running
        .create::<Job>(job("failing", json!({ "backoffLimit": 0, "parallelism": 2, "completions": 2 })))
        .await;
    let pods = running.active_pods("batch.kubernetes.io/job-name=failing", 2).await;
    running.set_phase(&pods[0], "Failed").await;
    let done = running.until::<Job>("failing", "failed", |j| conditions(j).contains(&"Failed".into())).await;
    assert_eq!(conditions(&done), ["FailureTarget", "Failed"]);
    let reasons: Vec<_> = done
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten())
        .filter_map(|c| c.reason.clone())
        .collect();
    assert_eq!(reasons, ["BackoffLimitExceeded", "BackoffLimitExceeded"]);
    assert_eq!(numbers(&done), [0, 0, 2, 0]);

    // Suspended, its pods go; resumed, they come back, and none has failed.
    running.create::<Job>(job("paused", json!({}))).await;
    running.active_pods("batch.kubernetes.io/job-name=paused", 1).await;
    let suspend = |suspend: bool| knarr_client::Patch::Merge(json!({ "spec": { "suspend": suspend } }));
    running.client.patch::<Job>("default", "paused", "", &suspend(true)).await.expect("it can be suspended");
    running.active_pods("batch.kubernetes.io/job-name=paused", 0).await;
    running.until::<Job>("paused", "suspended", |j| conditions(j) == ["Suspended"]).await;
    running.client.patch::<Job>("default", "paused", "", &suspend(false)).await.expect("it can be resumed");
    let pods = running.active_pods("batch.kubernetes.io/job-name=paused", 1).await;
    running.set_phase(&pods[0], "Succeeded").await;
    let done =
        running.until::<Job>("paused", "complete", |j| conditions(j).contains(&"Complete".into())).await;
    assert_eq!(numbers(&done), [0, 1, 0, 0]);
    running.cluster.stop().await;
}
