//! One container as the shim keeps it: spec, status, streams and log.

use super::handler::UnderWay;
use super::log::{Log, Stream, Time};
use super::poll::{Interest, Poller};
use super::{ConnId, Source};
use crate::cgroup::Cgroup;
use crate::spec::{ContainerSpec, ContainerStatus, State};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::rc::Rc;

/// As much as is buffered for a slow attachment before the container has to wait.
const MAX_BUFFERED: usize = 64 * 1024;

/// A request that is answered later.
#[derive(Clone, Copy, Debug)]
pub struct Pending {
    /// The connection it came over.
    pub conn: ConnId,
    /// Its number.
    pub request: u64,
}

/// The socket over which a child tells how its start went.
pub struct Sync {
    /// The shim's end.
    pub socket: OwnedFd,
    /// Its number in the poller.
    pub token: u64,
    /// Who waits for the outcome.
    pub pending: Pending,
}

/// An output stream of the container being read.
struct Output {
    fd: Rc<OwnedFd>,
    token: u64,
    paused: bool,
}

/// A stream being written without blocking.
struct Outlet {
    fd: OwnedFd,
    token: u64,
    buffer: VecDeque<u8>,
}

/// Somebody's connection to the container's streams.
struct Attachment {
    id: u64,
    stdin: Option<(OwnedFd, u64)>,
    outputs: [Option<Outlet>; 2],
}

/// A container.
pub struct Container {
    /// What it was made from.
    pub spec: Rc<ContainerSpec>,
    /// What is known of it.
    pub status: ContainerStatus,
    /// Its cgroup.
    pub cgroup: Cgroup,
    /// Text of its seccomp profile's file as it was at the start; empty without one.
    pub profile: Rc<[u8]>,
    /// Its start, while under way.
    pub starting: Option<Sync>,
    /// Its start by another runtime, while under way.
    pub under_way: Option<UnderWay>,
    /// The terminal's master.
    pub terminal: Option<Rc<OwnedFd>>,
    log: Option<Log>,
    outputs: [Option<Output>; 2],
    stdin: Option<Rc<OwnedFd>>,
    stdin_token: Option<u64>,
    stdin_pending: Vec<u8>,
    attachments: Vec<Attachment>,
}

impl Container {
    /// A created container.
    pub fn new(spec: ContainerSpec, cgroup: Cgroup, now: i64) -> Self {
        let status = ContainerStatus {
            id: spec.id.clone(),
            name: spec.name.clone(),
            attempt: spec.attempt,
            state: State::Created,
            pid: None,
            created_at_ns: now,
            started_at_ns: 0,
            finished_at_ns: 0,
            exit_code: 0,
            oom_killed: false,
            labels: spec.labels.clone(),
            user: None,
        };
        Self {
            spec: Rc::new(spec),
            status,
            cgroup,
            profile: Rc::new([]),
            starting: None,
            under_way: None,
            terminal: None,
            log: None,
            outputs: [None, None],
            stdin: None,
            stdin_token: None,
            stdin_pending: Vec::new(),
            attachments: Vec::new(),
        }
    }

    /// Whether its start is under way.
    pub fn is_starting(&self) -> bool {
        self.starting.is_some() || self.under_way.is_some()
    }

    /// The key of its sources.
    fn id(&self) -> Rc<str> {
        self.spec.id.as_str().into()
    }

    /// Opens the log file.
    pub fn open_log(&mut self) -> std::io::Result<()> {
        self.log = Some(Log::open(&self.spec.log_path, self.spec.log_max_bytes, self.spec.log_max_files)?);
        Ok(())
    }

    /// Opens the log file anew.
    pub fn reopen_log(&mut self) -> std::io::Result<()> {
        self.log.as_mut().map_or(Ok(()), Log::reopen)
    }

    /// Reads `fd`, which does not block, as this stream from now on.
    pub fn watch_output(
        &mut self,
        poller: &mut Poller,
        stream: Stream,
        fd: Rc<OwnedFd>,
    ) -> std::io::Result<()> {
        let token = poller.add(fd.as_fd(), Source::Output(self.id(), stream), Interest::Read)?;
        self.outputs[stream as usize] = Some(Output { fd, token, paused: false });
        Ok(())
    }

    /// Takes the writing end of the container's standard input, which does not block.
    pub fn set_stdin(&mut self, fd: Rc<OwnedFd>) {
        self.stdin = Some(fd);
    }

