//! What the daemon and a shim say to each other over the shim's Unix socket: frames of a little-endian 32-bit
//! length and that many bytes of JSON, with descriptors (`SCM_RIGHTS`) travelling ahead of the frame that
//! counts them. A shim outlives the daemon that made it, so a daemon must understand every version up to its
//! own; fields are only ever added, with defaults.

use crate::spec::{ContainerSpec, ContainerStatus, ExecSpec, SandboxSpec, SandboxStatus};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

/// The version spoken here.
pub const VERSION: u32 = 1;

/// The longest frame; an environment and arguments can have two megabytes.
const MAX_FRAME: usize = 16 << 20;

/// Name of the listening socket in the sandbox's directory.
pub const SOCKET: &str = "shim.sock";

/// Name of the record in the sandbox's directory.
pub const RECORD: &str = "state.json";

/// A request, answered by the reply of the same number.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// Number, unique on this connection.
    pub id: u64,
    /// What is asked.
    pub op: Op,
}

/// Everything a shim can be asked.
#[derive(Debug, Serialize, Deserialize)]
pub enum Op {
    /// First of all, on the connection that the zygote hands over: become the shim of this sandbox.
    Setup(Box<Setup>),
    /// Who are you, and what do you have?
    Hello,
    /// Register a container.
    Create(Box<ContainerSpec>),
    /// Start a registered container.
    Start { id: String },
    /// Signal a container's first process, or everything in it.
    Signal { id: String, signal: i32, all: bool },
    /// Forget an ended container.
    Remove { id: String },
    /// Run a process in a container.
    Exec { id: String, spec: ExecSpec },
    /// Kill the process of the exec that request `exec` on this connection began.
    KillExec { exec: u64 },
    /// Hand over streams of a running container.
    Attach { id: String, stdin: bool, stdout: bool, stderr: bool },
    /// Set the size of a container's terminal.
    Resize { id: String, width: u16, height: u16 },
    /// Open the log file anew.
    ReopenLog { id: String },
    /// Kill everything, remove the cgroups, answer, and end.
    Shutdown,
}

/// What a shim needs to become one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Setup {
    /// The sandbox.
    pub spec: SandboxSpec,
    /// Its directory: socket, record, messages.
    pub dir: std::path::PathBuf,
    /// cgroup under which everything is made.
    pub cgroup_root: String,
    /// The boot this happens in.
    pub boot_id: String,
}

/// What a shim says.
#[derive(Debug, Serialize, Deserialize)]
pub enum Message {
    /// The answer to a request, with so many descriptors.
    Reply {
        /// Number of the request.
        id: u64,
        /// Descriptors that belong to it.
        #[serde(default)]
        fds: u32,
        /// Outcome.
        result: Result<Answer, Refusal>,
    },
    /// A container ended.
    Exited(ContainerStatus),
    /// The process of an exec ended.
    ExecExited {
        /// Number of the request that began it.
        id: u64,
        /// Exit code.
        code: i32,
    },
}

/// A successful answer.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// Nothing more to say.
    Done,
    /// To `Setup` and `Hello`.
    Hello {
        /// The shim's version of this protocol.
        version: u32,
        /// All it knows.
        status: Box<SandboxStatus>,
    },
    /// To `Start`.
    Container(Box<ContainerStatus>),
    /// To `Exec` and `Attach`: which streams the descriptors are, in this order; with `terminal` there is
    /// one descriptor for all.
    Streams {
        /// The descriptor is a terminal's master.
        terminal: bool,
        /// Standard input is there.
        stdin: bool,
        /// Standard output is there.
        stdout: bool,
        /// Standard error is there.
        stderr: bool,
    },
}

/// An unsuccessful answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Refusal {
    /// No such container.
    NotFound,
    /// The id is taken.
    Exists,
    /// Wrong state; the one it is in.
    State(String),
    /// The process could not be started.
    Start(String),
    /// The user is root and must not be.
    MustNotBeRoot,
    /// Anything else.
    Other(String),
}

/// The record a shim keeps in its directory, for the case that it cannot be asked any more.
#[derive(Debug, Serialize, Deserialize)]
pub struct Record {
    /// Boot in which it was written.
    pub boot_id: String,
    /// cgroup under which everything was made.
    pub cgroup_root: String,
    /// All the shim knew.
    pub status: SandboxStatus,
}

/// One frame on its way out.
struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    fds: Vec<OwnedFd>,
}

/// Frames waiting to be sent on a non-blocking socket.
#[derive(Default)]
pub struct Sender {
    queue: VecDeque<Outgoing>,
}

