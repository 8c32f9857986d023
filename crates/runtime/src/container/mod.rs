//! What happens between the fork in the shim and the `execve` of the container's program: the child puts the
//! container together around itself. It tells the shim of a failure over a socket that the `execve` closes,
//! so silence is success.

pub mod capabilities;
pub mod cgroupfs;
pub mod devices;
mod exec;
pub mod mounts;
pub mod path;
pub mod process;
pub mod rootfs;
pub mod sync;
pub mod target;
pub mod user;
pub mod users;

pub use devices::{Node, nodes_for, rules_for};
pub use exec::{ExecLaunch, run_exec};

use crate::cgroup::Cgroup;
use crate::protocol::Refusal;
use crate::spec::ContainerSpec;
use crate::sys;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use std::fmt::Display;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;

/// Everything the child needs, put together by the shim before the fork.
pub struct Launch<'a> {
    /// The container.
    pub spec: &'a ContainerSpec,
    /// Its cgroup.
    pub cgroup: &'a Cgroup,
    /// Device nodes to make.
    pub nodes: &'a [Node],
    /// Text of the seccomp profile's file.
    pub profile: &'a [u8],
    /// The pod's mount namespace: a small root with `/root` to mount on and the pod's `/shm`.
    pub pod_mounts: BorrowedFd<'a>,
    /// The pod's users, unless they are the host's.
    pub users: Option<users::Users<'a>>,
    /// Share the host's `/dev/shm`.
    pub host_ipc: bool,
    /// Host name, for the environment.
    pub hostname: &'a str,
    /// Standard input, output and error; with a terminal none.
    pub stdio: Stdio,
    /// Where failures and the terminal go.
    pub sync: OwnedFd,
}

/// The child's ends of its streams.
#[derive(Default)]
pub struct Stdio {
    /// Standard input.
    pub stdin: Option<OwnedFd>,
    /// Standard output.
    pub stdout: Option<OwnedFd>,
    /// Standard error.
    pub stderr: Option<OwnedFd>,
}

/// Why a container did not start.
#[derive(Debug)]
pub struct Failure(pub Refusal);

impl Failure {
    /// A failure with this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Refusal::Start(text.into()))
    }

    /// What went wrong.
    pub fn text(&self) -> String {
        match &self.0 {
            Refusal::Start(text) | Refusal::Other(text) => text.clone(),
            other => format!("{other:?}"),
        }
    }
}

/// Adds to an error what was tried, as runc words it: `what: why`.
pub trait Context<T> {
    /// With `what` in front.
    fn context<D: Display>(self, what: impl FnOnce() -> D) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn context<D: Display>(self, what: impl FnOnce() -> D) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(format!("{}: {}", what(), reason(&error.into()))))
    }
}

/// The text of an error without std's `(os error 2)`, in lower case as Go has it.
pub fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    if error.raw_os_error().is_none() {
        return text;
    }
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

/// Becomes the container. Never returns.
pub fn run(launch: Launch<'_>) -> ! {
    or_report(&launch.sync.try_clone(), move || start(launch))
}

/// Does what ends in another program; what goes wrong before is told over `sync`. Never returns.
pub fn or_report(
    sync: &io::Result<OwnedFd>,
    become_it: impl FnOnce() -> Result<std::convert::Infallible, Failure>,
) -> ! {
    // A panic must end the child here and not unwind into the shim's loop, of which it holds a copy.
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(become_it));
    let failure = match outcome {
        Ok(Ok(never)) => match never {},
        Ok(Err(failure)) => failure,
        Err(_) => Failure::new("panic in container init"),
    };
    if let Ok(sync) = sync {
        report(sync.as_fd(), &failure.0, None);
    }
    sys::exit_now(1)
}

/// Tells the shim something: a refusal, or the terminal's master.
fn report(sync: BorrowedFd<'_>, refusal: &Refusal, master: Option<BorrowedFd<'_>>) {
    let bytes = serde_json::to_vec(refusal).unwrap_or_default();
    send(sync, &bytes, master);
}

/// One message over a socket, with a descriptor.
pub fn send(sync: BorrowedFd<'_>, bytes: &[u8], fd: Option<BorrowedFd<'_>>) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&fds));
    }
    let _ = rustix::net::sendmsg(sync, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL);
}

fn start(launch: Launch<'_>) -> Result<std::convert::Infallible, Failure> {
    let spec = launch.spec;
    process::begin(spec.oom_score_adj)?;
    launch.cgroup.join_v1().context(|| "unable to apply cgroup configuration")?;
    let taken = rootfs::take(&launch)?;
    if let Some(users) = &launch.users {
        users::cross(users, spec, &launch.stdio, launch.sync.as_fd())?;
    }
    let root = rootfs::enter(&launch, taken)?;
    path::make_dir(root.as_fd(), spec.cwd.as_ref())?;
    rootfs::pivot(root.as_fd())?;
    let terminal = if spec.tty { Some(process::open_terminal(true)?) } else { None };
    if spec.read_only_rootfs {
        rootfs::make_read_only()?;
    }
    if launch.users.is_none() {
        process::set_rlimits(&spec.rlimits)?;
    }
    let program = process::Program {
        spec,
        args: &spec.args,
        profile: launch.profile,
        env: process::environment(spec, launch.hostname, spec.tty),
    };
    program.become_it(terminal, launch.stdio, launch.sync)
}
