//! OCI runtimes beside each other by the command line that they share: create, start and delete of a container whose
//! program ends at once. <https://github.com/opencontainers/runtime-spec/blob/main/runtime.md#operations>
//!
//! Waiting for the container's end is not counted: it is the program's time, and a caller learns of it as a parent.

use crate::table::Table;
use anyhow::{Context, Result, ensure};
use knarr_base::Ctx;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// A container's program that has not ended after this long does not end.
const PATIENCE: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };
/// Rounds before those that count.
const WARM_UP: usize = 5;

/// Measures `rounds` rounds of each of `runtimes`, which take turns round by round. `program` is a static executable
/// that ends at once when it is run as `true`.
pub fn run(ctx: &Ctx, runtimes: &[PathBuf], program: &Path, rounds: usize, table: &mut Table) -> Result<()> {
    let dir = tempfile::Builder::new().prefix("knarr-bench-").tempdir()?;
    let bundle = dir.path().join("bundle");
    write_bundle(&bundle, program)?;
    let mut times = vec![Vec::new(); runtimes.len()];
    for round in 0..WARM_UP + rounds {
        for (at, runtime) in runtimes.iter().enumerate() {
            let steps = one(ctx, runtime, dir.path(), &bundle, &format!("knarr-bench-{at}-{round}"))
                .with_context(|| format!("with {}", runtime.display()))?;
            if round >= WARM_UP {
                times[at].push(steps);
            }
        }
    }
    for (runtime, times) in runtimes.iter().zip(times) {
        let name = runtime.file_name().unwrap_or_default().to_string_lossy();
        let sorted = |of: &dyn Fn(&[Duration; 3]) -> Duration| {
            let mut sorted: Vec<Duration> = times.iter().map(of).collect();
            sorted.sort_unstable();
            sorted
        };
        let parts = [0, 1, 2].map(|step| {
            let median = sorted(&|steps| steps[step]).get(times.len() / 2).copied();
            format!("{:.1}", median.unwrap_or_default().as_secs_f64() * 1e3)
        });
        let all = sorted(&|steps| steps.iter().sum());
        table.latencies(
            &format!("{name}: create + start + delete"),
            format!("{rounds} rounds, {} ms", parts.join(" + ")),
            &all,
            None,
            "a third of runc's",
        );
    }
    Ok(())
}

/// One container's life: how long create, start and delete took.
fn one(ctx: &Ctx, runtime: &Path, dir: &Path, bundle: &Path, id: &str) -> Result<[Duration; 3]> {
    let pid_file = dir.join("pid");
    let call = |arguments: &[&str]| {
        let mut command = Command::new(runtime);
        command.arg("--root").arg(dir.join("state")).args(arguments).stdin(Stdio::null());
        let started = ctx.clock.instant();
        // What a container inherits is no pipe, or waiting for the runtime would be waiting for the container.
        let status = command.stdout(Stdio::null()).stderr(Stdio::inherit()).status()?;
        ensure!(status.success(), "{arguments:?}: {status}");
        Ok(ctx.clock.instant() - started)
    };
    let (bundle, pid_path) = (bundle.to_string_lossy(), pid_file.to_string_lossy());
    let create = call(&["create", "--bundle", &bundle, "--pid-file", &pid_path, id])?;
    let pid = std::fs::read_to_string(&pid_file)?.trim().parse().ok().and_then(Pid::from_raw);
    let process = pidfd_open(pid.context("no process in the pid file")?, PidfdFlags::empty())?;
    let start = call(&["start", id])?;
    let ended = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&PATIENCE))?;
    ensure!(ended == 1, "the container's program does not end");
    Ok([create, start, call(&["delete", id])?])
}

/// A bundle as an engine would write it: all namespaces of its own but the user's, the usual mounts.
fn write_bundle(bundle: &Path, program: &Path) -> Result<()> {
    let root = bundle.join("rootfs");
    for dir in ["bin", "proc", "dev", "sys"] {
        std::fs::create_dir_all(root.join(dir))?;
    }
    std::fs::copy(program, root.join("bin/true")).with_context(|| format!("no {}", program.display()))?;
    let mount = |at: &str, kind: &str, options: &[&str]| json!({"destination": at, "type": kind, "source": kind, "options": options});
    let capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    let namespaces = ["pid", "network", "ipc", "uts", "mount"].map(|kind| json!({"type": kind}));
    let config = json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false, "user": {"uid": 0, "gid": 0}, "args": ["true"], "cwd": "/", "noNewPrivileges": true,
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "bench",
        "mounts": [
            mount("/proc", "proc", &[]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        ],
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": namespaces,
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    });
    Ok(std::fs::write(bundle.join("config.json"), serde_json::to_vec(&config)?)?)
}
