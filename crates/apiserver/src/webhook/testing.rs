//! A webhook for tests: a TLS server on loopback with a certificate of its own making, whose answers a function
//! decides.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::Value;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// What a request is answered: a code and a body, or nothing at all for as long as the client waits.
pub type Answer = Option<(u16, String)>;
type Decide = dyn Fn(&str, &Value) -> Answer + Send + Sync;

/// See the module's documentation. It ends when it is dropped.
pub struct TestWebhook {
    /// Where it listens.
    pub address: SocketAddr,
    /// PEM of the certificate that signed its own.
    pub ca: String,
    calls: Arc<Mutex<Vec<(String, Value)>>>,
    connections: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl TestWebhook {
    /// Starts one that calls itself by `names` (DNS names or addresses). `decide` gets path (with its query) and
    /// body.
    pub async fn start(
        names: &[&str],
        decide: impl Fn(&str, &Value) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let (ca, acceptor) = certificates(names);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let calls: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
        let connections: Arc<AtomicUsize> = Arc::default();
        let decide: Arc<Decide> = Arc::new(decide);
        let mut tasks = JoinSet::new();
        let (seen, count) = (calls.clone(), connections.clone());
        tasks.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                let (acceptor, seen, decide) = (acceptor.clone(), seen.clone(), decide.clone());
                count.fetch_add(1, Ordering::Relaxed);
                open.spawn(async move {
                    let Ok(stream) = acceptor.accept(tcp).await else { return };
                    let service = hyper::service::service_fn(move |request| {
                        answer(request, seen.clone(), decide.clone())
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { address, ca, calls, connections, _tasks: tasks }
    }

    /// Path and body of the calls so far, in their order.
    pub fn calls(&self) -> Vec<(String, Value)> {
        self.calls.lock().expect("no holder of the calls panics").clone()
    }

    /// Forgets the calls so far.
    pub fn forget(&self) {
        self.calls.lock().expect("no holder of the calls panics").clear();
    }

    /// How many connections there were.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// The URL of a path.
    pub fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.address)
    }

    /// The CA in the form `caBundle` has.
    pub fn ca_bundle(&self) -> String {
        use base64::Engine;
        base64::engine::general_purpose::STANDARD.encode(&self.ca)
    }
}

fn certificates(names: &[&str]) -> (String, TlsAcceptor) {
    let valid = "a certificate of a test is valid";
    let ca_key = KeyPair::generate().expect(valid);
    let mut ca = CertificateParams::new(Vec::<String>::new()).expect(valid);
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = ca.self_signed(&ca_key).expect(valid).pem();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().expect(valid);
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let leaf = CertificateParams::new(names).expect(valid).signed_by(&key, &issuer).expect(valid);
    let config = rustls::ServerConfig::builder_with_provider(knarr_tls::provider())
        .with_safe_default_protocol_versions()
        .expect(valid)
        .with_no_client_auth()
        .with_single_cert(
            vec![leaf.der().clone()],
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )
        .expect(valid);
    (pem, TlsAcceptor::from(Arc::new(config)))
}

async fn answer(
    request: Request<hyper::body::Incoming>,
    seen: Arc<Mutex<Vec<(String, Value)>>>,
    decide: Arc<Decide>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().to_string();
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    seen.lock().expect("no holder of the calls panics").push((path.clone(), body.clone()));
    match decide(&path, &body) {
        Some((code, text)) => {
            let mut response = Response::new(Full::new(Bytes::from(text)));
            *response.status_mut() = http::StatusCode::from_u16(code).unwrap_or_default();
            Ok(response)
        }
        None => std::future::pending().await,
    }
}
