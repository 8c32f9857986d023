//! The client of webhooks: one POST of JSON, over HTTP/1.1 (a second connection may reach another endpoint of the
//! service, which one connection of HTTP/2 never would), with connections kept for the next call. Nothing of the
//! API server's own identity is sent. Upstream's `ClientManager`.

use super::config::ClientConfig;
use super::connect;
use super::resolve::ServiceResolver;
use bytes::{Bytes, BytesMut};
use http::header;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use knarr_base::Ctx;
use knarr_base::clock::timeout;
use knarr_meta::gvk::GroupResource;
use knarr_meta::status::Status;
use knarr_tls::Identity;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long a call may take that nobody set a limit to, as upstream's `setGlobalDefaults`.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// How many configurations keep their connections, as upstream's cache.
const CLIENTS: usize = 200;
/// How many idle connections a client keeps, as client-go's transport.
const IDLE_CONNECTIONS: usize = 25;
/// How long they are kept, as Go's transport.
const IDLE_LIMIT: Duration = Duration::from_secs(90);
/// The largest answer: converted lists are the largest, and a webhook must not fill this process.
const RESPONSE_LIMIT_BYTES: usize = 64 * 1024 * 1024;
/// What upstream's client calls itself.
const USER_AGENT: &str = "kube-apiserver-admission";

/// Why there is no answer. Displays as the Go error does that upstream wraps into its own.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The configuration names neither URL nor service, or a malformed one.
    #[error("{0}")]
    Config(String),
    /// The server could not be reached, or broke off.
    #[error("{0}")]
    Transport(String),
    /// No answer in time.
    #[error("Post {url:?}: context deadline exceeded")]
    Deadline {
        /// Where to.
        url: String,
    },
    /// The server answered with an error.
    #[error("{}", .0.message)]
    Status(Box<Status>),
}

/// Keeps a client for each configuration that is called.
#[derive(Default)]
pub struct ClientManager {
    clients: Mutex<HashMap<ClientConfig, Arc<Client>>>,
}

/// A client of one configuration.
struct Client {
    target: Target,
    tls: Arc<rustls::ClientConfig>,
    idle: Mutex<Vec<(Instant, SendRequest<Full<Bytes>>)>>,
    used: Mutex<Instant>,
}

/// Where its calls go.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    /// Of the URL.
    host: String,
    port: u16,
    /// `host:port` as the URL has it.
    authority: String,
    path: String,
    /// Namespace and name of the service to resolve first.
    service: Option<(String, String)>,
}

impl ClientManager {
    /// Without any connection yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Posts `body` and returns the body of the answer. `limit` is also told to the server, in whole seconds.
    pub async fn call(
        &self,
        ctx: &Ctx,
        resolver: &dyn ServiceResolver,
        config: &ClientConfig,
        body: Bytes,
        limit: Duration,
    ) -> Result<Bytes, CallError> {
        let client = self.client(ctx, config)?;
        let limit = limit.min(DEFAULT_TIMEOUT);
        let seconds = limit.as_secs() + u64::from(limit.subsec_nanos() > 0);
        let target = format!("{}?timeout={seconds}s", client.target.path);
        let url = format!("https://{}{target}", client.target.authority);
        match timeout(&*ctx.clock, limit, client.post(ctx, resolver, &target, &url, body)).await {
            Some(result) => result,
            None => Err(CallError::Deadline { url }),
        }
    }

    fn client(&self, ctx: &Ctx, config: &ClientConfig) -> Result<Arc<Client>, CallError> {
        let now = ctx.clock.instant();
        let mut clients = self.clients.lock().expect("no holder of the clients panics");
        if let Some(client) = clients.get(config) {
            *client.used.lock().expect("no holder of the time panics") = now;
            return Ok(client.clone());
        }
        let target = Target::of(config)?;
        let tls = connect::trust(&config.ca_bundle)
            .and_then(|trust| knarr_tls::client(trust, Identity::None, &["http/1.1"]))
            .map_err(|e| CallError::Config(e.to_string()))?;
        let tls = Arc::new(tls);
        if clients.len() >= CLIENTS {
            let used = |client: &Client| *client.used.lock().expect("no holder of the time panics");
            let oldest = clients.iter().min_by_key(|(_, client)| used(client)).map(|(key, _)| key.clone());
            oldest.and_then(|key| clients.remove(&key));
        }
        let client = Arc::new(Client { target, tls, idle: Mutex::default(), used: Mutex::new(now) });
        clients.insert(config.clone(), client.clone());
        Ok(client)
    }
}

