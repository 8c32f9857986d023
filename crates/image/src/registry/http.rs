//! As much of an HTTP client as pulls need: one HTTP/1.1 connection a request, over TLS unless the host is
//! configured for plain HTTP, redirects followed without handing credentials to another host.

use super::config::Registries;
use super::tls;
use crate::store::Options;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use knarr_base::Ctx;
use knarr_base::clock::timeout;
use rustls::pki_types::ServerName;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// To a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);
/// To the head of an answer, and between two pieces of its body.
const STALL_LIMIT: Duration = Duration::from_secs(60);
const MOST_REDIRECTS: usize = 10;
/// Why there is no answer; its text is in the style of Go's net/http, as containerd's messages have it.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) text: String,
    pub(super) kind: Kind,
}

/// What a failure says about trying again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The host cannot be reached.
    Unreachable,
    /// It does not speak TLS, or shows the wrong certificate.
    Tls,
    /// The connection broke: worth another attempt.
    Broken,
    /// Anything else.
    Other,
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self { text, kind: Kind::Other }
    }
}

impl From<&str> for Failure {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl Failure {
    fn of(kind: Kind, text: impl Into<String>) -> Self {
        Self { text: text.into(), kind }
    }
}

/// A request without its headers.
#[derive(Clone, Copy)]
pub(super) struct Ask<'a> {
    pub(super) method: &'a Method,
    pub(super) url: &'a str,
    /// A form, for requests that have one.
    pub(super) form: Option<&'a str>,
}

impl<'a> Ask<'a> {
    pub(super) fn get(url: &'a str) -> Self {
        Self { method: &Method::GET, url, form: None }
    }
}

pub(super) struct Http<'a> {
    pub(super) ctx: &'a Ctx,
    pub(super) options: &'a Options,
    pub(super) registries: Arc<Registries>,
    /// For hosts of which the configuration says nothing.
    pub(super) tls: &'a OnceLock<Arc<rustls::ClientConfig>>,
}

