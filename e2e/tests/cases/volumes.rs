//! Volumes: every kind a pod can have so far.

use knarr_e2e::host::INSIDE;
use knarr_e2e::wait::seconds;
use knarr_e2e::{Case, Cluster, Namespace, TestHost, cases, wait_for};

pub const CASES: &[Case] = cases![
    an_empty_dir_outlives_its_containers_but_not_its_pod,
    a_host_path_is_the_hosts,
    secrets_and_config_maps_are_files_with_modes,
    the_downward_api_tells_a_pod_about_itself,
    a_projected_token_authenticates_for_its_audience,
    a_missing_config_map_holds_the_pod_back_until_it_is_there,
    a_claim_gets_a_directory_that_outlives_pods_and_restarts_and_goes_with_it,
    changes_show_within_a_second_and_all_at_once,
    a_sub_path_never_leads_out_of_its_volume,
    a_claim_that_cannot_be_met_says_so_and_a_volume_of_another_kind_too,
    an_empty_device_is_formatted_and_nothing_else_is,
];

/// A device over a file of the test host.
struct Device<'a> {
    host: &'a TestHost,
    path: String,
}

impl<'a> Device<'a> {
    fn new(host: &'a TestHost, name: &str) -> Self {
        let file = format!("{INSIDE}/files/{name}");
        host.run(&["truncate", "--size=32M", &file]).ok();
        let path = host.run(&["losetup", "--find", "--show", &file]).ok().trim().to_owned();
        Self { host, path }
    }

    /// What blkid finds on it.
    fn holds(&self) -> String {
        let line = format!("blkid -p -s TYPE -s UUID -o value {} || true", self.path);
        self.host.run(&["sh", "-c", &line]).ok()
    }

    /// Gives it to a namespace as a claim of its own name.
    fn claim(&self, namespace: &Namespace<'_>, name: &str) {
        let (path, host, volume) = (&self.path, &self.host.name, format!("{}-{name}", namespace.name));
        namespace.apply(&format!(
            "apiVersion: v1\nkind: PersistentVolume\nmetadata: {{name: {volume}}}\nspec:\n  accessModes: [ReadWriteOnce]\n  capacity: {{storage: 32Mi}}\n  storageClassName: by-hand\n  mountOptions: [noatime]\n  local: {{path: {path}}}\n  nodeAffinity: {{required: {{nodeSelectorTerms: [{{matchExpressions: [{{key: kubernetes.io/hostname, operator: In, values: [{host}]}}]}}]}}}}\n---\napiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: {name}}}\nspec: {{accessModes: [ReadWriteOnce], storageClassName: by-hand, volumeName: {volume}, resources: {{requests: {{storage: 32Mi}}}}}}\n"
        ));
    }
}

impl Drop for Device<'_> {
    fn drop(&mut self) {
        let _ = self.host.run(&["losetup", "--detach", &self.path]);
    }
}

