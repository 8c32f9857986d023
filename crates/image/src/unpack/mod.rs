//! Unpacks a layer's tar stream into a directory of its own, as overlayfs wants it (image-spec, layer.md):
//! whiteouts become 0/0 character devices, opaque directories get the overlay's extended attribute. Nothing
//! in the stream can reach outside the directory: every path is walked component by component from the
//! root's file descriptor, and symbolic links met on the way are followed within the root only.

mod meta;
pub(crate) mod notes;
mod sparse;

use meta::Meta;
use notes::Notes;
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timestamps, XattrFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use tar::EntryType;

/// Symbolic links followed at most on the way to one entry, as the kernel's own limit.
const MOST_LINKS: usize = 40;
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// overlayfs's mark of a directory that hides everything below it.
const OPAQUE_XATTR: &str = "trusted.overlay.opaque";

/// Bytes read and written at once.
const BUFFER_BYTES: usize = 256 << 10;
/// A hole is made of whole blocks of this size.
const HOLE_BYTES: usize = 4 << 10;

type Parts = Vec<Vec<u8>>;

/// Unpacks the tar stream into the directory `root`; the sum of file sizes. `notes` are told which bytes of the stream
/// are the contents of files.
pub(crate) fn unpack(reader: impl Read, root: &Path, notes: Option<&Notes>) -> io::Result<u64> {
    let root = rustix::fs::open(root, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let buffer = vec![0; BUFFER_BYTES];
    let mut unpacker = Unpacker { root, notes, parent: None, dir_times: Vec::new(), bytes: 0, buffer };
    let mut archive = tar::Archive::new(reader);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path_bytes().into_owned();
        unpacker
            .entry(&mut entry, &path)
            .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", String::from_utf8_lossy(&path))))?;
    }
    // Directories last, and in reverse: filling a directory changes its time.
    for (parts, times) in std::mem::take(&mut unpacker.dir_times).into_iter().rev() {
        if let Ok(dir) = walk(&unpacker.root, &parts, false) {
            let _ = rustix::fs::futimens(&dir, &times);
        }
    }
    Ok(unpacker.bytes)
}

struct Unpacker<'a> {
    root: OwnedFd,
    notes: Option<&'a Notes>,
    /// The directory of the previous entry: entries of one directory usually follow each other.
    parent: Option<(Parts, OwnedFd)>,
    dir_times: Vec<(Parts, Timestamps)>,
    bytes: u64,
    buffer: Vec<u8>,
}

