//! The mounts of a configuration (config.md, "Mounts"). Whatever comes from the host is taken as a detached mount
//! before the fork, where the host's rights are: that is also what makes bind mounts into user namespaces and
//! ID-mapped mounts simple. The child attaches it, and mounts the kernel's own file systems itself.

use super::config::{Config, Mount};
use crate::cgroup::Cgroup;
use crate::container::mounts::{attach, clone_tree, new_filesystem_of};
use crate::container::target::{self, Shape};
use crate::container::users::map_ids;
use crate::container::{Context, Failure};
use crate::sys::{self, MountAttr};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::mount::MountAttrFlags;
use std::path::{Path, PathBuf};

const RDONLY: u64 = 0x1;
const NOSUID: u64 = 0x2;
const NODEV: u64 = 0x4;
const NOEXEC: u64 = 0x8;
const ATIME: u64 = 0x70;
const NOATIME: u64 = 0x10;
const STRICTATIME: u64 = 0x20;
const NODIRATIME: u64 = 0x80;
const NOSYMFOLLOW: u64 = 0x0020_0000;

/// The options of one mount, understood.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// A bind mount, and whether with what is mounted below it.
    pub bind: Option<bool>,
    /// `MOUNT_ATTR_*` to set and to clear on the mount itself.
    pub set: u64,
    pub clear: u64,
    /// The same on everything below it too.
    pub set_all: u64,
    pub clear_all: u64,
    /// `MS_*` of propagation, and whether it is recursive, in order.
    pub propagation: Vec<(u64, bool)>,
    /// The content of the directory below is copied into a tmpfs.
    pub copy_up: bool,
    /// ID-mapped, and whether recursively.
    pub id_map: Option<bool>,
    /// For the file system.
    pub data: Vec<String>,
}

/// Mount attributes by option: set, cleared.
const ATTRIBUTES: [(&str, u64, u64); 16] = [
    ("ro", RDONLY, 0),
    ("rw", 0, RDONLY),
    ("nosuid", NOSUID, 0),
    ("suid", 0, NOSUID),
    ("nodev", NODEV, 0),
    ("dev", 0, NODEV),
    ("noexec", NOEXEC, 0),
    ("exec", 0, NOEXEC),
    ("nodiratime", NODIRATIME, 0),
    ("diratime", 0, NODIRATIME),
    ("nosymfollow", NOSYMFOLLOW, 0),
    ("symfollow", 0, NOSYMFOLLOW),
    ("relatime", 0, ATIME),
    ("noatime", NOATIME, ATIME),
    ("strictatime", STRICTATIME, ATIME),
    ("norelatime", 0, 0),
];

const PROPAGATION: [(&str, u64); 4] = [
    ("private", libc::MS_PRIVATE),
    ("shared", libc::MS_SHARED),
    ("slave", libc::MS_SLAVE),
    ("unbindable", libc::MS_UNBINDABLE),
];

/// Understands the options of a mount.
pub fn options(mount: &Mount) -> Options {
    let mut found = Options { bind: (mount.kind == "bind").then_some(false), ..Options::default() };
    for option in &mount.options {
        let word = option.as_str();
        let attribute = |word: &str| ATTRIBUTES.iter().find(|(name, ..)| *name == word);
        let propagation = |word: &str| PROPAGATION.iter().find(|(name, _)| *name == word);
        match word {
            "bind" => found.bind = Some(found.bind.unwrap_or(false)),
            "rbind" => found.bind = Some(true),
            "tmpcopyup" => found.copy_up = true,
            "idmap" => found.id_map = Some(false),
            "ridmap" => found.id_map = Some(true),
            "defaults" | "async" | "sync" | "dirsync" | "mand" | "nomand" | "lazytime" | "nolazytime"
            | "loud" | "silent" | "acl" | "iversion" | "noiversion" | "remount" => {}
            _ => {
                let recursive = word.strip_prefix('r').filter(|_| word != "relatime");
                if let Some((_, set, clear)) = attribute(word) {
                    found.set = found.set & !clear | set;
                    found.clear = found.clear & !set | clear;
                } else if let Some((_, kind)) = propagation(word) {
                    found.propagation.push((*kind, false));
                } else if let Some((_, set, clear)) = recursive.and_then(attribute) {
                    found.set_all = found.set_all & !clear | set;
                    found.clear_all = found.clear_all & !set | clear;
                } else if let Some((_, kind)) = recursive.and_then(propagation) {
                    found.propagation.push((*kind, true));
                } else {
                    found.data.push(option.clone());
                }
            }
        }
    }
    found
}

