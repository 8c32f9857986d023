//! Bad input and faults on the node: what cannot run says why, what was the matter heals when the cause is gone,
//! shims, daemon and machine may end at any point, and nothing is left on the host. States, reasons and messages
//! are upstream's (<https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/>).
#![allow(clippy::disallowed_methods)] // outside of any control plane, as the harness

use knarr_e2e::cluster::REGISTRY;
use knarr_e2e::host::INSIDE;
use knarr_e2e::wait::seconds;
use knarr_e2e::{Case, Cluster, Namespace, Spawned, cases, repository, snapshot, wait_for};
use serde_json::Value;
use std::time::{Duration, Instant};

pub const CASES: &[Case] = cases![
    what_cannot_be_made_says_why_and_heals,
    an_image_that_cannot_be_had_says_why_and_heals,
    a_spoilt_archive_is_refused_and_leaves_nothing,
    a_fork_bomb_is_stopped_by_the_pods_limit,
    a_memory_hog_is_killed_and_said_to_be,
    a_deaf_process_gets_its_grace_and_no_more,
    a_shim_that_dies_takes_its_pod_along_and_the_pod_comes_back,
    the_daemon_killed_at_any_point_of_a_start_finishes_it,
    the_daemon_killed_at_any_point_of_an_end_finishes_it,
    a_reboot_in_the_middle_of_a_start_finishes_it,
    a_full_disk_is_told_and_outlived,
];

/// A pod of one container that runs `command`; `more` goes into its spec, `container` into the container.
fn pod(name: &str, command: &str, container: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n{more}\n  containers:\n  - name: main\n    image: busybox:1.35\n    command: [sh, -c, {}]\n{container}\n",
        Value::from(command)
    )
}

/// Events of an object, `Type Reason Message` a line.
fn events(namespace: &Namespace<'_>, object: &str) -> String {
    let selector = format!("involvedObject.name={object}");
    let columns = "custom-columns=TYPE:.type,REASON:.reason,MESSAGE:.message";
    let line = ["get", "events", "--field-selector", &selector, "-o", columns, "--no-headers"];
    namespace.kubectl(&line).ok()
}

fn wait_for_event(namespace: &Namespace<'_>, object: &str, words: &[&str]) {
    wait_for(&format!("events of {object} with {words:?}"), seconds(40), || {
        let events = events(namespace, object);
        let all = |line: &&str| words.iter().all(|word| line.contains(word));
        if events.lines().any(|line| all(&line)) { Ok(()) } else { Err(events) }
    });
}

fn waiting(pod: &Value) -> (&str, &str) {
    let state = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
    (state["reason"].as_str().unwrap_or_default(), state["message"].as_str().unwrap_or_default())
}

/// Runs `case` and then demands that the host is as it was before.
fn without_a_trace(cluster: &Cluster, case: impl FnOnce(&Namespace<'_>)) {
    wait_for("no pods of cases before", seconds(60), || {
        let pods = cluster.kubectl(&["get", "pods", "-A", "-o", "name"]).result()?;
        if pods.is_empty() { Ok(()) } else { Err(pods) }
    });
    let before = snapshot::of_pods(&cluster.host);
    {
        let namespace = cluster.namespace();
        case(&namespace);
        namespace.kubectl(&["delete", "pods", "--all", "--wait=false"]).ok();
    }
    snapshot::wait_until_as_before(&cluster.host, &before, seconds(60));
}

/// Something that stands in the way of a pod, and its removal.
struct Obstacle {
    name: &'static str,
    container: &'static str,
    more: &'static str,
    /// Why the container waits, and part of its message.
    waits: (&'static str, &'static str),
    /// Parts of one event's line.
    event: &'static [&'static str],
    /// What takes it out of the way; nothing when the pod can never run.
    remedy: &'static [&'static str],
}

