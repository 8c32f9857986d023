//! Processes: their start, which is told over a socket while the shim goes on with its other work, and their end.

use super::container::{Pending, Sync};
use super::log::Stream;
use super::poll::Interest;
use super::requests::{Streams, pipe, state_name};
use super::{Exec, Shim, Source, now, now_ns};
use crate::container::user::heard;
use crate::container::users::{Pids, Users, moved_to, root_of};
use crate::container::{ExecLaunch, Launch, Stdio, nodes_for, rules_for, run, run_exec};
use crate::protocol::{Answer, Message, Refusal};
use crate::spec::{ContainerStatus, ExecSpec, State, User};
use crate::sys::{self, Forked};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType,
};
use rustix::process::PidfdFlags;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::rc::Rc;
use std::time::Duration;

/// The exit code of a container that could not be started, as containerd's.
const START_FAILED: i32 = 128;

/// What a child said.
pub enum Word {
    /// Nothing yet.
    Nothing,
    /// Here is the terminal.
    Terminal(OwnedFd),
    /// It did not work.
    Failed(Refusal),
    /// It goes on as this process.
    Moved(i32),
    /// It will run as this user.
    User(User),
    /// It runs.
    Running,
}

fn sync_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (near, far) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::io::ioctl_fionbio(&near, true)?;
    Ok((near, far))
}

/// What a child says, or has said.
pub fn listen(socket: &OwnedFd) -> Word {
    let mut bytes = [0; 16 * 1024];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut pieces = [IoSliceMut::new(&mut bytes)];
    let got = match rustix::net::recvmsg(socket, &mut pieces, &mut control, RecvFlags::CMSG_CLOEXEC) {
        Ok(got) => got.bytes,
        Err(Errno::AGAIN | Errno::INTR) => return Word::Nothing,
        Err(_) => return Word::Running,
    };
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    match (fd, got) {
        (Some(fd), _) => Word::Terminal(fd),
        (None, 0) => Word::Running,
        (None, count) if let Some(pid) = moved_to(&bytes[..count]) => Word::Moved(pid),
        (None, count) => match heard(&bytes[..count]) {
            Some(user) => Word::User(user),
            None => Word::Failed(
                serde_json::from_slice(&bytes[..count])
                    .unwrap_or_else(|_| Refusal::Start("unknown failure".to_owned())),
            ),
        },
    }
}

impl Shim {
    pub(super) fn hostname(&self) -> String {
        if self.setup.spec.host_network {
            return rustix::system::uname().nodename().to_string_lossy().into_owned();
        }
        self.setup.spec.hostname.clone()
    }

    /// Starts a created container; `pending` is answered when it runs or has failed.
    pub(super) fn start(&mut self, id: &str, pending: Pending) -> Result<(), Refusal> {
        let container = self.container(id)?;
        if container.status.state != State::Created || container.is_starting() {
            return Err(Refusal::State(state_name(container.status.state).to_owned()));
        }
        self.try_start(id, pending).inspect_err(|_| {
            self.end_sync(id);
            self.start_failed(id);
        })
    }

