//! An extension API server for tests: TLS on loopback, HTTP/2 and HTTP/1.1, clients only with the front proxy's
//! certificate. It serves `things` of `ext.example.com/v1` and remembers what it was asked.

use bytes::Bytes;
use futures_util::StreamExt;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// What it was asked.
#[derive(Clone, Debug)]
pub struct Seen {
    pub path: String,
    pub headers: HeaderMap,
    pub http2: bool,
    pub body: String,
}

#[derive(Default)]
struct Shared {
    seen: Mutex<Vec<Seen>>,
    /// Everything is answered with 500.
    broken: AtomicBool,
    /// There is no aggregated discovery.
    legacy: AtomicBool,
    /// Lets the second event of a watch go.
    go: Notify,
}

/// See the module's documentation. It ends when it is dropped.
pub struct Extension {
    pub port: u16,
    pub ca: String,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

impl Extension {
    /// Starts one whose certificate is for `name`; its clients must show a certificate that `clients` signed.
    pub async fn start(name: &str, clients: &str) -> Self {
        let (ca, acceptor) = certificates(name, clients);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared: Arc<Shared> = Arc::default();
        let mut tasks = JoinSet::new();
        let of_connections = shared.clone();
        tasks.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                let (acceptor, shared) = (acceptor.clone(), of_connections.clone());
                open.spawn(async move {
                    let Ok(stream) = acceptor.accept(tcp).await else { return };
                    let service = hyper::service::service_fn(move |request| answer(request, shared.clone()));
                    let _ = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
                        .serve_connection_with_upgrades(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { port, ca, shared, _tasks: tasks }
    }

    /// The requests whose path begins like that.
    pub fn seen(&self, path: &str) -> Vec<Seen> {
        let seen = self.shared.seen.lock().unwrap();
        seen.iter().filter(|s| s.path.starts_with(path)).cloned().collect()
    }

    pub fn set_broken(&self, broken: bool) {
        self.shared.broken.store(broken, Ordering::Relaxed);
    }

    pub fn set_legacy(&self) {
        self.shared.legacy.store(true, Ordering::Relaxed);
    }

    /// Lets a watch go on.
    pub fn go_on(&self) {
        self.shared.go.notify_one();
    }
}

fn certificates(name: &str, clients: &str) -> (String, TlsAcceptor) {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::<String>::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let roots = Arc::new(knarr_tls::roots("clients", clients).unwrap());
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(roots, knarr_tls::provider())
        .build()
        .unwrap();
    let mut config = rustls::ServerConfig::builder_with_provider(knarr_tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![leaf.der().clone()],
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    (pem, TlsAcceptor::from(Arc::new(config)))
}

type Out = Response<UnsyncBoxBody<Bytes, Infallible>>;

fn full(code: u16, content_type: &str, body: impl Into<Bytes>) -> Out {
    let mut response = Response::new(Full::new(body.into()).boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    let content_type = HeaderValue::from_str(content_type).unwrap();
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

fn json_text(value: &Value) -> Out {
    full(200, "application/json", value.to_string())
}

async fn answer(mut request: Request<Incoming>, shared: Arc<Shared>) -> Result<Out, Infallible> {
    let upgrade = request.headers().get(header::UPGRADE).cloned();
    let upgraded = upgrade.as_ref().map(|_| hyper::upgrade::on(&mut request));
    let (head, body) = request.into_parts();
    let path = head.uri.path_and_query().unwrap().to_string();
    let body = match upgraded {
        Some(_) => String::new(),
        None => String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap(),
    };
    shared.seen.lock().unwrap().push(Seen {
        path: path.clone(),
        headers: head.headers.clone(),
        http2: head.version == http::Version::HTTP_2,
        body: body.clone(),
    });
    if shared.broken.load(Ordering::Relaxed) {
        return Ok(full(500, "text/plain", "broken"));
    }
    if let (Some(protocol), Some(upgraded)) = (upgrade, upgraded) {
        #[allow(clippy::disallowed_methods)] // a test's peer, ended with the runtime
        tokio::spawn(async move {
            let mut io = TokioIo::new(upgraded.await.unwrap());
            let mut heard = [0; 4];
            io.read_exact(&mut heard).await.unwrap();
            io.write_all(&heard).await.unwrap();
            io.shutdown().await.unwrap();
        });
        let mut response = full(101, "text/plain", "");
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        response.headers_mut().insert(header::UPGRADE, protocol);
        return Ok(response);
    }
    let resource = json!({"resource": "things", "singularResource": "thing", "scope": "Namespaced",
        "responseKind": {"group": "ext.example.com", "version": "v1", "kind": "Thing"},
        "verbs": ["create", "delete", "get", "list", "watch"]});
    Ok(match path.as_str() {
        "/apis" if !shared.legacy.load(Ordering::Relaxed) => full(
            200,
            "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
            json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "items": [
                {"metadata": {"name": "ext.example.com"},
                 "versions": [{"version": "v1", "resources": [resource]}]}]})
            .to_string(),
        ),
        "/apis" => json_text(&json!({"kind": "APIGroupList", "groups": []})),
        "/apis/ext.example.com/v1" => json_text(&json!({"kind": "APIResourceList", "apiVersion": "v1",
            "groupVersion": "ext.example.com/v1", "resources": [
                {"name": "things", "singularName": "thing", "namespaced": true, "kind": "Thing", "verbs": ["get"]}]})),
        "/openapi/v3" => json_text(&json!({"paths": {
            "apis/ext.example.com/v1": {"serverRelativeURL": "/openapi/v3/apis/ext.example.com/v1?hash=1"},
            "api/v1": {"serverRelativeURL": "/openapi/v3/api/v1?hash=not-its-own"}}})),
        "/openapi/v3/apis/ext.example.com/v1" => json_text(&json!({"openapi": "3.0.0", "of": "extension"})),
        "/openapi/v2" => json_text(&json!({"swagger": "2.0",
            "paths": {
                "/apis/ext.example.com/v1/things": {"get": {"responses": {"200": {"description": "OK",
                    "schema": {"$ref": "#/definitions/com.example.Thing"}}}}},
                "/apis/": {"get": {}}},
            "definitions": {"com.example.Thing": {"type": "object"}}})),
        _ if path.contains("watch=") => {
            let event = |n: u8| Ok(Frame::data(Bytes::from(format!("{{\"type\":\"ADDED\",\"n\":{n}}}\n"))));
            let first = futures_util::stream::once(async move { event(1) });
            let second = futures_util::stream::once(async move {
                shared.go.notified().await;
                event(2)
            });
            let mut response = Response::new(StreamBody::new(first.chain(second)).boxed_unsync());
            let content_type = HeaderValue::from_static("application/json;stream=watch");
            response.headers_mut().insert(header::CONTENT_TYPE, content_type);
            response
        }
        _ => {
            let echo = json!({"kind": "Thing", "method": head.method.as_str(), "path": path, "body": body});
            full(
                if head.method == http::Method::POST { 201 } else { 200 },
                "application/json",
                echo.to_string(),
            )
        }
    })
}
