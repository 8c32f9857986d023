//! A container or exec in the foreground: signals go to it, its terminal is joined with ours, and its exit code
//! is ours.

use crate::container::{Context, Failure};
use crate::sys;
use rustix::event::{PollFd, PollFlags};
use rustix::fd::{AsFd, OwnedFd};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType,
};
use rustix::termios::{OptionalActions, Termios};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;

/// Where the terminal's master comes from, and goes to.
pub fn console_pair() -> Result<(OwnedFd, OwnedFd), Failure> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .context(|| "socket pair")
}

/// The master that was sent.
pub fn take_master(socket: &OwnedFd) -> Result<OwnedFd, Failure> {
    let mut bytes = [0; 64];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut pieces = [IoSliceMut::new(&mut bytes)];
    rustix::net::recvmsg(socket, &mut pieces, &mut control, RecvFlags::CMSG_CLOEXEC)
        .context(|| "receive terminal")?;
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    fd.ok_or_else(|| Failure::new("no terminal was sent"))
}

/// Puts our terminal back when dropped.
struct Raw(Option<Termios>);

impl Raw {
    fn enter() -> Self {
        let input = sys::oci::standard(0);
        let Ok(before) = rustix::termios::tcgetattr(input) else { return Self(None) };
        let mut raw = before.clone();
        raw.make_raw();
        let _ = rustix::termios::tcsetattr(input, OptionalActions::Now, &raw);
        Self(Some(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = rustix::termios::tcsetattr(sys::oci::standard(0), OptionalActions::Now, before);
        }
    }
}

/// Waits for the end of `pid`, our child; with a terminal copies between its master and our streams.
pub fn attend(pid: i32, master: Option<OwnedFd>, signals: &OwnedFd) -> Result<i32, Failure> {
    let _raw = master.as_ref().map(|_| Raw::enter());
    if let Some(master) = &master {
        resize(master);
    }
    let mut input_open = master.is_some();
    let mut output_open = master.is_some();
    loop {
        let mut fds = vec![PollFd::new(signals, PollFlags::IN)];
        let input = sys::oci::standard(0);
        if let Some(master) = master.as_ref().filter(|_| output_open) {
            fds.push(PollFd::new(master, PollFlags::IN));
            if input_open {
                fds.push(PollFd::from_borrowed_fd(input, PollFlags::IN));
            }
        }
        match rustix::event::poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other.context(|| "poll")?,
        };
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        if let (Some(true), Some(master)) = (ready.get(1), &master) {
            output_open = copy(master.as_fd(), sys::oci::standard(1));
        }
        if let (Some(true), Some(master)) = (ready.get(2), &master) {
            input_open = copy(input, master.as_fd());
        }
        if ready[0]
            && let Some(code) = take_signals(pid, signals, master.as_ref())
        {
            if let Some(master) = master.as_ref().filter(|_| output_open) {
                // What is still on its way.
                let _ = rustix::io::ioctl_fionbio(master, true);
                while copy(master.as_fd(), sys::oci::standard(1)) {}
            }
            return Ok(code);
        }
    }
}

/// Passes signals on; the exit code once the child has ended.
fn take_signals(pid: i32, signals: &OwnedFd, master: Option<&OwnedFd>) -> Option<i32> {
    let mut info = [0u8; 128];
    let mut ended = None;
    while rustix::io::read(signals, &mut info) == Ok(info.len()) {
        let signal = i32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
        match signal {
            libc::SIGCHLD => {
                while let Some((child, code)) = sys::reap() {
                    if child == pid {
                        ended = Some(code);
                    }
                }
            }
            libc::SIGWINCH => {
                if let Some(master) = master {
                    resize(master);
                }
            }
            libc::SIGPIPE | libc::SIGURG => {}
            _ => {
                let _ = sys::kill(pid, signal);
            }
        }
    }
    ended
}

fn resize(master: &OwnedFd) {
    if let Ok(size) = rustix::termios::tcgetwinsize(sys::oci::standard(0)) {
        let _ = rustix::termios::tcsetwinsize(master, size);
    }
}

/// Copies what is there; false at the end.
fn copy(from: rustix::fd::BorrowedFd<'_>, to: rustix::fd::BorrowedFd<'_>) -> bool {
    let mut bytes = [0; 16 * 1024];
    let Ok(count) = rustix::io::read(from, &mut bytes) else { return false };
    let mut rest = &bytes[..count];
    while !rest.is_empty() {
        match rustix::io::write(to, rest) {
            Ok(written) => rest = &rest[written..],
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Err(_) => return false,
        }
    }
    count > 0
}
