//! An API server over the memory store with a handful of kinds and no behaviour of their own, to drive with the
//! real kubectl: `cargo run -p knarr-apiserver --example serve -- <directory> [port]`. The directory receives
//! the certificates and a kubeconfig each for the admin, `alice` (no rights) and `alpha`, a node. Loopback only.

use knarr_api::Kind;
use knarr_api::core::v1::{ConfigMap, Event, Namespace, Node, Pod, Secret, Service, ServiceAccount};
use knarr_api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use knarr_apiserver::def::{ResourceDef, Strategy};
use knarr_apiserver::pki::{PkiConfig, write_atomic};
use knarr_apiserver::{ApiServer, ServerConfig};
use knarr_base::Ctx;
use knarr_store::memory::MemoryStore;
use std::error::Error;
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

struct Plain<K>(PhantomData<K>);

impl<K: Kind> Strategy for Plain<K> {
    type Object = K;
}

fn plain<K: Kind>() -> ResourceDef {
    ResourceDef::new(Plain::<K>(PhantomData))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(arguments.next().ok_or("usage: serve <directory> [port]")?);
    let port = arguments.next().map_or(Ok(16443), |port| port.parse())?;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let ctx = Ctx::system();
    let config = ServerConfig {
        listen: vec![address],
        advertise: address,
        pki: PkiConfig {
            dir: dir.join("pki"),
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
    let defs = vec![
        plain::<Namespace>().status(),
        plain::<ConfigMap>(),
        plain::<Secret>(),
        plain::<Pod>().status(),
        plain::<Node>().status(),
        plain::<Service>().status(),
        plain::<ServiceAccount>(),
        plain::<Event>(),
        plain::<Role>(),
        plain::<RoleBinding>(),
        plain::<ClusterRole>(),
        plain::<ClusterRoleBinding>(),
    ];
    let server = ApiServer::new(config, &ctx, MemoryStore::new(&ctx), defs, Vec::new())?;
    for address in server.start().await? {
        println!("listening on {address}");
    }
    let pki = server.pki();
    let now = ctx.clock.now();
    let alice = pki.issue_client("alice", None, now)?;
    for (name, pem) in [("admin", pki.pem("admin")?), ("alpha", pki.pem("kubelet-client")?), ("alice", alice)]
    {
        write_atomic(&dir.join(format!("{name}.crt")), pem.certificate.as_bytes())?;
        write_atomic(&dir.join(format!("{name}.key")), pem.key.as_bytes())?;
        let kubeconfig = format!(
            "apiVersion: v1\nkind: Config\nclusters: [{{name: k, cluster: {{server: 'https://{address}', certificate-authority: {dir}/pki/ca.crt}}}}]\nusers: [{{name: u, user: {{client-certificate: {dir}/{name}.crt, client-key: {dir}/{name}.key}}}}]\ncontexts: [{{name: c, context: {{cluster: k, user: u}}}}]\ncurrent-context: c\n",
            dir = dir.display()
        );
        write_atomic(&dir.join(format!("{name}.kubeconfig")), kubeconfig.as_bytes())?;
    }
    println!("ready");
    tokio::signal::ctrl_c().await?;
    let drained = server.shutdown(std::time::Duration::from_secs(5)).await;
    println!("drained: {drained}");
    Ok(())
}
