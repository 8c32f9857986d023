//! `exec`: a further process in a running container.

use super::config::{Config, Process};
use super::create::{set_limits, set_oom_score, write_pid_file};
use super::namespaces::KINDS;
use super::program::{self, Program};
use super::state::Container;
use crate::container::sync::{Sync, Word};
use crate::container::{Context, Failure};
use crate::sys::{self, Forked};
use rustix::fd::{AsFd, OwnedFd};
use rustix::process::{Pid, PidfdFlags};
use std::convert::Infallible;
use std::path::PathBuf;

/// What `exec` is told.
#[derive(Default)]
pub struct Options {
    pub console: Option<OwnedFd>,
    pub pid_file: Option<PathBuf>,
    pub preserve_fds: u32,
    /// Cgroups below the container's, with the v1 controllers they are for.
    pub cgroup: Vec<(Vec<String>, String)>,
}

/// Runs `process` in the container: its PID, once its program runs.
pub fn exec(
    container: &Container,
    config: &Config,
    process: &Process,
    options: Options,
) -> Result<i32, Failure> {
    let init = container.record.pid;
    let number = Pid::from_raw(init).ok_or_else(|| Failure::new("cannot exec in a stopped container"))?;
    let pidfd = rustix::process::pidfd_open(number, PidfdFlags::empty())
        .context(|| "cannot exec in a stopped container")?;
    let cgroup = container.record.cgroup.cgroup()?;
    let cgroup_failed = || "unable to apply cgroup configuration";
    let doors = cgroup.v1_doors_below(&options.cgroup).context(cgroup_failed)?;
    let place = match options.cgroup.as_slice() {
        [] => cgroup,
        [(names, below)] if names.is_empty() => cgroup.child(below.trim_matches('/')),
        // Controllers have no hierarchies of their own there.
        _ if cgroup.is_v2() => {
            return Err(Failure::new("--cgroup: with cgroup v2 only one path, without controllers"));
        }
        _ => cgroup,
    };
    let birthplace = place.birthplace().context(cgroup_failed)?;
    let listener = config.linux.seccomp.as_ref().map(|s| &s.listener_path).filter(|path| !path.is_empty());
    let listener = match listener {
        Some(path) => Some(program::connect(path.as_ref()).context(|| "connect to seccomp listener")?),
        None => None,
    };
    // Only what the container has of its own: entering one's own user namespace is refused.
    let kinds = KINDS
        .iter()
        .filter(|(kind, ..)| config.namespace(kind).is_some())
        .filter(|(.., file)| {
            let id = |of: &str| std::fs::read_link(format!("/proc/{of}/ns/{file}")).ok();
            id("self") != id(&init.to_string())
        })
        .fold(0, |sum, (_, flag, _)| sum | flag);
    let (near, far) = Sync::pair()?;
    if kinds & libc::CLONE_NEWPID != 0 {
        sys::setns(&pidfd, libc::CLONE_NEWPID).context(|| "join pid namespace")?;
    }
    let pid = match sys::fork_into(0, birthplace.as_ref().map(AsFd::as_fd)).context(|| "clone3")? {
        Forked::Child => {
            drop(near);
            run(Launch {
                container,
                config,
                process,
                pidfd,
                kinds: kinds & !libc::CLONE_NEWPID,
                doors,
                console: options.console,
                listener,
                sync: far,
                preserve_fds: options.preserve_fds,
            })
        }
        Forked::Parent(pid) => pid,
    };
    drop((far, options.console));
    let failed = |text: String| {
        let _ = sys::kill(pid, libc::SIGKILL);
        sys::reap_child(pid);
        Failure::new(format!("exec failed: unable to start container process: {text}"))
    };
    if kinds & libc::CLONE_NEWUSER != 0 {
        set_limits(pid, process).map_err(|failure| failed(failure.text()))?;
    }
    match near.listen() {
        Word::Ready => {}
        Word::Failed(text) => return Err(failed(text)),
        _ => return Err(failed("process ended before it was ready".to_owned())),
    }
    if let Some(path) = &options.pid_file {
        write_pid_file(path, pid)?;
    }
    near.go(pid);
    match near.listen() {
        Word::Failed(text) => Err(failed(text)),
        _ => Ok(pid),
    }
}

struct Launch<'a> {
    container: &'a Container,
    config: &'a Config,
    process: &'a Process,
    pidfd: OwnedFd,
    kinds: libc::c_int,
    doors: Vec<OwnedFd>,
    console: Option<OwnedFd>,
    listener: Option<OwnedFd>,
    sync: Sync,
    preserve_fds: u32,
}

fn run(launch: Launch<'_>) -> ! {
    let sync = std::cell::RefCell::new(None);
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| start(launch, &sync)));
    let failure = match outcome {
        Ok(Ok(never)) => match never {},
        Ok(Err(failure)) => failure,
        Err(_) => Failure::new("panic in exec"),
    };
    if let Some(sync) = sync.take() {
        Sync::say(&sync, &Word::Failed(failure.text()));
    }
    sys::exit_now(255)
}

fn start(launch: Launch<'_>, place: &std::cell::RefCell<Option<Sync>>) -> Result<Infallible, Failure> {
    *place.borrow_mut() = Some(launch.sync);
    let borrowed = place.borrow();
    let Some(sync) = borrowed.as_ref() else { return Err(Failure::new("no socket")) };
    sys::reset_signals();
    sys::close_on_exec_from(3 + launch.preserve_fds);
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .context(|| "set dumpable")?;
    let _ = rustix::process::setsid();
    if launch.kinds & libc::CLONE_NEWUSER == 0 {
        set_oom_score("self", launch.process)?;
    }
    for door in &launch.doors {
        rustix::io::write(door, b"0").context(|| "unable to apply cgroup configuration")?;
    }
    if launch.kinds != 0 {
        sys::setns(&launch.pidfd, launch.kinds).context(|| "unable to enter the container's namespaces")?;
    }
    if launch.kinds & libc::CLONE_NEWUSER != 0 {
        sys::set_ids(&[], 0, 0)
            .or_else(|_| sys::set_ids_alone(0, 0))
            .context(|| "become root of the user namespace")?;
    }
    match &launch.console {
        Some(socket) if launch.process.terminal => program::set_up_terminal(launch.process, socket, false)?,
        _ => program::reopen_null(),
    }
    drop(launch.console);
    let state = launch.container.state("running");
    let program = Program::prepare(launch.config, launch.process, launch.listener, &state)?;
    sync.say(&Word::Ready);
    sync.wait()?;
    program.run()
}
