//! What nodes and pods use: `kubectl top`, an autoscaler that goes by it, and the kubelet's API that it comes from. What a
//! node says of itself.

use knarr_e2e::wait::seconds;
use knarr_e2e::{Case, Cluster, Namespace, cases, wait_for};
use serde_json::{Value, json};

pub const CASES: &[Case] = cases![
    top_tells_what_nodes_and_pods_use,
    an_autoscaler_adds_pods_under_load,
    another_metrics_server_takes_over_and_gives_back,
    the_kubelets_api_is_for_those_whom_the_api_server_lets_in,
    the_summary_tells_of_containers_volumes_and_the_network,
    a_node_tells_what_became_of_it,
    the_configuration_in_force_is_shown_whole,
];

/// What upstream's kubelet has without a configuration of its own (KubeletConfiguration, v1beta1, 1.36).
const UPSTREAMS: &str = "address apiVersion authentication authorization cgroupDriver cgroupsPerQOS \
    configMapAndSecretChangeDetectionStrategy containerLogMaxFiles containerLogMaxSize containerLogMaxWorkers \
    containerLogMonitorInterval containerRuntimeEndpoint contentType cpuCFSQuota cpuCFSQuotaPeriod cpuManagerPolicy \
    cpuManagerReconcilePeriod crashLoopBackOff enableControllerAttachDetach enableDebugFlagsHandler \
    enableDebuggingHandlers enableProfilingHandler enableServer enableSystemLogHandler enableSystemLogQuery \
    enforceNodeAllocatable eventBurst eventRecordQPS evictionPressureTransitionPeriod failCgroupV1 failSwapOn \
    fileCheckFrequency hairpinMode healthzBindAddress healthzPort httpCheckFrequency imageGCHighThresholdPercent \
    imageGCLowThresholdPercent imageMaximumGCAge imageMinimumGCAge imagePullCredentialsVerificationPolicy \
    iptablesDropBit iptablesMasqueradeBit kind kubeAPIBurst kubeAPIQPS localStorageCapacityIsolation logging \
    makeIPTablesUtilChains maxOpenFiles maxPods memoryManagerPolicy memoryReservationPolicy memorySwap \
    memoryThrottlingFactor mergeDefaultEvictionSettings nodeLeaseDurationSeconds nodeStatusMaxImages \
    nodeStatusReportFrequency nodeStatusUpdateFrequency oomScoreAdj podLogsDir podPidsLimit port registerNode \
    registryBurst registryPullQPS resolvConf runtimeRequestTimeout seccompDefault serializeImagePulls \
    shutdownGracePeriod shutdownGracePeriodCriticalPods streamingConnectionIdleTimeout syncFrequency \
    topologyManagerPolicy topologyManagerScope volumePluginDir volumeStatsAggPeriod";

/// Those that mean nothing here: of CRI, iptables, klog and flexible volumes, of work done at intervals that is done at once
/// here, of limits that are not set (upstream knows no word for that).
const NOT_HERE: &str = "containerLogMaxWorkers containerLogMonitorInterval containerRuntimeEndpoint contentType \
    cpuManagerReconcilePeriod eventBurst hairpinMode healthzBindAddress httpCheckFrequency iptablesDropBit \
    iptablesMasqueradeBit kubeAPIBurst kubeAPIQPS logging makeIPTablesUtilChains maxOpenFiles \
    memoryReservationPolicy memoryThrottlingFactor oomScoreAdj registryBurst runtimeRequestTimeout syncFrequency \
    volumePluginDir volumeStatsAggPeriod";

fn the_configuration_in_force_is_shown_whole(cluster: &Cluster) {
    let path = format!("/api/v1/nodes/{}/proxy/configz", cluster.host.name);
    let shown = cluster.kubectl(&["get", "--raw", &path]).json()["kubeletconfig"].clone();
    let missing: Vec<&str> = UPSTREAMS.split_whitespace().filter(|key| shown[key].is_null()).collect();
    assert_eq!(missing, NOT_HERE.split_whitespace().collect::<Vec<_>>());
    assert_eq!(shown["maxParallelImagePulls"], 5);
    assert_eq!(shown["containerLogMaxSize"], "10Mi");
}

