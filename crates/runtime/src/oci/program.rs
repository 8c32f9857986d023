//! The last steps of a container's process or an exec's, inside its namespaces and root: terminal, identity,
//! capabilities, labels, seccomp, and the program. Two halves: what can fail is done before the creator is told
//! that the process is ready, the rest when it may go on.

use super::config::{Capabilities, Config, Process, State};
use super::create;
use crate::container::{Context, Failure, capabilities, path, process, send};
use crate::seccomp;
use crate::sys::{self, SockFilter, oci::SchedAttr};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FileType, Gid, Mode, OFlags, Uid};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::termios::Winsize;
use std::convert::Infallible;
use std::ffi::CString;
use std::path::{Path, PathBuf};

/// A process about to become its program.
pub struct Program<'a> {
    config: &'a Config,
    process: &'a Process,
    file: PathBuf,
    env: Vec<String>,
    /// Still to be installed.
    filter: Option<Filter>,
}

struct Filter {
    program: Vec<SockFilter>,
    flags: u32,
    /// Where the listener's descriptor goes, and what with it.
    listener: Option<(OwnedFd, Vec<u8>)>,
}

/// Connects to a console or listener socket.
pub fn connect(path: &Path) -> std::io::Result<OwnedFd> {
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// Gives the process a terminal, whose master goes over `socket`.
pub fn set_up_terminal(process: &Process, socket: &OwnedFd, console: bool) -> Result<(), Failure> {
    let (master, slave) = process::open_terminal(console)?;
    if let Some(size) = process.console_size {
        let size = Winsize { ws_row: size.height, ws_col: size.width, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&master, size).context(|| "set console size")?;
    }
    send(socket.as_fd(), b"/dev/ptmx", Some(master.as_fd()));
    drop(master);
    sys::set_controlling_terminal(slave.as_fd()).context(|| "set controlling terminal")?;
    for target in 0..3 {
        sys::dup_onto(slave.as_fd(), target).context(|| "set up standard streams")?;
    }
    Ok(())
}

/// Streams that are the host's `/dev/null` become the container's.
pub fn reopen_null() {
    for number in 0..3 {
        let Ok(stat) = rustix::fs::fstat(sys::oci::standard(number)) else { continue };
        let null = rustix::fs::makedev(1, 3);
        if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice || stat.st_rdev != null {
            continue;
        }
        if let Ok(own) = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
            let _ = sys::dup_onto(own.as_fd(), number);
        }
    }
}

impl<'a> Program<'a> {
    /// Everything up to the point where the creator is told. `state`: for a seccomp listener.
    pub fn prepare(
        config: &'a Config,
        process: &'a Process,
        listener: Option<OwnedFd>,
        state: &State<'_>,
    ) -> Result<Self, Failure> {
        apply_scheduling(process)?;
        apply_labels(process)?;
        let sets = Sets::of(process.capabilities.as_ref());
        let mut filter = match &config.linux.seccomp {
            Some(file) => Some(filter(file, sets.effective, listener, state)?),
            None => None,
        };
        if process.no_new_privileges {
            rustix::thread::set_no_new_privs(true).context(|| "set no_new_privs")?;
        } else if let Some(filter) = filter.take() {
            // Later there may be no CAP_SYS_ADMIN, which it takes.
            filter.install()?;
        }
        let env = environment(process);
        let cwd = if process.cwd.is_empty() { "/" } else { &process.cwd };
        let as_root = rustix::process::chdir(cwd);
        if config.namespace("user").is_none() {
            create::set_rlimits(None, process)?;
        }
        change_identity(process, &sets)?;
        if as_root.is_err() {
            let chdir = rustix::process::chdir(cwd);
            chdir.context(|| format!("chdir to cwd ({cwd:?}) set in config.json failed"))?;
        }
        let search = env.iter().find_map(|entry| entry.strip_prefix("PATH="));
        let Some(name) = process.args.first() else { return Err(Failure::new("args must not be empty")) };
        let file = path::look_up(name, search)?;
        Ok(Self { config, process, file, env, filter })
    }

