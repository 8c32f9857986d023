//! Pods and services end to end.

use crate::common::api::Api;
use crate::common::*;
use knarr_base::Ctx;
use knarr_client::{Client, Informers};
use knarr_network::{Host, HostConfig, PodNetwork, ProxyConfig, Range, ServiceProxy, ServiceView};
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

const NODE: &str = "node-1";

fn pods_range() -> Range {
    "10.244.0.0/24".parse().unwrap()
}

fn services_range() -> Range {
    "10.96.0.0/16".parse().unwrap()
}

fn config(state: &Path) -> HostConfig {
    HostConfig {
        pod_cidr: pods_range(),
        service_cidr: services_range(),
        node_ip: None,
        state_dir: state.into(),
    }
}

/// A host with the network running, and pods that serve.
struct Cluster {
    runtime: tokio::runtime::Runtime,
    state: tempfile::TempDir,
    network: PodNetwork,
    node: Ipv4Addr,
    api: Api,
    ctx: Ctx,
    view: ServiceView,
}

impl Cluster {
    fn start() -> Self {
        let state = tempfile::tempdir().unwrap();
        let host = Host::prepare(&config(state.path())).unwrap();
        let network = PodNetwork::open(pods_range(), state.path(), 1500).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let api = Api::new();
        let (ctx, view) = runtime.block_on(async {
            let ctx = Ctx::system();
            let informers = Informers::new(Client::new(Arc::new(api.clone()), "test", ctx.clone()));
            let view = ServiceView::new(&informers);
            let config = ProxyConfig {
                pod_cidr: pods_range(),
                service_cidr: services_range(),
                node_name: NODE.to_owned(),
            };
            ServiceProxy::start(&ctx, &view, config).unwrap().synced().await;
            (ctx, view)
        });
        Self { runtime, state, network, node: host.node_ip(), api, ctx, view }
    }

    /// A pod that says its name on TCP and UDP port 80.
    fn pod(&self, name: &str) -> (PathBuf, Ipv4Addr) {
        let netns = namespace(name);
        let address = self.network.attach(name, &netns).unwrap();
        serve_tcp(&netns, 80, name);
        serve_udp(&netns, 80, name);
        (netns, address)
    }

    /// Lets the proxy work until `done` holds; gives how long that took.
    fn wait_for(&self, what: &str, mut done: impl FnMut() -> bool) -> Duration {
        let start = Instant::now();
        loop {
            self.turn();
            if done() {
                return start.elapsed();
            }
            assert!(
                start.elapsed() < Duration::from_secs(10),
                "{what}: {}",
                run("nft", &["list", "ruleset"])
            );
        }
    }

    fn turn(&self) {
        self.runtime.block_on(async { self.ctx.clock.sleep(Duration::from_millis(1)).await });
    }

    /// Lets the proxy work until the kernel's rules are (or are no more) what they mention.
    fn until_rules(&self, mention: &str, there: bool) -> Duration {
        self.wait_for(mention, || run("nft", &["-n", "list", "ruleset"]).contains(mention) == there)
    }
}

fn service(name: &str, ip: &str, more: Value) -> Value {
    let mut service = json!({
        "kind": "Service", "apiVersion": "v1", "metadata": { "name": name, "namespace": "default" },
        "spec": { "clusterIP": ip, "clusterIPs": [ip], "ports": [
            { "name": "t", "port": 8080, "protocol": "TCP" }, { "name": "u", "port": 53, "protocol": "UDP" }] },
    });
    for (key, value) in more.as_object().unwrap() {
        service["spec"][key] = value.clone();
    }
    service
}

fn slice(service: &str, endpoints: &[Ipv4Addr]) -> Value {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|ip| json!({ "addresses": [ip], "nodeName": NODE, "conditions": { "ready": true } }))
        .collect();
    json!({
        "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "addressType": "IPv4",
        "metadata": { "name": format!("{service}-1"), "namespace": "default",
            "labels": { "kubernetes.io/service-name": service } },
        "endpoints": endpoints,
        "ports": [{ "name": "t", "port": 80, "protocol": "TCP" }, { "name": "u", "port": 80, "protocol": "UDP" }],
    })
}

fn at(ip: Ipv4Addr, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(ip, port)
}

const WEB: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const DEAD: Ipv4Addr = Ipv4Addr::new(10, 96, 7, 7);

