//! Leader election by a Lease object (client-go's `tools/leaderelection`): of several that could do the same work one
//! holds the Lease and renews it; the others wait until it has not been renewed for its duration, by their own
//! clocks, or is given up.

use crate::{Client, Error, ResourcePath};
use http::Method;
use knarr_base::Ctx;
use knarr_base::clock::timeout;
use knarr_meta::object;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How long a Lease is good for after a renewal (upstream's --leader-elect-lease-duration).
const LEASE_DURATION: Duration = Duration::from_secs(15);
/// A holder that could not renew for this long gives up (--leader-elect-renew-deadline).
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// How long to wait between tries (--leader-elect-retry-period).
const RETRY_PERIOD: Duration = Duration::from_secs(2);
/// By which share of itself a candidate's wait is lengthened at random, as upstream.
const JITTER: f64 = 1.2;

/// One candidate for one Lease.
pub struct Election {
    client: Client,
    namespace: String,
    name: String,
    identity: String,
    /// The Lease's last version that was seen, and when that was.
    observed: Option<(String, Instant)>,
}

impl Election {
    /// A candidate named `identity` for the Lease `namespace/name`.
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str) -> Self {
        Self {
            client,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity: identity.to_owned(),
            observed: None,
        }
    }

    /// Runs `start` in a scope of its own whenever this candidate leads, and stops that scope when it does not any
    /// more. Ends with `ctx`'s scope, giving the Lease up.
    pub async fn run(mut self, ctx: Ctx, mut start: impl FnMut(&Ctx)) {
        while !ctx.tasks.is_stopping() {
            tokio::select! {
                () = self.acquire() => {}
                () = ctx.tasks.stopping() => return,
            }
            tracing::info!(lease = self.name, identity = self.identity, "became leader");
            let scope = ctx.child(&self.name);
            start(&scope);
            tokio::select! {
                () = self.hold() => {
                    tracing::error!(lease = self.name, identity = self.identity, "leaderelection lost");
                }
                () = ctx.tasks.stopping() => {}
            }
            scope.tasks.shutdown(RETRY_PERIOD).await;
        }
        let _ = timeout(&*ctx.clock, RETRY_PERIOD, self.release()).await;
    }

    /// Waits until this candidate leads.
    pub async fn acquire(&mut self) {
        let ctx = self.client.ctx().clone();
        while !self.attempt().await {
            ctx.clock.sleep(RETRY_PERIOD + RETRY_PERIOD.mul_f64(JITTER * ctx.rng.unit())).await;
        }
    }

    /// Renews the Lease until that has failed for too long, or somebody else has taken it.
    pub async fn hold(&mut self) {
        let ctx = self.client.ctx().clone();
        let mut renewed = ctx.clock.instant();
        loop {
            ctx.clock.sleep(RETRY_PERIOD).await;
            let left = (renewed + RENEW_DEADLINE).saturating_duration_since(ctx.clock.instant());
            // A server that does not answer must not keep a leader in office.
            match timeout(&*ctx.clock, left, self.attempt()).await {
                Some(true) => renewed = ctx.clock.instant(),
                Some(false) if ctx.clock.instant() < renewed + RENEW_DEADLINE => {}
                _ => return,
            }
        }
    }

    /// Gives the Lease up if this candidate holds it, so that another need not wait for its end.
    pub async fn release(&mut self) {
        let Ok(Some(mut lease)) = self.read().await else { return };
        if lease["spec"]["holderIdentity"] != self.identity.as_str() {
            return;
        }
        let now = self.now();
        lease["spec"]["holderIdentity"] = json!("");
        lease["spec"]["leaseDurationSeconds"] = json!(1);
        lease["spec"]["renewTime"] = json!(now);
        lease["spec"]["acquireTime"] = json!(now);
        let _ = self.client.call(Method::PUT, &self.url(&self.name), &lease).await;
    }

    /// Takes or renews the Lease; true when this candidate leads.
    async fn attempt(&mut self) -> bool {
        match self.try_attempt().await {
            Ok(leads) => leads,
            Err(error) => {
                tracing::warn!(lease = self.name, %error, "a lease could not be acquired or renewed");
                false
            }
        }
    }

    async fn try_attempt(&mut self) -> Result<bool, Error> {
        let now = self.now();
        let Some(mut lease) = self.read().await? else {
            let lease = json!({
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": self.name, "namespace": self.namespace},
                "spec": {
                    "holderIdentity": self.identity,
                    "leaseDurationSeconds": LEASE_DURATION.as_secs(),
                    "acquireTime": now,
                    "renewTime": now,
                    "leaseTransitions": 0,
                },
            });
            return self.wrote(self.client.call(Method::POST, &self.url(""), &lease).await);
        };
        let version = object::resource_version(&lease).to_owned();
        let instant = self.client.ctx().clock.instant();
        if self.observed.as_ref().is_none_or(|(seen, _)| *seen != version) {
            self.observed = Some((version, instant));
        }
        let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned();
        if holder != self.identity {
            let seconds = lease["spec"]["leaseDurationSeconds"].as_u64().unwrap_or(0);
            let seen = self.observed.as_ref().map_or(instant, |(_, seen)| *seen);
            if !holder.is_empty() && instant < seen + Duration::from_secs(seconds) {
                return Ok(false);
            }
            let transitions = lease["spec"]["leaseTransitions"].as_u64().unwrap_or(0);
            lease["spec"]["leaseTransitions"] = json!(transitions + 1);
            lease["spec"]["acquireTime"] = json!(now);
            lease["spec"]["holderIdentity"] = json!(self.identity);
        }
        lease["spec"]["leaseDurationSeconds"] = json!(LEASE_DURATION.as_secs());
        lease["spec"]["renewTime"] = json!(now);
        self.wrote(self.client.call(Method::PUT, &self.url(&self.name), &lease).await)
    }

    /// Whether a write was the one that counts: a conflict says that somebody else was faster.
    fn wrote(&mut self, result: Result<bytes::Bytes, Error>) -> Result<bool, Error> {
        match result {
            Ok(_) => Ok(true),
            Err(error) if error.is_conflict() => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn read(&self) -> Result<Option<Value>, Error> {
        match self.client.call(Method::GET, &self.url(&self.name), &Value::Null).await {
            Ok(body) => serde_json::from_slice(&body).map(Some).map_err(|e| Error::Protocol(e.to_string())),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn url(&self, name: &str) -> String {
        let leases = ResourcePath {
            group: "coordination.k8s.io".to_owned(),
            version: "v1".to_owned(),
            resource: "leases".to_owned(),
        };
        leases.url(&self.namespace, name, "")
    }

    fn now(&self) -> String {
        knarr_meta::time::rfc3339_micro(self.client.ctx().clock.now())
    }
}