const OBSTACLES: &[Obstacle] = &[
    Obstacle {
        name: "handler",
        container: "",
        more: "  runtimeClassName: faults-no-such",
        waits: ("ContainerCreating", ""),
        event: &[
            "Warning",
            "FailedCreatePodSandBox",
            "Failed to create pod sandbox:",
            "no runtime for \"no-such\" is configured",
        ],
        remedy: &[],
    },
    Obstacle {
        name: "map-env",
        container: "    env: [{name: A, valueFrom: {configMapKeyRef: {name: env, key: a}}}]",
        more: "",
        waits: ("CreateContainerConfigError", "configmap \"env\" not found"),
        event: &["Warning", "Failed", "Error: configmap \"env\" not found"],
        remedy: &["create", "configmap", "env", "--from-literal=a=b"],
    },
    Obstacle {
        name: "map-key",
        container: "    env: [{name: A, valueFrom: {configMapKeyRef: {name: kube-root-ca.crt, key: none}}}]",
        more: "",
        waits: ("CreateContainerConfigError", "couldn't find key none in ConfigMap"),
        event: &["Warning", "Failed", "Error: couldn't find key none in ConfigMap"],
        remedy: &[],
    },
    Obstacle {
        name: "secret-env",
        container: "    envFrom: [{secretRef: {name: env-secret}}]",
        more: "",
        waits: ("CreateContainerConfigError", "secret \"env-secret\" not found"),
        event: &["Warning", "Failed", "Error: secret \"env-secret\" not found"],
        remedy: &["create", "secret", "generic", "env-secret", "--from-literal=a=b"],
    },
    Obstacle {
        name: "map-volume",
        container: "    volumeMounts: [{name: v, mountPath: /v}]",
        more: "  volumes: [{name: v, configMap: {name: volume}}]",
        waits: ("ContainerCreating", ""),
        event: &[
            "Warning",
            "FailedMount",
            "MountVolume.SetUp failed for volume \"v\" : configmap \"volume\" not found",
        ],
        remedy: &["create", "configmap", "volume", "--from-literal=a=b"],
    },
    Obstacle {
        name: "secret-volume",
        container: "    volumeMounts: [{name: v, mountPath: /v}]",
        more: "  volumes: [{name: v, secret: {secretName: volume}}]",
        waits: ("ContainerCreating", ""),
        event: &[
            "Warning",
            "FailedMount",
            "MountVolume.SetUp failed for volume \"v\" : secret \"volume\" not found",
        ],
        remedy: &["create", "secret", "generic", "volume", "--from-literal=a=b"],
    },
    Obstacle {
        name: "command",
        container: "    args: [none]\n    workingDir: /",
        more: "",
        waits: ("CrashLoopBackOff", " restarting failed container=main pod=command_"),
        event: &["Warning", "BackOff", "Back-off restarting failed container main in pod command_"],
        remedy: &[],
    },
];

fn what_cannot_be_made_says_why_and_heals(cluster: &Cluster) {
    let class = "apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {name: faults-no-such}\nhandler: no-such\n";
    without_a_trace(cluster, |namespace| {
        namespace.apply(class);
        for obstacle in OBSTACLES {
            let manifest = pod(obstacle.name, "sleep 1000", obstacle.container, obstacle.more);
            // A program that is not there is the container's fault, not the pod's.
            let manifest = match obstacle.name {
                "command" => manifest.replace("[sh, -c, \"sleep 1000\"]", "[/no/such/program]"),
                _ => manifest,
            };
            namespace.apply(&manifest);
        }
        for obstacle in OBSTACLES {
            let what = format!("pod/{}", obstacle.name);
            namespace.wait_until(&what, seconds(40), |pod| {
                let (reason, message) = waiting(pod);
                reason == obstacle.waits.0
                    && message.contains(obstacle.waits.1)
                    && (pod["status"]["phase"] == "Pending" || obstacle.name == "command")
            });
            wait_for_event(namespace, obstacle.name, obstacle.event);
            if !obstacle.remedy.is_empty() {
                namespace.kubectl(obstacle.remedy).ok();
                let healed = namespace.wait_until_ready(obstacle.name);
                assert_eq!(healed["status"]["containerStatuses"][0]["restartCount"], 0);
            }
        }
        let failed = namespace.get("pod/command");
        let last = &failed["status"]["containerStatuses"][0]["lastState"]["terminated"];
        assert_eq!((&last["reason"], &last["exitCode"]), (&"StartError".into(), &128.into()), "{last}");
    });
    cluster.kubectl(&["delete", "runtimeclass", "faults-no-such"]).ok();
}

/// A registry of the busybox archive that is spoilt as `fault` says.
fn registry(cluster: &Cluster, fault: &str) -> Spawned {
    let script = repository().join("e2e/tests/registry.py").display().to_string();
    // Another layer than the one that is there already, which need not be fetched.
    let archive = format!("{INSIDE}/files/registry.tar");
    knarr_e2e::image::write_with(&cluster.host.dir.join("files/registry.tar"), &["registry:1"], "registry");
    let fault = format!("FAULT={fault}");
    let served = cluster.host.spawn(&["env", &fault, "python3", &script, &archive, REGISTRY]);
    let address = format!("http://{REGISTRY}/v2/");
    wait_for("the registry answers", seconds(20), || cluster.host.http(&address).map_err(|_| served.said()));
    served
}

