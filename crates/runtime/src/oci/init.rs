//! The container's first process between the fork and its program: it puts the container together around itself,
//! tells its creator, and waits at the fifo for `start`.

use super::config::{Config, Process, State};
use super::mounts::{self, Taken};
use super::namespaces::Joined;
use super::program::{self, Program};
use super::{devices, hooks};
use crate::cgroup::Cgroup;
use crate::container::mounts::{attach, protect_paths};
use crate::container::sync::{Sync, Word};
use crate::container::{Context, Failure, path, rootfs};
use crate::sys::{self, MountAttr};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::MountPropagationFlags;
use std::convert::Infallible;
use std::path::Path;

/// What the child is given.
pub struct Launch<'a> {
    pub config: &'a Config,
    pub process: &'a Process,
    pub id: &'a str,
    pub bundle: &'a str,
    pub cgroup: &'a Cgroup,
    pub namespaces: Joined,
    pub root: OwnedFd,
    pub root_propagation: (u64, bool),
    pub taken: Vec<Option<Taken>>,
    pub views: Vec<(String, OwnedFd)>,
    pub doors: Vec<OwnedFd>,
    /// Where the terminal goes.
    pub console: Option<OwnedFd>,
    /// Where a seccomp listener goes.
    pub listener: Option<OwnedFd>,
    pub fifo: OwnedFd,
    pub failure: OwnedFd,
    pub sync: Sync,
    pub no_pivot: bool,
    pub new_keyring: bool,
    pub preserve_fds: u32,
}

/// Becomes the container. Never returns.
pub fn run(launch: Launch<'_>) -> ! {
    let late = launch.failure.try_clone();
    let told = std::cell::Cell::new(false);
    let sync = std::cell::RefCell::new(None);
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| start(launch, &sync, &told)));
    let failure = match outcome {
        Ok(Ok(never)) => match never {},
        Ok(Err(failure)) => failure,
        Err(_) => Failure::new("panic in container init"),
    };
    match (sync.take(), late) {
        (Some(sync), _) if !told.get() => Sync::say(&sync, &Word::Failed(failure.text())),
        (_, Ok(late)) => {
            let _ = rustix::io::write(&late, failure.text().as_bytes());
        }
        _ => {}
    }
    sys::exit_now(1)
}

