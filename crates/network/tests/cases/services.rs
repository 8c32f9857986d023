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
        cluster_cidr: pods_range(),
        service_cidr: services_range(),
        node_ip: None,
        state_dir: state.into(),
    }
}

/// A host with the network running, and pods that serve.
struct Cluster {
    runtime: tokio::runtime::Runtime,
    state: tempfile::TempDir,
    host: HostConfig,
    network: PodNetwork,
    node: Ipv4Addr,
    api: Api,
    ctx: Ctx,
    view: ServiceView,
}

impl Cluster {
    fn start() -> Self {
        // As strict as hosts get.
        for scope in ["all", "default"] {
            std::fs::write(format!("/proc/sys/net/ipv4/conf/{scope}/rp_filter"), "1").unwrap();
        }
        let state = tempfile::tempdir().unwrap();
        let host = config(state.path());
        let node = Host::prepare(&host).unwrap().node_ip();
        let network = PodNetwork::open(pods_range(), state.path(), 1500).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let api = Api::new();
        let (ctx, view) = runtime.block_on(async {
            let ctx = Ctx::system();
            let informers = Informers::new(Client::new(Arc::new(api.clone()), "test", ctx.clone()));
            let view = ServiceView::new(&informers);
            let config = ProxyConfig {
                pod_cidr: pods_range(),
                cluster_cidr: pods_range(),
                service_cidr: services_range(),
                node_name: NODE.to_owned(),
                local_dns: None,
            };
            ServiceProxy::start(&ctx, &view, config).unwrap().synced().await;
            (ctx, view)
        });
        Self { runtime, state, host, network, node, api, ctx, view }
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
    in_measured_host("cases::services::pods_reach_each_other_the_node_and_services", || {
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
        let local = Ipv4Addr::LOCALHOST;
        assert_eq!(ask_tcp(at(local, 30080)), Ok(format!("a {node}")), "node port on the loopback address");
        let inner = std::net::TcpListener::bind((local, 9001)).unwrap();
        run("ip", &["-n", "client", "addr", "del", "127.0.0.1/8", "dev", "lo"]);
        run(
            "ip",
            &["-n", "client", "route", "add", "127.0.0.1", "via", "169.254.1.1", "dev", "eth0", "onlink"],
        );
        run("ip", &["netns", "exec", "client", "sysctl", "-qw", "net.ipv4.conf.eth0.route_localnet=1"]);
        let intruder = || ask_tcp_from(&client, at(local, 9001));
        assert_eq!(intruder(), Err(std::io::ErrorKind::TimedOut), "pods do not reach the host's loopback");
        // It is this chain that keeps them out: without it they are connected, if to somebody silent.
        run("nft", &["flush", "chain", "ip", "knarr", "raw-prerouting"]);
        assert_eq!(intruder(), Err(std::io::ErrorKind::WouldBlock));
        drop(inner);
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

/// A machine beyond the host's uplink, at 192.0.2.2; the host is 192.0.2.1. It counts what reaches it of the cluster's
/// addresses.
fn outside() -> PathBuf {
    let outside = namespace("outside");
    run("ip", &["link", "add", "up0", "type", "veth", "peer", "name", "down0", "netns", "outside"]);
    run("ip", &["addr", "add", "192.0.2.1/24", "dev", "up0"]);
    run("ip", &["link", "set", "up0", "up"]);
    run("ip", &["-n", "outside", "addr", "add", "192.0.2.2/24", "dev", "down0"]);
    run("ip", &["-n", "outside", "link", "set", "down0", "up"]);
    run("ip", &["-n", "outside", "link", "set", "lo", "up"]);
    run("ip", &["route", "add", "default", "via", "192.0.2.2"]);
    // Whatever the host sends to cluster addresses arrives here, be it refused or not.
    let count = "add table ip t; add chain ip t c { type filter hook prerouting priority -300; }; \
                 add rule ip t c ip daddr { 10.96.0.0/16, 10.244.0.0/16 } counter; \
                 add rule ip t c ip saddr 10.244.0.0/24 counter";
    run("ip", &["netns", "exec", "outside", "nft", count]);
    outside
}

const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

#[test]
fn traffic_with_the_outside_is_translated_and_dead_addresses_never_leave() {
    in_test_host(
        "cases::services::traffic_with_the_outside_is_translated_and_dead_addresses_never_leave",
        || {
            let outside = outside();
            let cluster = Cluster::start();
            let (a, a_ip) = cluster.pod("a");
            let client = namespace("client");
            let client_ip = cluster.network.attach("client", &client).unwrap();
            serve_tcp(&outside, 7000, "outside");

            // Out: under the host's address.
            assert_eq!(ask_tcp_from(&a, at(OUTSIDE, 7000)), Ok(format!("outside {HOST}")));

            // In: to a node port, with the client's own address, and to an external address.
            let ports = json!([{ "name": "t", "port": 8080, "protocol": "TCP", "nodePort": 30080 }]);
            let spec = json!({ "ports": ports, "type": "NodePort", "externalIPs": ["192.0.2.1"] });
            cluster.api.put(service("web", "10.96.0.10", spec.clone()));
            cluster.api.put(slice("web", &[a_ip]));
            cluster.until_rules("dnat", true);
            assert_eq!(ask_tcp_from(&outside, at(HOST, 30080)), Ok(format!("a {OUTSIDE}")));
            assert_eq!(ask_tcp_from(&outside, at(HOST, 8080)), Ok(format!("a {OUTSIDE}")));
            assert_eq!(ask_tcp_from(&client, at(HOST, 30080)), Ok(format!("a {client_ip}")));

            // Endpoints of this node only, and there are none: the outside gets silence, the cluster its answer.
            let mut local = spec;
            local["externalTrafficPolicy"] = "Local".into();
            cluster.api.put(service("web", "10.96.0.10", local));
            let mut elsewhere = slice("web", &[a_ip]);
            elsewhere["endpoints"][0]["nodeName"] = "node-2".into();
            cluster.api.put(elsewhere);
            cluster.until_rules("external-", true);
            assert_eq!(ask_tcp_from(&client, at(HOST, 30080)), Ok(format!("a {client_ip}")));
            assert_eq!(ask_tcp_from(&outside, at(HOST, 30080)), Err(std::io::ErrorKind::TimedOut));

            // A service whose endpoint is elsewhere: pods and node reach it under the host's address.
            cluster.api.put(service("far", "10.96.0.11", json!({})));
            let mut far = slice("far", &[OUTSIDE]);
            far["ports"][0]["port"] = 7000.into();
            cluster.api.put(far);
            cluster.until_rules("192.0.2.2:7000", true);
            let far = at(Ipv4Addr::new(10, 96, 0, 11), 8080);
            assert_eq!(ask_tcp_from(&a, far), Ok(format!("outside {HOST}")));
            assert_eq!(ask_tcp(far), Ok(format!("outside {HOST}")));

            // Dead addresses are refused at once, and nothing of it was seen outside.
            cluster.api.put(service("empty", "10.96.0.12", json!({})));
            cluster.turn();
            let refused = Err(std::io::ErrorKind::ConnectionRefused);
            for dead in [DEAD, Ipv4Addr::new(10, 96, 0, 12)] {
                let start = Instant::now();
                assert_eq!(ask_tcp_from(&client, at(dead, 8080)), refused);
                assert_eq!(ask_tcp(at(dead, 8080)), refused);
                let dead = at(dead, 53);
                let connected = move || {
                    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                    socket.connect(dead).unwrap();
                    socket
                };
                assert_eq!(ask_udp(&within(&client, connected), dead), refused);
                // The node's own programs are told by the system call itself.
                assert_eq!(ask_udp(&connected(), dead), Err(std::io::ErrorKind::PermissionDenied));
                assert!(start.elapsed() < Duration::from_secs(1));
            }
            let gone = at(Ipv4Addr::new(10, 244, 0, 99), 80);
            assert_eq!(ask_tcp(gone), Err(std::io::ErrorKind::HostUnreachable));
            assert_eq!(ask_tcp_from(&client, gone), Err(std::io::ErrorKind::HostUnreachable));
            let counted = run("ip", &["netns", "exec", "outside", "nft", "list", "ruleset"]);
            assert_eq!(counted.matches("counter packets 0 ").count(), 2, "{counted}");
        },
    );
}

#[test]
fn clients_stay_with_their_endpoint_and_host_ports_lead_to_pods() {
    in_test_host("cases::services::clients_stay_with_their_endpoint_and_host_ports_lead_to_pods", || {
        let cluster = Cluster::start();
        let pods: Vec<(PathBuf, Ipv4Addr)> = ["a", "b", "c"].iter().map(|name| cluster.pod(name)).collect();
        let ips: Vec<Ipv4Addr> = pods.iter().map(|(_, ip)| *ip).collect();
        let client = namespace("client");
        cluster.network.attach("client", &client).unwrap();
        let sticky = json!({ "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": 100 } } });
        cluster.api.put(service("web", "10.96.0.10", sticky));
        cluster.api.put(slice("web", &ips));
        cluster.until_rules("numgen random mod 3", true);
        let ask = || ask_tcp_from(&client, at(WEB, 8080)).unwrap()[..1].to_owned();
        let first = ask();
        for _ in 0..20 {
            assert_eq!(ask(), first);
        }
        // Its endpoint goes: another one takes over for good; the others' memory is kept.
        let left: Vec<Ipv4Addr> = (0..3).filter(|i| ["a", "b", "c"][*i] != first).map(|i| ips[i]).collect();
        cluster.api.put(slice("web", &left));
        cluster.until_rules("numgen random mod 2", true);
        let second = ask();
        assert_ne!(second, first);
        for _ in 0..20 {
            assert_eq!(ask(), second);
        }
        cluster.api.put(slice("web", &ips));
        cluster.until_rules("numgen random mod 3", true);
        assert_eq!(ask(), second);

        // The last chain and set go with the service.
        cluster.api.remove(&service("web", "10.96.0.10", json!({})));
        cluster.until_rules("clients-", false);
        let rules = run("nft", &["list", "ruleset"]);
        assert!(!rules.contains("default/web") && !rules.contains("elements"), "{rules}");

        // Host ports, from another pod, from the node and from the pod itself; gone with the pod.
        let port = |host_port| knarr_network::HostPort {
            protocol: knarr_network::proxy::rules::Protocol::Tcp,
            host_ip: None,
            host_port,
            pod_port: 80,
        };
        cluster.network.publish("a", &[port(8001)]).unwrap();
        cluster.network.publish("b", &[port(8002)]).unwrap();
        for (host_port, name) in [(8001, "a"), (8002, "b")] {
            for from in [&client, &pods[0].0, &pods[1].0] {
                let answer = ask_tcp_from(from, at(cluster.node, host_port)).unwrap();
                assert!(answer.starts_with(name), "{answer}");
            }
            assert!(ask_tcp(at(cluster.node, host_port)).unwrap().starts_with(name));
            assert!(ask_tcp(at(Ipv4Addr::LOCALHOST, host_port)).unwrap().starts_with(name));
        }
        cluster.network.detach("a").unwrap();
        assert_eq!(ask_tcp(at(cluster.node, 8001)), Err(std::io::ErrorKind::ConnectionRefused));
        assert!(ask_tcp(at(cluster.node, 8002)).is_ok());
    });
}

#[test]
fn names_are_looked_up_through_the_dns_service() {
    in_test_host("cases::services::names_are_looked_up_through_the_dns_service", || {
        use hickory_proto::op::{Message, Query};
        let cluster = Cluster::start();
        let (client, _) = cluster.pod("client");
        let dns_ip = Ipv4Addr::new(10, 96, 0, 53);
        cluster.runtime.block_on(async {
            let config = knarr_network::DnsConfig {
                listen: (cluster.node, 0).into(),
                cluster_domain: "cluster.local".to_owned(),
                ranges: vec![],
                upstreams: knarr_network::Upstreams::Fixed(vec![]),
            };
            let dns = knarr_network::Dns::start(&cluster.ctx, &cluster.view, config).unwrap();
            let writer = Client::new(Arc::new(cluster.api.clone()), "test", cluster.ctx.clone());
            let port = dns.address().port();
            knarr_network::ensure_dns_service(&writer, dns_ip, cluster.node, port).await.unwrap();
        });
        cluster.until_rules("10.96.0.53 . 17 . 53", true);
        let mut query = Message::query();
        let name = "kube-dns.kube-system.svc.cluster.local.".parse().unwrap();
        query.add_query(Query::query(name, hickory_proto::rr::RecordType::A));
        let bytes = query.to_vec().unwrap();
        let socket = within(&client, || UdpSocket::bind("0.0.0.0:0").unwrap());
        socket.set_nonblocking(true).unwrap();
        socket.send_to(&bytes, at(dns_ip, 53)).unwrap();
        let mut buffer = [0; 512];
        cluster.wait_for("an answer", || socket.recv(&mut buffer).is_ok());
        let answer = Message::from_vec(&buffer).unwrap();
        assert_eq!(answer.answers[0].data.to_string(), dns_ip.to_string());
    });
}

/// What is on the host, for comparing.
fn inventory() -> String {
    let forwarding = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
    let links = run("ip", &["-o", "-4", "addr"]) + &run("ip", &["-br", "link"]);
    format!("{links}{}{}{forwarding}", run("ip", &["route"]), run("nft", &["list", "ruleset"]))
}

#[test]
fn everything_can_be_taken_off_the_host_again() {
    in_test_host("cases::services::everything_can_be_taken_off_the_host_again", || {
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        let before = inventory();
        let empty = tempfile::tempdir().unwrap();
        Host::cleanup(empty.path()).unwrap();
        assert_eq!(inventory(), before, "nothing to take off");

        let cluster = Cluster::start();
        let (a, a_ip) = cluster.pod("a");
        let (_, b_ip) = cluster.pod("b");
        let port = knarr_network::HostPort {
            protocol: knarr_network::proxy::rules::Protocol::Udp,
            host_ip: Some(cluster.node),
            host_port: 9999,
            pod_port: 80,
        };
        cluster.network.publish("b", &[port]).unwrap();
        let state = cluster.state.path();

        // A new process finds everything as it was.
        let prepared = inventory();
        Host::prepare(&cluster.host).unwrap();
        let again = PodNetwork::open(pods_range(), state, 1500).unwrap();
        assert_eq!((again.address("a"), again.attach("a", &a).unwrap()), (Some(a_ip), a_ip));
        assert_eq!(inventory(), prepared);

        // Pods that went while nobody looked.
        again.retain(&["a"]).unwrap();
        assert_eq!((again.address("a"), again.address("b")), (Some(a_ip), None));
        assert!(ask_tcp(at(a_ip, 80)).is_ok());
        assert_eq!(ask_tcp(at(b_ip, 80)), Err(std::io::ErrorKind::HostUnreachable));
        assert!(!run("nft", &["list", "ruleset"]).contains("9999"));

        // The pod's namespace was made anew under the same UID.
        let anew = namespace("a-anew");
        assert_eq!(again.attach("a", &anew).unwrap(), a_ip);
        assert!(
            ask_tcp_from(&anew, at(cluster.node, 1))
                .is_err_and(|e| e == std::io::ErrorKind::ConnectionRefused)
        );

        // After a reboot addresses are free, but given out late.
        let file = state.join("pods.json");
        let text = std::fs::read_to_string(&file).unwrap();
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        std::fs::write(&file, text.replace(boot.trim(), "another")).unwrap();
        let rebooted = PodNetwork::open(pods_range(), state, 1500).unwrap();
        assert_eq!(rebooted.address("a"), None);
        let (c, c_ip) = (namespace("c"), rebooted.attach("c", Path::new("/run/netns/c")).unwrap());
        assert_eq!(c_ip.octets()[3], 4, "{}", c.display());

        // Another configuration takes the place of the old one.
        let other = HostConfig { service_cidr: "10.97.0.0/16".parse().unwrap(), ..cluster.host.clone() };
        Host::prepare(&other).unwrap();
        assert!(!run("ip", &["route"]).contains("10.96.0.0"));

        // An address the host has itself: the device needs none, pods go on.
        run("ip", &["addr", "add", "192.0.2.9/32", "dev", "lo"]);
        let own = Ipv4Addr::new(192, 0, 2, 9);
        let with_own = HostConfig { node_ip: Some(own), ..cluster.host.clone() };
        assert_eq!(Host::prepare(&with_own).unwrap().node_ip(), own);
        assert!(run("ip", &["route"]).contains("10.96.0.0/16 dev knarr0 proto 142 scope link src 192.0.2.9"));
        assert!(!run("ip", &["addr", "show", "knarr0"]).contains("10.244.0.1"));
        assert!(ask_tcp(at(c_ip, 1)).is_err_and(|e| e == std::io::ErrorKind::ConnectionRefused));
        run("ip", &["addr", "del", "192.0.2.9/32", "dev", "lo"]);

        for _ in 0..2 {
            Host::cleanup(state).unwrap();
            assert_eq!(inventory(), before);
        }
    });
}

#[test]
fn what_is_in_the_way_is_named() {
    in_test_host("cases::services::what_is_in_the_way_is_named", || {
        let state = tempfile::tempdir().unwrap();
        let config = config(state.path());
        let messages = || -> Vec<(bool, String)> {
            let all = knarr_network::host::check(&config).unwrap();
            all.into_iter().map(|p| (p.fatal, p.to_string())).collect()
        };
        outside();
        assert_eq!(messages(), []);
        Host::prepare(&config).unwrap();
        assert_eq!(messages(), [], "its own routes and tables are no problem");
        let stranger = HostConfig { node_ip: Some(Ipv4Addr::new(192, 0, 2, 77)), ..config.clone() };
        let found = knarr_network::host::check(&stranger).unwrap();
        assert!(
            found.len() == 1
                && found[0].message.contains("192.0.2.77")
                && found[0].message.contains("192.0.2.1")
        );
        run("ip", &["route", "add", "10.96.4.0/24", "via", "192.0.2.2"]);
        run("ip", &["addr", "add", "10.244.0.200/30", "dev", "up0"]);
        run(
            "nft",
            &[
                "add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }",
            ],
        );
        let found = messages();
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(
            found[0].0
                && found[0].1.contains("pod range 10.244.0.0/24")
                && found[0].1.contains("10.244.0.200/30 over up0"),
            "{found:?}"
        );
        assert!(found[1].0 && found[1].1.contains("10.96.4.0/24 over up0"), "{found:?}");
        assert!(
            !found[2].0 && found[2].1.contains("ip filter") && found[2].1.contains("iptables -I FORWARD"),
            "{found:?}"
        );
    });
}

#[test]
fn a_pod_is_connected_within_milliseconds() {
    in_measured_host("cases::services::a_pod_is_connected_within_milliseconds", || {
        let cluster = Cluster::start();
        let all: Vec<PathBuf> = (0..50).map(|i| namespace(&format!("p{i}"))).collect();
        let mut took: Vec<Duration> = Vec::new();
        for (i, netns) in all.iter().enumerate() {
            let start = Instant::now();
            cluster.network.attach(&format!("uid-{i}"), netns).unwrap();
            took.push(start.elapsed());
        }
        took.sort_unstable();
        println!("attach: median {:?}, worst {:?}", took[25], took[49]);
        // The promise is 5 ms; machines that run tests have other things to do, too.
        assert!(took[25] < Duration::from_millis(25), "{took:?}");
    });
}

#[test]
fn a_change_among_a_thousand_services_is_quick() {
    in_measured_host("cases::services::a_change_among_a_thousand_services_is_quick", || {
        let cluster = Cluster::start();
        let ip = |i: u32| Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 8, 0)) + i);
        let pods: Vec<Ipv4Addr> = (2..12).map(|i| Ipv4Addr::new(10, 244, 0, i)).collect();
        for i in 0..1000 {
            let name = format!("s{i}");
            cluster.api.put(service(&name, &ip(i).to_string(), json!({})));
            cluster.api.put(slice(&name, &pods));
        }
        let last = format!("{} . 17 . 53", ip(999));
        println!("1000 services from nothing: {:?}", cluster.until_rules(&last, true));
        let (a, a_ip) = cluster.pod("a");
        let (_, b_ip) = cluster.pod("b");
        let mut took = Vec::new();
        for (name, to) in [("a", a_ip), ("b", b_ip)].into_iter().cycle().take(10) {
            // Listing a thousand services takes longer than changing one, so the packets tell.
            let start = Instant::now();
            cluster.api.put(slice("s500", &[to]));
            let arrived = || ask_tcp_from(&a, at(ip(500), 8080)).is_ok_and(|answer| answer.starts_with(name));
            cluster.wait_for("the change", arrived);
            took.push(start.elapsed());
        }
        took.sort_unstable();
        println!("one change among them: median {:?}, worst {:?}", took[5], took[9]);
        assert!(took[5] < Duration::from_millis(100), "{took:?}");
        // Anew at once, as after a restart or when somebody flushed the rules.
        run("nft", &["flush", "ruleset"]);
        cluster.api.put(slice("s500", &[a_ip]));
        let start = Instant::now();
        cluster.wait_for("the table", || run("nft", &["list", "tables"]).contains("ip knarr"));
        println!("the whole table: {:?}", start.elapsed());
    });
}
