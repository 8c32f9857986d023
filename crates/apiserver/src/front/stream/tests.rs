//! Requests to containers, pods and nodes arrive at the other end as upstream sends them, answers come back
//! as they are, and an upgraded connection carries bytes both ways.

use super::*;
use crate::def::{Reply, SubRequest};
use crate::front::authz::tests::Objects;
use crate::front::info;
use crate::front::pki::{Pki, PkiConfig};
use crate::request::{RequestCx, UserInfo};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming as HyperBody;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use knarr_base::Ctx;
use knarr_client::{Body, Client};
use knarr_meta::status::Status;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::net::IpAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

struct Nowhere;
impl knarr_client::Transport for Nowhere {
    fn send(
        &self,
        _: Request<Bytes>,
    ) -> futures_util::future::BoxFuture<'static, Result<Response<Body>, knarr_client::Error>> {
        Box::pin(std::future::ready(Err(knarr_client::Error::Protocol("not here".into()))))
    }
    fn server(&self) -> String {
        "nowhere".into()
    }
}

/// A kubelet that answers with the request it got, echoes upgraded connections, and fails on demand.
async fn kubelet(request: Request<HyperBody>) -> Result<Response<Full<Bytes>>, Infallible> {
    let text = format!("{} {}", request.method(), request.uri());
    let upgrade = request.headers().get("upgrade").cloned();
    if let Some(protocol) = upgrade {
        let mut request = request;
        let upgraded = hyper::upgrade::on(&mut request);
        #[allow(clippy::disallowed_methods)] // a test's peer, ended with the runtime
        tokio::spawn(async move {
            let mut io = TokioIo::new(upgraded.await.unwrap());
            let (mut reader, mut writer) = tokio::io::split(&mut io);
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
        });
        let response =
            Response::builder().status(101).header("connection", "Upgrade").header("upgrade", protocol);
        return Ok(response.header("x-asked", text).body(Full::default()).unwrap());
    }
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let code = if text.contains("tailLines=400") { 400 } else { 200 };
    let text = format!("{text} {}", String::from_utf8_lossy(&body));
    Ok(Response::builder().status(code).body(Full::new(text.into())).unwrap())
}

struct World {
    ctx: Ctx,
    objects: Arc<Objects>,
    kubelets: Arc<Kubelets>,
    _dir: tempfile::TempDir,
}

impl World {
    /// A node `alpha` whose kubelet listens on loopback, and a pod on it.
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = PkiConfig {
            dir: dir.path().to_owned(),
            node_name: "alpha".into(),
            addresses: Vec::new(),
            service_ip: IpAddr::from([10, 96, 0, 1]),
            cluster_domain: "cluster.local".into(),
            extra_names: Vec::new(),
        };
        let ctx = Ctx::system();
        let (pki, _) = Pki::ensure(config, ctx.clock.now()).unwrap();
        let pem = pki.pem("kubelet").unwrap();
        let config = rustls::ServerConfig::builder_with_provider(knarr_tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(
                rustls::server::WebPkiClientVerifier::builder_with_provider(
                    knarr_tls::roots("ca", pki.ca().unwrap()).unwrap().into(),
                    knarr_tls::provider(),
                )
                .build()
                .unwrap(),
            )
            .with_single_cert(
                knarr_tls::certificates("kubelet", &pem.certificate).unwrap(),
                knarr_tls::private_key("kubelet", &pem.key).unwrap(),
            )
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        ctx.tasks.spawn_until_stopped("kubelet", async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let Ok(tls) = acceptor.accept(tcp).await else { continue };
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(tls), service_fn(kubelet));
                #[allow(clippy::disallowed_methods)] // a test's peer, ended with the runtime
                tokio::spawn(connection.with_upgrades());
            }
        });
        let objects = Objects::of(&[
            (
                "",
                "nodes",
                json!({"metadata": {"name": "alpha"}, "status": {
                    "addresses": [{"type": "Hostname", "address": "alpha"}, {"type": "InternalIP", "address": "127.0.0.1"}],
                    "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
                }}),
            ),
            ("", "pods", pod("web", "alpha", &["app"])),
            ("", "pods", pod("two", "alpha", &["a", "b"])),
            ("", "pods", pod("waiting", "", &["app"])),
        ]);
        let kubelets = Kubelets::new(ctx.clone(), &pki).unwrap();
        Self { ctx, objects, kubelets, _dir: dir }
    }

    /// Sends a request through the subresource's handler, as the chain and the registry would.
    async fn send(&self, request: Request<&'static str>) -> Result<Response<Body>, Status> {
        let (mut parts, body) = request.into_parts();
        let query = info::parse_query(parts.uri.query().unwrap_or_default());
        let mut info = info::resolve(&parts.method, parts.uri.path(), &query);
        prepare(&mut parts, &mut info, RequestBody::Bytes(Bytes::from_static(body.as_bytes())));
        let parent =
            crate::request::Reader::get(&*self.objects, "", &info.resource, &info.namespace, &info.name);
        let subresource =
            subresources(&self.kubelets, &info.resource).into_iter().find(|s| s.name == info.subresource);
        let Some(SubKind::Custom(handler)) = subresource.map(|s| s.serve) else {
            panic!("no such subresource")
        };
        let cx = RequestCx {
            info,
            user: Arc::new(UserInfo::new("admin", &["system:masters"])),
            query,
            dry_run: false,
            ctx: self.ctx.clone(),
            reader: self.objects.clone(),
            loopback: Client::new(Arc::new(Nowhere), "test", self.ctx.clone()),
            warnings: Mutex::default(),
            admission: Default::default(),
        };
        let request = SubRequest {
            cx: &cx,
            parent: parent.map(|p| (*p).clone()),
            body: Value::Null,
            parts,
            raw: Bytes::new(),
        };
        match handler.handle(request).await? {
            Reply::Raw(response) => Ok(response),
            Reply::Object(..) => panic!("a stream answers with a response"),
        }
    }

    async fn get(&self, url: &str) -> Result<String, String> {
        let request = Request::get(url).body("").unwrap();
        let response = self.send(request).await.map_err(|status| status.message)?;
        Ok(String::from_utf8(response.into_body().collect().await.unwrap().to_vec()).unwrap())
    }
}

