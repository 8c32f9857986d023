//! The Node object and its lease: registration, heartbeats and status (KEP-589).

mod machine;
mod status;

use crate::kubelet::Shared;
use http::Method;
use knarr_api::Kind;
use knarr_api::core::v1::Node;
use knarr_base::{Backoff, ReadyGate};
use knarr_client::{Patch, ResourcePath};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

pub(crate) use machine::{allocatable, capacity, disk, meminfo, pids};

/// The lease is renewed this often ...
const LEASE_PERIOD: Duration = Duration::from_secs(10);
/// ... and counts as lost after this many seconds.
const LEASE_SECONDS: i64 = 40;
/// The status is written at least this often, and on every change.
const STATUS_PERIOD: Duration = Duration::from_secs(300);
const LEASE_NAMESPACE: &str = "kube-node-lease";

/// Registers the node and keeps its lease and status alive.
pub(crate) async fn run(kubelet: Arc<Shared>, registered: ReadyGate) {
    let clock = kubelet.ctx.clock.clone();
    let mut backoff = Backoff::new(Duration::from_millis(20), 2.0, Duration::from_secs(7));
    let mut sent = status::status(&kubelet, None);
    let uid = loop {
        match register(&kubelet, &sent).await {
            Ok(uid) => break uid,
            Err(error) => {
                tracing::debug!(%error, "cannot register the node yet");
                clock.sleep(backoff.step()).await;
            }
        }
    };
    kubelet.node_uid.lock().expect("uid lock is never poisoned").clone_from(&uid);
    kubelet.mirrors.changed.notify_one();
    registered.open();
    let mut sent_at = clock.instant();
    let mut lease_exists = false;
    let mut backoff = Backoff::new(Duration::from_millis(100), 2.0, Duration::from_secs(7));
    loop {
        let pause = match renew(&kubelet, &uid, &mut lease_exists).await {
            Ok(()) => {
                backoff.reset();
                LEASE_PERIOD
            }
            Err(error) => {
                tracing::debug!(%error, "cannot renew the node's lease");
                backoff.step()
            }
        };
        tokio::select! {
            () = clock.sleep(pause) => {}
            () = kubelet.node_changed.notified() => {}
        }
        let next = status::status(&kubelet, Some(&sent));
        let due = clock.instant() - sent_at >= STATUS_PERIOD;
        if due || status::without_times(&next) != status::without_times(&sent) {
            let patch = Patch::Strategic(json!({ "status": next }));
            match kubelet.client.patch::<Node>("", &kubelet.config.node_name, "status", &patch).await {
                Ok(_) => {
                    sent = next;
                    sent_at = clock.instant();
                }
                Err(error) if error.is_not_found() => match register(&kubelet, &next).await {
                    Ok(_) => sent_at = clock.instant(),
                    Err(error) => tracing::debug!(%error, "cannot register the node again"),
                },
                Err(error) => tracing::debug!(%error, "cannot write the node's status"),
            }
        }
    }
}

/// Makes the Node, or brings the one that is there up to date; its UID.
async fn register(kubelet: &Shared, status: &Value) -> Result<String, knarr_client::Error> {
    let config = &kubelet.config;
    let metadata = json!({
        "name": config.node_name,
        "labels": status::labels(config),
        "annotations": { "volumes.kubernetes.io/controller-managed-attach-detach": "true" },
    });
    let node =
        json!({ "kind": "Node", "apiVersion": "v1", "metadata": metadata, "spec": {}, "status": status });
    let url = ResourcePath::of::<Node>().url("", "", "");
    match kubelet.client.call(Method::POST, &url, &node).await {
        Ok(answer) => Ok(uid_of(&answer)),
        Err(error) if error.is_conflict() => {
            let labels = Patch::Strategic(json!({ "metadata": { "labels": status::labels(config) } }));
            kubelet.client.patch::<Node>("", &config.node_name, "", &labels).await?;
            let patch = Patch::Strategic(json!({ "status": status }));
            let node = kubelet.client.patch::<Node>("", &config.node_name, "status", &patch).await?;
            Ok(node.uid().to_owned())
        }
        Err(error) => Err(error),
    }
}

fn uid_of(answer: &[u8]) -> String {
    Node::decode(answer).map(|n| n.uid().to_owned()).unwrap_or_default()
}

/// The labels that the node is registered with.
pub(crate) fn labels(config: &crate::config::KubeletConfig) -> std::collections::BTreeMap<String, String> {
    let labels = status::labels(config);
    let labels = labels.as_object().into_iter().flatten();
    labels.map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned())).collect()
}

async fn renew(kubelet: &Shared, node_uid: &str, exists: &mut bool) -> Result<(), knarr_client::Error> {
    use knarr_api::coordination::v1::Lease;
    let name = &kubelet.config.node_name;
    let path = ResourcePath::of::<Lease>();
    let spec = json!({
        "holderIdentity": name,
        "leaseDurationSeconds": LEASE_SECONDS,
        "renewTime": knarr_meta::time::rfc3339_micro(kubelet.ctx.clock.now()),
    });
    if *exists {
        let patch = Patch::Merge(json!({ "spec": spec }));
        match kubelet.client.patch_raw(&path, LEASE_NAMESPACE, name, "", &patch).await {
            Err(error) if error.is_not_found() => *exists = false,
            other => return other.map(drop),
        }
    }
    let lease = json!({
        "kind": "Lease",
        "apiVersion": "coordination.k8s.io/v1",
        "metadata": {
            "name": name,
            "namespace": LEASE_NAMESPACE,
            "ownerReferences": [{ "apiVersion": "v1", "kind": "Node", "name": name, "uid": node_uid }],
        },
        "spec": spec,
    });
    match kubelet.client.call(Method::POST, &path.url(LEASE_NAMESPACE, "", ""), &lease).await {
        Ok(_) => *exists = true,
        Err(error) if error.is_conflict() => {
            *exists = true;
            let patch = Patch::Merge(json!({ "spec": spec }));
            kubelet.client.patch_raw(&path, LEASE_NAMESPACE, name, "", &patch).await?;
        }
        Err(error) => return Err(error),
    }
    Ok(())
}
