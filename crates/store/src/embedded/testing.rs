//! Disks for tests: one that loses power, one that fills up, and an engine whose loop the test turns by hand.

use super::commit::{Committer, Queue};
use super::disk::Disk;
use super::file::{IoCounters, OpenBackend};
use super::{Engine, open_error};
use crate::embedded::OpenError;
use knarr_base::{Ctx, Rng};
use redb::StorageBackend;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// Sectors reach the platter whole; larger writes may not.
const SECTOR: usize = 512;

#[derive(Debug, Default)]
struct State {
    /// What reads see.
    live: Vec<u8>,
    /// What survives a power cut for certain.
    durable: Vec<u8>,
    /// What was done since the last sync, and may survive or not.
    unsynced: Vec<Unsynced>,
    /// Operations left until the power fails.
    operations_left: Option<u64>,
    /// The file cannot grow beyond this many bytes.
    capacity: Option<usize>,
    failed_writes: u64,
}

#[derive(Debug)]
enum Unsynced {
    Write(usize, Vec<u8>),
    SetLen(usize),
}

/// A disk in memory; clones are the same disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct TestDisk(Arc<Mutex<State>>);

impl TestDisk {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// The power fails after this many more operations.
    pub fn fail_after(&self, operations: u64) {
        self.lock().operations_left = Some(operations);
    }

    /// Limits the size of the file, or lifts the limit.
    pub fn set_capacity(&self, bytes: Option<usize>) {
        self.lock().capacity = bytes;
    }

    /// How often a write was refused for want of room.
    pub fn failed_writes(&self) -> u64 {
        self.lock().failed_writes
    }

    /// The length of the file.
    pub fn size(&self) -> usize {
        self.lock().live.len()
    }

    /// The disk after the power came back: what was synced, and any part of what was not.
    pub fn after_power_cut(&self, rng: &dyn Rng) -> Self {
        let state = self.lock();
        let mut image = state.durable.clone();
        // Sometimes all or nothing of it arrives, else each sector has its own luck.
        let luck = rng.below(4);
        let arrives = || match luck {
            0 => false,
            1 => true,
            _ => rng.below(2) == 0,
        };
        for operation in &state.unsynced {
            match operation {
                Unsynced::SetLen(len) if arrives() => image.resize(*len, 0),
                Unsynced::SetLen(_) => {}
                Unsynced::Write(offset, data) => {
                    for (index, sector) in data.chunks(SECTOR).enumerate() {
                        if arrives() {
                            write_at(&mut image, offset + index * SECTOR, sector);
                        }
                    }
                }
            }
        }
        Self(Arc::new(Mutex::new(State { live: image.clone(), durable: image, ..State::default() })))
    }

    /// Opens the disk for an engine.
    pub fn opener(&self) -> OpenBackend {
        let disk = self.clone();
        Arc::new(move || Ok(Box::new(disk.clone()) as Box<dyn StorageBackend>))
    }
}

fn write_at(image: &mut Vec<u8>, offset: usize, data: &[u8]) {
    if image.len() < offset + data.len() {
        image.resize(offset + data.len(), 0);
    }
    image[offset..offset + data.len()].copy_from_slice(data);
}

impl State {
    fn operate(&mut self) -> io::Result<()> {
        match &mut self.operations_left {
            Some(0) => Err(io::Error::other("the power is gone")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl StorageBackend for TestDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.lock().live.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.lock();
        let offset = offset as usize;
        let data = state.live.get(offset..offset + out.len());
        out.copy_from_slice(data.ok_or(io::Error::from(io::ErrorKind::UnexpectedEof))?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.lock();
        state.operate()?;
        state.live.resize(len as usize, 0);
        state.unsynced.push(Unsynced::SetLen(len as usize));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.lock();
        state.operate()?;
        for operation in std::mem::take(&mut state.unsynced) {
            match operation {
                Unsynced::Write(offset, data) => write_at(&mut state.durable, offset, &data),
                Unsynced::SetLen(len) => state.durable.resize(len, 0),
            }
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.lock();
        state.operate()?;
        let offset = offset as usize;
        // Like a sparse file: making it longer takes no room, writing into it does.
        if state.capacity.is_some_and(|capacity| offset + data.len() > capacity) {
            state.failed_writes += 1;
            return Err(io::ErrorKind::StorageFull.into());
        }
        write_at(&mut state.live, offset, data);
        state.unsynced.push(Unsynced::Write(offset, data.to_vec()));
        Ok(())
    }
}

/// An engine over a disk for tests, with the commit loop in the test's hands.
pub(crate) struct Driven {
    pub engine: Engine,
    committer: Committer,
    queue: Arc<Queue>,
}

impl Driven {
    /// Opens the store on a disk.
    pub fn open(ctx: &Ctx, disk: &TestDisk) -> Result<Self, OpenError> {
        let counters = Arc::new(IoCounters::default());
        let path = Path::new("test.redb");
        let may_create = disk.size() == 0;
        let (disk, restored) = Disk::open(disk.opener(), 1 << 20, counters.clone(), may_create)
            .map_err(|error| open_error(error, path))?;
        let (engine, committer) = Engine::assemble(ctx, disk, restored, counters, path);
        let queue = engine.0.queue.clone();
        Ok(Self { engine, committer, queue })
    }

    /// Commits one batch of what is queued, or sweeps when nothing is.
    pub fn turn(&mut self) {
        let batch = self.queue.take(Some(Duration::ZERO), 0, Duration::ZERO);
        self.committer.commit(batch.unwrap_or_default());
    }
}
