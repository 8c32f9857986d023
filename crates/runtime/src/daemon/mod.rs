//! The daemon's side: one [`Runtime`] a node, one connection a shim.

mod connection;
mod lifecycle;
mod names;
mod sandbox;
mod session;
mod zygote;

pub use session::{Session, SessionControl};

use crate::RuntimeError;
use crate::cgroup::{Cgroup, Hierarchies};
use crate::protocol::{Answer, Op};
use crate::spec::{
    ContainerSpec, ContainerStatus, Event, ExecSpec, Resources, SandboxSpec, SandboxStatus, State, Usage,
};
use knarr_base::Ctx;
use knarr_base::clock::timeout;
use names::check_name;
pub use names::signal_number;
use sandbox::{CallError, Sandbox};
use session::Kind;
use std::collections::HashMap;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};
use tokio::sync::{mpsc, oneshot};
use zygote::Zygote;
pub use zygote::seal;

/// How long a shim may take to say who it is, to make its sandbox, or to end.
const SHIM_PATIENCE: Duration = Duration::from_secs(20);

/// How long a killed container may take to end; longer means a process that the kernel cannot end.
const KILL_PATIENCE: Duration = Duration::from_secs(60);

/// Where the runtime keeps its things.
#[derive(Clone, Debug)]
pub struct RuntimeOptions {
    /// Directory of the shims' sockets and records, one folder a pod; for example `<data>/runtime`.
    pub state_dir: PathBuf,
    /// cgroup under which everything is made, relative to the cgroup mounts; for example `knarr`.
    pub cgroup_root: String,
    /// The program that becomes the shim zygote; this program when `None`. Its `main` must call
    /// [`crate::zygote_main_if_asked`] first.
    pub shim_program: Option<PathBuf>,
}

/// The container runtime of a node.
pub struct Runtime {
    inner: Arc<Inner>,
}

struct Inner {
    ctx: Ctx,
    options: RuntimeOptions,
    hierarchies: Hierarchies,
    boot_id: String,
    zygote: Mutex<Option<Zygote>>,
    sandboxes: Mutex<HashMap<String, Slot>>,
    subscribers: Mutex<Vec<mpsc::UnboundedSender<Event>>>,
}

/// A pod's place in the table.
enum Slot {
    /// Its sandbox is being made.
    Making,
    /// Its sandbox.
    Made(Arc<Sandbox>),
}

impl Runtime {
    /// Starts the runtime: connects to the shims found in the state directory. A sandbox whose shim is dead
    /// (or of an earlier boot) is listed with `ready: false`, its containers ended with exit code 255, until
    /// it is removed.
    pub async fn open(ctx: &Ctx, options: RuntimeOptions) -> Result<Arc<Runtime>, RuntimeError> {
        let pods = options.state_dir.join("pods");
        make_private_dir(&pods)?;
        let hierarchies =
            Hierarchies::read().map_err(io_error("read mount table", "/proc/self/mountinfo"))?;
        if hierarchies.is_empty() {
            let what = "no cgroup file system is mounted; try: mount -t cgroup2 cgroup2 /sys/fs/cgroup";
            return Err(RuntimeError::Invalid(what.to_owned()));
        }
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map_err(io_error("read boot id", "/proc/sys/kernel/random/boot_id"))?;
        let inner = Arc::new(Inner {
            ctx: ctx.child("runtime"),
            hierarchies,
            boot_id: boot_id.trim().to_owned(),
            zygote: Mutex::new(None),
            sandboxes: Mutex::default(),
            subscribers: Mutex::default(),
            options,
        });
        let zygote = Zygote::start(inner.options.shim_program.as_ref(), &inner.options.cgroup_root)
            .map_err(|error| RuntimeError::Sandbox(format!("start the shim zygote: {error}")))?;
        *inner.lock_zygote() = Some(zygote);
        let entries = std::fs::read_dir(&pods).map_err(io_error("list", &pods))?;
        for entry in entries.flatten() {
            let dir = entry.path();
            if let Err(error) = inner.clone().adopt(dir.clone()).await {
                tracing::warn!(dir = %dir.display(), error = %Chain(&error), "cannot adopt a sandbox");
            }
        }
        Ok(Arc::new(Self { inner }))
    }