/// A mount taken from the host.
pub struct Taken {
    tree: OwnedFd,
    shape: Shape,
}

/// `MS_*` of a propagation by name, for `rootfsPropagation`.
pub fn propagation(name: &str) -> Result<(u64, bool), Failure> {
    let plain = |name: &str| PROPAGATION.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind);
    match (plain(name), name.strip_prefix('r').and_then(plain)) {
        (Some(kind), _) => Ok((kind, false)),
        (None, Some(kind)) => Ok((kind, true)),
        (None, None) if name.is_empty() => Ok((libc::MS_SLAVE, true)),
        (None, None) => Err(Failure::new(format!("rootfsPropagation={name} is not supported"))),
    }
}

/// Takes the root file system.
pub fn take_root(path: &Path, propagation: (u64, bool)) -> Result<OwnedFd, Failure> {
    let what = || format!("error preparing rootfs {}", path.display());
    let tree = clone_tree(CWD, path, true).context(what)?;
    // Shared stays what it is on the host: in the same peer group, or in none.
    if propagation.0 != libc::MS_SHARED {
        let kind = if propagation.0 == libc::MS_UNBINDABLE { libc::MS_PRIVATE } else { propagation.0 };
        spread(tree.as_fd(), kind, true).context(what)?;
    }
    Ok(tree)
}

fn spread(mount: BorrowedFd<'_>, propagation: u64, recursive: bool) -> std::io::Result<()> {
    sys::mount_setattr(mount, recursive, MountAttr { propagation, ..MountAttr::default() })
}

/// Takes the sources of the bind mounts, in the host's mount namespace, where they have to be taken there: for a
/// user namespace, which has no right to, and where they stay peers of the host's. Else they are taken when they
/// are mounted: since Linux 6.8 mount tables are in the order in which mounts came to be. `bundle`: what relative
/// sources are relative to.
pub fn take(config: &Config, bundle: &Path, root_propagation: u64) -> Result<Vec<Option<Taken>>, Failure> {
    let now = config.namespace("user").is_some()
        || config.namespace("mount") != Some("")
        || root_propagation == libc::MS_SHARED;
    config
        .mounts
        .iter()
        .map(|mount| {
            let options = options(mount);
            match options.bind {
                Some(recursive) if now => {
                    take_one(config, bundle, mount, &options, recursive, root_propagation).map(Some)
                }
                _ => Ok(None),
            }
        })
        .collect()
}

fn take_one(
    config: &Config,
    bundle: &Path,
    mount: &Mount,
    options: &Options,
    recursive: bool,
    root_propagation: u64,
) -> Result<Taken, Failure> {
    let source = bundle.join(&mount.source);
    let what = || format!("error mounting {:?} to rootfs at {:?}", mount.source, mount.destination);
    let stat = rustix::fs::stat(&source).context(|| format!("{}: stat {}", what(), source.display()))?;
    let shape = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Shape::Directory,
        _ => Shape::File,
    };
    let tree = clone_tree(CWD, &source, recursive).context(what)?;
    if root_propagation != libc::MS_SHARED {
        let kind = if root_propagation == libc::MS_PRIVATE { libc::MS_PRIVATE } else { libc::MS_SLAVE };
        spread(tree.as_fd(), kind, true).context(what)?;
    }
    if let Some(all) = options.id_map.or_else(|| (!mount.uid_mappings.is_empty()).then_some(false)) {
        let (uids, gids) = if mount.uid_mappings.is_empty() {
            (&config.linux.uid_mappings, &config.linux.gid_mappings)
        } else {
            (&mount.uid_mappings, &mount.gid_mappings)
        };
        map_ids(tree.as_fd(), uids, gids, all).context(what)?;
    }
    set_attributes(tree.as_fd(), options).context(what)?;
    Ok(Taken { tree, shape })
}

