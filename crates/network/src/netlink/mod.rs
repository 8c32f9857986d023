//! Netlink (RFC 3549): the kernel's interface to links, addresses, routes and nftables. A message is a header and a
//! tree of type-length-value attributes, which [`Message`] writes; [`Socket`] sends it and reads what comes back.

pub mod conntrack;
pub mod firewall;
pub mod monitor;
pub mod nft;
pub mod route;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, netlink, recv, send, socket_with,
};
use std::os::fd::OwnedFd;
use std::path::Path;

/// The message asks for something.
pub const REQUEST: u16 = 0x1;
/// An answer is wanted even when nothing goes wrong.
pub const ACK: u16 = 0x4;
/// Fail if it is there.
pub const EXCL: u16 = 0x200;
/// Make it if it is not there.
pub const CREATE: u16 = 0x400;
/// Replace what is there.
pub const REPLACE: u16 = 0x100;
/// Append (nftables rules).
pub const APPEND: u16 = 0x800;
/// Everything there is.
pub const DUMP: u16 = 0x300;

const DONE: u16 = 0x3;
const ERROR: u16 = 0x2;
const HEADER_BYTES: usize = 16;
/// Attribute types with this bit hold attributes.
const NESTED: u16 = 0x8000;
/// Answers are read in portions of at most this.
const RECEIVE_BYTES: usize = 64 * 1024;

/// How long an answer may take; a transaction over many thousands of services takes a good second.
const ANSWER_LIMIT: std::time::Duration = std::time::Duration::from_secs(30);

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The kernel refused it.
    #[error("{what}: {error}")]
    Refused {
        /// What was asked.
        what: String,
        /// The kernel's reason.
        error: std::io::Error,
    },
    /// The socket failed.
    #[error("netlink socket: {0}")]
    Socket(#[from] rustix::io::Errno),
    /// The namespace could not be entered.
    #[error("cannot enter the network namespace {path}: {error}")]
    Namespace {
        /// Its path.
        path: String,
        /// Why.
        error: std::io::Error,
    },
}

impl NetlinkError {
    /// The kernel's error number, 0 if it is another failure.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Refused { error, .. } => error.raw_os_error().unwrap_or_default(),
            _ => 0,
        }
    }

    /// The thing is there already.
    pub fn is_exists(&self) -> bool {
        self.errno() == libc::EEXIST
    }

    /// The thing is not there.
    pub fn is_absent(&self) -> bool {
        matches!(self.errno(), libc::ENOENT | libc::ENODEV | libc::ESRCH | libc::EADDRNOTAVAIL)
    }
}

/// A message under construction.
#[derive(Clone)]
pub struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// A message of a type, beginning with its family's fixed header.
    pub fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | REQUEST).to_ne_bytes());
        bytes.extend_from_slice(fixed);
        Self { bytes }
    }

    /// An attribute.
    pub fn attr(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = u16::try_from(4 + value.len()).expect("attributes are small");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    /// A text attribute, ended by a zero byte.
    pub fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attr(kind, &bytes)
    }

    /// A number in the machine's byte order, as rtnetlink wants it.
    pub fn number(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// A number in network byte order, as nftables wants it.
    pub fn big(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_be_bytes())
    }

    /// An attribute that holds attributes. Messages stay below 64 KiB of nesting; bigger sets are sent in parts.
    pub fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes[start + 2..start + 4].copy_from_slice(&(kind | NESTED).to_ne_bytes());
        fill(self);
        let length = u16::try_from(self.bytes.len() - start).expect("attributes are small");
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    /// Bytes as they are, for headers inside attributes.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).expect("messages are small");
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }

    fn add_flags(&mut self, flags: u16) {
        let all = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]) | flags;
        self.bytes[6..8].copy_from_slice(&all.to_ne_bytes());
    }
}

/// An answer: its type and what follows the header.
#[derive(Debug)]
pub struct Answer {
    /// Message type.
    pub kind: u16,
    /// Fixed header and attributes.
    pub body: Vec<u8>,
}

