//! cgroups: one path under every mounted v1 hierarchy, or under the v2 mount. On hybrid hosts (v1 controllers
//! and a `unified` v2 mount without them) both, because `cgroup.kill` is there.

pub mod devices;
pub mod limits;
pub mod usage;

use crate::spec::Resources;
use crate::sys;
use devices::Rule;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A mounted v1 hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// Its controllers; `name=...` for a named one.
    pub controllers: Vec<String>,
}

/// All cgroup hierarchies of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hierarchies {
    /// v1.
    pub v1: Vec<Hierarchy>,
    /// The v2 mount: the only one, or the one beside v1.
    pub unified: Option<PathBuf>,
}

impl Hierarchies {
    /// Reads this process's mount table.
    pub fn read() -> io::Result<Self> {
        Ok(Self::parse(&std::fs::read_to_string("/proc/self/mountinfo")?))
    }

    /// From the text of a mountinfo file (proc_pid_mountinfo(5)).
    pub fn parse(mountinfo: &str) -> Self {
        let mut found = Self::default();
        for line in mountinfo.lines() {
            let Some((front, back)) = line.split_once(" - ") else { continue };
            let Some(mount) = front.split(' ').nth(4).map(PathBuf::from) else { continue };
            let mut back = back.split(' ');
            match back.next() {
                Some("cgroup2") if found.unified.is_none() => found.unified = Some(mount),
                Some("cgroup") => {
                    let options = back.nth(1).unwrap_or_default();
                    let controllers: Vec<String> = options
                        .split(',')
                        .filter(|o| CONTROLLERS.contains(o) || o.starts_with("name="))
                        .map(str::to_owned)
                        .collect();
                    if !controllers.is_empty() && !found.v1.iter().any(|h| h.controllers == controllers) {
                        found.v1.push(Hierarchy { mount, controllers });
                    }
                }
                _ => {}
            }
        }
        found
    }

    /// The same hierarchies below these cgroups, by mount.
    pub fn below(mut self, bases: &BTreeMap<PathBuf, String>) -> Self {
        let base = |mount: &PathBuf| match bases.get(mount) {
            Some(base) => mount.join(base.trim_start_matches('/')),
            None => mount.clone(),
        };
        self.v1.iter_mut().for_each(|h| h.mount = base(&h.mount));
        self.unified = self.unified.as_ref().map(base);
        self
    }

    /// The cgroups that this process is in, by mount, from the text of `/proc/self/cgroup`; on pure v2 the one
    /// above, since a cgroup with processes cannot hand its controllers down.
    pub fn own(&self, text: &str) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        for line in text.lines() {
            let mut fields = line.splitn(3, ':');
            let (Some(_), Some(names), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
                continue;
            };
            if names.is_empty() {
                if let Some(mount) = &self.unified {
                    let path = Path::new(path);
                    let path = if self.is_v2() { path.parent().unwrap_or(path) } else { path };
                    found.insert(mount.clone(), path.display().to_string());
                }
            } else if let Some(h) =
                self.v1.iter().find(|h| names.split(',').any(|name| h.controllers.iter().any(|c| c == name)))
            {
                found.insert(h.mount.clone(), path.to_owned());
            }
        }
        found
    }

    /// Whether controllers are on v2.
    pub fn is_v2(&self) -> bool {
        !self.v1.iter().any(|h| h.controllers.iter().any(|c| !c.starts_with("name=")))
    }

    /// Whether there is nothing to make cgroups in.
    pub fn is_empty(&self) -> bool {
        self.v1.is_empty() && self.unified.is_none()
    }

    /// The cgroup at `path` relative to the mounts, whether or not it exists.
    pub fn at(&self, path: &str) -> Cgroup {
        Cgroup { hierarchies: self.clone(), path: path.trim_matches('/').to_owned() }
    }
}

/// The controllers of v1, to tell them from mount options.
const CONTROLLERS: [&str; 13] = [
    "cpu",
    "cpuacct",
    "cpuset",
    "memory",
    "devices",
    "freezer",
    "blkio",
    "pids",
    "hugetlb",
    "net_cls",
    "net_prio",
    "perf_event",
    "rdma",
];

