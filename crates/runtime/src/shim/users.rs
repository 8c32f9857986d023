//! The namespaces of a pod with users of its own (KEP-127). All of them have to belong to its user namespace, or
//! its root could neither mount in them nor set its network up; so a process that lives there makes them, and
//! ends. The shim keeps the host's users, and goes into the others as it does for every pod.

use super::sandbox::{Namespaces, enter_new, make_pid_namespace, make_root};
use crate::container::mounts::{NO_SUID_EXEC_DEV, new_filesystem};
use crate::container::sync::{Sync, Word};
use crate::container::{Context, Failure, users};
use crate::protocol::Setup;
use crate::spec::{SandboxSpec, UserNamespace};
use crate::sys::{self, Forked};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::mount::MountPropagationFlags;
use rustix::process::Signal;
use std::path::Path;

/// Makes the namespaces; the shim is inside those of network, names and IPC afterwards.
pub fn make(setup: &Setup, ids: &UserNamespace) -> Result<Namespaces, Failure> {
    let spec = &setup.spec;
    if spec.host_network || spec.host_pid || spec.host_ipc {
        return Err(Failure::new("a pod with users of its own cannot share namespaces with the host"));
    }
    users::root_of(ids)?;
    // In a user namespace these can only be mounted where the kernel sees whole ones already, and the host's may be
    // covered in places.
    let kernel = [("proc", "proc"), ("sys", "sysfs")].map(|(name, kind)| {
        let made = new_filesystem(kind, &[], NO_SUID_EXEC_DEV);
        made.context(|| format!("mount {kind} for the pod")).map(|tree| (name, tree))
    });
    let kernel = kernel.into_iter().collect::<Result<Vec<_>, _>>()?;
    let (near, far) = Sync::pair()?;
    match sys::fork_into(libc::CLONE_NEWUSER as u64, None).context(|| "make the pod's user namespace")? {
        Forked::Child => {
            drop(near);
            let build = std::panic::AssertUnwindSafe(|| build(spec, &far, kernel));
            let outcome = std::panic::catch_unwind(build).unwrap_or_else(|_| Err(Failure::new("panic")));
            far.say(&match outcome {
                Ok(()) => Word::Ready,
                Err(failure) => Word::Failed(failure.text()),
            });
            // It is looked at until it is ended.
            loop {
                rustix::event::pause();
            }
        }
        Forked::Parent(pid) => {
            drop(far);
            let made = take_over(setup, ids, pid, &near);
            let _ = sys::kill(pid, libc::SIGKILL);
            sys::reap_child(pid);
            made
        }
    }
}

/// The process inside: makes what belongs to the pod.
fn build(spec: &SandboxSpec, creator: &Sync, kernel: Vec<(&str, OwnedFd)>) -> Result<(), Failure> {
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    creator.wait()?;
    users::become_root()?;
    enter_new(spec)?;
    let what = || "make the pod's mounts";
    sys::unshare(libc::CLONE_NEWNS).context(what)?;
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .context(what)?;
    make_root(Path::new("/"), true, kernel)
}

fn take_over(setup: &Setup, ids: &UserNamespace, pid: i32, inside: &Sync) -> Result<Namespaces, Failure> {
    users::write_mappings(pid, &ids.uids, &ids.gids).context(|| "write user namespace mappings")?;
    let open = |of: &str, name: &str| -> Result<OwnedFd, Failure> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        rustix::fs::open(format!("/proc/{of}/ns/{name}"), flags, Mode::empty())
            .context(|| format!("open namespace {name}"))
    };
    let number = pid.to_string();
    let namespace = open(&number, "user")?;
    users::check(&setup.dir, rustix::fd::AsFd::as_fd(&namespace))?;
    inside.go(pid);
    match inside.listen() {
        Word::Ready => {}
        Word::Failed(text) => return Err(Failure::new(text)),
        Word::Hooks | Word::Closed => {
            return Err(Failure::new("the process that makes the pod's namespaces is gone"));
        }
    }
    let own_pids = open("self", "pid")?;
    let pod_mounts = open(&number, "mnt")?;
    for (name, kind) in
        [("net", libc::CLONE_NEWNET), ("uts", libc::CLONE_NEWUTS), ("ipc", libc::CLONE_NEWIPC)]
    {
        sys::setns(open(&number, name)?, kind).context(|| format!("enter the pod's {name} namespace"))?;
    }
    let shared_pids = if setup.spec.share_process_namespace {
        Some(make_pid_namespace(&pod_mounts, Some(&namespace))?)
    } else {
        None
    };
    Ok(Namespaces { pod_mounts, own_pids, shared_pids, users: Some(namespace) })
}
