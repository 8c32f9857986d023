//! Paths inside a container's root that is not trusted: every step is resolved by the kernel with
//! `RESOLVE_IN_ROOT` (openat2(2)), so no symbolic link of the image leads out of it.

use super::{Context, Failure};
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::path::{Component, Path, PathBuf};

/// What a mount target is made as when it is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A directory.
    Directory,
    /// An empty file.
    File,
}

/// As many symbolic links as the kernel follows.
const MAX_LINKS: u32 = 40;

/// `path` in `root`, as it is.
pub fn lookup(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // The kernel asks for another try when something was renamed meanwhile.
            Err(Errno::AGAIN) => {}
            other => return other,
        }
    }
}

/// `path` in `root`, made if it is missing; directories get mode 0755.
pub fn ensure(root: BorrowedFd<'_>, path: &Path, shape: Shape) -> Result<OwnedFd, Failure> {
    match lookup(root, path, OFlags::PATH) {
        Err(Errno::NOENT) => {}
        other => return other.context(|| format!("open {}", path.display())),
    }
    let mut links = 0;
    let mut done = PathBuf::from("/");
    let mut todo: Vec<PathBuf> = parts(path);
    while let Some(part) = todo.pop() {
        if part == Path::new("..") {
            done.pop();
            continue;
        }
        let next = done.join(&part);
        let what = || format!("mkdir {}", next.display());
        match lookup(root, &next, OFlags::PATH) {
            Ok(_) => {
                done = next;
                continue;
            }
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error).context(what),
        }
        let parent = lookup(root, &done, OFlags::PATH | OFlags::DIRECTORY).context(what)?;
        if let Ok(link) = rustix::fs::readlinkat(&parent, &part, Vec::new()) {
            // A link to something that is missing: that is made, inside the root.
            links += 1;
            if links > MAX_LINKS {
                return Err(Errno::LOOP).context(what);
            }
            let link = PathBuf::from(std::ffi::OsString::from(link.to_string_lossy().into_owned()));
            if link.is_absolute() {
                done = PathBuf::from("/");
            }
            todo.extend(parts(&link));
            continue;
        }
        if todo.is_empty() && shape == Shape::File {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::WRONLY;
            rustix::fs::openat(&parent, &part, flags, Mode::from_raw_mode(0o644)).context(what)?;
        } else {
            rustix::fs::mkdirat(&parent, &part, Mode::from_raw_mode(0o755)).context(what)?;
        }
        done = next;
    }
    lookup(root, &done, OFlags::PATH).context(|| format!("open {}", path.display()))
}

/// The components of a path, the last first.
fn parts(path: &Path) -> Vec<PathBuf> {
    path.components()
        .rev()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(PathBuf::from(name)),
            Component::ParentDir => Some(PathBuf::from("..")),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fd::AsFd;

    fn root() -> (tempfile::TempDir, OwnedFd) {
        let dir = tempfile::tempdir().unwrap();
        let fd = rustix::fs::open(dir.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        (dir, fd)
    }

    #[test]
    fn missing_targets_are_made_inside_the_root_even_through_links_that_point_out() {
        let (dir, root) = root();
        let at = |path: &str| dir.path().join(path);
        std::os::unix::fs::symlink("/run", at("link")).unwrap();
        std::os::unix::fs::symlink("../../../../tmp/knarr-must-not-exist", at("up")).unwrap();
        std::fs::create_dir(at("run")).unwrap();
        ensure(root.as_fd(), Path::new("/link/deep/file"), Shape::File).unwrap();
        assert!(at("run/deep/file").is_file());
        ensure(root.as_fd(), Path::new("up/x"), Shape::Directory).unwrap();
        assert!(at("tmp/knarr-must-not-exist/x").is_dir());
        assert!(!Path::new("/tmp/knarr-must-not-exist").exists());
    }

    #[test]
    fn a_dangling_absolute_link_is_filled_in_and_a_loop_is_refused() {
        let (dir, root) = root();
        std::os::unix::fs::symlink("/nowhere/yet", dir.path().join("link")).unwrap();
        std::os::unix::fs::symlink("loop", dir.path().join("loop")).unwrap();
        ensure(root.as_fd(), Path::new("/link"), Shape::Directory).unwrap();
        assert!(dir.path().join("nowhere/yet").is_dir());
        assert!(ensure(root.as_fd(), Path::new("/loop/x"), Shape::Directory).is_err());
    }
}
