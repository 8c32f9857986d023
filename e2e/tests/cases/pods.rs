//! The life of a single pod on its node: sizes that change while it runs, manifests without an API, what a node
//! refuses, and containers that do not behave.

use knarr_e2e::wait::seconds;
use knarr_e2e::{Case, Cluster, Namespace, cases, wait_for};
use serde_json::Value;

pub const CASES: &[Case] = cases![
    a_running_container_is_resized_in_place,
    a_container_is_restarted_for_its_size_if_it_says_so,
    a_resize_beyond_the_node_waits_and_can_be_taken_back,
    a_pods_own_resources_bound_it_as_a_whole,
    a_static_pod_runs_from_a_file_and_has_a_mirror,
    a_rule_restarts_all_containers_of_a_pod,
    a_variable_comes_from_a_file_that_an_init_container_wrote,
    an_image_is_a_volume_that_nobody_writes,
    a_debugging_container_sees_the_processes_of_its_target,
    a_pod_that_the_node_must_not_run_is_refused_with_the_reason,
    a_container_that_would_be_root_is_not_started,
    a_process_that_ignores_the_term_signal_is_killed_after_its_grace,
    a_hung_probe_command_counts_as_a_failure,
    a_program_for_another_architecture_says_so,
    another_runtime_runs_the_pods_of_its_class,
];

fn pod(name: &str, command: &str, container: &str, spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n{spec}\n  containers:\n  - name: main\n    image: busybox:1.35\n    command: [sh, -c, {}]\n{container}\n",
        Value::from(command)
    )
}

fn condition<'a>(pod: &'a Value, kind: &str) -> Option<&'a Value> {
    pod["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == kind)
}

fn wait_for_event(namespace: &Namespace<'_>, object: &str, words: &[&str]) {
    wait_for(&format!("events of {object} with {words:?}"), seconds(30), || {
        let selector = format!("involvedObject.name={object}");
        let columns = "custom-columns=REASON:.reason,MESSAGE:.message";
        let events = namespace.kubectl(&[
            "get",
            "events",
            "--field-selector",
            &selector,
            "-o",
            columns,
            "--no-headers",
        ]);
        let events = events.ok();
        if words.iter().all(|word| events.contains(word)) { Ok(()) } else { Err(events) }
    });
}

fn resize(namespace: &Namespace<'_>, name: &str, resources: &str) {
    let patch = format!("{{\"spec\":{{\"containers\":[{{\"name\":\"main\",\"resources\":{resources}}}]}}}}");
    namespace.kubectl(&["patch", "pod", name, "--subresource=resize", "--patch", &patch]).ok();
}

/// The CPU quota that the container itself sees, in microseconds of a tenth of a second.
fn quota(namespace: &Namespace<'_>, name: &str) -> String {
    let read = "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || cut -d' ' -f1 /sys/fs/cgroup/cpu.max";
    namespace.exec(name, &["sh", "-c", read]).ok().trim().to_owned()
}

fn settled(pod: &Value) -> bool {
    let resizing = |kind| condition(pod, kind).is_some();
    !resizing("PodResizePending")
        && !resizing("PodResizeInProgress")
        && pod["status"]["observedGeneration"] == pod["metadata"]["generation"]
}

const SMALL: &str = "    resources: {requests: {cpu: 20m, memory: 16Mi}, limits: {cpu: 50m, memory: 32Mi}}";

