//! The few system calls that have no safe wrapper at hand.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use tokio::io::unix::AsyncFd;

/// Runs `work` in a thread of its own inside the network namespace at `netns`, and gives its result.
pub(crate) fn in_netns<T: Send + 'static>(
    netns: &Path,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let file = std::fs::File::open(netns)?;
    let thread = std::thread::Builder::new().name("netns".to_owned()).spawn(move || {
        // SAFETY: setns takes a descriptor that is open for the whole call, and changes this thread alone,
        // which ends right after.
        if unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
            return Err(io::Error::last_os_error());
        }
        work()
    })?;
    thread.join().map_err(|_| io::Error::other("the thread in the network namespace panicked"))?
}

/// Lets the runtime wait for a descriptor.
pub(crate) fn async_fd(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned by the value that is registered, so it stays open, and the same file,
    // until it is deregistered.
    unsafe { AsyncFd::register(fd) }.map_err(|e| io::Error::other(e.to_string()))
}

/// Lets the runtime wait for what a descriptor tells out of band, such as a trigger's firing.
pub(crate) fn async_fd_priority(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    let interest = tokio::io::Interest::PRIORITY;
    // SAFETY: the descriptor is owned by the value that is registered, so it stays open, and the same file,
    // until it is deregistered.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(|e| io::Error::other(e.to_string()))
}
