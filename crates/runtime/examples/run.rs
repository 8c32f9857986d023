//! Runs a busybox container on the host's network and shows its log. Killed with `kill -9` and started again,
//! it finds the container still running; with `remove` it removes everything.
//!
//!     cargo run -p knarr-runtime --example run -- <directory> [remove]
//!
//! Needs root and `/usr/bin/busybox` (Debian's busybox-static).
#![allow(clippy::unwrap_used)]

use knarr_runtime::spec::{ContainerSpec, Resources, RootFs, SandboxSpec, Seccomp, State};
use knarr_runtime::{Runtime, RuntimeOptions};
use std::path::{Path, PathBuf};

fn main() {
    knarr_runtime::zygote_main_if_asked();
    let dir = PathBuf::from(std::env::args().nth(1).expect("a directory as first argument"));
    let remove = std::env::args().nth(2).is_some_and(|word| word == "remove");
    tokio::runtime::Runtime::new().unwrap().block_on(run(&dir, remove)).unwrap();
}

async fn run(dir: &Path, remove: bool) -> Result<(), knarr_runtime::RuntimeError> {
    let ctx = knarr_base::Ctx::system();
    let runtime = Runtime::open(
        &ctx,
        RuntimeOptions {
            state_dir: dir.join("runtime"),
            cgroup_root: "knarr-example".to_owned(),
            shim_program: None,
        },
    )
    .await?;
    if remove {
        runtime.tear_down().await?;
        println!("everything is removed");
        return Ok(());
    }
    let log = dir.join("log/0.log");
    match runtime.sandboxes().first() {
        Some(sandbox) => println!("adopted shim {} with {:?}", sandbox.shim_pid, sandbox.containers),
        None => start(&runtime, dir, &log, ctx.clock.as_ref()).await?,
    }
    print!("{}", std::fs::read_to_string(&log).unwrap_or_default());
    let running = runtime.sandboxes()[0].containers.iter().any(|c| c.state == State::Running);
    println!("running: {running}; kill -9 {} and run again", std::process::id());
    std::future::pending().await
}

async fn start(
    runtime: &Runtime,
    dir: &Path,
    log: &Path,
    clock: &dyn knarr_base::Clock,
) -> Result<(), knarr_runtime::RuntimeError> {
    let bin = dir.join("layer/bin");
    std::fs::create_dir_all(&bin).unwrap();
    std::fs::copy("/usr/bin/busybox", bin.join("busybox")).unwrap();
    let _ = std::os::unix::fs::symlink("busybox", bin.join("sh"));
    let _ = std::os::unix::fs::symlink("busybox", bin.join("sleep"));
    let started = clock.instant();
    runtime
        .create_sandbox(SandboxSpec {
            pod_uid: "example".to_owned(),
            namespace: "default".to_owned(),
            name: "example".to_owned(),
            attempt: 0,
            hostname: "example".to_owned(),
            domainname: None,
            host_network: true,
            host_pid: false,
            host_ipc: false,
            share_process_namespace: false,
            cgroup: "kubepods/podexample".to_owned(),
            resources: Resources::default(),
            sysctls: Default::default(),
            labels: Default::default(),
            user_namespace: None,
            handler: None,
        })
        .await?;
    let made = clock.instant();
    let spec = ContainerSpec {
        id: "example-0".to_owned(),
        name: "hello".to_owned(),
        attempt: 0,
        args: ["sh", "-c", "echo Hello && sleep 3600"].map(str::to_owned).to_vec(),
        env: vec![],
        cwd: "/".to_owned(),
        user: String::new(),
        run_as_group: None,
        supplemental_groups: vec![],
        merge_image_groups: true,
        must_not_be_root: false,
        rootfs: RootFs {
            lower: vec![dir.join("layer")],
            upper: dir.join("upper"),
            work: dir.join("work"),
            target: dir.join("rootfs"),
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
        resources: Resources::default(),
        oom_score_adj: 0,
        rlimits: vec![],
        devices: vec![],
        tty: false,
        stdin: false,
        stdin_once: false,
        log_path: log.to_owned(),
        log_max_bytes: 10 << 20,
        log_max_files: 5,
        stop_signal: "SIGTERM".to_owned(),
        pid_of: None,
        labels: Default::default(),
    };
    runtime.create_container("example", spec).await?;
    let status = runtime.start_container("example", "example-0").await?;
    println!("sandbox {:?}, container {:?}: {status:?}", made - started, clock.instant() - made);
    clock.sleep(std::time::Duration::from_millis(50)).await;
    Ok(())
}
