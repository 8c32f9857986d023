//! The kubelet's HTTPS server: logs, exec, attach, port-forward, pods, stats, metrics. Clients prove who they
//! are by certificate, and only those named in the configuration (and cluster administrators) are let in.

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
use http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use knarr_base::clock::timeout;
use knarr_client::Body;
use percent_encoding::percent_decode_str;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use x509_parser::prelude::{FromDer, X509Certificate};

/// A client must have finished the TLS handshake by then.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Members may do anything.
const ADMINISTRATORS: &str = "system:masters";

/// Starts serving; nothing is served without a certificate.
pub(crate) async fn start(kubelet: &Arc<Shared>) -> Result<(), KubeletError> {
    let Some(tls) = kubelet.config.tls.clone() else { return Ok(()) };
    let address = kubelet.config.listen;
    let listener =
        TcpListener::bind(address).await.map_err(|source| KubeletError::Listen { address, source })?;
    let kubelet = kubelet.clone();
    let tasks = kubelet.ctx.tasks.clone();
    tasks.clone().spawn_until_stopped("server", async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let serve = serve(kubelet.clone(), stream, tls.clone());
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

async fn serve(kubelet: Arc<Shared>, stream: TcpStream, tls: Arc<rustls::ServerConfig>) {
    let _ = stream.set_nodelay(true);
    let accepted = timeout(&*kubelet.ctx.clock, HANDSHAKE_LIMIT, TlsAcceptor::from(tls).accept(stream)).await;
    let Some(Ok(stream)) = accepted else { return };
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let allowed = certificate.is_some_and(|c| may_enter(&kubelet.config.allowed_clients, c));
    let service = hyper::service::service_fn(move |request| {
        let kubelet = kubelet.clone();
        async move {
            let is_health = request.uri().path() == "/healthz";
            Ok::<_, Infallible>(match allowed || is_health {
                true => route(&kubelet, request).await,
                false => text(StatusCode::FORBIDDEN, "Forbidden"),
            })
        }
    });
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
}

fn may_enter(allowed: &[String], certificate: &[u8]) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return false };
    let subject = certificate.subject();
    let named = subject.iter_common_name().filter_map(|n| n.as_str().ok());
    let groups = subject.iter_organization().filter_map(|o| o.as_str().ok());
    named.into_iter().any(|name| allowed.iter().any(|a| a == name))
        || groups.into_iter().any(|group| group == ADMINISTRATORS)
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

async fn route(kubelet: &Arc<Shared>, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let decode = |part: &str| percent_decode_str(part).decode_utf8_lossy().into_owned();
    let parts: Vec<String> = path.split('/').filter(|p| !p.is_empty()).map(decode).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let query = Query::of(&request);
    let read = request.method() == Method::GET || request.method() == Method::HEAD;
    match parts[..] {
        ["healthz"] => text(StatusCode::OK, "ok"),
        ["pods"] if read => stats::pods(kubelet, false),
        ["runningpods"] if read => stats::pods(kubelet, true),
        ["metrics"] if read => {
            kubelet.metrics.refresh(kubelet);
            text(StatusCode::OK, kubelet.ctx.metrics.encode())
        }
        ["metrics", "resource"] if read => stats::resource_metrics(kubelet).await,
        ["stats", "summary"] => stats::summary(kubelet).await,
        ["containerLogs", namespace, pod, container] if read => {
            logs::serve(kubelet, namespace, pod, container, &query).await
        }
        ["exec", namespace, pod, container] => {
            session::exec(kubelet, request, namespace, pod, None, container, &query).await
        }
        ["exec", namespace, pod, uid, container] => {
            session::exec(kubelet, request, namespace, pod, Some(uid), container, &query).await
        }
        ["attach", namespace, pod, container] => {
            session::attach(kubelet, request, namespace, pod, None, container, &query).await
        }
        ["attach", namespace, pod, uid, container] => {
            session::attach(kubelet, request, namespace, pod, Some(uid), container, &query).await
        }
        ["localPath", volume] => local_path::serve(kubelet, request.method(), volume).await,
        ["portForward", namespace, pod] => forward::serve(kubelet, request, namespace, pod, None),
        ["portForward", namespace, pod, uid] => forward::serve(kubelet, request, namespace, pod, Some(uid)),
        _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_named_and_administrators_may_enter() {
        let certificate = |name: &str, group: Option<&str>| {
            let mut params = rcgen::CertificateParams::default();
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            if let Some(group) = group {
                params.distinguished_name.push(rcgen::DnType::OrganizationName, group);
            }
            let key = rcgen::KeyPair::generate().unwrap();
            params.self_signed(&key).unwrap().der().to_vec()
        };
        let allowed = vec!["kube-apiserver-kubelet-client".to_owned()];
        let enters = |der: Vec<u8>| may_enter(&allowed, &der);
        assert!(enters(certificate("kube-apiserver-kubelet-client", None)));
        assert!(enters(certificate("anybody", Some("system:masters"))));
        assert!(!enters(certificate("system:node:n2", Some("system:nodes"))));
    }
}
