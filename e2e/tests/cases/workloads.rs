//! Workloads on a node: pods and what keeps them, run as real containers.

use knarr_e2e::wait::seconds;
use knarr_e2e::{Case, Cluster, Namespace, cases, example, wait_for};
use serde_json::Value;

pub const CASES: &[Case] = cases![
    the_node_is_ready_and_says_what_it_is,
    a_bare_pod_runs_logs_answers_exec_and_goes,
    a_replica_set_of_five_runs_and_replaces_what_dies,
    a_deployment_of_five_rolls_forth_and_back,
    a_job_runs_to_its_end,
    a_failing_job_gives_up_at_its_limit,
    a_config_map_is_environment_and_a_file_that_changes_in_place,
    init_containers_run_one_after_the_other_first,
    a_failing_readiness_probe_keeps_a_pod_out_of_its_service,
    a_failing_liveness_probe_restarts_the_container,
    a_startup_probe_holds_the_others_back,
    a_container_that_exits_goes_into_crash_loop_back_off,
    a_container_that_ends_well_is_completed,
    an_image_that_cannot_be_found_is_told_with_events,
    hooks_run_and_termination_is_graceful,
    a_container_runs_as_the_user_with_the_limits_it_asked_for,
    a_container_beyond_its_memory_is_killed,
    a_pod_that_fits_nowhere_stays_pending_and_says_why,
    a_stateful_set_runs_in_order_under_names_that_stay,
    a_daemon_set_runs_on_the_node,
    a_job_is_made_of_a_cron_job_by_hand,
    a_sidecar_serves_the_job_and_ends_with_it,
    thirty_pods_start_and_go,
    a_namespace_of_running_pods_goes_whole,
];

fn pods(namespace: &Namespace<'_>, selector: &str) -> Result<Vec<Value>, String> {
    let text = namespace.kubectl(&["get", "pods", "-l", selector, "-o", "json"]).result()?;
    let list: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

fn ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    pod["metadata"]["deletionTimestamp"].is_null()
        && conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

fn wait_for_ready(namespace: &Namespace<'_>, selector: &str, count: usize) -> Vec<Value> {
    wait_for(&format!("{count} ready pods"), seconds(60), || {
        let pods = pods(namespace, selector)?;
        let ready = pods.iter().filter(|pod| ready(pod)).count();
        if ready == count && pods.len() == count {
            Ok(pods)
        } else {
            Err(format!("{ready} of {}", pods.len()))
        }
    })
}

fn events(namespace: &Namespace<'_>, object: &str) -> String {
    namespace
        .kubectl(&[
            "get",
            "events",
            "--field-selector",
            &format!("involvedObject.name={object}"),
            "-o",
            "custom-columns=REASON:.reason,MESSAGE:.message",
            "--no-headers",
        ])
        .ok()
}

fn wait_for_event(namespace: &Namespace<'_>, object: &str, words: &[&str]) {
    wait_for(&format!("events of {object} with {words:?}"), seconds(30), || {
        let events = events(namespace, object);
        if words.iter().all(|word| events.contains(word)) { Ok(()) } else { Err(events) }
    });
}

/// A pod of one busybox container, with more of a container's and of a pod's fields in YAML flow style.
fn pod(name: &str, command: &str, container: &str, spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n  terminationGracePeriodSeconds: 1\n{spec}\n  containers:\n  - name: main\n    image: busybox:1.35\n    command: [sh, -c, {}]\n{container}\n",
        Value::from(command)
    )
}