    fn try_start(&mut self, id: &str, pending: Pending) -> Result<(), Refusal> {
        let failed = |what: &'static str| move |error: io::Error| Refusal::Start(format!("{what}: {error}"));
        let hostname = self.hostname();
        let target = self.pids_of_target(id)?;
        let container = self.containers.get_mut(id).ok_or(Refusal::NotFound)?;
        let spec = container.spec.clone();
        let cgroup = container.cgroup.clone();
        container.open_log().map_err(failed("failed to create container log"))?;
        container.profile = crate::seccomp::read_profile(&spec).map_err(Refusal::Start)?.into();
        let nodes = nodes_for(&spec).map_err(|failure| failure.0)?;
        let cgroup_failed = failed("unable to apply cgroup configuration");
        cgroup.create().map_err(cgroup_failed)?;
        cgroup.apply(&spec.resources, true).map_err(cgroup_failed)?;
        cgroup.allow_devices(&rules_for(&spec, &nodes)).map_err(cgroup_failed)?;
        let birthplace = cgroup.birthplace().map_err(cgroup_failed)?;

        let pipe_failed = failed("failed to create pipe");
        let mut stdio = Stdio::default();
        let (mut stdin, mut stdout, mut stderr) = (None, None, None);
        if !spec.tty {
            let (read, write) = pipe(true).map_err(pipe_failed)?;
            (stdout, stdio.stdout) = (Some(read), Some(write));
            let (read, write) = pipe(true).map_err(pipe_failed)?;
            (stderr, stdio.stderr) = (Some(read), Some(write));
            if spec.stdin {
                let (read, write) = pipe(false).map_err(pipe_failed)?;
                (stdio.stdin, stdin) = (Some(read), Some(write));
            }
        }
        let (near, far) = sync_pair().map_err(failed("failed to create socket pair"))?;
        let poller = &mut self.poller;
        let poll_failed = failed("epoll");
        for (stream, fd) in [(Stream::Stdout, stdout), (Stream::Stderr, stderr)] {
            if let Some(fd) = fd {
                container.watch_output(poller, stream, Rc::new(fd)).map_err(poll_failed)?;
            }
        }
        if let Some(fd) = stdin {
            container.set_stdin(Rc::new(fd));
        }
        if let Some(program) = self.setup.spec.handler.clone() {
            return self.create_by_handler(&program, id, pending, stdio, (near, far));
        }
        let token =
            poller.add(near.as_fd(), Source::Starting(id.into()), Interest::Read).map_err(poll_failed)?;
        container.starting = Some(Sync { socket: near, token, pending });

        let users = match (&self.namespaces.users, &self.setup.spec.user_namespace) {
            (Some(namespace), Some(ids)) => Some((namespace, root_of(ids).map_err(|failure| failure.0)?)),
            _ => None,
        };
        let mut flags = 0;
        let joined = self.namespaces.shared_pids.as_ref().map(|(namespace, _)| namespace).or(target.as_ref());
        let pids = match joined {
            Some(namespace) => Pids::Of(namespace.as_fd()),
            None if self.setup.spec.host_pid => Pids::Inherited,
            None => Pids::New,
        };
        // A PID namespace that belongs to the pod's users is entered on the way to them.
        let joined = joined.filter(|_| users.is_none());
        if let Some(namespace) = joined {
            sys::setns(namespace, libc::CLONE_NEWPID).map_err(failed("enter the PID namespace"))?;
        } else if users.is_none() && matches!(pids, Pids::New) {
            flags = libc::CLONE_NEWPID as u64;
        }
        let forked = sys::fork_into(flags, birthplace.as_ref().map(AsFd::as_fd));
        if joined.is_some() && !matches!(forked, Ok(Forked::Child)) {
            sys::setns(&self.namespaces.own_pids, libc::CLONE_NEWPID)
                .map_err(failed("leave the PID namespace"))?;
        }
        let pid = match forked.map_err(failed("clone3"))? {
            Forked::Parent(pid) => pid,
            Forked::Child => run(Launch {
                spec: &spec,
                cgroup: &cgroup,
                nodes: &nodes,
                profile: &container.profile,
                pod_mounts: self.namespaces.pod_mounts.as_fd(),
                users: users.map(|(namespace, root)| Users { namespace: namespace.as_fd(), root, pids }),
                host_ipc: self.setup.spec.host_ipc,
                hostname: &hostname,
                stdio,
                sync: far,
            }),
        };
        container.status.pid = Some(pid);
        Ok(())
    }

    /// The PID namespace of the container that this one is to look at; `None` where it looks at all or at itself.
    fn pids_of_target(&self, id: &str) -> Result<Option<OwnedFd>, Refusal> {
        let target = self.containers.get(id).and_then(|c| c.spec.pid_of.as_ref());
        let Some(target) = target.filter(|_| self.namespaces.shared_pids.is_none()) else { return Ok(None) };
        if self.setup.spec.host_pid {
            return Ok(None);
        }
        let running = self.containers.get(target).filter(|c| c.status.state == State::Running);
        let Some(pid) = running.and_then(|c| c.status.pid) else {
            return Err(Refusal::Start(format!("container {target} is not running")));
        };
        let path = format!("/proc/{pid}/ns/pid");
        let namespace = std::fs::File::open(&path).map_err(|e| Refusal::Start(format!("{path}: {e}")))?;
        Ok(Some(namespace.into()))
    }

