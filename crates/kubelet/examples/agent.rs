//! A kubelet on its own: registers this machine with any API server and runs the pods bound to it. Pods have
//! no network but the host's; others get a network namespace with nothing in it. For trying the kubelet
//! against another control plane: `agent <kubeconfig> <node name> <node ip> <data dir> [<cert> <key> <ca>]`.

use futures_util::future::BoxFuture;
use knarr_base::Ctx;
use knarr_client::Client;
use knarr_image::{ImageStore, silent};
use knarr_kubelet::{Kubelet, KubeletConfig, NetworkRequest, PodNetwork};
use knarr_runtime::{Runtime, RuntimeOptions};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::error::Error;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// Addresses that lead nowhere, so that pods that need none can run.
struct Nowhere(AtomicU8);

impl PodNetwork for Nowhere {
    fn attach<'a>(&'a self, _: NetworkRequest<'a>) -> BoxFuture<'a, Result<Vec<IpAddr>, String>> {
        let last = self.0.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move { Ok(vec![IpAddr::from([192, 0, 2, last])]) })
    }
    fn detach<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    knarr_runtime::zygote_main_if_asked();
    knarr_base::logging::init("info");
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [kubeconfig, node_name, node_ip, data, rest @ ..] = &args[..] else {
        return Err(
            "usage: agent <kubeconfig> <node name> <node ip> <data dir> [<cert> <key> <ca>] [<archive>...]"
                .into(),
        );
    };
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let ctx = Ctx::system();
        let data = PathBuf::from(data);
        let images = ImageStore::open(&ctx, &data.join("images"), Default::default())?;
        for archive in rest.get(3..).unwrap_or_default() {
            for image in images.import(Path::new(archive), silent()).await? {
                println!("imported {:?}", image.repo_tags);
            }
        }
        let options = RuntimeOptions {
            state_dir: data.join("runtime"),
            cgroup_root: format!("knarr-{node_name}"),
            shim_program: None,
        };
        let runtime = Runtime::open(&ctx, options).await?;
        let transport = knarr_client::kubeconfig::load(Path::new(kubeconfig))?;
        let client = Client::new(Arc::new(transport), "kubelet", ctx.clone());
        let config = KubeletConfig {
            node_name: node_name.clone(),
            node_ip: node_ip.parse()?,
            root_dir: data.join("kubelet"),
            log_dir: data.join("logs"),
            cluster_dns: vec![IpAddr::from([10, 96, 0, 10])],
            cluster_domain: "cluster.local".to_owned(),
            listen: ([0, 0, 0, 0], 10250).into(),
            tls: rest.get(..3).map(|files| server_tls(files)).transpose()?,
            client,
            runtime,
            images,
            network: Arc::new(Nowhere(AtomicU8::new(2))),
            labels: Default::default(),
            capacity: None,
            version: "v1.36.0".to_owned(),
            pod_max_pids: None,
            runtime_handlers: Default::default(),
            credential_providers: Default::default(),
            static_pods: None,
            resolv_conf: "/etc/resolv.conf".into(),
            log_max_bytes: 10 << 20,
            housekeeping: knarr_kubelet::Housekeeping::default(),
            log_max_files: 5,
            shutdown: Default::default(),
        };
        let kubelet = Kubelet::new(&ctx, config)?;
        kubelet.start().await?;
        tokio::signal::ctrl_c().await?;
        Ok(())
    })
}

fn server_tls(files: &[String]) -> Result<Arc<rustls::ServerConfig>, Box<dyn Error>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&files[2])?)?;
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .allow_unauthenticated()
            .build()?;
    let chain = CertificateDer::pem_file_iter(&files[0])?.collect::<Result<Vec<_>, _>>()?;
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(&files[1])?)?;
    Ok(Arc::new(config))
}
