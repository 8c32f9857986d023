//! The HTTPS transport: one HTTP/2 connection that is made anew when it breaks.

use crate::{Body, Error, Transport};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::{BodyStream, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

/// Reaches an API server over TLS under the identity of a client certificate or a bearer token.
pub struct Https {
    shared: Arc<Shared>,
}

struct Shared {
    host: String,
    port: u16,
    tls: TlsConnector,
    authorization: Option<http::HeaderValue>,
    connection: Mutex<Option<SendRequest<Full<Bytes>>>>,
}

impl Https {
    /// A transport to `host:port`. `tls` carries the trusted roots and the client certificate, if any; a bearer
    /// `token` is sent with every request.
    pub fn new(host: &str, port: u16, mut tls: ClientConfig, token: Option<&str>) -> Result<Self, Error> {
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let authorization = token.map(|token| http::HeaderValue::from_str(&format!("Bearer {token}")));
        let mut authorization =
            authorization.transpose().map_err(|_| Error::Config("the token is not plain text".into()))?;
        if let Some(value) = &mut authorization {
            value.set_sensitive(true);
        }
        let tls = TlsConnector::from(Arc::new(tls));
        let shared = Shared { host: host.to_owned(), port, tls, authorization, connection: Mutex::new(None) };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Lets requests from now on use a new connection: the identity may have changed. Those under way end on the old.
    pub async fn reconnect(&self) {
        self.shared.connection.lock().await.take();
    }
}

impl Https {
    /// A new connection for HTTP/1.1, for what needs one of its own: an upgrade to a stream (exec, attach, port-forward).
    /// The identity of a client certificate is on it; a bearer token has to be sent by the caller.
    pub async fn connect_http1(&self) -> Result<impl AsyncRead + AsyncWrite + Unpin + Send + use<>, Error> {
        let mut config = ClientConfig::clone(self.shared.tls.config());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        self.shared.connect(&TlsConnector::from(Arc::new(config))).await
    }
}

impl Shared {
    async fn connect(&self, tls: &TlsConnector) -> Result<TlsStream<TcpStream>, Error> {
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(|e| self.failed(e))?;
        tcp.set_nodelay(true).map_err(|e| self.failed(e))?;
        let name = ServerName::try_from(self.host.clone()).map_err(|e| self.failed(e))?;
        tls.connect(name, tcp).await.map_err(|e| self.failed(e))
    }

    fn failed(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::Connect { server: format!("{}:{}", self.host, self.port), source: source.into() }
    }

    async fn sender(&self) -> Result<SendRequest<Full<Bytes>>, Error> {
        let mut connection = self.connection.lock().await;
        if let Some(sender) = connection.as_ref().filter(|s| !s.is_closed()) {
            return Ok(sender.clone());
        }
        let tls = self.connect(&self.tls).await?;
        let (sender, driver) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .adaptive_window(true)
            .handshake(TokioIo::new(tls))
            .await
            .map_err(|e| self.failed(e))?;
        // The connection's driver ends by itself once its last sender and stream are gone.
        hyper::rt::Executor::execute(&TokioExecutor::new(), async move {
            let _ = driver.await;
        });
        *connection = Some(sender.clone());
        Ok(sender)
    }
}

impl Transport for Https {
    fn send(&self, request: http::Request<Bytes>) -> BoxFuture<'static, Result<http::Response<Body>, Error>> {
        let shared = self.shared.clone();
        Box::pin(async move {
            let (mut parts, body) = request.into_parts();
            let target = parts.uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
            parts.uri = format!("https://{}:{}{target}", shared.host, shared.port)
                .parse()
                .map_err(|e| Error::Config(format!("request to {target}: {e}")))?;
            if let Some(value) = &shared.authorization {
                parts.headers.insert(http::header::AUTHORIZATION, value.clone());
            }
            let mut sender = shared.sender().await?;
            let request = http::Request::from_parts(parts, Full::new(body));
            let response = sender.send_request(request).await.map_err(|e| shared.failed(e))?;
            Ok(response.map(|body| {
                use futures_util::StreamExt;
                let frames = BodyStream::new(body);
                Body::stream(frames.filter_map(|frame| {
                    std::future::ready(match frame {
                        Ok(frame) => frame.into_data().ok().map(Ok),
                        Err(error) => Some(Err(error.into())),
                    })
                }))
            }))
        })
    }

    fn server(&self) -> String {
        format!("{}:{}", self.shared.host, self.shared.port)
    }
}