    /// A container being started said something.
    pub(super) fn start_progress(&mut self, id: &str) {
        loop {
            let Some(container) = self.containers.get_mut(id) else { return };
            let Some(sync) = &container.starting else { return };
            let word = listen(&sync.socket);
            let pending = sync.pending;
            match word {
                Word::Nothing => return,
                Word::Terminal(master) => {
                    if let Err(error) = self.take_terminal(id, master) {
                        eprintln!("cannot watch terminal: {error}");
                    }
                    continue;
                }
                Word::Moved(pid) => {
                    if let Some(container) = self.containers.get_mut(id) {
                        container.status.pid = Some(pid);
                    }
                    continue;
                }
                Word::User(user) => {
                    if let Some(container) = self.containers.get_mut(id) {
                        container.status.user = Some(user);
                    }
                    continue;
                }
                Word::Failed(refusal) => {
                    self.end_sync(id);
                    self.start_failed(id);
                    self.reply(pending, Err(refusal), vec![]);
                }
                Word::Running => {
                    self.end_sync(id);
                    let Some(container) = self.containers.get_mut(id) else { return };
                    container.status.state = State::Running;
                    container.status.started_at_ns = now_ns();
                    let answer = Answer::Container(Box::new(container.status.clone()));
                    self.reply(pending, Ok(answer), vec![]);
                    self.write_record();
                    sys::trim_heap();
                }
            }
            return;
        }
    }

    pub(super) fn take_terminal(&mut self, id: &str, master: OwnedFd) -> io::Result<()> {
        let Some(container) = self.containers.get_mut(id) else { return Ok(()) };
        rustix::io::ioctl_fionbio(&master, true)?;
        // Reading and writing are watched apart, and epoll tells descriptors apart, not their copies' purpose.
        let input = rustix::io::fcntl_dupfd_cloexec(&master, 3)?;
        let master = Rc::new(master);
        container.terminal = Some(master.clone());
        if container.spec.stdin {
            container.set_stdin(Rc::new(input));
        }
        container.watch_output(&mut self.poller, Stream::Stdout, master)
    }

    fn end_sync(&mut self, id: &str) {
        if let Some(container) = self.containers.get_mut(id)
            && let Some(sync) = container.starting.take()
        {
            self.poller.remove(sync.socket.as_fd(), sync.token);
        }
    }

    /// A start that did not work ends the container.
    pub(super) fn start_failed(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        container.status.state = State::Exited;
        container.status.exit_code = START_FAILED;
        container.status.finished_at_ns = now_ns();
        if let Some(pid) = container.status.pid.take() {
            let _ = sys::kill(pid, libc::SIGKILL);
            sys::reap_child(pid);
        }
        container.drain(&mut self.poller, now());
        container.release(&mut self.poller);
        let _ = container.cgroup.remove(Duration::from_millis(100));
        self.write_record();
    }

    /// Hears what containers being started have said.
    pub(super) fn hear_all(&mut self) {
        let starting = self.containers.values().filter(|c| c.starting.is_some());
        for id in starting.map(|c| c.spec.id.clone()).collect::<Vec<_>>() {
            self.start_progress(&id);
        }
    }

    /// A container's first process was reaped.
    pub(super) fn container_ended(&mut self, id: &str, pid: i32, code: i32) {
        // A program that ends at once may have ended before its start was heard of.
        self.start_progress(id);
        let same = |status: &ContainerStatus| status.state != State::Exited && status.pid == Some(pid);
        if !self.containers.get(id).is_some_and(|c| same(&c.status)) {
            return;
        }
        let private_pids = self.namespaces.shared_pids.is_none() && !self.setup.spec.host_pid;
        let own = self.setup.spec.handler.is_none();
        let Some(container) = self.containers.get_mut(id) else { return };
        let private_pids = private_pids && container.spec.pid_of.is_none();
        container.status.pid = None;
        if !private_pids {
            // Without a PID namespace of its own the rest of the container does not end by itself.
            container.cgroup.kill();
        }
        container.drain(&mut self.poller, now());
        container.status.state = State::Exited;
        container.status.exit_code = code;
        container.status.oom_killed = container.cgroup.oom_kills() > 0;
        container.status.finished_at_ns = now_ns();
        container.release(&mut self.poller);
        let cgroup = container.cgroup.clone();
        let message = Message::Exited(container.status.clone());
        self.tell_all(&message);
        self.write_record();
        let _ = cgroup.remove(Duration::from_millis(if private_pids && own { 100 } else { 500 }));
        if !own {
            self.delete_by_handler(id);
        }
        sys::trim_heap();
    }

