//! Connections to one extension API server: TLS with the front proxy's certificate, one shared HTTP/2 connection that is
//! made anew when it breaks, and HTTP/1.1 connections for servers without HTTP/2 and for upgrades.

use super::service::Place;
use crate::front::stream::forward::{HOP_BY_HOP, plain_response};
use crate::webhook::ServiceResolver;
use crate::webhook::connect;
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use knarr_base::Ctx;
use knarr_base::clock::timeout;
use knarr_client::Body;
use knarr_tls::{Identity, Trust};
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// How long connecting may take, as upstream's dialer.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);
/// An HTTP/2 connection that nothing comes from is asked after this time whether the other end is there, and given
/// up when no answer comes for the second one, as Go's transport is set up upstream.
const PING: Duration = Duration::from_secs(30);
const PING_LIMIT: Duration = Duration::from_secs(15);
/// The largest document that is read in whole (OpenAPI).
const DOCUMENT_LIMIT_BYTES: usize = 64 * 1024 * 1024;

/// A request's body on its way out.
pub type Outgoing = Either<Incoming, Full<Bytes>>;

/// The certificate by which extension API servers know this server.
pub struct FrontProxy {
    /// The chain.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
}

/// See the module's documentation.
pub struct Backend {
    ctx: Ctx,
    place: Place,
    resolver: Arc<dyn ServiceResolver>,
    tls: Arc<ClientConfig>,
    tls_http1: Arc<ClientConfig>,
    shared: Mutex<Option<Shared>>,
    connecting: tokio::sync::Mutex<()>,
}

#[derive(Clone)]
struct Shared {
    host: (String, u16),
    sender: http2::SendRequest<Outgoing>,
}

/// Why a request could not be sent.
pub enum SendError {
    /// The service has no address.
    Unresolved(String),
    /// Its address does not answer.
    Failed(String),
}

enum Connection {
    Http2(http2::SendRequest<Outgoing>),
    Http1(http1::SendRequest<Outgoing>),
}

impl Backend {
    /// Reaches `place` as the front proxy. The error is for clients.
    pub fn new(
        ctx: &Ctx,
        place: &Place,
        identity: &FrontProxy,
        resolver: Arc<dyn ServiceResolver>,
    ) -> Result<Arc<Self>, String> {
        let config = |alpn: &[&str]| {
            let trust = if place.insecure { Ok(Trust::Anyone) } else { connect::trust(&place.ca_bundle) };
            let identity = Identity::Certificate(identity.chain.clone(), identity.key.clone_key());
            let config = trust.and_then(|trust| knarr_tls::client(trust, identity, alpn));
            config.map(Arc::new).map_err(|e| e.to_string())
        };
        Ok(Arc::new(Self {
            ctx: ctx.clone(),
            place: place.clone(),
            resolver,
            tls: config(&["h2", "http/1.1"])?,
            tls_http1: config(&["http/1.1"])?,
            shared: Mutex::new(None),
            connecting: tokio::sync::Mutex::new(()),
        }))
    }

    /// Host and port behind the service.
    pub fn resolve(&self) -> Result<(String, u16), String> {
        self.resolver.resolve(&self.place.namespace, &self.place.service, self.place.port)
    }

    /// Sends a request whose URI is path and query, and hands back the answer as it comes.
    pub async fn send(&self, request: Request<Outgoing>) -> Result<Response<Body>, SendError> {
        let host = self.resolve().map_err(SendError::Unresolved)?;
        self.send_to(&host, request).await.map_err(SendError::Failed)
    }

    async fn send_to(
        &self,
        host: &(String, u16),
        mut request: Request<Outgoing>,
    ) -> Result<Response<Body>, String> {
        // A connection that ended while it was idle has not seen the request: it is sent once more.
        for last in [false, true] {
            let refused = match self.connection(host).await? {
                Connection::Http2(mut sender) => {
                    address(&mut request, host, true)?;
                    match sender.try_send_request(request).await {
                        Ok(response) => return Ok(plain_response(response, sender)),
                        Err(error) => error,
                    }
                }
                Connection::Http1(mut sender) => {
                    address(&mut request, host, false)?;
                    match sender.try_send_request(request).await {
                        Ok(response) => return Ok(plain_response(response, sender)),
                        Err(error) => error,
                    }
                }
            };
            self.forget();
            let mut refused = refused;
            match refused.take_message() {
                Some(unsent) if !last => request = unsent,
                _ => return Err(go_words(&refused.into_error())),
            }
        }
        Err("http: server closed idle connection".to_owned())
    }

    /// Sends a request that is to upgrade its connection, over a connection of its own.
    pub async fn upgrade(&self, mut request: Request<Outgoing>) -> Result<Response<Incoming>, SendError> {
        let host = self.resolve().map_err(SendError::Unresolved)?;
        let send = async {
            address(&mut request, &host, false)?;
            let tls = self.dial(&host, &self.tls_http1).await?;
            let mut sender = self.http1(tls).await?;
            sender.send_request(request).await.map_err(|e| go_words(&e))
        };
        send.await.map_err(SendError::Failed)
    }