fn start(
    launch: Launch<'_>,
    sync_place: &std::cell::RefCell<Option<Sync>>,
    told: &std::cell::Cell<bool>,
) -> Result<Infallible, Failure> {
    let (config, process) = (launch.config, launch.process);
    *sync_place.borrow_mut() = Some(launch.sync);
    let borrowed = sync_place.borrow();
    let Some(sync) = borrowed.as_ref() else { return Err(Failure::new("no socket")) };
    sys::reset_signals();
    sys::close_on_exec_from(3 + launch.preserve_fds);
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .context(|| "set dumpable")?;
    let _ = rustix::process::setsid();
    let in_user_namespace = config.namespace("user").is_some();
    let hooks = &config.hooks;
    let runtime_hooks = !hooks.prestart.is_empty() || !hooks.create_runtime.is_empty();
    let needs_pid = in_user_namespace
        || !hooks.create_container.is_empty()
        || !hooks.start_container.is_empty()
        || launch.listener.is_some();
    let pid = if needs_pid { sync.wait()? } else { 0 };
    let state = |status| State {
        oci_version: &config.oci_version,
        id: launch.id,
        status,
        pid,
        bundle: launch.bundle,
        annotations: &config.annotations,
    };
    if !in_user_namespace {
        super::create::set_oom_score("self", process)?;
    }
    for door in &launch.doors {
        rustix::io::write(door, b"0").context(|| "unable to apply cgroup configuration")?;
    }
    launch.namespaces.enter(config)?;
    if in_user_namespace {
        sys::set_ids(&[], 0, 0)
            .or_else(|_| sys::set_ids_alone(0, 0))
            .context(|| "become root of the user namespace")?;
    }
    if launch.new_keyring {
        // Kernels and sandboxes without keyrings, and full quotas, are no reason not to run.
        let _ = sys::oci::join_session_keyring(&format!("_ses.{}", launch.id));
    }
    set_names(config)?;
    crate::shim::set_sysctls(&config.linux.sysctl)?;

    // The root goes on top of the current one: its own path may be closed to a user namespace. Without a mount
    // namespace it stays detached, so that the host's mount table does not change and nothing is left behind;
    // mounts on detached ones are possible since Linux 6.15.
    let own_mounts = config.namespace("mount").is_some();
    if own_mounts {
        put_on_top(&launch.root)?;
    }
    let root = launch.root.as_fd();
    let mut views = launch.views;
    let source = (Path::new(launch.bundle), launch.root_propagation.0);
    mounts::mount_all(root, config, source, launch.taken, launch.cgroup, &mut views)?;
    devices::make(root, config, in_user_namespace)?;

    if runtime_hooks {
        sync.say(&Word::Hooks);
        sync.wait()?;
    }
    hooks::run("createContainer", &hooks.create_container, &state("creating"))?;
    if !process.cwd.is_empty() {
        path::make_dir(root, process.cwd.as_ref())?;
    }
    if launch.no_pivot || !own_mounts {
        rustix::process::fchdir(root).context(|| "chdir to root file system")?;
        rustix::process::chroot(".").context(|| "chroot")?;
    } else {
        rootfs::pivot(root)?;
    }
    let (propagation, recursive) = launch.root_propagation;
    if propagation != libc::MS_SLAVE {
        let attr = MountAttr { propagation, ..MountAttr::default() };
        sys::mount_setattr(root, recursive, attr).context(|| "error setting rootfs propagation")?;
    }
    match &launch.console {
        Some(socket) if process.terminal => program::set_up_terminal(process, socket, true)?,
        _ => program::reopen_null(),
    }
    if config.root.as_ref().is_some_and(|root| root.readonly) {
        rootfs::make_read_only()?;
    }
    protect_paths(CWD, &config.linux.readonly_paths, &config.linux.masked_paths)?;

    drop(launch.console);
    let program = Program::prepare(config, process, launch.listener, &state("creating"))?;
    sync.say(&Word::Ready);
    told.set(true);
    wait_for_start(&launch.fifo)?;
    drop(borrowed);
    sync_place.borrow_mut().take();
    hooks::run("startContainer", &hooks.start_container, &state("created"))?;
    program.run()
}

/// Mounts the root file system over the current root.
fn put_on_top(root: &OwnedFd) -> Result<(), Failure> {
    let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", slave).context(|| "error setting propagation of /")?;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let top = rustix::fs::open("/", flags, Mode::empty()).context(|| "open /")?;
    attach(root.as_fd(), top.as_fd()).context(|| "error mounting root file system")
}

/// Waits for the byte that `start` writes.
fn wait_for_start(fifo: &OwnedFd) -> Result<(), Failure> {
    let mut byte = [0];
    loop {
        match rustix::io::read(fifo, &mut byte) {
            Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(error).context(|| "wait for start"),
        }
    }
}

fn set_names(config: &Config) -> Result<(), Failure> {
    if config.makes("network") {
        sys::loopback_up().context(|| "bring up loopback")?;
    }
    if !config.hostname.is_empty() {
        rustix::system::sethostname(config.hostname.as_bytes()).context(|| "sethostname")?;
    }
    if !config.domainname.is_empty() {
        rustix::system::setdomainname(config.domainname.as_bytes()).context(|| "setdomainname")?;
    }
    Ok(())
}

/// Whether a mount covers `/dev` with a directory of the host's, whose devices are then the container's.
pub fn host_dev(config: &Config) -> bool {
    config
        .mounts
        .iter()
        .any(|m| Path::new(&m.destination) == Path::new("/dev") && mounts::options(m).bind.is_some())
}