    /// Becomes the program. Comes back only with a failure.
    pub fn run(self) -> Result<Infallible, Failure> {
        let text = |text: &str| {
            CString::new(text).map_err(|_| Failure::new(format!("exec: {text:?}: invalid argument")))
        };
        let args = self.process.args.iter().map(|arg| text(arg)).collect::<Result<Vec<_>, _>>()?;
        let env = self.env.iter().map(|entry| text(entry)).collect::<Result<Vec<_>, _>>()?;
        let program = text(&self.file.to_string_lossy())?;
        if let Some(personality) = &self.config.linux.personality {
            let persona = match personality.domain.as_str() {
                "LINUX" => 0,
                "LINUX32" => 8,
                other => return Err(Failure::new(format!("invalid personality domain {other:?}"))),
            };
            sys::oci::personality(persona).context(|| "set personality")?;
        }
        if let Some(filter) = self.filter {
            filter.install()?;
        }
        let error = sys::execve(&program, &args, &env);
        Err(error).context(|| format!("exec {}", self.file.display()))
    }
}

impl Filter {
    fn install(self) -> Result<(), Failure> {
        let what = || "unable to init seccomp: error loading seccomp filter";
        match self.listener {
            None => sys::seccomp_set_filter(&self.program, self.flags).context(what),
            Some((socket, state)) => {
                let listener = sys::oci::seccomp_listener(&self.program, self.flags).context(what)?;
                send(socket.as_fd(), &state, Some(listener.as_fd()));
                Ok(())
            }
        }
    }
}

fn filter(
    file: &seccomp::File,
    capabilities: u64,
    socket: Option<OwnedFd>,
    state: &State<'_>,
) -> Result<Filter, Failure> {
    let (program, flags, listens) = seccomp::filter_of(file, capabilities).map_err(Failure::new)?;
    let listener = if listens {
        let socket = socket.ok_or_else(|| Failure::new("seccomp: no connection to the listener"))?;
        // ContainerProcessState of config-linux.md.
        let told = serde_json::json!({
            "ociVersion": state.oci_version, "fds": ["seccompFd"], "pid": state.pid,
            "metadata": file.listener_metadata, "state": state,
        });
        Some((socket, serde_json::to_vec(&told).map_err(|e| Failure::new(e.to_string()))?))
    } else {
        None
    };
    Ok(Filter { program, flags, listener })
}

/// The environment, with HOME of the image's passwd file when none is given.
fn environment(process: &Process) -> Vec<String> {
    let mut env = process.env.clone();
    if !env.iter().any(|entry| entry.starts_with("HOME=")) {
        let passwd = std::fs::read("/etc/passwd").unwrap_or_default();
        let passwd = String::from_utf8_lossy(&passwd);
        let entry = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let home = entry
            .filter(|fields| fields.len() > 5 && fields[2].parse() == Ok(process.user.uid))
            .map(|fields| fields[5].to_owned())
            .next();
        env.push(format!("HOME={}", home.filter(|home| !home.is_empty()).unwrap_or_else(|| "/".to_owned())));
    }
    env
}

/// Capability sets as bits, no more than this process has.
struct Sets {
    bounding: u64,
    effective: u64,
    inheritable: u64,
    permitted: u64,
    ambient: u64,
}

impl Sets {
    fn of(wanted: Option<&Capabilities>) -> Self {
        // A name that is not known is passed over, as runc does since 1.1.
        let bits =
            |names: &[String]| names.iter().filter_map(|name| capabilities::bit(name)).fold(0, |a, b| a | b);
        let own = rustix::thread::capabilities(None).map_or(0, |sets| sets.permitted.bits());
        match wanted {
            None => Self { bounding: own, effective: own, inheritable: 0, permitted: own, ambient: 0 },
            Some(sets) => Self {
                bounding: bits(&sets.bounding) & own,
                effective: bits(&sets.effective) & own,
                inheritable: bits(&sets.inheritable) & own,
                permitted: bits(&sets.permitted) & own,
                ambient: bits(&sets.ambient) & own,
            },
        }
    }
}

