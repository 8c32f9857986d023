//! `componentstatuses` (core/v1, deprecated since 1.19): how the store, the controllers and the scheduler are, asked when
//! somebody wants to know. Parts of this process are known; others are asked at the ports they have upstream, on this
//! machine, as upstream does.

use crate::def::{Computed, ResourceDef, Strategy};
use crate::request::RequestCx;
use crate::webhook::connect;
use bytes::Bytes;
use futures_util::future::{BoxFuture, join_all};
use http::{Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use knarr_api::core::v1::ComponentStatus;
use knarr_base::clock::timeout;
use knarr_base::{Ctx, Tasks};
use knarr_store::{Range, Store};
use knarr_tls::{Identity, Trust};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

/// How long a component may take, as upstream's probes.
const LIMIT: Duration = Duration::from_secs(20);
/// As much of an answer as is shown.
const ANSWER_LIMIT_BYTES: usize = 10 * 1024;
/// Components with the ports of their health checks.
const COMPONENTS: [(&str, u16); 2] = [("controller-manager", 10257), ("scheduler", 10259)];

/// What is known of the control plane's parts.
pub struct Components {
    ctx: Ctx,
    store: Arc<dyn Store>,
    hosted: Mutex<BTreeMap<String, Tasks>>,
}

/// How a component is: status, message, error.
type Health = (&'static str, String, String);

impl Components {
    /// Knows of the store.
    pub fn new(ctx: &Ctx, store: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self { ctx: ctx.clone(), store, hosted: Mutex::default() })
    }

    /// A component runs in this process, in that scope.
    pub fn host(&self, component: &str, tasks: Tasks) {
        let mut hosted = self.hosted.lock().expect("no holder of the list panics");
        hosted.insert(component.to_owned(), tasks);
    }

    fn hosted(&self, component: &str) -> Option<Health> {
        let hosted = self.hosted.lock().expect("no holder of the list panics");
        let tasks = hosted.get(component)?;
        Some(if tasks.has_panicked() {
            ("False", "a task has panicked".to_owned(), String::new())
        } else if tasks.is_stopping() {
            ("False", "it is shutting down".to_owned(), String::new())
        } else {
            ("True", "ok".to_owned(), String::new())
        })
    }

    async fn component(&self, name: &str, port: u16) -> Health {
        if let Some(known) = self.hosted(name) {
            return known;
        }
        let url = format!("https://127.0.0.1:{port}/healthz");
        let failed = |error: String| ("False", format!("Get {url:?}: {error}"), String::new());
        match timeout(&*self.ctx.clock, LIMIT, self.probe(port)).await {
            Some(Ok((true, text))) => ("True", text, String::new()),
            Some(Ok((false, text))) => ("False", text, String::new()),
            Some(Err(error)) => failed(error),
            None => failed("context deadline exceeded".to_owned()),
        }
    }

    async fn probe(&self, port: u16) -> Result<(bool, String), String> {
        let config = knarr_tls::client(Trust::Anyone, Identity::None, &[]).map(Arc::new);
        let tls =
            connect::connect("127.0.0.1", port, "127.0.0.1", config.map_err(|e| e.to_string())?).await?;
        let said = |e: hyper::Error| e.to_string();
        let (mut sender, driver) =
            hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.map_err(said)?;
        self.ctx.tasks.spawn_until_stopped("component check", async move {
            let _ = driver.await;
        });
        let request = Request::get("/healthz")
            .header(header::HOST, format!("127.0.0.1:{port}"))
            .header(header::USER_AGENT, "kube-probe/1.36")
            .body(Full::<Bytes>::default())
            .map_err(|e| e.to_string())?;
        let response = sender.send_request(request).await.map_err(said)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_LIMIT_BYTES).collect().await;
        let body = body.map_err(|e| e.to_string())?.to_bytes();
        let good = status.is_success() || status.is_redirection();
        let text = String::from_utf8_lossy(&body).into_owned();
        Ok(if good {
            (true, text)
        } else {
            (false, format!("HTTP probe failed with statuscode: {}", status.as_u16()))
        })
    }

    async fn store(&self) -> Health {
        let range = Range {
            start: "/registry/health".into(),
            end: "/registry/health0".into(),
            count_only: true,
            ..Range::default()
        };
        match timeout(&*self.ctx.clock, LIMIT, self.store.range(range)).await {
            Some(Ok(_)) => ("True", "ok".to_owned(), String::new()),
            Some(Err(error)) => ("False", String::new(), error.to_string()),
            None => ("False", String::new(), "context deadline exceeded".to_owned()),
        }
    }
}

fn status(name: &str, (status, message, error): Health) -> Value {
    let mut condition = json!({"type": "Healthy", "status": status});
    for (field, text) in [("message", message), ("error", error)] {
        if !text.is_empty() {
            condition[field] = text.into();
        }
    }
    json!({"apiVersion": "v1", "kind": "ComponentStatus", "metadata": {"name": name}, "conditions": [condition]})
}

impl Computed for Components {
    fn list<'a>(&'a self, _cx: &'a RequestCx) -> BoxFuture<'a, Vec<Value>> {
        Box::pin(async move {
            let components = COMPONENTS
                .iter()
                .map(|(name, port)| async move { status(name, self.component(name, *port).await) });
            let store = async { status("etcd-0", self.store().await) };
            let (mut all, store) = tokio::join!(join_all(components), store);
            all.push(store);
            all
        })
    }
}

struct Statuses(Arc<Components>);

impl Strategy for Statuses {
    type Object = ComponentStatus;
    fn has_generation(&self) -> bool {
        false
    }
    fn computed(&self) -> Option<&dyn Computed> {
        Some(&*self.0)
    }
}

fn cells(obj: &Value, _now: SystemTime) -> Vec<Value> {
    let healthy = obj["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == "Healthy");
    let text = |field: &str| healthy.and_then(|c| c[field].as_str()).unwrap_or_default();
    let shown = match healthy {
        None => "Unknown",
        Some(_) if text("status") == "True" => "Healthy",
        Some(_) => "Unhealthy",
    };
    vec![obj["metadata"]["name"].clone(), shown.into(), text("message").into(), text("error").into()]
}

/// The declaration.
pub fn def(components: &Arc<Components>) -> ResourceDef {
    ResourceDef::new(Statuses(components.clone())).cells(cells)
}
