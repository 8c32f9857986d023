//! A registry without a front, for tests over kinds: requests go straight to [`Registry::serve`] as an
//! administrator, over a store in memory.

use crate::admission::Plugin;
use crate::custom::CustomResources;
use crate::custom::convert::Outbound;
use crate::def::ResourceDef;
use crate::front::info;
use crate::registry::Registry;
use crate::request::{RequestCx, UserInfo};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, USER_AGENT, WARNING};
use http::{Method, Request, Response};
use knarr_base::Ctx;
use knarr_client::{Body, Client, Error, Transport};
use knarr_store::Store;
use serde_json::Value;
use std::sync::{Arc, Mutex};

/// See the module's documentation. Needs a running tokio runtime.
#[derive(Clone)]
pub struct Server {
    /// Clock, random numbers and tasks.
    pub ctx: Ctx,
    /// The store.
    pub store: Arc<dyn Store>,
    /// The registry.
    pub registry: Arc<Registry>,
}

/// A whole answer.
pub struct Reply {
    /// The HTTP status code.
    pub code: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Reply {
    /// The body as JSON; panics when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }

    /// The texts of the `Warning` headers.
    pub fn warnings(&self) -> Vec<String> {
        let texts = self.headers.get_all(WARNING).iter().filter_map(|v| v.to_str().ok());
        let text = |v: &str| {
            let quoted = v.strip_prefix("299 - \"").and_then(|rest| rest.strip_suffix('"')).unwrap_or(v);
            quoted.replace("\\\"", "\"")
        };
        texts.map(text).collect()
    }

    /// The body as JSON; panics unless the code is the one expected.
    pub fn expect(&self, code: u16) -> Value {
        assert_eq!(self.code, code, "{}", String::from_utf8_lossy(&self.body));
        self.json()
    }

    /// The message of a Status with that code; panics on anything else.
    pub fn message(&self, code: u16) -> String {
        self.expect(code)["message"].as_str().unwrap_or_default().to_owned()
    }
}

impl Server {
    /// A registry over an empty store in memory and the machine's own clock.
    pub fn new(defs: Vec<ResourceDef>, plugins: Vec<Arc<dyn Plugin>>) -> Self {
        Self::with(Ctx::system(), defs, plugins)
    }

    /// The same in given surroundings.
    pub fn with(ctx: Ctx, defs: Vec<ResourceDef>, plugins: Vec<Arc<dyn Plugin>>) -> Self {
        let store = knarr_store::memory::MemoryStore::new(&ctx);
        Self::over(ctx, store, defs, plugins)
    }

    /// The same over a given store.
    pub fn over(
        ctx: Ctx,
        store: Arc<dyn Store>,
        defs: Vec<ResourceDef>,
        plugins: Vec<Arc<dyn Plugin>>,
    ) -> Self {
        let registry = Registry::new(&ctx, store.clone(), defs, plugins);
        Self { ctx, store, registry }
    }

    /// Serves custom resources, converted by way of `outbound`, from now on.
    pub fn with_custom_resources(self, outbound: Arc<dyn Outbound>) -> Self {
        let custom = CustomResources::new(&self.ctx, &self.registry, outbound);
        self.registry.set_custom_resources(custom.clone());
        self.ctx.tasks.spawn_until_stopped("custom resources", async move { custom.run(|| {}).await });
        self
    }

    /// A client of this registry.
    pub fn client(&self) -> Client {
        Client::new(Arc::new(self.clone()), "test", self.ctx.clone())
    }

    /// Sends a request; the answer's body may be a stream.
    pub async fn open(&self, request: Request<Bytes>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let query = info::parse_query(parts.uri.query().unwrap_or_default());
        let info = info::resolve(&parts.method, parts.uri.path(), &query);
        let cx = RequestCx {
            info,
            user: Arc::new(UserInfo::new("admin", &["system:masters"])),
            dry_run: query.iter().any(|(key, value)| key == "dryRun" && value == "All"),
            query,
            ctx: self.ctx.clone(),
            reader: self.registry.reader(),
            loopback: self.client(),
            warnings: Mutex::default(),
            admission: Default::default(),
        };
        self.registry.serve(cx, parts, body).await
    }

