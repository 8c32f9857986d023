//! Users of pods: user namespaces (`spec.hostUsers: false`, KEP-127) and the user that a container's status tells
//! (KEP-3619).
#![allow(clippy::disallowed_methods)] // outside of any control plane, as the harness

use knarr_e2e::wait::seconds;
use knarr_e2e::{Case, Cluster, Namespace, cases};
use serde_json::Value;
use std::os::unix::fs::MetadataExt;

pub const CASES: &[Case] = cases![
    a_pod_with_users_of_its_own_sees_its_volumes_right,
    users_are_not_given_twice_over_a_restart_of_the_daemon,
    users_of_its_own_and_namespaces_of_the_host_do_not_go_together,
    a_containers_status_tells_who_runs_in_it_and_its_image,
];

/// A pod with users of its own that runs `command`; `more` goes into its spec, `container` into the container.
fn pod(name: &str, command: &str, container: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  hostUsers: false\n  terminationGracePeriodSeconds: 1\n{more}\n  containers:\n  - name: main\n    image: busybox:1.35\n    command: [sh, -c, {}]\n{container}\n",
        Value::from(command)
    )
}

const VOLUMES: &str = "  securityContext: {fsGroup: 2000}
  volumes:
  - {name: empty, emptyDir: {}}
  - {name: memory, emptyDir: {medium: Memory}}
  - {name: config, configMap: {name: settings}}
  - {name: secret, secret: {secretName: key, defaultMode: 256}}
  - {name: host, hostPath: {path: /srv/host/files/mine, type: DirectoryOrCreate}}";

const MOUNTS: &str = "    volumeMounts:
    - {name: empty, mountPath: /empty}
    - {name: empty, mountPath: /part, subPath: part}
    - {name: memory, mountPath: /memory}
    - {name: config, mountPath: /config}
    - {name: secret, mountPath: /secret}
    - {name: host, mountPath: /host}";

/// The first id of the host that is the pod's.
fn first_id(namespace: &Namespace<'_>, pod: &str) -> u32 {
    let map = namespace.exec(pod, &["cat", "/proc/self/uid_map"]).ok();
    let fields: Vec<u32> = map.split_whitespace().map(|word| word.parse().expect("a number")).collect();
    let [0, first, 65_536] = fields[..] else { panic!("the mapping of {pod} is {map:?}") };
    assert!(first >= 65_536, "{first} is the host's own");
    assert_eq!(namespace.exec(pod, &["cat", "/proc/self/gid_map"]).ok(), map);
    first
}

fn a_pod_with_users_of_its_own_sees_its_volumes_right(cluster: &Cluster) {
    let namespace = cluster.namespace();
    namespace.kubectl(&["create", "configmap", "settings", "--from-literal=colour=green"]).ok();
    namespace.kubectl(&["create", "secret", "generic", "key", "--from-literal=word=open"]).ok();
    namespace.apply(&pod("own", "echo said > /dev/termination-log; exec sleep 3600", MOUNTS, VOLUMES));
    namespace.wait_until_ready("own");
    let first = first_id(&namespace, "own");
    let sh = |script: &str| namespace.exec("own", &["sh", "-c", script]).ok();
    assert_eq!(sh("id -u; id -G"), "0\n0 2000\n");
    assert_eq!(
        sh("cat /config/colour /secret/word /var/run/secrets/kubernetes.io/serviceaccount/namespace"),
        format!("greenopen{}", namespace.name)
    );
    assert_eq!(
        sh("stat -Lc %u:%g /config/colour /secret/word /etc/hosts /dev/termination-log"),
        "0:2000\n0:2000\n0:0\n0:0\n"
    );
    for dir in ["empty", "part", "memory", "host"] {
        let script = format!("echo x > /{dir}/file && chown 33 /{dir}/file && stat -c %u /{dir}/file");
        assert_eq!(sh(&script), "33\n", "{dir}");
    }
    assert_eq!(sh("stat -c %g /empty/file /part/file /memory/file"), "2000\n2000\n2000\n");
    let on_host = std::fs::metadata(cluster.host.dir.join("files/mine/file")).expect("the container made it");
    assert_eq!(on_host.uid(), 33);
    assert_eq!(sh("hostname; wget -q -O - http://127.0.0.1:1 2>&1 | grep -c refused"), "own\n1\n");
    // Root inside is not root outside.
    let seen = cluster.host.run(&[
        "sh",
        "-c",
        "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline | grep -q '^sleep 3600' && stat -c %u $p; done",
    ]);
    assert_eq!(seen.stdout.trim(), first.to_string(), "{seen}");
    // A pod that shares the host's users still can.
    namespace.apply(
        &pod("shared", "cat /proc/self/uid_map; sleep 3600", "", "")
            .replace("hostUsers: false", "hostUsers: true"),
    );
    namespace.wait_until_ready("shared");
    let map = namespace.kubectl(&["logs", "shared"]).ok();
    assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", "0", "4294967295"]);
}

