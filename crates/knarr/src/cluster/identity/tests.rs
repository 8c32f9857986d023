//! Certificates of a node that joined, against a whole API server over TLS with the controllers that approve and sign. The
//! node's clock is moved by hand; the server's and the handshakes' goes on.

use super::*;
use crate::cluster::join;
use knarr_api::core::v1::Node;
use knarr_apiserver::request::UserInfo;
use knarr_base::{Clock, ManualClock};
use knarr_controllers::{SIGNING_DURATION, SigningCa, manager, start_kubelet_serving};
use knarr_testkit::{Cluster, wait_for};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConnection, Connection, ServerConnection};
use serde_json::Value;
use std::net::Ipv4Addr;

const DAY: Duration = Duration::from_secs(24 * 3600);
const LIMIT: Duration = Duration::from_secs(20);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);

/// A cluster that a node can join, and a directory for its certificates.
struct Joined {
    cluster: Cluster,
    server: Server,
    dir: tempfile::TempDir,
}

impl Joined {
    async fn start() -> Self {
        let cluster = Cluster::start().await;
        let ca = cluster.server.pki().pem("ca").expect("there is a CA");
        let config = manager::Config {
            signing_ca: Some(SigningCa {
                certificate: ca.certificate.clone(),
                key: ca.key,
                duration: SIGNING_DURATION,
            }),
            ..manager::Config::default()
        };
        let shared = cluster.client_as("system:kube-controller-manager", &[]);
        let ctx = cluster.ctx.child("controllers");
        manager::start(&ctx, shared, &|account| cluster.client_of(account), config);
        let admin = cluster.admin();
        start_kubelet_serving(&ctx, admin.clone());
        let facts = join::ClusterFacts {
            pod_cidr: "10.244.0.0/16".to_owned(),
            service_cidr: "10.96.0.0/16".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            cluster_dns: Ipv4Addr::new(10, 96, 0, 10),
        };
        for (collection, object) in join::objects(&facts, &ca.certificate, "") {
            wait_for(collection, LIMIT, || async {
                join::ensure(&admin, collection, &object).await.map_err(|e| e.to_string())
            })
            .await;
        }
        let node = json!({ "metadata": { "name": "beta" }, "status": { "addresses": [
            { "type": "InternalIP", "address": ADDRESS }, { "type": "Hostname", "address": "beta" }] } });
        let node = Node::from_value(&node).expect("a node");
        let made = admin.create(&node).await.expect("it can be created");
        if made.status.and_then(|s| s.addresses).is_none() {
            admin.update_status(&Node { metadata: made.metadata, ..node }).await.expect("it has addresses");
        }
        let server = Server { host: cluster.address.ip().to_string(), port: cluster.address.port() };
        Self { cluster, server, dir: tempfile::tempdir().expect("a directory") }
    }

    fn ca(&self) -> String {
        self.cluster.server.pki().ca().expect("there is a CA")
    }

    fn open(&self, now: SystemTime) -> Arc<Identity> {
        Identity::open(self.dir.path(), "beta", &self.ca(), now).expect("they can be read")
    }

    /// As a machine with a token joins.
    async fn ask(&self, identity: &Identity) {
        let token = self.cluster.server.transport(UserInfo::new("system:bootstrap:abcdef", &[join::GROUP]));
        identity.ask_client(&self.cluster.ctx, &token).await.expect("it is signed");
    }

    /// Whom the server takes the node for over its transport, and by which certificate.
    async fn seen(&self, transport: &Arc<Https>) -> Result<(String, String), String> {
        let client = Client::new(transport.clone(), "test", self.cluster.ctx.clone());
        let review = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview" });
        let url = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
        let answer = client.call(http::Method::POST, url, &review).await.map_err(|e| e.to_string())?;
        let answer: Value = serde_json::from_slice(&answer).map_err(|e| e.to_string())?;
        let user = &answer["status"]["userInfo"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let by = &user["extra"]["authentication.kubernetes.io/credential-id"][0];
        Ok((text(&user["username"]), text(by)))
    }

    /// The certificate that the kubelet's server shows to a client that trusts the cluster's CA.
    fn shown(&self, identity: &Identity) -> Result<CertificateDer<'static>, String> {
        let trust = Trust::Roots(tls::roots("ca", self.ca()).expect("a CA"));
        let config = tls::client(trust, tls::Identity::None, &[]).expect("a configuration");
        let name = ServerName::IpAddress(IpAddr::V4(ADDRESS).into());
        let client = ClientConnection::new(Arc::new(config), name).expect("a client");
        let server =
            ServerConnection::new(identity.server_tls().expect("a configuration")).expect("a server");
        let (mut client, mut server) = (Connection::from(client), Connection::from(server));
        while client.is_handshaking() {
            pass(&mut client, &mut server)?;
            pass(&mut server, &mut client)?;
        }
        let chain = client.peer_certificates().unwrap_or_default();
        Ok(chain.first().expect("a server has a certificate").clone().into_owned())
    }
}

/// Hands over what one side has to say.
fn pass(from: &mut Connection, to: &mut Connection) -> Result<(), String> {
    let mut wire = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut wire).map_err(|e| e.to_string())?;
    }
    let mut rest = &*wire;
    while !rest.is_empty() {
        to.read_tls(&mut rest).map_err(|e| e.to_string())?;
        to.process_new_packets().map_err(|e| e.to_string())?;
    }
    Ok(())
}