impl Target {
    fn of(config: &ClientConfig) -> Result<Self, CallError> {
        if let Some(service) = &config.service {
            let host = service.server_name();
            return Ok(Self {
                authority: format!("{host}:{}", service.port),
                host,
                port: service.port,
                path: clean(&service.path),
                service: Some((service.namespace.clone(), service.name.clone())),
            });
        }
        if config.url.is_empty() {
            let text = "webhook configuration must have either service or URL";
            return Err(CallError::Config(text.to_owned()));
        }
        let bad = |why: &str| CallError::Config(format!("Unparsable URL: {why}"));
        let url: http::Uri = config.url.parse().map_err(|e: http::uri::InvalidUri| bad(&e.to_string()))?;
        let authority = url.authority().ok_or_else(|| bad("it names no host"))?;
        if url.scheme_str() != Some("https") {
            return Err(bad("it is not https"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self {
            host,
            port: authority.port_u16().unwrap_or(443),
            authority: authority.as_str().to_owned(),
            path: clean(url.path()),
            service: None,
        })
    }
}

/// A path as Go's `path.Join` leaves it: rooted, without empty segments or a slash at its end.
fn clean(path: &str) -> String {
    let mut out = String::with_capacity(path.len() + 1);
    for segment in path.split('/').filter(|segment| !segment.is_empty() && *segment != ".") {
        out.push('/');
        out.push_str(segment);
    }
    if out.is_empty() { "/".to_owned() } else { out }
}

impl Client {
    async fn post(
        &self,
        ctx: &Ctx,
        resolver: &dyn ServiceResolver,
        target: &str,
        url: &str,
        body: Bytes,
    ) -> Result<Bytes, CallError> {
        let failed = |why: String| CallError::Transport(format!("Post {url:?}: {why}"));
        let request = || {
            http::Request::post(target)
                .header(header::HOST, &self.target.authority)
                .header(header::CONTENT_TYPE, "application/json")
                .header(header::ACCEPT, "application/json, */*")
                .header(header::USER_AGENT, USER_AGENT)
                .body(Full::new(body.clone()))
                .map_err(|e| failed(e.to_string()))
        };
        while let Some(mut sender) = self.reuse(ctx) {
            match sender.send_request(request()?).await {
                Ok(response) => return self.finish(ctx, sender, response, url).await,
                // It was closed before anything was sent: as good as not having been there.
                Err(error) if error.is_canceled() => {}
                Err(error) => return Err(failed(hyper_text(&error))),
            }
        }
        let mut sender = self.open(resolver).await.map_err(failed)?;
        let response = sender.send_request(request()?).await.map_err(|e| failed(hyper_text(&e)))?;
        self.finish(ctx, sender, response, url).await
    }

    /// An idle connection that is still open.
    fn reuse(&self, ctx: &Ctx) -> Option<SendRequest<Full<Bytes>>> {
        let now = ctx.clock.instant();
        let mut idle = self.idle.lock().expect("no holder of the connections panics");
        idle.retain(|(since, sender)| sender.is_ready() && now.duration_since(*since) < IDLE_LIMIT);
        idle.pop().map(|(_, sender)| sender)
    }

    async fn open(&self, resolver: &dyn ServiceResolver) -> Result<SendRequest<Full<Bytes>>, String> {
        let Target { host, port, service, .. } = &self.target;
        let (address, port) = match service {
            Some((namespace, name)) => resolver.resolve(namespace, name, *port)?,
            None => (host.clone(), *port),
        };
        let stream = connect::connect(&address, port, host, self.tls.clone()).await?;
        let (sender, driver) = handshake(TokioIo::new(stream)).await.map_err(|e| hyper_text(&e))?;
        // The connection's driver ends by itself once its sender is gone.
        hyper::rt::Executor::execute(&TokioExecutor::new(), async move {
            let _ = driver.await;
        });
        Ok(sender)
    }

    /// Reads the answer, and keeps the connection.
    async fn finish(
        &self,
        ctx: &Ctx,
        sender: SendRequest<Full<Bytes>>,
        response: http::Response<hyper::body::Incoming>,
        url: &str,
    ) -> Result<Bytes, CallError> {
        let code = response.status().as_u16();
        let text = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let is_text = text.is_some_and(|media| media.starts_with("text/"));
        let mut incoming = response.into_body();
        let mut body = BytesMut::new();
        while let Some(frame) = incoming.frame().await {
            let failed = |why: String| CallError::Transport(format!("Post {url:?}: {why}"));
            let frame = frame.map_err(|e| failed(hyper_text(&e)))?;
            let Ok(data) = frame.into_data() else { continue };
            if body.len() + data.len() > RESPONSE_LIMIT_BYTES {
                return Err(failed(format!("the answer has more than {RESPONSE_LIMIT_BYTES} bytes")));
            }
            body.extend_from_slice(&data);
        }
        let mut idle = self.idle.lock().expect("no holder of the connections panics");
        if idle.len() < IDLE_CONNECTIONS {
            idle.push((ctx.clock.instant(), sender));
        }
        drop(idle);
        let body = body.freeze();
        if (200..=206).contains(&code) {
            return Ok(body);
        }
        let own = serde_json::from_slice(&body).ok().and_then(|value| Status::from_json(&value));
        let status = own.filter(|status| !status.is_success()).unwrap_or_else(|| {
            let shown =
                if is_text { String::from_utf8_lossy(&body).trim().to_owned() } else { "unknown".into() };
            Status::generic_server_response(code, "post", &GroupResource::new("", ""), "", &shown)
        });
        Err(CallError::Status(Box::new(status)))
    }
}

/// An error of hyper as Go's transport words it where it has words of its own.
fn hyper_text(error: &hyper::Error) -> String {
    if error.is_incomplete_message() || error.is_canceled() {
        return "EOF".to_owned();
    }
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}