    /// Makes a pod's namespaces, cgroup and shim.
    pub async fn create_sandbox(&self, spec: SandboxSpec) -> Result<SandboxStatus, RuntimeError> {
        let uid = spec.pod_uid.clone();
        check_name("pod UID", &uid)?;
        if spec.cgroup.is_empty() || spec.cgroup.split('/').any(|part| part.is_empty() || part == "..") {
            return Err(RuntimeError::Invalid(format!("invalid cgroup {:?}", spec.cgroup)));
        }
        {
            let mut sandboxes = self.inner.lock_sandboxes();
            if sandboxes.contains_key(&uid) {
                return Err(RuntimeError::SandboxExists(uid));
            }
            sandboxes.insert(uid.clone(), Slot::Making);
        }
        // In a task of its own, so that a caller who stops waiting leaves nothing half made and unknown.
        let (tell, told) = oneshot::channel();
        let inner = self.inner.clone();
        self.inner.ctx.tasks.spawn("make-sandbox", async move {
            let made = inner.clone().make_sandbox(spec).await;
            let mut sandboxes = inner.lock_sandboxes();
            let outcome = match made {
                Ok(sandbox) => {
                    let status = sandbox.status();
                    sandboxes.insert(uid, Slot::Made(sandbox));
                    Ok(status)
                }
                Err(error) => {
                    sandboxes.remove(&uid);
                    Err(error)
                }
            };
            let _ = tell.send(outcome);
        });
        told.await.unwrap_or_else(|_| Err(RuntimeError::Sandbox("the runtime is stopping".to_owned())))
    }

