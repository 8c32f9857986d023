//! The shim: one small single-threaded process a pod that keeps the namespaces, the containers' streams, logs
//! and exit statuses. It outlives the daemon and serves whoever connects to its socket as root.

mod container;
mod handler;
mod log;
mod poll;
mod requests;
mod sandbox;
mod start;
mod users;

pub use log::rfc3339;
pub use sandbox::set_sysctls;

use crate::cgroup::{Cgroup, Hierarchies};
use crate::protocol::{
    Answer, Message, Op, RECORD, Receiver, Record, Refusal, Request, SOCKET, Sender, Setup, VERSION,
};
use crate::spec::{SandboxStatus, State};
use crate::sys;
use container::{Container, Pending};
use log::{Stream, Time};
use poll::{Interest, Poller, Ready};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

/// Number of a connection.
type ConnId = u64;

/// Where an event comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// Somebody connects.
    Listener,
    /// Children ended.
    Children,
    /// An owner says something.
    Conn(ConnId),
    /// A container said something.
    Output(Rc<str>, Stream),
    /// A container's standard input takes more.
    Stdin(Rc<str>),
    /// An attached client has input.
    AttachStdin(Rc<str>, u64),
    /// An attached client takes more output.
    AttachOutput(Rc<str>, u64, Stream),
    /// A container being started tells how it went.
    Starting(Rc<str>),
    /// An exec being started tells how it went.
    ExecStarting(i32),
}

/// A connected owner.
struct Conn {
    socket: OwnedFd,
    token: u64,
    sender: Sender,
    receiver: Receiver,
    wants_write: bool,
}

/// A process of an exec.
struct Exec {
    pending: Pending,
    starting: Option<container::Sync>,
    /// What the owner gets: its ends of the streams.
    streams: requests::Streams,
}

/// The shim.
struct Shim {
    setup: Setup,
    poller: Poller,
    namespaces: sandbox::Namespaces,
    cgroup: Cgroup,
    created_at_ns: i64,
    listener: OwnedFd,
    signals: OwnedFd,
    conns: BTreeMap<ConnId, Conn>,
    containers: BTreeMap<String, Container>,
    execs: HashMap<i32, Exec>,
    /// Commands of another OCI runtime that run.
    helpers: HashMap<i32, handler::Helper>,
    /// Exit codes of children that are nobody's yet, while there are helpers.
    strays: HashMap<i32, i32>,
    next: u64,
    ending: Option<Pending>,
}

/// Becomes the shim of the sandbox that the first request on `socket` describes. Never returns.
pub fn run(socket: OwnedFd) -> ! {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| serve(socket)));
    sys::exit_now(i32::from(!matches!(outcome, Ok(Ok(())))))
}

fn serve(socket: OwnedFd) -> io::Result<()> {
    rustix::process::setsid()?;
    let mut receiver = Receiver::default();
    let (request, setup) = loop {
        if let Some(Request { id, op: Op::Setup(setup) }) = receiver.next()? {
            break (id, *setup);
        }
        if !receiver.fill(socket.as_fd())? {
            return Ok(());
        }
    };
    rustix::io::ioctl_fionbio(&socket, true)?;
    let mut sender = Sender::default();
    match Shim::new(setup) {
        Ok(mut shim) => {
            let status = Box::new(shim.status());
            let result = Ok(Answer::Hello { version: VERSION, status });
            sender.push(&Message::Reply { id: request, fds: 0, result }, vec![])?;
            shim.write_record();
            if sender.flush(socket.as_fd()).is_err() {
                // The owner died meanwhile, and the next one does not know of this sandbox.
                shim.cgroup.kill();
                return shim.cgroup.remove(Duration::from_secs(1));
            }
            shim.adopt(socket, sender, receiver)?;
            shim.work()
        }
        Err(refusal) => {
            sender.push(&Message::Reply { id: request, fds: 0, result: Err(refusal) }, vec![])?;
            sender.flush(socket.as_fd())
        }
    }
}

impl Shim {
    fn new(setup: Setup) -> Result<Self, Refusal> {
        let other = |what: &str, error: io::Error| Refusal::Other(format!("{what}: {error}"));
        sys::set_title(&format!("{} {}", crate::zygote::TITLE, setup.spec.pod_uid));
        redirect_messages(&setup.dir).map_err(|e| other("open shim.log", e))?;
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .map_err(|e| other("become subreaper", e.into()))?;
        let signals = sys::child_signals().map_err(|e| other("signalfd", e))?;
        let listener = listen(&setup.dir).map_err(|e| other("listen", e))?;
        let hierarchies = Hierarchies::read().map_err(|e| other("read cgroup mounts", e))?;
        let cgroup = hierarchies.at(&setup.cgroup_root).child(&setup.spec.cgroup);
        let made = cgroup.create().and_then(|()| cgroup.apply(&setup.spec.resources, false));
        let namespaces = made.map_err(|e| Refusal::Other(e.to_string())).and_then(|()| {
            sandbox::make(&setup).map_err(|failure| match failure.0 {
                Refusal::Start(text) => Refusal::Other(text),
                refusal => refusal,
            })
        });
        let namespaces = namespaces.inspect_err(|_| drop(cgroup.remove(Duration::from_secs(1))))?;
        let mut poller = Poller::new().map_err(|e| other("epoll", e))?;
        poller.add(listener.as_fd(), Source::Listener, Interest::Read).map_err(|e| other("epoll", e))?;
        poller.add(signals.as_fd(), Source::Children, Interest::Read).map_err(|e| other("epoll", e))?;
        Ok(Self {
            setup,
            poller,
            namespaces,
            cgroup,
            created_at_ns: now_ns(),
            listener,
            signals,
            conns: BTreeMap::new(),
            containers: BTreeMap::new(),
            execs: HashMap::new(),
            helpers: HashMap::new(),
            strays: HashMap::new(),
            next: 1,
            ending: None,
        })
    }