fn an_empty_device_is_formatted_and_nothing_else_is(cluster: &Cluster) {
    let namespace = cluster.namespace();
    let (empty, swap) = (Device::new(&cluster.host, "empty"), Device::new(&cluster.host, "swap"));
    cluster.host.run(&["mkswap", &swap.path]).ok();
    let before = swap.holds();
    empty.claim(&namespace, "disk");
    swap.claim(&namespace, "swap");
    let pod = |name: &str, claim: &str, script: &str| {
        namespace.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  securityContext: {{fsGroup: 77}}\n  containers:\n  - {{name: main, image: 'busybox:1.35', command: [sh, -c, '{script}; sleep 3600'], volumeMounts: [{{name: v, mountPath: /data}}]}}\n  volumes: [{{name: v, persistentVolumeClaim: {{claimName: {claim}}}}}]\n"
        ));
    };
    // At once: it is formatted for one of them only.
    pod("one", "disk", "echo first >> /data/one");
    pod("two", "disk", "echo second >> /data/two");
    pod("never", "swap", "true");
    for name in ["one", "two"] {
        namespace.wait_until_ready(name);
    }
    wait_for("both files in both", seconds(20), || {
        let of = |name| namespace.exec(name, &["cat", "/data/one", "/data/two"]).result();
        if of("one")? == "first\nsecond\n" && of("two")? == "first\nsecond\n" {
            Ok(())
        } else {
            Err(String::new())
        }
    });
    let mounts = namespace.exec("one", &["grep", " /data ", "/proc/mounts"]).ok();
    assert!(mounts.contains(" ext4 ") && mounts.contains("noatime"), "{mounts}");
    assert_eq!(namespace.exec("one", &["stat", "-c", "%g", "/data"]).ok().trim(), "77");
    let metrics = cluster
        .kubectl(&["get", "--raw", &format!("/api/v1/nodes/{}/proxy/metrics", cluster.host.name)])
        .ok();
    let of_claim = format!(
        "kubelet_volume_stats_capacity_bytes{{namespace=\"{}\",persistentvolumeclaim=\"disk\"}} ",
        namespace.name
    );
    let capacity: u64 =
        metrics.lines().find_map(|line| line.strip_prefix(&of_claim)?.parse().ok()).unwrap_or_default();
    assert!((16 << 20..=32 << 20).contains(&capacity), "{capacity}: {metrics}");
    let made = empty.holds();
    namespace.kubectl(&["delete", "pod", "one", "two"]).ok();
    wait_for("nothing mounted of the device", seconds(20), || {
        let table = cluster.host.run(&["cat", "/proc/self/mounts"]).result()?;
        if table.contains(&empty.path) { Err(table) } else { Ok(()) }
    });
    pod("three", "disk", "true");
    namespace.wait_until_ready("three");
    assert_eq!(namespace.exec("three", &["cat", "/data/one"]).ok(), "first\n");
    assert_eq!(empty.holds(), made);

    let why = format!("local: failed to mount device {}", swap.path);
    wait_for("an event that says why", seconds(30), || {
        let events = namespace.kubectl(&["get", "events"]).ok();
        if events.contains(&why) && events.contains("mount failed: exit status 32") {
            Ok(())
        } else {
            Err(events)
        }
    });
    assert_eq!(swap.holds(), before);
    namespace.kubectl(&["delete", "pod", "three", "never"]).ok();
    let volumes: Vec<String> = ["disk", "swap"].map(|name| format!("{}-{name}", namespace.name)).into();
    namespace.kubectl(&["delete", "pvc", "disk", "swap"]).ok();
    cluster.kubectl(&["delete", "pv", &volumes[0], &volumes[1]]).ok();
}

fn an_empty_dir_outlives_its_containers_but_not_its_pod(cluster: &Cluster) {
    let namespace = cluster.namespace();
    namespace.apply("apiVersion: v1\nkind: Pod\nmetadata: {name: scratch}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  - {name: a, image: 'busybox:1.35', command: [sh, -c, 'trap \"exit 1\" TERM; echo run >> /scratch/runs; while :; do sleep 1; done'], volumeMounts: [{name: scratch, mountPath: /scratch}]}\n  - {name: b, image: 'busybox:1.35', command: [sleep, '3600'], volumeMounts: [{name: scratch, mountPath: /other, readOnly: true}, {name: fast, mountPath: /fast}]}\n  volumes: [{name: scratch, emptyDir: {}}, {name: fast, emptyDir: {medium: Memory, sizeLimit: 8Mi}}]\n");
    namespace.wait_until_ready("scratch");
    let refused = namespace.kubectl(&["exec", "scratch", "-c", "b", "--", "touch", "/other/x"]).refused();
    assert!(refused.contains("Read-only file system"), "{refused}");
    let mounts = namespace.kubectl(&["exec", "scratch", "-c", "b", "--", "mount"]).ok();
    assert!(mounts.contains("tmpfs on /fast type tmpfs"), "{mounts}");
    namespace.kubectl(&["exec", "scratch", "-c", "a", "--", "kill", "1"]).ok();
    namespace.wait_until("pod/scratch", seconds(40), |pod| {
        let states = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
        states.iter().any(|s| s["name"] == "a" && s["restartCount"] == 1 && s["ready"] == true)
    });
    let runs = namespace.kubectl(&["exec", "scratch", "-c", "b", "--", "cat", "/other/runs"]).ok();
    assert_eq!(runs, "run\nrun\n");
}

