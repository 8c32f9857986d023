//! Pods whose containers another OCI runtime runs. Knarr's own command line stands for any, and runc joins in where
//! it is installed and works.

use super::pod::{Test, collect, exec_spec};
use knarr_runtime::RuntimeError;
use knarr_runtime::spec::{Mount, MountKind, Propagation, Resources, Seccomp, User};
use std::path::PathBuf;
use std::time::Duration;

fn runtimes(test: &Test) -> Vec<PathBuf> {
    let own = test.path("knarr-oci");
    std::os::unix::fs::symlink(std::env::current_exe().unwrap(), &own).unwrap();
    [own]
        .into_iter()
        .chain(["/usr/sbin/runc".into()].into_iter().filter(|path: &PathBuf| path.exists()))
        .collect()
}

/// Output, exit codes, identity, limits, mounts, namespaces, exec, signals, failures.
pub async fn another_runtime_runs_the_containers(test: &Test) {
    for (at, program) in runtimes(test).into_iter().enumerate() {
        println!("  {}", program.display());
        let mut sandbox = test.sandbox(&format!("handler{at}"));
        sandbox.handler = Some(program);
        let pod = test.pod(sandbox).await;

        let mut spec = test.container(
            "echo Hello; echo oops >&2; id; hostname; cat /v/file; \
             cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; \
             grep -c . /proc/kcore; mkdir /m; mount -t tmpfs x /m 2>&1; exit 3",
        );
        std::fs::write(test.path("file"), "text\n").unwrap();
        spec.user = "web".to_owned();
        spec.resources = Resources { memory_limit_bytes: Some(32 << 20), ..Resources::default() };
        spec.mounts = vec![Mount {
            source: test.path("file"),
            target: "/v/file".into(),
            kind: MountKind::Bind,
            read_only: true,
            recursive_read_only: false,
            propagation: Propagation::None,
            options: vec![],
        }];
        let ended = pod.run(spec).await;
        assert_eq!(ended.status.exit_code, 3, "{}{}", ended.stdout, ended.stderr);
        assert!(ended.stderr.contains("oops"), "{}", ended.stderr);
        let web = User { uid: 33, gid: 34, groups: vec![34, 50] };
        assert_eq!(ended.status.user, Some(web));
        let hostname = format!("handler{at}");
        for part in
            ["Hello", "uid=33(web) gid=34(web) groups=34(web),50(logs)", &hostname, "text", "33554432"]
        {
            assert!(ended.stdout.contains(part), "{part}: {}", ended.stdout);
        }

        let running =
            test.container("trap 'exit 9' TERM; echo up > /dev/shm/shared; while :; do sleep 0.05; done");
        let id = pod.start(running).await.unwrap();
        let shared = "until test -e /dev/shm/shared; do sleep 0.01; done; cat /dev/shm/shared; \
                      until ip link | head -n 1; do :; done";
        assert!(pod.output(shared).await.starts_with("up\n1: lo"), "the pod's namespaces are shared");
        let words = ["sh", "-c", "echo in; echo err >&2; exit 5"];
        let session = pod.runtime.exec(&pod.uid, &id, exec_spec(&words)).await.unwrap();
        let ended = test.soon("the end of the exec", collect(session)).await;
        assert_eq!(ended, (5, "in\n".to_owned(), "err\n".to_owned()));
        match pod.runtime.exec(&pod.uid, &id, exec_spec(&["nothing"])).await {
            Err(RuntimeError::Exec(text)) => assert!(text.contains("executable file not found"), "{text}"),
            other => panic!("{:?}", other.map(drop)),
        }
        let mut terminal = exec_spec(&["sh", "-c", "tty; exit 6"]);
        (terminal.tty, terminal.stderr) = (true, false);
        let session = pod.runtime.exec(&pod.uid, &id, terminal).await.unwrap();
        let (code, out, _) = test.soon("the end of the exec", collect(session)).await;
        assert!(code == 6 && out.contains("/dev/pts/"), "{code} {out}");
        let stopped =
            pod.runtime.stop_container(&pod.uid, &id, Duration::from_secs(10), "SIGTERM").await.unwrap();
        assert_eq!(stopped.exit_code, 9);
        pod.runtime.remove_container(&pod.uid, &id).await.unwrap();

        let mut spec = test.container("");
        spec.args = vec!["nothing".to_owned()];
        spec.user = "web".to_owned();
        let id = spec.id.clone();
        match pod.start(spec).await {
            Err(RuntimeError::Start(text)) => assert!(text.contains("executable file not found"), "{text}"),
            other => panic!("{other:?}"),
        }
        let known = pod.runtime.sandbox(&pod.uid).expect("it is there").containers;
        let failed = known.into_iter().find(|c| c.id == id).expect("it is known");
        assert_eq!(failed.user.map(|user| user.uid), Some(33));
        let mut spec = test.container("true");
        spec.mounts = vec![Mount {
            source: test.path("file"),
            target: "/v/file".into(),
            kind: MountKind::Bind,
            read_only: false,
            recursive_read_only: false,
            propagation: Propagation::Bidirectional,
            options: vec![],
        }];
        match pod.start(spec).await {
            Err(RuntimeError::Start(text)) => assert!(text.contains("bidirectional"), "{text}"),
            other => panic!("{other:?}"),
        }
        let mut spec = test.container("true");
        spec.must_not_be_root = true;
        assert!(matches!(pod.start(spec).await, Err(RuntimeError::MustNotBeRoot)));

        let mut spec = test.container("stty size; exit 4");
        spec.tty = true;
        spec.seccomp = Seccomp::Unconfined;
        assert_eq!(pod.run(spec).await.status.exit_code, 4);

        // What still runs ends with the sandbox.
        pod.start(test.container("sleep 1000")).await.unwrap();
        pod.runtime.remove_sandbox(&pod.uid).await.unwrap();
    }
}

/// A runtime that hangs in the middle of a start does not keep its container from being removed.
pub async fn a_runtime_that_hangs_is_ended(test: &Test) {
    use std::os::unix::fs::PermissionsExt;
    let program = test.path("hangs");
    std::fs::write(
        &program,
        "#!/bin/sh\ncase \"$*\" in *create*) : > \"$0.began\"; exec sleep 1000;; esac\n",
    )
    .unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut sandbox = test.sandbox("hangs");
    sandbox.handler = Some(program);
    let pod = test.pod(sandbox).await;
    let spec = test.container("true");
    let id = spec.id.clone();
    pod.runtime.create_container(&pod.uid, spec).await.unwrap();
    let removal = async {
        test.until("the start", || test.path("hangs.began").exists()).await;
        pod.runtime.remove_container(&pod.uid, &id).await
    };
    let both = async { tokio::join!(pod.runtime.start_container(&pod.uid, &id), removal) };
    let (started, removed) = test.soon("the removal", both).await;
    assert!(matches!(started, Err(RuntimeError::Start(_))), "{started:?}");
    removed.unwrap();
    pod.runtime.remove_sandbox(&pod.uid).await.unwrap();
}

/// A runtime that is not there is told as such.
pub async fn a_runtime_that_is_not_there_is_told(test: &Test) {
    let mut sandbox = test.sandbox("missing");
    sandbox.handler = Some(test.path("nothing"));
    let pod = test.pod(sandbox).await;
    match pod.start(test.container("true")).await {
        Err(RuntimeError::Start(text)) => assert!(text.contains("no such file or directory"), "{text}"),
        other => panic!("{other:?}"),
    }
    pod.runtime.remove_sandbox(&pod.uid).await.unwrap();
}
