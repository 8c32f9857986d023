//! Takes in one layer in a single pass: a thread reads, hashes the compressed form and undoes the compression; the
//! caller's thread hashes the plain form and writes the files. Nothing of the layer is held in memory but a few blocks,
//! and it appears under its name only once both digests are right and everything is on disk.

use crate::digest::{Hashing, decompressed};
use crate::error::{StoreError, io_error};
use crate::store::{ImageStore, Pins};
use crate::unpack::notes::{Noted, Notes};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// The file beside a layer's files by which its tar stream can be had again.
pub(crate) const NOTES: &str = "notes";
/// Bytes handed from thread to thread at once.
const BLOCK_BYTES: usize = 256 << 10;
/// Blocks on the way at most: 2 MiB a layer.
const MOST_BLOCKS: usize = 8;

/// A layer that was unpacked and is what it should be, but is not in the store yet: it goes unless it is published.
pub(crate) struct Staged {
    diff_id: String,
    temp: PathBuf,
}

impl Staged {
    pub(crate) fn diff_id(&self) -> &str {
        &self.diff_id
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.temp);
    }
}

impl ImageStore {
    /// Unpacks a layer (plain, gzip or zstd) and gives its diff ID. `expected` is the digest of the plain form, `blob`
    /// that of the form read; a layer of which either is wrong is not kept. Blocking.
    pub(crate) fn add_layer(
        self: &Arc<Self>,
        reader: impl Read + Send,
        expected: Option<&str>,
        blob: Option<&str>,
        pins: Option<&mut Pins>,
    ) -> Result<String, StoreError> {
        let staged = self.stage_layer(reader, expected, blob)?;
        let diff_id = staged.diff_id.clone();
        if let Some(pins) = pins {
            pins.add(&diff_id);
        }
        self.publish(vec![staged])?;
        Ok(diff_id)
    }

    /// The first half of [`Self::add_layer`]: unpacks and checks.
    pub(crate) fn stage_layer(
        self: &Arc<Self>,
        reader: impl Read + Send,
        expected: Option<&str>,
        blob: Option<&str>,
    ) -> Result<Staged, StoreError> {
        let name = expected.or(blob).unwrap_or("(new)").to_owned();
        let failed = |e: io::Error| StoreError::Layer { layer: name.clone(), detail: e.to_string() };
        let mut staged = Staged { diff_id: String::new(), temp: self.temp() };
        let root = staged.temp.join("fs");
        fs::create_dir_all(&root).map_err(io_error("create", &root))?;
        let unpacked = unpack(reader, &root, &staged.temp.join(NOTES), blob.is_some()).map_err(failed)?;
        if let (Some(expected), Some(actual)) = (blob, unpacked.blob)
            && expected != actual
        {
            return Err(StoreError::Blob { actual, expected: expected.to_owned() });
        }
        let (size, diff_id) = unpacked.files.map_err(failed)?;
        if let Some(expected) = expected.filter(|e| *e != diff_id) {
            return Err(StoreError::Digest { actual: diff_id, expected: expected.to_owned() });
        }
        let marker = staged.temp.join("size");
        fs::write(&marker, size.to_string()).map_err(io_error("write", &marker))?;
        staged.diff_id = diff_id;
        Ok(staged)
    }