fn a_host_path_is_the_hosts(cluster: &Cluster) {
    let namespace = cluster.namespace();
    let path = cluster.host.file("shared.txt", "from the host\n");
    namespace.apply(&format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: peek}}\nspec:\n  restartPolicy: Never\n  containers:\n  - {{name: main, image: 'busybox:1.35', command: [sh, -c, 'cat /shared; echo and back >> /shared'], volumeMounts: [{{name: shared, mountPath: /shared}}]}}\n  volumes: [{{name: shared, hostPath: {{path: {path}, type: File}}}}]\n"));
    namespace.wait_until("pod/peek", seconds(30), |pod| pod["status"]["phase"] == "Succeeded");
    assert_eq!(namespace.kubectl(&["logs", "peek"]).ok(), "from the host\n");
    let text = std::fs::read_to_string(cluster.host.dir.join("files/shared.txt")).unwrap_or_default();
    assert_eq!(text, "from the host\nand back\n");
    namespace.apply("apiVersion: v1\nkind: Pod\nmetadata: {name: missing}\nspec:\n  containers:\n  - {name: main, image: 'busybox:1.35', volumeMounts: [{name: shared, mountPath: /shared}]}\n  volumes: [{name: shared, hostPath: {path: /no/such/place, type: Directory}}]\n");
    wait_for("the mount's failure is told", seconds(30), || {
        let events = namespace.kubectl(&["get", "events"]).ok();
        if events.contains("FailedMount") && events.contains("/no/such/place is not a directory") {
            Ok(())
        } else {
            Err(events)
        }
    });
}

fn secrets_and_config_maps_are_files_with_modes(cluster: &Cluster) {
    let namespace = cluster.namespace();
    namespace
        .kubectl(&[
            "create",
            "secret",
            "generic",
            "keys",
            "--from-literal=door=1234",
            "--from-literal=gate=5678",
        ])
        .ok();
    namespace
        .kubectl(&["create", "configmap", "notes", "--from-literal=a=first", "--from-literal=b=second"])
        .ok();
    namespace.apply("apiVersion: v1\nkind: Pod\nmetadata: {name: reader}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  - name: main\n    image: busybox:1.35\n    command: [sleep, '3600']\n    envFrom: [{secretRef: {name: keys}, prefix: KEY_}]\n    volumeMounts: [{name: keys, mountPath: /keys}, {name: all, mountPath: /all}, {name: notes, mountPath: /one/b, subPath: b}]\n  volumes:\n  - {name: keys, secret: {secretName: keys, defaultMode: 256}}\n  - {name: notes, configMap: {name: notes}}\n  - name: all\n    projected:\n      sources:\n      - secret: {name: keys, items: [{key: door, path: deep/door}]}\n      - configMap: {name: notes}\n");
    namespace.wait_until_ready("reader");
    let sh = |script: &str| namespace.exec("reader", &["sh", "-c", script]).ok();
    assert_eq!(sh("cat /keys/door; stat -L -c ' %a' /keys/door"), "1234 400\n");
    assert_eq!(sh("echo $KEY_gate"), "5678\n");
    assert_eq!(sh("cat /all/deep/door /all/a /all/b"), "1234firstsecond");
    assert_eq!(sh("cat /one/b"), "second");
    assert!(sh("mount").contains("tmpfs on /keys type tmpfs (ro"), "secrets never touch the disk");
}

fn the_downward_api_tells_a_pod_about_itself(cluster: &Cluster) {
    let namespace = cluster.namespace();
    namespace.apply("apiVersion: v1\nkind: Pod\nmetadata: {name: self, labels: {tier: web}, annotations: {note: hi}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  - name: main\n    image: busybox:1.35\n    command: [sh, -c, 'echo $NAME $NAMESPACE $IP $NODE $LIMIT; sleep 3600']\n    resources: {limits: {memory: 32Mi}}\n    env:\n    - {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}\n    - {name: NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}\n    - {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}\n    - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}\n    - {name: LIMIT, valueFrom: {resourceFieldRef: {resource: limits.memory}}}\n    volumeMounts: [{name: info, mountPath: /info}]\n  volumes:\n  - name: info\n    downwardAPI:\n      items:\n      - {path: labels, fieldRef: {fieldPath: metadata.labels}}\n      - {path: note, fieldRef: {fieldPath: \"metadata.annotations['note']\"}}\n");
    let pod = namespace.wait_until_ready("self");
    let ip = pod["status"]["podIP"].as_str().expect("an address");
    assert_eq!(
        namespace.kubectl(&["logs", "self"]).ok(),
        format!("self {} {ip} {} 33554432\n", namespace.name, cluster.host.name)
    );
    assert_eq!(namespace.exec("self", &["cat", "/info/labels", "/info/note"]).ok(), "tier=\"web\"hi");
    namespace.kubectl(&["label", "pod", "self", "tier=app", "--overwrite"]).ok();
    wait_for("the label changes in place", seconds(90), || {
        let seen = namespace.exec("self", &["cat", "/info/labels"]);
        if seen.stdout == "tier=\"app\"" { Ok(()) } else { Err(seen.to_string()) }
    });
}