impl Unpacker<'_> {
    fn entry<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>, path: &[u8]) -> io::Result<()> {
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader | EntryType::XHeader) {
            return Ok(());
        }
        let mut meta = Meta::of(entry)?;
        let mut parts = match meta.sparse.as_mut().and_then(|s| s.name.take()) {
            Some(real) => clean(&real)?,
            None => clean(path)?,
        };
        let Some(name) = parts.pop() else {
            if kind.is_dir() {
                let root = self.root.try_clone()?;
                meta.apply_fd(&root)?;
                self.dir_times.push((Vec::new(), meta.times));
            }
            return Ok(());
        };
        let parent = self.parent(&parts)?;
        if name.starts_with(WHITEOUT) {
            return self.whiteout(&parent, &name);
        }
        let name = OsStr::from_bytes(&name);
        let is_file = matches!(kind, EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse);
        if !kind.is_dir() && !is_file {
            self.clear(&parent, name)?;
        }
        match kind {
            EntryType::Directory => {
                match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
                    Err(Errno::EXIST) if is_dir(&parent, name) => {}
                    Err(Errno::EXIST) => {
                        self.clear(&parent, name)?;
                        rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
                    }
                    other => other?,
                }
                meta.apply_fd(&open_dir(&parent, name)?)?;
                parts.push(name.as_bytes().to_vec());
                self.dir_times.push((parts, meta.times));
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                // Nearly every file is new to its layer: what may be in its place is asked of the kernel only then.
                let open = || rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o600));
                let fd = match open() {
                    Err(Errno::EXIST) => {
                        self.clear(&parent, name)?;
                        open()?
                    }
                    other => other?,
                };
                let mut file = File::from(fd);
                self.bytes += match meta.sparse.take() {
                    Some(sparse) => sparse.write(entry, &mut file, &mut self.buffer)?,
                    // What is not in the file as it is in the stream is left to the notes.
                    None if kind == EntryType::GNUSparse => {
                        write_out(entry, &mut file, &mut self.buffer, true)?
                    }
                    None => {
                        if let Some(notes) = self.notes {
                            notes.content(&parts, name, entry.size())?;
                        }
                        let written = write_out(entry, &mut file, &mut self.buffer, false);
                        self.notes.inspect(|notes| notes.content_ends());
                        written?
                    }
                };
                meta.apply_fd(&file)?;
                rustix::fs::futimens(&file, &meta.times)?;
            }
            EntryType::Link => {
                let target = entry.link_name_bytes().ok_or_else(|| invalid("hard link without a target"))?;
                let mut target = clean(&target)?;
                let base = target.pop().ok_or_else(|| invalid("hard link to the root"))?;
                let dir = walk(&self.root, &target, false)?;
                rustix::fs::linkat(&dir, OsStr::from_bytes(&base), &parent, name, AtFlags::empty())?;
            }
            EntryType::Symlink => {
                let target =
                    entry.link_name_bytes().ok_or_else(|| invalid("symbolic link without a target"))?;
                rustix::fs::symlinkat(OsStr::from_bytes(&target), &parent, name)?;
                meta.apply_at(&parent, name, false)?;
            }
            EntryType::Fifo | EntryType::Char | EntryType::Block => {
                let file_type = match kind {
                    EntryType::Fifo => FileType::Fifo,
                    EntryType::Char => FileType::CharacterDevice,
                    _ => FileType::BlockDevice,
                };
                let (major, minor) = if kind == EntryType::Fifo { (0, 0) } else { device(entry)? };
                let device = rustix::fs::makedev(major, minor);
                rustix::fs::mknodat(&parent, name, file_type, Mode::from_raw_mode(0o600), device)?;
                meta.apply_at(&parent, name, true)?;
            }
            other => return Err(invalid(&format!("unknown entry type {other:?}"))),
        }
        Ok(())
    }

    fn whiteout(&mut self, parent: &OwnedFd, name: &[u8]) -> io::Result<()> {
        if name == OPAQUE {
            return Ok(rustix::fs::fsetxattr(parent, OPAQUE_XATTR, b"y", XattrFlags::empty())?);
        }
        let hidden = &name[WHITEOUT.len()..];
        if hidden.starts_with(WHITEOUT) {
            // Bookkeeping of aufs (.wh..wh.plnk and the like) that some old images still carry.
            return Ok(());
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(invalid("whiteout of nothing"));
        }
        let hidden = OsStr::from_bytes(hidden);
        self.clear(parent, hidden)?;
        let device = rustix::fs::makedev(0, 0);
        Ok(rustix::fs::mknodat(parent, hidden, FileType::CharacterDevice, Mode::empty(), device)?)
    }

    /// Removes what an earlier entry of the same layer put at this name.
    fn clear(&mut self, parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
        match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => remove_dir(parent, name)?,
            Err(other) => return Err(other.into()),
        }
        self.parent = None;
        self.notes.inspect(|notes| notes.replaced());
        Ok(())
    }

    fn parent(&mut self, parts: &[Vec<u8>]) -> io::Result<OwnedFd> {
        if let Some((held, dir)) = &self.parent
            && held == parts
        {
            return dir.try_clone();
        }
        let dir = walk(&self.root, parts, true)?;
        self.parent = Some((parts.to_vec(), dir.try_clone()?));
        Ok(dir)
    }
}