fn change_identity(process: &Process, sets: &Sets) -> Result<(), Failure> {
    let user = &process.user;
    if user.uid != 0 {
        // So that the program can open /dev/stdout anew; what cannot be changed stays.
        for number in 0..3 {
            let stream = sys::oci::standard(number);
            let is_null = rustix::fs::fstat(stream).is_ok_and(|s| s.st_rdev == rustix::fs::makedev(1, 3));
            if !is_null {
                let _ = rustix::fs::fchown(stream, Some(Uid::from_raw(user.uid)), None::<Gid>);
            }
        }
    }
    sys::oci::umask(user.umask.unwrap_or(0o022));
    for capability in (0..=capabilities::LAST).filter(|c| sets.bounding & 1 << c == 0) {
        sys::drop_bounding(capability);
    }
    rustix::thread::set_keep_capabilities(true).context(|| "unable to set keep caps")?;
    sys::set_ids(&user.additional_gids, user.gid, user.uid).context(|| "unable to setup user")?;
    let _ = rustix::thread::set_keep_capabilities(false);
    sys::oci::set_capability_sets(sets.effective, sets.permitted, sets.inheritable)
        .context(|| "unable to apply caps")?;
    for capability in (0..=capabilities::LAST).filter(|c| sets.ambient & 1 << c != 0) {
        // One that is not inheritable cannot be ambient. runc goes on without it, and its own `spec` writes such sets.
        match sys::oci::raise_ambient(capability) {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {}
            raised => raised.context(|| "unable to apply ambient caps")?,
        }
    }
    Ok(())
}

fn apply_labels(process: &Process) -> Result<(), Failure> {
    let profile = process.apparmor_profile.as_str();
    if !profile.is_empty() && profile != "unconfined" {
        process::apply_apparmor(profile)?;
    }
    if !process.selinux_label.is_empty() {
        if !Path::new("/sys/fs/selinux/enforce").exists() {
            return Err(Failure::new(
                "selinux label is specified in config, but selinux is disabled or not supported",
            ));
        }
        std::fs::write("/proc/thread-self/attr/exec", &process.selinux_label)
            .context(|| format!("can't set process label {:?}", process.selinux_label))?;
    }
    Ok(())
}

fn apply_scheduling(process: &Process) -> Result<(), Failure> {
    if let Some(priority) = &process.io_priority {
        let class = match priority.class.as_str() {
            "IOPRIO_CLASS_RT" => 1,
            "IOPRIO_CLASS_BE" => 2,
            "IOPRIO_CLASS_IDLE" => 3,
            other => return Err(Failure::new(format!("invalid ioPriority.class {other:?}"))),
        };
        sys::oci::set_io_priority(class, priority.priority).context(|| "failed to set io priority")?;
    }
    let Some(scheduler) = &process.scheduler else { return Ok(()) };
    let policy = match scheduler.policy.as_str() {
        "SCHED_OTHER" => 0,
        "SCHED_FIFO" => 1,
        "SCHED_RR" => 2,
        "SCHED_BATCH" => 3,
        "SCHED_ISO" => 4,
        "SCHED_IDLE" => 5,
        "SCHED_DEADLINE" => 6,
        other => return Err(Failure::new(format!("invalid scheduler policy {other:?}"))),
    };
    let flags = scheduler.flags.iter().try_fold(0, |sum, name| {
        let flag = match name.as_str() {
            "SCHED_FLAG_RESET_ON_FORK" => 1,
            "SCHED_FLAG_RECLAIM" => 2,
            "SCHED_FLAG_DL_OVERRUN" => 4,
            "SCHED_FLAG_KEEP_POLICY" => 8,
            "SCHED_FLAG_KEEP_PARAMS" => 16,
            "SCHED_FLAG_UTIL_CLAMP_MIN" => 32,
            "SCHED_FLAG_UTIL_CLAMP_MAX" => 64,
            other => return Err(Failure::new(format!("invalid scheduler flag {other:?}"))),
        };
        Ok(sum | flag)
    })?;
    let attr = SchedAttr {
        policy,
        flags,
        nice: scheduler.nice,
        priority: scheduler.priority,
        runtime: scheduler.runtime,
        deadline: scheduler.deadline,
        period: scheduler.period,
        ..SchedAttr::default()
    };
    sys::oci::set_scheduler(attr).context(|| "error setting scheduler")
}