fn a_node_tells_what_became_of_it(cluster: &Cluster) {
    let node = &*cluster.host.name;
    let told = |reason: &str, message: &str| {
        wait_for(&format!("the event {reason}"), seconds(20), || {
            let of_node = format!("involvedObject.kind=Node,involvedObject.name={node},reason={reason}");
            let events = cluster.kubectl(&["get", "events", "-A", "--field-selector", &of_node]).result()?;
            if events.contains(message) { Ok(()) } else { Err(events) }
        });
    };
    told("Starting", "Starting kubelet.");
    for reason in ["NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID"] {
        told(reason, &format!("Node {node} status is now: {reason}"));
    }
    cluster.kubectl(&["cordon", node]).ok();
    told("NodeNotSchedulable", &format!("Node {node} status is now: NodeNotSchedulable"));
    cluster.kubectl(&["uncordon", node]).ok();
    told("NodeSchedulable", &format!("Node {node} status is now: NodeSchedulable"));
    // What the node lifecycle controller writes of a node that it has not heard of is answered at once.
    let lost = r#"{"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}"#;
    cluster.kubectl(&["patch", "node", node, "--subresource=status", "-p", lost]).ok();
    told("NodeReady", &format!("Node {node} status is now: NodeReady"));
    wait_for("a node that is ready", seconds(10), || {
        let path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
        let seen = cluster.kubectl(&["get", "node", node, "-o", path]).result()?;
        if seen == "True" { Ok(()) } else { Err(seen) }
    });
}

/// A deployment of pods that burn a twentieth of a CPU and hold some memory.
fn busy(namespace: &Namespace<'_>, name: &str) {
    let burn = "head -c 4000000 /dev/zero > /data/some; while :; do :; done";
    let container = json!({
        "name": "burn", "image": "busybox:1.35", "command": ["sh", "-c", burn],
        "resources": {
            "requests": { "cpu": "20m", "memory": "8Mi" },
            "limits": { "cpu": "50m", "memory": "64Mi" },
        },
        "volumeMounts": [{ "name": "data", "mountPath": "/data" }],
    });
    let idle = json!({
        "name": "idle", "image": "busybox:1.35", "command": ["sleep", "100000"],
        "resources": { "requests": { "cpu": "1m" } },
    });
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name },
        "spec": {
            "selector": { "matchLabels": { "app": name } },
            "template": {
                "metadata": { "labels": { "app": name } },
                "spec": {
                    "terminationGracePeriodSeconds": 0,
                    "containers": [container, idle],
                    "volumes": [{ "name": "data", "emptyDir": {} }],
                },
            },
        },
    });
    namespace.apply(&deployment.to_string());
    namespace.wait_until(&format!("deployment/{name}"), seconds(60), |d| d["status"]["readyReplicas"] == 1);
}

/// The lines of `kubectl top`, split at spaces.
fn top(namespace: &Namespace<'_>, arguments: &[&str]) -> Result<Vec<Vec<String>>, String> {
    let mut line = vec!["top"];
    line.extend(arguments);
    let text = namespace.kubectl(&line).result()?;
    Ok(text.lines().map(|l| l.split_whitespace().map(str::to_owned).collect()).collect())
}

fn millicores(text: &str) -> u32 {
    text.trim_end_matches('m').parse().expect("millicores")
}

fn top_tells_what_nodes_and_pods_use(cluster: &Cluster) {
    let namespace = cluster.namespace();
    busy(&namespace, "burn");
    let service = cluster.kubectl(&["get", "apiservice", "v1beta1.metrics.k8s.io", "-o", "json"]).json();
    assert_eq!(service["status"]["conditions"][0]["reason"], "Local", "{service}");

    let nodes = top(&namespace, &["nodes", "--no-headers"]).expect("nodes at once");
    assert_eq!(nodes[0][0], cluster.host.name);
    assert!(millicores(&nodes[0][1]) > 0 && nodes[0][3].ends_with("Mi"), "{nodes:?}");

    let pods = wait_for("the pod's use", seconds(30), || {
        top(&namespace, &["pods", "-l", "app=burn", "--no-headers"])
    });
    let (cpu, memory) = (millicores(&pods[0][1]), &pods[0][2]);
    assert!((20..=75).contains(&cpu), "at most 50m is possible: {pods:?}");
    assert!(memory.ends_with("Mi"), "{pods:?}");
    let containers = top(&namespace, &["pods", "--containers", "--no-headers"]).expect("containers");
    let names: Vec<&str> = containers.iter().map(|line| line[1].as_str()).collect();
    assert_eq!(names, ["burn", "idle"]);
    assert!(millicores(&containers[0][2]) >= 20 && millicores(&containers[1][2]) <= 5, "{containers:?}");

    let pod = &pods[0][0];
    let one = namespace.get(&format!("pods.metrics.k8s.io/{pod}"));
    assert_eq!(one["kind"], "PodMetrics");
    assert_eq!(one["metadata"]["labels"]["app"], "burn");
    let window = one["window"].as_str().unwrap_or_default();
    assert!(window.ends_with('s') && one["timestamp"].is_string(), "{one}");
    let by_name = format!("metadata.name={pod}");
    let found =
        namespace.kubectl(&["get", "pods.metrics.k8s.io", "--field-selector", &by_name, "-o", "name"]);
    assert_eq!(found.ok().trim(), format!("podmetrics.metrics.k8s.io/{pod}"));
    let table = namespace.kubectl(&["get", "pods.metrics.k8s.io"]).ok();
    assert!(table.starts_with("NAME") && table.contains("WINDOW"), "{table}");
    let none = namespace.kubectl(&["get", "pods.metrics.k8s.io", "nobody"]).refused();
    assert!(none.contains("pods \"nobody\" not found"), "{none}");
    let none = cluster.kubectl(&["top", "node", "nowhere"]).refused();
    assert!(none.contains("node \"nowhere\" not found"), "{none}");
    let written = cluster.kubectl(&["delete", "nodes.metrics.k8s.io", "--all"]).refused();
    assert!(written.contains("(MethodNotAllowed)"), "{written}");
    let viewer = cluster.kubectl(&["get", "clusterrole", "view", "-o", "json"]).ok();
    assert!(viewer.contains("metrics.k8s.io"), "viewers may read what pods use");
}

