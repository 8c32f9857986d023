//! The root file system: an overlay (Documentation/filesystems/overlayfs.rst) in a mount namespace that never
//! held a mount of the host, so a start costs the same however many mounts the host has, and none is kept busy.

use super::mounts::{self, attach, clone_tree, new_filesystem};
use super::users::{self, Users};
use super::{Context, Failure, Launch, cgroupfs, devices};
use crate::spec::RootFs;
use crate::sys::{self, MountAttr};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_string, fsmount, fsopen,
};
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Everything that comes from the host's mounts, as detached mounts.
pub struct Taken<'a> {
    pub overlay: OwnedFd,
    pub sources: Vec<Option<mounts::Taken<'a>>>,
    pub views: Vec<(String, OwnedFd)>,
    pub shm: Option<OwnedFd>,
    pub nodes: Option<Vec<OwnedFd>>,
}

/// Takes what comes from the host while it is in sight and the host's rights are there.
pub fn take<'a>(launch: &Launch<'a>) -> Result<Taken<'a>, Failure> {
    let users = launch.users;
    let sources = mounts::take_sources(&launch.spec.mounts, users.map(|users| users.namespace))?;
    let views = cgroupfs::take_views(launch)?;
    let nodes = if users.is_some() { Some(devices::take(launch.nodes)?) } else { None };
    let shm = if launch.host_ipc {
        Some(clone_tree(CWD, Path::new("/dev/shm"), true).context(|| "the host's shared memory")?)
    } else {
        None
    };
    let overlay = match users {
        Some(users) => mapped_overlay(&launch.spec.rootfs, &users)?,
        None => overlay(&launch.spec.rootfs)?,
    };
    Ok(Taken { overlay, sources, views, shm, nodes })
}

/// Leaves the host's mounts for the container's, all of them in place; the root is returned, not yet `/`.
pub fn enter(launch: &Launch<'_>, taken: Taken<'_>) -> Result<OwnedFd, Failure> {
    sys::setns(launch.pod_mounts, libc::CLONE_NEWNS).context(|| "enter the pod's mount namespace")?;
    sys::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWCGROUP).context(|| "unshare mount namespace")?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let place = rustix::fs::open("/root", flags, Mode::empty()).context(|| "open root mount point")?;
    attach(taken.overlay.as_fd(), place.as_fd()).context(|| "error mounting root file system")?;
    let root = rustix::fs::open("/root", flags, Mode::empty()).context(|| "open root file system")?;
    mounts::mount_all(root.as_fd(), launch, taken)?;
    Ok(root)
}

/// Makes `root` the root directory and forgets what was there before.
pub fn pivot(root: BorrowedFd<'_>) -> Result<(), Failure> {
    let what = || "error jailing process inside rootfs: pivot_root";
    let old = rustix::fs::open("/", OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .context(what)?;
    rustix::process::fchdir(root).context(what)?;
    // With both arguments `.` the old root ends up on top of the new one, see pivot_root(2).
    rustix::process::pivot_root(".", ".").context(what)?;
    rustix::process::fchdir(&old).context(what)?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).context(what)?;
    rustix::process::chdir("/").context(what)
}

/// Makes the root mount read-only.
pub fn make_read_only() -> Result<(), Failure> {
    let what = || "error setting rootfs as readonly";
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .context(what)?;
    let attr = MountAttr { set: MountAttrFlags::MOUNT_ATTR_RDONLY.bits().into(), ..MountAttr::default() };
    sys::mount_setattr(root.as_fd(), false, attr).context(what)
}

/// The overlay as a detached mount.
pub fn overlay(rootfs: &RootFs) -> Result<OwnedFd, Failure> {
    for dir in [&rootfs.upper, &rootfs.work] {
        std::fs::create_dir_all(dir).context(|| format!("mkdir {}", dir.display()))?;
    }
    // Older kernels know no `lowerdir+` (and complain in their log), and the old option holds only 256 bytes in
    // this interface.
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    if crate::seccomp::kernel_version(&release) < (6, 7) {
        return overlay_by_mount(rootfs);
    }
    match overlay_by_options(rootfs) {
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => overlay_by_mount(rootfs),
        other => other.context(|| "error mounting overlay root file system"),
    }
}

