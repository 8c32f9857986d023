//! The shim's event loop primitive: level-triggered epoll with one source a descriptor.

use super::Source;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::fd::{BorrowedFd, OwnedFd};
use std::collections::HashMap;
use std::io;

/// What a source is watched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Readable, or at its end.
    Read,
    /// Writable.
    Write,
    /// Both.
    Both,
    /// Only errors and hang-ups, which the kernel always tells.
    Errors,
}

impl Interest {
    fn flags(self) -> EventFlags {
        match self {
            Self::Read => EventFlags::IN,
            Self::Write => EventFlags::OUT,
            Self::Both => EventFlags::IN | EventFlags::OUT,
            Self::Errors => EventFlags::empty(),
        }
    }
}

/// What happened to a source.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    /// Something can be read, or the end.
    pub read: bool,
    /// Something can be written.
    pub write: bool,
    /// The other side is gone.
    pub error: bool,
}

/// The set of watched descriptors.
pub struct Poller {
    epoll: OwnedFd,
    sources: HashMap<u64, Source>,
    next: u64,
    events: Vec<Event>,
}

impl Poller {
    /// An empty set.
    pub fn new() -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        Ok(Self { epoll, sources: HashMap::new(), next: 1, events: Vec::with_capacity(16) })
    }

    /// Watches `fd`; the number is for the other calls.
    pub fn add(&mut self, fd: BorrowedFd<'_>, source: Source, interest: Interest) -> io::Result<u64> {
        let token = self.next;
        epoll::add(&self.epoll, fd, EventData::new_u64(token), interest.flags())?;
        self.next += 1;
        self.sources.insert(token, source);
        Ok(token)
    }

    /// Watches for something else.
    pub fn change(&self, fd: BorrowedFd<'_>, token: u64, interest: Interest) {
        let _ = epoll::modify(&self.epoll, fd, EventData::new_u64(token), interest.flags());
    }

    /// Watches no more. Must come before the descriptor is closed, as a child may hold a copy of it.
    pub fn remove(&mut self, fd: BorrowedFd<'_>, token: u64) {
        let _ = epoll::delete(&self.epoll, fd);
        self.sources.remove(&token);
    }

    /// Watches no more for now, not even for errors, keeping the source.
    pub fn pause(&self, fd: BorrowedFd<'_>) {
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// Undoes [`Poller::pause`].
    pub fn resume(&self, fd: BorrowedFd<'_>, token: u64, interest: Interest) {
        let _ = epoll::add(&self.epoll, fd, EventData::new_u64(token), interest.flags());
    }

    /// Waits for something to happen.
    pub fn wait(&mut self) -> io::Result<Vec<(u64, Ready)>> {
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let found = self.events.drain(..).map(|event| {
            let flags = event.flags;
            let gone = flags.intersects(EventFlags::HUP | EventFlags::ERR);
            let ready = Ready {
                read: flags.contains(EventFlags::IN) || gone,
                write: flags.contains(EventFlags::OUT),
                error: gone,
            };
            (event.data.u64(), ready)
        });
        Ok(found.collect())
    }

    /// The source of a number, unless it was removed since.
    pub fn source(&self, token: u64) -> Option<Source> {
        self.sources.get(&token).cloned()
    }
}
