//! A whole server on loopback, met by a client of its own: identities, refusals, documents, certificates that
//! change while it runs, and its end.

use super::*;
use crate::authorize::{Authorizer, Decision};
use crate::def::Strategy;
use bytes::Bytes;
use http::{Request, Response};
use knarr_api::Kind;
use knarr_api::core::v1::{ConfigMap, Node, Pod, Secret, ServiceAccount};
use knarr_api::flowcontrol::v1::{FlowSchema, PriorityLevelConfiguration};
use knarr_api::rbac::v1::{ClusterRole, ClusterRoleBinding, RoleBinding};
use knarr_client::Body;
use knarr_client::https::Https;
use knarr_store::memory::MemoryStore;
use knarr_tls::{Identity, Trust};
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use std::marker::PhantomData;

struct Plain<K>(PhantomData<K>);
impl<K: Kind> Strategy for Plain<K> {
    type Object = K;
}

fn plain<K: Kind>() -> ResourceDef {
    ResourceDef::new(Plain::<K>(PhantomData))
}

struct World {
    server: Arc<ApiServer>,
    port: u16,
    _dir: tempfile::TempDir,
}

fn pki_config(dir: &std::path::Path) -> PkiConfig {
    PkiConfig {
        dir: dir.to_owned(),
        node_name: "alpha".into(),
        addresses: Vec::new(),
        service_ip: IpAddr::from([10, 96, 0, 1]),
        cluster_domain: "cluster.local".into(),
        extra_names: Vec::new(),
    }
}

impl World {
    async fn new() -> Self {
        Self::with_seats(flowcontrol::TOTAL_SEATS).await
    }

    async fn with_seats(seats: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ctx = Ctx::system();
        let config = ServerConfig {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            advertise: SocketAddr::from(([192, 0, 2, 1], 6443)),
            pki: pki_config(dir.path()),
            issuer: "https://issuer.test".into(),
            audiences: Vec::new(),
            seats,
            compaction_interval: crate::server::COMPACTION_INTERVAL,
        };
        let defs = vec![
            plain::<ConfigMap>(),
            plain::<Pod>().status(),
            plain::<Node>().status(),
            plain::<Secret>(),
            plain::<ServiceAccount>(),
            plain::<ClusterRole>(),
            plain::<ClusterRoleBinding>(),
            plain::<RoleBinding>(),
            plain::<FlowSchema>().status(),
            plain::<PriorityLevelConfiguration>().status(),
        ];
        let server = ApiServer::new(config, &ctx, MemoryStore::new(&ctx), defs, Vec::new()).unwrap();
        let port = server.start().await.unwrap()[0].port();
        Self { server, port, _dir: dir }
    }

    fn tls(&self, pem: Option<&crate::pki::Pem>) -> rustls::ClientConfig {
        let roots = knarr_tls::roots("ca", self.server.pki().ca().unwrap()).unwrap();
        let identity =
            pem.map_or(Ok(Identity::None), |pem| Identity::pem("client", &pem.certificate, &pem.key));
        knarr_tls::client(Trust::Roots(roots), identity.unwrap(), &[]).unwrap()
    }

    fn client(&self, pem: Option<&crate::pki::Pem>, token: Option<&str>) -> Https {
        Https::new("127.0.0.1", self.port, self.tls(pem), token).unwrap()
    }

    fn admin(&self) -> Https {
        self.client(Some(&self.server.pki().pem("admin").unwrap()), None)
    }

    fn issue(&self, user: &str, group: Option<&str>) -> crate::pki::Pem {
        self.server.pki().issue_client(user, group, self.server.ctx.clock.now()).unwrap()
    }
}