    /// Reads what a stream has now, at most `rounds` buffers of it.
    pub fn read_output(&mut self, poller: &mut Poller, stream: Stream, rounds: usize, now: Time) {
        let mut buffer = [0; 8 * 1024];
        for _ in 0..rounds {
            let Some(output) = &self.outputs[stream as usize] else { return };
            match rustix::io::read(&output.fd, &mut buffer) {
                Ok(0) | Err(Errno::IO) => return self.close_output(poller, stream),
                Ok(count) => self.spread(poller, stream, &buffer[..count], now),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => return self.close_output(poller, stream),
            }
        }
    }

    fn close_output(&mut self, poller: &mut Poller, stream: Stream) {
        if let Some(output) = self.outputs[stream as usize].take() {
            poller.remove(output.fd.as_fd(), output.token);
        }
        for at in (0..self.attachments.len()).rev() {
            self.flush_attachment(poller, at, stream);
        }
        self.sweep_attachments(poller);
    }

    /// What a stream said goes to the log and to everybody attached.
    fn spread(&mut self, poller: &mut Poller, stream: Stream, bytes: &[u8], now: Time) {
        if let Some(log) = &mut self.log {
            log.write(stream, bytes, now);
        }
        for at in 0..self.attachments.len() {
            if let Some(outlet) = &mut self.attachments[at].outputs[stream as usize] {
                outlet.buffer.extend(bytes);
                self.flush_attachment(poller, at, stream);
            }
        }
        self.sweep_attachments(poller);
        self.balance(poller, stream);
    }

    /// Stops reading a stream while somebody attached is behind, and goes on when nobody is.
    fn balance(&mut self, poller: &mut Poller, stream: Stream) {
        let behind = self
            .attachments
            .iter()
            .any(|a| a.outputs[stream as usize].as_ref().is_some_and(|o| o.buffer.len() > MAX_BUFFERED));
        let Some(output) = &mut self.outputs[stream as usize] else { return };
        if behind && !output.paused {
            poller.pause(output.fd.as_fd());
        } else if !behind && output.paused {
            poller.resume(output.fd.as_fd(), output.token, Interest::Read);
        }
        output.paused = behind;
    }

    /// Connects somebody: the shim's ends of pipes, which do not block.
    pub fn attach(
        &mut self,
        poller: &mut Poller,
        id: u64,
        stdin: Option<OwnedFd>,
        outputs: [Option<OwnedFd>; 2],
    ) -> std::io::Result<()> {
        let mut attachment = Attachment { id, stdin: None, outputs: [None, None] };
        if let Some(fd) = stdin {
            let token = poller.add(fd.as_fd(), Source::AttachStdin(self.id(), id), Interest::Read)?;
            attachment.stdin = Some((fd, token));
        }
        for (stream, fd) in [Stream::Stdout, Stream::Stderr].into_iter().zip(outputs) {
            let Some(fd) = fd else { continue };
            let source = Source::AttachOutput(self.id(), id, stream);
            let token = poller.add(fd.as_fd(), source, Interest::Errors)?;
            attachment.outputs[stream as usize] = Some(Outlet { fd, token, buffer: VecDeque::new() });
        }
        self.attachments.push(attachment);
        Ok(())
    }

    /// An attachment's output can take more, or is gone.
    pub fn attachment_ready(&mut self, poller: &mut Poller, id: u64, stream: Stream, gone: bool) {
        let Some(at) = self.attachments.iter().position(|a| a.id == id) else { return };
        if gone {
            if let Some(outlet) = self.attachments[at].outputs[stream as usize].take() {
                poller.remove(outlet.fd.as_fd(), outlet.token);
            }
        } else {
            self.flush_attachment(poller, at, stream);
        }
        self.sweep_attachments(poller);
        self.balance(poller, stream);
    }

