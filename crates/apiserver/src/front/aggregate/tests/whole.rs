//! The whole way: a server on loopback, an extension API server behind an API service, and clients of the first.

use super::extension::Extension;
use crate::authorize::{Authorizer, Decision};
use crate::def::{ResourceDef, Strategy};
use crate::pki::{Pem, PkiConfig};
use crate::request::UserInfo;
use crate::{ApiServer, ServerConfig};
use base64::Engine;
use bytes::Bytes;
use http::header::{self, HeaderMap};
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use knarr_api::Kind;
use knarr_api::apiextensions::v1::CustomResourceDefinition;
use knarr_api::apiregistration::v1::APIService;
use knarr_api::core::v1::{ConfigMap, Service};
use knarr_api::discovery::v1::EndpointSlice;
use knarr_api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use knarr_base::Ctx;
use knarr_client::{Client, Patch};
use knarr_store::memory::MemoryStore;
use knarr_tls::{Identity, Trust};
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

struct Plain<K>(PhantomData<K>);
impl<K: Kind> Strategy for Plain<K> {
    type Object = K;
    fn validate_name(&self, _name: &str) -> Vec<String> {
        Vec::new()
    }
}

fn plain<K: Kind>() -> ResourceDef {
    ResourceDef::new(Plain::<K>(PhantomData))
}

const NAME: &str = "v1.ext.example.com";
const THINGS: &str = "/apis/ext.example.com/v1/namespaces/dev/things";
const LIMIT: Duration = Duration::from_secs(20);

struct World {
    server: Arc<ApiServer>,
    port: u16,
    admin: Client,
    extension: Extension,
    _dir: tempfile::TempDir,
}

/// A whole answer.
struct Answer {
    code: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ctx = Ctx::system();
        let config = ServerConfig {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            advertise: SocketAddr::from(([192, 0, 2, 1], 6443)),
            pki: PkiConfig {
                dir: dir.path().to_owned(),
                node_name: "alpha".into(),
                addresses: Vec::new(),
                service_ip: IpAddr::from([10, 96, 0, 1]),
                cluster_domain: "cluster.local".into(),
                extra_names: Vec::new(),
            },
            issuer: "https://issuer.test".into(),
            audiences: Vec::new(),
            seats: crate::front::flowcontrol::TOTAL_SEATS,
            compaction_interval: crate::server::COMPACTION_INTERVAL,
        };
        let defs = vec![
            plain::<ConfigMap>(),
            plain::<Service>().status(),
            plain::<EndpointSlice>(),
            plain::<APIService>().status(),
            plain::<CustomResourceDefinition>(),
            plain::<ClusterRole>(),
            plain::<ClusterRoleBinding>(),
        ];
        let server = ApiServer::new(config, &ctx, MemoryStore::new(&ctx), defs, Vec::new()).unwrap();
        let port = server.start().await.unwrap()[0].port();
        let clients = std::fs::read_to_string(server.pki().path("front-proxy-ca.crt")).unwrap();
        let extension = Extension::start("ext.default.svc", &clients).await;
        let admin =
            Client::new(server.transport(UserInfo::new("admin", &["system:masters"])), "test", Ctx::system());
        let this = Self { server, port, admin, extension, _dir: dir };
        let service = json!({"metadata": {"name": "ext", "namespace": "default"},
            "spec": {"type": "ExternalName", "externalName": "localhost"}});
        this.post("/api/v1/namespaces/default/services", &service).await;
        this
    }

    async fn post(&self, url: &str, object: &Value) -> Value {
        let made = self.admin.call(Method::POST, url, object).await.unwrap();
        serde_json::from_slice(&made).unwrap()
    }

    /// Registers the extension API server.
    async fn register(&self) {
        let ca = base64::engine::general_purpose::STANDARD.encode(&self.extension.ca);
        let object = json!({"metadata": {"name": NAME}, "spec": {
            "group": "ext.example.com", "version": "v1", "groupPriorityMinimum": 2000, "versionPriority": 15,
            "caBundle": ca,
            "service": {"namespace": "default", "name": "ext", "port": self.extension.port}}});
        self.post("/apis/apiregistration.k8s.io/v1/apiservices", &object).await;
    }

    /// Waits until the condition Available has this reason; its message.
    async fn available(&self, reason: &str) -> String {
        self.wait(&format!("condition {reason}"), async || {
            let object: APIService = self.admin.get("", NAME).await.map_err(|e| e.to_string())?;
            let conditions = object.status.and_then(|s| s.conditions).unwrap_or_default();
            match conditions.iter().find(|c| c.type_ == "Available") {
                Some(c) if c.reason.as_deref() == Some(reason) => Ok(c.message.clone().unwrap_or_default()),
                other => Err(format!("{other:?}")),
            }
        })
        .await
    }

    async fn wait<T>(&self, what: &str, look: impl AsyncFn() -> Result<T, String>) -> T {
        let clock = self.admin.ctx().clock.clone();
        let start = clock.instant();
        loop {
            match look().await {
                Ok(found) => return found,
                Err(seen) if clock.instant() - start > LIMIT => panic!("{what}: last seen {seen}"),
                Err(_) => clock.sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Wakes whatever follows the API service.
    async fn touch(&self) {
        let now = self.admin.ctx().rng.uuid();
        let patch = Patch::Merge(json!({"metadata": {"annotations": {"touched": now}}}));
        let _: APIService = self.admin.patch("", NAME, "", &patch).await.unwrap();
    }

    async fn grant(&self, user: &str) {
        let rules = json!([{"apiGroups": ["ext.example.com"], "resources": ["things"], "verbs": ["*"]}]);
        let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
        self.post(roles, &json!({"metadata": {"name": "things"}, "rules": rules})).await;
        let binding = json!({"metadata": {"name": "things"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "things"},
            "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": user}]});
        self.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding).await;
    }

    /// A connection with the certificate of a user.
    async fn connect(&self, user: &str) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
        let now = self.admin.ctx().clock.now();
        let pem: Pem = self.server.pki().issue_client(user, Some("dev"), now).unwrap();
        let roots = Trust::Roots(knarr_tls::roots("ca", self.server.pki().ca().unwrap()).unwrap());
        let identity = Identity::pem("client", &pem.certificate, &pem.key).unwrap();
        let config = knarr_tls::client(roots, identity, &[]).unwrap();
        let tcp = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap()
    }

    async fn open(&self, user: &str, request: Request<Full<Bytes>>) -> http::Response<hyper::body::Incoming> {
        let io = TokioIo::new(self.connect(user).await);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        #[allow(clippy::disallowed_methods)] // a test's connection, ended with the runtime
        tokio::spawn(async move {
            let _ = connection.with_upgrades().await;
        });
        let response = sender.send_request(request).await.unwrap();
        // The connection must outlive the answer.
        std::mem::forget(sender);
        response
    }

    async fn send(
        &self,
        user: &str,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(url).header(header::HOST, "localhost");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.open(user, request.body(Full::new(body.to_owned().into())).unwrap()).await;
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer { code: head.status.as_u16(), headers: head.headers, body }
    }

    async fn get(&self, url: &str) -> Value {
        let answer = self.admin.call(Method::GET, url, &Value::Null).await.unwrap();
        serde_json::from_slice(&answer).unwrap()
    }
}

