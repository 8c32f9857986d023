//! The container's view of its cgroup under `/sys/fs/cgroup`, read-only unless privileged. On v1 one mount a
//! hierarchy and no `unified` one, which programs would take for v2.

use super::mounts::{clone_tree, new_filesystem, put};
use super::target::{self, Shape};
use super::{Context, Failure, Launch};
use crate::cgroup::Cgroup;
use crate::sys::{self, MountAttr};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, OFlags};
use rustix::mount::MountAttrFlags;
use std::path::Path;

const BASE: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC)
    .union(MountAttrFlags::MOUNT_ATTR_NODEV);

fn attributes(privileged: bool) -> MountAttrFlags {
    if privileged { BASE } else { BASE | MountAttrFlags::MOUNT_ATTR_RDONLY }
}

/// Takes the v1 directories while the host's mounts are in sight.
pub fn take_views(launch: &Launch<'_>) -> Result<Vec<(String, OwnedFd)>, Failure> {
    if launch.cgroup.is_v2() { Ok(Vec::new()) } else { clone_views(launch.cgroup) }
}

/// The v1 directories of `cgroup` as detached mounts.
pub fn clone_views(cgroup: &Cgroup) -> Result<Vec<(String, OwnedFd)>, Failure> {
    let views = cgroup.v1_views().into_iter().map(|(name, dir)| {
        let what = || format!("error mounting cgroup {name:?}");
        let tree = clone_tree(CWD, &dir, false).context(what)?;
        let attr = MountAttr { propagation: libc::MS_PRIVATE, ..MountAttr::default() };
        sys::mount_setattr(tree.as_fd(), false, attr).context(what)?;
        Ok((name.clone(), tree))
    });
    views.collect()
}

/// Mounts the view.
pub fn mount(
    root: BorrowedFd<'_>,
    launch: &Launch<'_>,
    views: Vec<(String, OwnedFd)>,
) -> Result<(), Failure> {
    mount_at(root, Path::new("/sys/fs/cgroup"), launch.cgroup, !launch.spec.privileged, views)
}

/// Mounts the view of `cgroup` at `place`.
pub fn mount_at(
    root: BorrowedFd<'_>,
    place: &Path,
    cgroup: &Cgroup,
    read_only: bool,
    views: Vec<(String, OwnedFd)>,
) -> Result<(), Failure> {
    let what = || format!("error mounting \"cgroup\" to rootfs at {place:?}");
    if cgroup.is_v2() {
        let mount = new_filesystem("cgroup2", &[], attributes(!read_only)).context(what)?;
        return put(root, place, Shape::Directory, mount.as_fd());
    }
    let tmpfs = new_filesystem("tmpfs", &["mode=755"], BASE).context(what)?;
    put(root, place, Shape::Directory, tmpfs.as_fd())?;
    let dir = target::lookup(root, place, OFlags::PATH | OFlags::DIRECTORY).context(what)?;
    for (name, tree) in views {
        let attr = MountAttr { set: attributes(!read_only).bits().into(), ..MountAttr::default() };
        sys::mount_setattr(tree.as_fd(), false, attr).context(what)?;
        put(root, &place.join(&name), Shape::Directory, tree.as_fd())?;
        // Controllers mounted together are found under each of their names.
        for one in name.split(',').filter(|one| *one != name) {
            let _ = rustix::fs::symlinkat(name.as_str(), dir.as_fd(), one);
        }
    }
    let attr = MountAttr { set: attributes(!read_only).bits().into(), ..MountAttr::default() };
    sys::mount_setattr(tmpfs.as_fd(), false, attr).context(what)
}