async fn send(
    client: &dyn Transport,
    request: http::request::Builder,
    body: impl Into<Bytes>,
) -> Response<Bytes> {
    let response = client.send(request.body(body.into()).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    Response::from_parts(parts, Body::collect(body).await.unwrap())
}

async fn get(client: &dyn Transport, path: &str) -> (u16, String) {
    let response = send(client, Request::get(path), "").await;
    (response.status().as_u16(), String::from_utf8(response.body().to_vec()).unwrap())
}

async fn document(client: &dyn Transport, path: &str) -> Value {
    let (code, text) = get(client, path).await;
    assert_eq!(code, 200, "{path}: {text}");
    serde_json::from_str(&text).unwrap()
}

#[tokio::test]
async fn who_asks_decides_between_200_401_and_403() {
    let world = World::new().await;
    let nobody = world.client(None, None);
    assert_eq!(get(&nobody, "/livez").await, (200, "ok".into()));
    let (code, text) = get(&nobody, "/version").await;
    let status: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (code, status["message"].as_str(), status["reason"].as_str()),
        (401, Some("Unauthorized"), Some("Unauthorized"))
    );

    assert_eq!(get(&world.admin(), "/version").await.0, 200);
    let alice = world.client(Some(&world.issue("alice", None)), None);
    let (code, text) = get(&alice, "/api/v1/pods").await;
    let status: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(code, 403);
    assert_eq!(
        status["message"],
        r#"pods is forbidden: User "alice" cannot list resource "pods" in API group "" at the cluster scope"#
    );
    let masters = world.client(Some(&world.issue("root", Some("system:masters"))), None);
    assert_eq!(get(&masters, "/version").await.0, 200);

    let elsewhere = tempfile::tempdir().unwrap();
    let (other, _) = Pki::ensure(pki_config(elsewhere.path()), world.server.ctx.clock.now()).unwrap();
    let stranger = world.client(Some(&other.pem("admin").unwrap()), None);
    assert_eq!(get(&stranger, "/version").await.0, 401, "a certificate of another CA");
    assert_eq!(get(&world.client(None, Some("no.such.token")), "/livez").await.0, 401, "a bad token");
}

#[tokio::test]
async fn acting_as_somebody_else_needs_the_right_to_and_gives_no_more_than_theirs() {
    let world = World::new().await;
    let as_alice = || Request::get("/version").header("impersonate-user", "alice");
    let response = send(&world.admin(), as_alice(), "").await;
    assert_eq!(response.status(), 403);
    assert!(String::from_utf8_lossy(response.body()).contains(r#"User \"alice\" cannot get path"#));
    let alice = world.client(Some(&world.issue("mallory", None)), None);
    let response = send(&alice, as_alice(), "").await;
    assert!(String::from_utf8_lossy(response.body()).contains("cannot impersonate-on:user-info:get path"));
    let within = world.server.transport(UserInfo::new("alice", &[]));
    assert_eq!(get(&*within, "/version").await.0, 403, "no socket, the same rights");
    let within = world.server.transport(UserInfo::new("root", &["system:masters"]));
    assert_eq!(get(&*within, "/version").await.0, 200);
}

#[tokio::test]
async fn component_statuses_are_made_when_they_are_asked_for() {
    let world = World::new().await;
    let tasks = world.server.ctx.tasks.child("scheduler");
    world.server.components().host("scheduler", tasks.clone());
    let url = "/api/v1/componentstatuses";
    let scheduler = document(&world.admin(), &format!("{url}/scheduler")).await;
    assert_eq!(
        scheduler,
        json!({"kind": "ComponentStatus", "apiVersion": "v1", "metadata": {"name": "scheduler"},
            "conditions": [{"type": "Healthy", "status": "True", "message": "ok"}]})
    );
    let list = document(&world.admin(), url).await;
    let names: Vec<&str> =
        list["items"].as_array().unwrap().iter().filter_map(|i| i["metadata"]["name"].as_str()).collect();
    assert_eq!(names, ["controller-manager", "scheduler", "etcd-0"]);
    assert_eq!(list["kind"], "ComponentStatusList");
    let one = document(&world.admin(), &format!("{url}?fieldSelector=metadata.name%3Detcd-0")).await;
    assert_eq!(one["items"].as_array().unwrap().len(), 1);

    tasks.stop();
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let table = send(&world.admin(), Request::get(url).header("accept", table), "").await;
    let table: Value = serde_json::from_slice(table.body()).unwrap();
    assert_eq!(table["columnDefinitions"][1]["name"], "Status");
    assert_eq!(table["rows"][1]["cells"], json!(["scheduler", "Unhealthy", "it is shutting down", ""]));
    assert_eq!(table["rows"][2]["cells"], json!(["etcd-0", "Healthy", "ok", ""]));

    let (code, text) = get(&world.admin(), &format!("{url}/none")).await;
    let status: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &status["message"]), (404, &json!("componentstatus \"none\" not found")));
    let made = send(&world.admin(), Request::post(url), "{}").await;
    assert_eq!(made.status(), 405);
}

