//! The streams of an exec or attach.

use crate::RuntimeError;
use knarr_base::clock::BoxFuture;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};

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
    pub(crate) inner: Arc<dyn Control>,
}

pub(crate) trait Control: Send + Sync {
    fn resize(&self, width: u16, height: u16);
    fn kill(&self);
}

impl SessionControl {
    /// Tells the terminal its size in characters; nothing without a terminal.
    pub fn resize(&self, width: u16, height: u16) {
        self.inner.resize(width, height);
    }
    /// Kills the exec's process; for an attachment only detaches.
    pub fn kill(&self) {
        self.inner.kill();
    }
}