fn the_node_is_ready_and_says_what_it_is(cluster: &Cluster) {
    let nodes = cluster.kubectl(&["get", "nodes", "-o", "json"]).json();
    let node = &nodes["items"][0];
    assert_eq!(node["metadata"]["name"], cluster.host.name.as_str());
    assert_eq!(node["metadata"]["labels"]["kubernetes.io/os"], "linux");
    assert!(
        node["status"]["capacity"]["cpu"].is_string() && node["status"]["allocatable"]["memory"].is_string(),
        "{node}"
    );
    let wide = cluster.kubectl(&["get", "nodes", "-o", "wide"]).ok();
    assert!(wide.contains("Ready") && wide.contains("INTERNAL-IP") && wide.contains("v1.36"), "{wide}");
    let described = cluster.kubectl(&["describe", "node", &cluster.host.name]).ok();
    assert!(described.contains("Allocated resources") && described.contains("KubeletReady"), "{described}");
    let lease =
        cluster.kubectl(&["get", "lease", "-n", "kube-node-lease", &cluster.host.name, "-o", "json"]).json();
    assert_eq!(lease["spec"]["holderIdentity"], cluster.host.name.as_str());
    let status = cluster.knarr(&["status"]).ok();
    assert!(status.contains("ready") && status.contains(&cluster.host.name), "{status}");
}

fn a_bare_pod_runs_logs_answers_exec_and_goes(cluster: &Cluster) {
    let namespace = cluster.namespace();
    namespace.apply(&example("pod.yaml"));
    let pod = namespace.wait_until_ready("hello");
    assert_eq!(pod["status"]["phase"], "Running");
    assert!(
        pod["status"]["podIP"].as_str().is_some_and(|ip| ip.starts_with("10.244.0.")),
        "{}",
        pod["status"]
    );
    assert_eq!(namespace.kubectl(&["logs", "hello"]).ok(), "Hello\n");
    assert_eq!(namespace.exec("hello", &["echo", "from inside"]).ok(), "from inside\n");
    assert_eq!(namespace.exec("hello", &["hostname"]).ok(), "hello\n");
    assert_eq!(namespace.exec("hello", &["sh", "-c", "exit 7"]).code, 7);
    let described = namespace.kubectl(&["describe", "pod", "hello"]).ok();
    for word in [
        "Scheduled",
        "Successfully assigned",
        "Pulled",
        "Created",
        "Started",
        "QoS Class:                   BestEffort",
    ] {
        assert!(described.contains(word), "{word:?} is missing in {described}");
    }
    namespace.kubectl(&["delete", "pod", "hello", "--timeout=20s"]).ok();
    namespace.wait_until_gone("pod/hello", seconds(5));
}

fn a_replica_set_of_five_runs_and_replaces_what_dies(cluster: &Cluster) {
    let namespace = cluster.namespace();
    namespace.apply(&example("replicaset.yaml"));
    let first = wait_for_ready(&namespace, "app=hello", 5);
    let addresses: std::collections::BTreeSet<_> =
        first.iter().map(|pod| pod["status"]["podIP"].to_string()).collect();
    assert_eq!(addresses.len(), 5, "addresses are shared: {addresses:?}");
    let victim = first[0]["metadata"]["name"].as_str().expect("a name");
    namespace.kubectl(&["delete", "pod", victim, "--wait=false"]).ok();
    namespace.wait_until_gone(&format!("pod/{victim}"), seconds(20));
    wait_for_ready(&namespace, "app=hello", 5);
    namespace.kubectl(&["scale", "replicaset", "hello", "--replicas=2"]).ok();
    wait_for_ready(&namespace, "app=hello", 2);
    namespace.wait_until("replicaset/hello", seconds(10), |set| set["status"]["readyReplicas"] == 2);
    namespace.kubectl(&["delete", "replicaset", "hello"]).ok();
    wait_for("the pods are gone", seconds(30), || match pods(&namespace, "app=hello")? {
        none if none.is_empty() => Ok(()),
        some => Err(format!("{} left", some.len())),
    });
}

fn a_deployment_of_five_rolls_forth_and_back(cluster: &Cluster) {
    let namespace = cluster.namespace();
    namespace.apply(&example("deployment.yaml"));
    namespace.kubectl(&["rollout", "status", "deployment/hello", "--timeout=60s"]).ok();
    namespace.apply(&example("deployment.yaml").replace("echo Hello", "echo Goodbye"));
    namespace.kubectl(&["rollout", "status", "deployment/hello", "--timeout=60s"]).ok();
    for pod in wait_for_ready(&namespace, "app=hello", 5) {
        let name = pod["metadata"]["name"].as_str().expect("a name");
        assert_eq!(namespace.kubectl(&["logs", name]).ok(), "Goodbye\n");
    }
    namespace.kubectl(&["rollout", "undo", "deployment/hello"]).ok();
    namespace.kubectl(&["rollout", "status", "deployment/hello", "--timeout=60s"]).ok();
    let pods = wait_for_ready(&namespace, "app=hello", 5);
    let name = pods[0]["metadata"]["name"].as_str().expect("a name");
    assert_eq!(namespace.kubectl(&["logs", name]).ok(), "Hello\n");
    let history = namespace.kubectl(&["rollout", "history", "deployment/hello"]).ok();
    assert!(!history.contains("\n1 ") && history.contains("\n2 ") && history.contains("\n3 "), "{history}");
}

