//! What owners ask of the shim, except starting processes.

use super::container::{Container, Pending};
use super::log::Stream;
use super::{ConnId, Shim, now_ns};
use crate::protocol::{Answer, Op, Refusal, Request, VERSION};
use crate::spec::{ContainerSpec, State};
use crate::sys;
use rustix::fd::OwnedFd;
use rustix::pipe::PipeFlags;
use rustix::termios::Winsize;
use serde::Deserialize;
use std::io;
use std::time::Duration;

/// The owner's ends of a process's streams.
#[derive(Default)]
pub struct Streams {
    /// One terminal instead of three streams.
    pub terminal: Option<OwnedFd>,
    /// Standard input, output, error.
    pub pipes: [Option<OwnedFd>; 3],
}

impl Streams {
    /// As an answer with its descriptors.
    pub fn into_answer(self) -> (Answer, Vec<OwnedFd>) {
        if let Some(terminal) = self.terminal {
            let answer = Answer::Streams { terminal: true, stdin: true, stdout: true, stderr: false };
            return (answer, vec![terminal]);
        }
        let [stdin, stdout, stderr] = self.pipes.each_ref().map(Option::is_some);
        let answer = Answer::Streams { terminal: false, stdin, stdout, stderr };
        (answer, self.pipes.into_iter().flatten().collect())
    }
}

/// A pipe whose reading (first) end, or writing (second) end, is the shim's and does not block.
pub fn pipe(shim_reads: bool) -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(if shim_reads { &read } else { &write }, true)?;
    Ok((read, write))
}

impl Shim {
    pub(super) fn take_request(&mut self, conn: ConnId, frame: &[u8]) {
        #[derive(Deserialize)]
        struct Numbered {
            id: u64,
        }
        let request: Request = match serde_json::from_slice(frame) {
            Ok(request) => request,
            Err(error) => {
                // Something a newer daemon asks: it gets an answer all the same.
                if let Ok(Numbered { id }) = serde_json::from_slice(frame) {
                    let refusal = Refusal::Other(format!("shim of protocol version {VERSION}: {error}"));
                    self.reply(Pending { conn, request: id }, Err(refusal), vec![]);
                }
                return;
            }
        };
        let pending = Pending { conn, request: request.id };
        let outcome = match request.op {
            Op::Setup(_) => Err(Refusal::Exists),
            Op::Hello => Ok(Answer::Hello { version: VERSION, status: Box::new(self.status()) }),
            Op::Create(spec) => self.create(*spec),
            Op::Start { id } => match self.start(&id, pending) {
                Ok(()) => return,
                Err(refusal) => Err(refusal),
            },
            Op::Signal { id, signal, all } => self.signal(&id, signal, all),
            Op::Remove { id } => self.remove(&id),
            Op::Exec { id, spec } => match self.exec(&id, spec, pending) {
                Ok(()) => return,
                Err(refusal) => Err(refusal),
            },
            Op::KillExec { exec } => self.kill_exec(conn, exec),
            Op::Attach { id, stdin, stdout, stderr } => match self.attach(&id, [stdin, stdout, stderr]) {
                Ok(streams) => {
                    let (answer, fds) = streams.into_answer();
                    return self.reply(pending, Ok(answer), fds);
                }
                Err(refusal) => Err(refusal),
            },
            Op::Resize { id, width, height } => self.resize(&id, width, height),
            Op::ReopenLog { id } => self.container(&id).and_then(|c| {
                c.reopen_log().map(|()| Answer::Done).map_err(|e| Refusal::Other(format!("reopen log: {e}")))
            }),
            Op::Shutdown => return self.shut_down(pending),
        };
        self.reply(pending, outcome, vec![]);
    }

    pub(super) fn container(&mut self, id: &str) -> Result<&mut Container, Refusal> {
        self.containers.get_mut(id).ok_or(Refusal::NotFound)
    }

    fn create(&mut self, spec: ContainerSpec) -> Result<Answer, Refusal> {
        if self.containers.contains_key(&spec.id) {
            return Err(Refusal::Exists);
        }
        if spec.id.is_empty() || !spec.id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        {
            return Err(Refusal::Other(format!("invalid container id {:?}", spec.id)));
        }
        let cgroup = self.cgroup.child(&spec.id);
        let id = spec.id.clone();
        self.containers.insert(id, Container::new(spec, cgroup, now_ns()));
        self.write_record();
        Ok(Answer::Done)
    }