fn users_are_not_given_twice_over_a_restart_of_the_daemon(cluster: &Cluster) {
    let namespace = cluster.namespace();
    for name in ["a", "b"] {
        namespace.apply(&pod(name, "sleep 3600", "", ""));
    }
    ["a", "b"].iter().for_each(|name| drop(namespace.wait_until_ready(name)));
    let before = ["a", "b"].map(|name| first_id(&namespace, name));
    assert_ne!(before[0], before[1]);
    cluster.signal("KILL");
    cluster.start();
    namespace.apply(&pod("c", "sleep 3600", "", ""));
    namespace.wait_until_ready("c");
    assert_eq!(["a", "b"].map(|name| first_id(&namespace, name)), before);
    assert!(!before.contains(&first_id(&namespace, "c")));
    // A pod that is gone leaves its ids to others.
    namespace.kubectl(&["delete", "pod", "a", "b", "c"]).ok();
    namespace.wait_until_gone("pod/a", seconds(20));
    namespace.apply(&pod("d", "sleep 3600", "", ""));
    namespace.wait_until_ready("d");
    first_id(&namespace, "d");
}

fn users_of_its_own_and_namespaces_of_the_host_do_not_go_together(cluster: &Cluster) {
    let namespace = cluster.namespace();
    for (field, said_field) in
        [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")]
    {
        let manifest = pod("refused", "true", "", &format!("  {field}: true"));
        let said = namespace.kubectl_stdin(&["apply", "-f", "-"], &manifest).refused();
        assert!(said.contains(&format!("spec.{said_field}: Forbidden: when `hostUsers` is false")), "{said}");
    }
    let node = cluster.kubectl(&["get", "nodes", "-o", "json"]).json();
    assert_eq!(node["items"][0]["status"]["runtimeHandlers"][0]["features"]["userNamespaces"], true);
}

fn a_containers_status_tells_who_runs_in_it_and_its_image(cluster: &Cluster) {
    let namespace = cluster.namespace();
    let context =
        "  securityContext: {runAsUser: 1000, runAsGroup: 3000, fsGroup: 2000, supplementalGroups: [4000]}";
    namespace.apply(&pod("known", "sleep 3600", "", context));
    let first = |pod: &Value| pod["status"]["containerStatuses"][0].clone();
    let known = first(&namespace.wait_until_ready("known"));
    let user =
        serde_json::json!({"linux": {"uid": 1000, "gid": 3000, "supplementalGroups": [3000, 4000, 2000]}});
    assert_eq!(known["user"], user);
    assert_eq!(namespace.exec("known", &["id", "-G"]).ok(), "3000 2000 4000\n");
    // It is told also by a daemon that did not start it.
    cluster.signal("KILL");
    cluster.start();
    namespace.wait_until_ready("known");
    assert_eq!(first(&namespace.get("pod/known"))["user"], user);
    // What could not be started came from an image all the same.
    namespace.apply(&pod("broken", "true", "", "").replace("[sh, -c,", "[/no/such,"));
    let broken = namespace.wait_until("pod/broken", seconds(30), |pod| {
        first(pod)["lastState"]["terminated"]["reason"] == "StartError"
    });
    assert_eq!(first(&broken)["imageID"], known["imageID"]);
    assert_eq!(first(&broken)["user"]["linux"]["uid"], 0);
    assert!(known["imageID"].as_str().is_some_and(|id| id.contains("sha256:")), "{known}");
}