/// One cgroup, in all hierarchies.
#[derive(Clone, Debug)]
pub struct Cgroup {
    hierarchies: Hierarchies,
    path: String,
}

impl Cgroup {
    fn v1_dirs(&self) -> impl Iterator<Item = (&Hierarchy, PathBuf)> {
        self.hierarchies.v1.iter().map(|h| (h, h.mount.join(&self.path)))
    }

    fn unified_dir(&self) -> Option<PathBuf> {
        self.hierarchies.unified.as_ref().map(|mount| mount.join(&self.path))
    }

    /// The directory that has the files of `controller`.
    pub(crate) fn dir_of(&self, controller: &str) -> Option<PathBuf> {
        if self.hierarchies.is_v2() {
            return self.unified_dir();
        }
        self.v1_dirs().find(|(h, _)| h.controllers.iter().any(|c| c == controller)).map(|(_, dir)| dir)
    }

    /// The v1 directories with the names under which they are mounted, for the container's view of them.
    pub fn v1_views(&self) -> Vec<(String, PathBuf)> {
        self.v1_dirs().filter_map(|(h, dir)| Some((h.mount.file_name()?.to_str()?.to_owned(), dir))).collect()
    }

    /// Its path relative to the mounts.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether controllers are on v2.
    pub fn is_v2(&self) -> bool {
        self.hierarchies.is_v2()
    }

    /// A cgroup under this one.
    pub fn child(&self, name: &str) -> Self {
        Self { hierarchies: self.hierarchies.clone(), path: format!("{}/{name}", self.path) }
    }

    /// Makes the cgroup and those above it.
    pub fn create(&self) -> io::Result<()> {
        for (hierarchy, dir) in self.v1_dirs() {
            let cpuset = hierarchy.controllers.iter().any(|c| c == "cpuset");
            make_v1(&hierarchy.mount, &dir, cpuset)?;
        }
        if let (Some(mount), Some(dir)) = (&self.hierarchies.unified, self.unified_dir()) {
            make_v2(mount, &dir, self.is_v2())?;
        }
        Ok(())
    }

    /// Applies limits. The first value that the kernel refuses is the error; values of a controller that the
    /// host lacks are passed over. One that the host has and that could not be enabled here is an error: a limit
    /// must not be lost unnoticed.
    pub fn apply(&self, resources: &Resources, container: bool) -> io::Result<()> {
        let v2 = self.is_v2();
        self.write_all(if v2 { limits::v2(resources, container) } else { limits::v1(resources) })
    }