    fn flush_attachment(&mut self, poller: &mut Poller, at: usize, stream: Stream) {
        let ended = self.outputs[stream as usize].is_none();
        let slot = &mut self.attachments[at].outputs[stream as usize];
        let Some(outlet) = slot else { return };
        let mut gone = false;
        while !outlet.buffer.is_empty() {
            match rustix::io::write(&outlet.fd, outlet.buffer.as_slices().0) {
                Ok(count) => drop(outlet.buffer.drain(..count)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => {
                    gone = true;
                    break;
                }
            }
        }
        let empty = outlet.buffer.is_empty();
        if gone || empty && ended {
            poller.remove(outlet.fd.as_fd(), outlet.token);
            *slot = None;
        } else {
            poller.change(
                outlet.fd.as_fd(),
                outlet.token,
                if empty { Interest::Errors } else { Interest::Write },
            );
        }
    }

    /// Forgets attachments that have no stream left, except a standard input while the container runs.
    fn sweep_attachments(&mut self, poller: &mut Poller) {
        let running = self.status.state != State::Exited;
        let mut at = 0;
        while at < self.attachments.len() {
            let attachment = &self.attachments[at];
            let outputs = attachment.outputs.iter().any(Option::is_some);
            if outputs || running && attachment.stdin.is_some() {
                at += 1;
                continue;
            }
            let attachment = self.attachments.remove(at);
            if let Some((fd, token)) = attachment.stdin {
                poller.remove(fd.as_fd(), token);
            }
        }
    }

    /// An attachment's standard input has something for the container.
    pub fn read_stdin(&mut self, poller: &mut Poller, id: u64) {
        let Some(at) = self.attachments.iter().position(|a| a.id == id) else { return };
        if !self.stdin_pending.is_empty() {
            return;
        }
        let Some((fd, token)) = &self.attachments[at].stdin else { return };
        let mut buffer = [0; 4096];
        match rustix::io::read(fd, &mut buffer) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            Ok(count) if count > 0 => {
                self.stdin_pending.extend_from_slice(&buffer[..count]);
                self.write_stdin(poller);
            }
            Ok(_) | Err(_) => {
                poller.remove(fd.as_fd(), *token);
                self.attachments[at].stdin = None;
                if self.spec.stdin_once && !self.spec.tty {
                    self.close_stdin(poller);
                }
                self.sweep_attachments(poller);
            }
        }
    }

    /// Writes to the container what waits for it. While something waits no attachment is read.
    pub fn write_stdin(&mut self, poller: &mut Poller) {
        let Some(stdin) = self.stdin.clone() else {
            self.stdin_pending = Vec::new();
            return;
        };
        let had_to_wait = self.stdin_token.is_some();
        while !self.stdin_pending.is_empty() {
            match rustix::io::write(&*stdin, &self.stdin_pending) {
                Ok(count) => drop(self.stdin_pending.drain(..count)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => {
                    self.stdin_pending.clear();
                    self.close_stdin(poller);
                    return;
                }
            }
        }
        let has_to_wait = !self.stdin_pending.is_empty();
        if has_to_wait == had_to_wait {
            return;
        }
        if let Some(token) = self.stdin_token.take() {
            poller.remove(stdin.as_fd(), token);
        }
        if has_to_wait {
            // A terminal's master is watched for reading under the same number; its copy is a second file
            // description, see `set_stdin`'s callers.
            self.stdin_token = poller.add(stdin.as_fd(), Source::Stdin(self.id()), Interest::Write).ok();
        }
        for attachment in &self.attachments {
            if let Some((fd, token)) = &attachment.stdin {
                if has_to_wait {
                    poller.pause(fd.as_fd());
                } else {
                    poller.resume(fd.as_fd(), *token, Interest::Read);
                }
            }
        }
    }

    fn close_stdin(&mut self, poller: &mut Poller) {
        if let Some(stdin) = self.stdin.take()
            && let Some(token) = self.stdin_token.take()
        {
            poller.remove(stdin.as_fd(), token);
        }
    }

    /// After the end of the first process: takes in everything it wrote, and closes the container's input.
    pub fn drain(&mut self, poller: &mut Poller, now: Time) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            // A pipe holds a mebibyte at most.
            self.read_output(poller, stream, 128, now);
        }
        if let Some(log) = &mut self.log {
            log.finish(now);
        }
        self.close_stdin(poller);
    }

    /// After the end: lets go of attachments once they have everything.
    pub fn release(&mut self, poller: &mut Poller) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            if self.outputs[stream as usize].is_some() && self.spec.tty {
                self.close_output(poller, stream);
            }
        }
        self.terminal = None;
        self.sweep_attachments(poller);
    }

    /// Before it is forgotten: closes everything.
    pub fn close(&mut self, poller: &mut Poller) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            if let Some(output) = self.outputs[stream as usize].take() {
                poller.remove(output.fd.as_fd(), output.token);
            }
            for attachment in &mut self.attachments {
                if let Some(outlet) = attachment.outputs[stream as usize].take() {
                    poller.remove(outlet.fd.as_fd(), outlet.token);
                }
            }
        }
        self.close_stdin(poller);
        self.status.state = State::Exited;
        self.sweep_attachments(poller);
    }
}
