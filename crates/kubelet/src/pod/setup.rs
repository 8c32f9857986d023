//! Before containers: sandbox, network and volumes, made side by side; and taking them down again.

use super::users;
use super::worker::Msg;
use crate::container::image_volume;
use crate::container::spec::sandbox;
use crate::kubelet::{Entry, Shared};
use crate::network::{HostPort, NetworkRequest};
use crate::util::{about, defs, host_network};
use crate::volume::{self, Prepared};
use knarr_api::Kind;
use knarr_api::core::v1::Pod;
use knarr_runtime::spec::SandboxSpec;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// What preparing came to; each part can fail by itself.
pub(crate) struct Outcome {
    /// The pod's addresses, and whether the sandbox is a new one.
    pub(crate) sandbox: Result<(Vec<IpAddr>, bool), String>,
    /// Its volumes.
    pub(crate) volumes: Result<Prepared, String>,
    /// The pod it was made for.
    pub(crate) pod: Arc<Pod>,
}

/// Makes what is missing, then tells the worker.
pub(crate) async fn run(kubelet: Arc<Shared>, entry: Arc<Entry>, pod: Arc<Pod>, attempt: u32) {
    // Only downward API volumes need the addresses, so only they wait for the network.
    let needs_ips = needs_ips(&pod);
    let (sandbox, volumes) = if needs_ips {
        let sandbox = make_sandbox(&kubelet, &pod, attempt).await;
        let ips = sandbox.as_ref().map(|(ips, _)| ips.clone()).unwrap_or_default();
        (sandbox, volume::prepare(&kubelet, &pod, &ips).await)
    } else {
        futures_util::future::join(
            make_sandbox(&kubelet, &pod, attempt),
            volume::prepare(&kubelet, &pod, &[]),
        )
        .await
    };
    let about = about(&pod, None);
    if let Err(message) = &sandbox {
        kubelet.recorder.warning(
            &about,
            "FailedCreatePodSandBox",
            format!("Failed to create pod sandbox: {message}"),
        );
    }
    let volumes = volumes.map_err(|e| e.0);
    if let Err(message) = &volumes {
        kubelet.recorder.warning(&about, "FailedMount", message.clone());
    }
    entry.send(Msg::SetupDone(Box::new(Outcome { sandbox, volumes, pod })));
}

fn needs_ips(pod: &Pod) -> bool {
    let is_ip = |path: &str| path.starts_with("status.podIP");
    pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).any(|v| {
        let own = v.downward_api.iter().flat_map(|d| d.items.iter().flatten());
        let sources = v.projected.iter().flat_map(|p| p.sources.iter().flatten());
        let projected = sources.flat_map(|s| s.downward_api.iter().flat_map(|d| d.items.iter().flatten()));
        own.chain(projected).any(|i| i.field_ref.as_ref().is_some_and(|f| is_ip(&f.field_path)))
    })
}

/// Handlers that are this runtime; `runc` is what every node has by that name.
const OWN_HANDLERS: [&str; 3] = ["", "knarr", "runc"];

/// The program of the runtime that the pod's RuntimeClass names; `None` is Knarr's own.
async fn handler(kubelet: &Shared, pod: &Pod) -> Result<Option<PathBuf>, String> {
    let name = pod.spec.as_ref().and_then(|s| s.runtime_class_name.as_deref()).unwrap_or_default();
    if name.is_empty() {
        return Ok(None);
    }
    kubelet.runtime_classes.synced().await;
    let class = kubelet.runtime_classes.list("").into_iter().find(|c| c.name() == name);
    let Some(class) = class else { return Err(format!("runtimeclass.node.k8s.io \"{name}\" not found")) };
    if let Some(program) = kubelet.config.runtime_handlers.get(&class.handler) {
        if pod.spec.as_ref().and_then(|s| s.host_users) == Some(false) {
            return Err(format!(
                "can't set `spec.hostUsers: false`, RuntimeClass handler \"{}\" does not support user namespaces",
                class.handler
            ));
        }
        return Ok(Some(program.clone()));
    }
    if OWN_HANDLERS.contains(&class.handler.as_str()) {
        return Ok(None);
    }
    Err(format!(
        "rpc error: code = Unknown desc = failed to get sandbox runtime: no runtime for \"{}\" is configured",
        class.handler
    ))
}

