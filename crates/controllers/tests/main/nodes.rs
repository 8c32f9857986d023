//! What happens to a node that falls silent, and to its pods.

use crate::{LIMIT, Running};
use knarr_api::Kind;
use knarr_api::coordination::v1::Lease;
use knarr_api::core::v1::{Event, Node, Pod};
use knarr_base::{Clock, ManualClock, SystemClock};
use knarr_client::{Informer, Informers, ListOptions, Patch};
use knarr_meta::time::{parse, rfc3339, rfc3339_micro};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

struct Kubelet<'a> {
    running: &'a Running,
    name: &'static str,
    renewals: u64,
    /// Watched as the controller does.
    leases: Informer<Lease>,
}

impl<'a> Kubelet<'a> {
    async fn register(running: &'a Running, name: &'static str) -> Self {
        running.create::<Node>(json!({ "metadata": { "name": name } })).await;
        let lease = json!({ "metadata": { "name": name, "namespace": "kube-node-lease" },
            "spec": { "holderIdentity": name, "leaseDurationSeconds": 40 } });
        running.create::<Lease>(lease).await;
        let leases = Informers::new(running.client.clone()).filtered::<Lease>("kube-node-lease", "", "");
        let mut this = Self { running, name, renewals: 0, leases };
        this.renew().await;
        this.post(1).await;
        this
    }

    async fn post(&self, second: u64) {
        let at = rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(second));
        let status = json!({ "status": { "conditions": [{ "type": "Ready", "status": "True", "reason": "KubeletReady",
            "lastHeartbeatTime": at, "lastTransitionTime": at }] } });
        self.running
            .client
            .patch::<Node>("", self.name, "status", &Patch::Strategic(status))
            .await
            .expect("posted");
    }

    /// Renews the lease, and waits until watches have told of it.
    async fn renew(&mut self) {
        self.renewals += 1;
        let at = rfc3339_micro(SystemTime::UNIX_EPOCH + Duration::from_secs(self.renewals));
        let patch = Patch::Merge(json!({ "spec": { "renewTime": at } }));
        let lease = self.running.client.patch::<Lease>("kube-node-lease", self.name, "", &patch).await;
        let version = lease.expect("renewed").metadata.resource_version;
        let told = async {
            while self.leases.get("kube-node-lease", self.name).map(|l| l.metadata.resource_version.clone())
                != Some(version.clone())
            {
                pause().await;
            }
        };
        knarr_base::clock::timeout(&SystemClock, LIMIT, told).await.expect("a watch tells of the renewal");
    }
}

fn taints(node: &Node) -> Vec<String> {
    let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    let mut taints: Vec<String> = taints.map(|t| format!("{}:{}", t.key, t.effect)).collect();
    taints.sort();
    taints
}

