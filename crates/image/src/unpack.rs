//! Unpacks a layer's tar stream into a directory of its own, as overlayfs wants it (image-spec, layer.md):
//! whiteouts become 0/0 character devices, opaque directories get the overlay's extended attribute. Nothing
//! in the stream can reach outside the directory: every path is walked component by component from the
//! root's file descriptor, and symbolic links met on the way are followed within the root only.

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use std::ffi::{CString, OsStr};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use tar::EntryType;

/// Symbolic links followed at most on the way to one entry, as the kernel's own limit.
const MOST_LINKS: usize = 40;
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// overlayfs's mark of a directory that hides everything below it.
const OPAQUE_XATTR: &str = "trusted.overlay.opaque";

type Parts = Vec<Vec<u8>>;

/// Unpacks the tar stream into the directory `root`; the sum of file sizes.
pub(crate) fn unpack(reader: impl Read, root: &Path) -> io::Result<u64> {
    let root = rustix::fs::open(root, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut unpacker = Unpacker { root, parent: None, dir_times: Vec::new(), bytes: 0 };
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
        if let Ok(dir) = unpacker.walk(&parts, false) {
            let _ = rustix::fs::futimens(&dir, &times);
        }
    }
    Ok(unpacker.bytes)
}

struct Unpacker {
    root: OwnedFd,
    /// The directory of the previous entry: entries of one directory usually follow each other.
    parent: Option<(Parts, OwnedFd)>,
    dir_times: Vec<(Parts, Timestamps)>,
    bytes: u64,
}

struct Meta {
    uid: Uid,
    gid: Gid,
    mode: Mode,
    times: Timestamps,
    xattrs: Vec<(CString, Vec<u8>)>,
}

impl Unpacker {
    fn entry<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>, path: &[u8]) -> io::Result<()> {
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader | EntryType::XHeader) {
            return Ok(());
        }
        let mut parts = clean(path)?;
        let meta = Meta::of(entry)?;
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
        if !kind.is_dir() {
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
                let fd = rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o600))?;
                let mut file = std::fs::File::from(fd);
                self.bytes += io::copy(entry, &mut file)?;
                meta.apply_fd(&file)?;
                rustix::fs::futimens(&file, &meta.times)?;
            }
            EntryType::Link => {
                let target = entry.link_name_bytes().ok_or_else(|| invalid("hard link without a target"))?;
                let mut target = clean(&target)?;
                let base = target.pop().ok_or_else(|| invalid("hard link to the root"))?;
                let dir = self.walk(&target, false)?;
                rustix::fs::linkat(&dir, OsStr::from_bytes(&base), &parent, name, AtFlags::empty())?;
            }
            EntryType::Symlink => {
                let target =
                    entry.link_name_bytes().ok_or_else(|| invalid("symbolic link without a target"))?;
                rustix::fs::symlinkat(OsStr::from_bytes(&target), &parent, name)?;
                meta.apply_at(&parent, name, false)?;
            }
            EntryType::Fifo | EntryType::Char | EntryType::Block => {
                let (file_type, major, minor) = match kind {
                    EntryType::Fifo => (FileType::Fifo, 0, 0),
                    EntryType::Char => (FileType::CharacterDevice, major(entry)?, minor(entry)?),
                    _ => (FileType::BlockDevice, major(entry)?, minor(entry)?),
                };
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
        Ok(())
    }

    fn parent(&mut self, parts: &[Vec<u8>]) -> io::Result<OwnedFd> {
        if let Some((held, dir)) = &self.parent
            && held == parts
        {
            return dir.try_clone();
        }
        let dir = self.walk(parts, true)?;
        self.parent = Some((parts.to_vec(), dir.try_clone()?));
        Ok(dir)
    }

    /// Opens the directory at `parts`, following symbolic links within the root; missing ones are made.
    fn walk(&self, parts: &[Vec<u8>], create: bool) -> io::Result<OwnedFd> {
        let mut ahead: Parts = parts.iter().rev().cloned().collect();
        let mut above: Vec<OwnedFd> = Vec::new();
        let mut here = self.root.try_clone()?;
        let mut links = 0;
        while let Some(part) = ahead.pop() {
            if part == b".." {
                here = above.pop().map_or_else(|| self.root.try_clone(), Ok)?;
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
                        here = self.root.try_clone()?;
                    }
                    let target = target.as_bytes().split(|b| *b == b'/');
                    ahead.extend(target.filter(|p| !matches!(*p, b"" | b".")).rev().map(<[u8]>::to_vec));
                }
                Err(other) => return Err(other.into()),
            }
        }
        Ok(here)
    }
}

