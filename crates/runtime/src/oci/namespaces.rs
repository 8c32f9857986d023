//! Namespaces by path and new ones (config-linux.md, "Namespaces"). Those by path that can be left again are
//! entered by the creator before its fork and left after it, with the host's rights; a user namespace and what
//! belongs to it by the child.

use super::config::Config;
use crate::container::{Context, Failure};
use crate::sys::{self, oci::CLONE_NEWTIME};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};

/// Type by the specification, flag, file in `/proc/<pid>/ns`.
pub const KINDS: [(&str, libc::c_int, &str); 8] = [
    ("user", libc::CLONE_NEWUSER, "user"),
    ("pid", libc::CLONE_NEWPID, "pid"),
    ("network", libc::CLONE_NEWNET, "net"),
    ("ipc", libc::CLONE_NEWIPC, "ipc"),
    ("uts", libc::CLONE_NEWUTS, "uts"),
    ("time", CLONE_NEWTIME, "time"),
    ("cgroup", libc::CLONE_NEWCGROUP, "cgroup"),
    ("mount", libc::CLONE_NEWNS, "mnt"),
];

/// The flag of a type.
pub fn flag(kind: &str) -> Option<libc::c_int> {
    KINDS.iter().find(|(name, ..)| *name == kind).map(|(_, flag, _)| *flag)
}

fn open(path: &str) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

/// Namespaces by path that the child is to enter itself.
#[derive(Default)]
pub struct Joined {
    /// A user namespace, entered before the child is born.
    pub user: Option<OwnedFd>,
    mount: Option<OwnedFd>,
}

impl Joined {
    /// Enters what is left to enter.
    pub fn enter(&self, config: &Config) -> Result<(), Failure> {
        if let Some(mount) = &self.mount {
            sys::setns(mount, libc::CLONE_NEWNS).context(|| "join mount namespace")?;
        }
        if config.makes("cgroup") {
            // Only now, so that its top is the container's cgroup.
            sys::unshare(libc::CLONE_NEWCGROUP).context(|| "unshare cgroup namespace")?;
        }
        Ok(())
    }
}

/// Takes the creator back to where it was.
#[derive(Default)]
pub struct Back(Vec<(OwnedFd, libc::c_int)>);

impl Back {
    /// Leaves the namespaces entered for the fork.
    pub fn go(self) -> Result<(), Failure> {
        for (namespace, kind) in self.0.into_iter().rev() {
            sys::setns(namespace, kind).context(|| "return to the runtime's namespace")?;
        }
        Ok(())
    }
}

/// The namespaces that the child is born into: clone flags, what it enters itself, and the way back.
pub fn enter(config: &Config) -> Result<(u64, Joined, Back), Failure> {
    let mut flags: u64 = 0;
    let mut joined = Joined::default();
    let mut back = Back::default();
    for (kind, flag, file) in KINDS {
        let Some(path) = config.namespace(kind) else { continue };
        if path.is_empty() {
            match kind {
                "cgroup" => {}
                "time" => make_time(config, &mut back)?,
                _ => flags |= flag as u64,
            }
            continue;
        }
        let what = || format!("failed to open {path} for {kind} namespace");
        let namespace = open(path).context(what)?;
        match kind {
            "user" => joined.user = Some(namespace),
            "mount" => joined.mount = Some(namespace),
            _ => {
                // For PID and time the file of the children's namespace is the one to return to.
                let file = if matches!(kind, "pid" | "time") {
                    format!("{file}_for_children")
                } else {
                    file.to_owned()
                };
                let own = open(&format!("/proc/self/ns/{file}")).context(what)?;
                sys::setns(&namespace, flag).context(|| format!("failed to join {kind} namespace {path}"))?;
                back.0.push((own, flag));
            }
        }
    }
    Ok((flags, joined, back))
}

/// A new time namespace, for children; its offsets can be set as long as nobody is in it.
fn make_time(config: &Config, back: &mut Back) -> Result<(), Failure> {
    let own = open("/proc/self/ns/time").context(|| "open time namespace")?;
    sys::unshare(CLONE_NEWTIME).context(|| "unshare time namespace")?;
    back.0.push((own, CLONE_NEWTIME));
    for (clock, offset) in &config.linux.time_offsets {
        let line = format!("{clock} {} {}", offset.secs, offset.nanosecs);
        std::fs::write("/proc/self/timens_offsets", line)
            .context(|| format!("set time offset of {clock}"))?;
    }
    Ok(())
}