impl Http<'_> {
    /// Whether a registry is spoken to without TLS.
    pub(super) fn is_plain(&self, host: &str) -> bool {
        let bare = host.rsplit_once(':').map_or(host, |(name, _)| name);
        self.options.plain_http.iter().any(|p| p == host || p == bare)
    }

    /// Sends a request and follows redirects.
    pub(super) async fn send(
        &self,
        ask: Ask<'_>,
        headers: &HeaderMap,
    ) -> Result<Response<Incoming>, Failure> {
        let Ask { method, url, form } = ask;
        let mut headers = headers.clone();
        let mut uri: Uri = url.parse().map_err(|e| format!("{method} {url:?}: {e}"))?;
        for _ in 0..MOST_REDIRECTS {
            let response = self.once(method, &uri, &headers, form).await.map_err(|e| Failure {
                text: format!("{} \"{uri}\": {}", capitalized(method), e.text),
                kind: e.kind,
            })?;
            if !response.status().is_redirection() || response.status() == StatusCode::NOT_MODIFIED {
                return Ok(response);
            }
            if form.is_some() {
                // A form may carry a secret: it goes to nobody else.
                return Err(format!("{} \"{uri}\": unexpected redirect", capitalized(method)).into());
            }
            let location = response.headers().get(header::LOCATION).and_then(|l| l.to_str().ok());
            let next = location.and_then(|l| join(&uri, l)).ok_or("a redirect without a usable location")?;
            if next.authority() != uri.authority() || next.scheme() != uri.scheme() {
                headers.remove(header::AUTHORIZATION);
            }
            if uri.scheme_str() == Some("https") && next.scheme_str() != Some("https") {
                return Err(format!("{} \"{uri}\": redirected to plain HTTP", capitalized(method)).into());
            }
            uri = next;
        }
        Err(format!("{} \"{url}\": stopped after {MOST_REDIRECTS} redirects", capitalized(method)).into())
    }

    async fn once(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        form: Option<&str>,
    ) -> Result<Response<Incoming>, Failure> {
        let host = uri.host().ok_or("no Host in request URL")?;
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let secure = uri.scheme_str() != Some("http");
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let stream = async {
            let addresses: Vec<_> = tokio::net::lookup_host((bare, port))
                .await
                .map_err(|_| format!("dial tcp: lookup {bare}: no such host"))?
                .collect();
            let mut last = format!("dial tcp: lookup {bare}: no such host");
            for address in addresses {
                match TcpStream::connect(address).await {
                    Ok(stream) => return Ok(stream),
                    Err(error) => last = format!("dial tcp {address}: connect: {}", plain_text(&error)),
                }
            }
            Err(last)
        };
        let stream = timeout(&*self.ctx.clock, CONNECT_LIMIT, stream)
            .await
            .unwrap_or_else(|| Err(format!("dial tcp {host}:{port}: i/o timeout")))
            .map_err(|text| Failure::of(Kind::Unreachable, text))?;
        let _ = stream.set_nodelay(true);
        let mut request = Request::builder()
            .method(method)
            .uri(uri.path_and_query().map_or_else(|| "/".to_owned(), |p| p.as_str().to_owned()));
        if let Some(all) = request.headers_mut() {
            *all = headers.clone();
            let authority = uri.authority().map(|a| a.as_str()).unwrap_or(host);
            all.insert(header::HOST, HeaderValue::from_str(authority).map_err(|e| e.to_string())?);
            all.insert(
                header::USER_AGENT,
                HeaderValue::from_static(concat!("knarr/", env!("CARGO_PKG_VERSION"))),
            );
        }
        let body = form.map(|f| Bytes::copy_from_slice(f.as_bytes())).unwrap_or_default();
        let request = request.body(Full::new(body)).map_err(|e| e.to_string())?;
        if secure {
            let name = ServerName::try_from(bare.to_owned()).map_err(|e| e.to_string())?;
            let authority = uri.authority().map_or(host, |a| a.as_str());
            let connector = tokio_rustls::TlsConnector::from(self.tls(authority)?);
            let stream = timeout(&*self.ctx.clock, CONNECT_LIMIT, connector.connect(name, stream))
                .await
                .ok_or_else(|| Failure::of(Kind::Tls, "net/http: TLS handshake timeout"))?
                .map_err(|e| Failure::of(Kind::Tls, format!("tls: {e}")))?;
            self.exchange(stream, request).await
        } else {
            self.exchange(stream, request).await
        }
    }

    async fn exchange(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, Failure> {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        self.ctx.tasks.spawn_until_stopped("registry-connection", async move {
            let _ = connection.await;
        });
        timeout(&*self.ctx.clock, STALL_LIMIT, sender.send_request(request))
            .await
            .ok_or_else(|| Failure::of(Kind::Broken, "timeout awaiting response headers"))?
            .map_err(|e| Failure::of(Kind::Broken, e.to_string()))
    }

    /// The next piece of a body; `None` at its end.
    pub(super) async fn chunk(&self, body: &mut Incoming) -> Result<Option<Bytes>, Failure> {
        loop {
            let frame = timeout(&*self.ctx.clock, STALL_LIMIT, body.frame()).await;
            match frame.ok_or_else(|| Failure::of(Kind::Broken, "the registry stopped sending"))? {
                None => return Ok(None),
                Some(Err(error)) => return Err(Failure::of(Kind::Broken, error.to_string())),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// A whole body of at most `limit` bytes.
    pub(super) async fn body(&self, response: Response<Incoming>, limit: u64) -> Result<Vec<u8>, Failure> {
        let mut body = response.into_body();
        let mut all = Vec::new();
        while let Some(chunk) = self.chunk(&mut body).await? {
            if (all.len() + chunk.len()) as u64 > limit {
                return Err(format!("the answer has more than {limit} bytes").into());
            }
            all.extend_from_slice(&chunk);
        }
        Ok(all)
    }

    fn tls(&self, host: &str) -> Result<Arc<rustls::ClientConfig>, Failure> {
        let roots = self.options.roots.as_deref();
        if let Some(said) = self.registries.tls(host) {
            return Ok(tls::client(roots, Some(said)).map_err(|e| e.to_string())?);
        }
        if let Some(config) = self.tls.get() {
            return Ok(config.clone());
        }
        let config = tls::client(roots, None).map_err(|e| e.to_string())?;
        Ok(self.tls.get_or_init(|| config).clone())
    }
}

/// Whether a host (with or without port) is this machine, which may be spoken to without TLS.
pub(super) fn is_loopback(host: &str) -> bool {
    let bare = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    bare == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|a| a.is_loopback())
}

/// `Get`, `Head`: Go's way of naming the method in an error.
fn capitalized(method: &Method) -> String {
    let text = method.as_str();
    format!("{}{}", &text[..1], text[1..].to_lowercase())
}

fn plain_text(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        std::io::ErrorKind::NetworkUnreachable => "network is unreachable".to_owned(),
        std::io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
        _ => error.to_string(),
    }
}

fn join(base: &Uri, location: &str) -> Option<Uri> {
    if location.starts_with("http://") || location.starts_with("https://") {
        return location.parse().ok();
    }
    let path = if location.starts_with('/') {
        location.to_owned()
    } else {
        format!("{}/{location}", base.path().rsplit_once('/').map_or("", |(dir, _)| dir))
    };
    Uri::builder()
        .scheme(base.scheme_str().unwrap_or("https"))
        .authority(base.authority()?.as_str())
        .path_and_query(path)
        .build()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_loopback() {
        for (host, is) in [
            ("localhost:5000", true),
            ("127.0.0.7", true),
            ("[::1]:5000", true),
            ("localhost.example", false),
            ("10.0.0.1:5000", false),
        ] {
            assert_eq!(is_loopback(host), is, "{host}");
        }
    }

    #[test]
    fn redirects_are_joined_to_the_request() {
        let base: Uri = "https://r.example:5000/v2/a/blobs/x".parse().unwrap();
        for (location, joined) in [
            ("https://cdn.example/y?z=1", "https://cdn.example/y?z=1"),
            ("/other?a=b", "https://r.example:5000/other?a=b"),
            ("y", "https://r.example:5000/v2/a/blobs/y"),
        ] {
            assert_eq!(join(&base, location).unwrap(), joined);
        }
    }
}