fn overlay_by_options(rootfs: &RootFs) -> rustix::io::Result<OwnedFd> {
    let config = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(config.as_fd(), "source", "overlay")?;
    for layer in &rootfs.lower {
        fsconfig_set_string(config.as_fd(), "lowerdir+", layer)?;
    }
    fsconfig_set_string(config.as_fd(), "upperdir", &rootfs.upper)?;
    fsconfig_set_string(config.as_fd(), "workdir", &rootfs.work)?;
    fsconfig_create(config.as_fd())?;
    fsmount(config.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

/// The overlay over layers that show their files as a user namespace has them (overlayfs itself cannot be mounted
/// so), in a mount namespace made for the purpose: layers have to be mounted somewhere, until Linux 6.15. The writable
/// one holds the identities that the host knows: a program that is root's inside and set-user-ID is nobody's here.
fn mapped_overlay(rootfs: &RootFs, users: &Users<'_>) -> Result<OwnedFd, Failure> {
    let what = || "error mounting overlay root file system";
    for dir in [&rootfs.upper, &rootfs.work, &rootfs.target] {
        std::fs::create_dir_all(dir).context(|| format!("mkdir {}", dir.display()))?;
    }
    std::os::unix::fs::chown(&rootfs.upper, Some(users.root.0), Some(users.root.1)).context(what)?;
    sys::unshare(libc::CLONE_NEWNS).context(what)?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).context(what)?;
    let room = new_filesystem("tmpfs", &["mode=700"], MountAttrFlags::empty()).context(what)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let place = rustix::fs::open(&rootfs.target, flags, Mode::empty()).context(what)?;
    // The layers, before anything covers them.
    let mut trees = Vec::new();
    for path in &rootfs.lower {
        let tree = clone_tree(CWD, path, false).context(|| format!("clone {}", path.display()))?;
        users::map_path(tree.as_fd(), users.namespace, path)?;
        trees.push(tree);
    }
    attach(room.as_fd(), place.as_fd()).context(what)?;
    rustix::process::fchdir(&room).context(what)?;
    for (number, tree) in trees.iter().enumerate() {
        let name = number.to_string();
        rustix::fs::mkdir(name.as_str(), Mode::from_raw_mode(0o700)).context(what)?;
        let place = rustix::fs::open(name.as_str(), flags, Mode::empty()).context(what)?;
        attach(tree.as_fd(), place.as_fd()).context(what)?;
    }
    let lower = (0..trees.len()).map(|number| number.to_string().into()).collect();
    let short = RootFs { lower, ..rootfs.clone() };
    rustix::fs::mkdir("m", Mode::from_raw_mode(0o700)).context(what)?;
    let options = CString::new(options(&short)).map_err(|_| Failure::new("layer path contains NUL"))?;
    rustix::mount::mount("overlay", "m", "overlay", MountFlags::empty(), options.as_c_str()).context(what)?;
    let overlay = clone_tree(CWD, Path::new("m"), false).context(what)?;
    rustix::process::chdir("/").context(what)?;
    Ok(overlay)
}

/// By mount(2), in a mount namespace made for the purpose and left right after.
fn overlay_by_mount(rootfs: &RootFs) -> Result<OwnedFd, Failure> {
    let what = || "error mounting overlay root file system";
    std::fs::create_dir_all(&rootfs.target).context(|| format!("mkdir {}", rootfs.target.display()))?;
    sys::unshare(libc::CLONE_NEWNS).context(what)?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).context(what)?;
    let options = CString::new(options(rootfs)).map_err(|_| Failure::new("layer path contains NUL"))?;
    rustix::mount::mount("overlay", &rootfs.target, "overlay", MountFlags::empty(), options.as_c_str())
        .context(what)?;
    clone_tree(CWD, &rootfs.target, false).context(what)
}

fn options(rootfs: &RootFs) -> Vec<u8> {
    let mut text = b"lowerdir=".to_vec();
    for (at, layer) in rootfs.lower.iter().enumerate() {
        if at > 0 {
            text.push(b':');
        }
        escape(layer, &mut text);
    }
    for (key, dir) in [(",upperdir=", &rootfs.upper), (",workdir=", &rootfs.work)] {
        text.extend_from_slice(key.as_bytes());
        escape(dir, &mut text);
    }
    text
}

/// Commas end options and colons separate layers, so both are escaped.
fn escape(path: &Path, text: &mut Vec<u8>) {
    for byte in path.as_os_str().as_bytes() {
        if matches!(byte, b':' | b',' | b'\\') {
            text.push(b'\\');
        }
        text.push(*byte);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlay_options_list_the_layers_topmost_first_and_escape_separators() {
        let rootfs = RootFs {
            lower: vec!["/top".into(), "/a:b,c".into()],
            upper: "/u".into(),
            work: "/w".into(),
            target: "/t".into(),
        };
        assert_eq!(options(&rootfs), br"lowerdir=/top:/a\:b\,c,upperdir=/u,workdir=/w");
    }
}
