//! The mounts of a container: the kernel's own file systems, the pod's shared memory, what the pod asks for,
//! and what is masked or made read-only. Everything is made as a detached mount first (fsopen(2),
//! open_tree(2)) and then attached to a target that was resolved inside the root.

use super::target::{self, Shape};
use super::{Context, Failure, Launch, cgroupfs};
use crate::spec::{Mount, MountKind, Propagation};
use crate::sys::{self, MountAttr};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, FileType, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};
use std::path::{Path, PathBuf};

/// What file systems of the kernel are mounted with.
pub const NO_SUID_EXEC_DEV: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC)
    .union(MountAttrFlags::MOUNT_ATTR_NODEV);

/// Hidden from containers: runc's and containerd's list.
pub const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Read-only in containers.
pub const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// A new instance of a file system, mounted nowhere yet.
pub fn new_filesystem(
    kind: &str,
    options: &[&str],
    attributes: MountAttrFlags,
) -> rustix::io::Result<OwnedFd> {
    new_filesystem_of(kind, kind, options, attributes)
}

/// A file system on `source`, mounted nowhere yet.
pub fn new_filesystem_of(
    kind: &str,
    source: &str,
    options: &[&str],
    attributes: MountAttrFlags,
) -> rustix::io::Result<OwnedFd> {
    let config = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    // What mount tables show in the first place.
    fsconfig_set_string(config.as_fd(), "source", source)?;
    for option in options {
        match option.split_once('=') {
            Some((key, value)) => fsconfig_set_string(config.as_fd(), key, value)?,
            None => fsconfig_set_flag(config.as_fd(), *option)?,
        }
    }
    fsconfig_create(config.as_fd())?;
    fsmount(config.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// A copy of the mount at `path` (and of those below it), attached nowhere yet.
pub fn clone_tree(dir: BorrowedFd<'_>, path: &Path, recursive: bool) -> rustix::io::Result<OwnedFd> {
    let mut flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(dir, path, flags)
}

/// Puts a detached mount where `target` is.
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", target, "", flags)
}

/// A bind source, taken while the host's mounts are in sight.
pub struct Taken<'a> {
    mount: &'a Mount,
    tree: OwnedFd,
    shape: Shape,
}

/// Takes the sources of the bind mounts. Runs in the host's mount namespace, so that propagation from and to
/// the host stays possible. `users`: files are shown as this user namespace has them.
pub fn take_sources<'a>(
    mounts: &'a [Mount],
    users: Option<BorrowedFd<'_>>,
) -> Result<Vec<Option<Taken<'a>>>, Failure> {
    mounts
        .iter()
        .map(|mount| if mount.kind == MountKind::Bind { take(mount, users).map(Some) } else { Ok(None) })
        .collect()
}

fn take<'a>(mount: &'a Mount, users: Option<BorrowedFd<'_>>) -> Result<Taken<'a>, Failure> {
    let what = || format!("error mounting {:?} to rootfs at {:?}", mount.source, mount.target);
    let stat =
        rustix::fs::stat(&mount.source).context(|| format!("{}: stat {}", what(), mount.source.display()))?;
    let shape = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Shape::Directory,
        _ => Shape::File,
    };
    if mount.propagation != Propagation::None {
        check_propagation(&mount.source, mount.propagation)?;
    }
    let tree = clone_tree(CWD, &mount.source, true).context(what)?;
    let propagation = match mount.propagation {
        Propagation::None => libc::MS_PRIVATE,
        Propagation::HostToContainer => libc::MS_SLAVE,
        Propagation::Bidirectional => libc::MS_SHARED,
    };
    sys::mount_setattr(tree.as_fd(), true, MountAttr { propagation, ..MountAttr::default() })
        .context(what)?;
    if let Some(users) = users {
        super::users::map_path(tree.as_fd(), users, &mount.source)?;
    }
    if mount.read_only || mount.recursive_read_only {
        let attr = MountAttr { set: MountAttrFlags::MOUNT_ATTR_RDONLY.bits().into(), ..MountAttr::default() };
        sys::mount_setattr(tree.as_fd(), mount.recursive_read_only, attr).context(what)?;
    }
    Ok(Taken { mount, tree, shape })
}

