//! Controllers against a whole API server in this process, under their own identities. There is no kubelet: the tests
//! say what pods do.

mod apiextensions;
mod autoscalers;
mod certificates;
mod cron_jobs;
mod custom;
mod election;
mod jobs;
mod nodes;
mod protection;
mod quotas;
mod sets;
mod tokens;
mod volumes;
mod workloads;

use knarr_api::Kind;
use knarr_api::core::v1::Pod;
use knarr_base::{Ctx, ManualClock};
use knarr_client::{Client, Error, ListOptions, Patch};
use knarr_controllers::manager::{self, Config};
use knarr_controllers::{SIGNING_DURATION, SigningCa, TokenSigner, TokenSubject};
use knarr_testkit::{Cluster, wait_for};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// A cluster with all controllers running.
struct Running {
    cluster: Cluster,
    client: Client,
}

impl Running {
    async fn start() -> Self {
        let cluster = Cluster::start().await;
        let ctx = cluster.ctx.clone();
        Self::start_in(cluster, ctx).await
    }

    /// The same with controllers whose clock stands still until it is moved.
    async fn start_with(clock: &Arc<ManualClock>) -> Self {
        let cluster = Cluster::start().await;
        let ctx = Ctx { clock: clock.clone(), ..cluster.ctx.clone() };
        Self::start_in(cluster, ctx).await
    }

    async fn start_in(cluster: Cluster, ctx: Ctx) -> Self {
        let cluster_ca = cluster.server.pki().ca().expect("there is a CA");
        let shared = cluster.client_as("system:kube-controller-manager", &[]);
        let ca = cluster.server.pki().pem("ca").expect("there is a CA");
        let signing_ca =
            Some(SigningCa { certificate: ca.certificate, key: ca.key, duration: SIGNING_DURATION });
        let tokens = cluster.server.tokens().clone();
        let token_signer = Some(TokenSigner(Arc::new(move |of: TokenSubject<'_>| {
            tokens.sign_for_secret(of.namespace, of.account, of.uid, of.secret)
        })));
        let config = Config { cluster_ca, signing_ca, token_signer, ..Config::default() };
        manager::start(&ctx.child("controllers"), shared, &|account| cluster.client_of(account), config);
        let client = cluster.admin();
        // Pods need the service account of their namespace.
        wait_for("the default service account", LIMIT, || async {
            let account = client.get::<knarr_api::core::v1::ServiceAccount>("default", "default").await;
            account.map(drop).map_err(|e| e.to_string())
        })
        .await;
        Self { cluster, client }
    }

    async fn create<K: Kind>(&self, object: Value) -> K {
        self.try_create(object).await.expect("it can be created")
    }

    async fn try_create<K: Kind>(&self, object: Value) -> Result<K, Error> {
        self.client.create(&K::from_value(&object).expect("a well-formed object")).await
    }

    /// Pods of the namespace `default` with a label.
    async fn pods(&self, selector: &str) -> Vec<Pod> {
        let options = ListOptions { label_selector: selector.to_owned(), ..ListOptions::default() };
        self.client.list::<Pod>("default", &options).await.expect("pods can be listed").items
    }

    /// Waits until there are so many active pods with a label.
    async fn active_pods(&self, selector: &str, count: usize) -> Vec<Pod> {
        wait_for(&format!("{count} active pods of {selector}"), LIMIT, || async {
            let pods = self.pods(selector).await;
            let active: Vec<Pod> = pods.into_iter().filter(is_active).collect();
            if active.len() == count { Ok(active) } else { Err(format!("{active:#?}")) }
        })
        .await
    }

    /// Waits until an object meets a condition.
    async fn until<K: Kind>(&self, name: &str, what: &str, met: impl Fn(&K) -> bool) -> K {
        wait_for(&format!("{} {name}: {what}", K::KIND), LIMIT, || async {
            let object = self.client.get::<K>("default", name).await.map_err(|e| e.to_string())?;
            if met(&object) { Ok(object) } else { Err(format!("{object:#?}")) }
        })
        .await
    }

    /// Sets a pod's phase, as its kubelet would. A pod that has gone since it was listed has none.
    async fn set_phase(&self, pod: &Pod, phase: &str) {
        let ready = if phase == "Running" { "True" } else { "False" };
        let now = knarr_meta::time::rfc3339(self.cluster.ctx.clock.now());
        let status = json!({ "status": { "phase": phase, "conditions": [
            { "type": "Ready", "status": ready, "lastTransitionTime": now }] } });
        match self.client.patch::<Pod>(pod.namespace(), pod.name(), "status", &Patch::Merge(status)).await {
            Err(error) if error.is_not_found() => {}
            patched => drop(patched.expect("a pod's status can be patched")),
        }
    }
}

/// Far above what anything here takes.
const LIMIT: Duration = Duration::from_secs(20);

fn is_active(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    !matches!(phase, Some("Succeeded" | "Failed")) && pod.metadata.deletion_timestamp.is_none()
}
