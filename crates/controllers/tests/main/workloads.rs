//! Deployments, owners and namespaces, endpoints.

use crate::{LIMIT, Running};
use knarr_api::Kind;
use knarr_api::apps::v1::{Deployment, ReplicaSet};
use knarr_api::core::v1::{ConfigMap, Endpoints, Namespace, Pod, Service};
use knarr_api::discovery::v1::EndpointSlice;
use knarr_client::{DeleteOptions, ListOptions, Patch};
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn deployment(name: &str, replicas: i32, image: &str) -> Value {
    json!({
        "metadata": { "name": name, "namespace": "default" },
        "spec": { "replicas": replicas, "selector": { "matchLabels": { "app": name } }, "template": {
            "metadata": { "labels": { "app": name } },
            "spec": { "containers": [{ "name": "c", "image": image }] } } },
    })
}

fn reason(deployment: &Deployment, kind: &str) -> String {
    let conditions = deployment.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let found = conditions.filter(|c| c.type_ == kind).find_map(|c| c.reason.clone());
    found.unwrap_or_default()
}

impl Running {
    /// Waits for a deployment to meet a condition, while every pod that is made starts to run.
    async fn roll(&self, name: &str, what: &str, met: impl Fn(&Deployment) -> bool) -> Deployment {
        knarr_testkit::wait_for(&format!("deployment {name} {what}"), LIMIT, || async {
            for pod in self.pods(&format!("app={name}")).await.iter().filter(|p| crate::is_active(p)) {
                if pod.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Running") {
                    self.set_phase(pod, "Running").await;
                }
            }
            let d = self.client.get::<Deployment>("default", name).await.map_err(|e| e.to_string())?;
            if met(&d) { Ok(d) } else { Err(format!("{:#?}", d.status)) }
        })
        .await
    }

    async fn merge<K: Kind>(&self, name: &str, patch: Value) -> K {
        self.client.patch::<K>("default", name, "", &Patch::Merge(patch)).await.expect("it can be patched")
    }

    /// Sizes of the ReplicaSets of an app, by revision.
    async fn sets(&self, app: &str) -> BTreeMap<String, i32> {
        let sets = self.client.list::<ReplicaSet>("default", &selecting(app)).await.expect("a list").items;
        let revision = |s: &ReplicaSet| {
            s.metadata.annotations.as_ref()?.get("deployment.kubernetes.io/revision").cloned()
        };
        let size = |s: &ReplicaSet| s.spec.as_ref().and_then(|s| s.replicas).unwrap_or_default();
        sets.iter().map(|s| (revision(s).unwrap_or_default(), size(s))).collect()
    }

    async fn until_gone<K: Kind>(&self, namespace: &str, name: &str) {
        knarr_testkit::wait_for(&format!("{} {name} gone", K::KIND), LIMIT, || async {
            match self.client.get_opt::<K>(namespace, name).await {
                Ok(None) => Ok(()),
                other => Err(format!("{other:#?}")),
            }
        })
        .await;
    }
}

fn selecting(app: &str) -> ListOptions {
    ListOptions { label_selector: format!("app={app}"), ..ListOptions::default() }
}

fn template(image: &str) -> Value {
    json!({ "spec": { "template": { "spec": { "containers": [{ "name": "c", "image": image }] } } } })
}