/// Propagation only works where the host's mount takes part in it; containerd's error texts.
fn check_propagation(source: &Path, wanted: Propagation) -> Result<(), Failure> {
    let source = std::fs::canonicalize(source).context(|| format!("stat {}", source.display()))?;
    let table = std::fs::read_to_string("/proc/self/mountinfo").context(|| "read mount table")?;
    let (point, optional) = mount_of(&table, &source);
    let shared = optional.contains("shared:");
    let slave = optional.contains("master:");
    let (source, point) = (source.display(), point.display());
    match wanted {
        Propagation::Bidirectional if !shared => Err(Failure::new(format!(
            "path {:?} is mounted on {:?} but it is not a shared mount",
            source.to_string(),
            point.to_string()
        ))),
        Propagation::HostToContainer if !shared && !slave => Err(Failure::new(format!(
            "path {:?} is mounted on {:?} but it is not a shared or slave mount",
            source.to_string(),
            point.to_string()
        ))),
        _ => Ok(()),
    }
}

/// The mount point that `path` is under, and the optional fields of its line in a mountinfo file.
fn mount_of(table: &str, path: &Path) -> (PathBuf, String) {
    let mut best = (PathBuf::from("/"), String::new());
    for line in table.lines() {
        let Some((front, _)) = line.split_once(" - ") else { continue };
        let fields: Vec<&str> = front.split(' ').collect();
        let Some(point) = fields.get(4).map(Path::new) else { continue };
        // A later line at the same point lies on top.
        if path.starts_with(point) && point.as_os_str().len() >= best.0.as_os_str().len() {
            best = (point.to_owned(), fields.get(6..).unwrap_or_default().join(" "));
        }
    }
    best
}

/// The file systems that every container has.
pub fn mount_defaults(
    root: BorrowedFd<'_>,
    launch: &Launch<'_>,
    shm: Option<OwnedFd>,
) -> Result<(), Failure> {
    let nosuid_noexec = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let read_only =
        if launch.spec.privileged { MountAttrFlags::empty() } else { MountAttrFlags::MOUNT_ATTR_RDONLY };
    let dev = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_STRICTATIME;
    fresh(root, "/proc", "proc", &[], NO_SUID_EXEC_DEV)?;
    fresh(root, "/dev", "tmpfs", &["mode=755", "size=65536k"], dev)?;
    fresh(root, "/dev/pts", "devpts", &["ptmxmode=0666", "mode=0620", "gid=5"], nosuid_noexec)?;
    fresh(root, "/dev/mqueue", "mqueue", &[], NO_SUID_EXEC_DEV)?;
    let shm = match shm {
        Some(host) => Ok(host),
        None => clone_tree(CWD, Path::new("/shm"), false),
    };
    let shm = shm.context(|| "the pod's shared memory")?;
    put(root, "/dev/shm".as_ref(), Shape::Directory, shm.as_fd())?;
    fresh(root, "/sys", "sysfs", &[], NO_SUID_EXEC_DEV | read_only)?;
    Ok(())
}

fn fresh(
    root: BorrowedFd<'_>,
    path: &str,
    kind: &str,
    options: &[&str],
    attributes: MountAttrFlags,
) -> Result<(), Failure> {
    let mount = new_filesystem(kind, options, attributes)
        .context(|| format!("error mounting {kind:?} to rootfs at {path:?}"))?;
    put(root, path.as_ref(), Shape::Directory, mount.as_fd())
}

/// Attaches a detached mount at `path` inside `root`, making the target if need be.
pub fn put(root: BorrowedFd<'_>, path: &Path, shape: Shape, mount: BorrowedFd<'_>) -> Result<(), Failure> {
    let target = target::ensure(root, path, shape)?;
    attach(mount, target.as_fd()).context(|| format!("error mounting to rootfs at {path:?}"))
}