fn a_running_container_is_resized_in_place(cluster: &Cluster) {
    let namespace = cluster.namespace();
    namespace.apply(&pod("grows", "sleep 1000", SMALL, ""));
    let before = namespace.wait_until_ready("grows");
    assert_eq!(quota(&namespace, "grows"), "5000");
    resize(
        &namespace,
        "grows",
        r#"{"requests":{"cpu":"30m","memory":"20Mi"},"limits":{"cpu":"80m","memory":"40Mi"}}"#,
    );
    let after = namespace.wait_until("pod/grows", seconds(20), |pod| {
        settled(pod) && pod["status"]["containerStatuses"][0]["resources"]["limits"]["cpu"] == "80m"
    });
    let (was, is) = (&before["status"]["containerStatuses"][0], &after["status"]["containerStatuses"][0]);
    assert_eq!((&is["containerID"], &is["restartCount"]), (&was["containerID"], &was["restartCount"]));
    assert_eq!(is["allocatedResources"]["memory"], "20Mi");
    assert_eq!(quota(&namespace, "grows"), "8000");
    wait_for_event(
        &namespace,
        "grows",
        &["ResizeStarted", "ResizeCompleted", "Pod resize completed: {\"containers\""],
    );
    // And smaller again.
    resize(&namespace, "grows", r#"{"requests":{"cpu":"10m"},"limits":{"cpu":"40m","memory":"24Mi"}}"#);
    wait_for("a smaller quota", seconds(20), || match quota(&namespace, "grows").as_str() {
        "4000" => Ok(()),
        other => Err(other.to_owned()),
    });
}

fn a_container_is_restarted_for_its_size_if_it_says_so(cluster: &Cluster) {
    let namespace = cluster.namespace();
    let policy = "    resizePolicy: [{resourceName: memory, restartPolicy: RestartContainer}]";
    namespace.apply(&pod("anew", "sleep 1000", &format!("{SMALL}\n{policy}"), ""));
    namespace.wait_until_ready("anew");
    resize(&namespace, "anew", r#"{"limits":{"memory":"40Mi"}}"#);
    let after = namespace.wait_until("pod/anew", seconds(30), |pod| {
        let status = &pod["status"]["containerStatuses"][0];
        settled(pod) && status["restartCount"] == 1 && status["ready"] == true
    });
    assert_eq!(after["status"]["containerStatuses"][0]["resources"]["limits"]["memory"], "40Mi");
    wait_for_event(&namespace, "anew", &["Container main resize requires restart"]);
}

fn a_resize_beyond_the_node_waits_and_can_be_taken_back(cluster: &Cluster) {
    let namespace = cluster.namespace();
    namespace.apply(&pod("waits", "sleep 1000", "    resources: {requests: {cpu: 10m}}", ""));
    namespace.wait_until_ready("waits");
    resize(&namespace, "waits", r#"{"requests":{"cpu":"900"}}"#);
    let pending =
        namespace.wait_until("pod/waits", seconds(20), |pod| condition(pod, "PodResizePending").is_some());
    let told = condition(&pending, "PodResizePending").expect("it was waited for");
    assert_eq!(told["reason"], "Deferred");
    assert!(
        told["message"]
            .as_str()
            .is_some_and(|m| m.starts_with("Node didn't have enough resource: cpu, requested: 900000")),
        "{told}"
    );
    assert_eq!(pending["status"]["containerStatuses"][0]["allocatedResources"]["cpu"], "10m");
    wait_for_event(&namespace, "waits", &["ResizeDeferred", "Pod resize Deferred"]);
    resize(&namespace, "waits", r#"{"requests":{"cpu":"10m"}}"#);
    namespace.wait_until("pod/waits", seconds(20), settled);
}

fn a_pods_own_resources_bound_it_as_a_whole(cluster: &Cluster) {
    let namespace = cluster.namespace();
    let own = "  resources: {requests: {cpu: 20m, memory: 32Mi}, limits: {cpu: 60m, memory: 64Mi}}";
    namespace.apply(&pod("whole", "sleep 1000", "", own));
    let whole = namespace.wait_until_ready("whole");
    assert_eq!(whole["status"]["qosClass"], "Burstable");
    assert_eq!(whole["status"]["resources"]["limits"]["memory"], "64Mi");
    // A container without limits of its own is bound by the pod's.
    assert_eq!(quota(&namespace, "whole"), "6000");
}

fn a_static_pod_runs_from_a_file_and_has_a_mirror(cluster: &Cluster) {
    let manifest = pod("from-file", "echo one; sleep 1000", "", "");
    let place = |text: &str| {
        let file = cluster.host.file("from-file.yaml", text);
        cluster.host.run(&["cp", &file, "/srv/host/data/manifests/.new"]).ok();
        cluster.host.run(&["mv", "/srv/host/data/manifests/.new", "/srv/host/data/manifests/a.yaml"]).ok();
    };
    let name = format!("from-file-{}", cluster.host.name);
    let get = || {
        let text = cluster.kubectl(&["get", "pod", "-n", "default", &name, "-o", "json"]).result()?;
        serde_json::from_str::<Value>(&text).map_err(|e| e.to_string())
    };
    let running = |not: &str| {
        wait_for("the mirror of a running pod", seconds(30), || {
            let pod = get()?;
            let ready = condition(&pod, "Ready").is_some_and(|c| c["status"] == "True");
            if ready && pod["metadata"]["uid"] != not { Ok(pod) } else { Err(pod["status"].to_string()) }
        })
    };
    place(&manifest);
    let first = running("");
    let annotations = &first["metadata"]["annotations"];
    assert_eq!(annotations["kubernetes.io/config.source"], "file");
    assert_eq!(annotations["kubernetes.io/config.mirror"], annotations["kubernetes.io/config.hash"]);
    assert_eq!(first["metadata"]["ownerReferences"][0]["kind"], "Node");
    assert_eq!(cluster.kubectl(&["logs", "-n", "default", &name]).ok(), "one\n");
    // What is deleted is the mirror, and it comes back over the same containers.
    cluster.kubectl(&["delete", "pod", "-n", "default", &name, "--wait=false"]).ok();
    let again = running(first["metadata"]["uid"].as_str().expect("a UID"));
    let id = |pod: &Value| pod["status"]["containerStatuses"][0]["containerID"].clone();
    assert_eq!(id(&again), id(&first));
    place(&manifest.replace("echo one", "echo two"));
    wait_for("the changed pod", seconds(30), || {
        let said = cluster.kubectl(&["logs", "-n", "default", &name]).result()?;
        if said == "two\n" { Ok(()) } else { Err(said) }
    });
    cluster.host.run(&["rm", "/srv/host/data/manifests/a.yaml"]).ok();
    wait_for("the end of the mirror", seconds(30), || match get() {
        Err(_) => Ok(()),
        Ok(pod) => Err(pod["status"].to_string()),
    });
}

fn a_rule_restarts_all_containers_of_a_pod(cluster: &Cluster) {
    let namespace = cluster.namespace();
    let rule = "    restartPolicy: Never\n    restartPolicyRules:\n    - {action: RestartAllContainers, exitCodes: {operator: In, values: [42]}}";
    let init = "  restartPolicy: Never\n  volumes: [{name: v, emptyDir: {}}]\n  initContainers:\n  - {name: init, image: busybox:1.35, command: [sh, -c, echo run >> /v/runs], volumeMounts: [{name: v, mountPath: /v}]}";
    let command = "[ $(wc -l < /v/runs) -gt 1 ] && sleep 1000; exit 42";
    let mount = "    volumeMounts: [{name: v, mountPath: /v}]";
    namespace.apply(&pod("together", command, &format!("{rule}\n{mount}"), init));
    // It may be seen ready for the moment that its first run takes.
    let pod = namespace.wait_until("pod/together", seconds(40), |pod| {
        let main = &pod["status"]["containerStatuses"][0];
        main["restartCount"] == 1 && main["ready"] == true
    });
    let status = &pod["status"];
    assert_eq!(status["initContainerStatuses"][0]["restartCount"], 1, "{status}");
    let last = &status["containerStatuses"][0]["lastState"]["terminated"];
    assert_eq!(last["reason"], "RestartingAllContainers");
    assert_eq!(condition(&pod, "AllContainersRestarting").map(|c| &c["status"]), Some(&Value::from("False")));
}

fn a_variable_comes_from_a_file_that_an_init_container_wrote(cluster: &Cluster) {
    let namespace = cluster.namespace();
    let spec = "  restartPolicy: Never\n  volumes: [{name: v, emptyDir: {}}]\n  initContainers:\n  - name: init\n    image: busybox:1.35\n    command: [sh, -c, \"echo \\\"A='from a file'\\\" > /v/vars\"]\n    volumeMounts: [{name: v, mountPath: /v}]";
    let env = "    env: [{name: A, valueFrom: {fileKeyRef: {volumeName: v, path: vars, key: A}}}]";
    namespace.apply(&pod("vars", "echo $A", env, spec));
    namespace.wait_until("pod/vars", seconds(30), |pod| pod["status"]["phase"] == "Succeeded");
    assert_eq!(namespace.kubectl(&["logs", "vars"]).ok(), "from a file\n");
}

fn a_debugging_container_sees_the_processes_of_its_target(cluster: &Cluster) {
    let namespace = cluster.namespace();
    namespace.apply(&pod("seen", "exec sleep 4321", "", ""));
    let before = namespace.wait_until_ready("seen");
    let look = "tr '\\0' ' ' < /proc/1/cmdline; echo; sleep 1000";
    let debug = [
        "debug",
        "pod/seen",
        "--image=busybox:1.35",
        "--container=eye",
        "--target=main",
        "--",
        "sh",
        "-c",
        look,
    ];
    namespace.kubectl(&debug).ok();
    wait_for("the target's command line", seconds(30), || {
        let said = namespace.kubectl(&["logs", "seen", "-c", "eye"]).result()?;
        if said.trim() == "sleep 4321" { Ok(()) } else { Err(said) }
    });
    let after = namespace.get("pod/seen");
    let id = |pod: &Value| pod["status"]["containerStatuses"][0]["containerID"].clone();
    assert_eq!(id(&after), id(&before));
    // It ends with the pod, like everything else.
    namespace.kubectl(&["delete", "pod", "seen", "--timeout=20s"]).ok();
}

fn an_image_is_a_volume_that_nobody_writes(cluster: &Cluster) {
    let namespace = cluster.namespace();
    let spec = "  volumes: [{name: v, image: {reference: \"busybox:1.35\", pullPolicy: IfNotPresent}}]";
    let mounts = "    volumeMounts: [{name: v, mountPath: /v}, {name: v, mountPath: /s, subPath: bin}]";
    namespace.apply(&pod("image", "sleep 1000", mounts, spec));
    let pod = namespace.wait_until_ready("image");
    let found = namespace.exec(
        "image",
        &["sh", "-c", "ls /v/bin/busybox /s/busybox; touch /v/new 2>&1; /v/bin/busybox true 2>&1"],
    );
    let said = format!("{}{}", found.stdout, found.stderr);
    for word in ["/v/bin/busybox\n", "/s/busybox\n", "Read-only file system", "Permission denied"] {
        assert!(said.contains(word), "{word:?} is missing in {said}");
    }
    namespace.kubectl(&["delete", "pod", "image", "--timeout=20s"]).ok();
    let uid = pod["metadata"]["uid"].as_str().expect("a UID").to_owned();
    wait_for("nothing of the volume", seconds(10), || {
        let look =
            format!("grep {uid} /proc/self/mountinfo; find /srv/host/data/images -name '*{uid}*'; true");
        let left = cluster.host.run(&["sh", "-c", &look]).result()?;
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}

fn a_pod_that_the_node_must_not_run_is_refused_with_the_reason(cluster: &Cluster) {
    let namespace = cluster.namespace();
    let bound = format!("  nodeName: {}", cluster.host.name);
    for (name, spec, reason, message) in [
        (
            "sysctl",
            "  securityContext: {sysctls: [{name: kernel.msgmax, value: \"1\"}]}",
            "SysctlForbidden",
            "Pod was rejected: forbidden sysctl: \"kernel.msgmax\" not allowlisted",
        ),
        (
            "selector",
            "  nodeSelector: {no: such}",
            "NodeAffinity",
            "Pod was rejected: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
        ),
    ] {
        namespace.apply(&pod(name, "sleep 1", "", &format!("{bound}\n{spec}")));
        let pod = namespace
            .wait_until(&format!("pod/{name}"), seconds(20), |pod| pod["status"]["phase"] == "Failed");
        assert_eq!((&pod["status"]["reason"], &pod["status"]["message"]), (&reason.into(), &message.into()));
        wait_for_event(&namespace, name, &[reason]);
    }
}

fn a_container_that_would_be_root_is_not_started(cluster: &Cluster) {
    let namespace = cluster.namespace();
    namespace.apply(&pod("root", "sleep 1000", "    securityContext: {runAsNonRoot: true}", ""));
    let pod = namespace.wait_until("pod/root", seconds(20), |pod| {
        pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CreateContainerConfigError"
    });
    let message = pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"].to_string();
    assert!(message.contains("container has runAsNonRoot and image will run as root"), "{message}");
}

fn a_process_that_ignores_the_term_signal_is_killed_after_its_grace(cluster: &Cluster) {
    let namespace = cluster.namespace();
    namespace.apply(&pod("deaf", "trap '' TERM; while :; do sleep 1; done", "", ""));
    namespace.wait_until_ready("deaf");
    namespace.kubectl(&["delete", "pod", "deaf", "--timeout=20s"]).ok();
    namespace.wait_until_gone("pod/deaf", seconds(10));
}

fn a_hung_probe_command_counts_as_a_failure(cluster: &Cluster) {
    let namespace = cluster.namespace();
    let probe = "    livenessProbe: {exec: {command: [sleep, \"1000\"]}, periodSeconds: 1, timeoutSeconds: 1, failureThreshold: 1}";
    namespace.apply(&pod("hung", "sleep 1000", probe, ""));
    wait_for_event(
        &namespace,
        "hung",
        &[
            "Liveness probe failed: command timed out",
            "Container main failed liveness probe, will be restarted",
        ],
    );
    namespace.wait_until("pod/hung", seconds(30), |pod| {
        pod["status"]["containerStatuses"][0]["restartCount"].as_u64().is_some_and(|n| n > 0)
    });
}

fn a_program_for_another_architecture_says_so(cluster: &Cluster) {
    let namespace = cluster.namespace();
    // A file that says it is an ELF program, and for which machine, and nothing else.
    let make = "printf '\\177ELF\\002\\001\\001\\000\\000\\000\\000\\000\\000\\000\\000\\000\\002\\000\\267\\000' > /v/p; dd if=/dev/zero bs=200 count=1 >> /v/p; chmod 755 /v/p";
    let spec = format!(
        "  restartPolicy: Never\n  volumes: [{{name: v, emptyDir: {{}}}}]\n  initContainers:\n  - {{name: init, image: busybox:1.35, command: [sh, -c, {}], volumeMounts: [{{name: v, mountPath: /v}}]}}",
        Value::from(make)
    );
    let manifest = pod("foreign", "", "    volumeMounts: [{name: v, mountPath: /v}]", &spec);
    namespace.apply(&manifest.replace("command: [sh, -c, \"\"]", "command: [/v/p]"));
    let pod = namespace.wait_until("pod/foreign", seconds(30), |pod| pod["status"]["phase"] == "Failed");
    let ended = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((&ended["exitCode"], &ended["reason"]), (&255.into(), &"Error".into()), "{ended}");
    let said = namespace.kubectl(&["logs", "foreign"]).ok();
    assert!(said.contains("exec format error"), "{said}");
}

/// Knarr's own OCI command line stands for any other runtime.
fn another_runtime_runs_the_pods_of_its_class(cluster: &Cluster) {
    let program = cluster.host.dir.join("files/knarr-oci");
    let _ = std::fs::remove_file(&program);
    std::os::unix::fs::symlink("/srv/knarr", program).expect("writable");
    let handlers =
        cluster.kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].status.runtimeHandlers[*].name}"]);
    assert!(handlers.ok().split(' ').any(|name| name == "other"));
    let namespace = cluster.namespace();
    namespace
        .apply("apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {name: other}\nhandler: other\n");
    let container = "    livenessProbe: {exec: {command: [test, -e, /tmp/live]}, periodSeconds: 1}\n    \
                     resources: {limits: {memory: 32Mi, cpu: 50m}}\n    \
                     volumeMounts: [{name: v, mountPath: /tmp}]";
    let script = "touch /tmp/live; echo started; trap 'exit 0' TERM; while :; do sleep 0.1; done";
    let spec = "  runtimeClassName: other\n  volumes: [{name: v, emptyDir: {}}]\n  initContainers: \
                [{name: init, image: busybox:1.35, command: [sh, -c, 'echo first > /tmp/from'], volumeMounts: \
                [{name: v, mountPath: /tmp}]}]";
    namespace.apply(&pod("by-other", script, container, spec));
    namespace.wait_until_ready("by-other");
    assert_eq!(namespace.kubectl(&["logs", "by-other"]).ok(), "started\n");
    assert_eq!(namespace.exec("by-other", &["cat", "/tmp/from"]).ok(), "first\n");
    let shown = namespace.get("pod/by-other")["status"]["containerStatuses"][0]["user"].clone();
    assert_eq!((&shown["linux"]["uid"], &shown["linux"]["gid"]), (&0.into(), &0.into()), "{shown}");
    // The other runtime has the container in its books.
    let books = format!("{}/data/runtime/pods", knarr_e2e::host::INSIDE);
    let list = format!("find {books} -path '*/oci/*' -type d | head -n 1");
    assert!(!cluster.host.run(&["sh", "-c", &list]).ok().is_empty());
    // It lives on through a restart of the daemon, and what the probe says still counts.
    let before = namespace.get("pod/by-other")["status"]["containerStatuses"][0]["containerID"].clone();
    cluster.signal("KILL");
    cluster.start();
    namespace.wait_until_ready("by-other");
    assert_eq!(namespace.get("pod/by-other")["status"]["containerStatuses"][0]["containerID"], before);
    namespace.exec("by-other", &["rm", "/tmp/live"]).ok();
    namespace.wait_until("pod/by-other", seconds(30), |pod| {
        pod["status"]["containerStatuses"][0]["restartCount"] == 1
    });
    namespace.apply(
        &pod("not-there", "true", "", "  runtimeClassName: other\n  restartPolicy: Never")
            .replace("[sh, -c, \"true\"]", "[/no/such]"),
    );
    namespace.wait_until("pod/not-there", seconds(30), |pod| {
        pod["status"]["containerStatuses"][0]["state"]["terminated"]["reason"] == "StartError"
    });
    // Users of its own such a pod cannot have, and is not run without them.
    let spec = "  runtimeClassName: other\n  hostUsers: false";
    namespace.apply(&pod("own-users", "sleep 3600", "", spec));
    wait_for("an event that says why", seconds(30), || {
        let events = namespace.kubectl(&["get", "events"]).result()?;
        let why = "Failed to create pod sandbox: can't set `spec.hostUsers: false`, RuntimeClass handler \"other\" does not support user namespaces";
        if events.contains(why) && events.contains("FailedCreatePodSandBox") { Ok(()) } else { Err(events) }
    });
    let refused = namespace.get("pod/own-users");
    assert_eq!(refused["status"]["phase"], "Pending", "{refused}");
    namespace.kubectl(&["delete", "pod", "by-other", "not-there", "own-users"]).ok();
    cluster.kubectl(&["delete", "runtimeclass", "other"]).ok();
}