fn an_image_that_cannot_be_had_says_why_and_heals(cluster: &Cluster) {
    let image = format!("{REGISTRY}/tests/busybox:1");
    let listed = || cluster.knarr(&["image", "ls"]).ok();
    let before = listed();
    without_a_trace(cluster, |namespace| {
        for (fault, words) in [
            ("platform", &["no match for platform in manifest"][..]),
            ("layer", &["sha256:"]),
            ("short", &[]),
            ("gzip", &[]),
            ("unpacked", &["sha256:"]),
        ] {
            let mut served = registry(cluster, fault);
            let name = format!("spoilt-{fault}");
            namespace.apply(&pod(&name, "sleep 1000", "", "").replace("busybox:1.35", &image));
            let what = format!("pod/{name}");
            namespace.wait_until(&what, seconds(60), |pod| waiting(pod).0 == "ErrImagePull");
            let told = format!("Failed to pull image \"{image}\": rpc error: code = ");
            wait_for_event(namespace, &name, &[&["Warning", "Failed", &told], words].concat());
            wait_for_event(namespace, &name, &["Warning", "Failed", "Error: ErrImagePull"]);
            namespace.wait_until(&what, seconds(60), |pod| {
                let (reason, message) = waiting(pod);
                reason == "ImagePullBackOff"
                    && message.contains(&format!("Back-off pulling image \"{image}\""))
            });
            assert_eq!(listed(), before, "nothing of a spoilt image is kept ({fault})");
            served.signal("KILL");
            served.wait_for_end(seconds(10));
        }
        let _served = registry(cluster, "");
        for fault in ["platform", "layer", "short", "gzip", "unpacked"] {
            namespace.wait_until_ready(&format!("spoilt-{fault}"));
        }
        namespace.kubectl(&["delete", "pods", "--all", "--wait=true"]).ok();
        cluster.knarr(&["image", "rm", &image]).ok();
    });
}

fn a_spoilt_archive_is_refused_and_leaves_nothing(cluster: &Cluster) {
    // Another layer, since one that is there already need not be read.
    let file = cluster.host.dir.join("files/other.tar");
    knarr_e2e::image::write_with(&file, &["other:1"], "another layer");
    let good = std::fs::read(file).expect("it was written");
    let middle = good.len() / 2;
    let mut flipped = good.clone();
    flipped[middle] ^= 1;
    let listed = cluster.knarr(&["image", "ls"]).ok();
    let before = snapshot::of_pods(&cluster.host);
    for (name, bytes) in [("flipped.tar", &flipped[..]), ("short.tar", &good[..middle]), ("empty.tar", b"")] {
        let file = cluster.host.file(name, bytes);
        let refused = cluster.knarr(&["image", "import", &file]).refused();
        assert!(refused.contains(name) || refused.contains("sha256:"), "{name}: {refused}");
    }
    assert_eq!(cluster.knarr(&["image", "ls"]).ok(), listed);
    snapshot::wait_until_as_before(&cluster.host, &before, seconds(5));
}

fn a_fork_bomb_is_stopped_by_the_pods_limit(cluster: &Cluster) {
    cluster.signal("KILL");
    cluster.start_with(&["--pod-max-pids", "40"]);
    without_a_trace(cluster, |namespace| {
        let bomb = "i=0; while [ $i -lt 100 ]; do sleep 1000 & i=$((i+1)); done; wait";
        namespace.apply(&pod("bomb", bomb, "", "  restartPolicy: Never"));
        let ended = namespace.wait_until("pod/bomb", seconds(40), |pod| pod["status"]["phase"] == "Failed");
        let state = &ended["status"]["containerStatuses"][0]["state"]["terminated"];
        assert_eq!(state["reason"], "Error", "{state}");
        let said = namespace.kubectl(&["logs", "bomb"]).ok();
        assert!(said.contains("can't fork: Resource temporarily unavailable"), "{said}");
        // The neighbour has its own forty.
        namespace.apply(&pod("calm", "for i in 1 2 3 4 5; do sleep 1000 & done; wait", "", ""));
        namespace.wait_until_ready("calm");
    });
    cluster.signal("KILL");
    cluster.start();
}

