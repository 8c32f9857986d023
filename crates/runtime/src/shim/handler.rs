//! Containers of another OCI runtime (see [`crate::handler`]): its commands are children of the shim like containers
//! are, and what comes next is done when one of them is reaped.

use super::container::Pending;
use super::requests::Streams;
use super::start::{Word, listen};
use super::{Exec, Shim, now_ns};
use crate::container::{Stdio, nodes_for, rules_for};
use crate::handler::{self, Bundle, CreateLaunch, ExecLaunch, INIT};
use crate::protocol::{Answer, Refusal};
use crate::spec::{ExecSpec, State, User};
use crate::sys::{self, Forked};
use rustix::fd::{AsFd, OwnedFd};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::io;
use std::path::Path;

/// A command of the other runtime that runs.
pub enum Helper {
    /// Makes this container.
    Create(String),
    /// Starts it.
    Start(String),
    /// Begins a process in a running one.
    Exec(Box<Beginning>),
    /// Anything that nobody waits for.
    Other,
}

/// A process in a container that is about to run.
pub struct Beginning {
    pending: Pending,
    id: String,
    tag: String,
    streams: Streams,
    sync: OwnedFd,
    console: Option<OwnedFd>,
}

/// A container's start that is under way.
pub struct UnderWay {
    pending: Pending,
    sync: OwnedFd,
    console: Option<OwnedFd>,
    /// Its first process, once it is known.
    pid: Option<i32>,
    /// The exit code of that process, if it ended before the runtime said that it runs.
    ended: Option<i32>,
}

/// A socket in a bundle to which the runtime sends a terminal.
fn listen_at(path: &Path) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, 1)?;
    Ok(socket)
}

/// The terminal that was sent.
fn terminal_from(console: &OwnedFd) -> Option<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    match listen(&rustix::net::accept_with(console, flags).ok()?) {
        Word::Terminal(terminal) => Some(terminal),
        _ => None,
    }
}

/// What a command said before it was executed: as whom the container runs, and why it cannot be made.
fn said(sync: &OwnedFd) -> (Option<User>, Option<Refusal>) {
    let mut user = None;
    loop {
        match listen(sync) {
            Word::User(found) => user = Some(found),
            Word::Failed(refusal) => return (user, Some(refusal)),
            Word::Terminal(_) | Word::Moved(_) => {}
            Word::Nothing | Word::Running => return (user, None),
        }
    }
}

/// Why a command failed: what it said before it was executed, or its log, or how it ended.
fn refusal(said: Option<Refusal>, bundle: &Bundle, code: i32) -> Refusal {
    let complaint = || Refusal::Start(bundle.complaint().unwrap_or_else(|| format!("exit status {code}")));
    said.unwrap_or_else(complaint)
}

impl Shim {
    fn bundle(&self, id: &str) -> Bundle {
        Bundle::new(&self.setup.dir, id)
    }

    /// Has the runtime `program` make a container; streams and cgroup are there.
    pub(super) fn create_by_handler(
        &mut self,
        program: &Path,
        id: &str,
        pending: Pending,
        stdio: Stdio,
        (near, far): (OwnedFd, OwnedFd),
    ) -> Result<(), Refusal> {
        let failed = |what: &'static str| move |error: io::Error| Refusal::Start(format!("{what}: {error}"));
        let hostname = self.hostname();
        let bundle = self.bundle(id);
        let _ = std::fs::remove_dir_all(bundle.dir());
        std::fs::create_dir_all(bundle.dir()).map_err(failed("make the bundle"))?;
        std::fs::create_dir_all(Bundle::state(&self.setup.dir)).map_err(failed("make the bundle"))?;
        let target = self.containers.get(id).and_then(|c| c.spec.pid_of.clone());
        let target = target.and_then(|target| self.containers.get(&target)?.status.pid);
        let pids_of = self.namespaces.shared_pids.as_ref().map(|(_, pid)| *pid).or(target);
        let shim = rustix::process::getpid().as_raw_nonzero().get();
        let container = self.containers.get_mut(id).ok_or(Refusal::NotFound)?;
        let (spec, cgroup) = (container.spec.clone(), container.cgroup.clone());
        let nodes = nodes_for(&spec).map_err(|failure| failure.0)?;
        let rules = rules_for(&spec, &nodes);
        let console = if spec.tty { Some(listen_at(&bundle.console(INIT))) } else { None };
        let console = console.transpose().map_err(failed("failed to create console socket"))?;
        let pid = match sys::fork_into(0, None).map_err(failed("clone3"))? {
            Forked::Parent(pid) => pid,
            Forked::Child => handler::run_create(CreateLaunch {
                program,
                dir: &self.setup.dir,
                bundle: &bundle,
                sandbox: &self.setup.spec,
                spec: &spec,
                cgroup: &cgroup,
                nodes: &nodes,
                rules: &rules,
                profile: &container.profile,
                pod_mounts: self.namespaces.pod_mounts.as_fd(),
                hostname: &hostname,
                shim,
                pids_of,
                stdio,
                sync: far,
            }),
        };
        container.under_way = Some(UnderWay { pending, sync: near, console, pid: None, ended: None });
        self.helpers.insert(pid, Helper::Create(id.to_owned()));
        Ok(())
    }