    fn work(&mut self) -> io::Result<()> {
        loop {
            for (token, ready) in self.poller.wait()? {
                // A bug in one event must not take the pod down.
                let handled = std::panic::AssertUnwindSafe(|| self.dispatch(token, ready));
                if std::panic::catch_unwind(handled).is_err() {
                    eprintln!("panic while handling an event");
                }
            }
            if self.ending.is_some() && self.finish_ending() {
                return Ok(());
            }
        }
    }

    fn dispatch(&mut self, token: u64, ready: Ready) {
        let now = now();
        match self.poller.source(token) {
            None => {}
            Some(Source::Listener) => self.accept(),
            Some(Source::Children) => self.reap(),
            Some(Source::Conn(id)) => self.conn_ready(id, ready),
            Some(Source::Output(id, stream)) => {
                if let Some(container) = self.containers.get_mut(&*id) {
                    container.read_output(&mut self.poller, stream, 8, now);
                }
            }
            Some(Source::Stdin(id)) => {
                if let Some(container) = self.containers.get_mut(&*id) {
                    container.write_stdin(&mut self.poller);
                }
            }
            Some(Source::AttachStdin(id, attachment)) => {
                if let Some(container) = self.containers.get_mut(&*id) {
                    container.read_stdin(&mut self.poller, attachment);
                }
            }
            Some(Source::AttachOutput(id, attachment, stream)) => {
                if let Some(container) = self.containers.get_mut(&*id) {
                    container.attachment_ready(&mut self.poller, attachment, stream, ready.error);
                }
            }
            Some(Source::Starting(id)) => self.start_progress(&id),
            Some(Source::ExecStarting(pid)) => self.exec_progress(pid),
        }
    }

    /// Takes a new owner, if it is root.
    fn accept(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        while let Ok(socket) = rustix::net::accept_with(&self.listener, flags) {
            let root = rustix::net::sockopt::socket_peercred(&socket).is_ok_and(|peer| peer.uid.is_root());
            if root {
                let _ = self.adopt(socket, Sender::default(), Receiver::default());
            }
        }
    }

