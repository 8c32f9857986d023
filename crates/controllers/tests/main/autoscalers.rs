//! HorizontalPodAutoscalers where nobody serves metrics: what needs none is done, the rest is told.

use crate::Running;
use knarr_api::Kind;
use knarr_api::apps::v1::Deployment;
use knarr_api::autoscaling::v2::HorizontalPodAutoscaler;
use serde_json::{Value, json};

fn condition(autoscaler: &HorizontalPodAutoscaler, kind: &str) -> Value {
    let status = autoscaler.to_value()["status"].clone();
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    conditions.into_iter().find(|c| c["type"] == kind).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_metrics_bounds_hold_and_the_condition_says_why() {
    let running = Running::start().await;
    let deployment = json!({ "metadata": { "name": "web", "namespace": "default" }, "spec": { "replicas": 1,
        "selector": { "matchLabels": { "app": "web" } }, "template": { "metadata": { "labels": { "app": "web" } },
            "spec": { "containers": [{ "name": "c", "image": "i" }] } } } });
    running.create::<Deployment>(deployment).await;
    let autoscaler = |name: &str, target: &str| {
        json!({ "metadata": { "name": name, "namespace": "default" }, "spec": { "minReplicas": 2, "maxReplicas": 4,
            "scaleTargetRef": { "apiVersion": "apps/v1", "kind": target, "name": "web" },
            "metrics": [{ "type": "Resource", "resource": { "name": "cpu",
                "target": { "type": "Utilization", "averageUtilization": 50 } } }] } })
    };
    running.create::<HorizontalPodAutoscaler>(autoscaler("lost", "Nothing")).await;
    let lost = running
        .until::<HorizontalPodAutoscaler>("lost", "unable", |a| {
            condition(a, "AbleToScale")["status"] == "False"
        })
        .await;
    assert_eq!(condition(&lost, "AbleToScale")["reason"], "FailedGetScale");
    let message = "the HPA controller was unable to get the target's current scale: no matches for kind \"Nothing\" in group \"apps\"";
    assert_eq!(condition(&lost, "AbleToScale")["message"], message);

    running.create::<HorizontalPodAutoscaler>(autoscaler("web", "Deployment")).await;
    running
        .until::<Deployment>("web", "two replicas", |d| {
            d.spec.as_ref().is_some_and(|s| s.replicas == Some(2))
        })
        .await;
    let scaled = running
        .until::<HorizontalPodAutoscaler>("web", "scaled", |a| {
            condition(a, "AbleToScale")["reason"] == "SucceededRescale"
        })
        .await;
    let status = scaled.to_value()["status"].clone();
    assert_eq!((&status["currentReplicas"], &status["desiredReplicas"]), (&json!(1), &json!(2)));
    assert!(status["lastScaleTime"].is_string());
    // Asked again at once, as its spec changes: now the metrics are needed.
    let more = knarr_client::Patch::Merge(json!({ "spec": { "maxReplicas": 5 } }));
    running.client.patch::<HorizontalPodAutoscaler>("default", "web", "", &more).await.expect("it changes");
    let failed = running
        .until::<HorizontalPodAutoscaler>("web", "not active", |a| {
            condition(a, "ScalingActive")["status"] == "False"
        })
        .await;
    let active = condition(&failed, "ScalingActive");
    assert_eq!(active["reason"], "FailedGetResourceMetric");
    let message = "the HPA was unable to compute the replica count: failed to get cpu utilization: unable to get metrics for resource cpu: no metrics returned from resource metrics API";
    assert!(active["message"].as_str().is_some_and(|text| text.starts_with(message)), "{active}");
    running.cluster.stop().await;
}