#[tokio::test]
async fn requests_go_on_with_the_users_name_and_the_front_proxys_certificate() {
    let world = World::new().await;
    world.register().await;
    assert_eq!(world.available("Passed").await, "all checks passed");

    // Permissions are this server's business.
    let refused = world.send("jane", "GET", THINGS, &[], "").await;
    assert_eq!(refused.code, 403, "{}", refused.text());
    assert!(world.extension.seen(THINGS).is_empty());
    world.grant("jane").await;
    let allowed = world.server.registry().reader();
    let authorizer = crate::front::authz::Chain::new(allowed);
    world
        .wait("the role", async || {
            let question = crate::authorize::Attributes {
                user: Arc::new(UserInfo::new("jane", &[])),
                verb: "list".into(),
                is_resource: true,
                group: "ext.example.com".into(),
                resource: "things".into(),
                ..Default::default()
            };
            match authorizer.authorize(&question) {
                Decision::Allow(_) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;

    let url = format!("{THINGS}?labelSelector=a%3Db&limit=5");
    let claims = [("x-remote-user", "root"), ("x-remote-group", "system:masters"), ("x-remote-extra-a", "b")];
    let answer = world.send("jane", "GET", &url, &claims, "").await;
    assert_eq!((answer.code, &answer.json()["path"]), (200, &json!(url)), "{}", answer.text());
    let seen = world.extension.seen(THINGS).pop().unwrap();
    let all = |name: &str| -> Vec<&str> {
        seen.headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect()
    };
    assert_eq!(all("x-remote-user"), ["jane"]);
    assert_eq!(all("x-remote-group"), ["dev", "system:authenticated"]);
    assert!(all("x-remote-extra-a").is_empty());
    assert_eq!(all("x-forwarded-uri"), [THINGS]);
    assert!(seen.http2);

    let body = "x".repeat(100_000);
    let made = world.send("jane", "POST", THINGS, &[("content-type", "application/json")], &body).await;
    assert_eq!((made.code, &made.json()["body"]), (201, &json!(body)));
    assert_eq!(world.extension.seen(THINGS).pop().unwrap().body.len(), body.len());
}

#[tokio::test]
async fn a_watch_streams_and_an_upgraded_connection_carries_bytes() {
    let world = World::new().await;
    world.register().await;
    world.available("Passed").await;
    let admin = "kubernetes-admin";
    world.grant(admin).await;

    let url = format!("{THINGS}?watch=true");
    let mut first = String::new();
    let mut body = world
        .wait("permission", async || {
            let request = Request::get(&url).header(header::HOST, "localhost").body(Full::default()).unwrap();
            let response = world.open(admin, request).await;
            if response.status() == 200 {
                Ok(response.into_body())
            } else {
                Err(response.status().to_string())
            }
        })
        .await;
    while !first.ends_with('\n') {
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        first.push_str(std::str::from_utf8(&frame).unwrap());
    }
    assert_eq!(first, "{\"type\":\"ADDED\",\"n\":1}\n");
    world.extension.go_on();
    let rest = body.collect().await.unwrap().to_bytes();
    assert_eq!(&rest[..], b"{\"type\":\"ADDED\",\"n\":2}\n");

    let request = Request::get(format!("{THINGS}/one/shell"))
        .header(header::HOST, "localhost")
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "echo/1")
        .body(Full::default())
        .unwrap();
    // Upgrades need the right to create, of which the role has no part for subresources.
    let rules = json!([{"apiGroups": ["ext.example.com"], "resources": ["*"], "verbs": ["*"]}]);
    let patch = Patch::Merge(json!({"rules": rules}));
    let _: ClusterRole = world.admin.patch("", "things", "", &patch).await.unwrap();
    let response = world
        .wait("the upgrade", async || {
            let response = world.open(admin, request.clone()).await;
            if response.status() == 101 { Ok(response) } else { Err(response.status().to_string()) }
        })
        .await;
    let mut io = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    io.write_all(b"ahoy").await.unwrap();
    let mut heard = [0; 4];
    io.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"ahoy");
    let seen = world.extension.seen(&format!("{THINGS}/one/shell")).pop().unwrap();
    assert_eq!((seen.http2, &seen.headers["x-remote-user"]), (false, &"kubernetes-admin".parse().unwrap()));
}

#[tokio::test]
async fn what_cannot_be_reached_is_unavailable_and_comes_back() {
    let world = World::new().await;
    let elsewhere = json!({"metadata": {"name": NAME}, "spec": {
        "group": "ext.example.com", "version": "v1", "groupPriorityMinimum": 2000, "versionPriority": 15,
        "service": {"namespace": "default", "name": "nothing", "port": 443}}});
    world.post("/apis/apiregistration.k8s.io/v1/apiservices", &elsewhere).await;
    assert_eq!(world.available("ServiceNotFound").await, "service/nothing in \"default\" is not present");
    let answer = world.server.transport(UserInfo::new("admin", &["system:masters"]));
    let request = |url: &str| Request::get(url).body(Bytes::new()).unwrap();
    let refused = answer.send(request(THINGS)).await.unwrap();
    assert_eq!(refused.status(), 503);
    assert_eq!(&refused.into_body().collect().await.unwrap()[..], b"service unavailable\n");

    let patch = Patch::Merge(json!({"spec": {"service": {"name": "ext", "port": world.extension.port}}}));
    let _: APIService = world.admin.patch("", NAME, "", &patch).await.unwrap();
    // Nobody here trusts the extension's CA yet.
    let message = world.available("FailedDiscoveryCheck").await;
    let url = format!("https://localhost:{}/apis/ext.example.com/v1", world.extension.port);
    let start =
        format!("failing or missing response from {url}: Get \"{url}\": tls: failed to verify certificate");
    assert!(message.starts_with(&start), "{message}");

    let ca = base64::engine::general_purpose::STANDARD.encode(&world.extension.ca);
    let patch = Patch::Merge(json!({"spec": {"caBundle": ca}}));
    let _: APIService = world.admin.patch("", NAME, "", &patch).await.unwrap();
    world.available("Passed").await;
    let fine = answer.send(request(THINGS)).await.unwrap();
    assert_eq!(fine.status(), 200);

    world.extension.set_broken(true);
    world.touch().await;
    let message = world.available("FailedDiscoveryCheck").await;
    assert_eq!(message, format!("failing or missing response from {url}: bad status from {url}: 500"));
    world.extension.set_broken(false);
    world.touch().await;
    world.available("Passed").await;
}

#[tokio::test]
async fn discovery_and_openapi_show_it_beside_the_servers_own() {
    let world = World::new().await;
    world.register().await;
    world.available("Passed").await;

    let names = |list: &Value, pointer: &str| -> Vec<String> {
        let items = list[pointer].as_array().unwrap().iter();
        items
            .map(|g| g["name"].as_str().or(g["metadata"]["name"].as_str()).unwrap_or_default().to_owned())
            .collect()
    };
    let groups = names(&world.get("/apis").await, "groups");
    assert_eq!(groups[0], "apiregistration.k8s.io");
    let last: Vec<&str> = groups.iter().rev().take(2).map(String::as_str).collect();
    assert_eq!(last, ["metrics.k8s.io", "ext.example.com"], "in the order of priorities: {groups:?}");
    let group = world.get("/apis/ext.example.com").await;
    assert_eq!(group["preferredVersion"]["groupVersion"], "ext.example.com/v1");
    assert_eq!(group["kind"], "APIGroup");
    let resources = world.get("/apis/ext.example.com/v1").await;
    assert_eq!(resources["resources"][0]["name"], "things");

    let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let discover = async || {
        let answer = world.send("kubernetes-admin", "GET", "/apis", &[("accept", aggregated)], "").await;
        let list = answer.json();
        let found =
            list["items"].as_array().unwrap().iter().find(|g| g["metadata"]["name"] == "ext.example.com");
        (found.cloned().unwrap_or_default(), answer.headers[header::ETAG].clone())
    };
    // Everybody may discover.
    let rules = json!([{"nonResourceURLs": ["*"], "verbs": ["get"]}]);
    let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    world.post(roles, &json!({"metadata": {"name": "discovery"}, "rules": rules})).await;
    let binding = json!({"metadata": {"name": "discovery"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "discovery"},
        "subjects": [{"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": "system:authenticated"}]});
    world.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding).await;
    world
        .wait("permission to discover", async || {
            let answer = world.send("kubernetes-admin", "GET", "/apis", &[], "").await;
            if answer.code == 200 { Ok(()) } else { Err(answer.text()) }
        })
        .await;
    let version = async |freshness: &str| {
        world
            .wait("the aggregated document", async || {
                let (group, _) = discover().await;
                let version = group["versions"][0].clone();
                if version["freshness"] == freshness { Ok(version) } else { Err(version.to_string()) }
            })
            .await
    };
    let fresh = version("Current").await;
    assert_eq!(fresh["resources"][0]["responseKind"]["kind"], "Thing");
    // A server that does not answer keeps what it said, marked.
    world.extension.set_broken(true);
    world.touch().await;
    let stale = version("Stale").await;
    assert_eq!(stale["resources"], fresh["resources"]);
    world.extension.set_broken(false);
    world.extension.set_legacy();
    world.touch().await;
    let legacy = version("Current").await;
    assert_eq!(legacy["resources"][0]["resource"], "things");
    world.available("Passed").await;

    let index = world
        .wait("the index of OpenAPI", async || {
            let index = world.get("/openapi/v3").await;
            let found = index["paths"].get("apis/ext.example.com/v1").is_some();
            if found { Ok(index) } else { Err(index.to_string()) }
        })
        .await;
    let url = &index["paths"]["apis/ext.example.com/v1"]["serverRelativeURL"];
    assert_eq!(url, "/openapi/v3/apis/ext.example.com/v1?hash=1");
    assert_ne!(index["paths"]["api/v1"]["serverRelativeURL"], "/openapi/v3/api/v1?hash=not-its-own");
    assert_eq!(world.get("/openapi/v3/apis/ext.example.com/v1").await["of"], "extension");
    let merged = world
        .wait("OpenAPI v2", async || {
            let document = world.get("/openapi/v2").await;
            let found = document["paths"].get("/apis/ext.example.com/v1/things").is_some();
            if found { Ok(document) } else { Err("not there".to_owned()) }
        })
        .await;
    assert!(merged["definitions"]["com.example.Thing"].is_object());
    assert!(merged["paths"].get("/apis/").is_none_or(|p| p["get"] != json!({})));

    // Once it is unregistered, nothing of it is left.
    world.admin.delete::<APIService>("", NAME, &Default::default()).await.unwrap();
    world
        .wait("its end", async || {
            let groups = names(&world.get("/apis").await, "groups");
            if groups.contains(&"ext.example.com".to_owned()) { Err(format!("{groups:?}")) } else { Ok(()) }
        })
        .await;
    assert!(world.get("/openapi/v3").await["paths"].get("apis/ext.example.com/v1").is_none());
    assert!(world.get("/openapi/v2").await["paths"].get("/apis/ext.example.com/v1/things").is_none());
}

