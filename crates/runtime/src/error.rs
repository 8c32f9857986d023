//! What can go wrong between the kubelet and its containers. Texts that users see follow containerd's and runc's.

use std::path::PathBuf;

/// An error of the runtime.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// No sandbox for that pod UID.
    #[error("sandbox of pod {0} not found")]
    SandboxNotFound(String),
    /// A sandbox for that pod UID is there already.
    #[error("sandbox of pod {0} already exists")]
    SandboxExists(String),
    /// The sandbox could not be made.
    #[error("failed to create pod sandbox: {0}")]
    Sandbox(String),
    /// The shim of the pod is gone, and its containers with it.
    #[error("the shim of pod {0} is gone")]
    SandboxLost(String),
    /// No such container in the sandbox.
    #[error("container {0} not found")]
    ContainerNotFound(String),
    /// A container with that id is there already.
    #[error("container {0} already exists")]
    ContainerExists(String),
    /// The container is not in the state that the operation needs.
    #[error("container {id} is in {state} state")]
    WrongState {
        /// Container id.
        id: String,
        /// Its state, as containerd words it (`CONTAINER_EXITED`).
        state: String,
    },
    /// The container's process could not be started: reason `StartError`, exit code 128.
    #[error(
        "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: {0}: unknown"
    )]
    Start(String),
    /// The user resolved to uid 0 although `must_not_be_root` is set: reason `CreateContainerConfigError`.
    #[error("container has runAsNonRoot and image will run as root")]
    MustNotBeRoot,
    /// The process of an exec could not be started.
    #[error(
        "failed to exec in container: failed to start exec: OCI runtime exec failed: exec failed: unable to start container process: {0}: unknown"
    )]
    Exec(String),
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The shim answered with an error of its own.
    #[error("{0}")]
    Shim(String),
    /// The shim broke the protocol.
    #[error("shim protocol: {0}")]
    Protocol(String),
    /// A file operation on the runtime's state failed.
    #[error("{action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

impl RuntimeError {
    /// Whether the subject of the request is not there, so that a removal is complete.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::SandboxNotFound(_) | Self::ContainerNotFound(_))
    }
}