    /// As [`Cgroup::apply`], by file. A value that is refused is tried once more after the others: limits that
    /// bound each other (memory and memory with swap, quota and period) fit in one order only.
    pub fn write_all(&self, writes: Vec<limits::Write>) -> io::Result<()> {
        let mut later = Vec::new();
        for write in writes {
            match self.write(&write) {
                Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EBUSY)) => {
                    later.push(write);
                }
                other => other.map_err(|error| named(error, &write))?,
            }
        }
        later.iter().try_for_each(|write| self.write(write).map_err(|error| named(error, write)))
    }

    fn write(&self, write: &limits::Write) -> io::Result<()> {
        let Some(file) = self.dir_of(&write.controller).map(|dir| dir.join(&write.file)) else {
            return Ok(());
        };
        match std::fs::write(&file, &write.value) {
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    && self.is_v2()
                    && !self.host_has(&write.controller) =>
            {
                Ok(())
            }
            other => other,
        }
    }

    /// Whether the v2 root has a controller.
    fn host_has(&self, controller: &str) -> bool {
        let Some(mount) = &self.hierarchies.unified else { return false };
        let have = std::fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
        have.split_whitespace().any(|one| one == controller)
    }

    /// Allows the devices of `rules` and no others.
    pub fn allow_devices(&self, rules: &[Rule]) -> io::Result<()> {
        if self.is_v2() {
            let Some(dir) = self.unified_dir() else { return Ok(()) };
            return attach_device_program(&dir, rules);
        }
        let Some(dir) = self.dir_of("devices") else { return Ok(()) };
        for (file, line) in devices::v1_writes(rules) {
            std::fs::write(dir.join(file), line)?;
        }
        Ok(())
    }

    /// Moves the calling process, which must have one thread, into the v1 cgroups. Writing 0 to `tasks` is
    /// the one migration that does not wait for a grace period of the kernel's (some 15 ms).
    pub fn join_v1(&self) -> io::Result<()> {
        for (_, dir) in self.v1_dirs() {
            std::fs::write(dir.join("tasks"), "0")?;
        }
        Ok(())
    }

    /// Moves the calling process into the v2 cgroup; slow, see [`Cgroup::join_v1`]. A process is better born
    /// there, through [`Cgroup::birthplace`].
    pub fn join_v2(&self) -> io::Result<()> {
        match self.unified_dir() {
            Some(dir) => std::fs::write(dir.join("cgroup.procs"), "0"),
            None => Ok(()),
        }
    }

    /// The files through which a process that cannot open them itself joins the v1 cgroups, by writing 0.
    pub fn v1_doors(&self) -> io::Result<Vec<OwnedFd>> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        self.v1_dirs()
            .map(|(_, dir)| Ok(rustix::fs::open(dir.join("tasks"), flags, Mode::empty())?))
            .collect()
    }

    /// As [`Cgroup::v1_doors`], of a cgroup below this one in some hierarchies: each with the controllers it is
    /// for, which are all when none is named.
    pub fn v1_doors_below(&self, below: &[(Vec<String>, String)]) -> io::Result<Vec<OwnedFd>> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let door = |(hierarchy, mut dir): (&Hierarchy, PathBuf)| {
            let meant = |(names, _): &&(Vec<String>, String)| {
                names.is_empty() || names.iter().any(|name| hierarchy.controllers.contains(name))
            };
            if let Some((_, path)) = below.iter().rev().find(meant) {
                dir.push(path.trim_matches('/'));
            }
            let missing =
                |error| io::Error::new(io::Error::from(error).kind(), format!("{}: {error}", dir.display()));
            rustix::fs::open(dir.join("tasks"), flags, Mode::empty()).map_err(missing)
        };
        self.v1_dirs().map(door).collect()
    }

    /// Stops or continues all processes.
    pub fn freeze(&self, frozen: bool) -> io::Result<()> {
        if self.is_v2() {
            let Some(dir) = self.unified_dir() else { return Ok(()) };
            std::fs::write(dir.join("cgroup.freeze"), if frozen { "1" } else { "0" })?;
            return self.wait_frozen(frozen);
        }
        let Some(dir) = self.dir_of("freezer") else {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "this host has no freezer"));
        };
        std::fs::write(dir.join("freezer.state"), if frozen { "FROZEN" } else { "THAWED" })?;
        self.wait_frozen(frozen)
    }

    fn wait_frozen(&self, frozen: bool) -> io::Result<()> {
        for _ in 0..1000 {
            if self.is_frozen() == frozen {
                return Ok(());
            }
            pause(Duration::from_millis(1));
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "the cgroup does not freeze"))
    }

    /// Whether all processes are stopped.
    pub fn is_frozen(&self) -> bool {
        if self.is_v2() {
            let Some(dir) = self.unified_dir() else { return false };
            let events = std::fs::read_to_string(dir.join("cgroup.events")).unwrap_or_default();
            return usage::field(&events, "frozen") == 1;
        }
        let Some(dir) = self.dir_of("freezer") else { return false };
        std::fs::read_to_string(dir.join("freezer.state")).is_ok_and(|state| state.trim() == "FROZEN")
    }

    /// The v2 directory as a detached mount.
    pub fn unified_tree(&self) -> io::Result<OwnedFd> {
        let missing = || io::Error::new(io::ErrorKind::NotFound, "no cgroup2 mount");
        let dir = self.unified_dir().ok_or_else(missing)?;
        Ok(crate::container::mounts::clone_tree(rustix::fs::CWD, &dir, false)?)
    }

    /// Whether it is there.
    pub fn exists(&self) -> bool {
        self.v1_dirs().map(|(_, dir)| dir).chain(self.unified_dir()).any(|dir| dir.is_dir())
    }

    /// The v2 directory, for clone3 with CLONE_INTO_CGROUP.
    pub fn birthplace(&self) -> io::Result<Option<OwnedFd>> {
        let Some(dir) = self.unified_dir() else { return Ok(None) };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Some(rustix::fs::open(dir, flags, Mode::empty())?))
    }

    /// The processes in the cgroup and below it.
    pub fn processes(&self) -> Vec<i32> {
        let dir = self.unified_dir().or_else(|| self.v1_dirs().next().map(|(_, dir)| dir));
        let mut found = Vec::new();
        let mut todo: Vec<PathBuf> = dir.into_iter().collect();
        while let Some(dir) = todo.pop() {
            let text = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
            todo.extend(subdirectories(&dir));
        }
        found
    }

    /// Kills everything in the cgroup and below it; the caller or init reaps.
    pub fn kill(&self) {
        if let Some(dir) = self.unified_dir()
            && std::fs::write(dir.join("cgroup.kill"), "1").is_ok()
        {
            return;
        }
        // Without cgroup.kill processes are frozen first, so that none forks away from its signal.
        let freezer = if self.is_v2() { None } else { self.dir_of("freezer") };
        let freeze = |state: &str| {
            if let Some(dir) = &freezer {
                let _ = std::fs::write(dir.join("freezer.state"), state);
            }
        };
        freeze("FROZEN");
        for pid in self.processes() {
            let _ = sys::kill(pid, libc::SIGKILL);
        }
        freeze("THAWED");
    }

    /// Removes the cgroup and those below it, waiting up to `patience` for processes that are just ending.
    pub fn remove(&self, patience: Duration) -> io::Result<()> {
        let mut left = patience;
        loop {
            let mut outcome = Ok(());
            for dir in self.v1_dirs().map(|(_, dir)| dir).chain(self.unified_dir()) {
                outcome = outcome.and(remove_tree(&dir));
            }
            match outcome {
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) && !left.is_zero() => {
                    let step = Duration::from_millis(2).min(left);
                    pause(step);
                    left -= step;
                }
                other => return other,
            }
        }
    }

    /// How many processes the kernel killed here for want of memory.
    pub fn oom_kills(&self) -> u64 {
        let file = if self.is_v2() { "memory.events" } else { "memory.oom_control" };
        let Some(dir) = self.dir_of("memory") else { return 0 };
        usage::field(&std::fs::read_to_string(dir.join(file)).unwrap_or_default(), "oom_kill")
    }
}