#[tokio::test]
async fn what_the_server_answers_itself_is_registered_at_its_start() {
    let world = World::new().await;
    let list = world
        .wait("the registrations", async || {
            let list = world.get("/apis/apiregistration.k8s.io/v1/apiservices").await;
            let count = list["items"].as_array().map_or(0, Vec::len);
            if count >= 3 { Ok(list) } else { Err(format!("{count} of them")) }
        })
        .await;
    let find = |name: &str| {
        let items = list["items"].as_array().unwrap();
        items.iter().find(|i| i["metadata"]["name"] == name).cloned().unwrap_or_else(|| panic!("no {name}"))
    };
    for (name, group, priorities) in [
        ("v1.", Value::Null, (18000, 1)),
        ("v1.rbac.authorization.k8s.io", json!("rbac.authorization.k8s.io"), (17000, 15)),
        ("v1.discovery.k8s.io", json!("discovery.k8s.io"), (16200, 15)),
    ] {
        let object = find(name);
        assert_eq!(object["metadata"]["labels"]["kube-aggregator.kubernetes.io/automanaged"], "onstart");
        assert_eq!(object["spec"]["group"], group);
        let found = (&object["spec"]["groupPriorityMinimum"], &object["spec"]["versionPriority"]);
        assert_eq!(found, (&json!(priorities.0), &json!(priorities.1)), "{name}");
    }
    // Where API services are themselves there is none.
    let items = list["items"].as_array().unwrap();
    assert!(items.iter().all(|i| i["metadata"]["name"] != "v1.apiregistration.k8s.io"));
}

