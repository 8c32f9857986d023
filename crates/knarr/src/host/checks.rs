//! What a machine must have before anything is started on it. Each finding says what to do.

use crate::config::Config;
use anyhow::{Result, bail};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;

/// Less free space than this at the data directory is refused.
const LEAST_FREE_BYTES: u64 = 64 << 20;

/// Only root can make namespaces, links and mounts.
pub fn require_root(command: &str) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!(
            "'knarr {command}' makes namespaces, links and mounts and needs to run as root: sudo knarr {command}"
        );
    }
    Ok(())
}

/// Everything that is missing, at once.
pub fn require(config: &Config, server: bool, node: bool) -> Result<()> {
    let mut problems = Vec::new();
    if node {
        problems.extend(kernel());
    }
    problems.extend(ports(config, server, node));
    problems.extend(space(&config.data_dir));
    match &problems[..] {
        [] => Ok(()),
        [one] => bail!("{one}"),
        many => bail!("this machine is not ready:\n  {}", many.join("\n  ")),
    }
}

fn kernel() -> Vec<String> {
    let mut problems = Vec::new();
    let filesystems = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !filesystems.lines().any(|line| line.ends_with("\toverlay"))
        && !Path::new("/sys/module/overlay").exists()
    {
        problems.push("the kernel has no overlayfs; load it with 'modprobe overlay'".to_owned());
    }
    let cgroups = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    if !cgroups.lines().any(|line| matches!(line.split(' ').nth(2), Some("cgroup" | "cgroup2"))) {
        problems.push(
            "no cgroup file system is mounted; mount one with 'mount -t cgroup2 none /sys/fs/cgroup'"
                .to_owned(),
        );
    }
    for (namespace, option) in [
        ("net", "CONFIG_NET_NS"),
        ("pid", "CONFIG_PID_NS"),
        ("ipc", "CONFIG_IPC_NS"),
        ("uts", "CONFIG_UTS_NS"),
    ] {
        if !Path::new("/proc/self/ns").join(namespace).exists() {
            problems.push(format!(
                "the kernel has no {namespace} namespaces ({option}); another kernel is needed"
            ));
        }
    }
    problems
}

fn ports(config: &Config, server: bool, node: bool) -> Vec<String> {
    let mut problems = Vec::new();
    let mut tcp = |address: Ipv4Addr, port: u16, what: &str, flag: &str| {
        if let Err(error) = TcpListener::bind(SocketAddr::from((address, port))) {
            problems.push(format!(
                "{what} cannot listen on {address}:{port}: {error}; choose another with --{flag}"
            ));
        }
    };
    if server {
        tcp(config.bind_address, config.https_port, "the API server", "https-port");
    }
    if node {
        tcp(Ipv4Addr::UNSPECIFIED, config.kubelet_port, "the kubelet", "kubelet-port");
        if let Err(error) = UdpSocket::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, config.dns_port))) {
            problems.push(format!(
                "the cluster DNS cannot listen on port {}: {error}; choose another with --dns-port",
                config.dns_port
            ));
        }
    }
    problems
}

fn space(dir: &Path) -> Option<String> {
    let found = rustix::fs::statvfs(dir).ok()?;
    let free = found.f_bavail * found.f_frsize;
    (free < LEAST_FREE_BYTES).then(|| {
        format!(
            "only {} MiB are free at {}; make room or choose another --data-dir",
            free >> 20,
            dir.display()
        )
    })
}
