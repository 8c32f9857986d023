//! A further process in a running container.

use super::process::{self, Program};
use super::{Context, Failure, Stdio, or_report, users};
use crate::cgroup::Cgroup;
use crate::spec::{ContainerSpec, ExecSpec};
use crate::sys;
use rustix::fd::{BorrowedFd, OwnedFd};
use std::convert::Infallible;

/// Everything the child needs, put together by the shim before the fork.
pub struct ExecLaunch<'a> {
    /// The container.
    pub spec: &'a ContainerSpec,
    /// What to run.
    pub exec: &'a ExecSpec,
    /// Text of the seccomp profile's file.
    pub profile: &'a [u8],
    /// The container's cgroup.
    pub cgroup: &'a Cgroup,
    /// The container's first process, whose namespaces are entered.
    pub process: BorrowedFd<'a>,
    /// Root of the pod's users as the host numbers it, unless they are the host's.
    pub users_root: Option<(u32, u32)>,
    /// Host name, for the environment.
    pub hostname: &'a str,
    /// Standard streams; with a terminal none.
    pub stdio: Stdio,
    /// Where failures and the terminal go.
    pub sync: OwnedFd,
}

/// Becomes the process. Never returns.
pub fn run_exec(launch: ExecLaunch<'_>) -> ! {
    or_report(&launch.sync.try_clone(), move || start(launch))
}

fn start(launch: ExecLaunch<'_>) -> Result<Infallible, Failure> {
    let spec = launch.spec;
    process::begin(spec.oom_score_adj)?;
    launch.cgroup.join_v1().context(|| "unable to apply cgroup configuration")?;
    // Raising them takes a right of the host's.
    process::set_rlimits(&spec.rlimits)?;
    let mut kinds = libc::CLONE_NEWNS | libc::CLONE_NEWCGROUP;
    if let Some(root) = launch.users_root {
        users::give_streams(&launch.stdio, root);
        kinds |= libc::CLONE_NEWUSER;
    }
    sys::setns(launch.process, kinds).context(|| "unable to enter the container's namespaces")?;
    if launch.users_root.is_some() {
        users::become_root()?;
    }
    let terminal = if launch.exec.tty { Some(process::open_terminal(false)?) } else { None };
    let program = Program {
        spec,
        args: &launch.exec.args,
        profile: launch.profile,
        env: process::environment(spec, launch.hostname, launch.exec.tty),
    };
    program.become_it(terminal, launch.stdio, launch.sync)
}
