//! Cluster DNS, asked over the wire.

use crate::common::api::Api;
use crate::common::in_test_host;
use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use knarr_base::Ctx;
use knarr_client::{Client, Informers};
use knarr_network::{Dns, DnsConfig, ServiceView, Upstreams, ensure_dns_service};
use serde_json::json;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

async fn ask_message(server: SocketAddr, message: &Message) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&message.to_vec().unwrap(), server).await.unwrap();
    let mut buffer = vec![0; 4096];
    let length = socket.recv(&mut buffer).await.unwrap();
    let answer = Message::from_vec(&buffer[..length]).unwrap();
    assert_eq!(answer.metadata.id, message.metadata.id);
    answer
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

async fn ask(server: SocketAddr, name: &str, kind: RecordType) -> Message {
    ask_message(server, &question(name, kind)).await
}

async fn ask_tcp(server: SocketAddr, message: &Message) -> Message {
    let mut stream = TcpStream::connect(server).await.unwrap();
    let bytes = message.to_vec().unwrap();
    stream.write_u16(bytes.len() as u16).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let length = stream.read_u16().await.unwrap();
    let mut answer = vec![0; length.into()];
    stream.read_exact(&mut answer).await.unwrap();
    Message::from_vec(&answer).unwrap()
}

/// The answers' data as text, sorted.
fn data(answer: &Message) -> Vec<String> {
    let mut all: Vec<String> = answer.answers.iter().map(|r| r.data.to_string()).collect();
    all.sort();
    all
}

/// A resolver that answers A questions with 192.0.2.7 and counts them.
async fn resolver(ctx: &Ctx, counter: Arc<AtomicUsize>) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    ctx.tasks.spawn_until_stopped("resolver", async move {
        let mut buffer = vec![0; 4096];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            let query = Message::from_vec(&buffer[..length]).unwrap();
            counter.fetch_add(1, Ordering::SeqCst);
            let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
            let name = query.queries[0].name().clone();
            answer.add_queries(query.queries.clone());
            let data = RData::A(hickory_proto::rr::rdata::A::new(192, 0, 2, 7));
            answer.add_answer(Record::from_rdata(name, 60, data));
            socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
        }
    });
    address
}

