//! What a layer's tar stream was besides the contents of its files: headers, padding, order. With the files themselves it
//! gives the stream again to the bit, so that a saved image has the digests it came with (the idea of Docker's tar-split).
//!
//! The file is a zstd stream of records, each a length of 64 bits (little endian) and a kind: bytes as they were, or a
//! file, whose content goes in between: its size, then its path.

use super::{Parts, clean, walk};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Bytes as they were.
const RAW: u8 = 0;
/// The content of a file of the layer.
const CONTENT: u8 = 1;
/// Bytes gathered into one record.
const GATHERED_BYTES: usize = 32 << 10;
/// A path is shorter than this.
const MOST_PATH_BYTES: u64 = 64 << 10;

/// Takes the notes while a stream is unpacked.
pub(crate) struct Notes(RefCell<State>);

struct State {
    out: zstd::stream::write::Encoder<'static, File>,
    gathered: Vec<u8>,
    /// The content of a file passes: it is in the layer, and not noted.
    content: bool,
    /// A later entry replaced an earlier one: what that held is gone, and so is the stream as it was.
    replaced: bool,
}

impl Notes {
    /// Notes that go to `file`.
    pub(crate) fn new(file: File) -> io::Result<Self> {
        let out = zstd::stream::write::Encoder::new(file, 1)?;
        Ok(Self(RefCell::new(State { out, gathered: Vec::new(), content: false, replaced: false })))
    }

    /// The content of the file at `parent`/`name` comes next, `size` bytes of it.
    pub(super) fn content(&self, parent: &Parts, name: &OsStr, size: u64) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        state.flush()?;
        let mut record = size.to_le_bytes().to_vec();
        record.push(CONTENT);
        let mut path = parent.join(&b'/');
        path.push(b'/');
        path.extend_from_slice(name.as_bytes());
        record.extend_from_slice(&(path.len() as u64).to_le_bytes());
        record.extend_from_slice(&path);
        state.content = true;
        state.out.write_all(&record)
    }

    /// It is over.
    pub(super) fn content_ends(&self) {
        self.0.borrow_mut().content = false;
    }

    /// Something that came earlier is gone.
    pub(super) fn replaced(&self) {
        self.0.borrow_mut().replaced = true;
    }

    /// Ends the notes; whether the stream can be had again by them.
    pub(crate) fn finish(self) -> io::Result<bool> {
        let mut state = self.0.into_inner();
        state.flush()?;
        state.out.finish()?;
        Ok(!state.replaced)
    }
}

impl State {
    fn flush(&mut self) -> io::Result<()> {
        if !self.gathered.is_empty() {
            self.out.write_all(&(self.gathered.len() as u64).to_le_bytes())?;
            self.out.write_all(&[RAW])?;
            self.out.write_all(&self.gathered)?;
            self.gathered.clear();
        }
        Ok(())
    }
}

/// A stream of which notes are taken.
pub(crate) struct Noted<'a, R> {
    pub(crate) inner: R,
    pub(crate) notes: &'a Notes,
}

impl<R: Read> Read for Noted<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        let mut state = self.notes.0.borrow_mut();
        if !state.content {
            state.gathered.extend_from_slice(&buf[..n]);
            if state.gathered.len() >= GATHERED_BYTES {
                state.flush()?;
            }
        }
        Ok(n)
    }
}

/// What stands at one place of the stream.
enum Piece<'a> {
    /// These bytes.
    Raw(io::Take<&'a mut dyn Read>),
    /// So many bytes out of the file at this path.
    Content(u64, Vec<u8>),
}

/// Goes through the notes.
fn pieces(notes: &Path, mut each: impl FnMut(Piece<'_>) -> io::Result<()>) -> io::Result<()> {
    let mut reader = BufReader::new(zstd::stream::read::Decoder::new(File::open(notes)?)?);
    loop {
        let mut head = [0; 9];
        match reader.read(&mut head[..1])? {
            0 => return Ok(()),
            _ => reader.read_exact(&mut head[1..])?,
        }
        let length = u64::from_le_bytes(head[..8].try_into().expect("eight bytes"));
        match head[8] {
            RAW => each(Piece::Raw((&mut reader as &mut dyn Read).take(length)))?,
            CONTENT => {
                let mut size = [0; 8];
                reader.read_exact(&mut size)?;
                let size = u64::from_le_bytes(size);
                if size > MOST_PATH_BYTES {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                let mut path = vec![0; size as usize];
                reader.read_exact(&mut path)?;
                each(Piece::Content(length, path))?;
            }
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// Bytes of the stream that the notes are of.
pub(crate) fn length(notes: &Path) -> io::Result<u64> {
    let mut total = 0;
    pieces(notes, |piece| {
        total += match piece {
            Piece::Raw(mut bytes) => io::copy(&mut bytes, &mut io::sink())?,
            Piece::Content(size, _) => size,
        };
        Ok(())
    })?;
    Ok(total)
}

/// Writes the stream again: notes, and the files of the layer at `root`.
pub(crate) fn rebuild(notes: &Path, root: &Path, out: &mut dyn Write) -> io::Result<()> {
    let root = rustix::fs::open(root, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    pieces(notes, |piece| match piece {
        Piece::Raw(mut bytes) => io::copy(&mut bytes, out).map(drop),
        Piece::Content(size, path) => {
            let file = open(&root, &path).map_err(|e| named(&path, e))?;
            match io::copy(&mut file.take(size), out)? {
                n if n == size => Ok(()),
                _ => Err(named(&path, io::ErrorKind::UnexpectedEof.into())),
            }
        }
    })
}

fn open(root: &OwnedFd, path: &[u8]) -> io::Result<File> {
    let mut parts = clean(path)?;
    let name = parts.pop().unwrap_or_default();
    let parent = walk(root, &parts, false)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(&parent, OsStr::from_bytes(&name), flags, Mode::empty())?.into())
}

fn named(path: &[u8], error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", String::from_utf8_lossy(path)))
}