impl Sender {
    /// Queues a message; `fds` go ahead of it.
    pub fn push<T: Serialize>(&mut self, message: &T, fds: Vec<OwnedFd>) -> io::Result<()> {
        let mut bytes = vec![0; 4];
        serde_json::to_writer(&mut bytes, message)?;
        let len = bytes.len() - 4;
        if len > MAX_FRAME {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "message too long"));
        }
        bytes[..4].copy_from_slice(&(len as u32).to_le_bytes());
        self.queue.push_back(Outgoing { bytes, sent: 0, fds });
        Ok(())
    }

    /// Sends what the socket takes; `WouldBlock` when it takes no more.
    pub fn flush(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        while let Some(front) = self.queue.front_mut() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let fds: Vec<BorrowedFd<'_>> = front.fds.iter().map(AsFd::as_fd).collect();
            if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors"));
            }
            let piece = [IoSlice::new(&front.bytes[front.sent..])];
            let sent = match rustix::net::sendmsg(socket, &piece, &mut control, SendFlags::NOSIGNAL) {
                Ok(sent) => sent,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            front.fds.clear();
            front.sent += sent;
            if front.sent == front.bytes.len() {
                self.queue.pop_front();
            }
        }
        Ok(())
    }
}

/// Frames coming in from a non-blocking socket.
#[derive(Default)]
pub struct Receiver {
    bytes: Vec<u8>,
    fds: VecDeque<OwnedFd>,
}

impl Receiver {
    /// Takes what the socket has; false at its end, `WouldBlock` when it has nothing now.
    pub fn fill(&mut self, socket: BorrowedFd<'_>) -> io::Result<bool> {
        let mut chunk = [0; 8192];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = loop {
            let mut pieces = [IoSliceMut::new(&mut chunk)];
            match rustix::net::recvmsg(socket, &mut pieces, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Ok(got) => break got.bytes,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.fds.extend(fds);
            }
        }
        self.bytes.extend_from_slice(&chunk[..got]);
        Ok(got > 0)
    }

    /// The next whole frame as a message, if it is there.
    pub fn next<T: serde::de::DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        Ok(self.next_bytes()?.map(|frame| serde_json::from_slice(&frame)).transpose()?)
    }

    /// The next whole frame, if it is there.
    pub fn next_bytes(&mut self) -> io::Result<Option<Vec<u8>>> {
        let Some(head) = self.bytes.first_chunk::<4>() else { return Ok(None) };
        let len = u32::from_le_bytes(*head) as usize;
        if len > MAX_FRAME {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "frame too long"));
        }
        let Some(frame) = self.bytes.get(4..4 + len) else { return Ok(None) };
        let frame = frame.to_vec();
        self.bytes.drain(..4 + len);
        if self.bytes.is_empty() && self.bytes.capacity() > 4096 {
            self.bytes = Vec::new();
        }
        Ok(Some(frame))
    }

    /// Takes `count` of the descriptors received so far, oldest first.
    pub fn take_fds(&mut self, count: u32) -> io::Result<Vec<OwnedFd>> {
        if (count as usize) > self.fds.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "descriptors are missing"));
        }
        Ok(self.fds.drain(..count as usize).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_and_their_descriptors_arrive_whole_however_the_socket_cuts_them() {
        let (near, far) = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::STREAM,
            rustix::net::SocketFlags::NONBLOCK,
            None,
        )
        .unwrap();
        let (pipe, _other) = rustix::pipe::pipe().unwrap();
        let mut sender = Sender::default();
        let long = "x".repeat(1 << 20);
        sender.push(&"first", vec![]).unwrap();
        sender.push(&long, vec![pipe]).unwrap();
        sender.push(&"last", vec![]).unwrap();
        let mut receiver = Receiver::default();
        let mut got: Vec<String> = Vec::new();
        while got.len() < 3 {
            match sender.flush(near.as_fd()) {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => panic!("{error}"),
                _ => {}
            }
            while receiver.fill(far.as_fd()).is_ok() {}
            while let Some(frame) = receiver.next::<String>().unwrap() {
                got.push(frame);
            }
        }
        assert_eq!(got, ["first".to_owned(), long, "last".to_owned()]);
        assert_eq!(receiver.take_fds(1).unwrap().len(), 1);
        assert!(receiver.take_fds(1).is_err());
    }

    #[test]
    fn a_frame_that_claims_too_much_is_refused() {
        let mut receiver = Receiver { bytes: u32::MAX.to_le_bytes().to_vec(), ..Receiver::default() };
        assert!(receiver.next::<String>().is_err());
    }
}
