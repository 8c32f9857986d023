//! A connection to a shim: requests and replies matched by number, and what the shim says by itself.

use crate::protocol::{Answer, Message, Op, Receiver, Refusal, Request, Sender};
use crate::spec::ContainerStatus;
use rustix::fd::{AsFd, OwnedFd};
use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{Notify, oneshot};

/// What a request comes to: the answer and its descriptors; `Err` of the outer kind when the shim is gone.
pub type Outcome = Result<(Answer, Vec<OwnedFd>), Refusal>;

/// The shim is gone.
#[derive(Debug)]
pub struct Gone;

/// A connection; clones share it.
#[derive(Clone)]
pub struct Connection {
    shared: Arc<Shared>,
}

struct Shared {
    stream: UnixStream,
    sender: Mutex<Sender>,
    blocked: Notify,
    closing: Notify,
    next: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    closed: bool,
    waiting: HashMap<u64, oneshot::Sender<Outcome>>,
    execs: HashMap<u64, oneshot::Sender<i32>>,
}

impl Connection {
    /// Over this socket. Nothing moves until [`Connection::run`] does.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        let stream = std::os::unix::net::UnixStream::from(socket);
        stream.set_nonblocking(true)?;
        Ok(Self {
            shared: Arc::new(Shared {
                stream: UnixStream::from_std(stream)?,
                sender: Mutex::default(),
                blocked: Notify::new(),
                closing: Notify::new(),
                next: AtomicU64::new(1),
                state: Mutex::default(),
            }),
        })
    }

    /// Moves frames until the shim is gone or the connection is closed; `exited` hears of ended containers.
    pub async fn run(&self, exited: impl Fn(ContainerStatus)) {
        let mut receiver = Receiver::default();
        let shared = &*self.shared;
        loop {
            let result = tokio::select! {
                () = shared.closing.notified() => break,
                ready = shared.stream.readable() => match ready {
                    Ok(()) => self.receive(&mut receiver, &exited),
                    Err(error) => Err(error),
                },
                () = self.unblock() => self.flush(),
            };
            if result.is_err() {
                break;
            }
        }
        let mut state = self.lock();
        let (waiting, execs) = (std::mem::take(&mut state.waiting), std::mem::take(&mut state.execs));
        state.closed = true;
        drop(state);
        drop((waiting, execs)); // Those who wait hear that their sender is gone.
    }

    async fn unblock(&self) {
        self.shared.blocked.notified().await;
        let _ = self.shared.stream.writable().await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.shared.state.lock().expect("nothing panics while it holds the connection's state")
    }

    fn receive(&self, receiver: &mut Receiver, exited: &impl Fn(ContainerStatus)) -> io::Result<()> {
        loop {
            let stream = &self.shared.stream;
            match stream.try_io(Interest::READABLE, || receiver.fill(stream.as_fd())) {
                Ok(true) => {}
                Ok(false) => {
                    self.deliver(receiver, exited)?;
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return self.deliver(receiver, exited);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn deliver(&self, receiver: &mut Receiver, exited: &impl Fn(ContainerStatus)) -> io::Result<()> {
        while let Some(message) = receiver.next::<Message>()? {
            match message {
                Message::Reply { id, fds, result } => {
                    let fds = receiver.take_fds(fds)?;
                    if let Some(waiting) = self.lock().waiting.remove(&id) {
                        let _ = waiting.send(result.map(|answer| (answer, fds)));
                    }
                }
                Message::Exited(status) => exited(status),
                Message::ExecExited { id, code } => {
                    if let Some(waiting) = self.lock().execs.remove(&id) {
                        let _ = waiting.send(code);
                    }
                }
            }
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        let stream = &self.shared.stream;
        let mut sender = self.shared.sender.lock().expect("nothing panics while it holds the sender");
        match stream.try_io(Interest::WRITABLE, || sender.flush(stream.as_fd())) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.shared.blocked.notify_one();
                Ok(())
            }
            other => other,
        }
    }

    /// Sends a request and waits for what comes of it.
    pub async fn call(&self, op: Op) -> Result<Outcome, Gone> {
        let (_, outcome) = self.begin(op, |_, _| ())?;
        outcome.await.map_err(|_| Gone)
    }

    /// As [`Connection::call`] for an exec; besides, its number and when it ends.
    pub async fn call_exec(&self, op: Op) -> Result<(Outcome, u64, oneshot::Receiver<i32>), Gone> {
        let (tell, ended) = oneshot::channel();
        let (id, outcome) = self.begin(op, |state, id| drop(state.execs.insert(id, tell)))?;
        let outcome = outcome.await.map_err(|_| Gone)?;
        if outcome.is_err() {
            self.lock().execs.remove(&id);
        }
        Ok((outcome, id, ended))
    }

    /// Sends a request without waiting for anything.
    pub fn tell(&self, op: Op) {
        let _ = self.begin(op, |_, _| ());
    }

    fn begin(
        &self,
        op: Op,
        note: impl FnOnce(&mut State, u64),
    ) -> Result<(u64, oneshot::Receiver<Outcome>), Gone> {
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let (tell, outcome) = oneshot::channel();
        {
            let mut state = self.lock();
            if state.closed {
                return Err(Gone);
            }
            state.waiting.insert(id, tell);
            note(&mut state, id);
        }
        let pushed = {
            let mut sender = self.shared.sender.lock().expect("nothing panics while it holds the sender");
            sender.push(&Request { id, op }, vec![])
        };
        if pushed.and_then(|()| self.flush()).is_err() {
            self.lock().waiting.remove(&id);
            return Err(Gone);
        }
        Ok((id, outcome))
    }

    /// Ends [`Connection::run`].
    pub fn close(&self) {
        self.shared.closing.notify_one();
    }
}
