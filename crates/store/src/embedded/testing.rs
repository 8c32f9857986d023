//! Disks for tests: one that loses power, one that fills up, and an engine whose loop the test turns by hand.

use super::commit::{Committer, Queue};
use super::disk::Disk;
use super::file::OpenBackend;
use super::{Engine, EngineOptions, Files, OpenError, Parts, open_error};
use knarr_base::{Ctx, Rng};
use redb::StorageBackend;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

/// Sectors reach the platter whole; larger writes may not.
const SECTOR: usize = 512;

#[derive(Debug, Default)]
struct State {
    /// The database and the two journal files.
    files: [FileState; 3],
    /// Operations left until the power fails.
    operations_left: Option<u64>,
    /// What all files together may hold.
    capacity: Option<usize>,
    failed_writes: u64,
}

#[derive(Clone, Debug, Default)]
struct FileState {
    /// What reads see.
    live: Vec<u8>,
    /// What survives a power cut for certain.
    durable: Vec<u8>,
    /// What was done since the last sync, and may survive or not.
    unsynced: Vec<Unsynced>,
    /// The end of what was ever written: making a file longer takes no room, writing into it does.
    allocated: usize,
}

#[derive(Clone, Debug)]
enum Unsynced {
    Write(usize, Vec<u8>),
    SetLen(usize),
}

/// A disk in memory with the files of a store; clones are the same disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct TestDisk(Arc<Mutex<State>>);

/// One of its files, open.
#[derive(Debug)]
struct TestFile {
    disk: TestDisk,
    index: usize,
}

impl TestDisk {
    /// A disk with an empty store.
    pub fn with_store() -> Self {
        let disk = Self::default();
        Disk::create(disk.opener(), Arc::default(), 4711).unwrap();
        disk
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// The power fails after this many more operations.
    pub fn fail_after(&self, operations: u64) {
        self.lock().operations_left = Some(operations);
    }

    /// Limits what the files may hold together, or lifts the limit.
    pub fn set_capacity(&self, bytes: Option<usize>) {
        self.lock().capacity = bytes;
    }

    /// How often a write was refused for want of room.
    pub fn failed_writes(&self) -> u64 {
        self.lock().failed_writes
    }

    /// What the files hold together.
    pub fn size(&self) -> usize {
        self.lock().files.iter().map(|file| file.allocated).sum()
    }

    /// The disk after the power came back: what was synced, and any part of what was not.
    pub fn after_power_cut(&self, rng: &dyn Rng) -> Self {
        // Sometimes all or nothing of it arrives, else each sector has its own luck.
        let luck = rng.below(4);
        let arrives = || match luck {
            0 => false,
            1 => true,
            _ => rng.below(2) == 0,
        };
        let mut after = State::default();
        for (file, after) in self.lock().files.iter().zip(&mut after.files) {
            let mut image = file.durable.clone();
            for operation in &file.unsynced {
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
            *after =
                FileState { allocated: image.len(), durable: image.clone(), live: image, unsynced: vec![] };
        }
        Self(Arc::new(Mutex::new(after)))
    }

    fn file(&self, index: usize) -> Box<dyn StorageBackend> {
        Box::new(TestFile { disk: self.clone(), index })
    }

    fn opener(&self) -> OpenBackend {
        let disk = self.clone();
        Arc::new(move || Ok(disk.file(0)))
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

impl StorageBackend for TestFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.lock().files[self.index].live.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.disk.lock();
        let offset = offset as usize;
        let data = state.files[self.index].live.get(offset..offset + out.len());
        out.copy_from_slice(data.ok_or(io::Error::from(io::ErrorKind::UnexpectedEof))?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.lock();
        state.operate()?;
        let file = &mut state.files[self.index];
        file.live.resize(len as usize, 0);
        file.unsynced.push(Unsynced::SetLen(len as usize));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.lock();
        state.operate()?;
        let file = &mut state.files[self.index];
        for operation in std::mem::take(&mut file.unsynced) {
            match operation {
                Unsynced::Write(offset, data) => write_at(&mut file.durable, offset, &data),
                Unsynced::SetLen(len) => file.durable.resize(len, 0),
            }
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.disk.lock();
        state.operate()?;
        let end = offset as usize + data.len();
        let growth = end.saturating_sub(state.files[self.index].allocated);
        let size: usize = state.files.iter().map(|file| file.allocated).sum();
        if state.capacity.is_some_and(|capacity| growth > 0 && size + growth > capacity) {
            state.failed_writes += 1;
            return Err(io::ErrorKind::StorageFull.into());
        }
        let file = &mut state.files[self.index];
        file.allocated += growth;
        write_at(&mut file.live, offset as usize, data);
        file.unsynced.push(Unsynced::Write(offset as usize, data.to_vec()));
        Ok(())
    }
}

/// An engine over a disk for tests, with the work of its threads in the test's hands.
pub(crate) struct Driven {
    pub engine: Engine,
    committer: Committer,
    disk: Disk,
    queue: Arc<Queue>,
}

impl Driven {
    /// Opens the store on a disk, with a journal so small that it is moved to the database often.
    pub fn open(ctx: &Ctx, disk: &TestDisk) -> Result<Self, OpenError> {
        let files = Files { database: disk.opener(), journals: [disk.file(1), disk.file(2)] };
        let options =
            EngineOptions { journal_bytes: 16 << 10, cache_bytes: 1 << 20, ..EngineOptions::new("test") };
        let Parts { engine, committer, disk } = Engine::assemble(ctx, files, &options, Path::new("test"))
            .map_err(|error| open_error(error, Path::new("test/store.redb")))?;
        let queue = engine.0.queue.clone();
        Ok(Self { engine, committer, disk, queue })
    }

    /// Commits one batch of what is queued, if anything.
    pub fn turn(&mut self) {
        if let Some(batch) = self.queue.try_take() {
            self.committer.commit(batch);
        }
    }

    /// Does one piece of the checkpoint thread's work.
    pub fn checkpoint(&mut self) {
        super::checkpoint::step(&mut self.disk, &self.engine.0.work);
    }
}
