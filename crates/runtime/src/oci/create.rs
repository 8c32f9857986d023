//! `create`: the cgroup, the fork, and what the creator does while the container puts itself together.

use super::config::{Config, Process};
use super::init::{self, Launch};
use super::mounts;
use super::namespaces;
use super::notify;
use super::program;
use super::state::{self, Container, FAILURE, FIFO, Place, Record};
use super::{hooks, resources};
use crate::cgroup::{Cgroup, Hierarchies};
use crate::container::sync::{Sync, Word};
use crate::container::{Context, Failure, process, users};
use crate::sys::{self, Forked};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Rlimit};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What `create` and `run` are told.
#[derive(Default)]
pub struct Options {
    pub root: PathBuf,
    pub bundle: PathBuf,
    pub id: String,
    pub console_socket: Option<PathBuf>,
    pub pid_file: Option<PathBuf>,
    /// Another name than `config.json`.
    pub config: Option<PathBuf>,
    pub no_pivot: bool,
    pub new_keyring: bool,
    pub preserve_fds: u32,
    pub systemd_cgroup: bool,
    /// `start` waits for the program's readiness, where a manager wants to know of it.
    pub notify: bool,
    /// The creator keeps the terminal's master, which goes to this socket.
    pub own_console: Option<OwnedFd>,
}

/// Makes the container; it waits for `start` afterwards.
pub fn create(options: Options) -> Result<Container, Failure> {
    let bundle =
        std::fs::canonicalize(&options.bundle).context(|| format!("bundle {}", options.bundle.display()))?;
    let file = bundle.join(options.config.as_deref().unwrap_or(Path::new("config.json")));
    let text = std::fs::read(&file).context(|| format!("open {}", file.display()))?;
    let mut config = state::parse_config(&text)?;
    let sockets = sockets_passed();
    if sockets > 0
        && let Some(process) = &mut config.process
    {
        process.env.extend([format!("LISTEN_FDS={sockets}"), "LISTEN_PID=1".to_owned()]);
    }
    if options.notify {
        notify::announce(&mut config, &options.root.join(&options.id));
    }
    let process = check(&config)?;
    let terminal = process.terminal;
    let console = match (&options.console_socket, options.own_console) {
        (Some(_), _) if !terminal => {
            return Err(Failure::new("cannot use console socket if the runtime will not allocate tty"));
        }
        (Some(path), _) => Some(program::connect(path).context(|| "connect to console socket")?),
        (None, own) => own,
    };
    if terminal && console.is_none() {
        return Err(Failure::new(
            "cannot allocate tty if the runtime will detach without setting console socket",
        ));
    }
    let root_path = config.root.as_ref().map_or("rootfs", |root| root.path.as_str());
    let rootfs = bundle.join(root_path);
    let record = Record {
        id: options.id.clone(),
        oci_version: config.oci_version.clone(),
        bundle: bundle.display().to_string(),
        rootfs: rootfs.display().to_string(),
        annotations: config.annotations.clone(),
        created: crate::shim::rfc3339(crate::shim::now()),
        cgroup: place(&config, &options.id, options.systemd_cgroup)?,
        ..Record::default()
    };
    let mut container = Container::make(&options.root, record, &text)?;
    let mut making = Making { cgroup: None, pid: 0, dir: container.dir.clone() };
    let lock = container.lock()?;
    if options.notify {
        notify::make_dir(&container.dir)?;
    }

    let cgroup = container.record.cgroup.cgroup()?;
    if cgroup.exists() && !cgroup.processes().is_empty() {
        return Err(Failure::new("container's cgroup is not empty"));
    }
    making.cgroup = Some(cgroup.clone());
    let cgroup_failed = || "unable to apply cgroup configuration";
    cgroup.create().context(cgroup_failed)?;
    let limits = &config.linux.resources;
    cgroup.write_all(resources::writes(limits, cgroup.is_v2())?).context(cgroup_failed)?;
    cgroup.allow_devices(&resources::device_rules(limits)?).context(cgroup_failed)?;

    let root_propagation = mounts::propagation(&config.linux.rootfs_propagation)?;
    let open = |name: &str, flags: OFlags| {
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::open(container.dir.join(name), flags | OFlags::CLOEXEC, mode)
            .context(|| format!("open {name}"))
    };
    let listener = config.linux.seccomp.as_ref().map(|s| &s.listener_path).filter(|path| !path.is_empty());
    let listener = match listener {
        Some(path) => Some(program::connect(Path::new(path)).context(|| "connect to seccomp listener")?),
        None => None,
    };
    let birthplace = cgroup.birthplace().context(cgroup_failed)?;
    let (near, far) = Sync::pair()?;
    // Before namespaces are entered, in which these would not be found.
    let taken = mounts::take(&config, &bundle, root_propagation.0)?;
    let views = mounts::take_cgroup_views(&config, &cgroup)?;
    let root = mounts::take_root(&rootfs, root_propagation)?;
    let doors = cgroup.v1_doors().context(cgroup_failed)?;
    let (fifo, failure) = (open(FIFO, OFlags::RDWR)?, open(FAILURE, OFlags::CREATE | OFlags::WRONLY)?);

    let (flags, joined, back) = namespaces::enter(&config)?;
    let into = birthplace.as_ref().map(AsFd::as_fd);
    let forked = users::fork_in(flags, joined.user.as_ref().map(AsFd::as_fd), into);
    let pid = match forked {
        Ok(Forked::Child) => {
            // The lock would be held for as long as the child has a copy.
            drop((near, lock));
            init::run(Launch {
                config: &config,
                process,
                id: &options.id,
                bundle: &container.record.bundle,
                cgroup: &cgroup,
                namespaces: joined,
                root,
                root_propagation,
                taken,
                views,
                doors,
                console,
                listener,
                fifo,
                failure,
                sync: far,
                no_pivot: options.no_pivot,
                new_keyring: options.new_keyring,
                preserve_fds: options.preserve_fds + sockets,
            })
        }
        Ok(Forked::Parent(pid)) => pid,
        Err(failure) => {
            back.go()?;
            return Err(failure);
        }
    };
    making.pid = pid;
    drop((far, root, taken, views, doors, console, listener, fifo, failure));
    back.go()?;
    if config.makes("user") {
        users::write_mappings(pid, &config.linux.uid_mappings, &config.linux.gid_mappings)
            .context(|| "write user namespace mappings")?;
    }
    if config.namespace("user").is_some() {
        // There it has not the right to raise them itself; it waits until it is told to go on.
        set_limits(pid, process)?;
    }
    near.go(pid);
    container.record.pid = pid;
    loop {
        match near.listen() {
            Word::Hooks => {
                let state = container.state("creating");
                hooks::run("prestart", &config.hooks.prestart, &state)?;
                hooks::run("createRuntime", &config.hooks.create_runtime, &state)?;
                near.go(pid);
            }
            Word::Ready => break,
            Word::Failed(text) => {
                return Err(Failure::new(format!("unable to start container process: {text}")));
            }
            Word::Closed => {
                return Err(Failure::new("container init died before it was ready"));
            }
        }
    }
    container.record.start_ticks =
        state::start_ticks(pid).ok_or_else(|| Failure::new("container init is gone"))?;
    container.save()?;
    if let Some(path) = &options.pid_file {
        write_pid_file(path, pid)?;
    }
    drop(lock);
    making.keep();
    Ok(container)
}