fn a_job_runs_to_its_end(cluster: &Cluster) {
    let namespace = cluster.namespace();
    namespace.apply(&example("job.yaml"));
    namespace.kubectl(&["wait", "job/countdown", "--for=condition=complete", "--timeout=60s"]).ok();
    let job = namespace.get("job/countdown");
    assert_eq!(job["status"]["succeeded"], 3);
    for pod in pods(&namespace, "job-name=countdown").expect("listed") {
        assert_eq!(pod["status"]["phase"], "Succeeded");
        assert_eq!(
            namespace.kubectl(&["logs", pod["metadata"]["name"].as_str().expect("a name")]).ok(),
            "3\n2\n1\n"
        );
    }
    let table = namespace.kubectl(&["get", "jobs"]).ok();
    assert!(table.contains("Complete") && table.contains("3/3"), "{table}");
}

fn a_failing_job_gives_up_at_its_limit(cluster: &Cluster) {
    let namespace = cluster.namespace();
    namespace.apply("apiVersion: batch/v1\nkind: Job\nmetadata: {name: bad}\nspec:\n  backoffLimit: 0\n  template:\n    spec:\n      restartPolicy: Never\n      containers:\n      - {name: bad, image: 'busybox:1.35', command: ['false']}\n");
    let job = namespace.wait_until("job/bad", seconds(40), |job| {
        job["status"]["conditions"].to_string().contains("\"Failed\"")
    });
    assert!(job["status"]["conditions"].to_string().contains("BackoffLimitExceeded"), "{}", job["status"]);
}

