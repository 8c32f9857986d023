//! User namespaces (user_namespaces(7)) and what goes with them: mappings, ID-mapped mounts
//! (mount_setattr(2)), and the way of a container's first process from the host's users to its pod's (KEP-127).

use super::sync::Sync;
use super::{Context, Failure, Stdio, process, send};
use crate::spec::{ContainerSpec, IdMapping, UserNamespace};
use crate::sys::{self, Forked, MountAttr};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Gid, Mode, OFlags, Uid};
use rustix::pipe::PipeFlags;
use rustix::process::Signal;
use std::io;
use std::path::Path;

const IDMAP: u64 = 0x0010_0000;

/// A pod's user namespace as a container's first process gets to know it.
#[derive(Clone, Copy)]
pub struct Users<'a> {
    /// The namespace.
    pub namespace: BorrowedFd<'a>,
    /// Root of the namespace as the host numbers it: user and group.
    pub root: (u32, u32),
    /// The PID namespace to be born into.
    pub pids: Pids<'a>,
}

/// Which PID namespace a process is born into.
#[derive(Clone, Copy)]
pub enum Pids<'a> {
    /// A new one.
    New,
    /// This one.
    Of(BorrowedFd<'a>),
    /// That of its parent.
    Inherited,
}

/// What an identity inside is on the host.
pub fn on_host(mappings: &[IdMapping], inside: u32) -> Option<u32> {
    mappings.iter().find_map(|m| {
        let offset = inside.checked_sub(m.container_id).filter(|offset| *offset < m.size)?;
        m.host_id.checked_add(offset)
    })
}

/// Root of a pod's users as the host numbers it.
pub fn root_of(users: &UserNamespace) -> Result<(u32, u32), Failure> {
    let root = (on_host(&users.uids, 0), on_host(&users.gids, 0));
    match root {
        (Some(uid), Some(gid)) => Ok((uid, gid)),
        _ => Err(Failure::new("user namespace mappings do not have root")),
    }
}

/// Makes a detached mount show the owners of files as `uids` and `gids` say.
pub fn map_ids(
    tree: BorrowedFd<'_>,
    uids: &[IdMapping],
    gids: &[IdMapping],
    recursive: bool,
) -> io::Result<()> {
    let mapped = map_ids_as(tree, user_namespace(uids, gids)?.as_fd(), recursive);
    mapped.map_err(|error| match error.raw_os_error() {
        // Which file systems can grows with the kernels: tmpfs can since 6.3, proc cannot.
        Some(libc::EINVAL) => io::Error::new(error.kind(), UNMAPPABLE),
        _ => error,
    })
}

/// What the kernel means by "invalid argument" here.
const UNMAPPABLE: &str =
    "the kernel cannot show other owners of files on this file system (ID-mapped mounts)";

/// Makes a detached mount show the owners of files as a user namespace has them.
pub fn map_ids_as(tree: BorrowedFd<'_>, namespace: BorrowedFd<'_>, recursive: bool) -> io::Result<()> {
    let attr = MountAttr { set: IDMAP, userns_fd: namespace.as_raw_fd() as u64, ..MountAttr::default() };
    sys::mount_setattr(tree, recursive, attr)
}

/// [`map_ids_as`] of the mount taken from `path`, with runc's words for what cannot be mapped.
pub fn map_path(tree: BorrowedFd<'_>, namespace: BorrowedFd<'_>, path: &Path) -> Result<(), Failure> {
    map_ids_as(tree, namespace, false).map_err(|error| {
        let hint = match error.raw_os_error() {
            Some(libc::EINVAL) => " (maybe the filesystem used doesn't support idmap mounts on this kernel?)",
            _ => "",
        };
        let why = super::reason(&error);
        Failure::new(format!("failed to set MOUNT_ATTR_IDMAP on {}: {why}{hint}", path.display()))
    })
}

/// Whether the file system of `dir` can be mounted with other owners, as the containers' files will be.
pub fn check(dir: &Path, namespace: BorrowedFd<'_>) -> Result<(), Failure> {
    let tree = super::mounts::clone_tree(CWD, dir, false).context(|| format!("clone {}", dir.display()))?;
    map_path(tree.as_fd(), namespace, dir)
}

/// A user namespace with these mappings that nobody lives in.
pub fn user_namespace(uids: &[IdMapping], gids: &[IdMapping]) -> io::Result<OwnedFd> {
    match sys::fork_into(libc::CLONE_NEWUSER as u64, None)? {
        Forked::Child => loop {
            rustix::event::pause();
        },
        Forked::Parent(pid) => {
            let made = write_mappings(pid, uids, gids).and_then(|()| {
                let flags = OFlags::RDONLY | OFlags::CLOEXEC;
                Ok(rustix::fs::open(format!("/proc/{pid}/ns/user"), flags, Mode::empty())?)
            });
            let _ = sys::kill(pid, libc::SIGKILL);
            sys::reap_child(pid);
            made
        }
    }
}

