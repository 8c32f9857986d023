//! The Node's labels and status.

use super::machine;
use crate::config::KubeletConfig;
use crate::eviction::threshold::Pressure;
use crate::kubelet::Shared;
use knarr_meta::time::rfc3339;
use serde_json::{Map, Value, json};

/// What a scheduler or an API server must not take for granted of a node (KEP-5328).
const DECLARED_FEATURES: [&str; 4] = [
    "ExtendWebSocketsToKubelet",
    "InPlacePodLevelResourcesVerticalScaling",
    "InPlacePodVerticalScalingInitContainers",
    "RestartAllContainersOnContainerExits",
];

/// Images listed in a node's status at most.
const MOST_IMAGES: usize = 50;
/// Names of an image in the status at most, as upstream.
const MOST_NAMES: usize = 5;

/// The labels every node has, and the configured ones.
pub(super) fn labels(config: &KubeletConfig) -> Value {
    let arch = knarr_image::oci::host_architecture();
    let mut labels = json!({
        "kubernetes.io/hostname": config.node_name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": arch,
        "beta.kubernetes.io/os": "linux",
        "beta.kubernetes.io/arch": arch,
    });
    for (name, value) in &config.labels {
        labels[name] = value.as_str().into();
    }
    labels
}

/// The status as it is now; transition times are kept from `before`.
pub(super) fn status(kubelet: &Shared, before: Option<&Value>) -> Value {
    let config = &kubelet.config;
    let (capacity, allocatable) = (machine::capacity(config), machine::allocatable(config));
    let resources = |memory: u64, storage: u64| {
        let cpu = capacity.cpu_millicores;
        let cpu = if cpu.is_multiple_of(1000) { (cpu / 1000).to_string() } else { format!("{cpu}m") };
        json!({
            "cpu": cpu,
            "memory": format!("{}Ki", memory >> 10),
            "ephemeral-storage": storage.to_string(),
            "pods": capacity.pods.to_string(),
            "hugepages-1Gi": "0",
            "hugepages-2Mi": "0",
        })
    };
    let (memory, storage) = (capacity.memory_bytes, capacity.ephemeral_storage_bytes);
    json!({
        "addresses": [
            { "type": "InternalIP", "address": config.node_ip.to_string() },
            { "type": "Hostname", "address": config.node_name },
        ],
        "capacity": resources(memory, storage),
        "allocatable": resources(allocatable.memory_bytes, allocatable.ephemeral_storage_bytes),
        "conditions": conditions(kubelet, before),
        "daemonEndpoints": { "kubeletEndpoint": { "Port": config.listen.port() } },
        "nodeInfo": node_info(config),
        "images": images(kubelet),
        "runtimeHandlers": runtime_handlers(config),
        "features": { "supplementalGroupsPolicy": true },
        "declaredFeatures": DECLARED_FEATURES,
    })
}

/// What the pods of each handler can have (KEP-3857, KEP-127).
fn runtime_handlers(config: &KubeletConfig) -> Value {
    let handler = |name: &str, users: bool| json!({ "name": name, "features": { "recursiveReadOnlyMounts": true, "userNamespaces": users } });
    let others = config.runtime_handlers.keys().map(|name| handler(name, false));
    std::iter::once(handler("", crate::pod::users::are_there())).chain(others).collect()
}

fn node_info(config: &KubeletConfig) -> Value {
    let file = |path: &str| machine::first_line(path).unwrap_or_default();
    json!({
        "machineID": file("/etc/machine-id"),
        "systemUUID": file("/sys/class/dmi/id/product_uuid"),
        "bootID": file("/proc/sys/kernel/random/boot_id"),
        "kernelVersion": file("/proc/sys/kernel/osrelease"),
        "osImage": machine::os_image(),
        "containerRuntimeVersion": concat!("knarr://", env!("CARGO_PKG_VERSION")),
        "kubeletVersion": config.version,
        "kubeProxyVersion": "",
        "operatingSystem": "linux",
        "architecture": knarr_image::oci::host_architecture(),
    })
}