#[tokio::test]
async fn custom_resources_are_registered_as_long_as_they_are_defined() {
    let world = World::new().await;
    let names = json!({"plural": "tabs", "singular": "tab", "kind": "Tab", "listKind": "TabList"});
    let definition = json!({"metadata": {"name": "tabs.stable.example.com"},
        "spec": {"group": "stable.example.com", "scope": "Namespaced", "names": names,
            "conversion": {"strategy": "None"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object"}}}]},
        "status": {"acceptedNames": names, "storedVersions": ["v1"],
            "conditions": [{"type": "Established", "status": "True"}]}});
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    world.post(definitions, &definition).await;
    let find = async || world.admin.get_opt::<APIService>("", "v1.stable.example.com").await.unwrap();
    let object = world
        .wait("the registration", async || find().await.ok_or_else(|| "none".to_owned()))
        .await
        .to_value();
    assert_eq!(object["metadata"]["labels"]["kube-aggregator.kubernetes.io/automanaged"], "true");
    assert_eq!(object["spec"]["groupPriorityMinimum"], 1000);
    assert_eq!(object["spec"]["versionPriority"], 100);

    // Who deletes it finds it again; with the definition it goes for good.
    world.admin.delete::<APIService>("", "v1.stable.example.com", &Default::default()).await.unwrap();
    let again = world
        .wait("the registration anew", async || find().await.ok_or_else(|| "none".to_owned()))
        .await
        .to_value();
    assert_ne!(again["metadata"]["uid"], object["metadata"]["uid"]);
    let none = Default::default();
    world.admin.delete::<CustomResourceDefinition>("", "tabs.stable.example.com", &none).await.unwrap();
    world
        .wait("its end", async || match find().await {
            None => Ok(()),
            Some(object) => Err(object.to_value().to_string()),
        })
        .await;
}

#[tokio::test]
async fn extension_api_servers_learn_whom_to_trust() {
    let world = World::new().await;
    let map = async || {
        world
            .wait("the config map", async || {
                let map = world
                    .admin
                    .get_opt::<ConfigMap>("kube-system", "extension-apiserver-authentication")
                    .await;
                map.unwrap().ok_or_else(|| "none".to_owned())
            })
            .await
    };
    let data = map().await.data.unwrap();
    assert_eq!(data["requestheader-allowed-names"], "[\"front-proxy-client\"]");
    assert_eq!(data["requestheader-uid-headers"], "[\"X-Remote-Uid\"]");
    assert_eq!(data["client-ca-file"].trim(), world.server.pki().ca().unwrap().trim());
    let none = Default::default();
    world
        .admin
        .delete::<ConfigMap>("kube-system", "extension-apiserver-authentication", &none)
        .await
        .unwrap();
    assert_eq!(map().await.data.unwrap(), data);
}