    /// Runs a process in a container; `pending` is answered when it runs or has failed.
    pub(super) fn exec(&mut self, id: &str, exec: ExecSpec, pending: Pending) -> Result<(), Refusal> {
        let failed = |what: &'static str| move |error: io::Error| Refusal::Start(format!("{what}: {error}"));
        let hostname = self.hostname();
        let users = self.setup.spec.user_namespace.as_ref();
        let users_root = users.map(root_of).transpose().map_err(|failure| failure.0)?;
        let container = self.containers.get_mut(id).ok_or(Refusal::NotFound)?;
        let (State::Running, Some(init)) = (container.status.state, container.status.pid) else {
            return Err(Refusal::State(state_name(container.status.state).to_owned()));
        };
        let init = rustix::process::Pid::from_raw(init).ok_or(Refusal::NotFound)?;
        let process = rustix::process::pidfd_open(init, PidfdFlags::empty())
            .map_err(|e| Refusal::Start(format!("cannot exec in a stopped container: {e}")))?;
        let (spec, cgroup, profile) =
            (container.spec.clone(), container.cgroup.clone(), container.profile.clone());
        let handler = self.setup.spec.handler.clone();

        let mut streams = Streams::default();
        let mut stdio = Stdio::default();
        if !exec.tty {
            // Both ends block: neither is the shim's to use.
            let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(io::Error::from);
            let pipe_failed = failed("failed to create pipe");
            if exec.stdin {
                let (read, write) = pipe().map_err(pipe_failed)?;
                (stdio.stdin, streams.pipes[0]) = (Some(read), Some(write));
            }
            if exec.stdout {
                let (read, write) = pipe().map_err(pipe_failed)?;
                (streams.pipes[1], stdio.stdout) = (Some(read), Some(write));
            }
            if exec.stderr {
                let (read, write) = pipe().map_err(pipe_failed)?;
                (streams.pipes[2], stdio.stderr) = (Some(read), Some(write));
            }
        }
        let (near, far) = sync_pair().map_err(failed("failed to create socket pair"))?;
        if let Some(program) = handler {
            return self.exec_by_handler(&program, id, &exec, (stdio, streams), (near, far), pending);
        }

        let birthplace = cgroup.birthplace().map_err(failed("unable to apply cgroup configuration"))?;
        sys::setns(&process, libc::CLONE_NEWPID).map_err(failed("enter the container's PID namespace"))?;
        let forked = sys::fork_into(0, birthplace.as_ref().map(AsFd::as_fd));
        if !matches!(forked, Ok(Forked::Child)) {
            sys::setns(&self.namespaces.own_pids, libc::CLONE_NEWPID)
                .map_err(failed("leave the PID namespace"))?;
        }
        let pid = match forked.map_err(failed("clone3"))? {
            Forked::Parent(pid) => pid,
            Forked::Child => run_exec(ExecLaunch {
                spec: &spec,
                exec: &exec,
                profile: &profile,
                cgroup: &cgroup,
                process: process.as_fd(),
                users_root,
                hostname: &hostname,
                stdio,
                sync: far,
            }),
        };
        drop((far, stdio));
        let token = self
            .poller
            .add(near.as_fd(), Source::ExecStarting(pid), Interest::Read)
            .map_err(failed("epoll"))?;
        let starting = Some(Sync { socket: near, token, pending });
        self.execs.insert(pid, Exec { pending, starting, streams });
        Ok(())
    }

    /// An exec being started said something.
    pub(super) fn exec_progress(&mut self, pid: i32) {
        loop {
            let Some(exec) = self.execs.get_mut(&pid) else { return };
            let Some(sync) = &exec.starting else { return };
            let word = listen(&sync.socket);
            let pending = exec.pending;
            let result = match word {
                Word::Nothing => return,
                Word::Terminal(master) => {
                    exec.streams.terminal = Some(master);
                    continue;
                }
                Word::Failed(refusal) => Err(refusal),
                Word::Moved(_) | Word::User(_) => continue,
                Word::Running => Ok(std::mem::take(&mut exec.streams)),
            };
            if let Some(sync) = exec.starting.take() {
                self.poller.remove(sync.socket.as_fd(), sync.token);
            }
            match result {
                Ok(streams) => {
                    let (answer, fds) = streams.into_answer();
                    self.reply(pending, Ok(answer), fds);
                }
                Err(refusal) => {
                    self.execs.remove(&pid);
                    self.reply(pending, Err(refusal), vec![]);
                }
            }
            return;
        }
    }

    /// An exec's process was reaped.
    pub(super) fn exec_ended(&mut self, pid: i32, code: i32) {
        self.exec_progress(pid);
        if let Some(exec) = self.execs.remove(&pid) {
            self.send(exec.pending.conn, &Message::ExecExited { id: exec.pending.request, code }, vec![]);
        }
        sys::trim_heap();
    }
}
