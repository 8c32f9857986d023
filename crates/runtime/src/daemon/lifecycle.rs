//! How sandboxes come and go: made with a shim from the zygote, adopted from an earlier daemon, lost with their shim.

use super::connection::{self, Connection};
use super::sandbox::{self, CallError, Sandbox};
use super::zygote::Zygote;
use super::{Chain, Inner, SHIM_PATIENCE, Slot, io_error, make_private_dir};
use crate::RuntimeError;
use crate::protocol::{Answer, Op, Record, Setup, VERSION};
use crate::spec::{ContainerStatus, Event, SandboxSpec, SandboxStatus};
use knarr_base::clock::timeout;
use rustix::fd::{AsFd, OwnedFd};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::sync::oneshot;

impl Inner {
    /// Has the zygote, a new one if it is dead, fork a shim; returns the connection to it.
    fn fork_shim(&self) -> io::Result<OwnedFd> {
        let (near, far) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        let mut zygote = self.lock_zygote();
        if let Some(running) = &mut *zygote
            && running.fork_shim(far.as_fd()).is_ok()
        {
            return Ok(near);
        }
        *zygote = None;
        let mut fresh = Zygote::start(self.options.shim_program.as_ref(), &self.options.cgroup_root)?;
        fresh.fork_shim(far.as_fd())?;
        *zygote = Some(fresh);
        Ok(near)
    }

    pub(super) async fn make_sandbox(
        self: Arc<Self>,
        spec: SandboxSpec,
    ) -> Result<Arc<Sandbox>, RuntimeError> {
        let dir = self.options.state_dir.join("pods").join(&spec.pod_uid);
        make_private_dir(&dir)?;
        let made = self.clone().make_sandbox_in(&dir, spec).await;
        if made.is_err() {
            let _ = std::fs::remove_dir_all(&dir);
        }
        made
    }

    async fn make_sandbox_in(
        self: Arc<Self>,
        dir: &Path,
        spec: SandboxSpec,
    ) -> Result<Arc<Sandbox>, RuntimeError> {
        let status = SandboxStatus {
            spec: spec.clone(),
            ready: false,
            shim_pid: 0,
            netns: PathBuf::new(),
            created_at_ns: self.now_ns(),
            containers: Vec::new(),
        };
        // Should this process end before the shim is there, the next one finds what to clean up.
        let (boot_id, cgroup_root) = (self.boot_id.clone(), self.options.cgroup_root.clone());
        let record = Record { boot_id: boot_id.clone(), cgroup_root: cgroup_root.clone(), status };
        sandbox::write_record(dir, &record).map_err(io_error("write record in", dir))?;

        let failed = |error: io::Error| RuntimeError::Sandbox(format!("start a shim: {error}"));
        let setup = Setup { spec, dir: dir.to_owned(), cgroup_root, boot_id };
        let mut retried = false;
        loop {
            let connection = self.fork_shim().and_then(Connection::new).map_err(failed)?;
            match self.clone().connect(dir, connection, Op::Setup(Box::new(setup.clone()))).await {
                // A zygote that was just dying took the request with it; the next one may not.
                Err(RuntimeError::SandboxLost(_)) if !retried => {
                    retried = true;
                    *self.lock_zygote() = None;
                }
                other => return other,
            }
        }
    }

