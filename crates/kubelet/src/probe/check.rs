//! One check of a container.

use super::{grpc, http};
use crate::kubelet::Shared;
use crate::util::{Def, host_network};
use knarr_api::core::v1::{HTTPGetAction, Pod, Probe};
use knarr_api::{IntOrString, Kind};
use knarr_base::clock::timeout;
use knarr_runtime::spec::ExecSpec;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;

/// Output of a check that is kept for its message.
const MOST_OUTPUT_BYTES: u64 = 10 << 10;

/// A container to check.
pub(super) struct Target<'a> {
    pub(super) kubelet: &'a Arc<Shared>,
    pub(super) pod: &'a Pod,
    pub(super) def: &'a Def,
    pub(super) id: &'a str,
    pub(super) ips: &'a [IpAddr],
}

/// What a check came to.
pub(super) enum Outcome {
    Success,
    Failure(String),
    /// The check itself could not be made; counts for nothing.
    Unknown(String),
}

/// Checks once.
pub(super) async fn check(target: &Target<'_>, probe: &Probe, limit: Duration) -> Outcome {
    if let Some(exec) = &probe.exec {
        return exec_check(target, exec.command.as_deref().unwrap_or_default(), limit).await;
    }
    if let Some(action) = &probe.http_get {
        return match http_request(target, action) {
            Ok((address, request)) => http::probe(target.kubelet, address, &request, limit).await,
            Err(message) => Outcome::Unknown(message),
        };
    }
    if let Some(action) = &probe.tcp_socket {
        let host = action.host.as_deref();
        return match address(target, host, &action.port) {
            Ok(address) => tcp(target, address, limit).await,
            Err(message) => Outcome::Unknown(message),
        };
    }
    if let Some(action) = &probe.grpc {
        let port = IntOrString::Int(action.port);
        return match address(target, None, &port) {
            Ok(address) => {
                grpc::probe(target.kubelet, address, action.service.as_deref().unwrap_or_default(), limit)
                    .await
            }
            Err(message) => Outcome::Unknown(message),
        };
    }
    Outcome::Unknown("missing probe handler".to_owned())
}

/// Runs a command in the container and gives its exit code and output.
pub(super) async fn run_command(
    target: &Target<'_>,
    command: &[String],
    limit: Duration,
) -> Result<(i32, String), String> {
    let runtime = target.kubelet.config.runtime.clone();
    let spec = ExecSpec { args: command.to_vec(), tty: false, stdin: false, stdout: true, stderr: true };
    let (uid, id) = (target.pod.uid().to_owned(), target.id.to_owned());
    let session = runtime.exec(&uid, &id, spec).await.map_err(|e| e.to_string())?;
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let finished = async {
        futures_util::future::join(read(session.stdout, &mut out), read(session.stderr, &mut err)).await;
        session.exit.await
    };
    match timeout(&*target.kubelet.ctx.clock, limit, finished).await {
        Some(Ok(code)) => {
            out.append(&mut err);
            Ok((code, String::from_utf8_lossy(&out).into_owned()))
        }
        Some(Err(error)) => Err(error.to_string()),
        None => {
            session.control.kill();
            Err(format!(
                "command timed out: \"{}\" timed out after {}",
                command.join(" "),
                crate::util::go_duration(limit)
            ))
        }
    }
}

async fn read(stream: Option<Box<dyn AsyncRead + Send + Unpin>>, out: &mut Vec<u8>) {
    if let Some(mut stream) = stream {
        let _ = (&mut stream).take(MOST_OUTPUT_BYTES).read_to_end(out).await;
        // What comes after is read all the same, so that the command is not stopped by a full pipe.
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    }
}

async fn exec_check(target: &Target<'_>, command: &[String], limit: Duration) -> Outcome {
    match run_command(target, command, limit).await {
        Ok((0, _)) => Outcome::Success,
        Ok((_, output)) => Outcome::Failure(output),
        Err(message) if message.starts_with("command timed out") => Outcome::Failure(message),
        Err(message) => Outcome::Unknown(message),
    }
}

async fn tcp(target: &Target<'_>, address: SocketAddr, limit: Duration) -> Outcome {
    match timeout(&*target.kubelet.ctx.clock, limit, TcpStream::connect(address)).await {
        Some(Ok(_)) => Outcome::Success,
        Some(Err(error)) => Outcome::Failure(dial_error(address, &error)),
        None => Outcome::Failure(format!("dial tcp {address}: i/o timeout")),
    }
}

/// A failed connection in Go's words.
pub(super) fn dial_error(address: SocketAddr, error: &std::io::Error) -> String {
    let text = match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        std::io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
        std::io::ErrorKind::NetworkUnreachable => "network is unreachable".to_owned(),
        _ => error.to_string(),
    };
    format!("dial tcp {address}: connect: {text}")
}

/// The HTTP request of an action and where it goes.
pub(super) fn http_request(
    target: &Target<'_>,
    action: &HTTPGetAction,
) -> Result<(SocketAddr, http::Get), String> {
    let address = address(target, action.host.as_deref(), &action.port)?;
    let headers = action.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect();
    let path = action.path.clone().unwrap_or_else(|| "/".to_owned());
    let path = if path.starts_with('/') { path } else { format!("/{path}") };
    let https = action.scheme.as_deref().is_some_and(|s| s.eq_ignore_ascii_case("https"));
    Ok((address, http::Get { https, path, headers, agent: "kube-probe/1.36" }))
}

/// Where a check goes: the given host or the pod's own address, and the port by number or name.
fn address(target: &Target<'_>, host: Option<&str>, port: &IntOrString) -> Result<SocketAddr, String> {
    let port = match port {
        IntOrString::Int(port) => *port,
        IntOrString::String(name) => {
            let ports = target.def.spec.ports.iter().flatten();
            let named = ports.into_iter().find(|p| p.name.as_deref() == Some(name)).map(|p| p.container_port);
            named
                .or_else(|| name.parse().ok())
                .ok_or_else(|| format!("couldn't find port: {name} in {}", target.pod.name()))?
        }
    };
    let port =
        u16::try_from(port).ok().filter(|p| *p > 0).ok_or_else(|| format!("invalid port number: {port}"))?;
    let ip = match host.filter(|h| !h.is_empty()) {
        Some("localhost") => IpAddr::from([127, 0, 0, 1]),
        Some(host) => host.parse().map_err(|_| format!("cannot resolve host {host:?}"))?,
        None if host_network(target.pod) => target.kubelet.config.node_ip,
        None => *target.ips.first().ok_or("failed to find networking container: pod has no IP")?,
    };
    Ok(SocketAddr::new(ip, port))
}
