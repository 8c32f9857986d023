//! Claims, volumes and classes that are in use stay.

use crate::{LIMIT, Running};
use knarr_api::Kind;
use knarr_api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use knarr_api::storage::v1::VolumeAttributesClass;
use knarr_client::DeleteOptions;
use knarr_testkit::wait_for;
use serde_json::json;

async fn gone<K: Kind>(running: &Running, namespace: &str, name: &str) {
    wait_for(&format!("{} {name} to go", K::KIND), LIMIT, || async {
        match running.client.get_opt::<K>(namespace, name).await {
            Ok(None) => Ok(()),
            Ok(Some(object)) => Err(format!("{object:?}")),
            Err(error) => Err(error.to_string()),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_use_stays() {
    let running = Running::start().await;
    let class =
        json!({ "metadata": { "name": "fast" }, "driverName": "example.com", "parameters": { "iops": "9" } });
    running.create::<VolumeAttributesClass>(class).await;
    let claim = json!({ "metadata": { "name": "data", "namespace": "default" }, "spec": {
        "accessModes": ["ReadWriteOnce"], "storageClassName": "", "volumeAttributesClassName": "fast",
        "resources": { "requests": { "storage": "1Gi" } } } });
    let made = running.create::<PersistentVolumeClaim>(claim).await;
    assert_eq!(made.metadata.finalizers, Some(vec!["kubernetes.io/pvc-protection".to_owned()]));
    let pod = json!({ "metadata": { "name": "web", "namespace": "default" }, "spec": { "nodeName": "alpha",
        "containers": [{ "name": "c", "image": "i" }],
        "volumes": [{ "name": "v", "persistentVolumeClaim": { "claimName": "data" } }] } });
    running.create::<Pod>(pod).await;
    let volume = json!({ "metadata": { "name": "disk" }, "spec": { "capacity": { "storage": "1Gi" },
        "accessModes": ["ReadWriteOnce"], "hostPath": { "path": "/tmp" } } });
    running.create::<PersistentVolume>(volume).await;
    let owner = json!({ "metadata": { "name": "owner", "namespace": "default" }, "spec": { "volumeName": "disk",
        "accessModes": ["ReadWriteOnce"], "storageClassName": "", "resources": { "requests": { "storage": "1Gi" } } } });
    running.create::<PersistentVolumeClaim>(owner).await;
    running
        .until("owner", "it is bound", |claim: &PersistentVolumeClaim| {
            claim.status.as_ref().is_some_and(|s| s.phase.as_deref() == Some("Bound"))
        })
        .await;

    let now = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
    running.client.delete::<PersistentVolumeClaim>("default", "data", &now).await.expect("it is to go");
    running.client.delete::<VolumeAttributesClass>("", "fast", &now).await.expect("it is to go");
    running.client.delete::<PersistentVolume>("", "disk", &now).await.expect("it is to go");
    // One that nobody uses shows that the controllers have looked.
    let other = json!({ "metadata": { "name": "free", "namespace": "default" }, "spec": {
        "accessModes": ["ReadWriteOnce"], "storageClassName": "", "resources": { "requests": { "storage": "1Gi" } } } });
    running.create::<PersistentVolumeClaim>(other).await;
    running.client.delete::<PersistentVolumeClaim>("default", "free", &now).await.expect("it is to go");
    gone::<PersistentVolumeClaim>(&running, "default", "free").await;
    let held = running.client.get::<PersistentVolumeClaim>("default", "data").await.expect("it stays");
    assert!(held.metadata.deletion_timestamp.is_some());
    running.client.get::<VolumeAttributesClass>("", "fast").await.expect("it stays");
    running.client.get::<PersistentVolume>("", "disk").await.expect("it stays");

    running.client.delete::<Pod>("default", "web", &now).await.expect("it goes");
    gone::<PersistentVolumeClaim>(&running, "default", "data").await;
    gone::<VolumeAttributesClass>(&running, "", "fast").await;
    running.client.delete::<PersistentVolumeClaim>("default", "owner", &now).await.expect("it goes");
    gone::<PersistentVolume>(&running, "", "disk").await;
    running.cluster.stop().await;
}