fn an_autoscaler_adds_pods_under_load(cluster: &Cluster) {
    let namespace = cluster.namespace();
    busy(&namespace, "scaled");
    namespace.kubectl(&["autoscale", "deployment", "scaled", "--cpu-percent=50", "--min=1", "--max=3"]).ok();
    let scaler =
        namespace.wait_until("hpa/scaled", seconds(120), |hpa| hpa["status"]["currentReplicas"] == 3);
    let current = &scaler["status"]["currentMetrics"][0]["resource"]["current"];
    assert!(current["averageUtilization"].as_i64().is_some_and(|percent| percent > 50), "{scaler}");
    namespace.wait_until("deployment/scaled", seconds(60), |d| d["status"]["readyReplicas"] == 3);
}

fn another_metrics_server_takes_over_and_gives_back(cluster: &Cluster) {
    let namespace = cluster.namespace();
    let theirs = json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": { "name": "v1beta1.metrics.k8s.io" },
        "spec": {
            "service": { "name": "metrics-server", "namespace": "kube-system" },
            "group": "metrics.k8s.io", "version": "v1beta1", "insecureSkipTLSVerify": true,
            "groupPriorityMinimum": 100, "versionPriority": 100,
        },
    });
    let reason =
        |wanted: &'static str| move |service: &Value| service["status"]["conditions"][0]["reason"] == wanted;
    let service = "apiservice/v1beta1.metrics.k8s.io";
    namespace.apply(&theirs.to_string());
    namespace.wait_until(service, seconds(30), reason("ServiceNotFound"));
    let answer = cluster.kubectl(&["get", "--raw", "/apis/metrics.k8s.io/v1beta1/nodes"]).refused();
    assert!(answer.contains("unable to handle the request"), "it is theirs to answer: {answer}");
    cluster.kubectl(&["delete", "apiservice", "v1beta1.metrics.k8s.io"]).ok();
    wait_for("the own API service again", seconds(30), || {
        let service = cluster.kubectl(&["get", service, "-o", "json"]).result()?;
        let service: Value = serde_json::from_str(&service).map_err(|error| error.to_string())?;
        if reason("Local")(&service) { Ok(()) } else { Err(service.to_string()) }
    });
    wait_for("what nodes use", seconds(30), || top(&namespace, &["nodes"]));
}

/// The kubelet's answer to a token: code and text.
fn ask(cluster: &Cluster, token: Option<&str>, path: &str) -> (String, String) {
    let name = &cluster.host.name;
    let node = cluster.kubectl(&["get", "node", name, "-o", "json"]).json();
    let address = node["status"]["addresses"][0]["address"].as_str().expect("an address").to_owned();
    let port = &node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"];
    let url = format!("https://{address}:{port}{path}");
    let header = format!("Authorization: Bearer {}", token.unwrap_or_default());
    let mut command = vec!["curl", "-sk", "--max-time", "20", "-w", "\n%{http_code}"];
    if token.is_some() {
        command.extend(["-H", &header]);
    }
    command.push(&url);
    let said = cluster.host.run(&command).ok();
    let (body, code) = said.rsplit_once('\n').expect("a code after the text");
    (code.to_owned(), body.to_owned())
}