/// Sets and clears attributes and propagation on a detached or attached mount.
fn set_attributes(mount: BorrowedFd<'_>, options: &Options) -> std::io::Result<()> {
    for (set, clear, recursive) in
        [(options.set_all, options.clear_all, true), (options.set, options.clear, false)]
    {
        if set | clear != 0 {
            sys::mount_setattr(mount, recursive, MountAttr { set, clear, ..MountAttr::default() })?;
        }
    }
    options.propagation.iter().try_for_each(|(kind, recursive)| spread(mount, *kind, *recursive))
}

/// Mounts everything, in order, on the root `root`.
pub fn mount_all(
    root: BorrowedFd<'_>,
    config: &Config,
    (bundle, root_propagation): (&Path, u64),
    taken: Vec<Option<Taken>>,
    cgroup: &Cgroup,
    views: &mut Vec<(String, OwnedFd)>,
) -> Result<(), Failure> {
    for (mount, taken) in config.mounts.iter().zip(taken) {
        let destination = Path::new(&mount.destination);
        let options = options(mount);
        let what = || format!("error mounting {:?} to rootfs at {:?}", mount.source, mount.destination);
        let taken = match (taken, options.bind) {
            (None, Some(all)) => Some(take_one(config, bundle, mount, &options, all, root_propagation)?),
            (taken, _) => taken,
        };
        match taken {
            Some(taken) => {
                let target = target::ensure(root, destination, taken.shape)?;
                attach(taken.tree.as_fd(), target.as_fd()).context(what)?;
            }
            None if mount.kind == "cgroup" || mount.kind == "cgroup2" => {
                let read_only = options.set & RDONLY != 0;
                mount_cgroup(root, config, destination, cgroup, read_only, std::mem::take(views))?;
            }
            None => {
                let target = target::ensure(root, destination, Shape::Directory)?;
                // What lies below, before it is covered.
                let below = if options.copy_up {
                    Some(
                        target::lookup(root, destination, OFlags::RDONLY | OFlags::DIRECTORY)
                            .context(what)?,
                    )
                } else {
                    None
                };
                let made = filesystem(mount, &options, below.is_some()).context(what)?;
                attach(made.as_fd(), target.as_fd()).context(what)?;
                if let Some(below) = below {
                    copy_tree(&fd_path(below.as_fd()), &fd_path(made.as_fd()), 0).context(what)?;
                }
                let late = Options {
                    set: if options.copy_up { options.set & RDONLY } else { 0 },
                    clear: 0,
                    ..options
                };
                set_attributes(made.as_fd(), &late).context(what)?;
            }
        }
    }
    Ok(())
}

/// A new file system, detached.
fn filesystem(mount: &Mount, options: &Options, writable: bool) -> std::io::Result<OwnedFd> {
    let mut data: Vec<&str> = options.data.iter().map(String::as_str).collect();
    // The superblocks of these are shared with the host's, and are not to change.
    let kernels = ["proc", "sysfs", "mqueue", "devpts", "tmpfs", "bpf", "debugfs", "tracefs", "securityfs"];
    let mut set = options.set;
    if writable {
        set &= !RDONLY;
    } else if set & RDONLY != 0 && !kernels.contains(&mount.kind.as_str()) {
        data.push("ro");
    }
    let source = if mount.source.is_empty() { &mount.kind } else { &mount.source };
    let attributes = MountAttrFlags::from_bits_retain(set as u32);
    Ok(new_filesystem_of(&mount.kind, source, &data, attributes)?)
}

fn fd_path(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/.", fd.as_raw_fd()))
}

/// Copies a directory's content, with owners and modes. `depth` bounds it.
fn copy_tree(from: &Path, to: &Path, depth: u32) -> std::io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    if depth > 64 {
        return Err(std::io::Error::other("directories are nested too deep"));
    }
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let meta = std::fs::symlink_metadata(&source)?;
        let kind = meta.file_type();
        if kind.is_dir() {
            std::fs::create_dir(&target)?;
            copy_tree(&source, &target, depth + 1)?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(&source)?, &target)?;
        } else if kind.is_file() {
            std::fs::copy(&source, &target)?;
        } else {
            let kind = FileType::from_raw_mode(meta.mode());
            rustix::fs::mknodat(CWD, &target, kind, Mode::from_raw_mode(meta.mode()), meta.rdev())?;
        }
        std::os::unix::fs::lchown(&target, Some(meta.uid()), Some(meta.gid()))?;
        if !kind.is_symlink() {
            std::fs::set_permissions(&target, meta.permissions())?;
        }
    }
    Ok(())
}