impl Meta {
    fn of<R: Read>(entry: &mut tar::Entry<'_, R>) -> io::Result<Self> {
        let header = entry.header();
        let id = |id: u64| u32::try_from(id).map_err(|_| invalid("owner out of range"));
        // A field left blank is zero to Go's reader, and some writers leave them blank.
        let number = |value: io::Result<u64>, field: &[u8]| match value {
            Err(_) if field.iter().all(|b| matches!(b, 0 | b' ')) => Ok(0),
            other => other,
        };
        let raw = header.as_old();
        let (uid, gid) = (id(number(header.uid(), &raw.uid)?)?, id(number(header.gid(), &raw.gid)?)?);
        let mode = Mode::from_raw_mode(header.mode()? & 0o7777);
        let mtime = number(header.mtime(), &raw.mtime)?;
        let mut mtime = Timespec { tv_sec: mtime as i64, tv_nsec: 0 };
        let mut xattrs = Vec::new();
        for extension in entry.pax_extensions()?.into_iter().flatten() {
            let extension = extension?;
            let key = extension.key_bytes();
            if key == b"mtime" {
                mtime = extension.value().ok().and_then(parse_time).unwrap_or(mtime);
            } else if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                // The overlay's own attributes are ours to set: from a layer they would hide or redirect files.
                if !name.starts_with(b"trusted.overlay.") && !name.starts_with(b"user.overlay.") {
                    let name = CString::new(name).map_err(|_| invalid("attribute name with a zero byte"))?;
                    xattrs.push((name, extension.value_bytes().to_vec()));
                }
            }
        }
        let times = Timestamps { last_access: mtime, last_modification: mtime };
        Ok(Self { uid: Uid::from_raw(uid), gid: Gid::from_raw(gid), mode, times, xattrs })
    }

    /// Owner first: changing it clears set-user-ID bits and file capabilities.
    fn apply_fd(&self, fd: impl AsFd) -> io::Result<()> {
        rustix::fs::fchown(&fd, Some(self.uid), Some(self.gid))?;
        rustix::fs::fchmod(&fd, self.mode)?;
        for (name, value) in &self.xattrs {
            match rustix::fs::fsetxattr(&fd, name.as_c_str(), value, XattrFlags::empty()) {
                Ok(()) | Err(Errno::OPNOTSUPP) => {}
                Err(other) => return Err(other.into()),
            }
        }
        Ok(())
    }

    fn apply_at(&self, parent: &OwnedFd, name: &OsStr, has_mode: bool) -> io::Result<()> {
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(parent, name, Some(self.uid), Some(self.gid), nofollow)?;
        if has_mode {
            // Not a symbolic link: it was made a moment ago, and nobody else works here.
            rustix::fs::chmodat(parent, name, self.mode, AtFlags::empty())?;
        }
        Ok(rustix::fs::utimensat(parent, name, &self.times, nofollow)?)
    }
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

fn major<R: Read>(entry: &tar::Entry<'_, R>) -> io::Result<u32> {
    entry.header().device_major()?.ok_or_else(|| invalid("device without a number"))
}

fn minor<R: Read>(entry: &tar::Entry<'_, R>) -> io::Result<u32> {
    entry.header().device_minor()?.ok_or_else(|| invalid("device without a number"))
}

