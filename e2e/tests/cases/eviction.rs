//! What a pod pays for taking too much of its node's disk, and what a node does that runs short itself.

use knarr_e2e::wait::seconds;
use knarr_e2e::{Case, Cluster, Namespace, cases, wait_for};
use serde_json::Value;

pub const CASES: &[Case] = cases![
    an_empty_dir_beyond_its_limit_costs_the_pod,
    a_pod_beyond_its_ephemeral_storage_is_evicted,
    pods_that_use_what_they_may_together_cost_one_of_them,
    a_node_short_of_memory_says_so_evicts_and_lets_nobody_in,
];

/// On a host without a cluster, which gets a small disk first.
pub const FULL_DISK: &[Case] = cases![a_full_disk_costs_unused_images_first_and_then_the_pod_that_fills_it];

fn pod(name: &str, command: &str, container: &str, spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: Never\n{spec}\n  containers:\n  - name: main\n    image: busybox:1.35\n    command: [sh, -c, {}]\n{container}\n",
        Value::from(command)
    )
}

fn evicted(namespace: &Namespace<'_>, name: &str, message: &str) -> Value {
    let pod =
        namespace.wait_until(&format!("pod/{name}"), seconds(60), |pod| pod["status"]["phase"] == "Failed");
    assert_eq!(pod["status"]["reason"], "Evicted", "{pod}");
    let said = pod["status"]["message"].as_str().unwrap_or_default();
    assert!(said.starts_with(message), "{said}");
    let state = &pod["status"]["containerStatuses"][0]["state"];
    assert!(state["terminated"]["exitCode"].is_i64(), "a failed pod's containers have ended: {state}");
    wait_for(&format!("the event of {name}"), seconds(20), || {
        let selector = format!("reason=Evicted,involvedObject.name={name}");
        let events = namespace.kubectl(&["get", "events", "--field-selector", &selector]).ok();
        if events.contains(message.trim()) { Ok(()) } else { Err(events) }
    });
    pod
}

fn an_empty_dir_beyond_its_limit_costs_the_pod(cluster: &Cluster) {
    let namespace = cluster.namespace();
    let volume = "  volumes: [{name: scratch, emptyDir: {sizeLimit: 1Mi}}]";
    let mounts = "    volumeMounts: [{name: scratch, mountPath: /scratch}]";
    let fill = |count: u32| format!("dd if=/dev/zero of=/scratch/f bs=64k count={count}; sleep 1000");
    namespace.apply(&pod("modest", &fill(8), mounts, volume));
    namespace.apply(&pod("greedy", &fill(40), mounts, volume));
    let pod =
        evicted(&namespace, "greedy", "Usage of EmptyDir volume \"scratch\" exceeds the limit \"1Mi\". ");
    let conditions = pod["status"]["conditions"].as_array().expect("conditions");
    assert!(conditions.iter().any(|c| c["type"] == "Ready" && c["reason"] == "PodFailed"), "{conditions:?}");
    assert_eq!(namespace.get("pod/modest")["status"]["phase"], "Running");
}

fn a_pod_beyond_its_ephemeral_storage_is_evicted(cluster: &Cluster) {
    let namespace = cluster.namespace();
    let limit = "    resources: {limits: {ephemeral-storage: 1Mi}}";
    namespace.apply(&pod("writer", "dd if=/dev/zero of=/f bs=64k count=40; sleep 1000", limit, ""));
    let message = "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. ";
    evicted(&namespace, "writer", message);
}