fn a_memory_hog_is_killed_and_said_to_be(cluster: &Cluster) {
    without_a_trace(cluster, |namespace| {
        let limits = "    resources: {limits: {memory: 24Mi}}";
        namespace.apply(&pod("hog", "tail /dev/zero", limits, "  restartPolicy: Never"));
        let hog = namespace.wait_until("pod/hog", seconds(40), |pod| pod["status"]["phase"] == "Failed");
        let state = &hog["status"]["containerStatuses"][0]["state"]["terminated"];
        assert_eq!((&state["reason"], &state["exitCode"]), (&"OOMKilled".into(), &137.into()), "{state}");
    });
}

fn a_deaf_process_gets_its_grace_and_no_more(cluster: &Cluster) {
    without_a_trace(cluster, |namespace| {
        let deaf = pod("deaf", "trap '' TERM; while :; do sleep 1; done", "", "");
        namespace.apply(&deaf.replace("PeriodSeconds: 1", "PeriodSeconds: 3"));
        namespace.wait_until_ready("deaf");
        let asked = Instant::now();
        namespace.kubectl(&["delete", "pod", "deaf", "--timeout=30s"]).ok();
        let took = asked.elapsed();
        assert!(took >= Duration::from_secs(3) && took < Duration::from_secs(12), "{took:?}");
        wait_for_event(namespace, "deaf", &["Normal", "Killing", "Stopping container main"]);
    });
}

/// Numbers of all shims in the host, seen from inside.
fn shims(cluster: &Cluster) -> Vec<String> {
    let listing = r#"for p in /proc/[0-9]*; do case "$(tr '\0' ' ' < $p/cmdline)" in "knarr-shim "*) echo ${p#/proc/};; esac; done 2>/dev/null; true"#;
    cluster.host.run(&["sh", "-c", listing]).ok().lines().map(str::to_owned).collect()
}

fn kill_shims(cluster: &Cluster) -> usize {
    let found = shims(cluster);
    for pid in &found {
        cluster.host.run(&["kill", "-KILL", pid]);
    }
    found.len()
}

/// Pods of several kinds, so that a fault hits one of them in every stage: init containers, probes and hooks,
/// volumes, a slow end.
fn assortment(round: usize) -> String {
    let spec = "  volumes: [{name: v, emptyDir: {}}, {name: m, emptyDir: {medium: Memory}}, {name: t, projected: {sources: [{downwardAPI: {items: [{path: ip, fieldRef: {fieldPath: metadata.name}}]}}]}}]";
    let init = "  initContainers:\n  - {name: first, image: busybox:1.35, command: [sh, -c, 'echo a > /v/a'], volumeMounts: [{name: v, mountPath: /v}]}\n  - {name: side, image: busybox:1.35, restartPolicy: Always, command: [sleep, '1000']}";
    let mounts =
        "    volumeMounts: [{name: v, mountPath: /v}, {name: m, mountPath: /m}, {name: t, mountPath: /t}]";
    let probe = "    readinessProbe: {exec: {command: [cat, /v/a]}, periodSeconds: 1}\n    lifecycle: {postStart: {exec: {command: [touch, /m/started]}}}";
    [
        pod(&format!("plain-{round}"), "sleep 1000", "", ""),
        pod(
            &format!("rich-{round}"),
            "sleep 1000",
            &format!("{mounts}\n{probe}"),
            &format!("{spec}\n{init}"),
        ),
        pod(&format!("done-{round}"), "echo done; exit 0", "", "  restartPolicy: Never"),
    ]
    .join("---\n")
}

/// Waits until a round's pods are what they are meant to be.
fn settled(namespace: &Namespace<'_>, round: usize) {
    for name in ["plain", "rich"] {
        namespace.wait_until_ready(&format!("{name}-{round}"));
    }
    namespace.wait_until(&format!("pod/done-{round}"), seconds(45), |pod| {
        matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
    });
    assert_eq!(
        namespace.exec(&format!("rich-{round}"), &["cat", "/v/a", "/t/ip"]).ok(),
        format!("a\nrich-{round}")
    );
}

fn pause(milliseconds: u64) {
    std::thread::sleep(Duration::from_millis(milliseconds));
}

