//! The configuration of a bundle (<https://github.com/opencontainers/runtime-spec/blob/main/config.md>) that asks
//! another runtime for what Knarr's own would do.

use super::launch::CreateLaunch;
use crate::cgroup::devices::Rule;
use crate::container::user::Identity;
use crate::container::{Failure, capabilities, mounts, process};
use crate::spec::{Mount, MountKind, Propagation, Resources};
use serde_json::{Map, Value, json};

/// Where the pod's shared memory is mounted for the runtime, in the bundle.
pub const SHM: &str = "shm";

/// The whole configuration.
pub fn config(launch: &CreateLaunch<'_>, identity: &Identity) -> Result<Value, Failure> {
    let spec = launch.spec;
    let mask = capabilities::mask(spec)
        .map_err(|name| Failure::new(format!("unknown capability \"CAP_{name}\"")))?;
    let names: Vec<String> = (0..=capabilities::LAST)
        .filter(|c| mask & 1 << c != 0)
        .map(|c| format!("CAP_{}", capabilities::NAMES[c as usize]))
        .collect();
    let mut env = process::environment(spec, launch.hostname, spec.tty);
    if !env.iter().any(|entry| entry.starts_with("HOME=")) {
        env.push(format!("HOME={}", identity.home));
    }
    let limits: Vec<Value> = spec
        .rlimits
        .iter()
        .map(|(name, soft, hard)| json!({"type": name, "soft": soft, "hard": hard}))
        .collect();
    let mut process = json!({
        "terminal": spec.tty,
        "user": {"uid": identity.uid, "gid": identity.gid, "additionalGids": identity.groups},
        "args": spec.args,
        "env": env,
        "cwd": if spec.cwd.is_empty() { "/" } else { &spec.cwd },
        "capabilities": {"bounding": names, "effective": names, "permitted": names},
        "rlimits": limits,
        "noNewPrivileges": spec.no_new_privileges,
        "oomScoreAdj": spec.oom_score_adj,
    });
    if let Some(profile) = spec.apparmor.as_deref().filter(|p| !p.is_empty() && *p != "unconfined") {
        process["apparmorProfile"] = json!(profile);
    }
    let mut linux = json!({
        "namespaces": namespaces(launch),
        "cgroupsPath": format!("/{}", launch.cgroup.path()),
        "resources": resources(&spec.resources, launch.rules),
        "devices": devices(launch),
    });
    if !spec.privileged && !spec.unmasked_proc {
        linux["maskedPaths"] = json!(mounts::MASKED);
        linux["readonlyPaths"] = json!(mounts::READ_ONLY);
    }
    if let Some(filter) = crate::seccomp::in_oci_form(spec, launch.profile).map_err(Failure::new)? {
        linux["seccomp"] = filter;
    }
    Ok(json!({
        "ociVersion": "1.0.2",
        "process": process,
        "root": {"path": spec.rootfs.target, "readonly": spec.read_only_rootfs},
        "mounts": all_mounts(launch),
        "annotations": {
            "io.kubernetes.cri.container-name": spec.name,
            "io.kubernetes.cri.sandbox-name": launch.sandbox.name,
            "io.kubernetes.cri.sandbox-namespace": launch.sandbox.namespace,
            "io.kubernetes.cri.sandbox-uid": launch.sandbox.pod_uid,
        },
        "linux": linux,
    }))
}

/// The pod's namespaces are the shim's, and are joined by name: a runtime that starts a machine needs to find them.
fn namespaces(launch: &CreateLaunch<'_>) -> Vec<Value> {
    let sandbox = launch.sandbox;
    let of_shim =
        |kind: &str, file: &str| json!({"type": kind, "path": format!("/proc/{}/ns/{file}", launch.shim)});
    let mut all = vec![json!({"type": "mount"}), json!({"type": "cgroup"})];
    if !sandbox.host_network {
        all.extend([of_shim("network", "net"), of_shim("uts", "uts")]);
    }
    if !sandbox.host_ipc {
        all.push(of_shim("ipc", "ipc"));
    }
    match launch.pids_of {
        Some(pid) => all.push(json!({"type": "pid", "path": format!("/proc/{pid}/ns/pid")})),
        None if !sandbox.host_pid => all.push(json!({"type": "pid"})),
        None => {}
    }
    all
}

