//! CONTRACT. The container runtime: per-pod shims that hold namespaces, stdio, logs and exit status, and live
//! on while Knarr is restarted or upgraded; and the daemon's side that talks to them. Knows nothing of
//! Kubernetes; the kubelet translates.
//!
//! Three kinds of process: the daemon ([`Runtime`]), the zygote that it re-executes itself as, and the shims
//! that the zygote forks. A shim forks once more for every container and exec. See docs/adr/0003-shim-zygote.md.

mod cgroup;
mod container;
mod daemon;
mod error;
mod handler;
mod oci;
mod protocol;
mod seccomp;
mod shim;
pub mod spec;
mod sys;
mod zygote;

pub use daemon::{Runtime, RuntimeOptions, Session, SessionControl};
pub use error::RuntimeError;
pub use sys::ShimAware;

/// Becomes the shim zygote when this process was re-executed as one, and never returns then. Called first
/// thing in `main` of every program that opens a [`Runtime`].
pub fn zygote_main_if_asked() {
    zygote::main_if_asked();
}

/// Becomes the OCI runtime's command line when this process was started as such (`knarr runtime`, or under the
/// name `knarr-oci`), and never returns then.
pub fn oci_main_if_asked() {
    oci::main_if_asked();
}

#[cfg(test)]
fn test_spec() -> spec::ContainerSpec {
    spec::ContainerSpec {
        id: "c1".to_owned(),
        name: "c".to_owned(),
        attempt: 0,
        args: vec!["true".to_owned()],
        env: vec![],
        cwd: String::new(),
        user: String::new(),
        run_as_group: None,
        supplemental_groups: vec![],
        merge_image_groups: true,
        must_not_be_root: false,
        rootfs: spec::RootFs { lower: vec![], upper: "/u".into(), work: "/w".into(), target: "/t".into() },
        read_only_rootfs: false,
        mounts: vec![],
        cap_add: vec![],
        cap_drop: vec![],
        privileged: false,
        no_new_privileges: false,
        seccomp: spec::Seccomp::Unconfined,
        apparmor: None,
        unmasked_proc: false,
        resources: spec::Resources::default(),
        oom_score_adj: 0,
        rlimits: vec![],
        devices: vec![],
        tty: false,
        stdin: false,
        stdin_once: false,
        log_path: Default::default(),
        log_max_bytes: 0,
        log_max_files: 0,
        stop_signal: "SIGTERM".to_owned(),
        pid_of: None,
        labels: Default::default(),
    }
}
