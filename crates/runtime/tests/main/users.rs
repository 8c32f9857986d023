//! Pods with users of their own (KEP-127).

use super::pod::{Pod, Test, collect, exec_spec};
use knarr_runtime::spec::{
    ContainerSpec, IdMapping, Mount, MountKind, Propagation, SandboxSpec, State, UserNamespace,
};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

/// The first id of the host that is the pod's.
const FIRST: u32 = 7 << 16;

fn sandbox(test: &Test, uid: &str) -> SandboxSpec {
    let ids = vec![IdMapping { container_id: 0, host_id: FIRST, size: 1 << 16 }];
    let user_namespace = Some(UserNamespace { uids: ids.clone(), gids: ids });
    SandboxSpec { user_namespace, ..test.sandbox(uid) }
}

fn volume(source: &Path, target: &str, read_only: bool) -> Mount {
    Mount {
        source: source.to_owned(),
        target: target.into(),
        kind: MountKind::Bind,
        read_only,
        recursive_read_only: false,
        propagation: Propagation::None,
        options: vec![],
    }
}

/// User and group of a file on the host.
fn owner(path: &Path) -> (u32, u32) {
    let meta = std::fs::metadata(path).unwrap();
    (meta.uid(), meta.gid())
}

async fn first_process(pod: &Pod<'_>, spec: ContainerSpec) -> (String, i32) {
    let id = pod.start(spec).await.unwrap();
    let known = pod.runtime.sandbox(&pod.uid).unwrap();
    let status = known.containers.iter().find(|c| c.id == id).unwrap();
    assert_eq!(status.state, State::Running);
    (id, status.pid.unwrap())
}

pub async fn a_pod_has_users_of_its_own(test: &Test) {
    let mut wanted = sandbox(test, "users");
    wanted.sysctls = [
        ("net.ipv4.ip_unprivileged_port_start".to_owned(), "77".to_owned()),
        ("kernel.shm_rmid_forced".to_owned(), "1".to_owned()),
    ]
    .into();
    let pod = test.pod(wanted).await;
    let map = format!("{:>10} {FIRST:>10} {:>10}\n", 0, 1 << 16);
    assert_eq!(
        pod.output("cat /proc/self/uid_map; cat /proc/self/gid_map; id -u").await,
        format!("{map}{map}0\n")
    );
    assert_eq!(pod.output("hostname; echo $$; ls -1 /proc | grep -c '^[0-9]*$'").await, "users\n1\n3\n");
    let sysctls = "cd /proc/sys; cat net/ipv4/ip_unprivileged_port_start kernel/shm_rmid_forced";
    assert_eq!(pod.output(sysctls).await, "77\n1\n");
    assert!(pod.output("ip -o addr show dev lo").await.contains("127.0.0.1/8"), "loopback is up");
    pod.output("echo shared > /dev/shm/x").await;
    assert_eq!(pod.output("cat /dev/shm/x; stat -c %u:%g /dev/shm/x").await, "shared\n0:0\n");
    // The image's files and the container's own have the right owners.
    assert_eq!(pod.output("touch /mine && stat -c %u:%g / /bin/sh /mine").await, "0:0\n0:0\n0:0\n");
    pod.output(
        "echo x > /dev/null && head -c 1 /dev/zero >/dev/null && test -c /dev/full && test -d /sys/class/net",
    )
    .await;
    // Streams can be opened anew, as images do whose logs are links to them.
    assert_eq!(pod.output("echo again > /dev/stdout").await, "again\n");
    let mut other =
        test.container("id -u; id -G; echo again > /dev/stdout; touch /dev/shm/y && stat -c %u /dev/shm/y");
    other.user = "1000:1000".to_owned();
    other.supplemental_groups = vec![3000];
    let ended = pod.run(other).await;
    assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("1000\n1000 3000\nagain\n1000\n", ""));
    // What would have to be the host's root is refused.
    let mut strong = test.container("mknod /x b 7 0; mkdir /mnt; mount -t tmpfs none /mnt && echo mounted; umount /proc/sys; echo 1 > /proc/sysrq-trigger");
    strong.cap_add = vec!["ALL".to_owned()];
    strong.seccomp = knarr_runtime::spec::Seccomp::Unconfined;
    let ended = pod.run(strong).await;
    assert_eq!(ended.stdout, "mounted\n", "{}", ended.stderr);
    assert!(ended.stderr.contains("mknod: /x: Operation not permitted"), "{}", ended.stderr);
    let mut limited = test.container("ulimit -n; cat /proc/self/oom_score_adj; exit 7");
    limited.rlimits = vec![("RLIMIT_NOFILE".to_owned(), 100, 1000)];
    let ended = pod.run(limited).await;
    assert_eq!((ended.stdout.as_str(), ended.status.exit_code), ("100\n500\n", 7));
}