/// Takes the container's own directories in the v1 hierarchies, where the host's mounts are in sight.
pub fn take_cgroup_views(config: &Config, cgroup: &Cgroup) -> Result<Vec<(String, OwnedFd)>, Failure> {
    if cgroup.is_v2() || !config.mounts.iter().any(|mount| mount.kind == "cgroup") {
        return Ok(Vec::new());
    }
    crate::container::cgroupfs::clone_views(cgroup)
}

fn mount_cgroup(
    root: BorrowedFd<'_>,
    config: &Config,
    destination: &Path,
    cgroup: &Cgroup,
    read_only: bool,
    views: Vec<(String, OwnedFd)>,
) -> Result<(), Failure> {
    if cgroup.is_v2() && !config.makes("cgroup") && config.namespace("cgroup").is_none() {
        // Without a cgroup namespace a new cgroup2 mount would show the host's tree from the top.
        let what = || format!("error mounting \"cgroup\" to rootfs at {destination:?}");
        let tree = cgroup.unified_tree().context(what)?;
        let set = MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NOEXEC
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | if read_only { MountAttrFlags::MOUNT_ATTR_RDONLY } else { MountAttrFlags::empty() };
        let attr = MountAttr { set: set.bits().into(), ..MountAttr::default() };
        sys::mount_setattr(tree.as_fd(), false, attr).context(what)?;
        let target = target::ensure(root, destination, Shape::Directory)?;
        return attach(tree.as_fd(), target.as_fd()).context(what);
    }
    crate::container::cgroupfs::mount_at(root, destination, cgroup, read_only, views)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_told_apart_and_later_ones_count() {
        let mount = |kind: &str, options: &[&str]| Mount {
            kind: kind.to_owned(),
            options: options.iter().map(|o| (*o).to_owned()).collect(),
            ..Mount::default()
        };
        let options = |kind: &str, list: &[&str]| super::options(&mount(kind, list));
        let found = options("", &["rbind", "rprivate", "ro", "nosuid", "rro", "size=5"]);
        assert_eq!((found.bind, found.set, found.set_all), (Some(true), RDONLY | NOSUID, RDONLY));
        assert_eq!(found.propagation, [(libc::MS_PRIVATE, true)]);
        assert_eq!(found.data, ["size=5"]);
        let found = options("tmpfs", &["ro", "rw", "strictatime", "tmpcopyup", "mode=755"]);
        assert_eq!((found.set, found.clear, found.copy_up), (STRICTATIME, RDONLY | ATIME, true));
        assert_eq!(options("bind", &["relatime"]).clear, ATIME);
        assert_eq!(options("bind", &["rslave", "shared"]).propagation.len(), 2);
    }

    #[test]
    fn root_propagation_is_a_known_word() {
        assert_eq!(propagation("").unwrap(), (libc::MS_SLAVE, true));
        assert_eq!(propagation("rshared").unwrap(), (libc::MS_SHARED, true));
        assert!(propagation("loud").is_err());
    }

    #[test]
    fn a_directory_is_copied_with_links_and_modes() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::create_dir_all(from.join("d")).unwrap();
        std::fs::create_dir(&to).unwrap();
        std::fs::write(from.join("d/f"), "x").unwrap();
        std::fs::set_permissions(from.join("d/f"), std::fs::Permissions::from_mode(0o751)).unwrap();
        std::os::unix::fs::symlink("d/f", from.join("l")).unwrap();
        copy_tree(&from, &to, 0).unwrap();
        assert_eq!(std::fs::read_to_string(to.join("l")).unwrap(), "x");
        assert_eq!(std::fs::metadata(to.join("d/f")).unwrap().permissions().mode() & 0o777, 0o751);
    }
}
