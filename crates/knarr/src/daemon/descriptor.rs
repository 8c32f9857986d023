//! A request can come with an open file (`SCM_RIGHTS`): what a command reads or writes is opened by the command, in its
//! place and with its rights, also when it is a pipe.

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use std::io::{self, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use tokio::io::Interest;

/// Sends a request, with a file.
pub fn send(mut stream: &UnixStream, text: &[u8], file: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let files = file.as_slice();
    if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    let sent = rustix::net::sendmsg(stream, &[IoSlice::new(text)], &mut control, SendFlags::NOSIGNAL)?;
    stream.write_all(&text[sent..])
}

/// Receives a line of `most` bytes at most, and the file that came with it.
pub async fn receive(stream: &tokio::net::UnixStream, most: usize) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let (mut text, mut file) = (Vec::new(), None);
    let mut buffer = [0; 4096];
    while text.len() < most && text.last() != Some(&b'\n') {
        let got = stream
            .async_io(Interest::READABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut control = RecvAncillaryBuffer::new(&mut space);
                let mut parts = [IoSliceMut::new(&mut buffer)];
                let got = rustix::net::recvmsg(stream, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
                for message in control.drain() {
                    if let RecvAncillaryMessage::ScmRights(files) = message {
                        file = files.last().or(file.take());
                    }
                }
                Ok(got.bytes)
            })
            .await?;
        if got == 0 {
            break;
        }
        text.extend_from_slice(&buffer[..got]);
    }
    Ok((text, file))
}
