//! The Node object and its lease: registration, heartbeats and status (KEP-589).

pub(crate) mod allocatable;
mod events;
mod machine;
pub(crate) mod oom;
mod status;

use crate::eviction::node_ref;
use crate::kubelet::Shared;
use http::Method;
use knarr_api::Kind;
use knarr_api::core::v1::Node;
use knarr_base::{Backoff, ReadyGate};
use knarr_client::{Change, Patch, ResourcePath};
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
    let mut written = loop {
        match register(&kubelet, &mut sent).await {
            Ok(node) => break node,
            Err(error) => {
                tracing::debug!(%error, "cannot register the node yet");
                clock.sleep(backoff.step()).await;
            }
        }
    };
    let uid = written.uid().to_owned();
    kubelet.node_uid.lock().expect("uid lock is never poisoned").clone_from(&uid);
    let told = Arc::downgrade(&kubelet);
    kubelet.nodes.on_change(move |change: &Change<Node>| {
        if let Some(kubelet) = told.upgrade().filter(|_| is_others_doing(change)) {
            kubelet.node_changed.notify_one();
        }
    });
    let mut cordoned = false;
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
        // Others write conditions too: a node that was not heard of for long is Unknown.
        let seen = kubelet.nodes.get("", &kubelet.config.node_name);
        let seen = seen.filter(|node| is_as_new(node, &written)).unwrap_or_else(|| written.clone());
        let is = is_cordoned(&seen);
        events::record(&kubelet, events::of_cordon(std::mem::replace(&mut cordoned, is), is));
        let before = shown(&seen);
        let next = status::status(&kubelet, Some(&before));
        let due = clock.instant() - sent_at >= STATUS_PERIOD;
        if due || status::without_times(&next) != status::without_times(&sent) {
            let patch = Patch::Strategic(json!({ "status": next }));
            match kubelet.client.patch::<Node>("", &kubelet.config.node_name, "status", &patch).await {
                Ok(node) => {
                    events::record(&kubelet, events::of_conditions(Some(&before), &next));
                    written = Arc::new(node);
                    sent = next;
                    sent_at = clock.instant();
                }
                Err(error) if error.is_not_found() => {
                    let mut status = next;
                    match register(&kubelet, &mut status).await {
                        Ok(node) => {
                            written = node;
                            sent = status;
                            sent_at = clock.instant();
                        }
                        Err(error) => tracing::debug!(%error, "cannot register the node again"),
                    }
                }
                Err(error) => tracing::debug!(%error, "cannot write the node's status"),
            }
        }
    }
}

/// Whether pods are kept off the node.
fn is_cordoned(node: &Node) -> bool {
    node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or_default()
}

/// Whether a change of the Node is something that the kubelet has to answer or to tell.
fn is_others_doing(change: &Change<Node>) -> bool {
    let Some(node) = &change.new else { return false };
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let unknown = conditions.into_iter().any(|condition| condition.status == "Unknown");
    unknown || change.old.as_ref().is_some_and(|old| is_cordoned(old) != is_cordoned(node))
}

/// Whether a Node that a watch brought is not older than the one that was written last.
fn is_as_new(seen: &Node, written: &Node) -> bool {
    let revision = |node: &Node| node.metadata.resource_version.as_deref()?.parse::<u64>().ok();
    revision(seen).zip(revision(written)).is_some_and(|(seen, written)| seen >= written)
}

/// What a Node's status says that the kubelet compares.
fn shown(node: &Node) -> Value {
    let status = node.status.as_ref();
    let boot = status.and_then(|s| s.node_info.as_ref()).map(|info| info.boot_id.clone());
    json!({
        "conditions": status.and_then(|s| s.conditions.clone()).unwrap_or_default(),
        "nodeInfo": { "bootID": boot },
    })
}

/// Makes the Node, or brings the one that is there up to date, and tells what the status says. Puts what was sent into
/// `status`.
async fn register(kubelet: &Shared, status: &mut Value) -> Result<Arc<Node>, knarr_client::Error> {
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
        Ok(answer) => {
            events::record(kubelet, events::of_conditions(None, status));
            Node::decode(&answer).map(Arc::new).map_err(|e| knarr_client::Error::Protocol(e.to_string()))
        }
        Err(error) if error.is_conflict() => {
            let labels = Patch::Strategic(json!({ "metadata": { "labels": status::labels(config) } }));
            let there = shown(&kubelet.client.patch::<Node>("", &config.node_name, "", &labels).await?);
            *status = status::status(kubelet, Some(&there));
            let patch = Patch::Strategic(json!({ "status": status }));
            let node = kubelet.client.patch::<Node>("", &config.node_name, "status", &patch).await?;
            if let Some(rebooted) = events::of_boot(&config.node_name, &there, status) {
                kubelet.recorder.warning(&node_ref(config), "Rebooted", rebooted);
            }
            events::record(kubelet, events::of_conditions(None, status));
            events::record(kubelet, events::of_conditions(Some(&there), status));
            Ok(Arc::new(node))
        }
        Err(error) => Err(error),
    }
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
