//! fsGroup: the volume belongs to the group, and what is made in it too (security-context task page). Everything is
//! changed by descriptors that were opened without following links: a container that swaps a file for a link while
//! this runs changes nothing outside of its volume.

use knarr_api::core::v1::Pod;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags};
use rustix::io::Errno;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Gives a volume to the pod's fsGroup, if it has one.
pub(super) fn apply(pod: &Pod, path: &Path, read_only: bool) -> Result<(), String> {
    let Some(group) = group(pod)? else { return Ok(()) };
    let context = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let policy = context.and_then(|c| c.fs_group_change_policy.as_deref());
    if policy == Some("OnRootMismatch") && matches(path, group, read_only) {
        return Ok(());
    }
    give(path, group, read_only)
}

/// Gives everything at and below a path to a group, whatever it was.
pub(super) fn give(path: &Path, group: u32, read_only: bool) -> Result<(), String> {
    let failed = |e: Errno| format!("applyFSGroup failed for {}: {e}", path.display());
    // The path itself is an administrator's and may be a link.
    let root = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    walk(&root.map_err(failed)?, group, read_only).map_err(failed)
}

/// The pod's fsGroup.
pub(super) fn group(pod: &Pod) -> Result<Option<u32>, String> {
    let context = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let Some(group) = context.and_then(|c| c.fs_group) else { return Ok(None) };
    u32::try_from(group).map(Some).map_err(|_| format!("fsGroup {group} is not a group id"))
}

fn bits(is_dir: bool, read_only: bool) -> u32 {
    match (is_dir, read_only) {
        (true, true) => 0o2550,
        (true, false) => 0o2770,
        (false, true) => 0o440,
        (false, false) => 0o660,
    }
}

/// Whether the volume's root is already as it is to be.
fn matches(path: &Path, group: u32, read_only: bool) -> bool {
    let wanted = bits(true, read_only);
    fs::metadata(path).is_ok_and(|m| m.gid() == group && m.mode() & wanted == wanted)
}

fn walk(file: &OwnedFd, group: u32, read_only: bool) -> Result<(), Errno> {
    let stat = rustix::fs::fstat(file)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if stat.st_gid != group {
        rustix::fs::chownat(file, "", None, Some(Gid::from_raw(group)), AtFlags::EMPTY_PATH)?;
    }
    if kind == FileType::Symlink {
        return Ok(());
    }
    let is_dir = kind == FileType::Directory;
    let (mode, wanted) = (stat.st_mode & 0o7777, bits(is_dir, read_only));
    // Changing the group may have cleared bits, so the mode is set again then.
    if mode | wanted != mode || stat.st_gid != group {
        rustix::fs::chmod(format!("/proc/self/fd/{}", file.as_raw_fd()), Mode::from_raw_mode(mode | wanted))?;
    }
    if is_dir { children(file.as_fd(), group, read_only) } else { Ok(()) }
}

fn children(dir: BorrowedFd<'_>, group: u32, read_only: bool) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = rustix::fs::openat(dir, ".", flags, Mode::empty())?;
    for entry in rustix::fs::Dir::read_from(&open)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(dir, name, flags, Mode::empty()) {
            Ok(child) => walk(&child, group, read_only)?,
            // Whoever uses the volume took it away.
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::phase::tests::pod;
    use serde_json::json;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn everything_in_the_volume_belongs_to_the_group() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::NamedTempFile::new().unwrap();
        fs::set_permissions(outside.path(), fs::Permissions::from_mode(0o600)).unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        fs::write(dir.path().join("d/f"), "").unwrap();
        symlink(outside.path(), dir.path().join("d/link")).unwrap();
        fs::set_permissions(dir.path().join("d/f"), fs::Permissions::from_mode(0o600)).unwrap();
        let pod = |policy: &str| {
            let context = json!({"fsGroup": 1234, "fsGroupChangePolicy": policy});
            pod(json!({"securityContext": context, "containers": []}))
        };
        let link = tempfile::tempdir().unwrap();
        let link = link.path().join("link");
        symlink(dir.path(), &link).unwrap();
        apply(&pod("Always"), &link, false).unwrap();
        let meta = |p: &str| fs::metadata(dir.path().join(p)).unwrap();
        assert_eq!((meta("d/f").gid(), meta("d/f").mode() & 0o7777), (1234, 0o660));
        assert_eq!((meta("d").gid(), meta("d").mode() & 0o2070), (1234, 0o2070));
        let link = fs::symlink_metadata(dir.path().join("d/link")).unwrap();
        assert_eq!(link.gid(), 1234);
        let target = fs::metadata(outside.path()).unwrap();
        assert!(
            target.gid() != 1234 && target.mode() & 0o777 == 0o600,
            "what a link points to is not touched"
        );
        // The root tells of the rest, where the policy says so.
        fs::set_permissions(dir.path().join("d/f"), fs::Permissions::from_mode(0o600)).unwrap();
        apply(&pod("OnRootMismatch"), dir.path(), false).unwrap();
        assert_eq!(meta("d/f").mode() & 0o777, 0o600);
        apply(&pod("Always"), dir.path(), false).unwrap();
        assert_eq!(meta("d/f").mode() & 0o777, 0o660);
    }
}
