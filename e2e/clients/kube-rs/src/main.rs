//! kube-rs' round: create, watch, patch and delete, with typed and dynamic objects. Takes a namespace; the
//! kubeconfig comes from the environment.

use futures_util::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{
    DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::core::GroupVersionKind;
use kube::{Api, Client, discovery};
use serde_json::json;
use std::time::Duration;

type Failure = Box<dyn std::error::Error>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let namespace = std::env::args().nth(1).ok_or("a namespace is to be named")?;
    let client = Client::try_default().await?;
    assert_eq!(client.apiserver_version().await?.minor, "36");
    tokio::time::timeout(Duration::from_secs(45), round(client, &namespace)).await??;
    println!("round complete");
    Ok(())
}

async fn round(client: Client, namespace: &str) -> Result<(), Failure> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let start =
        maps.list(&ListParams::default().limit(1)).await?.metadata.resource_version.unwrap_or_default();
    let mut watch = maps.watch(&WatchParams::default().labels("round=kube-rs"), &start).await?.boxed();

    let new: ConfigMap = serde_json::from_value(json!({
        "metadata": { "name": "round", "labels": { "round": "kube-rs" } }, "data": { "k": "one" },
    }))?;
    let created = maps.create(&PostParams::default(), &new).await?;
    maps.patch("round", &PatchParams::default(), &Patch::Merge(json!({ "data": { "k": "two" } }))).await?;
    maps.patch("round", &PatchParams::default(), &Patch::Strategic(json!({ "data": { "k": "three" } })))
        .await?;
    let apply = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "round" }, "data": { "k": "four" } });
    maps.patch("round", &PatchParams::apply("round").force(), &Patch::Apply(apply)).await?;
    let stale = maps.replace("round", &PostParams::default(), &created).await;
    assert!(matches!(&stale, Err(kube::Error::Api(status)) if status.code == 409), "{stale:?}");

    // By discovery, as controllers for any kind do.
    let kind = GroupVersionKind::gvk("apps", "v1", "Deployment");
    let (resource, capabilities) = discovery::pinned_kind(&client, &kind).await?;
    assert!(capabilities.supports_operation("watch"));
    let deployments: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let deployment: DynamicObject = serde_json::from_value(json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "round" },
        "spec": { "replicas": 0, "selector": { "matchLabels": { "a": "b" } }, "template": {
            "metadata": { "labels": { "a": "b" } }, "spec": { "containers": [{ "name": "c", "image": "busybox:1.35" }] } } },
    }))?;
    deployments.create(&PostParams::default(), &deployment).await?;
    deployments
        .patch_metadata(
            "round",
            &PatchParams::default(),
            &Patch::Merge(json!({ "metadata": { "labels": { "x": "y" } } })),
        )
        .await?;
    assert_eq!(deployments.get_scale("round").await?.spec.and_then(|spec| spec.replicas), Some(0));
    deployments.delete("round", &DeleteParams::foreground()).await?;

    maps.delete("round", &DeleteParams::default()).await?;
    let mut seen = Vec::new();
    while let Some(event) = watch.try_next().await? {
        let (what, object) = match event {
            WatchEvent::Added(object) => ("added", object),
            WatchEvent::Modified(object) => ("modified", object),
            WatchEvent::Deleted(object) => ("deleted", object),
            WatchEvent::Bookmark(_) => continue,
            WatchEvent::Error(status) => return Err(format!("{status:?}").into()),
        };
        seen.push((what, object.data.and_then(|data| data.get("k").cloned()).unwrap_or_default()));
        if what == "deleted" {
            break;
        }
    }
    let seen: Vec<(&str, &str)> = seen.iter().map(|(what, k)| (*what, k.as_str())).collect();
    assert_eq!(
        seen,
        [
            ("added", "one"),
            ("modified", "two"),
            ("modified", "three"),
            ("modified", "four"),
            ("deleted", "four")
        ]
    );

    let namespaces: Api<Namespace> = Api::all(client);
    assert!(namespaces.get_metadata(namespace).await?.metadata.uid.is_some());
    Ok(())
}