fn done(replicas: i32) -> impl Fn(&Deployment) -> bool {
    move |d| {
        let s = d.status.clone().unwrap_or_default();
        s.observed_generation == d.metadata.generation
            && [s.replicas, s.updated_replicas, s.available_replicas] == [Some(replicas); 3]
            && reason(d, "Progressing") == "NewReplicaSetAvailable"
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_rolls_back_pauses_and_scales() {
    let running = Running::start().await;
    running.create::<Deployment>(deployment("web", 4, "one")).await;
    let d = running.roll("web", "done", done(4)).await;
    assert_eq!(reason(&d, "Available"), "MinimumReplicasAvailable");
    running.merge::<Deployment>("web", template("two")).await;
    running.roll("web", "updated", done(4)).await;
    assert_eq!(running.sets("web").await, BTreeMap::from([("1".into(), 0), ("2".into(), 4)]));

    // Undone: the first set comes back as the third revision.
    running.merge::<Deployment>("web", template("one")).await;
    running.roll("web", "rolled back", done(4)).await;
    assert_eq!(running.sets("web").await, BTreeMap::from([("2".into(), 0), ("3".into(), 4)]));
    let sets = running.client.list::<ReplicaSet>("default", &selecting("web")).await.expect("a list").items;
    let history: Vec<_> = sets
        .iter()
        .filter_map(|s| {
            s.metadata.annotations.as_ref()?.get("deployment.kubernetes.io/revision-history").cloned()
        })
        .collect();
    assert_eq!(history, ["1"]);

    // Paused, a new template waits and scaling does not.
    running.merge::<Deployment>("web", json!({ "spec": { "paused": true } })).await;
    running.until::<Deployment>("web", "paused", |d| reason(d, "Progressing") == "DeploymentPaused").await;
    running.merge::<Deployment>("web", template("three")).await;
    running.merge::<Deployment>("web", json!({ "spec": { "replicas": 5 } })).await;
    running
        .roll("web", "scaled", |d| d.status.as_ref().is_some_and(|s| s.available_replicas == Some(5)))
        .await;
    assert_eq!(running.sets("web").await, BTreeMap::from([("2".into(), 0), ("3".into(), 5)]));
    running.merge::<Deployment>("web", json!({ "spec": { "paused": false } })).await;
    running.roll("web", "resumed and done", done(5)).await;
    assert_eq!(running.sets("web").await.get("4"), Some(&5));

    // Scaled while half rolled out (the new pods do not start): both sets grow.
    running.merge::<Deployment>("web", template("four")).await;
    knarr_testkit::wait_for("a rollout that is stuck", LIMIT, || async {
        let sets = running.sets("web").await;
        if (sets.get("4"), sets.get("5")) == (Some(&4), Some(&3)) { Ok(()) } else { Err(format!("{sets:?}")) }
    })
    .await;
    // The controller knows of these sizes, too: the shares are reckoned from them.
    running
        .until::<Deployment>("web", "seven pods, three of them new", |d| {
            d.status.as_ref().is_some_and(|s| (s.replicas, s.updated_replicas) == (Some(7), Some(3)))
        })
        .await;
    running.merge::<Deployment>("web", json!({ "spec": { "replicas": 10 } })).await;
    knarr_testkit::wait_for("proportional sizes", LIMIT, || async {
        let sets = running.sets("web").await;
        if (sets.get("4"), sets.get("5")) == (Some(&7), Some(&6)) { Ok(()) } else { Err(format!("{sets:?}")) }
    })
    .await;
    running.roll("web", "done at last", done(10)).await;

    // Recreate: no old pod beside a new one.
    let recreate = json!({ "spec": { "strategy": { "type": "Recreate", "rollingUpdate": null } } });
    running.merge::<Deployment>("web", recreate).await;
    running.merge::<Deployment>("web", template("five")).await;
    running.roll("web", "recreated", done(10)).await;
    running.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dependents_go_with_their_owners_or_stay_as_asked() {
    let running = Running::start().await;
    let delete = async |name: &str, policy: &'static str| {
        let options = DeleteOptions { propagation_policy: Some(policy), ..DeleteOptions::default() };
        running.client.delete::<Deployment>("default", name, &options).await.expect("it can be deleted");
    };
    for name in ["background", "foreground", "orphan"] {
        running.create::<Deployment>(deployment(name, 2, "one")).await;
        running.active_pods(&format!("app={name}"), 2).await;
    }
    delete("background", "Background").await;
    delete("foreground", "Foreground").await;
    for name in ["background", "foreground"] {
        running.until_gone::<Deployment>("default", name).await;
        running.active_pods(&format!("app={name}"), 0).await;
    }
    delete("orphan", "Orphan").await;
    running.until_gone::<Deployment>("default", "orphan").await;
    let sets =
        running.client.list::<ReplicaSet>("default", &selecting("orphan")).await.expect("a list").items;
    assert!(sets.len() == 1 && sets[0].metadata.owner_references.is_none(), "{sets:#?}");
    running.active_pods("app=orphan", 2).await;

    // Orphans are taken on again.
    running.create::<Deployment>(deployment("orphan", 2, "one")).await;
    running.until::<ReplicaSet>(sets[0].name(), "adopted", |s| s.metadata.owner_references.is_some()).await;
    assert_eq!(running.pods("app=orphan").await.len(), 2);

    // An object of the cluster whose owner cannot be found stays; one in a namespace goes.
    let owner = json!([{ "apiVersion": "v1", "kind": "ConfigMap", "name": "never", "uid": "was-there" }]);
    running.create::<Namespace>(json!({ "metadata": { "name": "kept", "ownerReferences": owner } })).await;
    let map = json!({ "metadata": { "name": "dangling", "namespace": "default", "ownerReferences": owner } });
    running.create::<ConfigMap>(map).await;
    running.until_gone::<ConfigMap>("default", "dangling").await;
    let kept = running.client.get::<Namespace>("", "kept").await.expect("it is there");
    assert!(kept.metadata.deletion_timestamp.is_none());

    // A namespace takes everything in it along.
    let map =
        json!({ "metadata": { "name": "held", "namespace": "kept", "finalizers": ["example.com/hold"] } });
    running.create::<ConfigMap>(map).await;
    running
        .client
        .delete::<Namespace>("", "kept", &DeleteOptions::default())
        .await
        .expect("it can be deleted");
    knarr_testkit::wait_for("what holds the namespace", LIMIT, || async {
        let namespace = running.client.get::<Namespace>("", "kept").await.map_err(|e| e.to_string())?;
        let text = format!("{:?}", namespace.status);
        let wanted = ["configmaps. has 1 resource instances", "example.com/hold in 1 resource instances"];
        if wanted.iter().all(|w| text.contains(w)) { Ok(()) } else { Err(text) }
    })
    .await;
    let release = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
    running.client.patch::<ConfigMap>("kept", "held", "", &release).await.expect("it can be released");
    running.until_gone::<Namespace>("", "kept").await;
    running.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn services_know_the_pods_behind_them() {
    let running = Running::start().await;
    let port = json!([{ "port": 80, "targetPort": "http" }]);
    running
        .create::<Service>(json!({ "metadata": { "name": "web", "namespace": "default" },
            "spec": { "selector": { "app": "web" }, "ports": port } }))
        .await;
    let slices = async |service: &str| {
        let label_selector = format!("kubernetes.io/service-name={service}");
        let options = ListOptions { label_selector, ..ListOptions::default() };
        running.client.list::<EndpointSlice>("default", &options).await.expect("a list").items
    };
    let until = async |service: &str, wanted: &[(&str, bool, i32)]| {
        knarr_testkit::wait_for(&format!("endpoints {wanted:?}"), LIMIT, || async {
            let mut found = Vec::new();
            for slice in slices(service).await {
                let port = slice.ports.iter().flatten().find_map(|p| p.port).unwrap_or_default();
                for endpoint in slice.endpoints.iter().flatten() {
                    let ready = endpoint.conditions.as_ref().and_then(|c| c.ready) == Some(true);
                    found.push((endpoint.addresses[0].clone(), ready, port));
                }
            }
            found.sort();
            let found: Vec<_> = found.iter().map(|(a, r, p)| (a.as_str(), *r, *p)).collect();
            if found == wanted { Ok(()) } else { Err(format!("{found:?}")) }
        })
        .await;
    };
    for (name, address) in [("a", "10.1.0.1"), ("b", "10.1.0.2")] {
        let pod = running
            .create::<Pod>(
                json!({ "metadata": { "name": name, "namespace": "default", "labels": { "app": "web" } },
                "spec": { "containers": [{ "name": "c", "image": "i",
                    "ports": [{ "name": "http", "containerPort": 8080 }] }] } }),
            )
            .await;
        let status = json!({ "status": { "podIP": address, "podIPs": [{ "ip": address }] } });
        let patch = Patch::Merge(status);
        running.client.patch::<Pod>("default", name, "status", &patch).await.expect("a status");
        if name == "a" {
            running.set_phase(&pod, "Running").await;
        }
    }
    until("web", &[("10.1.0.1", true, 8080), ("10.1.0.2", false, 8080)]).await;
    let endpoints = running
        .until::<Endpoints>("web", "an address each way", |e| {
            let count = |f: fn(&knarr_api::core::v1::EndpointSubset) -> usize| {
                e.subsets.iter().flatten().map(f).sum::<usize>()
            };
            count(|s| s.addresses.iter().flatten().count()) == 1
                && count(|s| s.not_ready_addresses.iter().flatten().count()) == 1
        })
        .await;
    assert_eq!(endpoints.subsets.iter().flatten().count(), 1);
    let b = running.client.get::<Pod>("default", "b").await.expect("b");
    running.set_phase(&b, "Running").await;
    until("web", &[("10.1.0.1", true, 8080), ("10.1.0.2", true, 8080)]).await;
    running.set_phase(&b, "Succeeded").await;
    until("web", &[("10.1.0.1", true, 8080)]).await;

    // Made by hand.
    running
        .create::<Service>(json!({ "metadata": { "name": "db", "namespace": "default" },
            "spec": { "ports": [{ "port": 5432 }] } }))
        .await;
    running
        .create::<Endpoints>(json!({ "metadata": { "name": "db", "namespace": "default" },
            "subsets": [{ "addresses": [{ "ip": "192.0.2.1" }], "ports": [{ "port": 5432 }] }] }))
        .await;
    until("db", &[("192.0.2.1", true, 5432)]).await;
    running.client.delete::<Service>("default", "web", &DeleteOptions::default()).await.expect("deleted");
    running.until_gone::<Endpoints>("default", "web").await;
    knarr_testkit::wait_for("no slices", LIMIT, || async {
        let left = slices("web").await;
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    running.cluster.stop().await;
}
