//! The kubelet's HTTPS server: logs, exec, attach, port-forward, pods, stats, metrics, for whom the API server lets in.

mod auth;
mod configz;
mod files;
mod forward;
mod local_path;
mod logs;
mod remote;
mod session;
mod spdy;
mod stats;
mod upgrade;
mod websocket;

use crate::config::KubeletError;
use crate::kubelet::Shared;
use auth::{Auth, User};
use http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use knarr_base::clock::timeout;
use knarr_client::Body;
use percent_encoding::percent_decode_str;
use session::{Kind, Place};
use stats::Rates;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// A client must have finished the TLS handshake by then.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// What all connections share.
struct Server {
    kubelet: Arc<Shared>,
    auth: Auth,
    rates: Rates,
}

/// Starts serving; nothing is served without a certificate.
pub(crate) async fn start(kubelet: &Arc<Shared>) -> Result<(), KubeletError> {
    let Some(tls) = kubelet.config.tls.clone() else { return Ok(()) };
    let address = kubelet.config.listen;
    let listener =
        TcpListener::bind(address).await.map_err(|source| KubeletError::Listen { address, source })?;
    let kubelet = kubelet.clone();
    let auth = Auth::new(kubelet.client.clone(), &kubelet.config.node_name);
    let shared = Arc::new(Server { kubelet: kubelet.clone(), auth, rates: Rates::default() });
    let tasks = kubelet.ctx.tasks.clone();
    tasks.clone().spawn_until_stopped("server", async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let serve = serve(shared.clone(), stream, tls.clone());
                    tasks.spawn_until_stopped("connection", serve);
                }
                Err(error) => {
                    // Out of descriptors, most likely: they come back when connections end.
                    tracing::warn!(%error, "cannot accept a connection");
                    kubelet.ctx.clock.sleep(Duration::from_millis(100)).await;
                }
            }
        }
    });
    Ok(())
}

async fn serve(server: Arc<Server>, stream: TcpStream, tls: Arc<rustls::ServerConfig>) {
    let _ = stream.set_nodelay(true);
    let clock = server.kubelet.ctx.clock.clone();
    let accepted = timeout(&*clock, HANDSHAKE_LIMIT, TlsAcceptor::from(tls).accept(stream)).await;
    let Some(Ok(stream)) = accepted else { return };
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let user = Arc::new(certificate.and_then(|certificate| User::certified(certificate)));
    let service = hyper::service::service_fn(move |request| {
        let (server, user) = (server.clone(), user.clone());
        async move {
            let (method, path) = (request.method(), request.uri().path());
            let admitted = server.auth.admit(user.as_ref().as_ref(), method, path, request.headers()).await;
            Ok::<_, Infallible>(match admitted {
                Ok(()) => route(&server, request).await,
                Err((code, words)) => text(code, words),
            })
        }
    });
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
}

/// An answer of plain text.
fn text(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(Body::full(text.into()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn json(value: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(Body::full(value.to_string()));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

/// The parameters of a request.
struct Query(Vec<(String, String)>);

impl Query {
    fn of(request: &Request<Incoming>) -> Self {
        let decode =
            |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
        let pairs = request.uri().query().unwrap_or_default().split('&').filter(|p| !p.is_empty());
        Self(
            pairs
                .map(|p| p.split_once('=').unwrap_or((p, "")))
                .map(|(k, v)| (decode(k), decode(v)))
                .collect(),
        )
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(n, _)| n == name).map(|(_, v)| v.clone()).collect()
    }

    fn is_set(&self, name: &str) -> bool {
        matches!(self.get(name), Some("1" | "true" | "True" | "TRUE" | "t"))
    }
}

async fn route(server: &Server, request: Request<Incoming>) -> Response<Body> {
    let kubelet = &server.kubelet;
    let path = request.uri().path().to_owned();
    let decode = |part: &str| percent_decode_str(part).decode_utf8_lossy().into_owned();
    let parts: Vec<String> = path.split('/').filter(|p| !p.is_empty()).map(decode).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let query = Query::of(&request);
    let read = request.method() == Method::GET || request.method() == Method::HEAD;
    let post = request.method() == Method::POST;
    match parts[..] {
        ["healthz"] if read => text(StatusCode::OK, "ok"),
        ["configz"] if read => configz::serve(kubelet),
        ["pods"] if read => stats::pods(kubelet, false),
        ["runningpods"] if read => stats::pods(kubelet, true),
        ["metrics"] if read => {
            kubelet.metrics.refresh(kubelet);
            // The text of the registry says at its end that it is all.
            stats::metrics_text(stats::node_metrics(kubelet) + &kubelet.ctx.metrics.encode())
        }
        ["metrics", "cadvisor"] if read => stats::cadvisor_metrics(kubelet).await,
        ["metrics", "probes"] if read => stats::metrics_text(kubelet.metrics.probes.text()),
        ["metrics", "resource"] if read => stats::resource_metrics(kubelet).await,
        ["stats", "summary"] => stats::summary(kubelet, &server.rates, &query).await,
        ["logs", ..] if read => {
            let place = path.trim_start_matches('/').trim_start_matches("logs").trim_start_matches('/');
            files::serve(files::ROOT, decode(place), request.method().clone()).await
        }
        ["containerLogs", namespace, pod, container] if read => {
            logs::serve(kubelet, namespace, pod, container, &query).await
        }
        ["exec", ref rest @ ..] if let Some(of) = Place::read(rest) => {
            session::open(Kind::Exec, kubelet, request, of, &query).await
        }
        ["attach", ref rest @ ..] if let Some(of) = Place::read(rest) => {
            session::open(Kind::Attach, kubelet, request, of, &query).await
        }
        ["run", ref rest @ ..] if post && let Some(of) = Place::read(rest) => {
            session::run_once(kubelet, of, &query).await
        }
        ["localPath", volume] => local_path::serve(kubelet, request.method(), volume).await,
        ["portForward", namespace, pod] => forward::serve(kubelet, request, namespace, pod, None),
        ["portForward", namespace, pod, uid] => forward::serve(kubelet, request, namespace, pod, Some(uid)),
        _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}
