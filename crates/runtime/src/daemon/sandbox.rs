//! What the daemon keeps of a sandbox, and how it cleans up after a dead shim.

use super::connection::{Connection, Gone};
use crate::RuntimeError;
use crate::cgroup::{Cgroup, Hierarchies};
use crate::protocol::{Answer, Op, RECORD, Record, Refusal, SOCKET};
use crate::spec::{ContainerStatus, SandboxStatus, State, User};
use crate::{shim, sys};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::watch;

/// Exit code of containers whose end nobody saw; containerd's.
const UNKNOWN_EXIT: i32 = 255;

/// A sandbox.
pub struct Sandbox {
    pub uid: String,
    pub dir: PathBuf,
    pub cgroup: Cgroup,
    pub connection: Option<Connection>,
    /// Being removed: the end of its shim is expected.
    pub removing: AtomicBool,
    status: Mutex<SandboxStatus>,
    changed: watch::Sender<()>,
}

impl Sandbox {
    /// Of a status just heard.
    pub fn new(dir: PathBuf, cgroup: Cgroup, connection: Option<Connection>, status: SandboxStatus) -> Self {
        Self {
            uid: status.spec.pod_uid.clone(),
            dir,
            cgroup,
            connection,
            removing: AtomicBool::new(false),
            status: Mutex::new(status),
            changed: watch::Sender::new(()),
        }
    }

    /// As last heard of.
    pub fn status(&self) -> SandboxStatus {
        self.with_status(|status| status.clone())
    }

    pub fn with_status<T>(&self, with: impl FnOnce(&mut SandboxStatus) -> T) -> T {
        with(&mut self.status.lock().expect("nothing panics while it holds a sandbox's status"))
    }

    /// A container as last heard of.
    pub fn container(&self, id: &str) -> Option<ContainerStatus> {
        self.with_status(|status| status.containers.iter().find(|c| c.id == id).cloned())
    }

    /// Who a container's first process was to be, as its shim knows it.
    pub async fn user_of(&self, id: &str) -> Option<User> {
        let Ok((Answer::Hello { status, .. }, _)) = self.call(Op::Hello).await else { return None };
        status.containers.into_iter().find(|c| c.id == id)?.user
    }

    /// Takes in what was heard of a container.
    pub fn heard(&self, container: ContainerStatus) {
        self.with_status(|status| match status.containers.iter_mut().find(|c| c.id == container.id) {
            // Answers and events may overtake each other, but an end is final.
            Some(known) if known.state == State::Exited && container.state != State::Exited => {}
            Some(known) => *known = container,
            None => status.containers.push(container),
        });
        self.changed.send_replace(());
    }

    /// Forgets a container.
    pub fn forget(&self, id: &str) {
        self.with_status(|status| status.containers.retain(|c| c.id != id));
        self.changed.send_replace(());
    }

    /// Takes in that the shim is gone: so are its containers.
    pub fn lost(&self, now_ns: i64) {
        self.with_status(|status| mark_lost(status, now_ns));
        self.changed.send_replace(());
    }

    /// Resolves when a container has ended, or is not known any more.
    pub async fn ended(&self, id: &str) -> Option<ContainerStatus> {
        let mut changes = self.changed.subscribe();
        loop {
            match self.container(id) {
                Some(status) if status.state != State::Exited => {}
                other => return other,
            }
            if changes.changed().await.is_err() {
                return None;
            }
        }
    }

    /// Asks the shim.
    pub async fn call(&self, op: Op) -> Result<(Answer, Vec<OwnedFd>), CallError> {
        let connection = self.connection()?;
        connection.call(op).await.map_err(|Gone| CallError::Gone)?.map_err(CallError::Refused)
    }

    /// The connection to the shim.
    pub fn connection(&self) -> Result<&Connection, CallError> {
        self.connection.as_ref().ok_or(CallError::Gone)
    }

    /// Kills what is left of the sandbox without the shim's help, and removes its cgroups. Blocks.
    pub fn clean_up(&self) -> io::Result<()> {
        let status = self.status();
        if status.shim_pid > 0 && is_shim(status.shim_pid, &self.uid) {
            let _ = sys::kill(status.shim_pid, libc::SIGKILL);
        }
        self.cgroup.kill();
        self.cgroup.remove(Duration::from_secs(2))
    }

    pub fn is_removing(&self) -> bool {
        self.removing.load(Ordering::SeqCst)
    }
}

/// Why the shim did not do as asked.
pub enum CallError {
    Gone,
    Refused(Refusal),
}

impl CallError {
    /// As the caller's error, for this pod and container. `exec`: the process was an exec's.
    pub fn into_error(self, uid: &str, id: &str, exec: bool) -> RuntimeError {
        match self {
            Self::Gone => RuntimeError::SandboxLost(uid.to_owned()),
            Self::Refused(refusal) => match refusal {
                Refusal::NotFound => RuntimeError::ContainerNotFound(id.to_owned()),
                Refusal::Exists => RuntimeError::ContainerExists(id.to_owned()),
                Refusal::State(state) => RuntimeError::WrongState { id: id.to_owned(), state },
                Refusal::Start(text) if exec => RuntimeError::Exec(text),
                Refusal::Start(text) => RuntimeError::Start(text),
                Refusal::MustNotBeRoot => RuntimeError::MustNotBeRoot,
                Refusal::Other(text) => RuntimeError::Shim(text),
            },
        }
    }
}

fn mark_lost(status: &mut SandboxStatus, now_ns: i64) {
    status.ready = false;
    for container in status.containers.iter_mut().filter(|c| c.state != State::Exited) {
        container.state = State::Exited;
        container.pid = None;
        container.exit_code = UNKNOWN_EXIT;
        container.finished_at_ns = now_ns;
    }
}

/// Whether this process is the shim of that pod, and not another that got its number.
fn is_shim(pid: i32, uid: &str) -> bool {
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let title = format!("{} {uid}", crate::zygote::TITLE);
    command.starts_with(title.as_bytes())
}

/// Reads the record in a sandbox's directory.
pub fn read_record(dir: &Path) -> io::Result<Record> {
    Ok(serde_json::from_slice(&std::fs::read(dir.join(RECORD))?)?)
}

/// Writes the record of a sandbox that is yet to get its shim.
pub fn write_record(dir: &Path, record: &Record) -> io::Result<()> {
    shim::write_record(dir, record)
}

/// Connects to the shim in `dir`, by way of a descriptor since socket paths are at most 107 bytes long.
pub fn connect(dir: &Path) -> io::Result<OwnedFd> {
    let dir = rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    let path = format!("/proc/self/fd/{}/{SOCKET}", dir.as_fd().as_raw_fd());
    rustix::net::connect(&socket, &SocketAddrUnix::new(path.as_str())?)?;
    Ok(socket)
}

/// A sandbox whose shim is dead, with what can be known of it.
pub fn dead(
    dir: PathBuf,
    hierarchies: &Hierarchies,
    record: Record,
    same_boot: bool,
    now_ns: i64,
) -> Sandbox {
    let mut status = record.status;
    mark_lost(&mut status, now_ns);
    if !same_boot {
        status.shim_pid = 0;
    }
    let cgroup = hierarchies.at(&record.cgroup_root).child(&status.spec.cgroup);
    Sandbox::new(dir, cgroup, None, status)
}