fn a_projected_token_authenticates_for_its_audience(cluster: &Cluster) {
    let namespace = cluster.namespace();
    namespace.apply("apiVersion: v1\nkind: Pod\nmetadata: {name: bearer}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  - {name: main, image: 'busybox:1.35', command: [sleep, '3600'], volumeMounts: [{name: token, mountPath: /token}]}\n  volumes:\n  - name: token\n    projected: {sources: [{serviceAccountToken: {path: vault, audience: vault, expirationSeconds: 600}}]}\n");
    namespace.wait_until_ready("bearer");
    let token = namespace.exec("bearer", &["cat", "/token/vault"]).ok();
    let review = |audience: &str| {
        let body = format!(
            r#"{{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","spec":{{"token":"{token}","audiences":["{audience}"]}}}}"#
        );
        let (code, text) = cluster.raw(
            &["-X", "POST", "-H", "Content-Type: application/json", "--data-binary", "@-"],
            "/apis/authentication.k8s.io/v1/tokenreviews",
            body.as_bytes(),
        );
        assert_eq!(code, 201, "{text}");
        serde_json::from_str::<serde_json::Value>(&text).expect("JSON")["status"].clone()
    };
    let status = review("vault");
    assert!(
        status["authenticated"] == true
            && status["user"]["username"]
                == format!("system:serviceaccount:{}:default", namespace.name).as_str(),
        "{status}"
    );
    assert_ne!(review("elsewhere")["authenticated"], true);
    let (code, _) = cluster.curl(&["-H", &format!("Authorization: Bearer {token}")], "/api", b"");
    assert_eq!(code, 401, "a token for another audience is none for the API server");
    namespace.kubectl(&["delete", "pod", "bearer", "--timeout=20s"]).ok();
    assert_ne!(review("vault")["authenticated"], true, "the token ends with its pod");
}

fn a_missing_config_map_holds_the_pod_back_until_it_is_there(cluster: &Cluster) {
    let namespace = cluster.namespace();
    namespace.apply("apiVersion: v1\nkind: Pod\nmetadata: {name: early}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  - {name: main, image: 'busybox:1.35', command: [sleep, '3600'], volumeMounts: [{name: late, mountPath: /late}]}\n  volumes: [{name: late, configMap: {name: late}}]\n");
    wait_for("the missing ConfigMap is told", seconds(30), || {
        let events = namespace.kubectl(&["get", "events"]).ok();
        if events.contains("MountVolume.SetUp failed for volume \"late\" : configmap \"late\" not found") {
            Ok(())
        } else {
            Err(events)
        }
    });
    namespace.kubectl(&["create", "configmap", "late", "--from-literal=k=v"]).ok();
    namespace.wait_until("pod/early", seconds(60), |pod| pod["status"]["phase"] == "Running");
    namespace.apply("apiVersion: v1\nkind: Pod\nmetadata: {name: keyless}\nspec:\n  containers:\n  - {name: main, image: 'busybox:1.35', env: [{name: A, valueFrom: {secretKeyRef: {name: none, key: k}}}]}\n");
    let pod = namespace.wait_until("pod/keyless", seconds(30), |pod| {
        pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CreateContainerConfigError"
    });
    assert_eq!(
        pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"],
        "secret \"none\" not found"
    );
}

/// A claim of the default class, and a pod that has it at /data with a user and a group of its own.
fn claiming(claim: &str, pod: &str, script: &str) -> String {
    format!(
        "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: {claim}}}\nspec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Gi}}}}}}\n---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {pod}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  securityContext: {{runAsUser: 1000, fsGroup: 4321}}\n  containers:\n  - {{name: main, image: 'busybox:1.35', command: [sh, -c, '{script}; sleep 3600'], volumeMounts: [{{name: data, mountPath: /data}}, {{name: own, mountPath: /own}}]}}\n  volumes:\n  - {{name: data, persistentVolumeClaim: {{claimName: {claim}}}}}\n  - {{name: own, ephemeral: {{volumeClaimTemplate: {{spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Mi}}}}}}}}}}}}\n"
    )
}