fn resources(limits: &Resources, rules: &[Rule]) -> Value {
    let rules = rules.iter().map(|rule| {
        let mut value = json!({"allow": !rule.deny, "type": rule.kind.to_string(), "access": rule.access});
        for (key, number) in [("major", rule.major), ("minor", rule.minor)] {
            if let Some(number) = number {
                value[key] = json!(number);
            }
        }
        value
    });
    let denied = json!({"allow": false, "access": "rwm"});
    let pages = limits.hugepages.iter().map(|(size, bytes)| json!({"pageSize": size, "limit": bytes}));
    let present = |pairs: Vec<(&str, Option<Value>)>| -> Value {
        let map: Map<String, Value> =
            pairs.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect();
        Value::Object(map)
    };
    present(vec![
        ("devices", Some(std::iter::once(denied).chain(rules).collect())),
        (
            "cpu",
            Some(present(vec![
                ("shares", limits.cpu_shares.map(Value::from)),
                ("quota", limits.cpu_quota_us.map(Value::from)),
                ("period", limits.cpu_period_us.map(Value::from)),
                ("cpus", limits.cpuset_cpus.clone().map(Value::from)),
                ("mems", limits.cpuset_mems.clone().map(Value::from)),
            ])),
        ),
        (
            "memory",
            Some(present(vec![
                ("limit", limits.memory_limit_bytes.map(Value::from)),
                ("swap", limits.memory_swap_bytes.map(Value::from)),
                ("reservation", limits.memory_reservation_bytes.map(Value::from)),
            ])),
        ),
        ("pids", limits.pids_limit.map(|limit| json!({"limit": limit}))),
        ("hugepageLimits", (!limits.hugepages.is_empty()).then(|| pages.collect())),
        ("unified", (!limits.unified.is_empty()).then(|| json!(limits.unified))),
    ])
}

fn devices(launch: &CreateLaunch<'_>) -> Vec<Value> {
    let nodes = launch.nodes.iter().map(|node| {
        json!({
            "path": node.path, "type": if node.block { "b" } else { "c" },
            "major": rustix::fs::major(node.device), "minor": rustix::fs::minor(node.device),
            "fileMode": node.mode, "uid": node.owner.0, "gid": node.owner.1,
        })
    });
    nodes.collect()
}

fn all_mounts(launch: &CreateLaunch<'_>) -> Vec<Value> {
    let mount = |at: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": at, "type": kind, "source": source, "options": options});
    let access = if launch.spec.privileged { "rw" } else { "ro" };
    let shm = if launch.sandbox.host_ipc { "/dev/shm".into() } else { launch.bundle.dir().join(SHM) };
    let mut all = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/dev/shm", "bind", &shm.to_string_lossy(), &["rbind", "rw", "nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", access]),
    ];
    all.extend(launch.spec.mounts.iter().map(asked));
    all
}

/// What the pod asks for.
fn asked(mount: &Mount) -> Value {
    let access = match (mount.read_only, mount.recursive_read_only) {
        (true, true) => "rro",
        (true, false) => "ro",
        _ => "rw",
    };
    let (kind, source, mut options) = match mount.kind {
        MountKind::Bind => {
            let propagation = match mount.propagation {
                Propagation::None => "rprivate",
                Propagation::HostToContainer => "rslave",
                Propagation::Bidirectional => "rshared",
            };
            ("bind", mount.source.clone(), vec!["rbind".to_owned(), propagation.to_owned()])
        }
        MountKind::Tmpfs => ("tmpfs", "tmpfs".into(), vec!["nosuid".to_owned(), "nodev".to_owned()]),
    };
    options.push(access.to_owned());
    options.extend(mount.options.iter().cloned());
    json!({"destination": mount.target, "type": kind, "source": source, "options": options})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_are_not_there_are_not_written() {
        let limits = Resources { cpu_quota_us: Some(5000), pids_limit: Some(7), ..Resources::default() };
        let rules = [Rule::new('c', Some(1), Some(3), "rw"), Rule::new('b', None, None, "m").denied()];
        let expected = json!({
            "devices": [
                {"allow": false, "access": "rwm"},
                {"allow": true, "type": "c", "access": "rw", "major": 1, "minor": 3},
                {"allow": false, "type": "b", "access": "m"},
            ],
            "cpu": {"quota": 5000}, "memory": {}, "pids": {"limit": 7},
        });
        assert_eq!(resources(&limits, &rules), expected);
    }

    #[test]
    fn mounts_are_as_the_pod_asks() {
        let bind = |read_only, recursive, propagation| Mount {
            source: "/a".into(),
            target: "/b".into(),
            kind: MountKind::Bind,
            read_only,
            recursive_read_only: recursive,
            propagation,
            options: vec![],
        };
        for (mount, options) in [
            (bind(false, false, Propagation::None), json!(["rbind", "rprivate", "rw"])),
            (bind(true, false, Propagation::HostToContainer), json!(["rbind", "rslave", "ro"])),
            (bind(true, true, Propagation::None), json!(["rbind", "rprivate", "rro"])),
        ] {
            let expected = json!({"destination": "/b", "type": "bind", "source": "/a", "options": options});
            assert_eq!(asked(&mount), expected);
        }
    }
}