/// Seconds with a fraction, as PAX writes times.
fn parse_time(text: &str) -> Option<Timespec> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let nanos = format!("{fraction:0<9}");
    Some(Timespec { tv_sec: seconds.parse().ok()?, tv_nsec: nanos.get(..9)?.parse().ok()? })
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

    fn tar(build: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        build(&mut builder);
        builder.into_inner().unwrap()
    }

    /// Adds an entry whose name is written as it is, however bad.
    fn add(b: &mut tar::Builder<Vec<u8>>, kind: EntryType, name: &str, link: &str, mode: u32, data: &[u8]) {
        let mut header = tar::Header::new_gnu();
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_link_name_literal(link).unwrap();
        header.set_mode(mode);
        header.set_size(data.len() as u64);
        header.set_mtime(1_000_000_000);
        header.set_uid(7);
        header.set_gid(8);
        header.set_cksum();
        b.append(&header, data).unwrap();
    }

    #[test]
    fn a_layer_keeps_modes_owners_times_links_and_attributes() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = tar(|b| {
            add(b, EntryType::Directory, "bin/", "", 0o1777, b"");
            add(b, EntryType::Regular, "bin/su", "", 0o4755, b"hello");
            add(b, EntryType::Link, "bin/su2", "bin/su", 0, b"");
            add(b, EntryType::Symlink, "sbin", "bin", 0o777, b"");
            add(b, EntryType::Regular, "sbin/through", "", 0o644, b"x");
            add(b, EntryType::Fifo, "pipe", "", 0o600, b"");
            b.append_pax_extensions([
                ("SCHILY.xattr.user.colour", &b"blue"[..]),
                ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
                ("mtime", b"5.25"),
            ])
            .unwrap();
            add(b, EntryType::Regular, "marked", "", 0o644, b"");
        });
        assert_eq!(unpack(&bytes[..], dir.path()).unwrap(), 6);
        let su = std::fs::metadata(dir.path().join("bin/su")).unwrap();
        assert_eq!((su.permissions().mode() & 0o7777, su.uid(), su.gid()), (0o4755, 7, 8));
        assert_eq!((su.mtime(), su.nlink()), (1_000_000_000, 2));
        let bin = std::fs::metadata(dir.path().join("bin")).unwrap();
        assert_eq!((bin.permissions().mode() & 0o7777, bin.mtime()), (0o1777, 1_000_000_000));
        assert!(dir.path().join("bin/through").exists());
        assert!(std::fs::metadata(dir.path().join("pipe")).unwrap().file_type().is_fifo());
        let marked = dir.path().join("marked");
        assert_eq!(std::fs::metadata(&marked).unwrap().mtime_nsec(), 250_000_000);
        assert!(rustix::fs::getxattr(&marked, "trusted.overlay.redirect", &mut [0; 9]).is_err());
        assert_eq!(rustix::fs::getxattr_query(&marked, "user.colour").ok(), Some(4));
    }

    #[test]
    fn whiteouts_take_overlay_form() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = tar(|b| {
            add(b, EntryType::Regular, "etc/.wh.gone", "", 0, b"");
            add(b, EntryType::Regular, "var/.wh..wh..opq", "", 0, b"");
            add(b, EntryType::Regular, "var/kept", "", 0o644, b"1");
            add(b, EntryType::Regular, ".wh..wh.plnk", "", 0, b"");
        });
        unpack(&bytes[..], dir.path()).unwrap();
        let gone = std::fs::metadata(dir.path().join("etc/gone")).unwrap();
        assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
        let mut value = [0; 8];
        assert_eq!(rustix::fs::getxattr(dir.path().join("var"), OPAQUE_XATTR, &mut value).unwrap(), 1);
        assert!(dir.path().join("var/kept").exists());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn nothing_reaches_outside_the_layer() {
        let outside = tempfile::tempdir().unwrap();
        let root = outside.path().join("root");
        std::fs::create_dir(&root).unwrap();
        for bad in ["../evil", "a/../../evil"] {
            let bytes = tar(|b| add(b, EntryType::Regular, bad, "", 0o644, b"x"));
            assert!(unpack(&bytes[..], &root).is_err(), "{bad}");
        }
        let target = outside.path().to_str().unwrap();
        let bytes = tar(|b| {
            add(b, EntryType::Symlink, "abs", target, 0o777, b"");
            add(b, EntryType::Regular, "abs/evil", "", 0o644, b"x");
            add(b, EntryType::Symlink, "up", "../../..", 0o777, b"");
            add(b, EntryType::Regular, "up/evil2", "", 0o644, b"x");
        });
        unpack(&bytes[..], &root).unwrap();
        assert!(root.join("evil2").exists());
        assert!(root.join(target.trim_start_matches('/')).join("evil").exists());
        let bytes = tar(|b| add(b, EntryType::Link, "hard", "../../etc/passwd", 0, b""));
        assert!(unpack(&bytes[..], &root).is_err());
        let names: Vec<_> =
            std::fs::read_dir(outside.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["root"]);
    }

    #[test]
    fn a_later_entry_replaces_an_earlier_one() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = tar(|b| {
            add(b, EntryType::Regular, "a/b", "", 0o644, b"1");
            add(b, EntryType::Symlink, "a", "/elsewhere", 0o777, b"");
            add(b, EntryType::Regular, "c", "", 0o644, b"1");
            add(b, EntryType::Directory, "c", "", 0o755, b"");
        });
        unpack(&bytes[..], dir.path()).unwrap();
        assert!(dir.path().join("a").is_symlink());
        assert!(dir.path().join("c").is_dir());
    }

    #[test]
    fn a_truncated_stream_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = tar(|b| add(b, EntryType::Regular, "a", "", 0o644, &[1; 2000]));
        assert!(unpack(&bytes[..1000], dir.path()).is_err());
    }
}
