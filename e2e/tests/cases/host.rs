//! The machine under the cluster: what `knarr` refuses and why, and what it leaves behind.

use knarr_e2e::host::{INSIDE, KNARR};
use knarr_e2e::wait::seconds;
use knarr_e2e::{Case, Cluster, cases, example, snapshot, wait_for};

pub const CASES: &[Case] = cases![
    version_and_unit_need_no_cluster,
    up_without_root_says_how_to_get_it,
    mistakes_in_the_configuration_are_told_at_once,
    a_port_that_is_taken_is_named,
    a_second_up_on_the_same_data_is_refused,
    data_of_a_newer_version_is_refused,
    a_damaged_store_is_refused_and_never_replaced,
    down_leaves_nothing_on_the_host_and_keeps_the_data,
    down_with_purge_deletes_the_data,
    status_and_down_without_a_cluster_say_so,
];

fn version_and_unit_need_no_cluster(cluster: &Cluster) {
    let version = cluster.host.run(&[KNARR, "version"]).ok();
    assert!(version.contains("knarr 0.") && version.contains("kubernetes v1.36"), "{version}");
    let unit = cluster.host.run(&[KNARR, "unit"]).ok();
    assert!(
        unit.contains("KillMode=process") && unit.contains("Delegate=yes") && unit.contains("ExecStart="),
        "{unit}"
    );
}

fn up_without_root_says_how_to_get_it(cluster: &Cluster) {
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    for command in ["up", "down"] {
        let mut line = nobody.to_vec();
        line.extend([KNARR, command]);
        let refused = cluster.host.run(&line).refused();
        assert!(refused.contains("root") && refused.contains(&format!("sudo knarr {command}")), "{refused}");
    }
}

fn mistakes_in_the_configuration_are_told_at_once(cluster: &Cluster) {
    let refused = cluster
        .host
        .run(&[KNARR, "up", "--node-ip=here", "--https-port=10250", "--pod-cidr=10.96.1.0/24"])
        .refused();
    for part in ["3 mistakes", "node-ip", "kubelet-port", "overlaps the service range"] {
        assert!(refused.contains(part), "{part:?} is missing in {refused}");
    }
    let file = cluster.host.file("config.yaml", "https-prot: 7443\n");
    let refused = cluster.host.run(&[KNARR, "up", "--config", &file]).refused();
    assert!(refused.contains("https-prot") && refused.contains("config.yaml"), "{refused}");
}

fn a_port_that_is_taken_is_named(cluster: &Cluster) {
    let holder = cluster.host.spawn(&["/bin/busybox", "nc", "-l", "-l", "-p", "6443", "-e", "true"]);
    wait_for("the port is taken", seconds(5), || {
        let seen = cluster.host.run(&["sh", "-c", "grep -q :192B /proc/net/tcp /proc/net/tcp6"]);
        if seen.code == 0 { Ok(()) } else { Err(holder.said()) }
    });
    let refused = cluster.knarr(&["up"]).refused();
    assert!(refused.contains("6443") && refused.contains("--https-port"), "{refused}");
}

fn a_second_up_on_the_same_data_is_refused(cluster: &Cluster) {
    cluster.start();
    let refused = cluster.knarr(&["up"]).refused();
    assert!(
        refused.contains("another knarr")
            && refused.contains(&format!("{INSIDE}/data"))
            && refused.contains("knarr down"),
        "{refused}"
    );
    cluster.knarr(&["down"]).ok();
}

fn data_of_a_newer_version_is_refused(cluster: &Cluster) {
    let format = cluster.host.dir.join("data/format");
    let before = std::fs::read_to_string(&format).expect("a cluster ran before");
    std::fs::write(&format, "99\n").expect("writable");
    let refused = cluster.knarr(&["up"]).refused();
    std::fs::write(&format, before).expect("writable");
    assert!(refused.contains("newer knarr"), "{refused}");
}

fn a_damaged_store_is_refused_and_never_replaced(cluster: &Cluster) {
    let store = cluster.host.dir.join("data/store");
    let saved = cluster.host.dir.join("store-saved");
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        let status = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status();
        assert!(status.is_ok_and(|status| status.success()));
    };
    copy(&store, &saved);
    for entry in std::fs::read_dir(&store).expect("the store is a directory").flatten() {
        let bytes = std::fs::read(entry.path()).unwrap_or_default();
        // The beginning of every file is overwritten; lengths stay.
        let damaged: Vec<u8> =
            bytes.iter().enumerate().map(|(i, byte)| if i < 8192 { !byte } else { *byte }).collect();
        std::fs::write(entry.path(), damaged).expect("writable");
    }
    let refused = cluster.knarr(&["up"]).refused();
    std::fs::remove_dir_all(&store).expect("removable");
    std::fs::rename(&saved, &store).expect("movable");
    assert!(refused.contains("store") && refused.contains(INSIDE), "it names the file: {refused}");
    assert!(
        refused.to_lowercase().contains("restore") || refused.to_lowercase().contains("backup"),
        "it names the way out: {refused}"
    );
}

fn down_leaves_nothing_on_the_host_and_keeps_the_data(cluster: &Cluster) {
    cluster.knarr(&["down"]).ok();
    let before = snapshot::take(&cluster.host);
    assert!(!before.iter().any(|line| line.starts_with("cgroup:") || line.contains("knarr0")), "{before:#?}");
    cluster.start();
    cluster.import_busybox();
    {
        let namespace = cluster.namespace();
        namespace.apply(&example("two-tier.yaml"));
        for tier in ["app", "web"] {
            namespace.kubectl(&["rollout", "status", &format!("deployment/{tier}"), "--timeout=60s"]).ok();
        }
        cluster.kubectl(&["create", "configmap", "kept", "--from-literal=k=v"]).ok();
        let during = snapshot::take(&cluster.host);
        assert!(
            during.iter().any(|line| line.starts_with("cgroup:")),
            "the snapshot sees what a cluster makes"
        );
        cluster.knarr(&["down"]).ok();
        let after = snapshot::take(&cluster.host);
        let left: Vec<&String> = after.difference(&before).collect();
        let lost: Vec<&String> = before.difference(&after).collect();
        assert!(left.is_empty() && lost.is_empty(), "left: {left:#?}\nlost: {lost:#?}");
        cluster.start();
        let kept = cluster.kubectl(&["get", "configmap", "kept", "-o", "jsonpath={.data.k}"]).ok();
        assert_eq!(kept, "v");
        namespace.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]).ok();
        cluster.knarr(&["image", "ls"]).ok();
    }
    cluster.knarr(&["down"]).ok();
}

fn down_with_purge_deletes_the_data(cluster: &Cluster) {
    cluster.start();
    cluster.knarr(&["down", "--purge"]).ok();
    let left = std::fs::read_dir(cluster.host.dir.join("data")).into_iter().flatten().flatten();
    let left: Vec<_> = left.map(|entry| entry.file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
    let config = std::fs::read_to_string(cluster.host.dir.join("home/.kube/config")).unwrap_or_default();
    assert!(!config.contains("6443"), "the context is taken out again: {config}");
}

fn status_and_down_without_a_cluster_say_so(cluster: &Cluster) {
    let refused = cluster.knarr(&["status"]).refused();
    assert!(refused.contains("no cluster is running"), "{refused}");
    cluster.knarr(&["down"]).ok();
}