/// An error with the value that was refused.
fn named(error: io::Error, write: &limits::Write) -> io::Error {
    io::Error::new(error.kind(), format!("failed to write {:?} to {}: {error}", write.value, write.file))
}

/// A short wait for the kernel. The shim has one thread and no clock but the kernel's.
pub fn pause(time: Duration) {
    let request = rustix::time::Timespec { tv_sec: time.as_secs() as _, tv_nsec: time.subsec_nanos() as _ };
    let _ = rustix::thread::nanosleep(&request);
}

fn subdirectories(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn remove_tree(dir: &Path) -> io::Result<()> {
    match std::fs::remove_dir(dir) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(_) => {}
    }
    for below in subdirectories(dir) {
        remove_tree(&below)?;
    }
    match std::fs::remove_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Makes `dir` if it is missing.
fn make_dir(dir: &Path) -> io::Result<()> {
    match std::fs::create_dir(dir) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => {
            Err(io::Error::new(error.kind(), format!("failed to make cgroup {}: {error}", dir.display())))
        }
    }
}

/// The directories from just under `mount` down to `dir`.
fn steps<'a>(mount: &Path, dir: &'a Path) -> Vec<&'a Path> {
    let mut steps: Vec<&Path> = dir.ancestors().take_while(|step| *step != mount).collect();
    steps.reverse();
    steps
}

