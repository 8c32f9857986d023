//! How much of a disk directories use.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Bytes and inodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Used {
    pub(super) bytes: u64,
    pub(super) inodes: u64,
}

impl std::ops::AddAssign for Used {
    fn add_assign(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.inodes += other.inodes;
    }
}

/// What is on the directory's own file system below it; 0 where nothing can be read. Files with several names below
/// it count once. What disappears meanwhile does not count.
pub(super) fn used(dir: &Path) -> Used {
    let Ok(top) = fs::symlink_metadata(dir) else { return Used::default() };
    let mut used = Used { bytes: top.blocks() * 512, inodes: 1 };
    let mut linked = std::collections::HashSet::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.dev() != top.dev() || (meta.nlink() > 1 && !meta.is_dir() && !linked.insert(meta.ino())) {
                continue;
            }
            used += Used { bytes: meta.blocks() * 512, inodes: 1 };
            if meta.is_dir() {
                open.push(entry.path());
            }
        }
    }
    used
}

/// A whole file system.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FileSystem {
    pub(super) capacity_bytes: u64,
    pub(super) available_bytes: u64,
    pub(super) used_bytes: u64,
    pub(super) inodes: u64,
    pub(super) inodes_free: u64,
}

/// The file system that `path` is on.
pub(super) fn file_system(path: &Path) -> Option<FileSystem> {
    let s = rustix::fs::statvfs(path).ok()?;
    Some(FileSystem {
        capacity_bytes: s.f_blocks * s.f_frsize,
        available_bytes: s.f_bavail * s.f_frsize,
        used_bytes: (s.f_blocks - s.f_bfree) * s.f_frsize,
        inodes: s.f_files,
        inodes_free: s.f_ffree,
    })
}

/// Whether something is mounted at `path`.
pub(super) fn is_mount(path: &Path) -> bool {
    let device = |p: &Path| fs::metadata(p).map(|m| m.dev()).ok();
    path.parent().is_some_and(|parent| device(parent) != device(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_two_names_counts_once() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(used(dir.path()).inodes, 1);
        fs::create_dir(dir.path().join("a")).unwrap();
        fs::write(dir.path().join("a/f"), vec![1; 100_000]).unwrap();
        fs::hard_link(dir.path().join("a/f"), dir.path().join("g")).unwrap();
        let found = used(dir.path());
        assert_eq!(found.inodes, 3);
        assert!((100_000..300_000).contains(&found.bytes), "{found:?}");
        assert_eq!(used(&dir.path().join("none")), Used::default());
    }
}
