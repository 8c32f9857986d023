//! The cases.

use super::pod::{self, MARK, Test, collect, exec_spec, read_log};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use knarr_runtime::spec::{Event, ExecSpec, Mount, MountKind, Propagation, Resources, Seccomp, State, User};
use knarr_runtime::{Runtime, RuntimeError};
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

type Case = for<'a> fn(&'a Test) -> LocalBoxFuture<'a, ()>;

macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        /// All of them.
        pub const ALL: &[(&str, Case)] = &[$((stringify!($name), |test| $name(test).boxed_local())),*];
    };
}

use crate::handler::{
    a_runtime_that_hangs_is_ended, a_runtime_that_is_not_there_is_told, another_runtime_runs_the_containers,
};
use crate::oci::{
    oci_a_signal_waits_for_a_program_just_started, oci_configuration_holds, oci_events_and_limits,
    oci_life_of_a_container, oci_sockets_and_cgroups_are_passed, oci_start_waits_for_readiness,
    oci_user_namespace_and_hooks,
};
use crate::users::{
    a_pod_has_users_of_its_own, root_of_such_a_pod_is_nobody_on_the_host,
    such_a_pods_containers_can_share_processes, what_such_a_pod_cannot_have_says_why,
};

cases![
    oci_life_of_a_container,
    oci_configuration_holds,
    oci_user_namespace_and_hooks,
    oci_a_signal_waits_for_a_program_just_started,
    oci_events_and_limits,
    oci_sockets_and_cgroups_are_passed,
    oci_start_waits_for_readiness,
    another_runtime_runs_the_containers,
    a_runtime_that_hangs_is_ended,
    a_runtime_that_is_not_there_is_told,
    a_container_runs_and_its_output_and_exit_code_are_kept,
    a_killed_daemon_loses_neither_containers_nor_log_lines,
    a_sandbox_has_namespaces_of_its_own,
    host_namespaces_are_the_hosts,
    processes_are_shared_when_asked,
    a_container_joins_the_processes_of_its_target,
    a_container_is_confined_by_default,
    a_privileged_container_is_not_confined,
    users_and_groups_are_those_of_the_image,
    what_cannot_start_says_why,
    mounts_are_as_asked_and_never_leave_the_root,
    mounts_propagate_as_asked,
    limits_reach_the_cgroup_and_memory_kills_are_told,
    exec_runs_beside_the_container,
    exec_with_a_terminal,
    attach_moves_input_and_output,
    a_container_with_a_terminal,
    stopping_asks_first_and_kills_then,
    a_dead_shim_takes_its_containers_along,
    a_reboot_ends_every_pod,
    a_dead_zygote_is_replaced,
    long_lines_and_full_logs,
    removal_is_idempotent_and_ids_are_unique,
    many_pods_at_once,
    a_pod_has_users_of_its_own,
    root_of_such_a_pod_is_nobody_on_the_host,
    such_a_pods_containers_can_share_processes,
    what_such_a_pod_cannot_have_says_why,
];

async fn a_container_runs_and_its_output_and_exit_code_are_kept(test: &Test) {
    let pod = test.pod(test.sandbox("hello")).await;
    let mut spec = test.container("echo Hello; echo oops >&2; echo -n unfinished; exit 3");
    spec.env = vec!["A=b".to_owned()];
    let ended = pod.run(spec).await;
    assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("Hello\nunfinished", "oops\n"));
    assert_eq!(ended.status.exit_code, 3);
    assert!(!ended.status.oom_killed);
    assert!(ended.status.created_at_ns <= ended.status.started_at_ns);
    assert!(ended.status.started_at_ns <= ended.status.finished_at_ns);
    assert_eq!(ended.status.labels["io.kubernetes.container.name"], "main");
    assert_eq!(pod.output("cd /nonexistent 2>/dev/null || pwd").await, "/\n");
    let known = pod.runtime.sandbox(&pod.uid).unwrap();
    assert_eq!(known.containers.len(), 2);
    assert!(known.containers.iter().all(|c| c.state == State::Exited));
    pod.runtime.remove_container(&pod.uid, &ended.status.id).await.unwrap();
    assert_eq!(pod.runtime.sandbox(&pod.uid).unwrap().containers.len(), 1);
    assert_eq!(
        pod.run(test.container("kill -9 $$; sleep 1")).await.status.exit_code,
        0,
        "init ignores its own kill"
    );
}

async fn a_killed_daemon_loses_neither_containers_nor_log_lines(test: &Test) {
    let program = std::env::current_exe().unwrap();
    let mut daemon = tokio::process::Command::new(program)
        .arg(pod::DAEMON)
        .arg(test.dir.path())
        .arg(&test.cgroup)
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(daemon.stdout.take().unwrap()).lines();
    let ready = test.soon("the daemon", lines.next_line()).await.unwrap();
    assert_eq!(ready.as_deref(), Some("ready"));
    let log = test.path("counting/0.log");
    let count = || read_log(&log, "stdout").lines().count();
    test.until("the first lines", || count() > 3).await;
    daemon.kill().await.unwrap(); // SIGKILL
    let at_death = count();
    test.until("lines while there is no daemon", || count() > at_death + 5).await;

    let runtime = test.runtime().await;
    let sandboxes = runtime.sandboxes();
    assert_eq!(sandboxes.len(), 1);
    let status = &sandboxes[0].containers[0];
    assert!(sandboxes[0].ready);
    assert_eq!(status.state, State::Running);
    let uid = sandboxes[0].spec.pod_uid.clone();
    let session = runtime.exec(&uid, &status.id, exec_spec(&["echo", "still here"])).await.unwrap();
    assert_eq!(collect(session).await, (0, "still here\n".to_owned(), String::new()));
    let at_adoption = count();
    test.until("lines for the new daemon", || count() > at_adoption + 5).await;
    let ended = runtime.stop_container(&uid, &status.id, Duration::ZERO, "SIGKILL").await.unwrap();
    assert_eq!((ended.exit_code, ended.pid), (137, None));
    for (at, line) in read_log(&log, "stdout").lines().enumerate() {
        assert_eq!(line, format!("line {}", at + 1), "a line is lost or doubled");
    }
}

