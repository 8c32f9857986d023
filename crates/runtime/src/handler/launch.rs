//! The child of the shim that becomes the other runtime's command: it puts the bundle together first, in a mount
//! namespace that ends with the command, so that nothing of it stays on the host. Until the command is executed a
//! failure is told over a socket that the `execve` closes, as with Knarr's own containers.

use super::{Bundle, config};
use crate::cgroup::Cgroup;
use crate::cgroup::devices::Rule;
use crate::container::mounts::{attach, clone_tree};
use crate::container::{Context, Failure, Node, Stdio, rootfs, target, user};
use crate::spec::{ContainerSpec, ExecSpec, MountKind, Propagation, SandboxSpec};
use crate::{container, sys};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::MountPropagationFlags;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::ffi::CString;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Everything for `create`, put together by the shim before the fork.
pub struct CreateLaunch<'a> {
    /// The runtime's program.
    pub program: &'a Path,
    /// The sandbox's directory.
    pub dir: &'a Path,
    /// The container's files.
    pub bundle: &'a Bundle,
    /// The sandbox.
    pub sandbox: &'a SandboxSpec,
    /// The container.
    pub spec: &'a ContainerSpec,
    /// Its cgroup.
    pub cgroup: &'a Cgroup,
    /// Device nodes to make.
    pub nodes: &'a [Node],
    /// What its cgroup allows of devices.
    pub rules: &'a [Rule],
    /// Text of the seccomp profile's file.
    pub profile: &'a [u8],
    /// The pod's mount namespace, which has its shared memory.
    pub pod_mounts: BorrowedFd<'a>,
    /// Host name, for the environment.
    pub hostname: &'a str,
    /// The shim, in whose namespaces the pod is.
    pub shim: i32,
    /// The process whose PID namespace the container joins.
    pub pids_of: Option<i32>,
    /// Standard streams; with a terminal none.
    pub stdio: Stdio,
    /// Where failures go.
    pub sync: OwnedFd,
}

/// Everything for `exec`.
pub struct ExecLaunch<'a> {
    /// The runtime's program.
    pub program: &'a Path,
    /// The sandbox's directory.
    pub dir: &'a Path,
    /// The container's files.
    pub bundle: &'a Bundle,
    /// The container.
    pub id: &'a str,
    /// Names this process among the bundle's files.
    pub tag: &'a str,
    /// What to run.
    pub exec: &'a ExecSpec,
    /// Standard streams; with a terminal none.
    pub stdio: Stdio,
    /// Where failures go.
    pub sync: OwnedFd,
}

/// The name of a container's first process among the files of its bundle.
pub const INIT: &str = "init";

/// Becomes the runtime's `create`. Never returns.
pub fn run_create(launch: CreateLaunch<'_>) -> ! {
    container::or_report(&launch.sync.try_clone(), move || create(launch))
}

/// Becomes the runtime's `exec`. Never returns.
pub fn run_exec(launch: ExecLaunch<'_>) -> ! {
    container::or_report(&launch.sync.try_clone(), move || exec(launch))
}

/// Becomes the runtime's command with these words about a container. Never returns.
pub fn run_command(program: &Path, dir: &Path, bundle: &Bundle, words: &[&str]) -> ! {
    sys::reset_signals();
    sys::close_on_exec_from(3);
    let words: Result<Vec<CString>, Failure> = words.iter().map(|word| text(word)).collect();
    let Err(failure) = words.and_then(|words| become_command(program, dir, bundle, words, Stdio::default()));
    eprintln!("{}", failure.text());
    sys::exit_now(127)
}