    /// The second half: makes unpacked layers those of the store, all with one sync.
    ///
    /// What a crash leaves: the files, notes and markers of every layer are written before the `syncfs`, which returns
    /// once all of them are on disk, and no layer has its name before it has returned. So whatever is found under
    /// `layers/` after a crash is whole, whichever of the renames reached the disk; what is found under `tmp/` is removed
    /// at the next start. `commit` syncs the directory before it records an image, so a recorded image has all its layers,
    /// also those that another task has just published. One `syncfs` for several layers is as safe as one for each: its only promise is about what was written
    /// before it.
    pub(crate) fn publish(&self, layers: Vec<Staged>) -> Result<(), StoreError> {
        let missing = |layer: &&Staged| !self.has_layer(&layer.diff_id);
        let Some(first) = layers.iter().find(missing) else { return Ok(()) };
        let dir = fs::File::open(&first.temp).map_err(io_error("open", &first.temp))?;
        // One sync of the file system in place of one for each of thousands of files.
        rustix::fs::syncfs(&dir).map_err(|e| io_error("sync", &first.temp)(e.into()))?;
        for layer in layers.iter().filter(missing) {
            let target = self.layer_path(&layer.diff_id)?;
            match fs::rename(&layer.temp, &target) {
                Ok(()) => {}
                Err(_) if self.has_layer(&layer.diff_id) => {} // another task was quicker
                Err(error) => return Err(io_error("rename", &target)(error)),
            }
        }
        Ok(())
    }
}

/// What came of a stream.
struct Unpacked {
    /// Size of the files, and the digest of the plain form.
    files: io::Result<(u64, String)>,
    /// Digest of the form read, if asked for; known also when the stream could not be unpacked.
    blob: Option<String>,
}

fn unpack(reader: impl Read + Send, root: &Path, notes: &Path, hash: bool) -> io::Result<Unpacked> {
    let (full, blocks) = sync_channel(MOST_BLOCKS);
    let (spent, spare) = sync_channel(MOST_BLOCKS + 2);
    std::thread::scope(|scope| {
        type Read = io::Result<(io::Result<()>, Option<String>)>;
        let reading = scope.spawn(move || -> Read {
            if !hash {
                return Ok((feed(reader, &full, &spare), None));
            }
            let mut reader = Hashing::new(reader);
            let fed = feed(&mut reader, &full, &spare);
            drop(full);
            // What follows the compressed stream belongs to the digest too; and of a stream that cannot be unpacked
            // the digest tells whether it is damaged.
            Ok((fed, Some(reader.drain()?)))
        });
        let files = (|| {
            let mut stream = Hashing::new(Blocks { blocks, spent, held: Vec::new(), at: 0 });
            let noting = Notes::new(fs::File::create(notes)?)?;
            let mut noted = Noted { inner: &mut stream, notes: &noting };
            let size = crate::unpack::unpack(&mut noted, root, Some(&noting))?;
            io::copy(&mut noted, &mut io::sink())?;
            if !noting.finish()? {
                // Without notes the layer cannot be saved, and saving it says so.
                fs::remove_file(notes)?;
            }
            Ok((size, stream.drain()?))
        })();
        let (fed, blob) = reading.join().expect("reading a layer does not panic")?;
        let files = match fed {
            // What went wrong there is the cause of what went wrong here.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            _ => files,
        };
        Ok(Unpacked { files, blob })
    })
}

/// Sends the plain form of what is read, in blocks.
fn feed(reader: impl Read, full: &SyncSender<Vec<u8>>, spare: &Receiver<Vec<u8>>) -> io::Result<()> {
    let mut plain = decompressed(reader)?;
    loop {
        let mut block = spare.try_recv().unwrap_or_default();
        block.resize(BLOCK_BYTES, 0);
        let mut got = 0;
        let mut ended = false;
        while got < block.len() {
            match plain.read(&mut block[got..]) {
                Ok(0) => {
                    ended = true;
                    break;
                }
                Ok(n) => got += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        block.truncate(got);
        if got > 0 && full.send(block).is_err() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if ended {
            return Ok(());
        }
    }
}

/// The blocks as a stream again.
struct Blocks {
    blocks: Receiver<Vec<u8>>,
    spent: SyncSender<Vec<u8>>,
    held: Vec<u8>,
    at: usize,
}

impl Read for Blocks {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.at == self.held.len() {
            let Ok(next) = self.blocks.recv() else { return Ok(0) };
            let _ = self.spent.try_send(std::mem::replace(&mut self.held, next));
            self.at = 0;
        }
        let n = buf.len().min(self.held.len() - self.at);
        buf[..n].copy_from_slice(&self.held[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}
