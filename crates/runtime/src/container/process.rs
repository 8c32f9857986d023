//! The last steps before `execve`: terminal or pipes, identity, capabilities, seccomp, and the program itself.
//! The order is runc's: without `no_new_privs` the filter is installed while CAP_SYS_ADMIN is still there.

use super::mounts::{attach, clone_tree};
use super::{Context, Failure, Stdio, capabilities, path, reason, send, user};
use crate::spec::ContainerSpec;
use crate::{seccomp, sys};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags, Uid};
use rustix::process::{DumpableBehavior, Resource, Rlimit, Signal};
use rustix::pty::OpenptFlags;
use std::convert::Infallible;
use std::ffi::CString;
use std::io::Write;
use std::path::Path;

/// The search path of containers whose image gives none.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What every child does first.
pub fn begin(oom_score_adj: i32) -> Result<(), Failure> {
    sys::reset_signals();
    sys::close_on_exec_from(3);
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .context(|| "set parent death signal")?;
    // Nobody inside the container may look into this process while it still is Knarr's program.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).context(|| "set dumpable")?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let _ = rustix::process::setsid();
    match std::fs::write("/proc/self/oom_score_adj", oom_score_adj.to_string()) {
        // Lowering it takes CAP_SYS_RESOURCE, which root of a sandboxed machine may lack. The pod is then as likely
        // to be chosen as Knarr itself, which is no reason not to run it.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Ok(()),
        written => written.context(|| "write oom_score_adj"),
    }
}

/// Opens a terminal of the container's own: the master and the slave. `console`: the slave is `/dev/console` too.
pub fn open_terminal(console: bool) -> Result<(OwnedFd, OwnedFd), Failure> {
    let what = || "open terminal";
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = rustix::fs::open("/dev/pts/ptmx", flags, Mode::empty()).context(what)?;
    rustix::pty::unlockpt(&master).context(what)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).context(what)?;
    if console {
        let flags = OFlags::CREATE | OFlags::CLOEXEC | OFlags::WRONLY | OFlags::NOFOLLOW;
        let place = rustix::fs::open("/dev/console", flags, Mode::from_raw_mode(0o666)).context(what)?;
        let name = rustix::pty::ptsname(&master, Vec::new()).context(what)?;
        let name = Path::new(name.to_str().unwrap_or_default());
        let tree = clone_tree(CWD, name, false).context(|| "clone terminal")?;
        attach(tree.as_fd(), place.as_fd()).context(|| "mount /dev/console")?;
    }
    Ok((master, slave))
}

/// Applies resource limits.
pub fn set_rlimits(limits: &[(String, u64, u64)]) -> Result<(), Failure> {
    for (name, soft, hard) in limits {
        let resource = resource(name)?;
        let limit = Rlimit { current: Some(*soft), maximum: Some(*hard) };
        rustix::process::setrlimit(resource, limit)
            .context(|| format!("error setting rlimit type {name}"))?;
    }
    Ok(())
}

/// A resource by name.
pub fn resource(name: &str) -> Result<Resource, Failure> {
    let known = RESOURCES.iter().find(|(known, _)| *known == name);
    known.map(|(_, resource)| *resource).ok_or_else(|| Failure::new(format!("invalid rlimit type {name:?}")))
}

const RESOURCES: [(&str, Resource); 15] = [
    ("RLIMIT_AS", Resource::As),
    ("RLIMIT_CORE", Resource::Core),
    ("RLIMIT_CPU", Resource::Cpu),
    ("RLIMIT_DATA", Resource::Data),
    ("RLIMIT_FSIZE", Resource::Fsize),
    ("RLIMIT_LOCKS", Resource::Locks),
    ("RLIMIT_MEMLOCK", Resource::Memlock),
    ("RLIMIT_MSGQUEUE", Resource::Msgqueue),
    ("RLIMIT_NICE", Resource::Nice),
    ("RLIMIT_NOFILE", Resource::Nofile),
    ("RLIMIT_NPROC", Resource::Nproc),
    ("RLIMIT_RSS", Resource::Rss),
    ("RLIMIT_RTPRIO", Resource::Rtprio),
    ("RLIMIT_SIGPENDING", Resource::Sigpending),
    ("RLIMIT_STACK", Resource::Stack),
];

/// The environment: what containerd sets by itself, then the spec's; the last of a name counts.
pub fn environment(spec: &ContainerSpec, hostname: &str, terminal: bool) -> Vec<String> {
    let mut env: Vec<String> = vec![DEFAULT_PATH.to_owned(), format!("HOSTNAME={hostname}")];
    if terminal {
        env.push("TERM=xterm".to_owned());
    }
    for entry in &spec.env {
        let name = entry.split('=').next().unwrap_or_default();
        let same = |known: &String| known.split('=').next() == Some(name);
        match env.iter().position(same) {
            Some(at) => env[at].clone_from(entry),
            None => env.push(entry.clone()),
        }
    }
    env
}

/// A program about to be run.
pub struct Program<'a> {
    /// The container it runs in.
    pub spec: &'a ContainerSpec,
    /// Command and arguments.
    pub args: &'a [String],
    /// Text of the seccomp profile's file.
    pub profile: &'a [u8],
    /// Environment, without HOME if that is to be found out.
    pub env: Vec<String>,
}

