//! The streams of an exec or attach.

use super::connection::Connection;
use crate::RuntimeError;
use crate::protocol::{Answer, Op};
use knarr_base::clock::BoxFuture;
use rustix::fd::{AsFd, OwnedFd};
use rustix::termios::Winsize;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe;

/// A running exec, or an attachment to a container. Dropping a stream closes it; dropping the session does
/// not end the process (as with containerd), [`SessionControl::kill`] does.
pub struct Session {
    /// Standard input, if asked for. Dropping it is the end of input (not with a terminal).
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// Standard output; the terminal's output with one.
    pub stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Standard error; never with a terminal.
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Resolves to the exit code (128 + signal for signals).
    pub exit: BoxFuture<'static, Result<i32, RuntimeError>>,
    /// Resize and kill; can be cloned out of the session.
    pub control: SessionControl,
}

/// What can be done to a session besides moving bytes.
#[derive(Clone)]
pub struct SessionControl {
    pub(super) connection: Connection,
    pub(super) kind: Kind,
}

/// What a session is on.
#[derive(Clone)]
pub(super) enum Kind {
    /// The exec begun by this request, with its terminal.
    Exec(u64, Option<Terminal>),
    /// An attachment to this container.
    Attach(String),
}

impl SessionControl {
    /// Tells the terminal its size in characters; nothing without a terminal.
    pub fn resize(&self, width: u16, height: u16) {
        match &self.kind {
            Kind::Exec(_, Some(terminal)) => {
                let size = Winsize { ws_col: width, ws_row: height, ws_xpixel: 0, ws_ypixel: 0 };
                let _ = rustix::termios::tcsetwinsize(terminal.fd.get_ref(), size);
            }
            Kind::Exec(_, None) => {}
            Kind::Attach(id) => self.connection.tell(Op::Resize { id: id.clone(), width, height }),
        }
    }
    /// Kills the exec's process; does nothing to an attachment, which ends when its streams are dropped.
    pub fn kill(&self) {
        if let Kind::Exec(exec, _) = self.kind {
            self.connection.tell(Op::KillExec { exec });
        }
    }
}

/// The daemon's ends of streams, as the shim handed them over.
#[derive(Default)]
pub(super) struct Streams {
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    pub stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    pub terminal: Option<Terminal>,
}

/// Makes streams of an answer and its descriptors. `want_stdin`: with a terminal, whether input is wanted.
pub(super) fn streams(answer: &Answer, fds: Vec<OwnedFd>, want_stdin: bool) -> Result<Streams, RuntimeError> {
    let broken = |what: &str| RuntimeError::Protocol(what.to_owned());
    let Answer::Streams { terminal, stdin, stdout, stderr } = answer else {
        return Err(broken("unexpected answer"));
    };
    let mut fds = fds.into_iter();
    let mut next = || fds.next().ok_or_else(|| broken("a stream is missing"));
    let failed = |error: io::Error| RuntimeError::Protocol(format!("stream: {error}"));
    let mut streams = Streams::default();
    if *terminal {
        let terminal = Terminal::new(next()?).map_err(failed)?;
        if want_stdin {
            streams.stdin = Some(Box::new(terminal.clone()));
        }
        streams.stdout = Some(Box::new(terminal.clone()));
        streams.terminal = Some(terminal);
        return Ok(streams);
    }
    if *stdin {
        streams.stdin = Some(Box::new(pipe::Sender::from_owned_fd(next()?).map_err(failed)?));
    }
    if *stdout {
        streams.stdout = Some(Box::new(pipe::Receiver::from_owned_fd(next()?).map_err(failed)?));
    }
    if *stderr {
        streams.stderr = Some(Box::new(pipe::Receiver::from_owned_fd(next()?).map_err(failed)?));
    }
    Ok(streams)
}

/// The master of a terminal.
#[derive(Clone)]
pub(super) struct Terminal {
    fd: Arc<AsyncFd<OwnedFd>>,
}

impl Terminal {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self { fd: Arc::new(crate::sys::watch(fd)?) })
    }
}

impl AsyncRead for Terminal {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.fd.poll_read_ready(cx))?;
            let space = buf.initialize_unfilled();
            match guard.try_io(|fd| Ok(rustix::io::read(fd.as_fd(), &mut *space)?)) {
                Ok(Ok(count)) => {
                    buf.advance(count);
                    return Poll::Ready(Ok(()));
                }
                // Nobody has the other side open any more.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::EIO) => return Poll::Ready(Ok(())),
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.fd.poll_write_ready(cx))?;
            if let Ok(result) = guard.try_io(|fd| Ok(rustix::io::write(fd.as_fd(), bytes)?)) {
                return Poll::Ready(result);
            }
        }
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