/// Opens the directory at `parts`, following symbolic links within the root; missing ones are made.
fn walk(root: &OwnedFd, parts: &[Vec<u8>], create: bool) -> io::Result<OwnedFd> {
    let mut ahead: Parts = parts.iter().rev().cloned().collect();
    let mut above: Vec<OwnedFd> = Vec::new();
    let mut here = root.try_clone()?;
    let mut links = 0;
    while let Some(part) = ahead.pop() {
        if part == b".." {
            here = above.pop().map_or_else(|| root.try_clone(), Ok)?;
            continue;
        }
        let name = OsStr::from_bytes(&part);
        match open_dir(&here, name) {
            Ok(next) => above.push(std::mem::replace(&mut here, next)),
            Err(Errno::NOENT) if create => {
                rustix::fs::mkdirat(&here, name, Mode::from_raw_mode(0o755))?;
                let next = open_dir(&here, name)?;
                rustix::fs::fchmod(&next, Mode::from_raw_mode(0o755))?;
                above.push(std::mem::replace(&mut here, next));
            }
            Err(Errno::LOOP | Errno::NOTDIR) => {
                links += 1;
                if links > MOST_LINKS {
                    return Err(Errno::LOOP.into());
                }
                let target = rustix::fs::readlinkat(&here, name, Vec::new()).map_err(|e| match e {
                    Errno::INVAL => Errno::NOTDIR,
                    other => other,
                })?;
                if target.as_bytes().starts_with(b"/") {
                    above.clear();
                    here = root.try_clone()?;
                }
                let target = target.as_bytes().split(|b| *b == b'/');
                ahead.extend(target.filter(|p| !matches!(*p, b"" | b".")).rev().map(<[u8]>::to_vec));
            }
            Err(other) => return Err(other.into()),
        }
    }
    Ok(here)
}

/// The parts of a path, `.` and `..` worked out; a path that leads above the root is refused.
fn clean(path: &[u8]) -> io::Result<Parts> {
    let mut parts = Parts::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop().ok_or_else(|| invalid("path leads out of the layer"))?;
            }
            part if part.contains(&0) => return Err(invalid("path with a zero byte")),
            part => parts.push(part.to_vec()),
        }
    }
    Ok(parts)
}

/// Copies to the end of `from`; the bytes of it. With `holes`, blocks of zeros are left out.
fn write_out(from: &mut impl Read, file: &mut File, buffer: &mut [u8], holes: bool) -> io::Result<u64> {
    let mut total = 0;
    loop {
        let mut got = 0;
        while got < buffer.len() {
            match from.read(&mut buffer[got..]) {
                Ok(0) => break,
                Ok(n) => got += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if got == 0 {
            break;
        }
        total += got as u64;
        if !holes {
            file.write_all(&buffer[..got])?;
            continue;
        }
        for block in buffer[..got].chunks(HOLE_BYTES) {
            if block.iter().all(|b| *b == 0) {
                file.seek(SeekFrom::Current(block.len() as i64))?;
            } else {
                file.write_all(block)?;
            }
        }
    }
    if holes {
        file.set_len(total)?;
    }
    Ok(total)
}

fn open_dir(parent: &OwnedFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

fn is_dir(parent: &OwnedFd, name: &OsStr) -> bool {
    rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Directory)
}

fn remove_dir(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    let dir = open_dir(parent, name)?;
    for child in rustix::fs::Dir::read_from(&dir)? {
        let child = child?;
        let child = OsStr::from_bytes(child.file_name().to_bytes());
        if child == "." || child == ".." {
            continue;
        }
        match rustix::fs::unlinkat(&dir, child, AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => remove_dir(&dir, child)?,
            other => other?,
        }
    }
    Ok(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}

/// A device's major and minor number; fields left blank are zero, as to Go's reader.
fn device<R: Read>(entry: &tar::Entry<'_, R>) -> io::Result<(u32, u32)> {
    let header = entry.header();
    let (Some(ustar), true) =
        (header.as_bytes().get(329..345), header.as_ustar().is_some() || header.as_gnu().is_some())
    else {
        return Err(invalid("device without a number"));
    };
    let number = |value: io::Result<Option<u32>>, field: &[u8]| match value {
        Err(_) if field.iter().all(|b| matches!(b, 0 | b' ')) => Ok(0),
        other => other.map(Option::unwrap_or_default),
    };
    Ok((number(header.device_major(), &ustar[..8])?, number(header.device_minor(), &ustar[8..])?))
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests;