async fn make_sandbox(kubelet: &Arc<Shared>, pod: &Pod, attempt: u32) -> Result<(Vec<IpAddr>, bool), String> {
    let runtime = &kubelet.config.runtime;
    crate::container::files::check_hostname(pod, &kubelet.config)?;
    let handler = handler(kubelet, pod).await?;
    let users = match users::is_wanted(pod) {
        false => None,
        true if users::are_there() => Some(kubelet.users.of(pod.uid())?),
        // Running it with the host's users would be less than was asked for.
        true => return Err(users::UNSUPPORTED.to_owned()),
    };
    let (status, new) = match runtime.sandbox(pod.uid()) {
        Some(status) if status.ready => (status, false),
        known => {
            if known.is_some() {
                let _ = runtime.remove_sandbox(pod.uid()).await;
            }
            let spec = SandboxSpec { user_namespace: users, handler, ..sandbox(kubelet, pod, attempt) };
            (runtime.create_sandbox(spec).await.map_err(|e| e.to_string())?, true)
        }
    };
    if host_network(pod) {
        return Ok((Vec::new(), new));
    }
    let ports = host_ports(pod);
    let request = NetworkRequest {
        uid: pod.uid(),
        namespace: pod.namespace(),
        name: pod.name(),
        netns: &status.netns,
        host_ports: &ports,
    };
    match kubelet.config.network.attach(request).await {
        Ok(ips) => Ok((ips, new)),
        Err(error) => {
            if new {
                let _ = kubelet.config.network.detach(pod.uid()).await;
                let _ = runtime.remove_sandbox(pod.uid()).await;
            }
            Err(format!("failed to setup network for sandbox: {error}"))
        }
    }
}

pub(super) fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let mut all = Vec::new();
    for def in defs(pod) {
        for port in def.spec.ports.iter().flatten() {
            let (Some(host), Ok(container)) = (port.host_port, u16::try_from(port.container_port)) else {
                continue;
            };
            let Some(host_port) = u16::try_from(host).ok().filter(|p| *p > 0) else { continue };
            all.push(HostPort {
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                host_ip: port
                    .host_ip
                    .as_deref()
                    .and_then(|ip| ip.parse().ok())
                    .filter(|ip: &IpAddr| !ip.is_unspecified()),
                host_port,
                container_port: container,
            });
        }
    }
    all
}

/// Takes network and sandbox down, and volumes too when the pod is at its end; then tells the worker.
pub(crate) async fn tear_down(kubelet: Arc<Shared>, entry: Arc<Entry>, uid: String, last: bool) {
    let result = remove_all(&kubelet, &uid, last).await;
    if let Err(error) = &result {
        tracing::warn!(pod = uid, error, "cannot take the pod down yet");
    }
    entry.send(Msg::TornDown { ok: result.is_ok() });
}

/// Everything of a pod on this node except its logs.
pub(crate) async fn remove_all(kubelet: &Arc<Shared>, uid: &str, last: bool) -> Result<(), String> {
    let config = &kubelet.config;
    let containers: Vec<String> = config
        .runtime
        .sandbox(uid)
        .map(|s| s.containers.into_iter().map(|c| c.id).collect())
        .unwrap_or_default();
    config.network.detach(uid).await?;
    config.runtime.remove_sandbox(uid).await.map_err(|e| e.to_string())?;
    for id in containers {
        config.images.release(&id).map_err(|e| e.to_string())?;
    }
    if last {
        let images = image_volume::any(&config.root_dir, uid);
        let (root, pod) = (config.root_dir.clone(), uid.to_owned());
        tokio::task::spawn_blocking(move || volume::remove(&root, &pod))
            .await
            .expect("removal does not panic")
            .map_err(|e| e.to_string())?;
        kubelet.users.release(uid);
        if images {
            image_volume::release(kubelet, uid);
        }
    }
    Ok(())
}
