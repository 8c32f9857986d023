//! Claims and volumes find each other.

use crate::{LIMIT, Running};
use knarr_api::Kind;
use knarr_api::core::v1::{Event, PersistentVolume, PersistentVolumeClaim, Pod};
use knarr_api::storage::v1::StorageClass;
use knarr_api::volume::{self, annotation};
use knarr_client::{DeleteOptions, ListOptions, Patch};
use knarr_testkit::wait_for;
use serde_json::{Value, json};

fn claim(name: &str, spec: Value) -> Value {
    let mut all = json!({ "accessModes": ["ReadWriteOnce"], "storageClassName": "",
        "resources": { "requests": { "storage": "1Gi" } } });
    all.as_object_mut().expect("an object").extend(spec.as_object().expect("an object").clone());
    json!({ "metadata": { "name": name, "namespace": "default" }, "spec": all })
}

fn disk(name: &str, size: &str, spec: Value) -> Value {
    let mut all = json!({ "accessModes": ["ReadWriteOnce"], "capacity": { "storage": size },
        "hostPath": { "path": "/tmp/x" } });
    all.as_object_mut().expect("an object").extend(spec.as_object().expect("an object").clone());
    json!({ "metadata": { "name": name }, "spec": all })
}

impl Running {
    async fn volume_in(&self, name: &str, phase: &str) -> PersistentVolume {
        wait_for(&format!("volume {name} is {phase}"), LIMIT, || async {
            let volume = self.client.get::<PersistentVolume>("", name).await.map_err(|e| e.to_string())?;
            if volume::volume_phase(&volume) == phase { Ok(volume) } else { Err(format!("{volume:#?}")) }
        })
        .await
    }

    async fn claim_in(&self, name: &str, phase: &str) -> PersistentVolumeClaim {
        self.until(name, phase, |claim: &PersistentVolumeClaim| volume::claim_phase(claim) == phase).await
    }

    async fn event(&self, object: &str, reason: &str, text: &str) {
        wait_for(&format!("{reason} of {object}"), LIMIT, || async {
            let events = self.client.list::<Event>("", &ListOptions::default()).await;
            let events = events.map_err(|e| e.to_string())?.items;
            let of: Vec<_> =
                events.iter().filter(|e| e.involved_object.name.as_deref() == Some(object)).collect();
            let said = |e: &&&Event| {
                e.reason.as_deref() == Some(reason) && e.message.as_deref().unwrap_or_default().contains(text)
            };
            if of.iter().any(|e| said(&e)) { Ok(()) } else { Err(format!("{of:#?}")) }
        })
        .await;
    }

