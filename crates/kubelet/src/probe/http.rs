//! HTTP checks: any status from 200 to 399 is a success; certificates are not verified, as upstream's are not.

use super::check::{Outcome, dial_error};
use crate::kubelet::Shared;
use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use knarr_base::clock::timeout;
use knarr_tls::{Identity, Trust};
use rustls::pki_types::ServerName;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

const MOST_REDIRECTS: usize = 10;

/// A GET to make.
pub(super) struct Get {
    pub(super) https: bool,
    pub(super) path: String,
    pub(super) headers: Vec<(String, String)>,
    /// Who asks.
    pub(super) agent: &'static str,
}

impl Get {
    fn url(&self, address: SocketAddr) -> String {
        format!("{}://{address}{}", if self.https { "https" } else { "http" }, self.path)
    }
}

/// Probes once.
pub(super) async fn probe(kubelet: &Arc<Shared>, address: SocketAddr, get: &Get, limit: Duration) -> Outcome {
    match timeout(&*kubelet.ctx.clock, limit, request(kubelet, address, get)).await {
        Some(Ok(status)) if (200..400).contains(&status) => Outcome::Success,
        Some(Ok(status)) => Outcome::Failure(format!("HTTP probe failed with statuscode: {status}")),
        Some(Err(message)) => Outcome::Failure(format!("Get \"{}\": {message}", get.url(address))),
        None => Outcome::Failure(format!(
            "Get \"{}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
            get.url(address)
        )),
    }
}

/// The status code of the answer, redirects on the same host followed.
pub(super) async fn request(kubelet: &Arc<Shared>, address: SocketAddr, get: &Get) -> Result<u16, String> {
    let mut path = get.path.clone();
    for _ in 0..MOST_REDIRECTS {
        let stream = TcpStream::connect(address).await.map_err(|e| dial_error(address, &e))?;
        let (status, location) = if get.https {
            let name = ServerName::IpAddress(address.ip().into());
            let stream = connector().connect(name, stream).await.map_err(|e| e.to_string())?;
            exchange(kubelet, stream, address, get, &path).await?
        } else {
            exchange(kubelet, stream, address, get, &path).await?
        };
        let location = location.filter(|_| (300..400).contains(&status) && status != 304);
        let Some(location) = location else { return Ok(status) };
        match location.parse::<Uri>() {
            Ok(uri)
                if uri.host().is_none()
                    || uri.authority().map(|a| a.as_str()) == Some(&address.to_string()) =>
            {
                path = uri.path_and_query().map_or_else(|| "/".to_owned(), |p| p.as_str().to_owned());
            }
            // A redirect to somewhere else is an answer, and not followed.
            _ => return Ok(status),
        }
    }
    Err(format!("stopped after {MOST_REDIRECTS} redirects"))
}

async fn exchange(
    kubelet: &Arc<Shared>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    address: SocketAddr,
    get: &Get,
    path: &str,
) -> Result<(u16, Option<String>), String> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    kubelet.ctx.tasks.spawn_until_stopped("probe-connection", async move {
        let _ = connection.await;
    });
    let mut request = Request::builder().uri(path);
    let given = |name: &str| get.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    if !given("host") {
        request = request.header(header::HOST, address.to_string());
    }
    if !given("user-agent") {
        request = request.header(header::USER_AGENT, get.agent);
    }
    if !given("accept") {
        request = request.header(header::ACCEPT, "*/*");
    }
    for (name, value) in &get.headers {
        request = request.header(name, value);
    }
    let request =
        request.header(header::CONNECTION, "close").body(Empty::<Bytes>::new()).map_err(|e| e.to_string())?;
    let response = sender.send_request(request).await.map_err(|e| plain(&e))?;
    let location = response.headers().get(header::LOCATION).and_then(|l| l.to_str().ok()).map(str::to_owned);
    let status = response.status().as_u16();
    // The rest is read so that the server is not cut off in the middle of its answer.
    let mut body = response.into_body();
    let mut read = 0;
    while let Some(Ok(frame)) = body.frame().await {
        read += frame.data_ref().map_or(0, Bytes::len);
        if read > 10 << 10 {
            break;
        }
    }
    Ok((status, location))
}

fn plain(error: &hyper::Error) -> String {
    if error.is_incomplete_message() { "EOF".to_owned() } else { error.to_string() }
}

/// A probe asks whether the server answers, not who it is.
fn connector() -> tokio_rustls::TlsConnector {
    let config = knarr_tls::client(Trust::Anyone, Identity::None, &[]);
    tokio_rustls::TlsConnector::from(Arc::new(config.expect("ring supports the default versions")))
}