/// All but 200 MiB of the machine are reserved: that is what pods have, whatever else is free.
fn pods_that_use_what_they_may_together_cost_one_of_them(cluster: &Cluster) {
    const FOR_PODS_KIB: u64 = 200 << 10;
    let info = cluster.host.run(&["cat", "/proc/meminfo"]).ok();
    let total =
        info.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse().ok());
    let total: u64 = total.expect("the kernel says how much there is");
    cluster.signal("TERM");
    let reserved = format!("memory={}Ki", total - FOR_PODS_KIB);
    cluster.start_with(&["--eviction-hard", "memory.available<50Mi", "--system-reserved", &reserved]);
    let (node, group) = (&cluster.host.name, &cluster.host.cgroup);
    wait_for("the limit of all pods", seconds(20), || {
        let [v1, v2] = ["memory/{}/kubepods/memory.limit_in_bytes", "{}/kubepods/memory.max"]
            .map(|file| format!("/sys/fs/cgroup/{}", file.replace("{}", group)));
        let said = cluster.host.run(&["sh", "-c", &format!("cat {v1} 2>/dev/null || cat {v2}")]).result()?;
        if said.trim() == (FOR_PODS_KIB << 10).to_string() { Ok(()) } else { Err(said) }
    });
    let allocatable =
        cluster.kubectl(&["get", "node", node, "-o", "jsonpath={.status.allocatable.memory}"]).ok();
    assert_eq!(allocatable, "150Mi");
    let enforced = ["get", "events", "-A", "--field-selector", "reason=NodeAllocatableEnforced"];
    assert!(cluster.kubectl(&enforced).ok().contains("Updated Node Allocatable limit across pods"));

    let namespace = cluster.namespace();
    let fill = "for to in a b; do dd if=/dev/zero of=/$to/f bs=1M count=85; done; sleep 1000";
    let mounts = "    volumeMounts: [{name: a, mountPath: /a}, {name: b, mountPath: /b}]";
    let volumes = "  volumes: [{name: a, emptyDir: {medium: Memory}}, {name: b, emptyDir: {medium: Memory}}]";
    namespace.apply(&pod("greedy", fill, mounts, volumes));
    evicted(
        &namespace,
        "greedy",
        "The node was low on resource: memory. Threshold quantity: 50Mi, available: ",
    );
    let selector = "reason=Evicted,involvedObject.name=greedy";
    let events = namespace.kubectl(&["get", "events", "-o", "json", "--field-selector", selector]).json();
    let annotations = &events["items"][0]["metadata"]["annotations"];
    assert_eq!(
        (&annotations["offending_containers"], &annotations["starved_resource"]),
        (&"main".into(), &"memory".into())
    );
    let metrics = cluster.kubectl(&["get", "--raw", &format!("/api/v1/nodes/{node}/proxy/metrics")]).ok();
    let counted = "kubelet_evictions{eviction_signal=\"allocatableMemory.available\"} 1\n";
    assert!(metrics.contains(counted), "{metrics}");
    drop(namespace);
    // More than there is cannot be reserved.
    cluster.signal("TERM");
    let all = format!("memory={total}Ki");
    let said = cluster.knarr(&["up", "--system-reserved", &all]).refused();
    assert!(said.contains("Resource \"memory\" has a reservation of"), "{said}");
    cluster.start();
}

fn a_node_short_of_memory_says_so_evicts_and_lets_nobody_in(cluster: &Cluster) {
    let namespace = cluster.namespace();
    let ask = "    resources: {requests: {memory: 64Mi}}";
    namespace.apply(&pod("asks", "sleep 1000", ask, ""));
    namespace.apply(&pod("takes", "sleep 1000", "", ""));
    namespace.wait_until_ready("asks");
    namespace.wait_until_ready("takes");
    // No machine has so much free: the node believes that it is short.
    cluster.signal("TERM");
    cluster.start_with(&[
        "--eviction-hard",
        "memory.available<99%",
        "--eviction-pressure-transition-period",
        "1s",
    ]);
    let pod = evicted(&namespace, "takes", "The node was low on resource: memory. Threshold quantity: ");
    let conditions = pod["status"]["conditions"].as_array().expect("conditions");
    let target = conditions.iter().find(|c| c["type"] == "DisruptionTarget").expect("it was disrupted");
    assert_eq!((&target["status"], &target["reason"]), (&"True".into(), &"TerminationByKubelet".into()));
    let node = cluster.kubectl(&["get", "nodes", "-o", "json"]).ok();
    let node: Value = serde_json::from_str(&node).expect("JSON");
    let conditions = node["items"][0]["status"]["conditions"].as_array().expect("conditions");
    let pressure = conditions.iter().find(|c| c["type"] == "MemoryPressure").expect("it is always told");
    assert_eq!(
        (&pressure["status"], &pressure["reason"], &pressure["message"]),
        (
            &"True".into(),
            &"KubeletHasInsufficientMemory".into(),
            &"kubelet has insufficient memory available".into()
        )
    );
    let name = node["items"][0]["metadata"]["name"].as_str().expect("a name");
    wait_for("the taint", seconds(30), || {
        let taints = cluster.kubectl(&["get", "node", name, "-o", "jsonpath={.spec.taints[*].key}"]).ok();
        if taints.contains("node.kubernetes.io/memory-pressure") { Ok(()) } else { Err(taints) }
    });
    // Past the scheduler.
    namespace.apply(&self::pod("late", "sleep 1000", "", &format!("  nodeName: {name}")));
    let late = namespace.wait_until("pod/late", seconds(30), |pod| pod["status"]["phase"] == "Failed");
    assert_eq!(late["status"]["reason"], "Evicted");
    assert_eq!(late["status"]["message"], "Pod was rejected: The node had condition: [MemoryPressure]. ");
    cluster.signal("TERM");
    cluster.start();
    wait_for("the end of the pressure", seconds(60), || {
        let taints = cluster.kubectl(&["get", "node", name, "-o", "jsonpath={.spec.taints}"]).ok();
        if taints.contains("memory-pressure") { Err(taints) } else { Ok(()) }
    });
    namespace.apply(&self::pod("welcome", "sleep 1000", "", ""));
    namespace.wait_until_ready("welcome");
}