    async fn drop_claim(&self, name: &str) {
        let now = DeleteOptions::default();
        self.client.delete::<PersistentVolumeClaim>("default", name, &now).await.expect("it goes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_is_bound_to_the_smallest_volume_and_releases_it() {
    let running = Running::start().await;
    running.create::<PersistentVolumeClaim>(claim("data", json!({}))).await;
    running.event("data", "FailedBinding", "no persistent volumes available for this claim").await;
    running.create::<PersistentVolume>(disk("small", "500Mi", json!({}))).await;
    running.volume_in("small", "Available").await;
    running.create::<PersistentVolume>(disk("fits", "2Gi", json!({}))).await;
    let bound = running.claim_in("data", "Bound").await;
    assert_eq!(volume::volume_name(&bound), "fits");
    assert_eq!(annotation(&bound.metadata, volume::BIND_COMPLETED), Some("yes"));
    assert_eq!(annotation(&bound.metadata, volume::BOUND_BY_CONTROLLER), Some("yes"));
    let capacity = bound.status.expect("it has one").capacity.expect("it has some");
    assert_eq!(capacity["storage"].0, "2Gi");
    let volume = running.volume_in("fits", "Bound").await;
    assert_eq!(volume::claim_ref(&volume).and_then(|r| r.uid.clone()), bound.metadata.uid);
    running.drop_claim("data").await;
    running.volume_in("fits", "Released").await;
    // It is kept as it was, also from a namesake.
    running.create::<PersistentVolumeClaim>(claim("data", json!({}))).await;
    running.event("data", "FailedBinding", "no persistent volumes available for this claim").await;
    running.volume_in("fits", "Released").await;
    running.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_and_volumes_that_name_each_other() {
    let running = Running::start().await;
    let meant = json!({ "claimRef": { "namespace": "default", "name": "promised" } });
    running.create::<PersistentVolume>(disk("kept", "5Gi", meant)).await;
    running.create::<PersistentVolume>(disk("free", "5Gi", json!({}))).await;
    running.volume_in("kept", "Available").await;
    running.create::<PersistentVolumeClaim>(claim("greedy", json!({ "volumeName": "kept" }))).await;
    running.event("greedy", "FailedBinding", "volume \"kept\" already bound to a different claim.").await;
    running.create::<PersistentVolumeClaim>(claim("promised", json!({}))).await;
    assert_eq!(volume::volume_name(&running.claim_in("promised", "Bound").await), "kept");
    let big = json!({ "volumeName": "free", "resources": { "requests": { "storage": "9Gi" } } });
    running.create::<PersistentVolumeClaim>(claim("big", big)).await;
    running
        .event("big", "VolumeMismatch", "Cannot bind to requested volume \"free\": requested PV is too small")
        .await;
    running.create::<PersistentVolumeClaim>(claim("modest", json!({ "volumeName": "free" }))).await;
    let modest = running.claim_in("modest", "Bound").await;
    assert_eq!(annotation(&modest.metadata, volume::BOUND_BY_CONTROLLER), None);
    // The volume is taken away. Its finalizer goes after the deletion has begun: before, it would come back.
    running.volume_in("free", "Bound").await;
    running.client.delete::<PersistentVolume>("", "free", &DeleteOptions::default()).await.expect("it goes");
    let release = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
    running.client.patch::<PersistentVolume>("", "free", "", &release).await.expect("it is let go");
    running.claim_in("modest", "Lost").await;
    running
        .event(
            "modest",
            "ClaimLost",
            "Bound claim has lost its PersistentVolume. Data on the volume is lost!",
        )
        .await;
    running.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reclaiming_says_what_it_cannot_do() {
    let running = Running::start().await;
    for (name, policy, event, text) in [
        ("gone", "Delete", "VolumeFailedDelete", "no deletable volume plugin matched"),
        ("again", "Recycle", "VolumeFailedRecycle", "No recycler plugin found for the volume!"),
    ] {
        running
            .create::<PersistentVolume>(disk(name, "5Gi", json!({ "persistentVolumeReclaimPolicy": policy })))
            .await;
        running.create::<PersistentVolumeClaim>(claim(name, json!({ "volumeName": name }))).await;
        running.claim_in(name, "Bound").await;
        running.drop_claim(name).await;
        running.volume_in(name, "Failed").await;
        running.event(name, event, text).await;
    }
    running.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn classes_are_given_retroactively_and_decide_who_binds() {
    let running = Running::start().await;
    let mut unset = claim("unset", json!({}));
    unset["spec"].as_object_mut().expect("an object").remove("storageClassName");
    running.create::<PersistentVolumeClaim>(unset).await;
    let unknown = json!({ "storageClassName": "nowhere" });
    running.create::<PersistentVolumeClaim>(claim("astray", unknown)).await;
    running.event("astray", "ProvisioningFailed", "storageclass.storage.k8s.io \"nowhere\" not found").await;
    let class = json!({ "metadata": { "name": "late", "annotations": { volume::DEFAULT_CLASS: "true" } },
        "provisioner": "example.com/disks", "volumeBindingMode": "WaitForFirstConsumer" });
    running.create::<StorageClass>(class).await;
    running
        .until("unset", "it gets a class", |c: &PersistentVolumeClaim| volume::class_of_claim(c) == "late")
        .await;
    running
        .event("unset", "WaitForFirstConsumer", "waiting for first consumer to be created before binding")
        .await;
    let pod = json!({ "metadata": { "name": "web", "namespace": "default" }, "spec": {
        "containers": [{ "name": "c", "image": "i" }],
        "volumes": [{ "name": "v", "persistentVolumeClaim": { "claimName": "unset" } }] } });
    running.create::<Pod>(pod).await;
    running.event("unset", "WaitForPodScheduled", "waiting for pod web to be scheduled").await;
    let chosen = Patch::Merge(json!({ "metadata": { "annotations": { volume::SELECTED_NODE: "alpha" } } }));
    running
        .client
        .patch::<PersistentVolumeClaim>("default", "unset", "", &chosen)
        .await
        .expect("it can be chosen");
    running
        .until("unset", "a provisioner is asked", |c: &PersistentVolumeClaim| {
            annotation(&c.metadata, volume::STORAGE_PROVISIONER) == Some("example.com/disks")
        })
        .await;
    running.event("unset", "ExternalProvisioning", "external provisioner 'example.com/disks'").await;
    // What the provisioner makes is bound to the claim it is for.
    let claim = running.client.get::<PersistentVolumeClaim>("default", "unset").await.expect("it is there");
    let made = json!({ "storageClassName": "late", "claimRef": { "namespace": "default", "name": "unset",
        "uid": claim.metadata.uid } });
    running.create::<PersistentVolume>(disk("made", "1Gi", made)).await;
    running.claim_in("unset", "Bound").await;
    running.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ephemeral_volume_gets_a_claim_of_its_own() {
    let running = Running::start().await;
    let template =
        json!({ "metadata": { "labels": { "for": "scratch" } }, "spec": claim("", json!({}))["spec"] });
    let pod = |name: &str| {
        json!({ "metadata": { "name": name, "namespace": "default" }, "spec": {
            "containers": [{ "name": "c", "image": "i" }],
            "volumes": [{ "name": "scratch", "ephemeral": { "volumeClaimTemplate": template } }] } })
    };
    let owner = running.create::<Pod>(pod("web")).await;
    let made: PersistentVolumeClaim = running.until("web-scratch", "it is made", |_| true).await;
    let reference = &made.metadata.owner_references.as_ref().expect("it has an owner")[0];
    assert_eq!((reference.uid.as_str(), reference.controller), (owner.uid(), Some(true)));
    assert_eq!(made.metadata.labels.expect("it has some")["for"], "scratch");
    running.create::<PersistentVolumeClaim>(claim("other-scratch", json!({}))).await;
    running.create::<Pod>(pod("other")).await;
    let text = "ephemeral volume scratch: PVC default/other-scratch was not created for pod default/other (pod is not owner)";
    running.event("other", "FailedBinding", text).await;
    running.cluster.stop().await;
}
