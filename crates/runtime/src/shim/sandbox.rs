//! The pod's namespaces. The shim itself lives in the network, IPC and UTS namespaces and so keeps them; the
//! pod's mount namespace (a small read-only root and the pod's shared memory) is kept by a descriptor, while
//! the shim stays among the host's mounts, where log files and cgroups are.

use crate::container::mounts::{attach, new_filesystem};
use crate::container::{Context, Failure, users};
use crate::protocol::Setup;
use crate::spec::SandboxSpec;
use crate::sys::{self, Forked, MountAttr};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountAttrFlags, MountPropagationFlags, UnmountFlags};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::path::Path;

/// Size of the pod's shared memory, as containerd's.
const SHM_OPTIONS: [&str; 2] = ["mode=1777", "size=65536k"];

/// What a sandbox consists of besides the shim.
pub struct Namespaces {
    /// The pod's mounts.
    pub pod_mounts: OwnedFd,
    /// The shim's PID namespace.
    pub own_pids: OwnedFd,
    /// The PID namespace that the containers share, and its first process.
    pub shared_pids: Option<(OwnedFd, i32)>,
    /// The user namespace that owns all of these.
    pub users: Option<OwnedFd>,
}

/// Makes the namespaces; the shim is inside them afterwards.
pub fn make(setup: &Setup) -> Result<Namespaces, Failure> {
    let spec = &setup.spec;
    if let Some(users) = &spec.user_namespace {
        return super::users::make(setup, users);
    }
    let read = OFlags::RDONLY | OFlags::CLOEXEC;
    let dir = rustix::fs::open("/proc/self/ns", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .context(|| "open /proc/self/ns")?;
    let namespace = |name: &str| {
        rustix::fs::openat(&dir, name, read, Mode::empty()).context(|| format!("open namespace {name}"))
    };
    let host_mounts = namespace("mnt")?;
    let own_pids = namespace("pid")?;

    enter_new(spec)?;
    sys::unshare(libc::CLONE_NEWNS).context(|| "unshare mount namespace")?;
    let made = make_mounts(setup);
    let pod_mounts = namespace("mnt");
    sys::setns(&host_mounts, libc::CLONE_NEWNS).context(|| "return to the host's mounts")?;
    made?;
    let pod_mounts = pod_mounts?;

    let shared_pids = if spec.share_process_namespace && !spec.host_pid {
        Some(make_pid_namespace(&pod_mounts, None)?)
    } else {
        None
    };
    Ok(Namespaces { pod_mounts, own_pids, shared_pids, users: None })
}

/// Goes into new network, UTS and IPC namespaces, as far as they are not the host's, and sets them up.
pub fn enter_new(spec: &SandboxSpec) -> Result<(), Failure> {
    let mut flags = 0;
    if !spec.host_network {
        flags |= libc::CLONE_NEWNET | libc::CLONE_NEWUTS;
    }
    if !spec.host_ipc {
        flags |= libc::CLONE_NEWIPC;
    }
    if flags != 0 {
        sys::unshare(flags).context(|| "unshare namespaces")?;
    }
    if !spec.host_network {
        rustix::system::sethostname(spec.hostname.as_bytes()).context(|| "sethostname")?;
        if let Some(domain) = &spec.domainname {
            rustix::system::setdomainname(domain.as_bytes()).context(|| "setdomainname")?;
        }
        sys::loopback_up().context(|| "bring up loopback")?;
    }
    set_sysctls(&spec.sysctls)
}

/// Turns the current mount namespace, a copy of the host's, into the pod's.
fn make_mounts(setup: &Setup) -> Result<(), Failure> {
    let what = || "make the pod's mounts";
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .context(what)?;
    make_root(&setup.dir, !setup.spec.host_ipc, Vec::new())
}

/// Makes a small root over `place`, with `trees` by the names of their directories, and leaves everything else.
pub fn make_root(place: &Path, shm: bool, trees: Vec<(&str, OwnedFd)>) -> Result<(), Failure> {
    let what = || "make the pod's mounts";
    let dir_flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let base = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let root = new_filesystem("tmpfs", &["mode=755", "size=64k"], base | MountAttrFlags::MOUNT_ATTR_NOEXEC)
        .context(what)?;
    let place = rustix::fs::open(place, dir_flags, Mode::empty()).context(what)?;
    attach(root.as_fd(), place.as_fd()).context(what)?;
    rustix::process::fchdir(&root).context(what)?;
    for name in ["root", "shm"].into_iter().chain(trees.iter().map(|(name, _)| *name)) {
        rustix::fs::mkdir(name, Mode::from_raw_mode(0o755)).context(what)?;
    }
    for (name, tree) in trees {
        let place = rustix::fs::open(name, dir_flags, Mode::empty()).context(what)?;
        attach(tree.as_fd(), place.as_fd()).context(what)?;
    }
    rustix::process::pivot_root(".", ".").context(what)?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).context(what)?;
    rustix::process::chdir("/").context(what)?;
    if shm {
        let shm =
            new_filesystem("tmpfs", &SHM_OPTIONS, base | MountAttrFlags::MOUNT_ATTR_NOEXEC).context(what)?;
        let place = rustix::fs::open("/shm", dir_flags, Mode::empty()).context(what)?;
        attach(shm.as_fd(), place.as_fd()).context(what)?;
    }
    let attr = MountAttr { set: MountAttrFlags::MOUNT_ATTR_RDONLY.bits().into(), ..MountAttr::default() };
    sys::mount_setattr(root.as_fd(), false, attr).context(what)
}

/// A PID namespace with a first process that reaps and does nothing else. It sits in the pod's empty root
/// without any capability, so that looking into it from a container leads nowhere.
///
/// `owner`: the user namespace that is to own it.
pub fn make_pid_namespace(pod_mounts: &OwnedFd, owner: Option<&OwnedFd>) -> Result<(OwnedFd, i32), Failure> {
    let what = || "make the pod's PID namespace";
    match users::fork_in(libc::CLONE_NEWPID as u64, owner.map(AsFd::as_fd), None)? {
        Forked::Child => {
            sys::reset_signals();
            let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
            let confined = sys::setns(pod_mounts, libc::CLONE_NEWNS).and_then(|()| sys::set_capabilities(0));
            if confined.is_err() {
                sys::exit_now(1);
            }
            sys::close_from(0);
            sys::ignore_children(true);
            loop {
                rustix::event::pause();
            }
        }
        Forked::Parent(pid) => {
            let path = format!("/proc/{pid}/ns/pid");
            let namespace =
                rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).context(what)?;
            Ok((namespace, pid))
        }
    }
}

/// Sets namespaced sysctls, with dots or slashes between the parts of their names.
pub fn set_sysctls(sysctls: &BTreeMap<String, String>) -> Result<(), Failure> {
    for (name, value) in sysctls {
        if name.split(['.', '/']).any(|part| part.is_empty() || part == "..") {
            return Err(Failure::new(format!("invalid sysctl {name:?}")));
        }
        // As sysctl(8): the first separator tells which of the two separates.
        let path = match name.find(['.', '/']).map(|at| &name[at..=at]) {
            Some("/") => name.clone(),
            _ => name
                .chars()
                .map(|c| {
                    if c == '.' {
                        '/'
                    } else if c == '/' {
                        '.'
                    } else {
                        c
                    }
                })
                .collect(),
        };
        std::fs::write(format!("/proc/sys/{path}"), value)
            .context(|| format!("failed to set sysctl {name:?} to {value:?}"))?;
    }
    Ok(())
}