#[tokio::test]
async fn requests_are_told_apart_by_an_audit_id_and_large_bodies_are_refused() {
    let world = World::new().await;
    let response = send(&world.admin(), Request::get("/livez").header("audit-id", "mine"), "").await;
    assert_eq!(response.headers()["audit-id"], "mine");
    let response = send(&world.admin(), Request::get("/livez"), "").await;
    assert_eq!(response.headers()["audit-id"].len(), 36);
    let path = "/api/v1/namespaces/default/configmaps";
    let response = send(&world.admin(), Request::post(path), vec![b' '; 3 * 1024 * 1024 + 1]).await;
    let status: Value = serde_json::from_slice(response.body()).unwrap();
    assert_eq!((response.status().as_u16(), status["reason"].as_str()), (413, Some("RequestEntityTooLarge")));
    assert_eq!(status["message"], "Request entity too large: limit is 3145728");
}

#[tokio::test]
async fn requests_that_cannot_be_meant_are_refused_before_the_registry_sees_them() {
    let world = World::new().await;
    for (path, message) in [
        (
            "/api/v1/namespaces/default/pods?timeout=soon",
            r#"invalid timeout specified in the request URL - time: invalid duration "soon""#,
        ),
        ("/api/v1/namespaces/default/pods/a%2Fb", r#"invalid resource name "a/b": [may not contain '/']"#),
        ("/api/v1/namespaces/%2e%2e/pods/a", r#"invalid resource name "..": [may not be '..']"#),
    ] {
        let (code, text) = get(&world.admin(), path).await;
        let status: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((code, status["message"].as_str()), (400, Some(message)), "{path}");
    }
}

async fn post(client: &dyn Transport, path: &str, body: Value) -> (u16, Value) {
    let request = Request::post(path).header("content-type", "application/json");
    let response = send(client, request, body.to_string()).await;
    (response.status().as_u16(), serde_json::from_slice(response.body()).unwrap())
}

#[tokio::test]
async fn reviews_answer_for_the_user_they_name() {
    let world = World::new().await;
    let admin = world.admin();
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let role = json!({"metadata": {"name": "reader"}, "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]});
    assert_eq!(post(&admin, &format!("{rbac}/clusterroles"), role).await.0, 201);
    let binding = json!({
        "metadata": {"name": "bob"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "reader"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "bob"}],
    });
    let (code, created) = post(&admin, &format!("{rbac}/namespaces/dev/rolebindings"), binding).await;
    assert_eq!(code, 201, "{created}");
    let info = crate::front::info::resolve(&http::Method::GET, "/api/v1/namespaces/dev/pods/x", &[]);
    let question = authz::attributes(&info, &[], Arc::new(UserInfo::new("bob", &[])));
    // The answer may be moments behind the binding.
    while !matches!(world.server.chain.authorizer.authorize(&question), Decision::Allow(_)) {
        tokio::task::yield_now().await;
    }

    let base = "/apis/authorization.k8s.io/v1";
    let get_pods = |namespace: &str| json!({"verb": "get", "resource": "pods", "namespace": namespace});
    let metrics = json!({"verb": "get", "path": "/metrics"});
    let subject = format!("{base}/subjectaccessreviews");
    let local = format!("{base}/namespaces/dev/localsubjectaccessreviews");
    for (path, spec, allowed) in [
        (&subject, json!({"user": "bob", "resourceAttributes": get_pods("dev")}), true),
        (&subject, json!({"user": "bob", "resourceAttributes": get_pods("prod")}), false),
        (&subject, json!({"groups": ["system:masters"], "nonResourceAttributes": metrics}), true),
        (&local, json!({"user": "bob", "resourceAttributes": get_pods("dev")}), true),
        (&local, json!({"user": "eve", "resourceAttributes": get_pods("dev")}), false),
    ] {
        let (code, review) = post(&admin, path, json!({"spec": spec})).await;
        assert_eq!((code, review["status"]["allowed"].as_bool()), (201, Some(allowed)), "{review}");
    }
    for (path, spec, message) in [
        (
            &subject,
            json!({"user": "bob"}),
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ),
        (
            &subject,
            json!({"resourceAttributes": get_pods("dev")}),
            "spec.user: Invalid value: \"\": at least one of user or group must be specified",
        ),
        (
            &local,
            json!({"user": "bob", "resourceAttributes": get_pods("prod")}),
            "spec.resourceAttributes.namespace must match namespace: dev",
        ),
    ] {
        let (_, status) = post(&admin, path, json!({"spec": spec})).await;
        assert!(status["message"].as_str().is_some_and(|m| m.contains(message)), "{status}");
    }
}

#[tokio::test]
async fn a_requested_token_is_good_until_its_account_goes() {
    let world = World::new().await;
    let admin = world.admin();
    let accounts = "/api/v1/namespaces/dev/serviceaccounts";
    let (code, account) = post(&admin, accounts, json!({"metadata": {"name": "robot"}})).await;
    assert_eq!(code, 201, "{account}");
    let (code, request) = post(&admin, &format!("{accounts}/robot/token"), json!({})).await;
    assert_eq!((code, request["kind"].as_str()), (201, Some("TokenRequest")), "{request}");
    assert_eq!(request["spec"]["expirationSeconds"], 3600);
    let token = request["status"]["token"].as_str().unwrap();

    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let (_, known) = post(&admin, reviews, json!({"spec": {"token": token}})).await;
    assert_eq!(known["status"]["authenticated"], true, "{known}");
    assert_eq!(known["status"]["user"]["username"], "system:serviceaccount:dev:robot");
    assert_eq!(known["status"]["user"]["uid"], account["metadata"]["uid"]);
    assert_eq!(known["status"]["audiences"][0], "https://issuer.test");
    let (_, unknown) = post(&admin, reviews, json!({"spec": {"token": "nonsense"}})).await;
    assert!(unknown["status"]["authenticated"].is_null());
    let robot = world.client(None, Some(token));
    assert_eq!(get(&robot, "/api/v1/namespaces/dev/pods").await.0, 403, "known, without rights");

    let (code, short) =
        post(&admin, &format!("{accounts}/robot/token"), json!({"spec": {"expirationSeconds": 10}})).await;
    assert_eq!(code, 422);
    assert!(
        short["message"].as_str().unwrap().contains("may not specify a duration less than 10 minutes"),
        "{short}"
    );
    let (code, missing) = post(&admin, &format!("{accounts}/nobody/token"), json!({})).await;
    assert_eq!((code, missing["message"].as_str()), (404, Some("serviceaccounts \"nobody\" not found")));

    let gone = send(&admin, Request::delete(format!("{accounts}/robot")), "").await;
    assert_eq!(gone.status(), 200);
    assert_eq!(get(&robot, "/api/v1/namespaces/dev/pods").await.0, 401);
}

#[tokio::test]
async fn discovery_tells_what_is_declared_in_both_forms() {
    let world = World::new().await;
    let admin = world.admin();
    let list = document(&admin, "/api/v1").await;
    let resource = |name: &str| {
        let all = list["resources"].as_array().unwrap();
        all.iter().find(|r| r["name"] == name).unwrap_or_else(|| panic!("no {name} in {list}")).clone()
    };
    let pods = resource("pods");
    assert_eq!(pods["shortNames"][0], "po");
    assert_eq!(pods["singularName"], "pod");
    assert_eq!(pods["storageVersionHash"], "xPOwRZ+Yhw8=");
    assert_eq!(resource("pods/exec")["kind"], "PodExecOptions");
    assert_eq!(resource("pods/log")["verbs"], serde_json::json!(["get"]));
    assert_eq!(resource("nodes/proxy")["namespaced"], false);
    let token = resource("serviceaccounts/token");
    assert_eq!(
        (token["group"].as_str(), token["kind"].as_str()),
        (Some("authentication.k8s.io"), Some("TokenRequest"))
    );
    let reviews = document(&admin, "/apis/authorization.k8s.io/v1").await;
    assert_eq!(reviews["groupVersion"], "authorization.k8s.io/v1");
    assert!(reviews["resources"][0]["storageVersionHash"].is_null());
    let groups = document(&admin, "/apis").await;
    assert_eq!(groups["groups"][0]["preferredVersion"]["groupVersion"], "authentication.k8s.io/v1");
    assert_eq!(
        document(&admin, "/api").await["serverAddressByClientCIDRs"][0]["serverAddress"],
        "192.0.2.1:6443"
    );
    assert_eq!(get(&admin, "/apis/nope").await.0, 404);

    let form = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let accept = format!(
        "{form},application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json"
    );
    let response = send(&admin, Request::get("/api").header("accept", &accept), "").await;
    assert_eq!(response.headers()["content-type"], form);
    let aggregated: Value = serde_json::from_slice(response.body()).unwrap();
    assert_eq!(aggregated["kind"], "APIGroupDiscoveryList");
    let resources = aggregated["items"][0]["versions"][0]["resources"].as_array().unwrap();
    let pods = resources.iter().find(|r| r["resource"] == "pods").unwrap();
    assert_eq!(
        (pods["scope"].as_str(), pods["responseKind"]["kind"].as_str()),
        (Some("Namespaced"), Some("Pod"))
    );
    assert!(pods["subresources"].as_array().unwrap().iter().any(|s| s["subresource"] == "exec"));
    let etag = response.headers()["etag"].clone();
    let again = Request::get("/api").header("accept", &accept).header("if-none-match", etag);
    assert_eq!(send(&admin, again, "").await.status(), 304);
    assert_eq!(
        document(&admin, "/openapi/v3").await["paths"]["api/v1"]["serverRelativeURL"]
            .as_str()
            .map(|u| u.starts_with("/openapi/v3/api/v1?hash=")),
        Some(true)
    );
}

#[tokio::test]
async fn new_addresses_get_a_new_certificate_without_a_restart() {
    let world = World::new().await;
    let admin = world.admin();
    assert_eq!(get(&admin, "/version").await.0, 200);
    let trusts = |ip: [u8; 4]| {
        let (tls, port) = (world.tls(None), world.port);
        async move {
            let tcp = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let name = ServerName::IpAddress(IpAddr::from(ip).into());
            tokio_rustls::TlsConnector::from(Arc::new(tls)).connect(name, tcp).await.is_ok()
        }
    };
    assert!(!trusts([192, 0, 2, 7]).await);
    let mut renewals = world.server.renewals();
    let issued = world.server.renew_certificates(Some(vec![IpAddr::from([192, 0, 2, 7])])).await.unwrap();
    assert_eq!(issued[0], "apiserver.crt: the address 192.0.2.7 was not in it");
    assert!(trusts([192, 0, 2, 7]).await);
    assert!(renewals.has_changed().unwrap());
    renewals.mark_unchanged();
    assert!(world.server.renew_certificates(None).await.unwrap().is_empty());
    assert!(!renewals.has_changed().unwrap());
    assert_eq!(get(&admin, "/version").await.0, 200, "connections made before go on");
}

#[tokio::test]
async fn the_end_waits_for_connections_and_tells_clients() {
    let world = World::new().await;
    let admin = world.admin();
    assert_eq!(get(&admin, "/readyz").await.0, 200);
    assert!(
        world.server.shutdown(Duration::from_secs(10)).await,
        "idle connections do not hold the server up"
    );
    let within = world.server.transport(UserInfo::new("root", &["system:masters"]));
    let (code, text) = get(&*within, "/readyz").await;
    assert!(code == 500 && text.contains("[-]shutdown failed"), "{text}");
    assert!(admin.send(Request::get("/version").body(Bytes::new()).unwrap()).await.is_err());
}

#[tokio::test]
async fn a_request_without_a_seat_is_refused_and_a_watch_gives_its_seat_back_once_it_has_begun() {
    let world = World::with_seats(2).await;
    let server = &world.server;
    let binding = json!({"kind": "ClusterRoleBinding", "apiVersion": "rbac.authorization.k8s.io/v1",
        "metadata": {"name": "all"}, "subjects": [{"kind": "User", "name": "alice"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "all"}});
    let role = json!({"kind": "ClusterRole", "apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": "all"},
        "rules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]});
    let base = "/apis/rbac.authorization.k8s.io/v1/";
    for (resource, object) in [("clusterroles", role), ("clusterrolebindings", binding)] {
        let request = Request::post(format!("{base}{resource}"));
        assert_eq!(send(&world.admin(), request, object.to_string()).await.status(), 201);
    }
    let alice = world.client(Some(&world.issue("alice", None)), None);
    let url = "/api/v1/namespaces/a/configmaps";
    // Watches that have begun hold no seat.
    let mut watches = Vec::new();
    for _ in 0..3 {
        let request = Request::get(format!(
            "{url}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
        ));
        let response = alice.send(request.body(Bytes::new()).unwrap()).await.unwrap();
        assert_eq!(response.status(), 200);
        assert!(response.headers().contains_key("x-kubernetes-pf-flowschema-uid"));
        let mut body = response.into_body();
        assert!(body.next().await.unwrap().is_ok(), "the bookmark that ends the initial events");
        watches.push(body);
    }
    // Two that go on take all there is. A request ends when its body has arrived.
    let mut held = Vec::new();
    let user = UserInfo::new("bob", &[]);
    for _ in 0..2 {
        let info = crate::front::info::resolve(&http::Method::GET, url, &[]);
        let limit = Duration::from_secs(1);
        let question = flowcontrol::Question { info: &info, user: &user, query: &[], limit };
        held.push(server.chain.flow.admit(question).await.1.expect("there are two seats"));
    }
    let refused = send(&alice, Request::get(url), "").await;
    let header = |name: &str| refused.headers().get(name).map(|v| v.to_str().unwrap().to_owned());
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.body(), "Too many requests, please try again later.\n");
    assert_eq!(header("retry-after").as_deref(), Some("1"));
    assert_eq!(header("content-type").as_deref(), Some("text/plain; charset=utf-8"));
    assert_eq!(header("x-kubernetes-pf-prioritylevel-uid").as_deref(), Some(""), "there is no object");
    // Administrators, the server's own calls and streams are not held up.
    assert_eq!(get(&world.admin(), url).await.0, 200);
    let own = world.server.chain.loopback.get().unwrap();
    assert!(own.call(http::Method::GET, url, &Value::Null).await.is_ok());
    drop(held);
    assert_eq!(get(&alice, url).await.0, 200);
    let (_, table) = get(&world.admin(), "/debug/api_priority_and_fairness/dump_priority_levels").await;
    let row = table.lines().find(|line| line.starts_with("catch-all,")).unwrap();
    let cells: Vec<&str> = row.split(',').map(str::trim).collect();
    assert_eq!(cells[..6], ["catch-all", "0", "true", "false", "0", "0"], "{table}");
    assert_eq!(cells[7], "1", "one was refused: {table}");
}

/// Reads frames of a watch in JSON until one is as wanted.
async fn until(body: &mut Body, buffered: &mut Vec<u8>, wanted: impl Fn(&Value) -> bool) -> Value {
    loop {
        while let Some(end) = buffered.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = buffered.drain(..=end).collect();
            let frame: Value = serde_json::from_slice(&line).unwrap();
            if wanted(&frame["object"]) {
                return frame["object"].clone();
            }
        }
        buffered.extend_from_slice(&body.next().await.expect("the watch goes on").unwrap());
    }
}

#[tokio::test]
async fn flow_schemas_are_followed_and_say_whether_their_level_exists() {
    let world = World::new().await;
    let (admin, base) = (world.admin(), "/apis/flowcontrol.apiserver.k8s.io/v1");
    let all = json!(["*"]);
    let schema = json!({"kind": "FlowSchema", "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "metadata": {"name": "s"},
        "spec": {"priorityLevelConfiguration": {"name": "one"}, "matchingPrecedence": 5, "rules": [{
            "subjects": [{"kind": "User", "user": {"name": "alice"}}],
            "nonResourceRules": [{"verbs": all, "nonResourceURLs": all}]}]}});
    let level = json!({"kind": "PriorityLevelConfiguration", "apiVersion": "flowcontrol.apiserver.k8s.io/v1",
        "metadata": {"name": "one"}, "spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 5,
            "limitResponse": {"type": "Queue", "queuing": {"queues": 4, "handSize": 2, "queueLengthLimit": 5}}}}});
    let watch = Request::get(format!("{base}/flowschemas?watch=1")).body(Bytes::new()).unwrap();
    let (mut frames, mut buffered) = (admin.send(watch).await.unwrap().into_body(), Vec::new());
    assert_eq!(
        send(&admin, Request::post(format!("{base}/flowschemas")), schema.to_string()).await.status(),
        201
    );
    let dangling =
        |status: &'static str| move |object: &Value| object["status"]["conditions"][0]["status"] == status;
    let object = until(&mut frames, &mut buffered, dangling("True")).await;
    let condition = &object["status"]["conditions"][0];
    assert_eq!(
        (&condition["type"], &condition["reason"], &condition["message"]),
        (
            &json!("Dangling"),
            &json!("NotFound"),
            &json!(
                "This FlowSchema references the PriorityLevelConfiguration object named \"one\" but there is no such object"
            )
        )
    );
    let url = format!("{base}/prioritylevelconfigurations");
    let created = send(&admin, Request::post(url), level.to_string()).await;
    assert_eq!(created.status(), 201);
    let level: Value = serde_json::from_slice(created.body()).unwrap();
    let object = until(&mut frames, &mut buffered, dangling("False")).await;
    let alice = world.client(Some(&world.issue("alice", None)), None);
    let answer = send(&alice, Request::get("/livez"), "").await;
    for (header, object) in
        [("x-kubernetes-pf-flowschema-uid", &object), ("x-kubernetes-pf-prioritylevel-uid", &level)]
    {
        assert_eq!(answer.headers()[header].to_str().unwrap(), object["metadata"]["uid"], "{header}");
    }
}

#[tokio::test]
async fn a_front_proxy_says_who_asks_and_nobody_else_can() {
    let world = World::new().await;
    let as_bob =
        || Request::get("/api/v1/nodes").header("x-remote-user", "bob").header("x-remote-group", "dev");
    let proxy = world.client(Some(&world.server.pki().pem("front-proxy-client").unwrap()), None);
    let refused = send(&proxy, as_bob(), "").await;
    let status: Value = serde_json::from_slice(refused.body()).unwrap();
    assert_eq!(status["code"], 403);
    assert!(status["message"].as_str().unwrap().contains("User \"bob\" cannot list"), "{status}");
    let masters = || as_bob().header("x-remote-group", "system:masters");
    assert_eq!(send(&proxy, masters(), "").await.status(), 200);
    // It is nobody itself.
    assert_eq!(get(&proxy, "/api/v1/nodes").await.0, 401);
    // Others' headers are not believed: of a user, of nobody, of another certificate for that name.
    let user = world.client(Some(&world.issue("jane", None)), None);
    let refused = send(&user, masters(), "").await;
    assert!(String::from_utf8_lossy(refused.body()).contains("User \\\"jane\\\" cannot list"));
    assert_eq!(send(&world.client(None, None), masters(), "").await.status(), 401);
    let namesake = world.client(Some(&world.issue("front-proxy-client", None)), None);
    assert_eq!(send(&namesake, masters(), "").await.status(), 403);
}

#[tokio::test]
async fn bootstrap_tokens_log_in() {
    let world = World::new().await;
    let token = "abcdef.0123456789abcdef";
    let node = world.client(None, Some(token));
    assert_eq!(get(&node, "/api/v1/nodes").await.0, 401);
    let secret = json!({ "apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
        "metadata": { "name": "bootstrap-token-abcdef" }, "data": { "token-id": "YWJjZGVm",
            "token-secret": "MDEyMzQ1Njc4OWFiY2RlZg==", "usage-bootstrap-authentication": "dHJ1ZQ==" } });
    let post =
        Request::post("/api/v1/namespaces/kube-system/secrets").header("content-type", "application/json");
    assert_eq!(send(&world.admin(), post, secret.to_string()).await.status(), 201);
    let (code, text) = get(&node, "/api/v1/nodes").await;
    assert_eq!(code, 403);
    assert!(text.contains("system:bootstrap:abcdef"), "{text}");
    let review = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": { "token": token } });
    let (_, reviewed) =
        self::post(&world.admin(), "/apis/authentication.k8s.io/v1/tokenreviews", review).await;
    assert_eq!(reviewed["status"]["user"]["username"], "system:bootstrap:abcdef", "{reviewed}");
}

#[tokio::test]
async fn sessions_with_pods_need_create_whatever_the_method() {
    let world = World::new().await;
    let post = |path: &str| Request::post(path.to_owned()).header("content-type", "application/json");
    let group = "rbac.authorization.k8s.io";
    for (user, verbs) in [("reader", vec!["get"]), ("operator", vec!["get", "create"])] {
        let role = json!({ "metadata": { "name": user }, "rules": [
            { "apiGroups": [""], "resources": ["pods/exec", "pods/attach", "pods/portforward"], "verbs": verbs }] });
        let binding = json!({ "metadata": { "name": user },
            "roleRef": { "apiGroup": group, "kind": "ClusterRole", "name": user },
            "subjects": [{ "apiGroup": group, "kind": "User", "name": user }] });
        for (resource, object) in [("clusterroles", role), ("clusterrolebindings", binding)] {
            let made =
                send(&world.admin(), post(&format!("/apis/{group}/v1/{resource}")), object.to_string()).await;
            assert_eq!(made.status(), 201);
        }
    }
    for what in ["exec?command=sh&stdout=1", "attach?stdout=1", "portforward"] {
        let path = format!("/api/v1/namespaces/default/pods/web/{what}");
        let upgrade =
            || Request::get(path.clone()).header("connection", "upgrade").header("upgrade", "websocket");
        for (user, code) in [("reader", 403), ("operator", 404)] {
            let client = world.client(Some(&world.issue(user, None)), None);
            let answer = send(&client, upgrade(), "").await;
            assert_eq!(answer.status(), code, "{user} {what}");
            if code == 403 {
                let status: Value = serde_json::from_slice(answer.body()).unwrap();
                assert!(
                    status["message"].as_str().unwrap().starts_with("pods \"web\" is forbidden"),
                    "{status}"
                );
            }
        }
    }
}
