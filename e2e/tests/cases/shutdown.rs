//! Graceful node shutdown (KEP-2000, KEP-2712): a stand-in for systemd-logind tells of a shutdown; pods end in the
//! order of their priorities before the lock is let go, the node says what happens and lets nobody in, and a shutdown
//! that is called off changes it back.

use knarr_e2e::wait::seconds;
use knarr_e2e::{Case, Cluster, Namespace, cases, repository, wait_for};
use serde_json::Value;
use std::io::Write;

pub const CASES: &[Case] = cases![pods_end_by_priority_before_the_machine_goes_down];

/// A pod that tells in a file of the host when it was told to end, and takes its time.
fn pod(namespace: &Namespace<'_>, name: &str, spec: &str) {
    let command =
        format!("trap 'echo {name} >> /told/order; sleep 1; exit 0' TERM; while :; do sleep 0.1; done");
    namespace.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n{spec}\n  containers:\n  - name: main\n    image: busybox:1.35\n    command: [sh, -c, {}]\n    volumeMounts: [{{name: told, mountPath: /told}}]\n  volumes: [{{name: told, hostPath: {{path: /srv/host/files}}}}]\n",
        Value::from(command)
    ));
}

fn ready(cluster: &Cluster) -> (String, String, String) {
    let node = cluster.kubectl(&["get", "node", &cluster.host.name, "-o", "json"]).json();
    let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let ready = conditions.into_iter().find(|c| c["type"] == "Ready").unwrap_or_default();
    let text = |key: &str| ready[key].as_str().unwrap_or_default().to_owned();
    (text("status"), text("reason"), text("message"))
}

fn pods_end_by_priority_before_the_machine_goes_down(cluster: &Cluster) {
    let script = repository().join("e2e/tests/logind.py").display().to_string();
    let (mut logind, mut tell) =
        cluster.host.spawn_with_stdin(&["python3", &script, "/run/dbus/system_bus_socket"]);
    logind.wait_for_text("ready", seconds(10));
    cluster.signal("TERM");
    cluster.start_with(&["--shutdown-grace-period-by-pod-priority", "0=20,1000=10"]);
    logind.wait_for_text("locked", seconds(10));
    let path = format!("/api/v1/nodes/{}/proxy/configz", cluster.host.name);
    let configuration = cluster.kubectl(&["get", "--raw", &path]).json();
    assert_eq!(
        configuration["kubeletconfig"]["shutdownGracePeriodByPodPriority"],
        serde_json::json!([
            { "priority": 0, "shutdownGracePeriodSeconds": 20 },
            { "priority": 1000, "shutdownGracePeriodSeconds": 10 },
        ])
    );

    let namespace = cluster.namespace();
    namespace.apply(
        "apiVersion: scheduling.k8s.io/v1\nkind: PriorityClass\nmetadata: {name: shutdown-late}\nvalue: 5000\n",
    );
    pod(&namespace, "late", "  priorityClassName: shutdown-late");
    pod(&namespace, "early", "  terminationGracePeriodSeconds: 30");
    namespace.wait_until_ready("late");
    namespace.wait_until_ready("early");
    writeln!(tell, "shutdown").expect("it reads");
    logind.wait_for_text("released", seconds(40));

    // The lock is let go only after everything has ended.
    let order = std::fs::read_to_string(cluster.host.dir.join("files/order")).expect("both were told");
    assert_eq!(order, "early\nlate\n");
    for name in ["early", "late"] {
        let pod = namespace
            .wait_until(&format!("pod/{name}"), seconds(10), |pod| pod["status"]["phase"] == "Failed");
        assert_eq!(pod["status"]["reason"], "Terminated");
        let message = "Pod was terminated in response to imminent node shutdown.";
        assert_eq!(pod["status"]["message"], message);
        let conditions = pod["status"]["conditions"].as_array().expect("conditions");
        let target = conditions.iter().find(|c| c["type"] == "DisruptionTarget").expect("it was disrupted");
        assert_eq!(
            (&target["reason"], &target["message"]),
            (&"TerminationByKubelet".into(), &message.into())
        );
    }
    wait_for("the node says it", seconds(10), || {
        let seen = ready(cluster);
        if seen == ("False".into(), "KubeletNotReady".into(), "node is shutting down".into()) {
            Ok(())
        } else {
            Err(format!("{seen:?}"))
        }
    });
    let event = |message: &str| {
        wait_for(message, seconds(10), || {
            let events =
                cluster.kubectl(&["get", "events", "-A", "--field-selector", "reason=NodeShutdown"]).ok();
            if events.contains(message) { Ok(()) } else { Err(events) }
        });
    };
    event("Shutdown manager detected shutdown event");
    // Past the scheduler.
    pod(&namespace, "refused", &format!("  nodeName: {}", cluster.host.name));
    let refused = namespace.wait_until("pod/refused", seconds(20), |pod| pod["status"]["phase"] == "Failed");
    assert_eq!(refused["status"]["reason"], "NodeShutdown");
    let message = "Pod was rejected: Pod was rejected as the node is shutting down.";
    assert_eq!(refused["status"]["message"], message);

    writeln!(tell, "cancel").expect("it reads");
    wait_for("the node is ready again", seconds(20), || {
        let seen = ready(cluster);
        if seen.0 == "True" { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    event("Shutdown manager detected shutdown cancellation");
    pod(&namespace, "welcome", "");
    namespace.wait_until_ready("welcome");
    wait_for("the lock is taken again", seconds(10), || {
        let said = logind.said();
        if said.matches("locked").count() == 2 { Ok(()) } else { Err(said) }
    });
    cluster.kubectl(&["delete", "priorityclass", "shutdown-late"]).ok();
    drop(tell);
    cluster.signal("TERM");
    cluster.start();
}
