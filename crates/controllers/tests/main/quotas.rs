//! ResourceQuotas from their creation to what deletions give back.

use crate::{LIMIT, Running};
use knarr_api::Kind;
use knarr_api::core::v1::{ConfigMap, Pod, ResourceQuota, Service};
use knarr_client::{DeleteOptions, Informers, Patch};
use knarr_testkit::wait_for;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

impl Running {
    /// Waits until a quota's status shows this use.
    async fn used(&self, name: &str, used: Value) {
        self.until::<ResourceQuota>(name, &format!("used {used}"), |quota| {
            let status = quota.to_value()["status"].clone();
            used.as_object().expect("amounts").iter().all(|(name, amount)| status["used"][name] == *amount)
        })
        .await;
    }
}

fn pod(name: &str, cpu: &str) -> Value {
    json!({ "metadata": { "name": name, "namespace": "default" }, "spec": { "containers": [
        { "name": "c", "image": "i", "resources": { "requests": { "cpu": cpu, "example.com/dongle": "1" },
            "limits": { "example.com/dongle": "1" } } }] } })
}

#[tokio::test(flavor = "multi_thread")]
async fn quotas_follow_what_comes_and_goes() {
    let running = Running::start().await;
    let hard = json!({ "pods": "3", "cpu": "2", "count/pods": "9", "configmaps": "4", "services.nodeports": "1",
        "resourcequotas": "5", "requests.example.com/dongle": "3", "count/deployments.apps": "1",
        "count/gadgets.example.com": "1" });
    let quota = json!({ "metadata": { "name": "all", "namespace": "default" }, "spec": { "hard": hard } });
    running.create::<ResourceQuota>(quota).await;
    // Every namespace has the certificate of the cluster's CA.
    let nothing = json!({ "pods": "0", "cpu": "0", "count/pods": "0", "configmaps": "1",
        "services.nodeports": "0", "resourcequotas": "1", "requests.example.com/dongle": "0",
        "count/deployments.apps": "0" });
    running.used("all", nothing.clone()).await;
    let status = running.until::<ResourceQuota>("all", "counted", |q| q.status.is_some()).await.to_value();
    assert_eq!(status["status"]["hard"], hard);
    assert_eq!(status["status"]["used"]["count/gadgets.example.com"], Value::Null, "nobody can count these");

    let first = running.create::<Pod>(pod("first", "500m")).await;
    running.create::<Pod>(pod("second", "1")).await;
    let service = json!({ "metadata": { "name": "s", "namespace": "default" },
        "spec": { "type": "NodePort", "ports": [{ "port": 80 }] } });
    running.create::<Service>(service).await;
    running
        .used("all", json!({ "pods": "2", "cpu": "1500m", "services.nodeports": "1", "requests.example.com/dongle": "2" }))
        .await;
    let refused = running.try_create::<Pod>(pod("third", "1")).await.expect_err("it is too much");
    assert_eq!(
        refused.to_string(),
        "pods \"third\" is forbidden: exceeded quota: all, requested: cpu=1, used: cpu=1500m, limited: cpu=2"
    );
    // A pod that has ended gives everything back but its place.
    running.set_phase(&first, "Succeeded").await;
    running.used("all", json!({ "pods": "1", "cpu": "1", "count/pods": "2" })).await;
    let node_port = json!({ "spec": { "type": "ClusterIP", "ports": [{ "port": 80, "nodePort": null }] } });
    running
        .client
        .patch::<Service>("default", "s", "", &Patch::Strategic(node_port))
        .await
        .expect("it changes");
    running.used("all", json!({ "services.nodeports": "0" })).await;
    let now = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
    running.client.delete::<Pod>("default", "first", &now).await.expect("it goes");
    running.client.delete::<Pod>("default", "second", &now).await.expect("it goes");
    running.used("all", nothing).await;

    // New limits are taken over.
    let less = json!({ "spec": { "hard": { "configmaps": "1", "pods": null } } });
    running
        .client
        .patch::<ResourceQuota>("default", "all", "", &Patch::Merge(less))
        .await
        .expect("it changes");
    let changed = running
        .until::<ResourceQuota>("all", "new limits", |q| q.to_value()["status"]["hard"]["configmaps"] == "1")
        .await
        .to_value();
    assert_eq!(changed["status"]["used"]["pods"], Value::Null);
    let map = json!({ "metadata": { "name": "m", "namespace": "default" } });
    running.try_create::<ConfigMap>(map).await.expect_err("there is one already");
    running.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_charged_for_nothing_comes_back() {
    let running = Running::start().await;
    let quota = json!({ "metadata": { "name": "q", "namespace": "default" },
        "spec": { "hard": { "count/configmaps": "5" } } });
    running.create::<ResourceQuota>(quota).await;
    running.used("q", json!({ "count/configmaps": "1" })).await;
    // Everything that the quota says, so that it does not matter for how long.
    let said = Arc::<Mutex<Vec<Value>>>::default();
    let quotas = Informers::new(running.client.clone()).get::<ResourceQuota>();
    quotas.synced().await;
    let saying = said.clone();
    quotas.on_change(move |change| {
        let used = change.object().to_value()["status"]["used"]["count/configmaps"].clone();
        saying.lock().expect("the lock is never poisoned").push(used);
    });
    let map = json!({ "metadata": { "name": "m", "namespace": "default" } });
    running.create::<ConfigMap>(map.clone()).await;
    running.try_create::<ConfigMap>(map).await.expect_err("it is there already");
    wait_for("the failed create to be charged", LIMIT, || async {
        let said = said.lock().expect("the lock is never poisoned").clone();
        if said.iter().any(|used| used == "3") { Ok(()) } else { Err(format!("{said:?}")) }
    })
    .await;
    wait_for("the failed create to be given back", LIMIT, || async {
        let quota = running.client.get::<ResourceQuota>("default", "q").await.map_err(|e| e.to_string())?;
        let used = quota.to_value()["status"]["used"]["count/configmaps"].clone();
        if used == "2" { Ok(()) } else { Err(used.to_string()) }
    })
    .await;
    running.cluster.stop().await;
}
