//! `spec`: a bundle's configuration to begin with.

use crate::container::{Context, Failure};
use serde_json::{Value, json};
use std::path::Path;

/// Writes it to a new file.
pub fn write(file: &Path, rootless: bool) -> Result<(), Failure> {
    if file.exists() {
        return Err(Failure::new(format!("File {} exists. Remove it first", file.display())));
    }
    let mut config = default_config();
    if rootless {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        make_rootless(&mut config, uid, gid);
    }
    std::fs::write(file, format!("{config:#}\n")).context(|| format!("write {}", file.display()))
}

/// What an unprivileged user can run: a user namespace of one's own, the host's network and `/sys`, no cgroup.
fn make_rootless(config: &mut Value, uid: u32, gid: u32) {
    let mapping = |id: u32| json!([{ "containerID": 0, "hostID": id, "size": 1 }]);
    let linux = &mut config["linux"];
    linux["uidMappings"] = mapping(uid);
    linux["gidMappings"] = mapping(gid);
    if let Some(linux) = linux.as_object_mut() {
        linux.remove("resources");
    }
    if let Some(namespaces) = linux["namespaces"].as_array_mut() {
        namespaces.retain(|namespace| namespace["type"] != "network" && namespace["type"] != "user");
        namespaces.push(json!({ "type": "user" }));
    }
    let Some(mounts) = config["mounts"].as_array_mut() else { return };
    mounts.retain(|mount| mount["destination"] != "/sys/fs/cgroup");
    for mount in mounts {
        if mount["destination"] == "/sys" {
            mount["type"] = json!("none");
            mount["source"] = json!("/sys");
            mount["options"] = json!(["rbind", "nosuid", "noexec", "nodev", "ro"]);
        } else if let Some(options) = mount["options"].as_array_mut() {
            // Groups that are not mapped.
            options.retain(|option| option.as_str().is_none_or(|option| !option.starts_with("gid=")));
        }
    }
}

/// A configuration that runs a shell at a terminal.
fn default_config() -> Value {
    let capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| json!({ "destination": destination, "type": kind, "source": source, "options": options });
    json!({
        "ociVersion": super::features::VERSION,
        "process": {
            "terminal": true,
            "user": { "uid": 0, "gid": 0 },
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
            },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
            "noNewPrivileges": true,
        },
        "root": { "path": "rootfs", "readonly": true },
        "hostname": "knarr",
        "mounts": [
            mount("/proc", "proc", "proc", &[]),
            mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", "devpts",
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
        ],
        "linux": {
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "namespaces": [
                { "type": "pid" }, { "type": "network" }, { "type": "ipc" }, { "type": "uts" },
                { "type": "mount" }, { "type": "cgroup" },
            ],
            "maskedPaths": crate::container::mounts::MASKED,
            "readonlyPaths": crate::container::mounts::READ_ONLY,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_configurations() {
        let mut config = default_config();
        let parsed = super::super::state::parse_config(config.to_string().as_bytes()).unwrap();
        assert!(parsed.namespace("user").is_none() && parsed.makes("network"));
        make_rootless(&mut config, 1000, 100);
        let parsed = super::super::state::parse_config(config.to_string().as_bytes()).unwrap();
        assert!(parsed.makes("user") && parsed.namespace("network").is_none());
        assert_eq!(parsed.linux.gid_mappings[0].host_id, 100);
        assert!(!config.to_string().contains("gid=5"));
    }
}