fn the_kubelets_api_is_for_those_whom_the_api_server_lets_in(cluster: &Cluster) {
    let namespace = cluster.namespace();
    let name = &namespace.name;
    namespace.kubectl(&["create", "serviceaccount", "scraper"]).ok();
    let role = format!("scraper-{name}");
    let account = format!("--serviceaccount={name}:scraper");
    let resources = "--resource=nodes/metrics,nodes/pods";
    cluster.kubectl(&["create", "clusterrole", &role, "--verb=get", resources]).ok();
    cluster.kubectl(&["create", "clusterrolebinding", &role, "--clusterrole", &role, &account]).ok();
    let token = namespace.kubectl(&["create", "token", "scraper"]).ok();
    let token = Some(token.trim());

    for (who, path) in [(None, "/healthz"), (None, "/metrics"), (Some("nonsense"), "/pods")] {
        assert_eq!(ask(cluster, who, path), ("401".into(), "Unauthorized".into()), "{path}");
    }
    for (path, word) in [
        ("/metrics", "kubelet_running_pods"),
        ("/metrics/resource", "node_cpu_usage_seconds_total"),
        ("/metrics/cadvisor", "container_memory_working_set_bytes{"),
        ("/metrics/probes", ""),
        ("/pods", "PodList"),
        ("/runningpods/", "PodList"),
    ] {
        let (code, text) = ask(cluster, token, path);
        assert!(code == "200" && text.contains(word), "{path}: {code} {text}");
    }
    let user = format!("system:serviceaccount:{name}:scraper");
    for (path, subresources) in [
        ("/configz", "configz proxy"),
        ("/stats/summary", "stats"),
        ("/logs/", "log"),
        ("/exec/a/b/c", "proxy"),
    ] {
        let words =
            format!("Forbidden (user={user}, verb=get, resource=nodes, subresource(s)=[{subresources}])\n");
        assert_eq!(ask(cluster, token, path), ("403".into(), words), "{path}");
    }
    cluster.kubectl(&["delete", "clusterrole,clusterrolebinding", &role]).ok();

    // The API server is let in on behalf of whom it lets in itself.
    let proxy = |path: &str| {
        cluster.kubectl(&["get", "--raw", &format!("/api/v1/nodes/{}/proxy/{path}", cluster.host.name)])
    };
    assert_eq!(proxy("healthz").ok(), "ok");
    let configuration = proxy("configz").json();
    assert_eq!(configuration["kubeletconfig"]["authentication"]["anonymous"]["enabled"], false);
    assert!(proxy("logs/").ok().starts_with("<!doctype html>"));
}

fn the_summary_tells_of_containers_volumes_and_the_network(cluster: &Cluster) {
    let namespace = cluster.namespace();
    busy(&namespace, "measured");
    let path = format!("/api/v1/nodes/{}/proxy/stats/summary", cluster.host.name);
    let (summary, pod) = wait_for("four megabytes in the volume", seconds(30), || {
        let summary = cluster.kubectl(&["get", "--raw", &path]).json();
        let pods = summary["pods"].as_array().cloned().unwrap_or_default();
        let found = pods.into_iter().find(|p| p["podRef"]["namespace"] == namespace.name.as_str());
        let pod = found.ok_or("the pod is not told of")?;
        let volumes = pod["volume"].as_array().cloned().unwrap_or_default();
        let data = volumes.iter().find(|v| v["name"] == "data").ok_or("no volume")?;
        match data["usedBytes"].as_u64() {
            Some(4_000_000..) => Ok((summary, pod)),
            other => Err(format!("{other:?}")),
        }
    });
    let node = &summary["node"];
    assert_eq!(node["nodeName"], cluster.host.name.as_str());
    for path in [
        "/cpu/usageNanoCores",
        "/memory/availableBytes",
        "/fs/capacityBytes",
        "/rlimit/maxpid",
        "/runtime/imageFs/usedBytes",
        "/network/rxBytes",
    ] {
        assert!(
            node.pointer(path)
                .is_some_and(|v| v.as_u64().is_some_and(|n| n > 0) || path.ends_with("rxBytes")),
            "{path} of {node}"
        );
    }
    let parts = node["systemContainers"].as_array().cloned().unwrap_or_default();
    let names: Vec<&str> = parts.iter().filter_map(|part| part["name"].as_str()).collect();
    assert_eq!(names, ["kubelet", "runtime", "pods"]);
    assert!(pod["ephemeral-storage"]["usedBytes"].as_u64().is_some_and(|bytes| bytes >= 4_000_000), "{pod}");
    assert!(pod["network"]["name"] == "eth0" && pod["process_stats"]["process_count"].is_u64(), "{pod}");
    let containers = pod["containers"].as_array().cloned().unwrap_or_default();
    let burn = containers.iter().find(|c| c["name"] == "burn").expect("the container");
    assert!(burn["cpu"]["usageCoreNanoSeconds"].as_u64().is_some_and(|ns| ns > 0), "{burn}");
    for path in ["/memory/workingSetBytes", "/rootfs/usedBytes", "/logs/inodesUsed", "/startTime"] {
        assert!(burn.pointer(path).is_some(), "{path} of {burn}");
    }
    let brief = cluster.kubectl(&["get", "--raw", &format!("{path}?only_cpu_and_memory=true")]).json();
    assert!(brief["node"]["fs"].is_null() && brief["node"]["cpu"].is_object(), "{brief}");
}
