//! The daemon's side: one [`Runtime`] a node, one connection a shim.

mod session;

pub use session::{Session, SessionControl};

use crate::RuntimeError;
use crate::spec::{
    ContainerSpec, ContainerStatus, Event, ExecSpec, Resources, SandboxSpec, SandboxStatus, Usage,
};
use knarr_base::Ctx;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

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
pub struct Runtime {}

impl Runtime {
    /// Starts the runtime: connects to the shims found in the state directory. A sandbox whose shim is dead
    /// (or of an earlier boot) is listed with `ready: false`, its containers ended with exit code 255, until
    /// it is removed.
    pub async fn open(ctx: &Ctx, options: RuntimeOptions) -> Result<Arc<Runtime>, RuntimeError> {
        let _ = (ctx, options);
        Err(pending())
    }

    /// Makes a pod's namespaces, cgroup and shim.
    pub async fn create_sandbox(&self, spec: SandboxSpec) -> Result<SandboxStatus, RuntimeError> {
        let _ = spec;
        Err(pending())
    }

    /// Kills and reaps everything in the sandbox, and removes its cgroups, mounts and state. Idempotent.
    pub async fn remove_sandbox(&self, pod_uid: &str) -> Result<(), RuntimeError> {
        let _ = pod_uid;
        Err(pending())
    }

    /// All sandboxes as last heard of.
    pub fn sandboxes(&self) -> Vec<SandboxStatus> {
        Vec::new()
    }

    /// One sandbox as last heard of.
    pub fn sandbox(&self, pod_uid: &str) -> Option<SandboxStatus> {
        let _ = pod_uid;
        None
    }

    /// Registers a container; nothing runs yet.
    pub async fn create_container(&self, pod_uid: &str, spec: ContainerSpec) -> Result<(), RuntimeError> {
        let _ = (pod_uid, spec);
        Err(pending())
    }

    /// Starts a created container. After [`RuntimeError::Start`] the container is ended with exit code 128.
    pub async fn start_container(&self, pod_uid: &str, id: &str) -> Result<ContainerStatus, RuntimeError> {
        let _ = (pod_uid, id);
        Err(pending())
    }

    /// Sends a signal (`SIGTERM`, `TERM` or a number) to the container's first process. Succeeds when it has
    /// ended already.
    pub async fn signal_container(&self, pod_uid: &str, id: &str, signal: &str) -> Result<(), RuntimeError> {
        let _ = (pod_uid, id, signal);
        Err(pending())
    }

    /// Sends `signal`, waits up to `grace` for the end, kills, and waits for the end. Zero kills at once.
    pub async fn stop_container(
        &self,
        pod_uid: &str,
        id: &str,
        grace: Duration,
        signal: &str,
    ) -> Result<ContainerStatus, RuntimeError> {
        let _ = (pod_uid, id, grace, signal);
        Err(pending())
    }

    /// Kills the container if need be and forgets it, its exit status included. Logs stay. Idempotent.
    pub async fn remove_container(&self, pod_uid: &str, id: &str) -> Result<(), RuntimeError> {
        let _ = (pod_uid, id);
        Err(pending())
    }

    /// Changes limits of a container, or of the pod's cgroup when `id` is `None`.
    pub async fn update_resources(
        &self,
        pod_uid: &str,
        id: Option<&str>,
        resources: Resources,
    ) -> Result<(), RuntimeError> {
        let _ = (pod_uid, id, resources);
        Err(pending())
    }

    /// Runs a process in a running container.
    pub async fn exec(&self, pod_uid: &str, id: &str, spec: ExecSpec) -> Result<Session, RuntimeError> {
        let _ = (pod_uid, id, spec);
        Err(pending())
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
        let _ = (pod_uid, id, stdin, stdout, stderr);
        Err(pending())
    }

    /// Opens the log file anew, after something else has renamed it.
    pub async fn reopen_log(&self, pod_uid: &str, id: &str) -> Result<(), RuntimeError> {
        let _ = (pod_uid, id);
        Err(pending())
    }

    /// Readings of a container, or of the whole pod when `id` is `None`.
    pub async fn usage(&self, pod_uid: &str, id: Option<&str>) -> Result<Usage, RuntimeError> {
        let _ = (pod_uid, id);
        Err(pending())
    }

    /// What happens by itself from now on; every caller gets every event.
    pub fn events(&self) -> mpsc::UnboundedReceiver<Event> {
        mpsc::unbounded_channel().1
    }
}

fn pending() -> RuntimeError {
    RuntimeError::Invalid("the runtime is not built yet".to_owned())
}
