//! What a new process and its creator tell each other: packets over a socket pair that `execve` closes.

use super::{Context, Failure};
use rustix::fd::{AsFd, OwnedFd};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// From the new process.
#[derive(Debug, PartialEq, Eq)]
pub enum Word {
    /// The namespaces and mounts are there: hooks may run.
    Hooks,
    /// Ready for the program.
    Ready,
    /// It did not work.
    Failed(String),
    /// The socket is closed: the program runs, or the process is gone.
    Closed,
}

/// One end.
pub struct Sync(OwnedFd);

impl Sync {
    /// Both ends.
    pub fn pair() -> Result<(Self, Self), Failure> {
        let (near, far) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .context(|| "socket pair")?;
        Ok((Self(near), Self(far)))
    }

    fn send(&self, bytes: &[u8]) {
        // A peer that is gone is noticed when its answer is waited for.
        let _ = rustix::net::send(self.0.as_fd(), bytes, SendFlags::NOSIGNAL);
    }

    fn receive(&self) -> Vec<u8> {
        let mut bytes = [0; 8 * 1024];
        loop {
            match rustix::net::recv(self.0.as_fd(), &mut bytes, RecvFlags::empty()) {
                // A peer that ended without having read everything resets the connection, once; what it said before
                // is still there.
                Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNRESET) => {}
                Err(_) => return Vec::new(),
                Ok((count, _)) => return bytes[..count].to_vec(),
            }
        }
    }

    /// The new process: says something.
    pub fn say(&self, word: &Word) {
        match word {
            Word::Hooks => self.send(b"H"),
            Word::Ready => self.send(b"R"),
            Word::Failed(text) => {
                let mut end = text.len().min(4096);
                while !text.is_char_boundary(end) {
                    end -= 1;
                }
                self.send(format!("E{}", &text[..end]).as_bytes());
            }
            Word::Closed => {}
        }
    }

    /// The creator: what the new process says.
    pub fn listen(&self) -> Word {
        let bytes = self.receive();
        match bytes.split_first() {
            None => Word::Closed,
            Some((b'H', _)) => Word::Hooks,
            Some((b'R', _)) => Word::Ready,
            Some((_, text)) => Word::Failed(String::from_utf8_lossy(text).into_owned()),
        }
    }

    /// The creator: go on; `pid` is the process's own number on the host.
    pub fn go(&self, pid: i32) {
        self.send(pid.to_string().as_bytes());
    }

    /// The new process: waits for [`Sync::go`].
    pub fn wait(&self) -> Result<i32, Failure> {
        let text = self.receive();
        let pid = std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok());
        pid.ok_or_else(|| Failure::new("the creator of the container is gone"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_arrive_as_they_were_said() {
        let (near, far) = Sync::pair().unwrap();
        for word in [Word::Hooks, Word::Ready, Word::Failed("why".to_owned())] {
            far.say(&word);
            assert_eq!(near.listen(), word);
        }
        near.go(77);
        assert_eq!(far.wait().unwrap(), 77);
        near.go(78);
        far.say(&Word::Failed("last words".to_owned()));
        drop(far);
        assert_eq!(near.listen(), Word::Failed("last words".to_owned()));
        assert_eq!(near.listen(), Word::Closed);
    }
}