fn ready(conditions: &Value) -> Value {
    let conditions = conditions["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.into_iter().find(|c| c["type"] == "Ready").unwrap_or_default()
}

async fn events(running: &Running, reason: &str) -> Vec<String> {
    let options = ListOptions { field_selector: format!("reason={reason}"), ..ListOptions::default() };
    let events = running.client.list::<Event>("default", &options).await.expect("events can be listed").items;
    events.into_iter().map(|e| e.message.unwrap_or_default()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_node_is_noticed_and_its_pods_leave() {
    #[allow(clippy::disallowed_methods)] // where the clock that is moved by hand starts
    let clock = ManualClock::at(SystemTime::now());
    let running = Running::start_with(&clock).await;
    let mut alpha = Kubelet::register(&running, "alpha").await;
    let beta = Kubelet::register(&running, "beta").await;
    // The taint that every node starts with goes once it is ready.
    for name in ["alpha", "beta"] {
        until_node(&running, name, "untainted", |n| taints(n).is_empty()).await;
    }
    let pod = running
        .create::<Pod>(json!({ "metadata": { "name": "p", "namespace": "default" },
            "spec": { "nodeName": "beta", "containers": [{ "name": "c", "image": "i" }] } }))
        .await;
    running.set_phase(&pod, "Running").await;

    let start = clock.now();
    let silent = advance(&clock, &mut alpha, Duration::from_secs(1), || async {
        let node = running.client.get::<Node>("", "beta").await.expect("beta is there");
        (ready(&node.to_value())["status"] == "Unknown").then_some(node)
    });
    let (node, _) = silent.await;
    let condition = ready(&node.to_value());
    // When it was noticed by the controller's clock: the test may see it later.
    let noticed =
        condition["lastTransitionTime"].as_str().map(parse).expect("a time").expect("it is well-formed");
    let after = noticed.duration_since(start).expect("time goes on");
    assert!(after >= Duration::from_secs(50) && after < Duration::from_secs(70), "{after:?}");
    assert_eq!(condition["reason"], "NodeStatusUnknown");
    assert_eq!(condition["message"], "Kubelet stopped posting node status.");
    running.until::<Pod>("p", "not ready", |p| ready(&p.to_value())["status"] == "False").await;
    let unreachable =
        ["node.kubernetes.io/unreachable:NoExecute", "node.kubernetes.io/unreachable:NoSchedule"];
    until_node(&running, "beta", "unreachable", |n| taints(n) == unreachable).await;

    let gone = advance(&clock, &mut alpha, Duration::from_secs(2), || async {
        let pod = running.client.get_opt::<Pod>("default", "p").await.expect("it can be asked for");
        pod.is_none_or(|p| p.metadata.deletion_timestamp.is_some()).then_some(())
    });
    let ((), after) = gone.await;
    assert!(after >= Duration::from_secs(290), "the pod tolerates it for five minutes: {after:?}");
    knarr_testkit::wait_for("the event", LIMIT, || async {
        let seen = events(&running, "TaintManagerEviction").await;
        if seen == ["Marking for deletion Pod default/p"] { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;

    beta.post(2).await;
    until_node(&running, "beta", "untainted again", |n| taints(n).is_empty()).await;
    knarr_testkit::wait_for("the node's event", LIMIT, || async {
        let seen = events(&running, "NodeNotReady").await;
        if seen.iter().any(|e| e == "Node beta status is now: NodeNotReady") {
            Ok(())
        } else {
            Err(format!("{seen:?}"))
        }
    })
    .await;

    // With every node silent the fault is on this side: nobody is evicted.
    for name in ["alpha", "beta"] {
        for (what, is_so) in [
            ("lost", (|n| ready(&n.to_value())["status"] == "Unknown") as fn(&Node) -> bool),
            ("not evicted", |n| taints(n) == ["node.kubernetes.io/unreachable:NoSchedule"]),
        ] {
            until_node(&running, name, what, |n| {
                clock.advance(Duration::from_secs(5));
                is_so(n)
            })
            .await;
        }
    }
    running.cluster.stop().await;
}

async fn pause() {
    SystemClock.sleep(Duration::from_millis(10)).await;
}

async fn until_node(running: &Running, name: &str, what: &str, met: impl Fn(&Node) -> bool) {
    knarr_testkit::wait_for(&format!("{name} {what}"), LIMIT, || async {
        let node = running.client.get::<Node>("", name).await.map_err(|e| e.to_string())?;
        if met(&node) { Ok(()) } else { Err(format!("{node:#?}")) }
    })
    .await;
}

/// Moves the clock in steps, alpha renewing its lease before each, until something is seen; says how far it moved.
async fn advance<T, F>(
    clock: &Arc<ManualClock>,
    alpha: &mut Kubelet<'_>,
    step: Duration,
    mut seen: impl FnMut() -> F,
) -> (T, Duration)
where
    F: Future<Output = Option<T>>,
{
    for steps in 0..200 {
        if let Some(seen) = seen().await {
            return (seen, step * steps);
        }
        alpha.renew().await;
        clock.advance(step);
        // Watches run on the machine's own time; on a busy one a thousand seconds would pass before they arrive.
        pause().await;
    }
    panic!("nothing was seen in {:?}", step * 200);
}