fn images(kubelet: &Shared) -> Value {
    let mut images = kubelet.config.images.list();
    images.sort_by_key(|i| std::cmp::Reverse(i.size_bytes));
    let entry = |image: &knarr_image::Image| {
        let names: Vec<&String> =
            image.repo_digests.iter().chain(&image.repo_tags).take(MOST_NAMES).collect();
        json!({ "names": names, "sizeBytes": image.size_bytes })
    };
    images.iter().take(MOST_IMAGES).map(entry).collect()
}

fn conditions(kubelet: &Shared, before: Option<&Value>) -> Value {
    let seen = kubelet.eviction.pressures();
    let memory_low = seen.contains(&Pressure::Memory);
    let disk_low = seen.contains(&Pressure::Disk);
    let pids_low = seen.contains(&Pressure::Pid);
    let ready = match kubelet.shutdown.is_under_way() {
        false => ("True", "KubeletReady", "kubelet is posting ready status"),
        true => ("False", "KubeletNotReady", "node is shutting down"),
    };
    let all = [
        pressure("MemoryPressure", "Memory", "memory available", memory_low),
        pressure("DiskPressure", "Disk", "disk pressure", disk_low),
        pressure("PIDPressure", "PID", "PID available", pids_low),
        ("Ready", ready.0, ready.1.to_owned(), ready.2.to_owned()),
    ];
    let now = rfc3339(kubelet.ctx.clock.now());
    let before = before.and_then(|b| b["conditions"].as_array());
    let condition = |(kind, status, reason, message): &(&str, &str, String, String)| {
        let same = before.and_then(|b| b.iter().find(|c| c["type"] == *kind && c["status"] == *status));
        json!({
            "type": kind,
            "status": status,
            "reason": reason,
            "message": message,
            "lastHeartbeatTime": now,
            "lastTransitionTime": same.map_or_else(|| now.clone().into(), |c| c["lastTransitionTime"].clone()),
        })
    };
    all.iter().map(condition).collect()
}

fn pressure(
    kind: &'static str,
    word: &str,
    what: &str,
    low: bool,
) -> (&'static str, &'static str, String, String) {
    let sufficient = match word {
        "Disk" => "no disk pressure".to_owned(),
        _ => format!("sufficient {what}"),
    };
    let insufficient = match word {
        "Disk" => "disk pressure".to_owned(),
        _ => format!("insufficient {what}"),
    };
    match (low, word) {
        (true, "Disk") => {
            (kind, "True", "KubeletHasDiskPressure".to_owned(), format!("kubelet has {insufficient}"))
        }
        (true, _) => {
            (kind, "True", format!("KubeletHasInsufficient{word}"), format!("kubelet has {insufficient}"))
        }
        (false, "Disk") => {
            (kind, "False", "KubeletHasNoDiskPressure".to_owned(), format!("kubelet has {sufficient}"))
        }
        (false, _) => {
            (kind, "False", format!("KubeletHasSufficient{word}"), format!("kubelet has {sufficient}"))
        }
    }
}

/// A status to compare: heartbeats alone are no change.
pub(super) fn without_times(status: &Value) -> Value {
    let mut status = status.clone();
    for condition in status["conditions"].as_array_mut().into_iter().flatten() {
        if let Some(fields) = condition.as_object_mut() {
            let fields: &mut Map<String, Value> = fields;
            fields.remove("lastHeartbeatTime");
        }
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heartbeats_alone_are_no_change() {
        let status = |beat: &str, s: &str| json!({"conditions": [{"type": "Ready", "status": s, "lastHeartbeatTime": beat}]});
        assert_eq!(without_times(&status("1", "True")), without_times(&status("2", "True")));
        assert_ne!(without_times(&status("1", "True")), without_times(&status("1", "False")));
    }

    #[test]
    fn pressure_is_told_in_upstreams_words() {
        assert_eq!(pressure("DiskPressure", "Disk", "", false).2, "KubeletHasNoDiskPressure");
        assert_eq!(
            pressure("MemoryPressure", "Memory", "memory available", false).3,
            "kubelet has sufficient memory available"
        );
        assert_eq!(pressure("PIDPressure", "PID", "PID available", true).2, "KubeletHasInsufficientPID");
    }
}
