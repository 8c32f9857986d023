//! A server with the initial objects, and requests to it.

use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use knarr_apiserver::def::{ResourceDef, Scope};
use knarr_apiserver::pki::PkiConfig;
use knarr_apiserver::request::UserInfo;
use knarr_apiserver::{ApiServer, ServerConfig};
use knarr_base::Ctx;
use knarr_client::{Body, Client, Transport};
use knarr_resources::bootstrap::{self, BootstrapConfig};
use knarr_store::Store;
use knarr_store::memory::MemoryStore;
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// A running server.
pub struct World {
    pub server: Arc<ApiServer>,
    pub store: Arc<dyn Store>,
    pub admin: Arc<dyn Transport>,
    _dir: tempfile::TempDir,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The object of a success; a failure panics with what the server said.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert!(self.code < 300, "{}: {}", self.code, String::from_utf8_lossy(&self.body));
        self.json()
    }

    /// The message of a failure.
    #[track_caller]
    pub fn refused(self, code: u16) -> String {
        assert_eq!(self.code, code, "{}", String::from_utf8_lossy(&self.body));
        self.json()["message"].as_str().unwrap_or_default().to_owned()
    }
}

impl World {
    pub async fn new() -> Self {
        let ctx = Ctx::system();
        let dir = tempfile::tempdir().unwrap();
        let store = MemoryStore::new(&ctx);
        let config = ServerConfig {
            listen: Vec::new(),
            advertise: SocketAddr::from(([10, 0, 0, 1], 6443)),
            pki: PkiConfig {
                dir: dir.path().to_owned(),
                node_name: "alpha".into(),
                addresses: Vec::new(),
                service_ip: IpAddr::from([10, 96, 0, 1]),
                cluster_domain: "cluster.local".into(),
                extra_names: Vec::new(),
            },
            issuer: "https://kubernetes.default.svc.cluster.local".into(),
            audiences: Vec::new(),
            seats: knarr_apiserver::front::flowcontrol::TOTAL_SEATS,
            compaction_interval: knarr_apiserver::COMPACTION_INTERVAL,
        };
        let defs = knarr_resources::all();
        let server = ApiServer::new(config, &ctx, store.clone(), defs, knarr_resources::plugins()).unwrap();
        let own = UserInfo::new("system:apiserver", &["system:masters"]);
        let client = Client::new(server.transport(own), "kube-apiserver", ctx.clone());
        let initial = BootstrapConfig {
            service_cidr: "10.96.0.0/16".into(),
            service_ip: Ipv4Addr::new(10, 96, 0, 1),
            endpoint: (Ipv4Addr::new(10, 0, 0, 1), 6443),
            client_ca: "ca".into(),
            front_proxy_ca: "ca".into(),
        };
        bootstrap::run(&ctx, &client, &server.registry().defs(), &initial).await.unwrap();
        let admin = server.transport(UserInfo::new("admin", &["system:masters"]));
        let world = Self { server, store, admin, _dir: dir };
        for namespace in ["default", "kube-system"] {
            let account = serde_json::json!({"metadata": {"name": "default"}});
            let url = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
            world.send(Method::POST, &url, &account).await;
        }
        world
    }

    pub fn as_user(&self, name: &str, groups: &[&str]) -> Arc<dyn Transport> {
        self.server.transport(UserInfo::new(name, groups))
    }

    pub async fn raw(&self, request: Request<Bytes>) -> Answer {
        via(&*self.admin, request).await
    }

    /// A request with a JSON body (`Null` for none).
    pub async fn send(&self, method: Method, url: &str, body: &Value) -> Answer {
        self.raw(request(method, url, "application/json", "application/json", body)).await
    }

    pub async fn get(&self, url: &str) -> Answer {
        self.send(Method::GET, url, &Value::Null).await
    }

    pub async fn post(&self, url: &str, body: &Value) -> Answer {
        self.send(Method::POST, url, body).await
    }

    pub async fn put(&self, url: &str, body: &Value) -> Answer {
        self.send(Method::PUT, url, body).await
    }

    pub async fn delete(&self, url: &str) -> Answer {
        self.send(Method::DELETE, url, &Value::Null).await
    }

    pub async fn patch(&self, url: &str, kind: &str, body: &Value) -> Answer {
        let kind = format!("application/{kind}");
        self.raw(request(Method::PATCH, url, "application/json", &kind, body)).await
    }
}

pub fn request(method: Method, url: &str, accept: &str, content: &str, body: &Value) -> Request<Bytes> {
    let bytes = if body.is_null() { Bytes::new() } else { serde_json::to_vec(body).unwrap().into() };
    Request::builder()
        .method(method)
        .uri(url)
        .header("accept", accept)
        .header("content-type", content)
        .body(bytes)
        .unwrap()
}

pub async fn via(transport: &dyn Transport, request: Request<Bytes>) -> Answer {
    let response = transport.send(request).await.unwrap();
    let (parts, mut body): (_, Body) = response.into_parts();
    let mut bytes = Vec::new();
    while let Some(chunk) = body.next().await {
        bytes.extend_from_slice(&chunk.unwrap());
    }
    Answer { code: parts.status.as_u16(), headers: parts.headers, body: bytes.into() }
}

/// A YAML document as JSON.
pub fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|err| panic!("{err}\n{text}"))
}

/// The URL of a kind's collection in the namespace `default`.
pub fn collection(def: &ResourceDef) -> String {
    let version = def.preferred();
    let base = if def.group.is_empty() {
        format!("/api/{version}")
    } else {
        format!("/apis/{}/{version}", def.group)
    };
    match def.scope {
        Scope::Cluster => format!("{base}/{}", def.resource),
        Scope::Namespaced => format!("{base}/namespaces/default/{}", def.resource),
    }
}