/// How many sockets a service manager passed to this process for its container (sd_listen_fds(3)).
fn sockets_passed() -> u32 {
    let number = |name| std::env::var(name).ok()?.parse::<u32>().ok();
    match number("LISTEN_PID") {
        Some(pid) if pid == std::process::id() => number("LISTEN_FDS").unwrap_or(0).min(1024),
        _ => 0,
    }
}

/// What is undone when the creation fails.
struct Making {
    cgroup: Option<Cgroup>,
    pid: i32,
    dir: PathBuf,
}

impl Making {
    fn keep(mut self) {
        self.pid = 0;
        self.cgroup = None;
        self.dir = PathBuf::new();
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        if self.pid > 0 {
            let _ = sys::kill(self.pid, libc::SIGKILL);
            sys::reap_child(self.pid);
        }
        if let Some(cgroup) = &self.cgroup {
            cgroup.kill();
            let _ = cgroup.remove(Duration::from_secs(2));
        }
        if !self.dir.as_os_str().is_empty() {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

/// Sets limits and the score of a child that cannot do it itself.
pub fn set_limits(pid: i32, process: &Process) -> Result<(), Failure> {
    set_rlimits(Pid::from_raw(pid), process)?;
    set_oom_score(&pid.to_string(), process)
}

/// Sets resource limits of a process, or of this one.
pub fn set_rlimits(pid: Option<Pid>, process: &Process) -> Result<(), Failure> {
    for limit in &process.rlimits {
        let bound = |value: u64| (value != u64::MAX).then_some(value);
        let new = Rlimit { current: bound(limit.soft), maximum: bound(limit.hard) };
        rustix::process::prlimit(pid, process::resource(&limit.kind)?, new)
            .context(|| format!("error setting rlimit type {}", limit.kind))?;
    }
    Ok(())
}

/// Sets how readily the kernel kills the process, by its name in `/proc`.
pub fn set_oom_score(pid: &str, process: &Process) -> Result<(), Failure> {
    let Some(score) = process.oom_score_adj else { return Ok(()) };
    match std::fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string()) {
        // As for pods: without the right to lower it the score stays.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Ok(()),
        written => written.context(|| "write oom_score_adj"),
    }
}

/// Writes a PID file in one step.
pub fn write_pid_file(path: &Path, pid: i32) -> Result<(), Failure> {
    let what = || format!("write pid file {}", path.display());
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    let temporary = path.with_file_name(name);
    std::fs::write(&temporary, pid.to_string()).context(what)?;
    std::fs::rename(&temporary, path).context(what)
}

/// Refuses what cannot be done; what is left has a process.
fn check(config: &Config) -> Result<&Process, Failure> {
    let refuse = |text: &str| Err(Failure::new(text));
    let mut version = config.oci_version.split('.').map(|part| part.parse::<u32>().ok());
    if version.next().flatten() != Some(1) {
        return Err(Failure::new(format!("unsupported ociVersion {:?}", config.oci_version)));
    }
    let Some(process) = &config.process else { return refuse("process property must not be empty") };
    if process.args.is_empty() {
        return refuse("args must not be empty");
    }
    if !process.cwd.starts_with('/') {
        return refuse("Cwd must be an absolute path");
    }
    let linux = &config.linux;
    let mut seen = Vec::new();
    for namespace in &linux.namespaces {
        if namespaces::flag(&namespace.kind).is_none() {
            return Err(Failure::new(format!("namespace {:?} does not exist", namespace.kind)));
        }
        if seen.contains(&&namespace.kind) {
            return Err(Failure::new(format!("malformed spec file: duplicated ns {:?}", namespace.kind)));
        }
        seen.push(&namespace.kind);
    }
    if !config.hostname.is_empty() && config.namespace("uts").is_none() {
        return refuse("unable to set hostname without a private UTS namespace");
    }
    if !config.domainname.is_empty() && config.namespace("uts").is_none() {
        return refuse("unable to set domainname without a private UTS namespace");
    }
    if config.makes("user") && (linux.uid_mappings.is_empty() || linux.gid_mappings.is_empty()) {
        return refuse("user namespaces enabled, but no uid or gid mappings found");
    }
    if config.namespace("user").is_none() && !linux.uid_mappings.is_empty() {
        return refuse("user namespace mappings specified, but user namespace isn't enabled in the config");
    }
    if !linux.time_offsets.is_empty() && !config.makes("time") {
        return refuse("time namespace offsets specified, but time namespace isn't enabled in the config");
    }
    if linux.intel_rdt.is_some() {
        return refuse("intelRdt is specified in config, but Intel RDT is not supported");
    }
    if !linux.mount_label.is_empty() && !Path::new("/sys/fs/selinux/enforce").exists() {
        return refuse("selinux label is specified in config, but selinux is disabled or not supported");
    }
    for mount in &config.mounts {
        if !mount.destination.starts_with('/') && mount.destination.is_empty() {
            return refuse("mount destination must not be empty");
        }
    }
    for name in linux.sysctl.keys() {
        check_sysctl(config, name)?;
    }
    Ok(process)
}

/// Only sysctls of a namespace of the container's own may be set.
fn check_sysctl(config: &Config, name: &str) -> Result<(), Failure> {
    const IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    let dotted = name.replace('/', ".");
    let kind = if IPC.contains(&dotted.as_str()) || dotted.starts_with("fs.mqueue.") {
        "ipc"
    } else if dotted.starts_with("net.") {
        "network"
    } else if matches!(dotted.as_str(), "kernel.domainname" | "kernel.hostname") {
        "uts"
    } else {
        return Err(Failure::new(format!("sysctl {name:?} is not in a separate kernel namespace")));
    };
    match config.namespace(kind) {
        Some(_) => Ok(()),
        None => {
            Err(Failure::new(format!("sysctl {name:?} is not allowed as it is not in a private namespace")))
        }
    }
}

/// Where the cgroup is to be.
fn place(config: &Config, id: &str, systemd: bool) -> Result<Place, Failure> {
    let wanted = config.linux.cgroups_path.as_str();
    if systemd {
        let text = "systemd cgroup flag passed, but systemd support for managing cgroups is not available";
        return Err(Failure::new(text));
    }
    if wanted.split('/').any(|part| part == "..") {
        return Err(Failure::new(format!("invalid cgroupsPath {wanted:?}")));
    }
    if wanted.starts_with('/') {
        return Ok(Place { path: wanted.to_owned(), ..Place::default() });
    }
    let own = std::fs::read_to_string("/proc/self/cgroup").context(|| "read own cgroup")?;
    let hierarchies = Hierarchies::read().context(|| "read mount table")?;
    let path = if wanted.is_empty() { id } else { wanted };
    Ok(Place { path: path.to_owned(), bases: hierarchies.own(&own) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn what_cannot_be_done_is_refused_in_runcs_words() {
        let full = |more: &str| {
            format!(
                r#"{{"ociVersion":"1.2.0","process":{{"args":["x"],"cwd":"/"}},"linux":{{"namespaces":[{{"type":"mount"}}]{more}}}}}"#
            )
        };
        check(&config(&full(""))).unwrap();
        for (text, expected) in [
            (r#"{"ociVersion":"2.0.0"}"#.to_owned(), "unsupported ociVersion"),
            (r#"{"ociVersion":"1.0.0"}"#.to_owned(), "process property must not be empty"),
            (full(r#","intelRdt":{}"#), "Intel RDT is not supported"),
            (full(r#","sysctl":{"vm.swappiness":"1"}"#), "not in a separate kernel namespace"),
            (full(r#","sysctl":{"net.ipv4.ip_forward":"1"}"#), "not allowed"),
            (full(r#","uidMappings":[{"containerID":0,"hostID":1,"size":1}]"#), "user namespace"),
        ] {
            let error = check(&config(&text)).unwrap_err().text();
            assert!(error.contains(expected), "{error} for {text}");
        }
    }
}