fn a_full_disk_costs_unused_images_first_and_then_the_pod_that_fills_it(cluster: &Cluster) {
    const DATA: &str = "/srv/host/data";
    cluster.host.run(&["mkdir", "-p", DATA]).ok();
    cluster.host.run(&["mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", DATA]).ok();
    cluster.start_with(&[
        "--eviction-hard",
        "memory.available<20Mi,nodefs.available<20%,imagefs.available<20%",
        "--eviction-pressure-transition-period",
        "1s",
        "--image-gc-high-threshold",
        "100",
        "--minimum-image-ttl-duration",
        "0s",
    ]);
    cluster.import_busybox();
    knarr_e2e::image::write_with(&cluster.host.dir.join("files/unused.tar"), &["unused:1"], "unused");
    cluster.knarr(&["image", "import", &format!("{}/files/unused.tar", knarr_e2e::host::INSIDE)]).ok();
    assert!(cluster.knarr(&["image", "ls"]).ok().contains("unused"));
    let namespace = cluster.namespace();
    namespace.apply(&pod("modest", "sleep 1000", "", ""));
    namespace.wait_until_ready("modest");
    let fill = "dd if=/dev/zero of=/scratch/f bs=1M count=330; sleep 1000";
    let (mounts, volume) = (
        "    volumeMounts: [{name: scratch, mountPath: /scratch}]",
        "  volumes: [{name: scratch, emptyDir: {}}]",
    );
    namespace.apply(&pod("filler", fill, mounts, volume));
    evicted(&namespace, "filler", "The node was low on resource: ephemeral-storage. Threshold quantity: ");
    let images = cluster.knarr(&["image", "ls"]).ok();
    assert!(images.contains("busybox") && !images.contains("unused"), "{images}");
    let node = &cluster.host.name;
    let pressure = "jsonpath={.status.conditions[?(@.type=='DiskPressure')].status} {.spec.taints[*].key}";
    wait_for("the end of the pressure", seconds(60), || {
        let seen = cluster.kubectl(&["get", "node", node, "-o", pressure]).ok();
        if seen.trim() == "False" { Ok(()) } else { Err(seen) }
    });
    assert_eq!(namespace.get("pod/modest")["status"]["phase"], "Running");
    let began = format!("Node {node} status is now: NodeHasDiskPressure");
    for (reason, message) in
        [("EvictionThresholdMet", "Attempting to reclaim ephemeral-storage"), ("NodeHasDiskPressure", &began)]
    {
        let selector = format!("reason={reason}");
        let events = cluster.kubectl(&["get", "events", "-A", "--field-selector", &selector]).ok();
        assert!(events.contains(message), "{events}");
    }
    drop(namespace);
    cluster.knarr(&["down"]).ok();
    cluster.host.run(&["umount", DATA]).ok();
}