    /// Kills and reaps everything in the sandbox, and removes its cgroups, mounts and state. Idempotent.
    pub async fn remove_sandbox(&self, pod_uid: &str) -> Result<(), RuntimeError> {
        let Ok(sandbox) = self.inner.get(pod_uid) else { return Ok(()) };
        sandbox.removing.store(true, Ordering::SeqCst);
        let asked = timeout(&*self.inner.ctx.clock, SHIM_PATIENCE, sandbox.call(Op::Shutdown)).await;
        if let Some(connection) = &sandbox.connection {
            connection.close();
        }
        if !matches!(asked, Some(Ok(_))) {
            if let Some(Err(CallError::Refused(refusal))) = asked {
                tracing::warn!(pod = pod_uid, ?refusal, "shim could not clean up");
            }
            let dead = sandbox.clone();
            let cleaned = tokio::task::spawn_blocking(move || dead.clean_up()).await;
            cleaned
                .unwrap_or_else(|error| Err(io::Error::other(error)))
                .map_err(|error| RuntimeError::Sandbox(format!("remove cgroup: {error}")))?;
        }
        match std::fs::remove_dir_all(&sandbox.dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_error("remove", &sandbox.dir)(error));
            }
            _ => {}
        }
        self.inner.lock_sandboxes().remove(pod_uid);
        sandbox.lost(self.inner.now_ns());
        Ok(())
    }

    /// All sandboxes as last heard of.
    pub fn sandboxes(&self) -> Vec<SandboxStatus> {
        self.inner.all().iter().map(|sandbox| sandbox.status()).collect()
    }

    /// One sandbox as last heard of.
    pub fn sandbox(&self, pod_uid: &str) -> Option<SandboxStatus> {
        self.inner.get(pod_uid).ok().map(|sandbox| sandbox.status())
    }

    /// Registers a container; nothing runs yet.
    pub async fn create_container(&self, pod_uid: &str, spec: ContainerSpec) -> Result<(), RuntimeError> {
        let sandbox = self.inner.get(pod_uid)?;
        check_name("container id", &spec.id)?;
        if spec.args.is_empty() {
            return Err(RuntimeError::Invalid("no command specified".to_owned()));
        }
        let status = ContainerStatus {
            id: spec.id.clone(),
            name: spec.name.clone(),
            attempt: spec.attempt,
            state: State::Created,
            pid: None,
            created_at_ns: self.inner.now_ns(),
            started_at_ns: 0,
            finished_at_ns: 0,
            exit_code: 0,
            oom_killed: false,
            labels: spec.labels.clone(),
            user: None,
        };
        let id = spec.id.clone();
        let created = sandbox.call(Op::Create(Box::new(spec))).await;
        created.map_err(|error| error.into_error(pod_uid, &id, false))?;
        sandbox.heard(status);
        Ok(())
    }

    /// Starts a created container. After [`RuntimeError::Start`] the container is ended with exit code 128.
    pub async fn start_container(&self, pod_uid: &str, id: &str) -> Result<ContainerStatus, RuntimeError> {
        let sandbox = self.inner.get(pod_uid)?;
        match sandbox.call(Op::Start { id: id.to_owned() }).await {
            Ok((Answer::Container(status), _)) => {
                sandbox.heard((*status).clone());
                Ok(*status)
            }
            Ok(_) => Err(RuntimeError::Protocol("unexpected answer".to_owned())),
            Err(error) => {
                let error = error.into_error(pod_uid, id, false);
                let failed = matches!(error, RuntimeError::Start(_) | RuntimeError::MustNotBeRoot);
                if failed && let Some(mut status) = sandbox.container(id) {
                    // Whom it would have run as is known even so.
                    status.user = sandbox.user_of(id).await;
                    status.state = State::Exited;
                    status.exit_code = 128;
                    status.finished_at_ns = self.inner.now_ns();
                    sandbox.heard(status);
                }
                Err(error)
            }
        }
    }

    /// Sends a signal (`SIGTERM`, `TERM` or a number) to the container's first process. Succeeds when it has
    /// ended already.
    pub async fn signal_container(&self, pod_uid: &str, id: &str, signal: &str) -> Result<(), RuntimeError> {
        let number = signal_number(signal)?;
        let sandbox = self.inner.get(pod_uid)?;
        let op = Op::Signal { id: id.to_owned(), signal: number, all: false };
        sandbox.call(op).await.map(drop).map_err(|error| error.into_error(pod_uid, id, false))
    }

    /// Sends `signal`, waits up to `grace` for the end, kills, and waits for the end. Zero kills at once.
    pub async fn stop_container(
        &self,
        pod_uid: &str,
        id: &str,
        grace: Duration,
        signal: &str,
    ) -> Result<ContainerStatus, RuntimeError> {
        let number = signal_number(signal)?;
        let sandbox = self.inner.get(pod_uid)?;
        let not_found = || RuntimeError::ContainerNotFound(id.to_owned());
        let status = sandbox.container(id).ok_or_else(not_found)?;
        if status.state != State::Running {
            return Ok(status);
        }
        let clock = &*self.inner.ctx.clock;
        let error = |error: CallError| error.into_error(pod_uid, id, false);
        if !grace.is_zero() {
            let op = Op::Signal { id: id.to_owned(), signal: number, all: false };
            sandbox.call(op).await.map_err(error)?;
            if let Some(status) = timeout(clock, grace, sandbox.ended(id)).await {
                return status.ok_or_else(not_found);
            }
        }
        let op = Op::Signal { id: id.to_owned(), signal: libc::SIGKILL, all: true };
        sandbox.call(op).await.map_err(error)?;
        match timeout(clock, KILL_PATIENCE, sandbox.ended(id)).await {
            Some(status) => status.ok_or_else(not_found),
            None => Err(RuntimeError::Shim(format!("container {id} does not end although killed"))),
        }
    }

    /// Kills the container if need be and forgets it, its exit status included. Logs stay. Idempotent.
    pub async fn remove_container(&self, pod_uid: &str, id: &str) -> Result<(), RuntimeError> {
        let Ok(sandbox) = self.inner.get(pod_uid) else { return Ok(()) };
        if sandbox.container(id).is_some_and(|status| status.state == State::Running) {
            self.stop_container(pod_uid, id, Duration::ZERO, "SIGKILL").await?;
        }
        match self.ask_to_remove(&sandbox, id).await {
            // A start that hangs, for example on a mount that does not answer.
            Err(RuntimeError::WrongState { .. }) => {
                let kill = Op::Signal { id: id.to_owned(), signal: libc::SIGKILL, all: true };
                let _ = sandbox.call(kill).await;
                timeout(&*self.inner.ctx.clock, KILL_PATIENCE, sandbox.ended(id)).await;
                self.ask_to_remove(&sandbox, id).await?;
            }
            other => other?,
        }
        sandbox.forget(id);
        Ok(())
    }

    /// Has the shim forget a container; one that it does not know, and a shim that is gone, are fine.
    async fn ask_to_remove(&self, sandbox: &Sandbox, id: &str) -> Result<(), RuntimeError> {
        match sandbox.call(Op::Remove { id: id.to_owned() }).await {
            Ok(_) | Err(CallError::Gone) => Ok(()),
            Err(error) => match error.into_error(&sandbox.uid, id, false) {
                error if error.is_not_found() => Ok(()),
                error => Err(error),
            },
        }
    }

    /// Changes limits of a container, or of the pod's cgroup when `id` is `None`.
    pub async fn update_resources(
        &self,
        pod_uid: &str,
        id: Option<&str>,
        resources: Resources,
    ) -> Result<(), RuntimeError> {
        let (cgroup, container) = self.inner.cgroup_of(pod_uid, id)?;
        cgroup.apply(&resources, container).map_err(|error| RuntimeError::Invalid(error.to_string()))
    }

    /// Runs a process in a running container.
    pub async fn exec(&self, pod_uid: &str, id: &str, spec: ExecSpec) -> Result<Session, RuntimeError> {
        let sandbox = self.inner.get(pod_uid)?;
        let error = |error: CallError| error.into_error(pod_uid, id, true);
        let want_stdin = spec.stdin;
        let connection = sandbox.connection().map_err(error)?.clone();
        let begun = connection.call_exec(Op::Exec { id: id.to_owned(), spec }).await;
        let (outcome, number, ended) = begun.map_err(|_| error(CallError::Gone))?;
        let (answer, fds) = outcome.map_err(|refusal| error(CallError::Refused(refusal)))?;
        let streams = session::streams(&answer, fds, want_stdin)?;
        let uid = pod_uid.to_owned();
        Ok(Session {
            stdin: streams.stdin,
            stdout: streams.stdout,
            stderr: streams.stderr,
            exit: Box::pin(async move { ended.await.map_err(|_| RuntimeError::SandboxLost(uid)) }),
            control: SessionControl { connection, kind: Kind::Exec(number, streams.terminal) },
        })
    }

    /// Connects to a running container's streams. The session's exit code is the container's.
    pub async fn attach(
        &self,
        pod_uid: &str,
        id: &str,
        stdin: bool,
        stdout: bool,
        stderr: bool,
    ) -> Result<Session, RuntimeError> {
        let sandbox = self.inner.get(pod_uid)?;
        let error = |error: CallError| error.into_error(pod_uid, id, false);
        let connection = sandbox.connection().map_err(error)?.clone();
        let op = Op::Attach { id: id.to_owned(), stdin, stdout, stderr };
        let (answer, fds) = sandbox.call(op).await.map_err(error)?;
        let streams = session::streams(&answer, fds, stdin)?;
        let container = id.to_owned();
        Ok(Session {
            stdin: streams.stdin,
            stdout: streams.stdout,
            stderr: streams.stderr,
            control: SessionControl { connection, kind: Kind::Attach(container.clone()) },
            exit: Box::pin(async move {
                let ended = sandbox.ended(&container).await;
                ended.map(|status| status.exit_code).ok_or(RuntimeError::ContainerNotFound(container))
            }),
        })
    }

    /// Opens the log file anew, after something else has renamed it.
    pub async fn reopen_log(&self, pod_uid: &str, id: &str) -> Result<(), RuntimeError> {
        let sandbox = self.inner.get(pod_uid)?;
        let reopened = sandbox.call(Op::ReopenLog { id: id.to_owned() }).await;
        reopened.map(drop).map_err(|error| error.into_error(pod_uid, id, false))
    }

    /// Readings of a container, or of the whole pod when `id` is `None`.
    pub async fn usage(&self, pod_uid: &str, id: Option<&str>) -> Result<Usage, RuntimeError> {
        Ok(self.inner.cgroup_of(pod_uid, id)?.0.usage())
    }

    /// Readings of a cgroup below the runtime's own, such as `kubepods`: of all pods.
    pub fn usage_at(&self, path: &str) -> Usage {
        self.inner.hierarchies.at(&format!("{}/{path}", self.inner.options.cgroup_root)).usage()
    }

    /// Limits a cgroup below the runtime's own, such as `kubepods`: all pods together. It is made if it is not there.
    pub fn limit_at(&self, path: &str, resources: &Resources) -> Result<(), RuntimeError> {
        let cgroup = self.inner.hierarchies.at(&format!("{}/{path}", self.inner.options.cgroup_root));
        let done = cgroup.create().and_then(|()| cgroup.apply(resources, false));
        done.map_err(|error| RuntimeError::Invalid(error.to_string()))
    }

    /// The runtime's cgroup, relative to the mounts: the paths of sandboxes begin with it.
    pub fn cgroup_root(&self) -> &str {
        &self.inner.options.cgroup_root
    }

    /// What happens by itself from now on; every caller gets every event.
    pub fn events(&self) -> mpsc::UnboundedReceiver<Event> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.inner.lock_subscribers().push(sender);
        receiver
    }

    /// Removes every sandbox and everything else the runtime put on the host; the end of it.
    pub async fn tear_down(&self) -> Result<(), RuntimeError> {
        for sandbox in self.inner.all() {
            self.remove_sandbox(&sandbox.uid).await?;
        }
        let inner = self.inner.clone();
        let removed = tokio::task::spawn_blocking(move || {
            *inner.lock_zygote() = None;
            inner.hierarchies.at(&inner.options.cgroup_root).remove(Duration::from_secs(5))
        });
        let removed = removed.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        removed.map_err(|error| RuntimeError::Sandbox(format!("remove cgroup: {error}")))
    }
}