async fn a_sandbox_has_namespaces_of_its_own(test: &Test) {
    let mut spec = test.sandbox("own");
    spec.sysctls = [("net.ipv4.ip_unprivileged_port_start".to_owned(), "77".to_owned())].into();
    spec.domainname = Some("example".to_owned());
    let pod = test.pod(spec).await;
    assert_eq!(pod.output("hostname; echo $HOSTNAME").await, "own\nown\n");
    assert_eq!(
        pod.output("ip -o link | wc -l; ip -o addr show lo up | head -n 1").await.lines().next(),
        Some("1")
    );
    assert!(pod.output("ip -o addr show dev lo").await.contains("127.0.0.1/8"), "loopback is up");
    assert_eq!(pod.output("cat /proc/sys/net/ipv4/ip_unprivileged_port_start").await, "77\n");
    assert_eq!(pod.output("echo $$").await, "1\n");
    // Shared memory is the pod's, not the container's.
    pod.output("echo shared > /dev/shm/x").await;
    assert_eq!(pod.output("cat /dev/shm/x").await, "shared\n");
    let status = pod.runtime.sandbox(&pod.uid).unwrap();
    let netns = |path: &Path| std::fs::read_link(path).unwrap();
    assert_ne!(netns(&status.netns), netns(Path::new("/proc/self/ns/net")));
    assert_eq!(status.netns, Path::new(&format!("/proc/{}/ns/net", status.shim_pid)));
    assert!(!Path::new("/dev/shm/x").exists());
}

async fn host_namespaces_are_the_hosts(test: &Test) {
    let mut spec = test.sandbox("host");
    (spec.host_network, spec.host_pid, spec.host_ipc) = (true, true, true);
    let pod = test.pod(spec).await;
    let id = pod.start(test.container("sleep 300 & sleep 300")).await.unwrap();
    let links = pod.output("for n in net pid ipc uts; do readlink /proc/self/ns/$n; done").await;
    let own: String = ["net", "pid", "ipc", "uts"]
        .iter()
        .map(|n| std::fs::read_link(format!("/proc/self/ns/{n}")).unwrap().display().to_string() + "\n")
        .collect();
    assert_eq!(links, own);
    let here = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(pod.output("hostname; echo $HOSTNAME").await, format!("{here}{here}"));
    // Without a PID namespace of its own the whole container ends all the same.
    let both = async {
        while pod.runtime.usage(&pod.uid, Some(&id)).await.unwrap().pids < 2 {
            test.ctx.clock.sleep(Duration::from_millis(1)).await;
        }
    };
    test.soon("both processes of the container", both).await;
    pod.runtime.stop_container(&pod.uid, &id, Duration::ZERO, "SIGKILL").await.unwrap();
    assert!(pod.runtime.usage(&pod.uid, Some(&id)).await.is_err());
    let mut processes = u64::MAX;
    while processes > 0 {
        processes = test.soon("the end", pod.runtime.usage(&pod.uid, None)).await.unwrap().pids;
        test.ctx.clock.sleep(Duration::from_millis(1)).await;
    }
}

async fn processes_are_shared_when_asked(test: &Test) {
    let mut spec = test.sandbox("shared");
    spec.share_process_namespace = true;
    let pod = test.pod(spec).await;
    let id = pod.start(test.container("sleep 300 & exec sleep 301")).await.unwrap();
    let seen = pod
        .output("ps -o pid,args; readlink /proc/1/root; ls /proc/1/root/ /proc/1/cwd/; cat /proc/1/environ")
        .await;
    assert!(seen.contains("sleep 301"), "{seen}");
    assert!(!seen.contains("etc"), "the first process leads nowhere: {seen}");
    let ended = pod.runtime.stop_container(&pod.uid, &id, Duration::ZERO, "SIGKILL").await.unwrap();
    assert_eq!(ended.exit_code, 137);
    assert!(
        !pod.output("ps -o args").await.contains("sleep 30"),
        "the container's other process is gone too"
    );
}

async fn a_container_joins_the_processes_of_its_target(test: &Test) {
    let pod = test.pod(test.sandbox("target")).await;
    let mut sleeping = test.container("");
    sleeping.args = ["sleep", "301"].map(str::to_owned).into();
    let target = pod.start(sleeping).await.unwrap();
    let mut eye = test.container("tr '\\0' ' ' < /proc/1/cmdline; sleep 302 & exit 0");
    eye.pid_of = Some(target.clone());
    let ended = pod.run(eye).await;
    assert_eq!((ended.stdout.trim(), ended.status.exit_code), ("sleep 301", 0), "{}", ended.stderr);
    let seen = pod.exec(&target, &["ps", "-o", "args"]).await.1;
    assert!(
        seen.contains("sleep 301") && !seen.contains("sleep 302"),
        "what it left is gone with it: {seen}"
    );
    pod.runtime.stop_container(&pod.uid, &target, Duration::ZERO, "SIGKILL").await.unwrap();
    let mut late = test.container("true");
    late.pid_of = Some(target);
    let error = pod.start(late).await.unwrap_err().to_string();
    assert!(error.contains("is not running"), "{error}");
}

