//! Times what the runtime does, in milliseconds, over so many pods one after another; or, with `memory`, weighs
//! the shims of so many pods at once.
//!
//!     cargo run --release -p knarr-runtime --example bench -- <directory> [rounds] [memory]
//!
//! Needs root and `/usr/bin/busybox` (Debian's busybox-static).
#![allow(clippy::unwrap_used)]

use knarr_runtime::spec::{ContainerSpec, ExecSpec, Resources, RootFs, SandboxSpec, Seccomp};
use knarr_runtime::{Runtime, RuntimeOptions, ShimAware};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// As in the whole program, so that shims weigh here what they weigh there.
#[global_allocator]
static ALLOCATOR: ShimAware<mimalloc::MiMalloc> = ShimAware::new(mimalloc::MiMalloc);

fn main() {
    knarr_runtime::zygote_main_if_asked();
    let dir = PathBuf::from(std::env::args().nth(1).expect("a directory as first argument"));
    let rounds = std::env::args().nth(2).map_or(50, |n| n.parse().unwrap());
    let memory = std::env::args().nth(3).is_some_and(|word| word == "memory");
    tokio::runtime::Runtime::new().unwrap().block_on(run(&dir, rounds, memory));
}

async fn run(dir: &Path, rounds: usize, memory: bool) {
    let bin = dir.join("layer/bin");
    std::fs::create_dir_all(&bin).unwrap();
    std::fs::copy("/usr/bin/busybox", bin.join("busybox")).unwrap();
    let _ = std::os::unix::fs::symlink("busybox", bin.join("sleep"));
    let _ = std::os::unix::fs::symlink("busybox", bin.join("true"));
    let ctx = knarr_base::Ctx::system();
    let options = RuntimeOptions {
        state_dir: dir.join("runtime"),
        cgroup_root: format!("knarr-bench-{}", std::process::id()),
        shim_program: None,
    };
    let mut times: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
    let clock = ctx.clock.clone();
    let mut last = clock.instant();
    let runtime = Runtime::open(&ctx, options).await.unwrap();
    times.entry("0 open").or_default().push(clock.instant() - last);
    for round in 0..rounds {
        let uid = format!("pod{round}");
        let id = format!("{round:064x}");
        let mut lap = |what: &'static str| {
            let now = clock.instant();
            times.entry(what).or_default().push(now - last);
            last = now;
        };
        lap("9 between");
        runtime.create_sandbox(sandbox(&uid)).await.unwrap();
        lap("1 create sandbox");
        runtime.create_container(&uid, container(dir, round, &id)).await.unwrap();
        lap("2 create container");
        runtime.start_container(&uid, &id).await.unwrap();
        lap("3 start container");
        if memory {
            continue;
        }
        let exec = ExecSpec {
            args: vec!["true".to_owned()],
            tty: false,
            stdin: false,
            stdout: false,
            stderr: false,
        };
        let session = runtime.exec(&uid, &id, exec).await.unwrap();
        assert_eq!(session.exit.await.unwrap(), 0);
        lap("4 exec true");
        runtime.stop_container(&uid, &id, Duration::ZERO, "SIGKILL").await.unwrap();
        lap("5 kill container");
        runtime.remove_container(&uid, &id).await.unwrap();
        lap("6 remove container");
        runtime.remove_sandbox(&uid).await.unwrap();
        lap("7 remove sandbox");
        std::fs::remove_dir_all(dir.join(round.to_string())).unwrap();
    }
    if memory {
        weigh(&runtime);
    }
    runtime.tear_down().await.unwrap();
    for (what, mut all) in times {
        all.sort();
        let at = |share: usize| all[(all.len() - 1) * share / 100].as_secs_f64() * 1000.0;
        println!("{what:20} min {:7.2}  p50 {:7.2}  p90 {:7.2}  max {:7.2}", at(0), at(50), at(90), at(100));
    }
}

/// Prints what the shims and the zygote weigh, in KiB, by /proc/<pid>/smaps_rollup.
fn weigh(runtime: &Runtime) {
    let shims: Vec<i32> = runtime.sandboxes().iter().map(|sandbox| sandbox.shim_pid).collect();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", shims[0])).unwrap();
    let zygote = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().nth(1).unwrap().parse().unwrap();
    for (what, pids) in [("shim (mean)", &shims[..]), ("zygote", &[zygote])] {
        let field = |name: &str| {
            let of = |pid: &i32| {
                let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
                let line = text.lines().find(|line| line.starts_with(name)).unwrap();
                line.split_ascii_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
            };
            pids.iter().map(of).sum::<u64>() / pids.len() as u64
        };
        println!(
            "{what:12} PSS {:5}  private dirty {:5}  anonymous PSS {:5}",
            field("Pss:"),
            field("Private_Dirty:"),
            field("Pss_Anon:")
        );
    }
}

fn sandbox(uid: &str) -> SandboxSpec {
    SandboxSpec {
        pod_uid: uid.to_owned(),
        namespace: "default".to_owned(),
        name: uid.to_owned(),
        attempt: 0,
        hostname: uid.to_owned(),
        domainname: None,
        host_network: false,
        host_pid: false,
        host_ipc: false,
        share_process_namespace: false,
        cgroup: format!("kubepods/besteffort/{uid}"),
        resources: Resources::default(),
        sysctls: Default::default(),
        labels: Default::default(),
        user_namespace: None,
        handler: None,
    }
}

fn container(dir: &Path, round: usize, id: &str) -> ContainerSpec {
    let at = |what: &str| dir.join(round.to_string()).join(what);
    ContainerSpec {
        id: id.to_owned(),
        name: "main".to_owned(),
        attempt: 0,
        args: vec!["sleep".to_owned(), "3600".to_owned()],
        env: vec![],
        cwd: "/".to_owned(),
        user: String::new(),
        run_as_group: None,
        supplemental_groups: vec![],
        merge_image_groups: true,
        must_not_be_root: false,
        rootfs: RootFs {
            lower: vec![dir.join("layer")],
            upper: at("upper"),
            work: at("work"),
            target: at("rootfs"),
        },
        read_only_rootfs: false,
        mounts: vec![],
        cap_add: vec![],
        cap_drop: vec![],
        privileged: false,
        no_new_privileges: false,
        seccomp: Seccomp::RuntimeDefault,
        apparmor: None,
        unmasked_proc: false,
        resources: Resources {
            memory_limit_bytes: Some(64 << 20),
            cpu_shares: Some(100),
            ..Resources::default()
        },
        oom_score_adj: 0,
        rlimits: vec![],
        devices: vec![],
        tty: false,
        stdin: false,
        stdin_once: false,
        log_path: at("0.log"),
        log_max_bytes: 10 << 20,
        log_max_files: 5,
        stop_signal: "SIGTERM".to_owned(),
        pid_of: None,
        labels: Default::default(),
    }
}