    /// Reads a whole document. `limit` is for everything from connecting on; `afresh` takes a new connection.
    pub async fn fetch(
        &self,
        request: Request<()>,
        limit: Duration,
        afresh: bool,
    ) -> Result<Response<Bytes>, String> {
        let host = self.resolve()?;
        let request = request.map(|()| Either::Right(Full::new(Bytes::new())));
        let work = async {
            let response = if afresh {
                let mut request = request;
                let tls = self.dial(&host, &self.tls_http1).await?;
                address(&mut request, &host, false)?;
                let mut sender = self.http1(tls).await?;
                let response = sender.send_request(request).await.map_err(|e| go_words(&e))?;
                plain_response(response, sender)
            } else {
                self.send_to(&host, request).await?
            };
            let (head, body) = response.into_parts();
            let body = Limited::new(body, DOCUMENT_LIMIT_BYTES).collect().await;
            Ok(Response::from_parts(head, body.map_err(|e| e.to_string())?.to_bytes()))
        };
        match timeout(&*self.ctx.clock, limit, work).await {
            Some(done) => done,
            None => {
                self.forget();
                Err("context deadline exceeded (Client.Timeout exceeded while awaiting headers)".to_owned())
            }
        }
    }

    /// Forgets the shared connection; requests under way go on.
    pub fn forget(&self) {
        self.lock().take();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Shared>> {
        self.shared.lock().expect("no holder of the connection panics")
    }

    fn known(&self, host: &(String, u16)) -> Option<Connection> {
        let shared = self.lock();
        let usable = shared.as_ref().filter(|s| s.host == *host && !s.sender.is_closed())?;
        Some(Connection::Http2(usable.sender.clone()))
    }

    async fn connection(&self, host: &(String, u16)) -> Result<Connection, String> {
        if let Some(known) = self.known(host) {
            return Ok(known);
        }
        let _one = self.connecting.lock().await;
        if let Some(known) = self.known(host) {
            return Ok(known);
        }
        let tls = self.dial(host, &self.tls).await?;
        if tls.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Ok(Connection::Http1(self.http1(tls).await?));
        }
        let (sender, driver) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .adaptive_window(true)
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING_LIMIT)
            .handshake(TokioIo::new(tls))
            .await
            .map_err(|e| go_words(&e))?;
        self.ctx.tasks.spawn_until_stopped("connection to an extension API server", async move {
            if let Err(error) = driver.await {
                tracing::debug!(%error, "a connection to an extension API server broke off");
            }
        });
        *self.lock() = Some(Shared { host: host.clone(), sender: sender.clone() });
        Ok(Connection::Http2(sender))
    }

    async fn dial(
        &self,
        (host, port): &(String, u16),
        tls: &Arc<ClientConfig>,
    ) -> Result<TlsStream<TcpStream>, String> {
        let name = self.place.server_name();
        let connecting = connect::connect(host, *port, &name, tls.clone());
        match timeout(&*self.ctx.clock, CONNECT_LIMIT, connecting).await {
            Some(connected) => connected,
            None => Err(format!("dial tcp {}: i/o timeout", authority(host, *port))),
        }
    }

    async fn http1(&self, tls: TlsStream<TcpStream>) -> Result<http1::SendRequest<Outgoing>, String> {
        let (sender, driver) = http1::handshake(TokioIo::new(tls)).await.map_err(|e| go_words(&e))?;
        self.ctx.tasks.spawn_until_stopped("connection to an extension API server", async move {
            if let Err(error) = driver.with_upgrades().await {
                tracing::debug!(%error, "a connection to an extension API server broke off");
            }
        });
        Ok(sender)
    }
}

/// Host and port as URLs have them.
pub fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Says where the request goes in the way of its protocol.
fn address<B>(request: &mut Request<B>, (host, port): &(String, u16), http2: bool) -> Result<(), String> {
    let authority = authority(host, *port);
    let path = request.uri().path_and_query().map_or("/", |p| p.as_str()).to_owned();
    let uri = if http2 { format!("https://{authority}{path}") } else { path };
    *request.uri_mut() = uri.parse::<Uri>().map_err(|e| format!("the path cannot be passed on: {e}"))?;
    if http2 {
        *request.version_mut() = http::Version::HTTP_2;
        request.headers_mut().remove(header::HOST);
        for name in HOP_BY_HOP {
            request.headers_mut().remove(name);
        }
    } else {
        *request.version_mut() = http::Version::HTTP_11;
        let host = HeaderValue::from_str(&authority).map_err(|e| e.to_string())?;
        request.headers_mut().insert(header::HOST, host);
    }
    Ok(())
}

/// hyper's errors in Go's words, as far as clients know them.
fn go_words(error: &hyper::Error) -> String {
    if error.is_incomplete_message() {
        return "EOF".to_owned();
    }
    if error.is_closed() || error.is_canceled() {
        return "http: server closed idle connection".to_owned();
    }
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}
