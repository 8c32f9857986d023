//! Durability: `knarr` may be killed at any moment; its pods run on, and nothing is forgotten.

use knarr_e2e::kubectl;
use knarr_e2e::wait::seconds;
use knarr_e2e::{Case, Cluster, Namespace, cases, example, wait_for};
use serde_json::Value;

pub const CASES: &[Case] = cases![
    killed_and_restarted_it_restarts_no_container_and_loses_no_line,
    stopped_politely_it_leaves_pods_running,
    what_ends_while_it_is_away_is_noticed,
    services_answer_while_it_is_away,
    acknowledged_writes_survive_a_kill,
    killed_while_pods_start_and_stop_it_finds_its_way,
    after_a_reboot_pods_start_again,
];

const COUNTER: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: counter}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  - name: main\n    image: busybox:1.35\n    command: [sh, -c, 'i=0; while :; do echo line $i; i=$((i+1)); usleep 5000; done']\n";

/// Container IDs, restart counts and start times of all pods.
fn identities(namespace: &Namespace<'_>) -> Vec<(String, String, String, u64)> {
    let pods = namespace.kubectl(&["get", "pods", "-o", "json"]).json();
    let mut found = Vec::new();
    for pod in pods["items"].as_array().into_iter().flatten() {
        for status in pod["status"]["containerStatuses"].as_array().into_iter().flatten() {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            found.push((
                text(&pod["metadata"]["name"]),
                text(&status["containerID"]),
                text(&status["state"]["running"]["startedAt"]),
                status["restartCount"].as_u64().unwrap_or_default(),
            ));
        }
    }
    found
}

fn lines(namespace: &Namespace<'_>) -> usize {
    let said = namespace.kubectl(&["logs", "counter"]).ok();
    for (i, line) in said.lines().enumerate() {
        assert_eq!(line, format!("line {i}"), "a line is missing, doubled or torn");
    }
    said.lines().count()
}

fn killed_and_restarted_it_restarts_no_container_and_loses_no_line(cluster: &Cluster) {
    let namespace = cluster.namespace();
    namespace.apply(COUNTER);
    namespace.apply(&example("two-tier.yaml"));
    namespace.wait_until_ready("counter");
    for tier in ["app", "web"] {
        namespace.kubectl(&["rollout", "status", &format!("deployment/{tier}"), "--timeout=60s"]).ok();
    }
    let before = identities(&namespace);
    assert_eq!(before.len(), 4);
    for _ in 0..3 {
        let seen = lines(&namespace);
        cluster.signal("KILL");
        cluster.start();
        assert_eq!(identities(&namespace), before);
        wait_for("new lines", seconds(20), || match lines(&namespace) {
            n if n > seen + 20 => Ok(()),
            n => Err(format!("{n} lines, {seen} before")),
        });
        assert_eq!(namespace.exec("counter", &["echo", "still here"]).ok(), "still here\n");
    }
    let events = namespace.kubectl(&["get", "events", "--field-selector=reason=Killing"]).ok();
    assert!(!events.contains("Killing"), "{events}");
    // What was adopted can also be ended.
    namespace.kubectl(&["delete", "pod", "counter", "--timeout=20s"]).ok();
}

fn stopped_politely_it_leaves_pods_running(cluster: &Cluster) {
    let namespace = cluster.namespace();
    namespace.apply(COUNTER);
    namespace.wait_until_ready("counter");
    let (before, seen) = (identities(&namespace), lines(&namespace));
    cluster.signal("TERM");
    cluster.start();
    assert_eq!(identities(&namespace), before);
    wait_for("new lines", seconds(20), || match lines(&namespace) {
        n if n > seen + 20 => Ok(()),
        n => Err(format!("{n} lines, {seen} before")),
    });
}

fn what_ends_while_it_is_away_is_noticed(cluster: &Cluster) {
    let namespace = cluster.namespace();
    let file = cluster.host.file("go", "");
    let pod = |name: &str, policy: &str, code: u32| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: {policy}\n  terminationGracePeriodSeconds: 1\n  containers:\n  - name: main\n    image: busybox:1.35\n    command: [sh, -c, 'echo begun; while [ ! -s /go ]; do usleep 50000; done; [ $(wc -l < /go) = 1 ] || sleep 3600; echo two >> /go; exit {code}']\n    volumeMounts: [{{name: go, mountPath: /go}}]\n  volumes: [{{name: go, hostPath: {{path: {file}}}}}]\n"
        )
    };
    namespace.apply(&pod("ends", "Never", 5));
    namespace.wait_until_ready("ends");
    cluster.signal("KILL");
    cluster.host.file("go", "one\n");
    wait_for("the container ends", seconds(10), || {
        let text = std::fs::read_to_string(cluster.host.dir.join("files/go")).unwrap_or_default();
        if text.contains("two") { Ok(()) } else { Err(text) }
    });
    cluster.start();
    let ended = namespace.wait_until("pod/ends", seconds(30), |pod| pod["status"]["phase"] == "Failed");
    assert_eq!(ended["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"], 5);
    assert_eq!(namespace.kubectl(&["logs", "ends"]).ok(), "begun\n");
}