fn credential(key: &CertifiedKey) -> String {
    use sha2::Digest;
    let hash = sha2::Sha256::digest(&key.cert[0]);
    format!("X509SHA256={}", hash.iter().map(|b| format!("{b:02x}")).collect::<String>())
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_renewed_before_they_end_and_used_at_once() {
    let joined = Joined::start().await;
    let real = joined.cluster.ctx.clone();
    let clock = ManualClock::at(real.clock.now());
    let identity = joined.open(clock.now());
    assert!(!identity.has_client());
    joined.ask(&identity).await;
    let transport = identity.transport(&joined.server).expect("a transport");
    let first = identity.client.get().expect("it has joined");
    let (user, by) = joined.seen(&transport).await.expect("an answer");
    assert_eq!((&*user, by), ("system:node:beta", credential(&first)));
    assert!(joined.shown(&identity).is_err(), "there is none yet");

    let ctx = Ctx { clock: clock.clone(), ..real.child("node") };
    identity.keep(&ctx, transport.clone(), IpAddr::V4(ADDRESS));
    let served = wait_for("a serving certificate", LIMIT, || async { joined.shown(&identity) }).await;

    let left = |which: &str| {
        let name = format!("kubelet_certificate_manager_{which}_ttl_seconds ");
        let text = ctx.metrics.encode();
        let seconds = text.lines().find_map(|line| line.strip_prefix(&name)?.parse::<f64>().ok());
        seconds.unwrap_or_else(|| panic!("no {name} in {text}")) / DAY.as_secs_f64()
    };
    assert!((364.0..365.0).contains(&left("client")) && (364.0..365.0).contains(&left("server")));
    let errors = "\nkubelet_certificate_manager_client_expiration_renew_errors 0\n";
    assert!(ctx.metrics.encode().contains(errors), "{}", ctx.metrics.encode());

    // 70 % of a year are 255 days, 90 % are 328.
    let step = |days: u32| {
        for _ in 0..days * 24 {
            clock.advance(Duration::from_secs(3600));
        }
    };
    step(254);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(joined.seen(&transport).await.expect("an answer").1, credential(&first), "before its time");
    assert!((110.0..111.0).contains(&left("client")), "{}", left("client"));
    clock.advance(75 * DAY);
    let second = wait_for("another certificate at the server", LIMIT, || async {
        let (user, by) = joined.seen(&transport).await?;
        let known = identity.client.get().map(|key| credential(&key)).unwrap_or_default();
        let renewed = user == "system:node:beta" && by != credential(&first) && by == known;
        if renewed { Ok(by) } else { Err(by) }
    })
    .await;
    let serving = wait_for("another serving certificate", LIMIT, || async {
        let now = joined.shown(&identity)?;
        if now == served { Err("the old one".to_owned()) } else { Ok(now) }
    })
    .await;

    // A restart finds the new ones, each whole in one file, and asks for nothing.
    ctx.tasks.shutdown(LIMIT).await;
    let again = joined.open(real.clock.now());
    assert_eq!(again.client.get().map(|key| credential(&key)), Some(second.clone()));
    assert_eq!(joined.shown(&again), Ok(serving));
    let transport = again.transport(&joined.server).expect("a transport");
    assert_eq!(joined.seen(&transport).await.map(|(_, by)| by), Ok(second));
    let mut files: Vec<_> = std::fs::read_dir(joined.dir.path())
        .expect("a directory")
        .map(|entry| entry.expect("a file").file_name().into_string().expect("a name"))
        .collect();
    files.sort();
    assert_eq!(files, ["kubelet-client.pem", "kubelet.pem"]);

    // By a clock at which they are over there are none: a token is needed again.
    assert!(!joined.open(clock.now() + 365 * DAY).has_client());
    joined.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_of_files_of_earlier_versions_is_taken() {
    let joined = Joined::start().await;
    let now = joined.cluster.ctx.clock.now();
    let identity = joined.open(now);
    joined.ask(&identity).await;
    let path = |name: &str| joined.dir.path().join(name);
    let pem = std::fs::read_to_string(path("kubelet-client.pem")).expect("it is there");
    let at = pem.find("-----BEGIN PRIVATE").expect("there is a key");
    std::fs::write(path("kubelet-client.crt"), &pem[..at]).expect("written");
    std::fs::write(path("kubelet-client.key"), &pem[at..]).expect("written");
    std::fs::remove_file(path("kubelet-client.pem")).expect("removed");
    assert!(joined.open(now).has_client());
    // One that was asked for takes their place, and half of one is none.
    joined.ask(&identity).await;
    assert!(path("kubelet-client.pem").exists() && !path("kubelet-client.key").exists());
    std::fs::write(path("kubelet-client.pem"), &pem[..at]).expect("written");
    assert!(!joined.open(now).has_client());
    joined.cluster.stop().await;
}

#[test]
fn renewal_is_between_70_and_90_percent_of_the_lifetime() {
    let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let mut params = CertificateParams::default();
    params.not_before = start.into();
    params.not_after = (start + 100 * DAY).into();
    let key = KeyPair::generate().expect("a key");
    let pem = params.self_signed(&key).expect("a certificate").pem();
    let key = certified(&format!("{pem}{}", key.serialize_pem())).expect("a pair");
    for (day, jitter, wait) in [
        (0, 0.0, 70 * DAY),
        (0, 0.5, 80 * DAY),
        (0, 1.0, 90 * DAY),
        (60, 0.0, 10 * DAY),
        (70, 0.0, Duration::ZERO),
        (89, 1.0, DAY),
        (95, 1.0, Duration::ZERO),
    ] {
        let got = until_rotation(&key, start + day * DAY, jitter);
        assert!(got.abs_diff(wait) < Duration::from_secs(1), "day {day}, jitter {jitter}: {got:?}");
    }
}
