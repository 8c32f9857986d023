//! The cluster under measurement: connections to it, the namespace to work in, and the calls that rows share.

use crate::Arguments;
use crate::process::Servers;
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::Method;
use knarr_base::Ctx;
use knarr_base::clock::timeout;
use knarr_client::https::Https;
use knarr_client::{Client, Error, kubeconfig};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// No single wait is longer than this.
const PATIENCE: Duration = Duration::from_secs(120);

/// A cluster under measurement.
pub struct Bench {
    pub ctx: Ctx,
    pub servers: Servers,
    pub namespace: String,
    pub arguments: Arguments,
    pub row_limit: Duration,
    clients: Vec<Client>,
    /// For streams, which have connections of their own.
    pub https: Https,
}

impl Bench {
    /// Connects and makes the namespace.
    pub async fn connect(
        ctx: &Ctx,
        arguments: &Arguments,
        kubeconfig: &Path,
        servers: Servers,
    ) -> Result<Self> {
        let connections = arguments.connections.clamp(1, 1000);
        let clients = (0..connections)
            .map(|_| Ok(Client::new(Arc::new(kubeconfig::load(kubeconfig)?), "knarr-bench", ctx.clone())))
            .collect::<Result<Vec<_>, Error>>();
        let bench = Self {
            ctx: ctx.clone(),
            servers,
            namespace: format!("knarr-bench-{}", ctx.rng.name_suffix(6)),
            arguments: arguments.clone(),
            row_limit: Duration::from_secs(arguments.row_seconds.max(1)),
            clients: clients.context("cannot use the kubeconfig")?,
            https: kubeconfig::load(kubeconfig).context("cannot use the kubeconfig")?,
        };
        let namespace =
            json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": bench.namespace}});
        bench
            .call(Method::POST, "/api/v1/namespaces", &namespace)
            .await
            .context("cannot make a namespace")?;
        Ok(bench)
    }

    /// The client number `n`, of which several share a connection.
    pub fn client(&self, n: usize) -> Client {
        self.clients[n % self.clients.len()].clone()
    }

    /// `count` requests, scaled as the user asked.
    pub fn count(&self, count: usize) -> usize {
        ((count as f64 * self.arguments.scale) as usize).max(1)
    }

    /// The path of a core resource in the namespace.
    pub fn path(&self, resource: &str) -> String {
        format!("/api/v1/namespaces/{}/{resource}", self.namespace)
    }

    /// One call with a JSON body.
    pub async fn call(&self, method: Method, url: &str, body: &Value) -> Result<Bytes> {
        let called = self.clients[0].call(method, url, body);
        let answer = timeout(&*self.ctx.clock, PATIENCE, called).await;
        Ok(answer.with_context(|| format!("no answer from {url} in {} s", PATIENCE.as_secs()))??)
    }

    /// One object.
    pub async fn get(&self, url: &str) -> Result<Value> {
        Ok(serde_json::from_slice(&self.call(Method::GET, url, &Value::Null).await?)?)
    }

    /// Asks every 20 ms until `done` says so of the object at `url`.
    pub async fn wait(&self, what: &str, url: &str, done: impl Fn(&Value) -> bool) -> Result<()> {
        let started = self.ctx.clock.instant();
        while self.ctx.clock.instant() - started < PATIENCE {
            if self.get(url).await.is_ok_and(|object| done(&object)) {
                return Ok(());
            }
            self.ctx.clock.sleep(Duration::from_millis(20)).await;
        }
        bail!("{what} did not come about in {} s", PATIENCE.as_secs())
    }

    /// Pods need the service account `default`, which a controller makes; where none runs, it is made here.
    pub async fn ensure_service_account(&self) -> Result<()> {
        let url = self.path("serviceaccounts/default");
        for _ in 0..50 {
            if self.get(&url).await.is_ok() {
                return Ok(());
            }
            self.ctx.clock.sleep(Duration::from_millis(20)).await;
        }
        let account = json!({"kind": "ServiceAccount", "apiVersion": "v1", "metadata": {"name": "default"}});
        self.call(Method::POST, &self.path("serviceaccounts"), &account).await.map(drop)
    }

    /// Deletes all objects of a resource in the namespace at once.
    pub async fn delete_all(&self, collection: &str) -> Result<()> {
        let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0});
        self.call(Method::DELETE, collection, &options).await.map(drop)
    }

    /// Deletes the namespace with all that is in it.
    pub async fn clean_up(&self) -> Result<()> {
        let url = format!("/api/v1/namespaces/{}", self.namespace);
        self.call(Method::DELETE, &url, &Value::Null).await.map(drop)
    }
}

/// A request whose answer is read in whole and thrown away.
pub async fn send(
    client: Client,
    method: Method,
    url: String,
    media: &'static str,
    body: Bytes,
) -> Result<(), Error> {
    let response = client.request(method, &url, media, body).await?;
    let mut body = response.into_body();
    while let Some(chunk) = body.next().await {
        chunk.map_err(|source| Error::Connect { server: url.clone(), source })?;
    }
    Ok(())
}
