//! subPath: a part of a volume. What is mounted is what was found when it was looked up inside the volume:
//! the file is opened by a walk that cannot leave the volume, and bound by its descriptor, so that a
//! container that swaps in a symbolic link afterwards gains nothing.

use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::mount_bind_recursive;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// Binds `sub` of the volume below `target_dir`; the path to mount into the container.
pub(crate) fn bind(volume: &Path, sub: &str, target: &Path) -> Result<PathBuf, String> {
    let relative = Path::new(sub);
    if relative.is_absolute() || relative.components().any(|c| c == Component::ParentDir) {
        return Err(format!("the path {sub:?} must be relative and must not contain '..'"));
    }
    let fail = |what: &str, e: &dyn std::fmt::Display| {
        format!("failed to {what} subPath {sub:?} of {}: {e}", volume.display())
    };
    let root = rustix::fs::open(volume, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| fail("open", &e))?;
    let found = match open(&root, relative) {
        Err(Errno::NOENT) => {
            make(&root, relative).map_err(|e| fail("create", &e))?;
            open(&root, relative)
        }
        other => other,
    }
    .map_err(|e| fail("open", &e))?;
    let stat = rustix::fs::fstat(&found).map_err(|e| fail("read", &e))?;
    let is_dir = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory;
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).map_err(|e| fail("bind", &e))?;
    }
    crate::volume::unmount_below(target);
    let made = if is_dir { fs::create_dir_all(target) } else { fs::File::create(target).map(drop) };
    made.map_err(|e| fail("bind", &e))?;
    let source = format!("/proc/self/fd/{}", found.as_raw_fd());
    mount_bind_recursive(source.as_str(), target).map_err(|e| fail("bind", &e))?;
    Ok(target.to_owned())
}

fn open(root: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    let flags = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), flags)
}

/// Makes the missing directories, one by one below what is there, for whoever may use the volume's root.
fn make(root: &OwnedFd, path: &Path) -> Result<(), Errno> {
    let wanted = rustix::fs::fstat(root)?.st_mode & 0o777;
    let mut here = PathBuf::new();
    let mut parent: Option<OwnedFd> = None;
    for part in path.components() {
        let Component::Normal(name) = part else { continue };
        here.push(name);
        match open(root, &here) {
            Ok(fd) => parent = Some(fd),
            Err(Errno::NOENT) => {
                let base = parent.as_ref().unwrap_or(root);
                match rustix::fs::mkdirat(base, name, Mode::from_raw_mode(0o700)) {
                    Err(Errno::EXIST) => {}
                    made => made?,
                }
                let made = open(root, &here)?;
                // Whatever the umask is; and a directory of a group's volume stays the group's. One that somebody
                // put in its place meanwhile is left as it is.
                let stat = rustix::fs::fstat(&made)?;
                if stat.st_uid == 0 && stat.st_mode & 0o777 == 0o700 {
                    let mode = Mode::from_raw_mode(wanted | stat.st_mode & 0o2000);
                    rustix::fs::chmod(format!("/proc/self/fd/{}", made.as_raw_fd()), mode)?;
                }
                parent = Some(made);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_directories_are_made_for_whoever_may_use_the_volume() {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        let dir = tempfile::tempdir().unwrap();
        for mode in [0o777, 0o750, 0o2775] {
            let volume = dir.path().join(mode.to_string());
            fs::create_dir(&volume).unwrap();
            fs::set_permissions(&volume, fs::Permissions::from_mode(mode)).unwrap();
            let root = rustix::fs::open(&volume, OFlags::PATH, Mode::empty()).unwrap();
            make(&root, Path::new("a/b")).unwrap();
            assert_eq!(fs::metadata(volume.join("a/b")).unwrap().mode() & 0o7777, mode, "{mode:o}");
        }
    }

    #[test]
    fn a_sub_path_cannot_lead_out_of_its_volume() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("v");
        fs::create_dir(&volume).unwrap();
        std::os::unix::fs::symlink("/etc", volume.join("out")).unwrap();
        std::os::unix::fs::symlink("../..", volume.join("up")).unwrap();
        for bad in ["../x", "/etc", "out", "out/passwd", "up/x"] {
            assert!(bind(&volume, bad, &dir.path().join("t")).is_err(), "{bad}");
        }
    }
}