fn a_config_map_is_environment_and_a_file_that_changes_in_place(cluster: &Cluster) {
    let namespace = cluster.namespace();
    namespace.apply(&example("configmap.yaml"));
    namespace.wait_until_ready("reader");
    assert_eq!(namespace.kubectl(&["logs", "reader"]).ok(), "colour is blue\n");
    assert_eq!(namespace.exec("reader", &["cat", "/etc/settings/colour"]).ok(), "blue");
    namespace
        .kubectl(&["patch", "configmap", "settings", "-p", r#"{"data":{"colour":"green","shape":"round"}}"#])
        .ok();
    // Upstream's kubelet needs up to its sync period and cache's age, some 90 s; a watch is quicker.
    wait_for("the file changes in place", seconds(90), || {
        let seen = namespace.exec("reader", &["cat", "/etc/settings/colour", "/etc/settings/shape"]);
        if seen.stdout == "greenround" { Ok(()) } else { Err(seen.to_string()) }
    });
    assert_eq!(namespace.exec("reader", &["sh", "-c", "echo $COLOUR"]).ok(), "blue\n");
    assert_eq!(namespace.get("pod/reader")["status"]["containerStatuses"][0]["restartCount"], 0);
}

fn init_containers_run_one_after_the_other_first(cluster: &Cluster) {
    let namespace = cluster.namespace();
    let init = |name: &str| {
        format!(
            "  - {{name: {name}, image: 'busybox:1.35', command: [sh, -c, 'echo {name} >> /shared/order'], volumeMounts: [{{name: shared, mountPath: /shared}}]}}\n"
        )
    };
    let spec = format!(
        "  volumes: [{{name: shared, emptyDir: {{}}}}]\n  initContainers:\n{}{}",
        init("first"),
        init("second")
    );
    namespace.apply(&pod(
        "main",
        "cat /shared/order && sleep 3600",
        "    volumeMounts: [{name: shared, mountPath: /shared}]",
        &spec,
    ));
    let pod = namespace.wait_until_ready("main");
    assert_eq!(namespace.kubectl(&["logs", "main", "-c", "main"]).ok(), "first\nsecond\n");
    for status in pod["status"]["initContainerStatuses"].as_array().expect("two") {
        assert_eq!(status["state"]["terminated"]["reason"], "Completed");
    }
}

fn a_failing_readiness_probe_keeps_a_pod_out_of_its_service(cluster: &Cluster) {
    let namespace = cluster.namespace();
    namespace.apply(&pod(
        "gate",
        "sleep 3600",
        "    readinessProbe: {exec: {command: [cat, /tmp/open]}, periodSeconds: 1}",
        "",
    ));
    namespace.kubectl(&["expose", "pod", "gate", "--port=80"]).ok();
    namespace.wait_until("pod/gate", seconds(30), |pod| pod["status"]["phase"] == "Running");
    wait_for_event(&namespace, "gate", &["Unhealthy", "Readiness probe failed"]);
    let addresses = |wanted: bool| {
        wait_for(&format!("the slice has a ready address: {wanted}"), seconds(20), || {
            let slices = namespace
                .kubectl(&["get", "endpointslices", "-l", "kubernetes.io/service-name=gate", "-o", "json"])
                .result()?;
            let list: Value = serde_json::from_str(&slices).map_err(|e| e.to_string())?;
            let ready = list["items"][0]["endpoints"][0]["conditions"]["ready"].as_bool();
            if ready == Some(wanted) { Ok(()) } else { Err(list["items"][0]["endpoints"].to_string()) }
        });
    };
    addresses(false);
    namespace.exec("gate", &["touch", "/tmp/open"]).ok();
    namespace.wait_until_ready("gate");
    addresses(true);
    namespace.exec("gate", &["rm", "/tmp/open"]).ok();
    addresses(false);
}

fn a_failing_liveness_probe_restarts_the_container(cluster: &Cluster) {
    let namespace = cluster.namespace();
    namespace.apply(&pod(
        "mortal",
        "touch /tmp/alive; sleep 3600",
        "    livenessProbe: {exec: {command: [cat, /tmp/alive]}, periodSeconds: 1, failureThreshold: 2}",
        "",
    ));
    namespace.wait_until_ready("mortal");
    namespace.exec("mortal", &["rm", "/tmp/alive"]).ok();
    namespace.wait_until("pod/mortal", seconds(40), |pod| {
        pod["status"]["containerStatuses"][0]["restartCount"] == 1
    });
    wait_for_event(&namespace, "mortal", &["Liveness probe failed", "Killing"]);
}

fn a_startup_probe_holds_the_others_back(cluster: &Cluster) {
    let namespace = cluster.namespace();
    let probes = "    startupProbe: {exec: {command: [cat, /tmp/started]}, periodSeconds: 1, failureThreshold: 60}\n    livenessProbe: {exec: {command: ['true']}, periodSeconds: 1}";
    namespace.apply(&pod("slow", "sleep 3600", probes, ""));
    let pod = namespace.wait_until("pod/slow", seconds(30), |pod| pod["status"]["phase"] == "Running");
    assert_eq!(pod["status"]["containerStatuses"][0]["started"], false);
    namespace.exec("slow", &["touch", "/tmp/started"]).ok();
    let pod = namespace.wait_until_ready("slow");
    assert_eq!(pod["status"]["containerStatuses"][0]["started"], true);
}

fn a_container_that_exits_goes_into_crash_loop_back_off(cluster: &Cluster) {
    let namespace = cluster.namespace();
    namespace.apply(&pod("crash", "echo run; exit 3", "", ""));
    let seen = namespace.wait_until("pod/crash", seconds(60), |pod| {
        let status = &pod["status"]["containerStatuses"][0];
        status["state"]["waiting"]["reason"] == "CrashLoopBackOff"
            && status["restartCount"].as_u64() >= Some(1)
    });
    let status = &seen["status"]["containerStatuses"][0];
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 3, "{status}");
    assert!(
        status["state"]["waiting"]["message"].as_str().is_some_and(
            |m| m.starts_with("back-off ") && m.contains("restarting failed container=main pod=crash_")
        ),
        "{status}"
    );
    wait_for_event(
        &namespace,
        "crash",
        &["BackOff", "Back-off restarting failed container main in pod crash_"],
    );
    let table = namespace.kubectl(&["get", "pod", "crash"]).ok();
    assert!(table.contains("CrashLoopBackOff") || table.contains("Error"), "{table}");
    assert_eq!(namespace.kubectl(&["logs", "crash", "--previous"]).ok(), "run\n");
}

fn a_container_that_ends_well_is_completed(cluster: &Cluster) {
    let namespace = cluster.namespace();
    namespace.apply(&pod("done", "echo said", "", "  restartPolicy: Never"));
    let pod = namespace.wait_until("pod/done", seconds(30), |pod| pod["status"]["phase"] == "Succeeded");
    let ended = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((&ended["exitCode"], &ended["reason"]), (&Value::from(0), &Value::from("Completed")));
    assert!(namespace.kubectl(&["get", "pod", "done"]).ok().contains("Completed"));
    assert_eq!(namespace.kubectl(&["logs", "done"]).ok(), "said\n");
}

fn an_image_that_cannot_be_found_is_told_with_events(cluster: &Cluster) {
    let namespace = cluster.namespace();
    let bad = pod("absent", "true", "", "").replace("busybox:1.35", "registry.invalid/absent:1");
    namespace.apply(&bad);
    let never = pod("never", "true", "    imagePullPolicy: Never", "")
        .replace("busybox:1.35", "registry.invalid/never:1");
    namespace.apply(&never);
    let wrong = pod("wrong", "true", "", "").replace("busybox:1.35", "Not a Name");
    namespace.apply(&wrong);
    let waiting = |name: &str, reason: &str| {
        namespace.wait_until(&format!("pod/{name}"), seconds(40), |pod| {
            pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == reason
        });
    };
    waiting("absent", "ErrImagePull");
    waiting("absent", "ImagePullBackOff");
    waiting("never", "ErrImageNeverPull");
    waiting("wrong", "InvalidImageName");
    wait_for_event(
        &namespace,
        "absent",
        &[
            "Pulling image \"registry.invalid/absent:1\"",
            "Failed to pull image \"registry.invalid/absent:1\"",
            "Error: ErrImagePull",
            "Back-off pulling image \"registry.invalid/absent:1\"",
            "Error: ImagePullBackOff",
        ],
    );
    wait_for_event(
        &namespace,
        "never",
        &[
            "Container image \"registry.invalid/never:1\" is not present with pull policy of Never",
            "Error: ErrImageNeverPull",
        ],
    );
}

fn hooks_run_and_termination_is_graceful(cluster: &Cluster) {
    let namespace = cluster.namespace();
    let container = "    lifecycle:\n      postStart: {exec: {command: [sh, -c, 'echo started > /said/start']}}\n      preStop: {exec: {command: [sh, -c, 'echo stopping > /said/stop']}}\n    volumeMounts: [{name: said, mountPath: /said}]";
    let dir = format!("{}/files/said", knarr_e2e::host::INSIDE);
    let spec = format!("  volumes: [{{name: said, hostPath: {{path: {dir}, type: DirectoryOrCreate}}}}]");
    let manifest = pod(
        "polite",
        "trap 'echo termed > /said/term; exit 0' TERM; while :; do sleep 1; done",
        container,
        &spec,
    );
    namespace
        .apply(&manifest.replace("terminationGracePeriodSeconds: 1", "terminationGracePeriodSeconds: 20"));
    namespace.wait_until_ready("polite");
    let said = |name: &str| {
        std::fs::read_to_string(cluster.host.dir.join("files/said").join(name)).unwrap_or_default()
    };
    assert_eq!(said("start"), "started\n");
    namespace.kubectl(&["delete", "pod", "polite", "--timeout=15s"]).ok();
    assert_eq!((said("stop").as_str(), said("term").as_str()), ("stopping\n", "termed\n"));
}

fn a_container_runs_as_the_user_with_the_limits_it_asked_for(cluster: &Cluster) {
    let namespace = cluster.namespace();
    let container = "    securityContext: {runAsUser: 1234, runAsGroup: 2345, allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}, seccompProfile: {type: RuntimeDefault}}\n    resources: {limits: {memory: 64Mi, cpu: 500m}}\n    workingDir: /tmp";
    namespace.apply(&pod("strict", "id -u; id -g; pwd; grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status; touch /x 2>&1; sleep 3600", container, "  securityContext: {fsGroup: 3456, supplementalGroups: [4567]}"));
    namespace.wait_until_ready("strict");
    let said = namespace.kubectl(&["logs", "strict"]).ok();
    for line in [
        "1234\n2345\n/tmp\n",
        "CapEff:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "touch: /x: Read-only file system",
    ] {
        assert!(said.contains(line), "{line:?} is missing in {said}");
    }
    let groups = namespace.exec("strict", &["id", "-G"]).ok();
    assert!(groups.contains("3456") && groups.contains("4567"), "{groups}");
    assert_eq!(namespace.get("pod/strict")["status"]["qosClass"], "Guaranteed");
}

fn a_container_beyond_its_memory_is_killed(cluster: &Cluster) {
    let namespace = cluster.namespace();
    namespace.apply(&pod(
        "greedy",
        "x=a; while :; do x=$x$x; done",
        "    resources: {limits: {memory: 16Mi}}",
        "  restartPolicy: Never",
    ));
    let pod = namespace.wait_until("pod/greedy", seconds(40), |pod| pod["status"]["phase"] == "Failed");
    let ended = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(
        (&ended["reason"], &ended["exitCode"]),
        (&Value::from("OOMKilled"), &Value::from(137)),
        "{ended}"
    );
}

fn a_pod_that_fits_nowhere_stays_pending_and_says_why(cluster: &Cluster) {
    let namespace = cluster.namespace();
    namespace.apply(&pod("huge", "sleep 1", "    resources: {requests: {cpu: '1000'}}", ""));
    namespace.apply(&pod("elsewhere", "sleep 1", "", "  nodeSelector: {disk: gold}"));
    wait_for_event(&namespace, "huge", &["FailedScheduling", "0/1 nodes are available: 1 Insufficient cpu."]);
    wait_for_event(
        &namespace,
        "elsewhere",
        &["0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."],
    );
    assert_eq!(namespace.get("pod/huge")["status"]["phase"], "Pending");
    cluster.kubectl(&["label", "node", &cluster.host.name, "disk=gold"]).ok();
    namespace.wait_until("pod/elsewhere", seconds(30), |pod| pod["spec"]["nodeName"].is_string());
    cluster.kubectl(&["label", "node", &cluster.host.name, "disk-"]).ok();
}

fn a_stateful_set_runs_in_order_under_names_that_stay(cluster: &Cluster) {
    let namespace = cluster.namespace();
    namespace.apply("apiVersion: v1\nkind: Service\nmetadata: {name: db}\nspec: {clusterIP: None, selector: {app: db}, ports: [{port: 8080}]}\n---\napiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: db}\nspec:\n  serviceName: db\n  replicas: 2\n  selector: {matchLabels: {app: db}}\n  template:\n    metadata: {labels: {app: db}}\n    spec:\n      terminationGracePeriodSeconds: 1\n      containers:\n      - {name: main, image: 'busybox:1.35', command: [sh, -c, 'hostname > /www/index.html; exec httpd -f -p 8080 -h /www']}\n");
    namespace.kubectl(&["rollout", "status", "statefulset/db", "--timeout=60s"]).ok();
    let created = |name: &str| namespace.get(name)["metadata"]["creationTimestamp"].to_string();
    assert!(created("pod/db-0") <= created("pod/db-1"));
    let heard = wait_for("the other one by its name", seconds(20), || {
        namespace.exec("db-0", &["wget", "-qO-", "http://db-1.db:8080"]).result()
    });
    assert_eq!(heard, "db-1\n");
    let before = namespace.get("pod/db-1")["metadata"]["uid"].clone();
    namespace.kubectl(&["delete", "pod", "db-1", "--timeout=20s"]).ok();
    let after = wait_for("db-1 is there again", seconds(30), || {
        let seen = namespace.kubectl(&["get", "pod", "db-1", "-o", "json"]).result()?;
        let pod: Value = serde_json::from_str(&seen).map_err(|error| error.to_string())?;
        if ready(&pod) { Ok(pod) } else { Err(pod["status"].to_string()) }
    });
    assert_ne!(before, after["metadata"]["uid"]);
}

fn a_daemon_set_runs_on_the_node(cluster: &Cluster) {
    let namespace = cluster.namespace();
    namespace.apply("apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: agent}\nspec:\n  selector: {matchLabels: {app: agent}}\n  template:\n    metadata: {labels: {app: agent}}\n    spec:\n      terminationGracePeriodSeconds: 1\n      containers: [{name: main, image: 'busybox:1.35', command: [sleep, '3600']}]\n");
    namespace.kubectl(&["rollout", "status", "daemonset/agent", "--timeout=60s"]).ok();
    let pods = wait_for_ready(&namespace, "app=agent", 1);
    assert_eq!(pods[0]["spec"]["nodeName"], cluster.host.name.as_str());
}

fn a_job_is_made_of_a_cron_job_by_hand(cluster: &Cluster) {
    let namespace = cluster.namespace();
    namespace
        .kubectl(&[
            "create",
            "cronjob",
            "tick",
            "--image=busybox:1.35",
            "--schedule=0 0 1 1 *",
            "--",
            "echo",
            "ticked",
        ])
        .ok();
    namespace.kubectl(&["create", "job", "now", "--from=cronjob/tick"]).ok();
    namespace.kubectl(&["wait", "job/now", "--for=condition=complete", "--timeout=40s"]).ok();
}

fn a_sidecar_serves_the_job_and_ends_with_it(cluster: &Cluster) {
    let namespace = cluster.namespace();
    namespace.apply("apiVersion: batch/v1\nkind: Job\nmetadata: {name: helped}\nspec:\n  template:\n    spec:\n      restartPolicy: Never\n      terminationGracePeriodSeconds: 1\n      initContainers:\n      - {name: helper, image: 'busybox:1.35', restartPolicy: Always, command: [sh, -c, 'echo helping > /www/index.html; exec httpd -f -p 8080 -h /www'], startupProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}}\n      containers:\n      - {name: main, image: 'busybox:1.35', command: [wget, -qO-, 'http://127.0.0.1:8080']}\n");
    namespace.kubectl(&["wait", "job/helped", "--for=condition=complete", "--timeout=40s"]).ok();
    assert_eq!(namespace.kubectl(&["logs", "job/helped", "-c", "main"]).ok(), "helping\n");
}

fn thirty_pods_start_and_go(cluster: &Cluster) {
    let namespace = cluster.namespace();
    namespace.apply(&example("deployment.yaml").replace("replicas: 5", "replicas: 30"));
    let pods = wait_for_ready(&namespace, "app=hello", 30);
    let addresses: std::collections::BTreeSet<_> =
        pods.iter().map(|pod| pod["status"]["podIP"].to_string()).collect();
    assert_eq!(addresses.len(), 30);
    namespace.kubectl(&["scale", "deployment", "hello", "--replicas=0"]).ok();
    wait_for("all are gone", seconds(60), || match super::workloads::pods(&namespace, "app=hello")?.len() {
        0 => Ok(()),
        left => Err(format!("{left} left")),
    });
}

fn a_namespace_of_running_pods_goes_whole(cluster: &Cluster) {
    let namespace = cluster.namespace();
    namespace.apply(&example("two-tier.yaml"));
    namespace.kubectl(&["rollout", "status", "deployment/app", "--timeout=60s"]).ok();
    let uids: Vec<String> = pods(&namespace, "app=app")
        .expect("listed")
        .iter()
        .map(|pod| pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned())
        .collect();
    cluster.kubectl(&["delete", "namespace", &namespace.name, "--timeout=60s"]).ok();
    for uid in uids {
        let mounts = cluster.host.run(&["grep", "-c", &uid, "/proc/self/mountinfo"]);
        assert_eq!(mounts.stdout.trim(), "0", "mounts of a pod that is gone");
    }
}
