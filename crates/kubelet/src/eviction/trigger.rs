//! Being told by the kernel that processes wait for memory: a trigger of pressure stall information
//! (Documentation/accounting/psi.rst). Where the kernel has none, the slow look every ten seconds is all.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Some process stalled for 100 ms within a second, in microseconds as the kernel wants it. It tells at most once a
/// second.
const TRIGGER: &[u8] = b"some 100000 1000000\0";

/// A trigger for memory.
pub(super) struct Memory(Option<AsyncFd<OwnedFd>>);

impl Memory {
    pub(super) fn open() -> Self {
        let open = || {
            let mut file = File::options().read(true).write(true).open("/proc/pressure/memory")?;
            file.write_all(TRIGGER)?;
            crate::sys::async_fd_priority(file.into())
        };
        Self(open().inspect_err(|error| tracing::debug!(%error, "no trigger for memory pressure")).ok())
    }

    /// Waits until it fires; for ever where there is none.
    pub(super) async fn fired(&mut self) {
        let Some(fd) = &self.0 else { return std::future::pending().await };
        match fd.ready(Interest::PRIORITY).await {
            Ok(mut ready) if ready.ready().is_priority() => ready.clear_ready(),
            // The trigger is gone.
            _ => self.0 = None,
        }
    }
}