#[test]
fn pods_reach_each_other_the_node_and_services() {
    in_test_host("cases::services::pods_reach_each_other_the_node_and_services", || {
        let cluster = Cluster::start();
        let (a, a_ip) = cluster.pod("a");
        let (b, b_ip) = cluster.pod("b");
        let client = namespace("client");
        let client_ip = cluster.network.attach("client", &client).unwrap();
        assert_eq!([a_ip, b_ip, client_ip].map(|ip| ip.octets()[3]), [2, 3, 4]);
        assert_eq!(cluster.network.attach("a", &a).unwrap(), a_ip, "attaching again changes nothing");

        // Straight: pod to pod, node to pod, pod to node.
        let node = cluster.node;
        assert_eq!(ask_tcp_from(&client, at(a_ip, 80)), Ok(format!("a {client_ip}")));
        assert_eq!(ask_tcp(at(b_ip, 80)), Ok(format!("b {node}")));
        serve_tcp(Path::new("/proc/thread-self/ns/net"), 9000, "node");
        assert_eq!(ask_tcp_from(&a, at(node, 9000)), Ok(format!("node {a_ip}")));

        // A service with one endpoint, by its address and its node port.
        let ports = json!({ "ports": [
            { "name": "t", "port": 8080, "protocol": "TCP", "nodePort": 30080 },
            { "name": "u", "port": 53, "protocol": "UDP" }], "type": "NodePort" });
        cluster.api.put(service("web", "10.96.0.10", ports));
        cluster.until_rules("30080", true);
        assert_eq!(
            ask_tcp_from(&client, at(node, 30080)),
            Err(std::io::ErrorKind::ConnectionRefused),
            "nobody serves the node port"
        );
        cluster.api.put(slice("web", &[a_ip]));
        cluster.until_rules("dnat", true);
        assert_eq!(ask_tcp_from(&client, at(WEB, 8080)), Ok(format!("a {client_ip}")), "sources are kept");
        assert_eq!(ask_tcp(at(WEB, 8080)), Ok(format!("a {node}")), "node to service");
        assert_eq!(ask_tcp_from(&client, at(node, 30080)), Ok(format!("a {client_ip}")));
        assert_eq!(ask_tcp(at(node, 30080)), Ok(format!("a {node}")));
        let hairpin = ask_tcp_from(&a, at(WEB, 8080)).expect("a pod reaches itself through its service");
        assert!(hairpin.starts_with("a ") && !hairpin.ends_with(&a_ip.to_string()), "{hairpin}");
        let udp = within(&client, || UdpSocket::bind("0.0.0.0:0").unwrap());
        assert_eq!(ask_udp(&udp, at(WEB, 53)), Ok(format!("a {client_ip}")));

        // The endpoint moves: new connections go to the new one, and so do old UDP flows.
        let start = Instant::now();
        cluster.api.put(slice("web", &[b_ip]));
        let address = b_ip.to_string();
        cluster.until_rules(&format!("dnat to {address}:80"), true);
        let moved = start.elapsed();
        assert!(moved < Duration::from_millis(100), "{moved:?}");
        assert_eq!(ask_tcp_from(&client, at(WEB, 8080)), Ok(format!("b {client_ip}")));
        cluster.wait_for("UDP flows follow", || ask_udp(&udp, at(WEB, 53)) == Ok(format!("b {client_ip}")));

        // Two endpoints share the work.
        cluster.api.put(slice("web", &[a_ip, b_ip]));
        cluster.until_rules("numgen random mod 2", true);
        let all: Vec<String> = (0..40).map(|_| ask_tcp_from(&client, at(WEB, 8080)).unwrap()).collect();
        for who in ["a ", "b "] {
            assert!(all.iter().any(|answer| answer.starts_with(who)), "{all:?}");
        }
        assert_eq!(ask_tcp_from(&b, at(WEB, 8080)).map(|_| ()), Ok(()));

        // The whole table is written anew when somebody removes it.
        run("nft", &["flush", "ruleset"]);
        cluster.api.put(slice("web", &[a_ip]));
        cluster.until_rules("service-ips", true);
        cluster.until_rules("numgen", false);
        assert_eq!(ask_tcp_from(&client, at(WEB, 8080)), Ok(format!("a {client_ip}")));
    });
}
