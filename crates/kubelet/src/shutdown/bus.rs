//! A connection to the system bus (the D-Bus specification): EXTERNAL authentication, calls and their replies with
//! descriptors, and signals.

use super::message::{self, Address, Arg, Kind, Message};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;

/// The bus's own name and interface.
pub(super) const BUS: &str = "org.freedesktop.DBus";
const BUS_PATH: &str = "/org/freedesktop/DBus";
/// A line of the authentication's is never longer.
const LONGEST_LINE: usize = 16 << 10;

/// A connection.
pub(super) struct Bus {
    stream: UnixStream,
    input: Vec<u8>,
    fds: VecDeque<OwnedFd>,
    serial: u32,
    /// Signals that came while a reply was waited for.
    signals: VecDeque<Message>,
}

/// An answer, and the descriptors that came with it.
pub(super) struct Answer {
    pub(super) message: Message,
    pub(super) fds: Vec<OwnedFd>,
}

fn refused(what: impl Into<String>) -> io::Error {
    io::Error::other(what.into())
}

impl Bus {
    /// Connects and says hello.
    pub(super) async fn connect(path: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(path).await?;
        let mut this =
            Self { stream, input: Vec::new(), fds: VecDeque::new(), serial: 0, signals: VecDeque::new() };
        // The user's number in decimal, each digit in hexadecimal.
        let uid = rustix::process::geteuid().as_raw().to_string();
        let uid: String = uid.bytes().map(|digit| format!("{digit:02x}")).collect();
        this.stream.write_all(format!("\0AUTH EXTERNAL {uid}\r\n").as_bytes()).await?;
        this.expect("OK ").await?;
        this.stream.write_all(b"NEGOTIATE_UNIX_FD\r\n").await?;
        this.expect("AGREE_UNIX_FD").await?;
        this.stream.write_all(b"BEGIN\r\n").await?;
        this.of_bus("Hello", &[]).await?;
        Ok(this)
    }

    /// Calls the bus itself.
    pub(super) async fn of_bus(&mut self, member: &str, arguments: &[Arg<'_>]) -> io::Result<Answer> {
        let to = Address { destination: BUS, path: BUS_PATH, interface: BUS, member, ..Address::default() };
        self.call(to, arguments).await
    }

    /// Calls and waits for the answer.
    pub(super) async fn call(&mut self, to: Address<'_>, arguments: &[Arg<'_>]) -> io::Result<Answer> {
        self.serial += 1;
        let serial = self.serial;
        let bytes = message::encode(Kind::Call, serial, to, arguments, 0);
        self.stream.write_all(&bytes).await?;
        loop {
            let answer = self.next().await?;
            match answer.message.kind {
                Kind::Signal => self.signals.push_back(answer.message),
                Kind::Return if answer.message.reply_to == serial => return Ok(answer),
                Kind::Error if answer.message.reply_to == serial => {
                    let (name, text) = (answer.message.error_name, answer.message.body.string());
                    return Err(refused(format!("{}: {name}: {}", to.member, text.unwrap_or_default())));
                }
                _ => {}
            }
        }
    }

    /// The next signal.
    pub(super) async fn signal(&mut self) -> io::Result<Message> {
        if let Some(signal) = self.signals.pop_front() {
            return Ok(signal);
        }
        loop {
            let message = self.next().await?.message;
            if message.kind == Kind::Signal {
                return Ok(message);
            }
        }
    }

    async fn next(&mut self) -> io::Result<Answer> {
        loop {
            if let Some(length) = message::length(&self.input)?
                && self.input.len() >= length
            {
                let message = message::decode(&self.input[..length])?;
                self.input.drain(..length);
                // The kernel gives descriptors no later than the message's last byte.
                let count = (message.fds as usize).min(self.fds.len());
                let fds = self.fds.drain(..count).collect();
                return Ok(Answer { message, fds });
            }
            self.receive().await?;
        }
    }

    async fn expect(&mut self, start: &str) -> io::Result<()> {
        loop {
            if let Some(end) = self.input.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = self.input.drain(..end + 2).collect();
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                return match line.starts_with(start) {
                    true => Ok(()),
                    false => Err(refused(format!("the system bus answered {line:?}, not {start:?}"))),
                };
            }
            if self.input.len() > LONGEST_LINE {
                return Err(refused("the system bus answers without end"));
            }
            self.receive().await?;
        }
    }

    /// Takes what there is, at least a byte.
    async fn receive(&mut self) -> io::Result<()> {
        let Self { stream, input, fds, .. } = self;
        stream
            .async_io(Interest::READABLE, || {
                let mut bytes = [0; 4096];
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
                let mut control = RecvAncillaryBuffer::new(&mut space);
                let mut pieces = [IoSliceMut::new(&mut bytes)];
                let received =
                    rustix::net::recvmsg(stream.as_fd(), &mut pieces, &mut control, RecvFlags::CMSG_CLOEXEC)?;
                for message in control.drain() {
                    if let RecvAncillaryMessage::ScmRights(rights) = message {
                        fds.extend(rights);
                    }
                }
                if received.bytes == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                input.extend(&bytes[..received.bytes]);
                Ok(())
            })
            .await
    }
}