    /// Runs a command of the runtime about a container.
    fn command(&mut self, id: &str, words: &[&str], helper: Helper) -> io::Result<()> {
        let Some(program) = self.setup.spec.handler.clone() else { return Ok(()) };
        let bundle = self.bundle(id);
        match sys::fork_into(0, None)? {
            Forked::Parent(pid) => drop(self.helpers.insert(pid, helper)),
            Forked::Child => handler::run_command(&program, &self.setup.dir, &bundle, words),
        }
        Ok(())
    }

    /// Has the runtime send a signal: the process seen from here may be a machine's.
    pub(super) fn signal_by_handler(&mut self, id: &str, signal: i32) -> io::Result<()> {
        self.command(id, &["kill", id, &signal.to_string()], Helper::Other)
    }

    /// Has the runtime forget a container that has ended.
    pub(super) fn delete_by_handler(&mut self, id: &str) {
        if let Err(error) = self.command(id, &["delete", "--force", id], Helper::Other) {
            eprintln!("cannot delete {id}: {error}");
        }
    }

    /// A child was reaped that is neither a container nor an exec.
    pub(super) fn helper_ended(&mut self, pid: i32, code: i32) {
        match self.helpers.remove(&pid) {
            Some(Helper::Create(id)) => self.created(&id, code),
            Some(Helper::Start(id)) => self.started(&id, code),
            Some(Helper::Exec(beginning)) => self.begun(*beginning, code),
            Some(Helper::Other) => {}
            None => {
                let ways = self.containers.values_mut().filter_map(|c| c.under_way.as_mut());
                if let Some(way) = ways.into_iter().find(|way| way.pid == Some(pid)) {
                    way.ended = Some(code);
                } else {
                    // Perhaps one whose number is about to be read from a file.
                    self.strays.insert(pid, code);
                }
            }
        }
        if self.helpers.is_empty() {
            self.strays.clear();
        }
    }

    fn created(&mut self, id: &str, code: i32) {
        let bundle = self.bundle(id);
        let Some(container) = self.containers.get_mut(id) else { return };
        let Some(way) = container.under_way.as_mut() else { return };
        let (user, why) = said(&way.sync);
        container.status.user = user;
        if code != 0 {
            let refusal = refusal(why, &bundle, code);
            return self.start_by_handler_failed(id, refusal);
        }
        let Some(pid) = bundle.read_pid(INIT) else {
            let what = "the runtime does not say which process is the container's";
            return self.start_by_handler_failed(id, Refusal::Start(what.to_owned()));
        };
        way.pid = Some(pid);
        way.ended = self.strays.remove(&pid);
        let terminal = way.console.take().and_then(|console| terminal_from(&console));
        if let Some(terminal) = terminal
            && let Err(error) = self.take_terminal(id, terminal)
        {
            eprintln!("cannot watch terminal: {error}");
        }
        if let Err(error) = self.command(id, &["start", id], Helper::Start(id.to_owned())) {
            self.start_by_handler_failed(id, Refusal::Start(format!("start: {error}")));
        }
    }