    fn signal(&mut self, id: &str, signal: i32, all: bool) -> Result<Answer, Refusal> {
        let container = self.container(id)?;
        if container.status.state == State::Exited {
            return Ok(Answer::Done);
        }
        let Some(pid) = container.status.pid else {
            // A start by another runtime that hangs ends with that runtime's command.
            if signal == libc::SIGKILL && container.under_way.is_some() {
                container.cgroup.kill();
                self.end_start(id);
                return Ok(Answer::Done);
            }
            return Err(Refusal::State(state_name(container.status.state).to_owned()));
        };
        if all && signal == libc::SIGKILL {
            container.cgroup.kill();
        }
        if self.setup.spec.handler.is_some() {
            let sent = self.signal_by_handler(id, signal);
            return sent.map(|()| Answer::Done).map_err(|e| Refusal::Other(format!("signal: {e}")));
        }
        // The process is not reaped yet, so the number is still its own.
        sys::kill(pid, signal).map_err(|e| Refusal::Other(format!("signal: {e}")))?;
        Ok(Answer::Done)
    }

    fn remove(&mut self, id: &str) -> Result<Answer, Refusal> {
        let poller = &mut self.poller;
        let container = self.containers.get_mut(id).ok_or(Refusal::NotFound)?;
        if container.status.pid.is_some() || container.under_way.is_some() {
            return Err(Refusal::State(state_name(container.status.state).to_owned()));
        }
        container.close(poller);
        let _ = container.cgroup.remove(Duration::from_millis(100));
        self.containers.remove(id);
        self.remove_bundle(id);
        self.write_record();
        sys::trim_heap();
        Ok(Answer::Done)
    }

    fn attach(&mut self, id: &str, wanted: [bool; 3]) -> Result<Streams, Refusal> {
        let number = self.number();
        let poller = &mut self.poller;
        let container = self.containers.get_mut(id).ok_or(Refusal::NotFound)?;
        if container.status.state != State::Running {
            return Err(Refusal::State(state_name(container.status.state).to_owned()));
        }
        let [stdin, stdout, stderr] = wanted;
        let failed = |e: io::Error| Refusal::Other(format!("attach: {e}"));
        let mut streams = Streams::default();
        let mut input = None;
        if stdin && container.spec.stdin {
            let (read, write) = pipe(true).map_err(failed)?;
            input = Some(read);
            streams.pipes[0] = Some(write);
        }
        let mut outputs = [None, None];
        for (stream, wanted) in [(Stream::Stdout, stdout), (Stream::Stderr, stderr && !container.spec.tty)] {
            if wanted {
                let (read, write) = pipe(false).map_err(failed)?;
                outputs[stream as usize] = Some(write);
                streams.pipes[1 + stream as usize] = Some(read);
            }
        }
        container.attach(poller, number, input, outputs).map_err(failed)?;
        Ok(streams)
    }

    fn resize(&mut self, id: &str, width: u16, height: u16) -> Result<Answer, Refusal> {
        if let Some(terminal) = &self.container(id)?.terminal {
            let size = Winsize { ws_col: width, ws_row: height, ws_xpixel: 0, ws_ypixel: 0 };
            let _ = rustix::termios::tcsetwinsize(&**terminal, size);
        }
        Ok(Answer::Done)
    }

    fn kill_exec(&mut self, conn: ConnId, request: u64) -> Result<Answer, Refusal> {
        let found = self.execs.iter().find(|(_, e)| e.pending.conn == conn && e.pending.request == request);
        if let Some((pid, _)) = found {
            let _ = sys::kill(*pid, libc::SIGKILL);
        }
        Ok(Answer::Done)
    }

    /// Kills everything; the answer comes when the last container has ended.
    fn shut_down(&mut self, pending: Pending) {
        self.cgroup.kill();
        self.end_helpers();
        for container in self.containers.values() {
            if let Some(pid) = container.status.pid {
                let _ = sys::kill(pid, libc::SIGKILL);
            }
        }
        self.ending = Some(pending);
    }
}

/// A state as containerd words it.
pub fn state_name(state: State) -> &'static str {
    match state {
        State::Created => "CONTAINER_CREATED",
        State::Running => "CONTAINER_RUNNING",
        State::Exited => "CONTAINER_EXITED",
    }
}