fn a_claim_gets_a_directory_that_outlives_pods_and_restarts_and_goes_with_it(cluster: &Cluster) {
    let namespace = cluster.namespace();
    let manifest = claiming("data", "first", "echo $HOSTNAME >> /data/log");
    namespace.apply(&manifest);
    namespace.wait_until_ready("first");
    let claim = namespace.get("pvc/data");
    assert_eq!(claim["spec"]["storageClassName"], "local-path", "the default class");
    let volume = claim["spec"]["volumeName"].as_str().expect("it has a volume").to_owned();
    let path = namespace.get(&format!("pv/{volume}"))["spec"]["local"]["path"].clone();
    let path = path.as_str().expect("it is a directory").to_owned();
    let on_host = || cluster.host.run(&["cat", &format!("{path}/log")]);
    assert_eq!(on_host().ok(), "first\n");
    assert_eq!(namespace.exec("first", &["stat", "-c", "%g", "/data/log"]).ok(), "4321\n");
    // More room is a matter of writing it down.
    let more = r#"{"spec":{"resources":{"requests":{"storage":"2Gi"}}}}"#;
    namespace.kubectl(&["patch", "pvc", "data", "-p", more]).ok();
    namespace.wait_until("pvc/data", seconds(20), |claim| claim["status"]["capacity"]["storage"] == "2Gi");
    cluster.signal("KILL");
    cluster.start();
    namespace.kubectl(&["delete", "pod", "first", "--timeout=30s"]).ok();
    namespace.wait_until_gone("pvc/first-own", seconds(30));
    let second = manifest.replace("name: first", "name: second").replace("1Gi", "2Gi");
    namespace.apply(&second);
    namespace.wait_until_ready("second");
    assert_eq!(namespace.exec("second", &["cat", "/data/log"]).ok(), "first\nsecond\n");
    // What is used stays until it is not.
    namespace.kubectl(&["delete", "pvc", "data", "--wait=false"]).ok();
    assert_eq!(on_host().ok(), "first\nsecond\n");
    namespace.kubectl(&["delete", "pod", "second", "--timeout=30s"]).ok();
    namespace.wait_until_gone(&format!("pv/{volume}"), seconds(30));
    let left = cluster.host.run(&["ls", path.rsplit_once('/').map_or("/", |(parent, _)| parent)]).ok();
    assert!(!left.contains(&volume), "{left}");
}