fn objects(api: &Api) {
    let service = |name: &str, spec: serde_json::Value| {
        api.put(json!({ "kind": "Service", "apiVersion": "v1",
            "metadata": { "name": name, "namespace": "shop" }, "spec": spec }));
    };
    let ports = json!([{ "name": "http", "port": 80, "protocol": "TCP" }]);
    service("web", json!({ "clusterIP": "10.96.0.20", "clusterIPs": ["10.96.0.20"], "ports": ports }));
    service("db", json!({ "clusterIP": "None", "ports": ports }));
    service("early", json!({ "clusterIP": "None", "publishNotReadyAddresses": true, "ports": ports }));
    service("many", json!({ "clusterIP": "None", "ports": ports }));
    service("outside", json!({ "type": "ExternalName", "externalName": "www.example.org" }));
    service("inside", json!({ "type": "ExternalName", "externalName": "web.shop.svc.cluster.local" }));
    let slice = |name: &str, endpoints: serde_json::Value| {
        api.put(json!({ "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "addressType": "IPv4",
            "metadata": { "name": format!("{name}-x"), "namespace": "shop",
                "labels": { "kubernetes.io/service-name": name } },
            "endpoints": endpoints, "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }] }));
    };
    let pods = json!([
        { "addresses": ["10.244.0.5"], "hostname": "db-0", "conditions": { "ready": true } },
        { "addresses": ["10.244.0.6"], "conditions": { "ready": true } },
        { "addresses": ["10.244.0.7"], "hostname": "db-2", "conditions": { "ready": false } }]);
    slice("db", pods.clone());
    slice("early", pods);
    let many: Vec<_> = (1..=200).map(|i| json!({ "addresses": [format!("10.244.9.{i}")] })).collect();
    slice("many", many.into());
}

#[test]
fn names_of_the_cluster_are_answered_from_memory_and_others_by_resolvers() {
    in_test_host("cases::dns::names_of_the_cluster_are_answered_from_memory_and_others_by_resolvers", || {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(check());
    });
}

async fn check() {
    let ctx = Ctx::system();
    let api = Api::new();
    objects(&api);
    let asked = Arc::new(AtomicUsize::new(0));
    let upstream = resolver(&ctx, asked.clone()).await;
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    drop(silent); // nobody listens: the next one is asked at once
    let client = Client::new(Arc::new(api.clone()), "test", ctx.clone());
    let view = ServiceView::new(&Informers::new(client.clone()));
    let config = DnsConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        cluster_domain: "cluster.local".to_owned(),
        ranges: vec!["10.96.0.0/16".parse().unwrap(), "10.244.0.0/16".parse().unwrap()],
        upstreams: Upstreams::Fixed(vec!["127.0.0.1:9".parse().unwrap(), upstream]),
    };
    let server = Dns::start(&ctx, &view, config).unwrap().address();
    ensure_dns_service(&client, Ipv4Addr::new(10, 96, 0, 10), Ipv4Addr::new(10, 244, 0, 1), 5353)
        .await
        .unwrap();
    ensure_dns_service(&client, Ipv4Addr::new(10, 96, 0, 10), Ipv4Addr::new(10, 244, 0, 1), 5354)
        .await
        .unwrap();
    view.synced().await;
    let slice = api.get("endpointslices", "kube-system", "kube-dns-node").unwrap();
    assert_eq!(slice["ports"][0]["port"], 5354, "a restart on another port is followed");

    use RecordType::*;
    let no_error = ResponseCode::NoError;
    let nx = ResponseCode::NXDomain;
    let cases: &[(&str, RecordType, ResponseCode, &[&str])] = &[
        ("web.shop.svc.cluster.local.", A, no_error, &["10.96.0.20"]),
        ("WEB.Shop.svc.cluster.LOCAL.", A, no_error, &["10.96.0.20"]),
        ("web.shop.svc.cluster.local.", AAAA, no_error, &[]),
        ("web.shop.svc.cluster.local.", MX, no_error, &[]),
        ("nothing.shop.svc.cluster.local.", A, nx, &[]),
        ("web.elsewhere.svc.cluster.local.", A, nx, &[]),
        ("www.example.org.shop.svc.cluster.local.", A, nx, &[]),
        ("www.example.org.cluster.local.", A, nx, &[]),
        ("shop.svc.cluster.local.", A, no_error, &[]),
        ("kube-dns.kube-system.svc.cluster.local.", A, no_error, &["10.96.0.10"]),
        ("db.shop.svc.cluster.local.", A, no_error, &["10.244.0.5", "10.244.0.6"]),
        ("early.shop.svc.cluster.local.", A, no_error, &["10.244.0.5", "10.244.0.6", "10.244.0.7"]),
        ("db-0.db.shop.svc.cluster.local.", A, no_error, &["10.244.0.5"]),
        ("10-244-0-6.db.shop.svc.cluster.local.", A, no_error, &["10.244.0.6"]),
        ("db-2.db.shop.svc.cluster.local.", A, nx, &[]),
        ("_http._tcp.web.shop.svc.cluster.local.", SRV, no_error, &["0 100 80 web.shop.svc.cluster.local."]),
        ("_http._udp.web.shop.svc.cluster.local.", SRV, nx, &[]),
        (
            "_http._tcp.db.shop.svc.cluster.local.",
            SRV,
            no_error,
            &["0 50 8080 10-244-0-6.db.shop.svc.cluster.local.", "0 50 8080 db-0.db.shop.svc.cluster.local."],
        ),
        ("10-244-0-9.shop.pod.cluster.local.", A, no_error, &["10.244.0.9"]),
        ("nonsense.shop.pod.cluster.local.", A, nx, &[]),
        ("outside.shop.svc.cluster.local.", CNAME, no_error, &["www.example.org."]),
        ("outside.shop.svc.cluster.local.", A, no_error, &["192.0.2.7", "www.example.org."]),
        ("inside.shop.svc.cluster.local.", A, no_error, &["10.96.0.20", "web.shop.svc.cluster.local."]),
        ("20.0.96.10.in-addr.arpa.", PTR, no_error, &["web.shop.svc.cluster.local."]),
        (
            "5.0.244.10.in-addr.arpa.",
            PTR,
            no_error,
            &["db-0.db.shop.svc.cluster.local.", "db-0.early.shop.svc.cluster.local."],
        ),
        ("99.0.96.10.in-addr.arpa.", PTR, nx, &[]),
        ("dns-version.cluster.local.", TXT, no_error, &["1.1.0"]),
    ];
    for (name, kind, code, wanted) in cases {
        let answer = ask(server, name, *kind).await;
        assert_eq!(answer.metadata.response_code, *code, "{name} {kind}");
        assert_eq!(data(&answer), *wanted, "{name} {kind}");
        assert!(answer.metadata.authoritative && answer.metadata.recursion_available, "{name}");
        assert_eq!(answer.queries[0].name().to_ascii(), *name, "the question comes back as it was put");
        if wanted.is_empty() {
            assert_eq!(answer.authorities[0].record_type(), SOA, "{name}");
        } else {
            assert!(answer.answers.iter().all(|r| r.ttl == 5 || asked.load(Ordering::SeqCst) > 0), "{name}");
        }
    }
    let srv = ask(server, "_http._tcp.db.shop.svc.cluster.local.", SRV).await;
    assert_eq!(srv.additionals.len(), 2, "addresses of the targets come along");

    // Everybody else's names: asked once, then kept.
    let before = asked.load(Ordering::SeqCst);
    for _ in 0..3 {
        let answer = ask(server, "one.example.com.", A).await;
        assert_eq!(data(&answer), ["192.0.2.7"]);
        assert!(!answer.metadata.authoritative);
    }
    assert_eq!(asked.load(Ordering::SeqCst), before + 1);

    // More than fits: cut and marked; with EDNS more fits; over TCP all of it.
    let mut many = question("many.shop.svc.cluster.local.", A);
    let cut = ask_message(server, &many).await;
    assert!(cut.metadata.truncation && cut.edns.is_none() && !cut.answers.is_empty());
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    many.set_edns(edns);
    let more = ask_message(server, &many).await;
    assert!(more.metadata.truncation && more.edns.is_some() && more.answers.len() > cut.answers.len());
    let all = ask_tcp(server, &many).await;
    assert_eq!((all.answers.len(), all.metadata.truncation), (200, false));

    // A service that goes is forgotten, and the server survives nonsense.
    api.remove(&json!({ "kind": "Service", "metadata": { "name": "web", "namespace": "shop" } }));
    while ask(server, "web.shop.svc.cluster.local.", A).await.metadata.response_code != nx {}
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let good = question("db.shop.svc.cluster.local.", A).to_vec().unwrap();
    for cut in 0..good.len() {
        socket.send_to(&good[..cut], server).await.unwrap();
    }
    assert_eq!(data(&ask(server, "db-0.db.shop.svc.cluster.local.", A).await), ["10.244.0.5"]);
}
