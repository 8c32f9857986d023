//! Readiness by `NOTIFY_SOCKET` (sd_notify(3)): the program says `READY=1` to a socket of its container's, `start`
//! waits for that and passes it on to the socket that it was given itself, with the program's PID on this host.
//! The manager's own socket is not shown to the container, which could say anything there.

use super::config::{Config, Mount};
use super::state::Container;
use crate::container::{Context, Failure};
use rustix::event::{PollFd, PollFlags};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags};
use std::path::{Path, PathBuf};

/// The directory of the socket, in the container.
const INSIDE: &str = "/run/notify";

/// Its name, and the name of its directory in the container's state.
const NAME: &str = "notify.sock";
const DIR: &str = "notify";

/// Lets the program of a new container find a socket, if a manager wants to hear of it.
pub fn announce(config: &mut Config, dir: &Path) {
    if manager().is_none() {
        return;
    }
    let Some(process) = &mut config.process else { return };
    process.env.retain(|entry| !entry.starts_with("NOTIFY_SOCKET="));
    process.env.push(format!("NOTIFY_SOCKET={INSIDE}/{NAME}"));
    config.mounts.push(Mount {
        destination: INSIDE.to_owned(),
        source: dir.join(DIR).display().to_string(),
        options: ["bind", "nosuid", "noexec", "nodev", "ro"].map(str::to_owned).into(),
        ..Mount::default()
    });
}

/// Makes the directory that [`announce`] speaks of.
pub fn make_dir(dir: &Path) -> Result<(), Failure> {
    if manager().is_none() {
        return Ok(());
    }
    std::fs::create_dir(dir.join(DIR)).context(|| "make directory of notify socket")
}

/// The socket of whoever runs this command.
fn manager() -> Option<SocketAddrUnix> {
    let path = std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty())?;
    match path.to_string_lossy().strip_prefix('@') {
        Some(name) => SocketAddrUnix::new_abstract_name(name.as_bytes()).ok(),
        None => SocketAddrUnix::new(PathBuf::from(path)).ok(),
    }
}

/// The container's socket, open before its program runs.
pub struct Listener {
    socket: OwnedFd,
    manager: SocketAddrUnix,
}

impl Listener {
    /// None where nobody wants to hear, or the container was made without.
    pub fn open(container: &Container) -> Result<Option<Self>, Failure> {
        let dir = container.dir.join(DIR);
        let Some(manager) = manager().filter(|_| dir.is_dir()) else { return Ok(None) };
        let what = || "bind notify socket";
        let kind = (AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC);
        let socket = rustix::net::socket_with(kind.0, kind.1, kind.2, None).context(what)?;
        // By way of a descriptor: the state directory's path may be longer than an address may be.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let at = rustix::fs::open(&dir, flags, Mode::empty()).context(what)?;
        let path = format!("/proc/self/fd/{}/{NAME}", rustix::fd::AsRawFd::as_raw_fd(&at));
        let _ = std::fs::remove_file(&path);
        rustix::net::bind(&socket, &SocketAddrUnix::new(path.as_str()).context(what)?).context(what)?;
        // Any user of the container's may write.
        rustix::fs::chmod(path.as_str(), Mode::from_raw_mode(0o777)).context(what)?;
        Ok(Some(Self { socket, manager }))
    }

    /// Waits until the program is ready or has ended, and passes it on.
    pub fn pass_on(&self, pid: i32) -> Result<(), Failure> {
        let Some(number) = Pid::from_raw(pid) else { return Ok(()) };
        let Ok(end) = rustix::process::pidfd_open(number, PidfdFlags::empty()) else { return Ok(()) };
        let mut bytes = [0; 4096];
        loop {
            let mut fds = [PollFd::new(&self.socket, PollFlags::IN), PollFd::new(&end, PollFlags::IN)];
            match rustix::event::poll(&mut fds, None) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other.context(|| "poll")?,
            };
            if !fds[0].revents().contains(PollFlags::IN) {
                return Ok(());
            }
            let (count, _) = rustix::net::recv(&self.socket, &mut bytes, RecvFlags::DONTWAIT)
                .context(|| "read notify socket")?;
            if bytes[..count].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
                let text = format!("READY=1\nMAINPID={pid}\n");
                let flags = SendFlags::NOSIGNAL;
                return rustix::net::sendto(&self.socket, text.as_bytes(), flags, &self.manager)
                    .map(drop)
                    .context(|| "tell NOTIFY_SOCKET");
            }
        }
    }
}