    /// Sends a request with headers and reads the whole answer.
    pub async fn send(
        &self,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Reply {
        let mut request = Request::builder().method(method).uri(url).header(USER_AGENT, "test/1");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.open(request.body(body.into()).expect("a request of a test is valid")).await;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("an answer in memory does not break off");
        Reply { code: parts.status.as_u16(), headers: parts.headers, body }
    }

    /// GET.
    pub async fn get(&self, url: &str) -> Reply {
        self.send("GET", url, &[], "").await
    }

    /// GET in the given form.
    pub async fn get_as(&self, url: &str, accept: &str) -> Reply {
        self.send("GET", url, &[(ACCEPT.as_str(), accept)], "").await
    }

    /// POST of a JSON object.
    pub async fn post(&self, url: &str, object: &Value) -> Reply {
        self.send(Method::POST.as_str(), url, &[], object.to_string()).await
    }

    /// PUT of a JSON object.
    pub async fn put(&self, url: &str, object: &Value) -> Reply {
        self.send(Method::PUT.as_str(), url, &[], object.to_string()).await
    }

    /// PATCH; `kind` is `json-patch+json`, `merge-patch+json`, `strategic-merge-patch+json` or
    /// `apply-patch+yaml`.
    pub async fn patch(&self, kind: &str, url: &str, patch: &Value) -> Reply {
        let media = format!("application/{kind}");
        self.send(Method::PATCH.as_str(), url, &[(CONTENT_TYPE.as_str(), &media)], patch.to_string()).await
    }

    /// DELETE with options (`Null` for none).
    pub async fn delete(&self, url: &str, options: &Value) -> Reply {
        let body = if options.is_null() { String::new() } else { options.to_string() };
        self.send(Method::DELETE.as_str(), url, &[], body).await
    }

    /// Starts a watch in JSON.
    pub async fn watch(&self, url: &str) -> WatchReply {
        self.watch_as(url, "application/json").await
    }

    /// Starts a watch in the given form.
    pub async fn watch_as(&self, url: &str, accept: &str) -> WatchReply {
        let request = Request::get(url).header(ACCEPT, accept).body(Bytes::new());
        let response = self.open(request.expect("a request of a test is valid")).await;
        assert_eq!(response.status().as_u16(), 200);
        WatchReply { body: response.into_body(), buffered: Vec::new() }
    }
}

impl Transport for Server {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'static, Result<Response<Body>, Error>> {
        let server = self.clone();
        Box::pin(async move { Ok(server.open(request).await) })
    }

    fn server(&self) -> String {
        "in-process test registry".to_owned()
    }
}

/// A watch's answer, frame by frame.
pub struct WatchReply {
    body: Body,
    buffered: Vec<u8>,
}

impl WatchReply {
    /// The next frame of a JSON watch, `None` at its end.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffered.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffered.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).expect("a frame is JSON"));
            }
            self.fill().await?;
        }
    }

    /// The next frame of a protobuf watch: its type and object.
    pub async fn next_proto(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some(head) = self.buffered.first_chunk::<4>() {
                let len = u32::from_be_bytes(*head) as usize;
                if self.buffered.len() >= 4 + len {
                    let frame: Vec<u8> = self.buffered.drain(..4 + len).skip(4).collect();
                    return Some(knarr_api::proto::decode_watch_event(&frame).expect("a frame is an event"));
                }
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> Option<()> {
        let chunk = self.body.next().await?.expect("a watch in memory does not break off");
        self.buffered.extend_from_slice(&chunk);
        Some(())
    }

    /// Type and name of the next `count` events.
    pub async fn names(&mut self, count: usize) -> Vec<String> {
        let mut names = Vec::new();
        for _ in 0..count {
            let event = self.next().await.expect("the watch goes on");
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            names.push(format!("{} {}", text(&event["type"]), text(&event["object"]["metadata"]["name"])));
        }
        names
    }
}