    fn started(&mut self, id: &str, code: i32) {
        let bundle = self.bundle(id);
        let Some(container) = self.containers.get_mut(id) else { return };
        let Some(way) = &container.under_way else { return };
        if code != 0 {
            let refusal = refusal(said(&way.sync).1, &bundle, code);
            return self.start_by_handler_failed(id, refusal);
        }
        let (pid, ended, pending) = (way.pid, way.ended, way.pending);
        container.under_way = None;
        container.status.pid = pid;
        container.status.state = State::Running;
        container.status.started_at_ns = now_ns();
        let answer = Answer::Container(Box::new(container.status.clone()));
        self.reply(pending, Ok(answer), vec![]);
        self.write_record();
        if let (Some(pid), Some(code)) = (pid, ended) {
            self.container_ended(id, pid, code);
        }
        sys::trim_heap();
    }

    fn start_by_handler_failed(&mut self, id: &str, refusal: Refusal) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let Some(way) = container.under_way.take() else { return };
        container.cgroup.kill();
        self.delete_by_handler(id);
        self.start_failed(id);
        self.reply(way.pending, Err(refusal), vec![]);
    }

    /// Has the runtime begin a process in a container; `pending` is answered when it runs or has failed.
    pub(super) fn exec_by_handler(
        &mut self,
        program: &Path,
        id: &str,
        exec: &ExecSpec,
        (stdio, streams): (Stdio, Streams),
        (near, far): (OwnedFd, OwnedFd),
        pending: Pending,
    ) -> Result<(), Refusal> {
        let failed = |what: &'static str| move |error: io::Error| Refusal::Start(format!("{what}: {error}"));
        let bundle = self.bundle(id);
        let tag = format!("exec-{}", self.number());
        let console = if exec.tty { Some(listen_at(&bundle.console(&tag))) } else { None };
        let console = console.transpose().map_err(failed("failed to create console socket"))?;
        let pid = match sys::fork_into(0, None).map_err(failed("clone3"))? {
            Forked::Parent(pid) => pid,
            Forked::Child => handler::run_exec(ExecLaunch {
                program,
                dir: &self.setup.dir,
                bundle: &bundle,
                id,
                tag: &tag,
                exec,
                stdio,
                sync: far,
            }),
        };
        let beginning = Beginning { pending, id: id.to_owned(), tag, streams, sync: near, console };
        self.helpers.insert(pid, Helper::Exec(Box::new(beginning)));
        Ok(())
    }

    fn begun(&mut self, beginning: Beginning, code: i32) {
        let Beginning { pending, id, tag, mut streams, sync, console } = beginning;
        let bundle = self.bundle(&id);
        let pid = if code == 0 { bundle.read_pid(&tag) } else { None };
        let outcome = match pid {
            Some(pid) => Ok(pid),
            None => Err(refusal(said(&sync).1, &bundle, code)),
        };
        streams.terminal = console.and_then(|console| terminal_from(&console));
        for file in [bundle.pid_file(&tag), bundle.console(&tag), bundle.dir().join(format!("{tag}.json"))] {
            let _ = std::fs::remove_file(file);
        }
        match outcome {
            Ok(pid) => {
                self.execs.insert(pid, Exec { pending, starting: None, streams: Streams::default() });
                let (answer, fds) = streams.into_answer();
                self.reply(pending, Ok(answer), fds);
                if let Some(code) = self.strays.remove(&pid) {
                    self.exec_ended(pid, code);
                }
            }
            Err(refusal) => self.reply(pending, Err(refusal), vec![]),
        }
    }

    /// Ends the command that makes or starts a container; its start has failed when that is reaped.
    pub(super) fn end_start(&self, of: &str) {
        for (pid, helper) in &self.helpers {
            if matches!(helper, Helper::Create(id) | Helper::Start(id) if id == of) {
                let _ = sys::kill(*pid, libc::SIGKILL);
            }
        }
    }

    /// Ends what is on its way, when the sandbox ends.
    pub(super) fn end_helpers(&mut self) {
        for (pid, helper) in &self.helpers {
            if !matches!(helper, Helper::Other) {
                let _ = sys::kill(*pid, libc::SIGKILL);
            }
        }
    }

    /// Removes the files of a container.
    pub(super) fn remove_bundle(&self, id: &str) {
        if self.setup.spec.handler.is_some() {
            let _ = std::fs::remove_dir_all(self.bundle(id).dir());
        }
    }
}