async fn a_container_is_confined_by_default(test: &Test) {
    let pod = test.pod(test.sandbox("confined")).await;
    let mut spec = test.container("");
    spec.args = vec!["cat".to_owned(), "/proc/self/status".to_owned()];
    let status = pod.run(spec).await.stdout;
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_ascii_whitespace().nth(1).unwrap_or_default().to_owned()
    };
    for (name, value) in [
        ("CapInh", "0000000000000000"),
        ("CapPrm", "00000000a80425fb"),
        ("CapEff", "00000000a80425fb"),
        ("CapBnd", "00000000a80425fb"),
        ("CapAmb", "0000000000000000"),
        ("Seccomp:", "2"),
        ("NoNewPrivs", "0"),
        ("SigBlk", "0000000000000000"),
        ("SigIgn", "0000000000000000"),
    ] {
        assert_eq!(field(name), value, "{name}");
    }
    assert_eq!(pod.output("cat /proc/self/oom_score_adj").await, "500\n");
    for (script, why) in [
        ("mount -t tmpfs x /mnt", "no mounts"),
        ("unshare -U true", "no user namespaces"),
        ("echo 1 > /proc/sys/net/ipv4/ip_forward", "sysctls are read-only"),
        ("echo x > /sys/kernel/profiling", "sysfs is read-only"),
        ("mknod /tmp/mem c 1 1; mknod mem c 1 1 && head -c 1 mem", "the device is not allowed"),
        ("mkdir /sys/fs/cgroup/pids/x || mkdir /sys/fs/cgroup/x", "the cgroup is read-only"),
        ("test -e /sys/fs/cgroup/unified", "v1 hides the v2 mount"),
        ("ls -A /sys/firmware | cat | tr -d '\\n' | wc -c | test $(cat) -gt 0", "firmware is masked"),
        ("head -c 1 /proc/kcore | wc -c | test $(cat) -gt 0", "kernel memory is masked"),
    ] {
        let ended = pod.run(test.container(script)).await;
        assert_ne!(ended.status.exit_code, 0, "{why}: {}{}", ended.stdout, ended.stderr);
    }
    assert_eq!(
        pod.output("echo data > /dev/null; head -c 4 /dev/zero | wc -c; ls /dev/pts").await,
        "4\nptmx\n"
    );
    assert_eq!(
        pod.output("ls /proc/self/fd").await,
        "0\n1\n2\n3\n",
        "no descriptor of the shim's is left open"
    );
    assert!(
        pod.output("cat /proc/self/mountinfo")
            .await
            .lines()
            .all(|l| !l.contains(MARK) || l.contains("overlay"))
    );

    let mut spec = test.container("cat /proc/self/status");
    spec.cap_drop = vec!["ALL".to_owned()];
    spec.cap_add = vec!["NET_BIND_SERVICE".to_owned()];
    spec.no_new_privileges = true;
    spec.rlimits = vec![("RLIMIT_NOFILE".to_owned(), 100, 200)];
    let status = pod.run(spec).await.stdout;
    assert!(status.contains("CapEff:\t0000000000000400"), "{status}");
    assert!(status.contains("NoNewPrivs:\t1") && status.contains("Seccomp:\t2"), "{status}");

    let profile = test.path("profile.json");
    let text = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":28}]}"#;
    std::fs::write(&profile, text).unwrap();
    let mut spec = test.container("mkdir /x");
    spec.seccomp = Seccomp::Localhost(profile.clone());
    let ended = pod.run(spec.clone()).await;
    assert!(ended.stderr.contains("No space left on device"), "{}", ended.stderr);
    spec.id = test.container("").id;
    spec.args = vec!["sleep".to_owned(), "300".to_owned()];
    let id = pod.start(spec).await.unwrap();
    std::fs::remove_file(profile).unwrap();
    assert!(
        pod.exec(&id, &["mkdir", "/x"]).await.2.contains("No space left on device"),
        "it is kept for execs"
    );
}

async fn a_privileged_container_is_not_confined(test: &Test) {
    let pod = test.pod(test.sandbox("privileged")).await;
    let mut spec = test.container(
        "mkdir /m && mount -t tmpfs x /m && cat /proc/self/status && echo 0 > /proc/sys/net/ipv4/ip_forward && ls /dev",
    );
    spec.privileged = true;
    let ended = pod.run(spec).await;
    assert_eq!(ended.status.exit_code, 0, "{}", ended.stderr);
    assert!(ended.stdout.contains("Seccomp:\t0"));
    assert!(ended.stdout.contains("kmsg"), "all devices are there");
}