impl Inner {
    fn lock_zygote(&self) -> std::sync::MutexGuard<'_, Option<Zygote>> {
        self.zygote.lock().expect("nothing panics while it holds the zygote")
    }

    fn lock_sandboxes(&self) -> std::sync::MutexGuard<'_, HashMap<String, Slot>> {
        self.sandboxes.lock().expect("nothing panics while it holds the table of sandboxes")
    }

    fn lock_subscribers(&self) -> std::sync::MutexGuard<'_, Vec<mpsc::UnboundedSender<Event>>> {
        self.subscribers.lock().expect("nothing panics while it holds the subscribers")
    }

    fn all(&self) -> Vec<Arc<Sandbox>> {
        let sandboxes = self.lock_sandboxes();
        let made = sandboxes.values().filter_map(|slot| match slot {
            Slot::Made(sandbox) => Some(sandbox.clone()),
            Slot::Making => None,
        });
        made.collect()
    }

    fn get(&self, uid: &str) -> Result<Arc<Sandbox>, RuntimeError> {
        match self.lock_sandboxes().get(uid) {
            Some(Slot::Made(sandbox)) => Ok(sandbox.clone()),
            _ => Err(RuntimeError::SandboxNotFound(uid.to_owned())),
        }
    }

    fn cgroup_of(&self, uid: &str, id: Option<&str>) -> Result<(Cgroup, bool), RuntimeError> {
        let sandbox = self.get(uid)?;
        let Some(id) = id else { return Ok((sandbox.cgroup.clone(), false)) };
        let status = sandbox.container(id).ok_or_else(|| RuntimeError::ContainerNotFound(id.to_owned()))?;
        if status.state != State::Running {
            let state = if status.state == State::Created { "CONTAINER_CREATED" } else { "CONTAINER_EXITED" };
            return Err(RuntimeError::WrongState { id: id.to_owned(), state: state.to_owned() });
        }
        Ok((sandbox.cgroup.child(id), true))
    }

    fn now_ns(&self) -> i64 {
        self.ctx.clock.now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64)
    }

    fn tell(&self, event: &Event) {
        self.lock_subscribers().retain(|subscriber| subscriber.send(event.clone()).is_ok());
    }
}

/// An error with its causes, for logs.
struct Chain<'a>(&'a RuntimeError);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = std::error::Error::source(self.0);
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

fn io_error(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> RuntimeError {
    let path = path.into();
    move |source| RuntimeError::Io { action, path, source }
}

fn make_private_dir(dir: &Path) -> Result<(), RuntimeError> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(io_error("make directory", dir))
}