    /// Adopts the sandbox in `dir`.
    pub(super) async fn adopt(self: Arc<Self>, dir: PathBuf) -> Result<(), RuntimeError> {
        let record = match sandbox::read_record(&dir) {
            Ok(record) => record,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Nothing was made before the record was written.
                return std::fs::remove_dir_all(&dir).map_err(io_error("remove", &dir));
            }
            Err(error) => return Err(io_error("read record in", &dir)(error)),
        };
        let uid = record.status.spec.pod_uid.clone();
        let same_boot = record.boot_id == self.boot_id;
        if same_boot {
            let socket = sandbox::connect(&dir).and_then(Connection::new);
            let adopted = match socket {
                Ok(connection) => self.clone().connect(&dir, connection, Op::Hello).await,
                Err(error) => Err(RuntimeError::Sandbox(error.to_string())),
            };
            match adopted {
                Ok(sandbox) => {
                    self.lock_sandboxes().insert(uid, Slot::Made(sandbox));
                    return Ok(());
                }
                Err(error) => tracing::warn!(pod = uid, error = %Chain(&error), "the shim of a pod is dead"),
            }
        }
        let sandbox = Arc::new(sandbox::dead(dir, &self.hierarchies, record, same_boot, self.now_ns()));
        self.clean_up(&sandbox).await;
        self.lock_sandboxes().insert(uid, Slot::Made(sandbox));
        Ok(())
    }

    async fn clean_up(&self, sandbox: &Arc<Sandbox>) {
        let dead = sandbox.clone();
        let cleaned = tokio::task::spawn_blocking(move || dead.clean_up()).await;
        if let Ok(Err(error)) = cleaned {
            tracing::warn!(pod = sandbox.uid, %error, "cannot clean up after a dead shim");
        }
    }

    /// Greets a shim over `connection` and listens to it from then on.
    async fn connect(
        self: Arc<Self>,
        dir: &Path,
        connection: Connection,
        greeting: Op,
    ) -> Result<Arc<Sandbox>, RuntimeError> {
        let (tell, told) = oneshot::channel::<Arc<Sandbox>>();
        let (inner, listening) = (self.clone(), connection.clone());
        // The connection must move from the start on, for the greeting to be answered.
        self.ctx.tasks.spawn_until_stopped("shim", async move { inner.listen(listening, told).await });
        let greeted = timeout(&*self.ctx.clock, SHIM_PATIENCE, connection.call(greeting)).await;
        let result = match greeted {
            None => Err(RuntimeError::Sandbox("the shim does not answer".to_owned())),
            Some(Err(connection::Gone)) => Err(RuntimeError::SandboxLost(dir.display().to_string())),
            Some(Ok(Err(refusal))) => Err(match CallError::Refused(refusal).into_error("", "", false) {
                RuntimeError::Shim(text) | RuntimeError::Start(text) => RuntimeError::Sandbox(text),
                error => error,
            }),
            Some(Ok(Ok((Answer::Hello { version, status }, _)))) if version <= VERSION => Ok(*status),
            Some(Ok(Ok((Answer::Hello { version, .. }, _)))) => {
                Err(RuntimeError::Protocol(format!("shim of a newer version ({version})")))
            }
            Some(Ok(Ok(_))) => Err(RuntimeError::Protocol("unexpected answer".to_owned())),
        };
        let status = result.inspect_err(|_| connection.close())?;
        let cgroup = self.hierarchies.at(&self.options.cgroup_root).child(&status.spec.cgroup);
        let sandbox = Arc::new(Sandbox::new(dir.to_owned(), cgroup, Some(connection), status));
        let _ = tell.send(sandbox.clone());
        Ok(sandbox)
    }

    /// Moves a connection's frames until the shim is gone.
    async fn listen(self: Arc<Self>, connection: Connection, told: oneshot::Receiver<Arc<Sandbox>>) {
        let early: Mutex<Vec<ContainerStatus>> = Mutex::default();
        let known: std::sync::OnceLock<Arc<Sandbox>> = std::sync::OnceLock::new();
        let exited = |status: ContainerStatus| match known.get() {
            Some(sandbox) => self.container_ended(sandbox, status),
            None => early.lock().expect("nothing panics while it holds the list").push(status),
        };
        let moving = connection.run(exited);
        let learning = async {
            if let Ok(sandbox) = told.await {
                let _ = known.set(sandbox.clone());
                for status in
                    std::mem::take(&mut *early.lock().expect("nothing panics while it holds the list"))
                {
                    self.container_ended(&sandbox, status);
                }
            }
        };
        tokio::join!(moving, learning);
        if let Some(sandbox) = known.get()
            && !sandbox.is_removing()
            && !self.ctx.tasks.is_stopping()
        {
            tracing::warn!(pod = sandbox.uid, "the shim of a pod is gone");
            sandbox.lost(self.now_ns());
            self.clean_up(sandbox).await;
            self.tell(&Event::SandboxLost { pod_uid: sandbox.uid.clone() });
        }
    }

    fn container_ended(&self, sandbox: &Sandbox, status: ContainerStatus) {
        sandbox.heard(status.clone());
        self.tell(&Event::ContainerExited { pod_uid: sandbox.uid.clone(), status });
    }
}