impl Program<'_> {
    /// Becomes the program. Comes back only with a failure.
    pub fn become_it(
        mut self,
        terminal: Option<(OwnedFd, OwnedFd)>,
        stdio: Stdio,
        sync: OwnedFd,
    ) -> Result<Infallible, Failure> {
        let spec = self.spec;
        let read = |path: &str| std::fs::read(path).map(|b| String::from_utf8_lossy(&b).into_owned());
        let passwd = read("/etc/passwd").unwrap_or_default();
        let group = read("/etc/group").unwrap_or_default();
        let identity = user::resolve(spec, &passwd, &group)?;
        send(sync.as_fd(), &identity.told(), None);
        if !self.env.iter().any(|entry| entry.starts_with("HOME=")) {
            self.env.push(format!("HOME={}", identity.home));
        }

        let owner = Some(Uid::from_raw(identity.uid));
        match terminal {
            Some((master, slave)) => {
                send(sync.as_fd(), b"", Some(master.as_fd()));
                drop(master);
                sys::set_controlling_terminal(slave.as_fd()).context(|| "set controlling terminal")?;
                let _ = rustix::fs::fchown(&slave, owner, None);
                for target in 0..3 {
                    sys::dup_onto(slave.as_fd(), target).context(|| "set up standard streams")?;
                }
            }
            None => {
                let null = || rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
                for (target, stream) in [(0, stdio.stdin), (1, stdio.stdout), (2, stdio.stderr)] {
                    let stream = match stream {
                        // So that a user who is not root can open /dev/stdout anew.
                        Some(pipe) => {
                            let _ = rustix::fs::fchown(&pipe, owner, None);
                            pipe
                        }
                        None => null().context(|| "open /dev/null")?,
                    };
                    sys::dup_onto(stream.as_fd(), target).context(|| "set up standard streams")?;
                }
            }
        }

        if let Some(profile) = spec.apparmor.as_deref().filter(|p| !p.is_empty() && *p != "unconfined") {
            apply_apparmor(profile)?;
        }
        if spec.no_new_privileges {
            rustix::thread::set_no_new_privs(true).context(|| "set no_new_privs")?;
        } else {
            self.install_filter()?;
        }
        let cwd = if spec.cwd.is_empty() { "/" } else { &spec.cwd };
        let as_root = rustix::process::chdir(cwd);
        self.change_identity(&identity)?;
        if as_root.is_err() {
            // A directory on a network file system may be open to the user and not to root.
            let chdir = rustix::process::chdir(cwd);
            chdir.context(|| format!("chdir to cwd ({cwd:?}) set in config.json failed"))?;
        }
        let search = self.env.iter().find_map(|entry| entry.strip_prefix("PATH="));
        let Some(name) = self.args.first() else { return Err(Failure::new("args must not be empty")) };
        let file = path::look_up(name, search)?;

        let text = |text: &str| {
            CString::new(text).map_err(|_| Failure::new(format!("exec: {text:?}: invalid argument")))
        };
        let args = self.args.iter().map(|arg| text(arg)).collect::<Result<Vec<_>, _>>()?;
        let env = self.env.iter().map(|entry| text(entry)).collect::<Result<Vec<_>, _>>()?;
        let program = text(&file.to_string_lossy())?;
        // A change of identity clears the signal, so it is set once more.
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
            .context(|| "set parent death signal")?;
        if spec.no_new_privileges {
            self.install_filter()?;
        }
        let error = sys::execve(&program, &args, &env);
        // As with runc the container has started by now: the reason is the last line of its output.
        let _ = writeln!(std::io::stderr(), "exec {}: {}", file.display(), reason(&error));
        drop(sync);
        sys::exit_now(255)
    }

    /// The filter is made here and not in the shim, whose memory it would take.
    fn install_filter(&self) -> Result<(), Failure> {
        let filter = seccomp::filter(self.spec, self.profile).map_err(Failure::new)?;
        if filter.is_empty() {
            return Ok(());
        }
        sys::seccomp_set_filter(&filter, 0).context(|| "unable to init seccomp: error loading seccomp filter")
    }

    fn change_identity(&self, identity: &user::Identity) -> Result<(), Failure> {
        let wanted = capabilities::mask(self.spec)
            .map_err(|name| Failure::new(format!("unknown capability \"CAP_{name}\"")))?;
        // What Knarr itself does not have it cannot give.
        let own = rustix::thread::capabilities(None).context(|| "read capabilities")?.permitted.bits();
        let mask = wanted & own;
        for capability in (0..=capabilities::LAST).filter(|c| mask & 1 << c == 0) {
            sys::drop_bounding(capability);
        }
        rustix::thread::set_keep_capabilities(true).context(|| "unable to set keep caps")?;
        sys::set_ids(&identity.groups, identity.gid, identity.uid).context(|| "unable to setup user")?;
        let _ = rustix::thread::set_keep_capabilities(false);
        let _ = rustix::thread::clear_ambient_capability_set();
        sys::set_capabilities(mask).context(|| "unable to apply caps")
    }
}

/// Has the program run under an AppArmor profile.
pub fn apply_apparmor(profile: &str) -> Result<(), Failure> {
    let line = format!("exec {profile}");
    let what = || format!("unable to apply apparmor profile {profile:?}");
    let lsm = Path::new("/proc/thread-self/attr/apparmor/exec");
    let file = if lsm.exists() { lsm } else { Path::new("/proc/thread-self/attr/exec") };
    std::fs::write(file, line).context(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_has_defaults_and_the_last_of_a_name_counts() {
        let mut spec = crate::test_spec();
        spec.env = vec!["A=1".to_owned(), "PATH=/x".to_owned(), "A=2=3".to_owned()];
        assert_eq!(environment(&spec, "web-0", true), ["PATH=/x", "HOSTNAME=web-0", "TERM=xterm", "A=2=3"]);
    }
}
