//! The machine under the cluster: what `knarr` refuses and why, and what it leaves behind.

use knarr_e2e::host::{INSIDE, KNARR};
use knarr_e2e::wait::seconds;
use knarr_e2e::{Case, Cluster, cases, example, snapshot, wait_for};

pub const CASES: &[Case] = cases![
    version_and_unit_need_no_cluster,
    up_without_root_says_how_to_get_it,
    mistakes_in_the_configuration_are_told_at_once,
    a_port_that_is_taken_is_named,
    an_address_range_that_is_taken_is_named,
    a_firewall_that_drops_forwarded_packets_is_told,
    a_full_disk_is_told_at_the_start,
    a_disk_that_fills_up_fails_writes_and_no_more,
    under_sudo_the_context_goes_to_the_invoking_user,
    certificates_follow_the_machines_addresses,
    up_goes_to_the_background_when_told,
    a_second_up_on_the_same_data_is_refused,
    data_of_a_newer_version_is_refused,
    a_damaged_store_is_refused_and_never_replaced,
    down_leaves_nothing_on_the_host_and_keeps_the_data,
    down_with_purge_deletes_the_data,
    status_and_down_without_a_cluster_say_so,
    a_service_manager_hears_of_its_start_its_life_and_its_end,
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

/// As systemd starts a unit of `Type=notify` with `WatchdogSec=3s`.
fn a_service_manager_hears_of_its_start_its_life_and_its_end(cluster: &Cluster) {
    let socket = std::os::unix::net::UnixDatagram::bind(cluster.host.dir.join("files/n")).expect("a socket");
    socket.set_read_timeout(Some(seconds(10))).expect("it has a limit");
    let hear = || {
        let mut bytes = [0; 64];
        let Ok(count) = socket.recv(&mut bytes) else { return "nothing".to_owned() };
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    };
    let address = format!("NOTIFY_SOCKET={INSIDE}/files/n");
    let mut line = vec!["env", &address, "WATCHDOG_USEC=3000000"];
    line.extend(cluster.knarr_command(&["up"]));
    let mut spawned = cluster.host.spawn(&line);
    spawned.wait_for_text("Ready after", seconds(60));
    assert_eq!(hear(), "READY=1", "{}", spawned.said());
    assert!(spawned.said().contains("Ready after"), "{}", spawned.said());
    for _ in 0..3 {
        assert_eq!(hear(), "WATCHDOG=1");
    }
    spawned.signal("TERM");
    let last = [(); 3].iter().map(|()| hear()).find(|word| word != "WATCHDOG=1");
    assert_eq!(last.as_deref(), Some("STOPPING=1"));
    spawned.wait_for_end(seconds(30));
    cluster.knarr(&["down", "--purge"]).ok();
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

fn an_address_range_that_is_taken_is_named(cluster: &Cluster) {
    let run = |line: &str| cluster.host.run(&["sh", "-c", line]);
    run("ip link add vpn0 type veth peer name vpn1 && ip addr add 10.96.3.1/24 dev vpn0 && ip link set vpn0 up && ip link set vpn1 up").ok();
    let refused = cluster.knarr(&["up"]).refused();
    run("ip link del vpn0").ok();
    assert!(
        refused.contains("vpn0") && refused.contains("10.96.0.0/16") && refused.contains("--service-cidr"),
        "{refused}"
    );
}

fn a_firewall_that_drops_forwarded_packets_is_told(cluster: &Cluster) {
    let rules = "add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0 ; policy drop ; }";
    cluster.host.run(&["nft", rules]).ok();
    let said = cluster.start();
    cluster.knarr(&["down"]).ok();
    cluster.host.run(&["nft", "delete table ip filter"]).ok();
    assert!(said.contains("warning") && said.contains("FORWARD"), "{said}");
}

/// A file system of its own for a server's data; its path inside.
fn small_disk(cluster: &Cluster, mebibytes: u32) -> &'static str {
    let line = format!("mkdir -p /srv/small && mount -t tmpfs -o size={mebibytes}m tmpfs /srv/small");
    cluster.host.run(&["sh", "-c", &line]).ok();
    "/srv/small"
}

fn a_full_disk_is_told_at_the_start(cluster: &Cluster) {
    let dir = small_disk(cluster, 8);
    let refused = cluster.host.run(&[KNARR, "server", "--node-ip=192.0.2.1", "--data-dir", dir]).refused();
    cluster.host.run(&["umount", dir]).ok();
    assert!(refused.contains("MiB are free") && refused.contains(dir), "{refused}");
}

fn a_disk_that_fills_up_fails_writes_and_no_more(cluster: &Cluster) {
    let dir = small_disk(cluster, 200);
    let mut server = cluster.host.spawn(&[KNARR, "server", "--node-ip=192.0.2.1", "--data-dir", dir]);
    server.wait_for_text("Ready after", seconds(30));
    cluster.kubectl(&["create", "configmap", "before"]).ok();
    cluster.host.run(&["sh", "-c", &format!("cat /dev/zero > {dir}/ballast; true")]);
    let big = cluster.host.file("big", "x".repeat(900_000));
    let mut acknowledged = Vec::new();
    let refused = wait_for("a write is refused", seconds(60), || {
        let name = format!("big-{}", acknowledged.len());
        let seen = cluster.kubectl(&["create", "configmap", &name, &format!("--from-file={big}")]);
        if seen.code != 0 {
            return Ok(seen.stderr);
        }
        acknowledged.push(name);
        Err(format!("{} writes went through", acknowledged.len()))
    });
    assert!(refused.contains("space") || refused.contains("disk"), "it says why: {refused}");
    let names = cluster.kubectl(&["get", "configmaps", "-o", "name"]).ok();
    assert!(names.contains("configmap/before"), "reads go on: {names}");
    cluster.host.run(&["rm", &format!("{dir}/ballast")]).ok();
    // The server may go on by itself or stop with its reason for the service manager to start it again.
    if cluster.kubectl(&["create", "configmap", "after"]).code != 0 {
        server.signal("KILL");
        server.wait_for_end(seconds(20));
        server = cluster.host.spawn(&[KNARR, "server", "--node-ip=192.0.2.1", "--data-dir", dir]);
        server.wait_for_text("Ready after", seconds(30));
        cluster.kubectl(&["create", "configmap", "after"]).ok();
    }
    let names = cluster.kubectl(&["get", "configmaps", "-o", "name"]).ok();
    for name in acknowledged {
        assert!(
            names.contains(&format!("configmap/{name}\n")),
            "{name} was acknowledged and is gone: {names}"
        );
    }
    server.signal("TERM");
    server.wait_for_end(seconds(20));
    cluster.host.run(&["umount", dir]).ok();
}

fn under_sudo_the_context_goes_to_the_invoking_user(cluster: &Cluster) {
    let home = format!("{INSIDE}/files/carol");
    let passwd = cluster
        .host
        .file("passwd", format!("root:x:0:0:root:/root:/bin/sh\ncarol:x:4321:4322::{home}:/bin/sh\n"));
    cluster
        .host
        .run(&[
            "sh",
            "-c",
            &format!("mkdir -p {home} && chown 4321:4322 {home} && mount --bind {passwd} /etc/passwd"),
        ])
        .ok();
    let data = format!("{INSIDE}/files/carols-data");
    let mut server = cluster.host.spawn(&[
        "env",
        "SUDO_UID=4321",
        "SUDO_GID=4322",
        KNARR,
        "server",
        "--node-ip=192.0.2.1",
        "--data-dir",
        &data,
    ]);
    server.wait_for_text("/carol/.kube/config", seconds(30));
    let owner = cluster
        .host
        .run(&["stat", "-c", "%u:%g %a", &format!("{home}/.kube"), &format!("{home}/.kube/config")])
        .ok();
    assert!(owner.starts_with("4321:4322 7") && owner.ends_with("4321:4322 600\n"), "{owner}");
    server.signal("TERM");
    server.wait_for_end(seconds(20));
    cluster.host.run(&["umount", "/etc/passwd"]).ok();
}

fn certificates_follow_the_machines_addresses(cluster: &Cluster) {
    cluster.start();
    let (code, _) = cluster.raw(&[], "/version", b"");
    assert_eq!(code, 200);
    let ca = format!("{INSIDE}/files/ca.crt");
    let ask = |address: &str| {
        cluster.host.run(&[
            "curl",
            "-sS",
            "--max-time",
            "5",
            "--cacert",
            &ca,
            &format!("https://{address}:6443/readyz"),
        ])
    };
    assert_eq!(ask("10.244.0.1").ok(), "ok");
    cluster.host.run(&["ip", "addr", "add", "192.0.2.77/32", "dev", "lo"]).ok();
    wait_for("the new address is in the certificate", seconds(30), || ask("192.0.2.77").result());
    assert_eq!(cluster.kubectl(&["get", "nodes"]).code, 0, "the kubeconfig works on");
    cluster.host.run(&["ip", "addr", "del", "192.0.2.77/32", "dev", "lo"]).ok();
    cluster.knarr(&["down"]).ok();
}

fn up_goes_to_the_background_when_told(cluster: &Cluster) {
    let said = cluster.knarr(&["up", "-d"]).ok();
    assert!(said.contains("Ready after"), "{said}");
    assert!(cluster.knarr(&["status"]).ok().contains("ready"));
    assert!(cluster.kubectl(&["get", "nodes"]).ok().contains("Ready"));
    cluster.knarr(&["down"]).ok();
    assert!(cluster.knarr(&["status"]).refused().contains("no cluster is running"));
}