fn services_answer_while_it_is_away(cluster: &Cluster) {
    let namespace = cluster.namespace();
    namespace.apply(&example("two-tier.yaml"));
    for tier in ["app", "web"] {
        namespace.kubectl(&["rollout", "status", &format!("deployment/{tier}"), "--timeout=60s"]).ok();
    }
    let port = namespace.get("service/web")["spec"]["ports"][0]["nodePort"].to_string();
    let ip = namespace.get("service/app")["spec"]["clusterIP"].as_str().expect("an address").to_owned();
    let (web, app) = (format!("http://10.244.0.1:{port}/cgi-bin/ask"), format!("http://{ip}:8080/"));
    wait_for(&web, seconds(20), || cluster.host.http(&web));
    cluster.signal("KILL");
    let heard = cluster.host.http(&app);
    assert!(
        heard.as_ref().is_ok_and(|text| text.contains("Hello from app-")),
        "the data path needs no daemon: {heard:?}"
    );
    cluster.start();
    let heard = cluster.host.http(&web).expect("at once after the start");
    assert!(heard.contains("Hello from app-"), "{heard}");
}

fn acknowledged_writes_survive_a_kill(cluster: &Cluster) {
    let namespace = cluster.namespace();
    // A writer that notes each acknowledged write; the kill comes in the middle of it.
    let kubectl = kubectl::newest().path.display().to_string();
    let script = format!(
        "i=0; while {kubectl} -n {} create configmap acknowledged-$i --from-literal=i=$i >/dev/null 2>&1; do echo $i; i=$((i+1)); done; echo end",
        namespace.name
    );
    let mut writer = cluster.host.spawn(&["sh", "-c", &script]);
    writer.wait_for_text("8\n", seconds(30));
    cluster.signal("KILL");
    let said = writer.wait_for_text("end", seconds(60));
    cluster.start();
    let names = namespace.kubectl(&["get", "configmaps", "-o", "name"]).ok();
    for i in said.lines().filter(|line| *line != "end") {
        assert!(
            names.contains(&format!("configmap/acknowledged-{i}\n")),
            "{i} was acknowledged and is gone: {names}"
        );
    }
}

fn killed_while_pods_start_and_stop_it_finds_its_way(cluster: &Cluster) {
    let namespace = cluster.namespace();
    for round in 0..3 {
        namespace.apply(&example("deployment.yaml").replace("echo Hello", &format!("echo Round {round}")));
        cluster.signal("KILL");
        cluster.start();
    }
    namespace.kubectl(&["rollout", "status", "deployment/hello", "--timeout=90s"]).ok();
    namespace.kubectl(&["delete", "deployment", "hello", "--wait=false"]).ok();
    cluster.signal("KILL");
    cluster.start();
    wait_for("all pods are gone", seconds(60), || {
        let pods = namespace.kubectl(&["get", "pods", "-o", "name"]).result()?;
        if pods.is_empty() { Ok(()) } else { Err(pods) }
    });
}

fn after_a_reboot_pods_start_again(cluster: &Cluster) {
    let namespace = cluster.namespace();
    namespace.apply(&example("pod.yaml"));
    namespace.apply(&example("two-tier.yaml"));
    for tier in ["app", "web"] {
        namespace.kubectl(&["rollout", "status", &format!("deployment/{tier}"), "--timeout=60s"]).ok();
    }
    let before = namespace.wait_until_ready("hello");
    cluster.reboot();
    let after = namespace.wait_until("pod/hello", seconds(60), |pod| {
        let status = &pod["status"]["containerStatuses"][0];
        status["restartCount"] == 1 && status["ready"] == true
    });
    assert_eq!(before["metadata"]["uid"], after["metadata"]["uid"], "it is the same pod");
    assert_ne!(
        before["status"]["containerStatuses"][0]["containerID"],
        after["status"]["containerStatuses"][0]["containerID"]
    );
    assert_eq!(namespace.kubectl(&["logs", "hello"]).ok(), "Hello\n");
    let rebooted = ["get", "events", "-A", "--field-selector", "reason=Rebooted"];
    let rebooted = cluster.kubectl(&rebooted).ok();
    assert!(rebooted.contains(" has been rebooted, boot id: "), "{rebooted}");
    let port = namespace.get("service/web")["spec"]["ports"][0]["nodePort"].to_string();
    let url = format!("http://10.244.0.1:{port}/cgi-bin/ask");
    let heard = wait_for(&url, seconds(60), || cluster.host.http(&url));
    assert!(heard.contains("Hello from app-"), "{heard}");
}