/// What the pod asks for, in its order.
pub fn mount_asked(
    root: BorrowedFd<'_>,
    mounts: &[Mount],
    taken: Vec<Option<Taken<'_>>>,
) -> Result<(), Failure> {
    for (mount, taken) in mounts.iter().zip(taken) {
        match taken {
            Some(taken) => put(root, &taken.mount.target, taken.shape, taken.tree.as_fd())?,
            None => {
                let mut attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
                if mount.read_only {
                    attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
                }
                let options: Vec<&str> = mount.options.iter().map(String::as_str).collect();
                let tmpfs = new_filesystem("tmpfs", &options, attributes)
                    .context(|| format!("error mounting \"tmpfs\" to rootfs at {:?}", mount.target))?;
                put(root, &mount.target, Shape::Directory, tmpfs.as_fd())?;
            }
        }
    }
    Ok(())
}

/// Hides [`MASKED`] and write-protects [`READ_ONLY`], as far as they exist.
pub fn protect(root: BorrowedFd<'_>) -> Result<(), Failure> {
    protect_paths(root, READ_ONLY, MASKED)
}

/// Hides `masked` and write-protects `read_only`, as far as they exist.
pub fn protect_paths(
    root: BorrowedFd<'_>,
    read_only: impl IntoIterator<Item = impl AsRef<Path>>,
    masked: impl IntoIterator<Item = impl AsRef<Path>>,
) -> Result<(), Failure> {
    for path in read_only {
        let path = path.as_ref();
        let Ok(target) = target::lookup(root, path, OFlags::PATH) else { continue };
        let what = || format!("can't make {path:?} read-only");
        let tree = clone_tree(target.as_fd(), "".as_ref(), true).context(what)?;
        let attr = MountAttr { set: MountAttrFlags::MOUNT_ATTR_RDONLY.bits().into(), ..MountAttr::default() };
        sys::mount_setattr(tree.as_fd(), true, attr).context(what)?;
        attach(tree.as_fd(), target.as_fd()).context(what)?;
    }
    for path in masked {
        let path = path.as_ref();
        let Ok(target) = target::lookup(root, path, OFlags::PATH) else { continue };
        let what = || format!("can't mask path {path:?}");
        let stat = rustix::fs::fstat(&target).context(what)?;
        let cover = if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            new_filesystem("tmpfs", &["size=0"], NO_SUID_EXEC_DEV | MountAttrFlags::MOUNT_ATTR_RDONLY)
        } else {
            clone_tree(root, "dev/null".as_ref(), false)
        };
        attach(cover.context(what)?.as_fd(), target.as_fd()).context(what)?;
    }
    Ok(())
}

/// Everything below the root, in order.
pub fn mount_all(
    root: BorrowedFd<'_>,
    launch: &Launch<'_>,
    taken: super::rootfs::Taken<'_>,
) -> Result<(), Failure> {
    mount_defaults(root, launch, taken.shm)?;
    cgroupfs::mount(root, launch, taken.views)?;
    super::devices::make(root, launch.nodes, taken.nodes)?;
    mount_asked(root, &launch.spec.mounts, taken.sources)?;
    if !launch.spec.privileged && !launch.spec.unmasked_proc {
        protect(root)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_of_a_path_is_the_longest_and_last_that_covers_it() {
        let table = "1 0 8:1 / / rw shared:1 - ext4 /dev/a rw\n\
                     2 1 8:2 / /data rw - ext4 /dev/b rw\n\
                     3 1 8:2 / /data rw master:7 - ext4 /dev/c rw\n";
        assert_eq!(mount_of(table, Path::new("/data/x")), (PathBuf::from("/data"), "master:7".to_owned()));
        assert_eq!(mount_of(table, Path::new("/database")), (PathBuf::from("/"), "shared:1".to_owned()));
    }
}