    fn adopt(&mut self, socket: OwnedFd, sender: Sender, receiver: Receiver) -> io::Result<()> {
        let id = self.number();
        let token = self.poller.add(socket.as_fd(), Source::Conn(id), Interest::Read)?;
        self.conns.insert(id, Conn { socket, token, sender, receiver, wants_write: false });
        self.take_requests(id);
        Ok(())
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn conn_ready(&mut self, id: ConnId, ready: Ready) {
        if ready.write {
            self.flush(id);
        }
        if !ready.read {
            return;
        }
        loop {
            let Some(conn) = self.conns.get_mut(&id) else { return };
            match conn.receiver.fill(conn.socket.as_fd()) {
                Ok(true) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Ok(false) | Err(_) => {
                    self.take_requests(id);
                    return self.drop_conn(id);
                }
            }
        }
        self.take_requests(id);
    }

    fn take_requests(&mut self, id: ConnId) {
        loop {
            let Some(conn) = self.conns.get_mut(&id) else { return };
            match conn.receiver.next_bytes() {
                Ok(None) => return,
                Ok(Some(frame)) => self.take_request(id, &frame),
                Err(_) => return self.drop_conn(id),
            }
        }
    }

    fn drop_conn(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.remove(&id) {
            self.poller.remove(conn.socket.as_fd(), conn.token);
        }
    }

    fn send(&mut self, id: ConnId, message: &Message, fds: Vec<OwnedFd>) {
        if let Some(conn) = self.conns.get_mut(&id) {
            if let Err(error) = conn.sender.push(message, fds) {
                eprintln!("cannot send: {error}");
            }
            self.flush(id);
        }
    }

    fn flush(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let wants_write = match conn.sender.flush(conn.socket.as_fd()) {
            Ok(()) => false,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => true,
            Err(_) => return self.drop_conn(id),
        };
        if wants_write != conn.wants_write {
            conn.wants_write = wants_write;
            let interest = if wants_write { Interest::Both } else { Interest::Read };
            self.poller.change(conn.socket.as_fd(), conn.token, interest);
        }
    }

    fn reply(&mut self, to: Pending, result: Result<Answer, Refusal>, fds: Vec<OwnedFd>) {
        let message = Message::Reply { id: to.request, fds: fds.len() as u32, result };
        self.send(to.conn, &message, fds);
    }

    fn tell_all(&mut self, message: &Message) {
        let all: Vec<ConnId> = self.conns.keys().copied().collect();
        for id in all {
            self.send(id, message, vec![]);
        }
    }

    /// Reaps what has ended: containers, execs, and whatever was left to the shim.
    fn reap(&mut self) {
        let mut buffer = [0; 1024];
        while rustix::io::read(&self.signals, &mut buffer).is_ok_and(|count| count > 0) {}
        while let Some((pid, code)) = sys::reap() {
            // A container in a user namespace may have gone on in a process that was not heard of yet.
            let mut ended = self.container_of(pid);
            if ended.is_none() && !self.execs.contains_key(&pid) {
                self.hear_all();
                ended = self.container_of(pid);
            }
            if let Some(id) = ended {
                self.container_ended(&id, pid, code);
            } else if self.execs.contains_key(&pid) {
                self.exec_ended(pid, code);
            } else {
                self.helper_ended(pid, code);
            }
        }
    }

    /// The container of which this is the first process.
    fn container_of(&self, pid: i32) -> Option<String> {
        self.containers.values().find(|c| c.status.pid == Some(pid)).map(|c| c.spec.id.clone())
    }

    /// All the shim knows.
    fn status(&self) -> SandboxStatus {
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        SandboxStatus {
            spec: self.setup.spec.clone(),
            ready: true,
            shim_pid: pid,
            netns: format!("/proc/{pid}/ns/net").into(),
            created_at_ns: self.created_at_ns,
            containers: self.containers.values().map(|c| c.status.clone()).collect(),
        }
    }

    /// Keeps on disk what a daemon needs when it finds no shim to ask.
    fn write_record(&self) {
        let record = Record {
            boot_id: self.setup.boot_id.clone(),
            cgroup_root: self.setup.cgroup_root.clone(),
            status: self.status(),
        };
        let written = write_record(&self.setup.dir, &record);
        if let Err(error) = written {
            eprintln!("cannot write {RECORD}: {error}");
        }
    }

    fn finish_ending(&mut self) -> bool {
        if self.containers.values().any(|c| c.status.pid.is_some() && c.status.state != State::Exited) {
            return false;
        }
        if !self.helpers.is_empty() {
            return false;
        }
        // What another runtime had made of a container when it was told to end.
        self.cgroup.kill();
        if let Some((_, pid)) = self.namespaces.shared_pids {
            let _ = sys::kill(pid, libc::SIGKILL);
        }
        let removed = self.cgroup.remove(Duration::from_secs(2));
        if let Some(pending) = self.ending {
            let result = removed.map(|()| Answer::Done);
            self.reply(pending, result.map_err(|e| Refusal::Other(format!("remove cgroup: {e}"))), vec![]);
        }
        true
    }
}

/// Writes the record of a sandbox so that a reader finds the old or the new one.
pub fn write_record(dir: &Path, record: &Record) -> io::Result<()> {
    let (path, temporary) = (dir.join(RECORD), dir.join("state.json.new"));
    std::fs::write(&temporary, serde_json::to_vec(record)?)?;
    std::fs::rename(temporary, path)
}

/// Standard error goes to a file in the sandbox's directory, the other streams nowhere.
fn redirect_messages(dir: &Path) -> io::Result<()> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC;
    let log = rustix::fs::open(dir.join("shim.log"), flags, Mode::from_raw_mode(0o600))?;
    sys::dup_onto(null.as_fd(), 0)?;
    sys::dup_onto(null.as_fd(), 1)?;
    sys::dup_onto(log.as_fd(), 2)
}

/// Listens in `dir`, by way of a descriptor since socket paths are at most 107 bytes long.
fn listen(dir: &Path) -> io::Result<OwnedFd> {
    let dir = rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let _ = rustix::fs::unlinkat(&dir, SOCKET, rustix::fs::AtFlags::empty());
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    use rustix::fd::AsRawFd;
    let path = format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd());
    rustix::net::bind(&socket, &SocketAddrUnix::new(path.as_str())?)?;
    rustix::fs::chmodat(&dir, SOCKET, Mode::from_raw_mode(0o600), rustix::fs::AtFlags::empty())?;
    rustix::net::listen(&socket, 16)?;
    Ok(socket)
}

/// The time. The shim is no part of a control plane and has no other clock than the kernel's.
/// The time of day: seconds and nanoseconds since 1970.
pub fn now() -> Time {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    (time.tv_sec, time.tv_nsec as u32)
}

fn now_ns() -> i64 {
    let (seconds, nanos) = now();
    seconds * 1_000_000_000 + i64::from(nanos)
}