fn changes_show_within_a_second_and_all_at_once(cluster: &Cluster) {
    let namespace = cluster.namespace();
    namespace.kubectl(&["create", "configmap", "pair", "--from-literal=a=0", "--from-literal=b=0"]).ok();
    namespace.kubectl(&["create", "secret", "generic", "key", "--from-literal=k=0"]).ok();
    // It writes down what it sees whenever the two halves differ, which they never may.
    let script = "while :; do v=$(readlink /pair/..data); a=$(cat /pair/$v/a); b=$(cat /pair/$v/b); [ -n \\\"$a\\\" ] && [ -n \\\"$b\\\" ] && [ \\\"$a\\\" != \\\"$b\\\" ] && echo torn $a $b; usleep 10000; done";
    namespace.apply(&format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: watcher}}\nspec:\n  terminationGracePeriodSeconds: 1\n  securityContext: {{runAsUser: 1000, fsGroup: 77}}\n  containers:\n  - {{name: main, image: 'busybox:1.35', command: [sh, -c, \"{script}\"], volumeMounts: [{{name: pair, mountPath: /pair}}, {{name: key, mountPath: /key}}]}}\n  volumes: [{{name: pair, configMap: {{name: pair, defaultMode: 0440}}}}, {{name: key, secret: {{secretName: key, defaultMode: 0400}}}}]\n"));
    namespace.wait_until_ready("watcher");
    for n in 1..=5 {
        let both = format!(r#"{{"data":{{"a":"{n}","b":"{n}"}}}}"#);
        namespace.kubectl(&["patch", "configmap", "pair", "-p", &both]).ok();
        namespace
            .kubectl(&["patch", "secret", "key", "-p", &format!(r#"{{"stringData":{{"k":"{n}"}}}}"#)])
            .ok();
        wait_for("both show", seconds(1), || {
            let seen = namespace.exec("watcher", &["cat", "/pair/a", "/pair/b", "/key/k"]);
            if seen.stdout == format!("{n}{n}{n}") { Ok(()) } else { Err(seen.to_string()) }
        });
    }
    // A version that is gone before it was read to the end is no news.
    let said = namespace.kubectl(&["logs", "watcher"]).ok();
    assert!(!said.contains("torn"), "{said}");
}

fn a_sub_path_never_leads_out_of_its_volume(cluster: &Cluster) {
    let namespace = cluster.namespace();
    let pod = |name: &str, claim_is_new: bool, script: &str, sub: &str| {
        let mounts = format!("{{name: data, mountPath: /part, subPath: {sub}}}");
        let whole = claiming("shared", name, script);
        let whole = whole.replace("{name: own, mountPath: /own}", &mounts);
        if claim_is_new { whole } else { whole.split_once("---\n").expect("two objects").1.to_owned() }
    };
    let links = "ln -s /etc /data/etc; ln -s ../../.. /data/up; mkdir /data/ok; ln -s ok /data/inside; echo x > /data/ok/f";
    namespace.apply(&pod("links", true, links, "new/deep"));
    namespace.wait_until_ready("links");
    namespace.kubectl(&["exec", "links", "--", "touch", "/part/mine"]).ok();
    namespace.apply(&pod("inside", false, "true", "inside"));
    namespace.wait_until_ready("inside");
    assert_eq!(namespace.exec("inside", &["cat", "/part/f"]).ok(), "x\n");
    for (name, sub) in [("out", "etc"), ("out-file", "etc/passwd"), ("upwards", "up/etc")] {
        namespace.apply(&pod(name, false, "true", sub));
        let refused = namespace.wait_until(&format!("pod/{name}"), seconds(30), |pod| {
            pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"]
                == "CreateContainerConfigError"
        });
        let message = refused["status"]["containerStatuses"][0]["state"]["waiting"]["message"].to_string();
        assert!(message.contains("failed to prepare subPath"), "{message}");
    }
    // A link that comes and goes while containers start never shows anything but the volume.
    let swap =
        "while :; do rm -rf /data/swap; mkdir /data/swap; rm -rf /data/swap; ln -s /etc /data/swap; done";
    namespace.apply(&pod("swapper", false, swap, "ok"));
    namespace.wait_until_ready("swapper");
    for round in 0..4 {
        let name = format!("racer-{round}");
        let look = "if [ -e /part/passwd ]; then echo escaped > /data/escaped; fi";
        namespace.apply(&pod(&name, false, look, "swap"));
    }
    wait_for("each racer was tried", seconds(60), || {
        let pods = namespace.kubectl(&["get", "pods", "-o", "json"]).json();
        let racers = pods["items"].as_array().cloned().unwrap_or_default();
        let racers = racers
            .iter()
            .filter(|p| p["metadata"]["name"].as_str().is_some_and(|name| name.starts_with("racer")));
        let tried = racers.filter(|p| {
            let state = &p["status"]["containerStatuses"][0]["state"];
            state["running"].is_object() || state["waiting"]["reason"] != "ContainerCreating"
        });
        if tried.count() == 4 { Ok(()) } else { Err(pods.to_string()) }
    });
    let escaped = namespace.exec("links", &["ls", "/data"]).ok();
    assert!(!escaped.contains("escaped"), "{escaped}");
}

fn a_claim_that_cannot_be_met_says_so_and_a_volume_of_another_kind_too(cluster: &Cluster) {
    let namespace = cluster.namespace();
    namespace.apply("apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: many}\nspec: {accessModes: [ReadWriteMany], resources: {requests: {storage: 1Gi}}}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: waits}\nspec:\n  containers: [{name: main, image: 'busybox:1.35', command: [sleep, '3600']}]\n  volumes: [{name: v, persistentVolumeClaim: {claimName: many}}]\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: lonely}\nspec:\n  containers: [{name: main, image: 'busybox:1.35', command: [sleep, '3600']}]\n  volumes: [{name: v, persistentVolumeClaim: {claimName: none}}]\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: foreign}\nspec:\n  containers: [{name: main, image: 'busybox:1.35', command: [sleep, '3600']}]\n  volumes: [{name: v, nfs: {server: nowhere, path: /}}]\n");
    for text in [
        "only the access modes ReadWriteOnce and ReadWriteOncePod are supported",
        "persistentvolumeclaim \"none\" not found",
        "MountVolume.SetUp failed for volume \"v\" : failed to get Plugin from volumeSpec for volume \"v\" err=no volume plugin matched",
    ] {
        wait_for(text, seconds(30), || {
            let events = namespace.kubectl(&["get", "events"]).ok();
            if events.contains(text) { Ok(()) } else { Err(events) }
        });
    }
}
