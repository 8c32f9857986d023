//! The zygote: a small single-threaded process of the same program that forks shims. Shims share its pages,
//! which a re-executed process each would have to itself, and a fork out of the daemon, which has threads,
//! could not go on to run Rust code. It ends with the daemon; shims do not.

use crate::cgroup::Hierarchies;
use crate::shim;
use crate::sys::{self, Forked};
use rustix::fd::{AsFd, IntoRawFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;

/// What a process is called that is to become the zygote, and then its shims.
pub const TITLE: &str = "knarr-shim";

/// Room in the arguments for a shim to show the UID of its pod.
pub const TITLE_ROOM: &str = "------------------------------------";

/// The cgroup of shims under the runtime's cgroup.
pub const SHIMS_CGROUP: &str = "shims";

/// Of processes the kernel may kill for want of memory, shims come last: as containerd's.
const OOM_SCORE_ADJ: &str = "-998";

/// See [`crate::zygote_main_if_asked`].
pub fn main_if_asked() {
    if std::env::args_os().next().is_some_and(|name| name == TITLE) {
        let outcome = serve();
        if let Err(error) = &outcome {
            eprintln!("{TITLE}: {error}");
        }
        sys::exit_now(i32::from(outcome.is_err()));
    }
}

/// Forks a shim for every socket that arrives on descriptor 0, until the daemon is gone. The first message is
/// the cgroup under which everything is made.
fn serve() -> io::Result<()> {
    // Whatever else the daemon was started with is none of a shim's business.
    sys::close_from(3);
    let inherited = sys::inherited_fd(0);
    let control = rustix::io::fcntl_dupfd_cloexec(&inherited, 3)?;
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
    let null = rustix::fs::open("/dev/null", flags, rustix::fs::Mode::empty())?;
    sys::dup_onto(null.as_fd(), inherited.into_raw_fd())?;
    drop(null);
    rustix::process::setsid()?;
    rustix::process::chdir("/")?;
    sys::reset_signals();
    sys::ignore_broken_pipes();
    sys::ignore_children(true);
    // Without the right to do so the score stays as it is.
    let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ);
    let Some((root, _)) = receive(&control)? else { return Ok(()) };
    leave_cgroup(&String::from_utf8_lossy(&root))?;
    while let Some((_, socket)) = receive(&control)? {
        let Some(socket) = socket else { continue };
        if let Forked::Child = sys::fork_into(0, None)? {
            drop(control);
            sys::ignore_children(false);
            shim::run(socket);
        }
    }
    Ok(())
}

/// Leaves the daemon's cgroup, with which a service manager would end the shims.
fn leave_cgroup(root: &str) -> io::Result<()> {
    let cgroup = Hierarchies::read()?.at(root).child(SHIMS_CGROUP);
    cgroup.create()?;
    cgroup.join_v1()?;
    cgroup.join_v2()
}

/// One message and the descriptor that came with it; none at the end.
fn receive(control: &OwnedFd) -> io::Result<Option<(Vec<u8>, Option<OwnedFd>)>> {
    let mut bytes = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control_buffer = RecvAncillaryBuffer::new(&mut space);
    loop {
        let mut pieces = [IoSliceMut::new(&mut bytes)];
        match rustix::net::recvmsg(control, &mut pieces, &mut control_buffer, RecvFlags::CMSG_CLOEXEC) {
            Ok(got) if got.bytes == 0 => return Ok(None),
            Ok(got) => {
                let count = got.bytes;
                let fd = control_buffer.drain().find_map(|message| match message {
                    RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
                    _ => None,
                });
                return Ok(Some((bytes[..count].to_vec(), fd)));
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