pub async fn root_of_such_a_pod_is_nobody_on_the_host(test: &Test) {
    let pod = test.pod(sandbox(test, "nobody")).await;
    let dir = test.path("volume");
    let secret = test.path("secret");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(&secret, "s3cret\n").unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o400)).unwrap();
    let mut spec = test.container(
        "cat /secret; stat -c %u:%g /secret; touch /data/root; touch /data/web; chown 33:34 /data/web; touch /own; sleep 1000",
    );
    spec.mounts = vec![volume(&dir, "/data", false), volume(&secret, "/secret", true)];
    let (log, upper) = (spec.log_path.clone(), spec.rootfs.upper.clone());
    let (id, pid) = first_process(&pod, spec).await;
    test.until("the container's file", || upper.join("own").exists()).await;
    assert_eq!(owner(Path::new(&format!("/proc/{pid}"))), (FIRST, FIRST));
    // What was said before that is perhaps still on its way to the log.
    let said = || super::pod::read_log(&log, "stdout");
    test.until("the container's words", || said().lines().count() == 2).await;
    assert_eq!(said(), "s3cret\n0:0\n");
    // Volumes are on disk as if there were no mapping; what is the container's own is the pod's.
    assert_eq!((owner(&dir.join("root")), owner(&dir.join("web"))), ((0, 0), (33, 34)));
    assert_eq!(owner(&upper.join("own")), (FIRST, FIRST));
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(
        status.lines().any(|line| line == format!("Uid:\t{FIRST}\t{FIRST}\t{FIRST}\t{FIRST}")),
        "{status}"
    );

    let script =
        "id -u; cat /proc/self/uid_map | wc -l; echo again > /dev/stdout; touch /data/exec; echo $PPID";
    assert_eq!(pod.exec(&id, &["sh", "-c", script]).await, (0, "0\n1\nagain\n0\n".to_owned(), String::new()));
    assert_eq!(owner(&dir.join("exec")), (0, 0));
    let mut terminal = exec_spec(&["sh", "-c", "tty; stat -c %u $(tty)"]);
    (terminal.tty, terminal.stderr) = (true, false);
    let session = pod.runtime.exec(&pod.uid, &id, terminal).await.unwrap();
    let (code, out, _) = test.soon("the end of the exec", collect(session)).await;
    assert_eq!((code, out.as_str()), (0, "/dev/pts/0\r\n0\r\n"));
    let ended = pod.runtime.stop_container(&pod.uid, &id, Duration::ZERO, "SIGKILL").await.unwrap();
    assert_eq!((ended.exit_code, ended.pid), (137, None));

    let mut terminal = test.container("tty; exit 3");
    terminal.tty = true;
    let ended = pod.run(terminal).await;
    assert_eq!((ended.stdout.as_str(), ended.status.exit_code), ("/dev/pts/0\n", 3));
}

pub async fn such_a_pods_containers_can_share_processes(test: &Test) {
    let wanted = SandboxSpec { share_process_namespace: true, ..sandbox(test, "shared") };
    let pod = test.pod(wanted).await;
    let (_, pid) = first_process(&pod, test.container("exec sleep 1234")).await;
    assert_eq!(owner(Path::new(&format!("/proc/{pid}"))), (FIRST, FIRST));
    let seen = pod.output("for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; done").await;
    assert!(seen.contains("sleep 1234"), "{seen}");
    let other = test.pod(sandbox(test, "target")).await;
    let mut sleeping = test.container("");
    sleeping.args = ["sleep", "4321"].map(str::to_owned).into();
    let (id, _) = first_process(&other, sleeping).await;
    let mut debug = test.container("tr '\\0' ' ' < /proc/1/cmdline; kill 1; echo $?");
    debug.pid_of = Some(id);
    assert_eq!(other.run(debug).await.stdout, "sleep 4321 0\n");
}

pub async fn what_such_a_pod_cannot_have_says_why(test: &Test) {
    let pod = test.pod(sandbox(test, "refused")).await;
    let failure = |spec| async { pod.start(spec).await.unwrap_err().to_string() };
    let mut spec = test.container("true");
    spec.mounts = vec![volume(Path::new("/proc/self"), "/x", false)];
    let said = failure(spec).await;
    assert!(said.contains("failed to set MOUNT_ATTR_IDMAP on /proc/self: invalid argument (maybe the filesystem used doesn't support idmap mounts on this kernel?)"), "{said}");
    let mut spec = test.container("true");
    spec.args = vec!["/no/such".to_owned()];
    let said = failure(spec).await;
    assert!(said.contains("no such file or directory"), "{said}");
    assert_eq!(pod.output("echo well").await, "well\n");
    let runtime = test.runtime().await;
    let host = SandboxSpec { host_pid: true, ..sandbox(test, "host") };
    let said = runtime.create_sandbox(host).await.unwrap_err().to_string();
    assert!(said.contains("cannot share namespaces with the host"), "{said}");
}