fn make_v1(mount: &Path, dir: &Path, cpuset: bool) -> io::Result<()> {
    let made = std::fs::create_dir(dir).is_ok();
    if made && (!cpuset || fill_cpuset(dir)?) {
        return Ok(());
    }
    for step in steps(mount, dir) {
        make_dir(step)?;
        // Also in those that were there: another shim may just have made them and not come to this yet.
        if cpuset {
            fill_cpuset(step)?;
        }
    }
    Ok(())
}

/// Gives a cpuset the processors and memory nodes of the one above it, if it has none: as long as it is empty
/// nothing can run in it. False when the one above it has none either.
fn fill_cpuset(dir: &Path) -> io::Result<bool> {
    let Some(above) = dir.parent() else { return Ok(false) };
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if !is_blank(&std::fs::read(dir.join(file))?) {
            continue;
        }
        let value = std::fs::read(above.join(file))?;
        if is_blank(&value) {
            return Ok(false);
        }
        std::fs::write(dir.join(file), value)?;
    }
    Ok(true)
}

fn is_blank(value: &[u8]) -> bool {
    value.iter().all(u8::is_ascii_whitespace)
}

fn make_v2(mount: &Path, dir: &Path, with_controllers: bool) -> io::Result<()> {
    if !with_controllers && std::fs::create_dir(dir).is_ok() {
        return Ok(());
    }
    for step in steps(mount, dir) {
        let above = step.parent().unwrap_or(mount);
        if with_controllers {
            enable_controllers(above);
        }
        make_dir(step)?;
    }
    Ok(())
}

/// Lets the children of `dir` have all controllers that `dir` has. One at a time: a controller that cannot be
/// enabled here does not keep the others away.
fn enable_controllers(dir: &Path) {
    let read = |file: &str| std::fs::read_to_string(dir.join(file)).unwrap_or_default();
    let (have, enabled) = (read("cgroup.controllers"), read("cgroup.subtree_control"));
    for controller in have.split_whitespace() {
        if !enabled.split_whitespace().any(|e| e == controller) {
            let _ = std::fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
        }
    }
}

fn attach_device_program(dir: &Path, rules: &[Rule]) -> io::Result<()> {
    let program = sys::bpf_load_cgroup_device(&devices::v2_program(rules))?;
    let dir = rustix::fs::open(dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    use rustix::fd::AsFd;
    sys::bpf_attach_cgroup_device(dir.as_fd(), program.as_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_table_tells_v1_hybrid_and_v2_apart() {
        let hybrid = "\
25 1 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
26 25 0:23 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
27 25 0:24 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
28 25 0:25 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
29 25 0:23 / /elsewhere rw,relatime - cgroup cgroup rw,cpu,cpuacct";
        let found = Hierarchies::parse(hybrid);
        assert!(!found.is_v2());
        assert_eq!(found.unified.as_deref(), Some(Path::new("/sys/fs/cgroup/unified")));
        assert_eq!(found.v1.len(), 2, "a hierarchy mounted twice counts once: {found:?}");
        assert_eq!(
            found.at("knarr/x").dir_of("cpuacct").as_deref(),
            Some(Path::new("/sys/fs/cgroup/cpu,cpuacct/knarr/x"))
        );
        let v2 = Hierarchies::parse("30 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate");
        assert!(v2.is_v2());
        assert_eq!(v2.at("knarr").dir_of("memory").as_deref(), Some(Path::new("/sys/fs/cgroup/knarr")));
    }

    #[test]
    fn the_steps_to_a_cgroup_start_below_the_mount() {
        let steps = steps(Path::new("/sys/fs/cgroup"), Path::new("/sys/fs/cgroup/a/b"));
        assert_eq!(steps, [Path::new("/sys/fs/cgroup/a"), Path::new("/sys/fs/cgroup/a/b")]);
    }
}
