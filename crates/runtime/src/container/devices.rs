//! Device nodes in a container's `/dev`, and which of them its cgroup may use.

use super::mounts::{clone_tree, put};
use super::target::{self, Shape};
use super::{Context, Failure};
use crate::cgroup::devices::{Rule, default_rules};
use crate::spec::ContainerSpec;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, FileType, Gid, Mode, OFlags, Uid, makedev};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// A node to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Where in the container.
    pub path: PathBuf,
    /// A block device, else a character device.
    pub block: bool,
    /// Its number.
    pub device: u64,
    /// Permissions.
    pub mode: u32,
    /// User and group.
    pub owner: (u32, u32),
    /// What the cgroup allows, of `rwm`.
    pub access: String,
    /// Where it is on the host.
    pub host: PathBuf,
}

/// The nodes that every container has.
pub fn default_nodes() -> Vec<Node> {
    [("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9)]
        .into_iter()
        .map(|(name, minor)| (name, makedev(1, minor)))
        .chain([("tty", makedev(5, 0))])
        .map(|(name, device)| Node {
            path: Path::new("/dev").join(name),
            block: false,
            device,
            mode: 0o666,
            owner: (0, 0),
            access: "rwm".to_owned(),
            host: Path::new("/dev").join(name),
        })
        .collect()
}

/// The nodes of a container. Runs in the shim, where the host's devices are in sight.
pub fn nodes_for(spec: &ContainerSpec) -> Result<Vec<Node>, Failure> {
    let mut nodes = default_nodes();
    let add = |nodes: &mut Vec<Node>, more: Vec<Node>| {
        for node in more {
            if !nodes.iter().any(|known| known.path == node.path) {
                nodes.push(node);
            }
        }
    };
    for (host, inside, access) in &spec.devices {
        let found = scan(host, inside, access);
        if found.is_empty() {
            let text = format!(
                "error gathering device information while adding custom device {host:?}: not a device node"
            );
            return Err(Failure::new(text));
        }
        add(&mut nodes, found);
    }
    if spec.privileged {
        add(&mut nodes, scan(Path::new("/dev"), Path::new("/dev"), "rwm"));
    }
    Ok(nodes)
}

/// The device `host`, or all devices under it, as nodes at `inside`.
fn scan(host: &Path, inside: &Path, access: &str) -> Vec<Node> {
    let Ok(meta) = std::fs::metadata(host) else { return Vec::new() };
    if meta.is_dir() {
        // Those a container has instances of its own of.
        if ["pts", "shm", "mqueue", "fd"].iter().any(|own| host.ends_with(own)) {
            return Vec::new();
        }
        let Ok(entries) = std::fs::read_dir(host) else { return Vec::new() };
        return entries
            .flatten()
            .filter(|e| e.file_name() != "console" && e.file_type().is_ok_and(|kind| !kind.is_symlink()))
            .flat_map(|e| scan(&e.path(), &inside.join(e.file_name()), access))
            .collect();
    }
    let kind = meta.file_type();
    if !kind.is_block_device() && !kind.is_char_device() {
        return Vec::new();
    }
    vec![Node {
        path: inside.to_owned(),
        block: kind.is_block_device(),
        device: meta.rdev(),
        mode: meta.mode() & 0o7777,
        owner: (meta.uid(), meta.gid()),
        access: access.to_owned(),
        host: host.to_owned(),
    }]
}

/// What the cgroup allows.
pub fn rules_for(spec: &ContainerSpec, nodes: &[Node]) -> Vec<Rule> {
    if spec.privileged {
        return vec![Rule::new('a', None, None, "rwm")];
    }
    let mut rules = default_rules();
    for node in nodes {
        let (major, minor) = (rustix::fs::major(node.device), rustix::fs::minor(node.device));
        let rule = Rule::new(if node.block { 'b' } else { 'c' }, Some(major), Some(minor), &node.access);
        if !rules.contains(&rule) {
            rules.push(rule);
        }
    }
    rules
}

/// Takes the host's nodes, to be mounted where none can be made.
pub fn take(nodes: &[Node]) -> Result<Vec<OwnedFd>, Failure> {
    let take = |node: &Node| {
        clone_tree(CWD, &node.host, false)
            .context(|| format!("error creating device nodes: bind {}", node.host.display()))
    };
    nodes.iter().map(take).collect()
}

/// Makes the nodes and the usual links. `taken`: the host's nodes are mounted instead, since in a user namespace
/// none can be made.
pub fn make(root: BorrowedFd<'_>, nodes: &[Node], taken: Option<Vec<OwnedFd>>) -> Result<(), Failure> {
    let mut taken = taken.map(Vec::into_iter);
    for node in nodes {
        if let Some(tree) = taken.as_mut().and_then(Iterator::next) {
            put(root, &node.path, Shape::File, tree.as_fd())?;
            continue;
        }
        let what = || format!("error creating device nodes: mknod {}", node.path.display());
        let (Some(dir), Some(name)) = (node.path.parent(), node.path.file_name()) else { continue };
        let dir = target::ensure(root, dir, Shape::Directory)?;
        let kind = if node.block { FileType::BlockDevice } else { FileType::CharacterDevice };
        let mode = Mode::from_raw_mode(node.mode);
        match rustix::fs::mknodat(&dir, name, kind, mode, node.device) {
            Ok(()) => {}
            Err(rustix::io::Errno::EXIST) => continue,
            Err(error) => return Err(error).context(what),
        }
        // The umask took bits off.
        rustix::fs::chmodat(&dir, name, mode, rustix::fs::AtFlags::empty()).context(what)?;
        if node.owner != (0, 0) {
            let (uid, gid) = (Uid::from_raw(node.owner.0), Gid::from_raw(node.owner.1));
            rustix::fs::chownat(&dir, name, Some(uid), Some(gid), rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
                .context(what)?;
        }
    }
    let dev =
        target::lookup(root, "/dev".as_ref(), OFlags::PATH | OFlags::DIRECTORY).context(|| "open /dev")?;
    for (name, to) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("core", "/proc/kcore"),
        ("ptmx", "pts/ptmx"),
    ] {
        match rustix::fs::symlinkat(to, &dev, name) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error).context(|| format!("error creating symlink /dev/{name}")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_gets_the_usual_devices_and_those_it_asks_for() {
        let mut spec = crate::test_spec();
        assert_eq!(nodes_for(&spec).unwrap().len(), 6);
        spec.devices = vec![("/dev/null".into(), "/dev/mine".into(), "r".to_owned())];
        let nodes = nodes_for(&spec).unwrap();
        assert_eq!(nodes.len(), 7);
        assert!(rules_for(&spec, &nodes).contains(&Rule::new('c', Some(1), Some(3), "r")));
        spec.devices = vec![("/etc/passwd".into(), "/dev/mine".into(), "r".to_owned())];
        assert!(nodes_for(&spec).is_err());
    }
}