async fn users_and_groups_are_those_of_the_image(test: &Test) {
    let pod = test.pod(test.sandbox("users")).await;
    let who = "id -u; id -g; id -G; echo $HOME; echo writable > /dev/stderr";
    for (user, expected, (uid, gid, groups)) in [
        ("", "0\n0\n0\n/root\n", (0, 0, vec![0])),
        ("web", "33\n34\n34 50 60\n/srv/web\n", (33, 34, vec![34, 50, 60])),
        ("1234:7", "1234\n7\n7 60\n/\n", (1234, 7, vec![7, 60])),
    ] {
        let mut spec = test.container(who);
        spec.user = user.to_owned();
        if !user.is_empty() {
            spec.supplemental_groups = vec![60];
        }
        let ended = pod.run(spec).await;
        assert_eq!(ended.stdout, expected, "user {user:?}");
        assert_eq!(ended.stderr, "writable\n", "the streams belong to user {user:?}");
        assert_eq!(ended.status.user, Some(User { uid, gid, groups }), "what is told of user {user:?}");
    }
    let mut spec = test.container("true");
    spec.must_not_be_root = true;
    assert!(matches!(pod.start(spec).await, Err(RuntimeError::MustNotBeRoot)));
    // A user who is not root has no capabilities after the exec.
    let mut spec = test.container("cat /proc/self/status");
    spec.user = "web".to_owned();
    assert!(pod.run(spec).await.stdout.contains("CapEff:\t0000000000000000"));
}

async fn what_cannot_start_says_why(test: &Test) {
    let pod = test.pod(test.sandbox("failing")).await;
    let prefix = "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: ";
    std::fs::write(test.path("layer/bin/notexec"), "x").unwrap();
    for (args, expected) in [
        (vec!["nonesuch"], "exec: \"nonesuch\": executable file not found in $PATH"),
        (vec!["/nonesuch", "x"], "exec: \"/nonesuch\": stat /nonesuch: no such file or directory"),
        (vec!["/bin/notexec"], "exec: \"/bin/notexec\": permission denied"),
    ] {
        let mut spec = test.container("");
        let id = spec.id.clone();
        spec.args = args.into_iter().map(str::to_owned).collect();
        let error = pod.start(spec).await.unwrap_err();
        assert!(matches!(error, RuntimeError::Start(_)));
        assert_eq!(error.to_string(), format!("{prefix}{expected}: unknown"));
        let status = pod.runtime.sandbox(&pod.uid).unwrap();
        let status = status.containers.iter().find(|c| c.id == id).unwrap().clone();
        assert_eq!((status.state, status.exit_code), (State::Exited, 128));
        pod.runtime.remove_container(&pod.uid, &id).await.unwrap();
    }
    let mut spec = test.container("true");
    spec.user = "nobody".to_owned();
    let error = pod.start(spec).await.unwrap_err().to_string();
    assert!(error.contains("unable to find user nobody: no matching entries in passwd file"), "{error}");
    let mut spec = test.container("true");
    spec.mounts = vec![bind(&test.path("absent"), "/x")];
    let error = pod.start(spec).await.unwrap_err().to_string();
    assert!(error.contains("absent: no such file or directory"), "{error}");
    // What the kernel refuses to run after it was found: the reason is in the log, as with runc.
    use std::os::unix::fs::PermissionsExt;
    let script = test.path("layer/bin/badscript");
    std::fs::write(&script, "no shebang here").unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut spec = test.container("");
    spec.args = vec!["badscript".to_owned()];
    let ended = pod.run(spec).await;
    assert_eq!(ended.status.exit_code, 255);
    assert_eq!(ended.stderr, "exec /bin/badscript: exec format error\n");
    // The pod is none the worse for it.
    assert_eq!(pod.output("echo fine").await, "fine\n");
}

fn bind(source: &Path, target: &str) -> Mount {
    Mount {
        source: source.to_owned(),
        target: target.into(),
        kind: MountKind::Bind,
        read_only: false,
        recursive_read_only: false,
        propagation: Propagation::None,
        options: vec![],
    }
}

async fn mounts_are_as_asked_and_never_leave_the_root(test: &Test) {
    let pod = test.pod(test.sandbox("mounts")).await;
    let volume = test.path("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("file"), "content\n").unwrap();
    std::os::unix::fs::symlink("/../../..", test.path("layer/escape")).unwrap();
    let mut spec = test.container(
        "cat /v/file /ro/file /one /escape/inside/file; echo new > /v/new; echo x > /ro/x; mount | wc -l; echo $(ls /t)",
    );
    spec.mounts = vec![
        bind(&volume, "/v"),
        Mount { read_only: true, ..bind(&volume, "/ro") },
        Mount { read_only: true, recursive_read_only: true, ..bind(&volume.join("file"), "/one") },
        bind(&volume, "/escape/inside"),
        Mount { kind: MountKind::Tmpfs, options: vec!["size=1m".to_owned()], ..bind(Path::new(""), "/t") },
    ];
    let ended = pod.run(spec).await;
    assert!(ended.stdout.starts_with("content\ncontent\ncontent\ncontent\n"), "{}", ended.stdout);
    assert!(ended.stderr.contains("Read-only file system"), "{}", ended.stderr);
    assert_eq!(std::fs::read_to_string(volume.join("new")).unwrap(), "new\n");
    assert!(!Path::new("/inside").exists(), "the link of the image led out of it");

    let mut spec = test.container("echo x > /file; echo y > /w/new2; echo z > /dev/shm/z && cat /w/new2");
    spec.read_only_rootfs = true;
    spec.cwd = "/made/for/it".to_owned();
    spec.mounts = vec![bind(&volume, "/w")];
    let ended = pod.run(spec).await;
    assert_eq!((ended.stdout.as_str(), ended.status.exit_code), ("y\n", 0), "{}", ended.stderr);
    assert!(ended.stderr.contains("Read-only file system"), "{}", ended.stderr);

    // Files written to the root are in the upper layer only.
    pod.output("echo x > /only-here").await;
    assert!(!test.path("layer/only-here").exists());
}

/// A mount of the host that is shared with its copies, while the case runs.
struct Shared<'a>(&'a Path);

