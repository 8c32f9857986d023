//! What an entry says about its file besides the content: owner, mode, times, extended attributes, and the map of a
//! sparse file (PAX, POSIX.1-2001; GNU tar's "Storing Sparse Files").

use super::invalid;
use super::sparse::Sparse;
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use std::ffi::{CString, OsStr};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;

pub(super) struct Meta {
    uid: Uid,
    gid: Gid,
    mode: Mode,
    pub(super) times: Timestamps,
    xattrs: Vec<(CString, Vec<u8>)>,
    /// Only for files whose PAX header says that they are sparse.
    pub(super) sparse: Option<Sparse>,
}

impl Meta {
    pub(super) fn of<R: Read>(entry: &mut tar::Entry<'_, R>) -> io::Result<Self> {
        let header = entry.header();
        let id = |id: u64| u32::try_from(id).map_err(|_| invalid("owner out of range"));
        // A field left blank is zero to Go's reader, and some writers leave them blank.
        let number = |value: io::Result<u64>, field: &[u8]| match value {
            Err(_) if field.iter().all(|b| matches!(b, 0 | b' ')) => Ok(0),
            other => other,
        };
        let raw = header.as_old();
        let (uid, gid) = (id(number(header.uid(), &raw.uid)?)?, id(number(header.gid(), &raw.gid)?)?);
        let mode = Mode::from_raw_mode(match header.mode() {
            Err(_) if raw.mode.iter().all(|b| matches!(b, 0 | b' ')) => 0,
            other => other? & 0o7777,
        });
        let mtime = number(header.mtime(), &raw.mtime)?;
        let mut mtime = Timespec { tv_sec: mtime as i64, tv_nsec: 0 };
        let mut xattrs = Vec::new();
        let mut sparse = None;
        for extension in entry.pax_extensions()?.into_iter().flatten() {
            let extension = extension?;
            let key = extension.key_bytes();
            if key == b"mtime" {
                mtime = extension.value().ok().and_then(parse_time).unwrap_or(mtime);
            } else if let Some(name) = key.strip_prefix(b"GNU.sparse.") {
                let text = String::from_utf8_lossy(extension.value_bytes());
                sparse.get_or_insert_with(Sparse::default).hear(name, &text)?;
            } else if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                // The overlay's own attributes are ours to set: from a layer they would hide or redirect files.
                if !name.starts_with(b"trusted.overlay.") && !name.starts_with(b"user.overlay.") {
                    let name = CString::new(name).map_err(|_| invalid("attribute name with a zero byte"))?;
                    xattrs.push((name, extension.value_bytes().to_vec()));
                }
            }
        }
        let times = Timestamps { last_access: mtime, last_modification: mtime };
        Ok(Self { uid: Uid::from_raw(uid), gid: Gid::from_raw(gid), mode, times, xattrs, sparse })
    }

    /// Owner first: changing it clears set-user-ID bits and file capabilities.
    pub(super) fn apply_fd(&self, fd: impl AsFd) -> io::Result<()> {
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

    pub(super) fn apply_at(&self, parent: &OwnedFd, name: &OsStr, has_mode: bool) -> io::Result<()> {
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(parent, name, Some(self.uid), Some(self.gid), nofollow)?;
        if has_mode {
            // Not a symbolic link: it was made a moment ago, and nobody else works here.
            rustix::fs::chmodat(parent, name, self.mode, AtFlags::empty())?;
        }
        if !self.xattrs.is_empty() {
            // Through the directory's descriptor: the last component is not followed.
            let path =
                [format!("/proc/self/fd/{}/", parent.as_raw_fd()).as_bytes(), name.as_bytes()].concat();
            for (attribute, value) in &self.xattrs {
                match rustix::fs::lsetxattr(path.as_slice(), attribute.as_c_str(), value, XattrFlags::empty())
                {
                    // Links and devices may not have attributes of users.
                    Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => {}
                    Err(other) => return Err(other.into()),
                }
            }
        }
        Ok(rustix::fs::utimensat(parent, name, &self.times, nofollow)?)
    }
}

/// Seconds with a fraction, as PAX writes times.
fn parse_time(text: &str) -> Option<Timespec> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let nanos = format!("{fraction:0<9}");
    Some(Timespec { tv_sec: seconds.parse().ok()?, tv_nsec: nanos.get(..9)?.parse().ok()? })
}