/// Gives the user namespace of a process its mappings.
pub fn write_mappings(pid: i32, uids: &[IdMapping], gids: &[IdMapping]) -> io::Result<()> {
    let text = |mappings: &[IdMapping]| {
        let lines = mappings.iter().map(|m| format!("{} {} {}\n", m.container_id, m.host_id, m.size));
        lines.collect::<String>()
    };
    std::fs::write(format!("/proc/{pid}/uid_map"), text(uids))?;
    std::fs::write(format!("/proc/{pid}/gid_map"), text(gids))
}

/// Becomes root of the user namespace this process has just come into.
pub fn become_root() -> Result<(), Failure> {
    sys::set_ids(&[], 0, 0).context(|| "become root of the user namespace")
}

/// Lets root of the user namespace hand the standard streams on, and open them anew.
pub fn give_streams(stdio: &Stdio, root: (u32, u32)) {
    for stream in [&stdio.stdin, &stdio.stdout, &stdio.stderr].into_iter().flatten() {
        let _ = rustix::fs::fchown(stream, Some(Uid::from_raw(root.0)), Some(Gid::from_raw(root.1)));
    }
}

/// A fork into new namespaces, in a user namespace that is there already if one is given: by way of a process
/// that enters it, since nothing leads out of one again.
pub fn fork_in(
    flags: u64,
    user: Option<BorrowedFd<'_>>,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<Forked, Failure> {
    let Some(user) = user else {
        return sys::fork_into(flags, cgroup).context(|| "clone3");
    };
    let (near, far) = Sync::pair()?;
    match sys::fork_into(0, cgroup).context(|| "clone3")? {
        Forked::Parent(between) => {
            drop(far);
            let pid = near.wait();
            let _ = sys::oci::wait_for(between);
            Ok(Forked::Parent(pid.map_err(|_| Failure::new("failed to join user namespace"))?))
        }
        Forked::Child => {
            let entered = sys::setns(user, libc::CLONE_NEWUSER).and_then(|()| sys::oci::fork_sibling(flags));
            match entered {
                Ok(Forked::Child) => Ok(Forked::Child),
                Ok(Forked::Parent(pid)) => {
                    far.go(pid);
                    sys::exit_now(0)
                }
                Err(_) => sys::exit_now(1),
            }
        }
    }
}

/// What the shim hears first: the number of the process that goes on in place of the one it forked.
pub fn moved(pid: i32) -> Vec<u8> {
    format!("pid {pid}").into_bytes()
}

/// Reads [`moved`].
pub fn moved_to(bytes: &[u8]) -> Option<i32> {
    std::str::from_utf8(bytes).ok()?.strip_prefix("pid ")?.parse().ok()
}

/// Goes on as another child of the shim, root of the pod's users and born into the container's PID namespace, which
/// is so the pod's too. What takes the host's rights has to be done before. This process ends in here; only the
/// new one comes back.
pub fn cross(
    users: &Users<'_>,
    spec: &ContainerSpec,
    stdio: &Stdio,
    sync: BorrowedFd<'_>,
) -> Result<(), Failure> {
    give_streams(stdio, users.root);
    // Raising them takes a right of the host's.
    process::set_rlimits(&spec.rlimits)?;
    let (wait, go) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).context(|| "pipe")?;
    if let Pids::Of(namespace) = users.pids {
        sys::setns(namespace, libc::CLONE_NEWPID).context(|| "enter the PID namespace")?;
    }
    sys::setns(users.namespace, libc::CLONE_NEWUSER).context(|| "enter the pod's user namespace")?;
    let flags = if matches!(users.pids, Pids::New) { libc::CLONE_NEWPID as u64 } else { 0 };
    match sys::oci::fork_sibling(flags).context(|| "clone3")? {
        Forked::Parent(pid) => {
            send(sync, &moved(pid), None);
            let _ = rustix::io::write(&go, b"1");
            sys::exit_now(0)
        }
        Forked::Child => {
            drop(go);
            // Not before the shim can know of this process: it would not know whose end it is told of.
            if rustix::io::read(&wait, &mut [0; 1]) != Ok(1) {
                sys::exit_now(1);
            }
            let _ = rustix::process::setsid();
            become_root()?;
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
                .context(|| "set parent death signal")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_found_in_the_range_it_lies_in() {
        let maps = [
            IdMapping { container_id: 0, host_id: 65_536, size: 1000 },
            IdMapping { container_id: 2000, host_id: 500, size: 1 },
        ];
        for (inside, expected) in [
            (0, Some(65_536)),
            (999, Some(66_535)),
            (1000, None),
            (1999, None),
            (2000, Some(500)),
            (2001, None),
        ] {
            assert_eq!(on_host(&maps, inside), expected, "{inside}");
        }
        assert!(root_of(&UserNamespace { uids: maps.to_vec(), gids: vec![maps[1]] }).is_err());
    }

    #[test]
    fn the_new_number_of_a_process_is_told_from_refusals() {
        assert_eq!(moved_to(&moved(4711)), Some(4711));
        let refusal = serde_json::to_vec(&crate::protocol::Refusal::Start("pid 5".to_owned())).unwrap();
        assert_eq!(moved_to(&refusal), None);
    }
}