fn pod(name: &str, node: &str, containers: &[&str]) -> Value {
    let containers: Vec<Value> = containers.iter().map(|name| json!({"name": name})).collect();
    json!({"metadata": {"name": name, "namespace": "dev"}, "spec": {"nodeName": node, "containers": containers}})
}

#[tokio::test]
async fn logs_are_asked_of_the_kubelet_with_the_options_it_knows() {
    let world = World::new().await;
    let base = "/api/v1/namespaces/dev/pods";
    let cases = [
        ("web/log", Ok("GET /containerLogs/dev/web/app ")),
        (
            "web/log?follow=true&tailLines=5&timestamps=1&previous=false&pretty=x",
            Ok("GET /containerLogs/dev/web/app?follow=true&timestamps=true&tailLines=5 "),
        ),
        ("two/log?container=b", Ok("GET /containerLogs/dev/two/b ")),
        ("waiting/log", Ok("")),
        ("two/log", Err("a container name must be specified for pod two, choose one of: [a b]")),
        ("web/log?container=x", Err("container x is not valid for pod web")),
        (
            "web/log?tailLines=-1",
            Err(
                "PodLogOptions \"web\" is invalid: tailLines: Invalid value: -1: must be greater than or equal to 0",
            ),
        ),
        ("web/log?tailLines=400", Err("GET /containerLogs/dev/web/app?tailLines=400 ")),
        ("none/log", Err("pods \"none\" not found")),
    ];
    for (url, want) in cases {
        let got = world.get(&format!("{base}/{url}")).await;
        assert_eq!(got.as_deref().map_err(String::as_str), want, "{url}");
    }
}

#[tokio::test]
async fn sessions_need_an_upgrade_and_a_bound_pod() {
    let world = World::new().await;
    let base = "/api/v1/namespaces/dev/pods";
    for (url, want) in [
        ("web/exec?command=ls&stdout=1", "Upgrade request required"),
        ("web/exec?stdout=1", "you must specify at least one command for the container"),
        ("web/exec?command=ls", "you must specify at least 1 of stdin, stdout, stderr"),
        ("waiting/exec?command=ls&stdout=1", "pod waiting does not have a host assigned"),
    ] {
        assert_eq!(world.get(&format!("{base}/{url}")).await.unwrap_err(), want, "{url}");
    }
}

#[tokio::test]
async fn proxied_requests_keep_path_query_and_body() {
    let world = World::new().await;
    let request = Request::post("/api/v1/nodes/alpha/proxy/stats/a%20b?x=1").body("hello").unwrap();
    let response = world.send(request).await.unwrap();
    let text = response.into_body().collect().await.unwrap();
    assert_eq!(text, "POST /stats/a%20b?x=1 hello");

    let redirect = world.send(Request::get("/api/v1/nodes/alpha/proxy").body("").unwrap()).await.unwrap();
    assert_eq!(redirect.status(), StatusCode::MOVED_PERMANENTLY);
    assert_eq!(redirect.headers()["location"], "/api/v1/nodes/alpha/proxy/");

    let refused = world.get("/api/v1/nodes/alpha:9/proxy/x").await.unwrap_err();
    assert_eq!(refused, "address not allowed");
}

/// The client's end of a connection to a server that runs `world`'s handlers for upgrades.
#[tokio::test]
async fn an_upgraded_connection_carries_bytes_both_ways() {
    let world = Arc::new(World::new().await);
    let (client, server) = tokio::io::duplex(4096);
    let serving = world.clone();
    let service = service_fn(move |mut request: Request<HyperBody>| {
        let world = serving.clone();
        async move {
            let upgrade = hyper::upgrade::on(&mut request);
            let (mut parts, _) = request.into_parts();
            parts.extensions.insert(upgrade);
            let response = world.send(Request::from_parts(parts, "")).await;
            Ok::<_, Infallible>(response.unwrap_or_else(|status| panic!("{}", status.message)))
        }
    });
    world.ctx.tasks.spawn("server", async move {
        let connection =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(server), service);
        let _ = connection.with_upgrades().await;
    });
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(client)).await.unwrap();
    world.ctx.tasks.spawn("client", async move {
        let _ = connection.with_upgrades().await;
    });
    let url = "/api/v1/namespaces/dev/pods/web/exec?command=sh&command=-c&command=a%20%26&stdin=true&stdout=true&tty=true";
    let request = Request::post(url)
        .header("connection", "Upgrade")
        .header("upgrade", "SPDY/3.1")
        .header("x-stream-protocol-version", "v4.channel.k8s.io");
    let mut response = sender.send_request(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(response.headers()["upgrade"], "SPDY/3.1");
    assert_eq!(
        response.headers()["x-asked"],
        "POST /exec/dev/web/app?input=1&output=1&tty=1&command=sh&command=%2Dc&command=a%20%26"
    );
    let mut io = TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap());
    io.write_all(b"ping").await.unwrap();
    let mut echo = [0; 4];
    io.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"ping");
}