fn create(launch: CreateLaunch<'_>) -> Result<Infallible, Failure> {
    sys::reset_signals();
    sys::close_on_exec_from(3);
    let (spec, bundle) = (launch.spec, launch.bundle);
    if spec.mounts.iter().any(|m| m.kind == MountKind::Bind && m.propagation == Propagation::Bidirectional) {
        return Err(Failure::new(
            "bidirectional mount propagation is not possible with another runtime's containers",
        ));
    }
    let shm = if launch.sandbox.host_ipc { None } else { Some(shared_memory(launch.pod_mounts)?) };
    let what = || "make the bundle's mounts";
    sys::unshare(libc::CLONE_NEWNS).context(what)?;
    // What is mounted here stays here; what the host mounts later is still seen.
    rustix::mount::mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .context(what)?;
    let place = |dir: &Path| {
        std::fs::create_dir_all(dir).context(|| format!("mkdir {}", dir.display()))?;
        rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).context(what)
    };
    if let Some(shm) = shm {
        attach(shm.as_fd(), place(&bundle.dir().join(config::SHM))?.as_fd()).context(what)?;
    }
    let overlay = rootfs::overlay(&spec.rootfs)?;
    attach(overlay.as_fd(), place(&spec.rootfs.target)?.as_fd())
        .context(|| "error mounting root file system")?;
    let root = place(&spec.rootfs.target)?;

    let read = |path: &str| -> String {
        let file = target::lookup(root.as_fd(), path.as_ref(), OFlags::RDONLY | OFlags::NONBLOCK);
        let mut text = Vec::new();
        let _ = file.map(|file| std::fs::File::from(file).take(1 << 20).read_to_end(&mut text));
        String::from_utf8_lossy(&text).into_owned()
    };
    let identity = user::resolve(spec, &read("/etc/passwd"), &read("/etc/group"))?;
    container::send(launch.sync.as_fd(), &identity.told(), None);
    let config = config::config(&launch, &identity)?;
    write(&bundle.dir().join("config.json"), &config)?;

    let mut words: Vec<CString> = vec![text("create")?, text("--bundle")?, path(bundle.dir())?];
    words.extend([text("--pid-file")?, path(&bundle.pid_file(INIT))?]);
    if spec.tty {
        words.extend([text("--console-socket")?, path(&bundle.console(INIT))?]);
    }
    words.push(text(&spec.id)?);
    become_command(launch.program, launch.dir, bundle, words, launch.stdio)
}

fn exec(launch: ExecLaunch<'_>) -> Result<Infallible, Failure> {
    sys::reset_signals();
    sys::close_on_exec_from(3);
    let bundle = launch.bundle;
    let of = bundle.dir().join("config.json");
    let config = std::fs::read(&of).context(|| format!("open {}", of.display()))?;
    let mut config: Value = serde_json::from_slice(&config)
        .map_err(|error| Failure::new(format!("{}: {error}", of.display())))?;
    let mut process = config["process"].take();
    process["args"] = json!(launch.exec.args);
    process["terminal"] = json!(launch.exec.tty);
    if launch.exec.tty
        && let Some(env) = process["env"].as_array_mut()
    {
        env.push(json!("TERM=xterm"));
    }
    let file = bundle.dir().join(format!("{}.json", launch.tag));
    write(&file, &process)?;
    let mut words = vec![text("exec")?, text("--detach")?, text("--process")?, path(&file)?];
    words.extend([text("--pid-file")?, path(&bundle.pid_file(launch.tag))?]);
    if launch.exec.tty {
        words.extend([text("--console-socket")?, path(&bundle.console(launch.tag))?]);
    }
    words.push(text(launch.id)?);
    become_command(launch.program, launch.dir, bundle, words, launch.stdio)
}

/// The pod's shared memory as a detached mount.
fn shared_memory(pod_mounts: BorrowedFd<'_>) -> Result<OwnedFd, Failure> {
    let what = || "the pod's shared memory";
    let own = std::fs::File::open("/proc/self/ns/mnt").context(what)?;
    sys::setns(pod_mounts, libc::CLONE_NEWNS).context(what)?;
    let shm = clone_tree(CWD, Path::new("/shm"), false).context(what);
    sys::setns(&own, libc::CLONE_NEWNS).context(what)?;
    shm
}

fn become_command(
    program: &Path,
    dir: &Path,
    bundle: &Bundle,
    words: Vec<CString>,
    stdio: Stdio,
) -> Result<Infallible, Failure> {
    let state = Bundle::state(dir);
    let mut args = vec![path(program)?, text("--root")?, path(&state)?, text("--log")?, path(&bundle.log())?];
    args.extend([text("--log-format")?, text("json")?]);
    args.extend(words);
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    let null = null.context(|| "open /dev/null")?;
    for (number, stream) in [(0, &stdio.stdin), (1, &stdio.stdout), (2, &stdio.stderr)] {
        let stream = stream.as_ref().unwrap_or(&null);
        sys::dup_onto(stream.as_fd(), number).context(|| "set up standard streams")?;
    }
    rustix::process::chdir("/").context(|| "chdir")?;
    let env = [c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()];
    let error = sys::execve(&path(program)?, &args, &env);
    Err(Failure::new(format!("exec {}: {}", program.display(), container::reason(&error))))
}

fn write(file: &Path, value: &Value) -> Result<(), Failure> {
    std::fs::write(file, value.to_string()).context(|| format!("write {}", file.display()))
}

fn text(text: &str) -> Result<CString, Failure> {
    CString::new(text).map_err(|_| Failure::new(format!("{text:?}: invalid argument")))
}

fn path(path: &Path) -> Result<CString, Failure> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Failure::new(format!("{path:?}: invalid argument")))
}
