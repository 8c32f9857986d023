//! StatefulSets, DaemonSets and the budgets of their pods.

use crate::{LIMIT, Running};
use knarr_api::Kind;
use knarr_api::apps::v1::{ControllerRevision, DaemonSet, StatefulSet};
use knarr_api::core::v1::{Node, Pod};
use knarr_api::policy::v1::PodDisruptionBudget;
use knarr_client::{ListOptions, Patch};
use serde_json::json;

fn image(pod: &Pod) -> String {
    let spec = pod.spec.as_ref().expect("a spec");
    format!("{}={}", pod.name(), spec.containers[0].image.as_deref().unwrap_or_default())
}

impl Running {
    /// Waits for the images of the pods of an app, while every pod that is made starts to run.
    async fn images(&self, app: &str, wanted: &[&str]) {
        knarr_testkit::wait_for(&format!("pods {wanted:?}"), LIMIT, || async {
            let pods = self.pods(&format!("app={app}")).await;
            for pod in pods.iter().filter(|p| crate::is_active(p)) {
                if pod.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Running") {
                    self.set_phase(pod, "Running").await;
                }
            }
            let images: Vec<String> = pods.iter().map(image).collect();
            if images == wanted { Ok(()) } else { Err(format!("{images:?}")) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stateful_set_keeps_names_and_order() {
    let running = Running::start().await;
    running
        .create::<StatefulSet>(json!({ "metadata": { "name": "db", "namespace": "default" }, "spec": {
            "serviceName": "db", "replicas": 3, "selector": { "matchLabels": { "app": "db" } }, "template": {
                "metadata": { "labels": { "app": "db" } }, "spec": { "containers": [{ "name": "c", "image": "one" }] } } } }))
        .await;
    let first = running.active_pods("app=db", 1).await;
    let spec = first[0].spec.as_ref().expect("a spec");
    assert_eq!(
        (first[0].name(), spec.hostname.as_deref(), spec.subdomain.as_deref()),
        ("db-0", Some("db-0"), Some("db"))
    );
    running.images("db", &["db-0=one", "db-1=one", "db-2=one"]).await;
    let patch = async |patch| {
        running.client.patch::<StatefulSet>("default", "db", "", &Patch::Merge(patch)).await.expect("patched")
    };
    let budget = json!({ "metadata": { "name": "db", "namespace": "default" },
        "spec": { "maxUnavailable": 1, "selector": { "matchLabels": { "app": "db" } } } });
    running.create::<PodDisruptionBudget>(budget).await;
    running
        .until::<PodDisruptionBudget>("db", "one may be missing", |b| {
            b.status.as_ref().is_some_and(|s| {
                (s.expected_pods, s.desired_healthy, s.disruptions_allowed) == (Some(3), Some(2), Some(1))
            })
        })
        .await;
    // Only the last is updated, then all, then it is undone.
    let template = |image: &str| json!({ "spec": { "containers": [{ "name": "c", "image": image }] } });
    let partition = |n: i32| json!({ "type": "RollingUpdate", "rollingUpdate": { "partition": n } });
    patch(json!({ "spec": { "template": template("two"), "updateStrategy": partition(2) } })).await;
    running.images("db", &["db-0=one", "db-1=one", "db-2=two"]).await;
    patch(json!({ "spec": { "updateStrategy": partition(0) } })).await;
    running.images("db", &["db-0=two", "db-1=two", "db-2=two"]).await;
    running
        .until::<StatefulSet>("db", "complete", |s| {
            s.status
                .as_ref()
                .is_some_and(|s| s.current_revision == s.update_revision && s.ready_replicas == Some(3))
        })
        .await;
    patch(json!({ "spec": { "template": template("one"), "replicas": 2 } })).await;
    running.images("db", &["db-0=one", "db-1=one"]).await;
    knarr_testkit::wait_for("the first template's revision to be the newest", LIMIT, || async {
        let revisions = running.client.list::<ControllerRevision>("default", &ListOptions::default()).await;
        let mut numbers: Vec<i64> =
            revisions.map_err(|e| e.to_string())?.items.iter().map(|r| r.revision).collect();
        numbers.sort_unstable();
        if numbers == [2, 3] { Ok(()) } else { Err(format!("{numbers:?}")) }
    })
    .await;
    running.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_set_has_a_pod_on_each_node_that_fits() {
    let running = Running::start().await;
    let node = async |name: &str, disk: &str| {
        running.create::<Node>(json!({ "metadata": { "name": name, "labels": { "disk": disk } } })).await;
        let status = json!({ "status": { "conditions": [{ "type": "Ready", "status": "True" }] } });
        running.client.patch::<Node>("", name, "status", &Patch::Merge(status)).await.expect("ready");
    };
    node("alpha", "ssd").await;
    node("beta", "hdd").await;
    running
        .create::<DaemonSet>(json!({ "metadata": { "name": "agent", "namespace": "default" }, "spec": {
            "selector": { "matchLabels": { "app": "agent" } }, "template": {
                "metadata": { "labels": { "app": "agent" } },
                "spec": { "nodeSelector": { "disk": "ssd" }, "containers": [{ "name": "c", "image": "one" }] } } } }))
        .await;
    running.active_pods("app=agent", 1).await;
    node("gamma", "ssd").await;
    let images = async |wanted: &str| {
        knarr_testkit::wait_for(&format!("two pods of {wanted}"), LIMIT, || async {
            let pods = running.pods("app=agent").await;
            for pod in pods.iter().filter(|p| crate::is_active(p)) {
                if pod.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Running") {
                    running.set_phase(pod, "Running").await;
                }
            }
            let images: Vec<String> =
                pods.iter().map(|p| image(p).rsplit('=').next().unwrap_or_default().to_owned()).collect();
            if images == [wanted, wanted] { Ok(()) } else { Err(format!("{images:?}")) }
        })
        .await;
    };
    images("one").await;
    let patch = Patch::Merge(
        json!({ "spec": { "template": { "spec": { "containers": [{ "name": "c", "image": "two" }] } } } }),
    );
    running.client.patch::<DaemonSet>("default", "agent", "", &patch).await.expect("patched");
    images("two").await;
    running
        .until::<DaemonSet>("agent", "rolled out", |d| {
            d.status.as_ref().is_some_and(|s| {
                (s.desired_number_scheduled, s.updated_number_scheduled, s.number_available)
                    == (2, Some(2), Some(2))
            })
        })
        .await;
    running.cluster.stop().await;
}