/// The attributes in `bytes`: type (without flags) and value.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(rest.get(0..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?) & 0x3fff;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// A netlink socket, tied to the network namespace it was opened in.
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// A socket for links, addresses and routes of this namespace.
    pub fn route() -> Result<Self, NetlinkError> {
        Self::open(None)
    }

    /// A socket for nftables and connection tracking of this namespace.
    pub fn netfilter() -> Result<Self, NetlinkError> {
        Self::open(Some(netlink::NETFILTER))
    }

    /// A socket for links, addresses and routes of the namespace at `path`.
    pub fn route_in(path: &Path) -> Result<Self, NetlinkError> {
        inside(path, Self::route)?
    }

    fn open(protocol: Option<rustix::net::Protocol>) -> Result<Self, NetlinkError> {
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        bind(&fd, &SocketAddrNetlink::new(0, 0))?;
        // The kernel answers at once; a lost answer must not hang a pod's start for good.
        set_socket_timeout(&fd, Timeout::Recv, Some(ANSWER_LIMIT))?;
        Ok(Self { fd, sequence: 0 })
    }

    /// Sends one message and waits for its acknowledgement or its answers; `what` is for the error.
    pub fn call(&mut self, message: Message, what: &str) -> Result<Vec<Answer>, NetlinkError> {
        self.sequence += 1;
        let bytes = message.finish(self.sequence);
        self.send_all(&bytes)?;
        self.read(self.sequence, self.sequence, what)
    }

    /// Sends messages as one nftables transaction: all of them take effect, or none.
    pub fn transaction(&mut self, mut messages: Vec<Message>, what: &str) -> Result<(), NetlinkError> {
        // Kernels before 6.10 acknowledge no end of a batch, so the last message in it is asked to.
        let Some(last) = messages.last_mut() else { return Ok(()) };
        last.add_flags(ACK);
        let mut bytes = Vec::new();
        let subsystem = [0, 0, 0, nft::SUBSYSTEM as u8];
        let begin = Message::new(nft::BATCH_BEGIN, 0, &subsystem);
        let end = Message::new(nft::BATCH_END, 0, &subsystem);
        let first = self.sequence + 1;
        for message in std::iter::once(begin).chain(messages).chain([end]) {
            self.sequence += 1;
            bytes.extend_from_slice(&message.finish(self.sequence));
        }
        // A batch must reach the kernel in one piece.
        let room = bytes.len() * 2 + RECEIVE_BYTES;
        let _ = rustix::net::sockopt::set_socket_send_buffer_size_force(&self.fd, room);
        self.send_all(&bytes)?;
        self.read(first, self.sequence - 1, what).map(drop)
    }

    fn send_all(&self, bytes: &[u8]) -> Result<(), NetlinkError> {
        let sent = send(&self.fd, bytes, SendFlags::empty())?;
        if sent == bytes.len() { Ok(()) } else { Err(rustix::io::Errno::MSGSIZE.into()) }
    }

    /// Reads the answers to the requests from `first` to `last`, until the last one's is complete. Answers to
    /// earlier requests, left over when one of them failed, are skipped.
    fn read(&self, first: u32, last: u32, what: &str) -> Result<Vec<Answer>, NetlinkError> {
        let mut answers = Vec::new();
        let mut buffer = vec![0; RECEIVE_BYTES];
        loop {
            let (received, _) = recv(&self.fd, &mut buffer[..], RecvFlags::empty())?;
            let mut rest = &buffer[..received];
            while rest.len() >= HEADER_BYTES {
                let field = |at: usize| u32::from_ne_bytes(rest[at..at + 4].try_into().expect("four bytes"));
                let (length, sequence) = (field(0) as usize, field(8));
                let kind = u16::from_ne_bytes([rest[4], rest[5]]);
                if length < HEADER_BYTES || length > rest.len() {
                    return Err(rustix::io::Errno::BADMSG.into());
                }
                let body = &rest[HEADER_BYTES..length];
                match kind {
                    _ if sequence < first || sequence > last => {}
                    ERROR => {
                        let code = i32::from_ne_bytes(
                            body.get(..4).and_then(|b| b.try_into().ok()).unwrap_or_default(),
                        );
                        if code != 0 {
                            let error = std::io::Error::from_raw_os_error(-code);
                            return Err(NetlinkError::Refused { what: what.to_owned(), error });
                        }
                        if sequence == last {
                            return Ok(answers);
                        }
                    }
                    DONE => return Ok(answers),
                    _ => answers.push(Answer { kind, body: body.to_vec() }),
                }
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

/// Runs `work` on a thread that has entered the network namespace at `path`. What it opens stays tied to it.
pub fn inside<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, NetlinkError> {
    let failed = |error: std::io::Error| NetlinkError::Namespace { path: path.display().to_string(), error };
    let namespace = std::fs::File::open(path).map_err(failed)?;
    let thread = std::thread::Builder::new().name("netns".to_owned()).spawn(move || {
        use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
        move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), Some(LinkNameSpaceType::Network))?;
        Ok::<T, rustix::io::Errno>(work())
    });
    let result = thread.map_err(failed)?.join();
    result.unwrap_or(Err(rustix::io::Errno::INTR)).map_err(|errno| failed(errno.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_read_back() {
        let mut message = Message::new(1, 0, &[]);
        message.text(3, "eth0").nested(18, |m| {
            m.number(1, 7);
        });
        let bytes = message.finish(1);
        let all: Vec<(u16, Vec<u8>)> =
            attributes(&bytes[HEADER_BYTES..]).map(|(k, v)| (k, v.to_vec())).collect();
        assert_eq!(all[0], (3, b"eth0\0".to_vec()));
        assert_eq!(all[1].0, 18);
        assert_eq!(attributes(&all[1].1).next(), Some((1, &7u32.to_ne_bytes()[..])));
    }
}