impl<'a> Shared<'a> {
    fn new(place: &'a Path) -> Self {
        use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
        std::fs::create_dir(place).unwrap();
        mount("tmpfs", place, "tmpfs", MountFlags::empty(), None).unwrap();
        mount_change(place, MountPropagationFlags::SHARED).unwrap();
        Self(place)
    }
}

impl Drop for Shared<'_> {
    fn drop(&mut self) {
        for place in [self.0.join("host"), self.0.join("container"), self.0.to_owned()] {
            let _ = rustix::mount::unmount(place, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

async fn mounts_propagate_as_asked(test: &Test) {
    let pod = test.pod(test.sandbox("propagation")).await;
    let volume = test.path("volume");
    std::fs::create_dir(&volume).unwrap();
    // The test's own directory may be under a mount that is not shared; then it must be refused.
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    if !table.contains(" shared:") {
        let mut spec = test.container("true");
        spec.mounts = vec![Mount { propagation: Propagation::Bidirectional, ..bind(&volume, "/v") }];
        let error = pod.start(spec).await.unwrap_err().to_string();
        assert!(
            error.contains("volume\" is mounted on \"/") && error.contains("\" but it is not a shared mount"),
            "{error}"
        );
    }
    let place = test.path("shared");
    let shared = Shared::new(&place);
    for name in ["host", "container"] {
        std::fs::create_dir(place.join(name)).unwrap();
    }
    let all = [
        ("none", Propagation::None, "false"),
        ("slave", Propagation::HostToContainer, "true"),
        ("both", Propagation::Bidirectional, "true"),
    ];
    let mut ids = Vec::new();
    for (name, propagation, _) in all {
        let mut spec = test.container("sleep 300");
        spec.name = name.to_owned();
        spec.privileged = true;
        spec.mounts = vec![Mount { propagation, ..bind(&place, "/v") }];
        ids.push(pod.start(spec).await.unwrap());
    }
    rustix::mount::mount("tmpfs", place.join("host"), "tmpfs", rustix::mount::MountFlags::empty(), None)
        .unwrap();
    std::fs::write(place.join("host/file"), "x").unwrap();
    for ((name, _, sees), id) in all.iter().zip(&ids) {
        let seen = pod.exec(id, &["sh", "-c", "test -e /v/host/file && echo true || echo false"]).await.1;
        assert_eq!(seen.trim(), *sees, "what the host mounts, in {name}");
    }
    for (id, (name, propagation, _)) in ids.iter().zip(&all) {
        let (code, _, error) =
            pod.exec(id, &["sh", "-c", "mount -t tmpfs x /v/container && touch /v/container/file"]).await;
        assert_eq!(code, 0, "{error}");
        let reaches = *propagation == Propagation::Bidirectional;
        assert_eq!(place.join("container/file").exists(), reaches, "what {name} mounts, on the host");
    }
    drop(shared);
}

async fn limits_reach_the_cgroup_and_memory_kills_are_told(test: &Test) {
    let mut sandbox = test.sandbox("limits");
    sandbox.resources = Resources { cpu_shares: Some(512), ..Resources::default() };
    let pod = test.pod(sandbox).await;
    let mut spec = test.container(
        "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max /sys/fs/cgroup/cpu.max; cat; sleep 300",
    );
    spec.resources = Resources {
        memory_limit_bytes: Some(32 << 20),
        pids_limit: Some(20),
        cpu_quota_us: Some(50_000),
        cpu_period_us: Some(100_000),
        cpu_shares: Some(256),
        ..Resources::default()
    };
    let log = spec.log_path.clone();
    let id = pod.start(spec).await.unwrap();
    test.until("the limits in the log", || read_log(&log, "stdout").lines().count() >= 3).await;
    assert!(read_log(&log, "stdout").starts_with("33554432\n20\n50000"), "{}", read_log(&log, "stdout"));
    let usage = pod.runtime.usage(&pod.uid, Some(&id)).await.unwrap();
    assert!(usage.cpu_usage_ns > 0 && usage.memory_usage_bytes > 0 && usage.pids >= 1, "{usage:?}");
    assert!(usage.memory_working_set_bytes <= usage.memory_usage_bytes);
    let more = Resources { memory_limit_bytes: Some(48 << 20), ..Resources::default() };
    pod.runtime.update_resources(&pod.uid, Some(&id), more).await.unwrap();
    let (_, limit, _) = pod.exec(&id, &["sh", "-c", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max"]).await;
    assert_eq!(limit, "50331648\n");

    let mut spec = test.container("dd if=/dev/zero of=/dev/null bs=64M count=1");
    spec.resources.memory_limit_bytes = Some(16 << 20);
    let ended = pod.run(spec).await;
    assert!(ended.status.oom_killed, "{:?}", ended.status);
    assert_eq!(ended.status.exit_code, 137);
    // Not the one that was killed for another reason.
    let ended = pod.runtime.stop_container(&pod.uid, &id, Duration::ZERO, "SIGKILL").await.unwrap();
    assert_eq!((ended.exit_code, ended.oom_killed), (137, false));
}

async fn exec_runs_beside_the_container(test: &Test) {
    let pod = test.pod(test.sandbox("exec")).await;
    let mut spec = test.container("sleep 300");
    spec.user = "web".to_owned();
    spec.env = vec!["FROM=container".to_owned()];
    spec.cwd = "/etc".to_owned();
    let id = pod.start(spec).await.unwrap();
    let (code, stdout, stderr) =
        pod.exec(&id, &["sh", "-c", "echo $FROM $HOME $HOSTNAME; id -u; pwd; echo err >&2; exit 7"]).await;
    assert_eq!(code, 7);
    assert_eq!(stdout, "container /srv/web exec\n33\n/etc\n");
    assert_eq!(stderr, "err\n");
    assert!(
        pod.exec(&id, &["ps", "-o", "args"]).await.1.contains("sleep 300"),
        "it sees the container's processes"
    );
    assert!(pod.exec(&id, &["cat", "/proc/self/status"]).await.1.contains("Seccomp:\t2"));

    let spec = ExecSpec { stdin: true, ..exec_spec(&["cat"]) };
    let mut session = pod.runtime.exec(&pod.uid, &id, spec).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    let text = "y".repeat(1 << 20);
    let writing = async {
        stdin.write_all(text.as_bytes()).await.unwrap();
        drop(stdin);
    };
    let ((), (code, stdout, _)) = tokio::join!(writing, test.soon("cat", collect(session)));
    assert_eq!((code, stdout.len()), (0, 1 << 20));

    let error = pod.runtime.exec(&pod.uid, &id, exec_spec(&["nonesuch"])).await.err().unwrap().to_string();
    assert!(error.contains("exec: \"nonesuch\": executable file not found in $PATH"), "{error}");
    let session = pod.runtime.exec(&pod.uid, &id, exec_spec(&["sleep", "300"])).await.unwrap();
    session.control.kill();
    assert_eq!(test.soon("the kill", collect(session)).await.0, 137);
    pod.runtime.stop_container(&pod.uid, &id, Duration::ZERO, "SIGKILL").await.unwrap();
    let refused = pod.runtime.exec(&pod.uid, &id, exec_spec(&["true"])).await.err().unwrap();
    assert!(
        matches!(&refused, RuntimeError::WrongState { state, .. } if state == "CONTAINER_EXITED"),
        "{refused}"
    );
}

async fn exec_with_a_terminal(test: &Test) {
    let pod = test.pod(test.sandbox("terminal")).await;
    let id = pod.start(test.container("sleep 300")).await.unwrap();
    let spec = ExecSpec {
        tty: true,
        stdin: true,
        stderr: false,
        ..exec_spec(&["sh", "-c", "tty; echo $TERM; read x; stty size; echo got $x"])
    };
    let mut session = pod.runtime.exec(&pod.uid, &id, spec).await.unwrap();
    assert!(session.stderr.is_none());
    session.control.resize(132, 43);
    let mut begin = [0; 19];
    test.soon("the first lines", session.stdout.as_mut().unwrap().read_exact(&mut begin)).await.unwrap();
    assert_eq!(&begin, b"/dev/pts/0\r\nxterm\r\n");
    let mut stdin = session.stdin.take().unwrap();
    stdin.write_all(b"typed\n").await.unwrap();
    let (code, output, _) = test.soon("the shell", collect(session)).await;
    assert_eq!((code, output.as_str()), (0, "typed\r\n43 132\r\ngot typed\r\n"));
}

async fn attach_moves_input_and_output(test: &Test) {
    let pod = test.pod(test.sandbox("attach")).await;
    let mut spec = test.container("echo begin; cat; echo end");
    (spec.stdin, spec.stdin_once) = (true, true);
    let log = spec.log_path.clone();
    let id = pod.start(spec).await.unwrap();
    let mut session = pod.runtime.attach(&pod.uid, &id, true, true, true).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    let mut stdout = BufReader::new(session.stdout.take().unwrap());
    stdin.write_all(b"through\n").await.unwrap();
    let mut line = String::new();
    while !line.contains("through") {
        line.clear();
        test.soon("the echo", stdout.read_line(&mut line)).await.unwrap();
    }
    drop(stdin); // stdinOnce: the container sees the end of its input.
    let mut rest = String::new();
    test.soon("the rest", stdout.read_to_string(&mut rest)).await.unwrap();
    assert_eq!(rest, "end\n");
    assert_eq!(test.soon("the end", session.exit).await.unwrap(), 0);
    assert_eq!(read_log(&log, "stdout"), "begin\nthrough\nend\n", "the log has it too");

    // Somebody attached who does not read makes the container wait; going away sets it free, and the log has all.
    let mut spec = test.container("read x; seq 100000; echo done");
    spec.stdin = true;
    let log = spec.log_path.clone();
    let mut events = pod.runtime.events();
    let id = pod.start(spec).await.unwrap();
    let mut session = pod.runtime.attach(&pod.uid, &id, true, true, false).await.unwrap();
    session.stdin.as_mut().unwrap().write_all(b"go\n").await.unwrap();
    test.until("the first lines", || read_log(&log, "stdout").lines().count() > 10).await;
    assert!(!read_log(&log, "stdout").contains("done"));
    drop(session);
    assert_eq!(pod.exit(&mut events, &id).await.exit_code, 0);
    assert_eq!(read_log(&log, "stdout").lines().count(), 100_001);
}

async fn a_container_with_a_terminal(test: &Test) {
    let pod = test.pod(test.sandbox("tty")).await;
    let mut spec =
        test.container("tty; echo $TERM; read x; stty size; echo got $x; test -c /dev/console && exit 5");
    (spec.tty, spec.stdin, spec.user) = (true, true, "web".to_owned());
    let log = spec.log_path.clone();
    let mut events = pod.runtime.events();
    let id = pod.start(spec).await.unwrap();
    let mut session = pod.runtime.attach(&pod.uid, &id, true, true, true).await.unwrap();
    assert!(session.stderr.is_none());
    session.control.resize(90, 31);
    session.stdin.as_mut().unwrap().write_all(b"typed\n").await.unwrap();
    let mut output = String::new();
    test.soon("the output", session.stdout.take().unwrap().read_to_string(&mut output)).await.unwrap();
    assert!(output.contains("31 90\r\ngot typed\r\n"), "{output:?}");
    assert_eq!(pod.exit(&mut events, &id).await.exit_code, 5);
    let logged = read_log(&log, "stdout");
    let lines: Vec<&str> = logged.lines().map(str::trim_end).collect();
    assert!(lines.contains(&"/dev/pts/0") && lines.contains(&"xterm"), "{logged:?}");
}

async fn stopping_asks_first_and_kills_then(test: &Test) {
    let pod = test.pod(test.sandbox("stop")).await;
    let spec = test.container("trap 'echo asked; exit 9' TERM; echo ready; while :; do sleep 0.01; done");
    let log = spec.log_path.clone();
    let polite = pod.start(spec).await.unwrap();
    test.until("the trap", || read_log(&log, "stdout").contains("ready")).await;
    let ended = pod.runtime.stop_container(&pod.uid, &polite, pod::LIMIT, "SIGTERM").await.unwrap();
    assert_eq!(ended.exit_code, 9);
    assert_eq!(read_log(&log, "stdout"), "ready\nasked\n");
    let again = pod.runtime.stop_container(&pod.uid, &polite, pod::LIMIT, "SIGTERM").await.unwrap();
    assert_eq!(again.finished_at_ns, ended.finished_at_ns);

    let stubborn = pod.start(test.container("trap '' TERM; while :; do sleep 0.01; done")).await.unwrap();
    let ended =
        pod.runtime.stop_container(&pod.uid, &stubborn, Duration::from_millis(50), "TERM").await.unwrap();
    assert_eq!(ended.exit_code, 137);
    let error = pod.runtime.signal_container(&pod.uid, &stubborn, "SIGNOPE").await.unwrap_err();
    assert_eq!(error.to_string(), "unknown signal \"SIGNOPE\"");
    pod.runtime.signal_container(&pod.uid, &stubborn, "SIGTERM").await.unwrap();
}

async fn a_dead_shim_takes_its_containers_along(test: &Test) {
    let pod = test.pod(test.sandbox("dying")).await;
    let id = pod.start(test.container("sleep 300 & sleep 301")).await.unwrap();
    let status = pod.runtime.sandbox(&pod.uid).unwrap();
    let first = status.containers[0].pid.unwrap();
    let mut events = pod.runtime.events();
    let shim = rustix::process::Pid::from_raw(status.shim_pid).unwrap();
    rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
    let lost = test.soon("the loss", events.recv()).await.unwrap();
    assert!(matches!(lost, Event::SandboxLost { pod_uid } if pod_uid == pod.uid));
    test.until("the end of its containers", || !Path::new(&format!("/proc/{first}")).exists()).await;
    let status = pod.runtime.sandbox(&pod.uid).unwrap();
    assert!(!status.ready);
    assert_eq!((status.containers[0].state, status.containers[0].exit_code), (State::Exited, 255));
    assert!(matches!(pod.runtime.start_container(&pod.uid, &id).await, Err(RuntimeError::SandboxLost(_))));

    // The next daemon finds it dead, too, and can make it anew.
    let ctx = test.ctx.child("second");
    let second = Runtime::open(&ctx, test.options()).await.unwrap();
    let status = second.sandbox(&pod.uid).unwrap();
    assert!(!status.ready);
    assert_eq!((status.containers[0].state, status.containers[0].exit_code), (State::Exited, 255));
    second.remove_sandbox(&pod.uid).await.unwrap();
    pod.runtime.remove_sandbox(&pod.uid).await.unwrap();
    let pod = test.pod(test.sandbox("dying")).await;
    assert_eq!(pod.output("echo again").await, "again\n");
}

async fn a_reboot_ends_every_pod(test: &Test) {
    let pod = test.pod(test.sandbox("rebooted")).await;
    let done = pod.run(test.container("exit 4")).await.status;
    let running = pod.start(test.container("sleep 300")).await.unwrap();
    let dir = test.path("state/pods").join(&pod.uid);
    let record = std::fs::read_to_string(dir.join("state.json")).unwrap();
    pod.runtime.remove_sandbox(&pod.uid).await.unwrap();
    // What a boot before this one would have left.
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert!(record.contains(boot.trim()));
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("state.json"), record.replace(boot.trim(), "an-earlier-boot")).unwrap();
    std::fs::create_dir(test.path("state/pods/half-made")).unwrap();
    std::fs::create_dir(test.path("state/pods/damaged")).unwrap();
    std::fs::write(test.path("state/pods/damaged/state.json"), "{").unwrap();

    let runtime = Runtime::open(&test.ctx.child("after"), test.options()).await.unwrap();
    let sandboxes = runtime.sandboxes();
    assert_eq!(sandboxes.len(), 1, "{sandboxes:?}");
    assert_eq!((sandboxes[0].ready, sandboxes[0].shim_pid), (false, 0));
    let code = |id: &str| {
        let container = sandboxes[0].containers.iter().find(|c| c.id == id).unwrap();
        (container.state, container.exit_code)
    };
    assert_eq!(code(&done.id), (State::Exited, 4), "what is known is kept");
    assert_eq!(code(&running), (State::Exited, 255));
    runtime.remove_sandbox(&pod.uid).await.unwrap();
    std::fs::remove_dir_all(test.path("state/pods/damaged")).unwrap();
    assert!(!test.path("state/pods/half-made").exists());
}

async fn a_dead_zygote_is_replaced(test: &Test) {
    let first = test.pod(test.sandbox("before")).await;
    let zygote = zygote_of(first.runtime.sandbox(&first.uid).unwrap().shim_pid);
    rustix::process::kill_process(zygote, rustix::process::Signal::KILL).unwrap();
    let second = test.pod(test.sandbox("after")).await;
    assert_eq!(second.output("echo works").await, "works\n");
    assert_eq!(first.output("echo works").await, "works\n");
}

fn zygote_of(shim: i32) -> rustix::process::Pid {
    let stat = std::fs::read_to_string(format!("/proc/{shim}/stat")).unwrap();
    let parent = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().nth(1).unwrap();
    rustix::process::Pid::from_raw(parent.parse().unwrap()).unwrap()
}

async fn long_lines_and_full_logs(test: &Test) {
    let pod = test.pod(test.sandbox("logs")).await;
    let ended = pod.run(test.container("head -c 40000 /dev/zero | tr '\\0' x; echo")).await;
    assert_eq!(ended.stdout.len(), 40_001);
    let mut spec = test.container("for i in $(seq 200); do echo line $i; sleep 0.02; done");
    (spec.log_max_bytes, spec.log_max_files) = (1000, 2);
    let log = spec.log_path.clone();
    pod.run(spec).await;
    let dir = log.parent().unwrap();
    let logs: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).filter(|path| path.is_file()).collect();
    assert_eq!(logs.len(), 2, "{logs:?}");
    assert!(read_log(&log, "stdout").ends_with("line 200\n"));

    // Rotated by somebody else.
    let spec = test.container("echo one; read x; echo two");
    let spec = knarr_runtime::spec::ContainerSpec { stdin: true, ..spec };
    let log = spec.log_path.clone();
    let mut events = pod.runtime.events();
    let id = pod.start(spec).await.unwrap();
    test.until("the first line", || read_log(&log, "stdout") == "one\n").await;
    std::fs::rename(&log, log.with_extension("old")).unwrap();
    pod.runtime.reopen_log(&pod.uid, &id).await.unwrap();
    let mut session = pod.runtime.attach(&pod.uid, &id, true, false, false).await.unwrap();
    session.stdin.as_mut().unwrap().write_all(b"\n").await.unwrap();
    pod.exit(&mut events, &id).await;
    assert_eq!(read_log(&log, "stdout"), "two\n");
}

async fn removal_is_idempotent_and_ids_are_unique(test: &Test) {
    let pod = test.pod(test.sandbox("twice")).await;
    assert!(matches!(
        pod.runtime.create_sandbox(test.sandbox("twice")).await,
        Err(RuntimeError::SandboxExists(_))
    ));
    let spec = test.container("sleep 300");
    let id = pod.start(spec.clone()).await.unwrap();
    assert!(matches!(
        pod.runtime.create_container(&pod.uid, spec).await,
        Err(RuntimeError::ContainerExists(_))
    ));
    assert!(matches!(pod.runtime.start_container(&pod.uid, &id).await, Err(RuntimeError::WrongState { .. })));
    pod.runtime.remove_container(&pod.uid, &id).await.unwrap();
    pod.runtime.remove_container(&pod.uid, &id).await.unwrap();
    assert!(matches!(
        pod.runtime.exec(&pod.uid, &id, exec_spec(&["x"])).await,
        Err(RuntimeError::ContainerNotFound(_))
    ));
    pod.runtime.remove_sandbox(&pod.uid).await.unwrap();
    pod.runtime.remove_sandbox(&pod.uid).await.unwrap();
    assert!(matches!(pod.runtime.usage(&pod.uid, None).await, Err(RuntimeError::SandboxNotFound(_))));
    let mut bad = test.sandbox("x");
    bad.cgroup = "../../elsewhere".to_owned();
    assert!(matches!(pod.runtime.create_sandbox(bad).await, Err(RuntimeError::Invalid(_))));
    let mut bad = test.sandbox("x");
    bad.pod_uid = "../x".to_owned();
    assert!(matches!(pod.runtime.create_sandbox(bad).await, Err(RuntimeError::Invalid(_))));
}

async fn many_pods_at_once(test: &Test) {
    let names: Vec<String> = (0..10).map(|n| format!("many{n}")).collect();
    let pods = futures_util::future::join_all(names.iter().map(|name| async {
        let pod = test.pod(test.sandbox(name)).await;
        let id = pod.start(test.container("hostname; sleep 300")).await.unwrap();
        (pod, id)
    }))
    .await;
    for ((pod, id), name) in pods.iter().zip(&names) {
        assert_eq!(pod.exec(id, &["hostname"]).await.1, format!("{name}\n"));
    }
    let removals = pods.iter().map(|(pod, _)| pod.runtime.remove_sandbox(&pod.uid));
    for removed in futures_util::future::join_all(removals).await {
        removed.unwrap();
    }
}