fn a_shim_that_dies_takes_its_pod_along_and_the_pod_comes_back(cluster: &Cluster) {
    without_a_trace(cluster, |namespace| {
        namespace.apply(&assortment(0));
        settled(namespace, 0);
        assert!(kill_shims(cluster) > 0, "shims are found by their title");
        wait_for_event(
            namespace,
            "plain-0",
            &["Normal", "SandboxChanged", "Pod sandbox changed, it will be killed and re-created."],
        );
        for name in ["pod/plain-0", "pod/rich-0"] {
            let pod = namespace.wait_until(name, seconds(60), |pod| {
                let status = &pod["status"]["containerStatuses"][0];
                status["ready"] == true && status["restartCount"].as_u64() > Some(0)
            });
            let last = &pod["status"]["containerStatuses"][0]["lastState"]["terminated"];
            assert!(last["exitCode"].as_u64().is_some_and(|code| code != 0), "{last}");
        }
        // What is over stays over.
        assert_eq!(namespace.get("pod/done-0")["status"]["phase"], "Succeeded");
        // In the middle of a start: whatever shims there are, again and again.
        for (round, after) in [0, 20, 60, 120, 250].into_iter().enumerate() {
            let round = round + 1;
            namespace.apply(&assortment(round));
            pause(after);
            kill_shims(cluster);
        }
        for round in 1..=5 {
            settled(namespace, round);
        }
        // And of an end.
        namespace.kubectl(&["delete", "pods", "--all", "--wait=false"]).ok();
        kill_shims(cluster);
    });
}

fn the_daemon_killed_at_any_point_of_a_start_finishes_it(cluster: &Cluster) {
    without_a_trace(cluster, |namespace| {
        let points = [0, 30, 60, 100, 150, 220, 300, 450];
        for (round, after) in points.into_iter().enumerate() {
            namespace.apply(&assortment(round));
            pause(after);
            cluster.signal("KILL");
            cluster.start();
            settled(namespace, round);
        }
        for round in 0..points.len() {
            // No container of a pod that was started once is started twice.
            let pod = namespace.get(&format!("pod/plain-{round}"));
            assert_eq!(
                pod["status"]["containerStatuses"][0]["restartCount"], 0,
                "{round}: {}",
                pod["status"]
            );
        }
    });
}

fn the_daemon_killed_at_any_point_of_an_end_finishes_it(cluster: &Cluster) {
    without_a_trace(cluster, |namespace| {
        for (round, after) in [0, 50, 150, 400, 1100].into_iter().enumerate() {
            namespace.apply(&assortment(round));
            settled(namespace, round);
            namespace.kubectl(&["delete", "pods", "--all", "--wait=false"]).ok();
            pause(after);
            cluster.signal("KILL");
            cluster.start();
            wait_for("all pods are gone", seconds(45), || {
                let pods = namespace.kubectl(&["get", "pods", "-o", "name"]).result()?;
                if pods.is_empty() { Ok(()) } else { Err(pods) }
            });
        }
    });
}

fn a_reboot_in_the_middle_of_a_start_finishes_it(cluster: &Cluster) {
    without_a_trace(cluster, |namespace| {
        for (round, after) in [0, 80, 250].into_iter().enumerate() {
            namespace.apply(&assortment(round));
            pause(after);
            cluster.reboot();
            settled(namespace, round);
        }
    });
}

fn a_full_disk_is_told_and_outlived(cluster: &Cluster) {
    // A disk of their own for the pods' volumes: the store has to be able to say what happened.
    let volumes = format!("{INSIDE}/data/kubelet/pods");
    cluster.signal("KILL");
    cluster.host.run(&["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", &volumes]).ok();
    cluster.start();
    without_a_trace(cluster, |namespace| {
        let mount = "    volumeMounts: [{name: v, mountPath: /v}]";
        let volume = "  restartPolicy: Never\n  volumes: [{name: v, emptyDir: {}}]";
        namespace.apply(&pod("fills", "dd if=/dev/zero of=/v/f bs=64k || sleep 1000", mount, volume));
        let said = wait_for("the disk is full", seconds(40), || {
            let said = namespace.kubectl(&["logs", "fills"]).result()?;
            if said.contains("No space left on device") { Ok(said) } else { Err(said) }
        });
        assert!(!said.is_empty());
        namespace
            .kubectl(&["create", "configmap", "large", &format!("--from-literal=a={}", "x".repeat(100_000))])
            .ok();
        let map = "  volumes: [{name: v, configMap: {name: large}}]";
        namespace.apply(&pod("needs", "sleep 1000", mount, map));
        wait_for_event(namespace, "needs", &["Warning", "FailedMount", "No space left on device"]);
        namespace.kubectl(&["delete", "pod", "fills", "--wait=true"]).ok();
        namespace.wait_until_ready("needs");
    });
    cluster.signal("KILL");
    cluster.host.run(&["umount", &volumes]).ok();
    cluster.start();
}
