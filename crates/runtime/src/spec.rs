//! CONTRACT. What the kubelet asks of the runtime, and what it hears back.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A pod's sandbox: namespaces, cgroup and the shim that pins them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// Pod UID; the key of everything on disk and in memory.
    pub pod_uid: String,
    /// Pod namespace, for labels and messages.
    pub namespace: String,
    /// Pod name.
    pub name: String,
    /// How often the sandbox was made anew for this pod (0 first).
    pub attempt: u32,
    /// UTS hostname; ignored with `host_network`.
    pub hostname: String,
    /// NIS domain name, if set.
    pub domainname: Option<String>,
    /// Use the host's network namespace.
    pub host_network: bool,
    /// Use the host's PID namespace.
    pub host_pid: bool,
    /// Use the host's IPC namespace.
    pub host_ipc: bool,
    /// One PID namespace for all containers of the pod (the shim forks an init into it).
    pub share_process_namespace: bool,
    /// cgroup of the pod relative to the runtime's cgroup root, for example `kubepods/burstable/pod<uid>`.
    pub cgroup: String,
    /// Limits on the pod's cgroup as a whole.
    pub resources: Resources,
    /// Namespaced sysctls.
    pub sysctls: BTreeMap<String, String>,
    /// Directory where the shim keeps its socket and state (made by the runtime when empty).
    pub labels: BTreeMap<String, String>,
    /// The program of the OCI runtime that runs the containers, as a RuntimeClass names it; Knarr's own when `None`.
    #[serde(default)]
    pub handler: Option<PathBuf>,
    /// The pod's own users (KEP-127); `None` for the host's.
    #[serde(default)]
    pub user_namespace: Option<UserNamespace>,
}

/// The users and groups of a pod, and what they are on the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserNamespace {
    /// Users.
    pub uids: Vec<IdMapping>,
    /// Groups.
    pub gids: Vec<IdMapping>,
}

/// A range of identities, named as the OCI runtime specification names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IdMapping {
    /// The first of them inside.
    #[serde(rename = "containerID")]
    pub container_id: u32,
    /// The first of them on the host.
    #[serde(rename = "hostID")]
    pub host_id: u32,
    /// How many.
    pub size: u32,
}

/// cgroup limits; `None` leaves the kernel's default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Resources {
    /// Relative CPU weight in cgroup v1 shares (2..=262144).
    pub cpu_shares: Option<u64>,
    /// CPU time per period in microseconds.
    pub cpu_quota_us: Option<i64>,
    /// The period in microseconds.
    pub cpu_period_us: Option<u64>,
    /// Memory limit in bytes.
    pub memory_limit_bytes: Option<i64>,
    /// Most processes.
    pub pids_limit: Option<i64>,
    /// Huge page limits: size name (`2MB`) to bytes.
    pub hugepages: BTreeMap<String, u64>,
    /// cpuset.cpus.
    pub cpuset_cpus: Option<String>,
    /// cpuset.mems.
    #[serde(default)]
    pub cpuset_mems: Option<String>,
    /// Memory and swap together, in bytes, as v1 counts.
    #[serde(default)]
    pub memory_swap_bytes: Option<i64>,
    /// Memory that is reclaimed last, in bytes.
    #[serde(default)]
    pub memory_reservation_bytes: Option<i64>,
    /// Further files of cgroup v2 (`memory.high`) and their values; nothing on v1.
    #[serde(default)]
    pub unified: BTreeMap<String, String>,
}

/// One mount of a container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Mount {
    /// Source path on the host (bind), or file system source.
    pub source: PathBuf,
    /// Target inside the container.
    pub target: PathBuf,
    /// `bind`, `tmpfs`, `proc`, ...
    pub kind: MountKind,
    /// Read-only.
    pub read_only: bool,
    /// Read-only for sub-mounts too (KEP-3857).
    pub recursive_read_only: bool,
    /// Propagation.
    pub propagation: Propagation,
    /// Extra options for file-system mounts (`size=64m`).
    pub options: Vec<String>,
}

/// What is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountKind {
    /// A recursive bind mount.
    Bind,
    /// A tmpfs.
    Tmpfs,
}

/// Mount propagation as Kubernetes names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// None (rprivate).
    #[default]
    None,
    /// rslave.
    HostToContainer,
    /// rshared.
    Bidirectional,
}

/// The root file system: overlay layers made by the image store, lowest last as overlayfs wants them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RootFs {
    /// Unpacked layers, topmost first.
    pub lower: Vec<PathBuf>,
    /// Writable layer.
    pub upper: PathBuf,
    /// overlayfs' work directory.
    pub work: PathBuf,
    /// Where the shim mounts it (inside its own mount namespace).
    pub target: PathBuf,
}

/// Seccomp profile.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Seccomp {
    /// No filter.
    #[default]
    Unconfined,
    /// The default profile (what containerd's and Docker's default lets through).
    RuntimeDefault,
    /// A profile file in the OCI/Docker JSON form.
    Localhost(PathBuf),
}

/// One container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Identifier: 64 hex digits, unique.
    pub id: String,
    /// Container name in the pod.
    pub name: String,
    /// Restart count.
    pub attempt: u32,
    /// Command and arguments; never empty.
    pub args: Vec<String>,
    /// Environment in order, `NAME=value`.
    pub env: Vec<String>,
    /// Working directory.
    pub cwd: String,
    /// User as the image or pod gives it: `uid`, `uid:gid`, `name`, `name:group`; resolved in the rootfs. Empty is root.
    pub user: String,
    /// Overrides the group.
    pub run_as_group: Option<u32>,
    /// Supplementary groups (fsGroup included).
    pub supplemental_groups: Vec<u32>,
    /// Whether groups of the image's /etc/group are merged in (supplementalGroupsPolicy Merge).
    pub merge_image_groups: bool,
    /// Refuse to start when the user resolves to uid 0 (runAsNonRoot).
    pub must_not_be_root: bool,
    /// The root file system.
    pub rootfs: RootFs,
    /// Read-only root.
    pub read_only_rootfs: bool,
    /// Mounts, in order.
    pub mounts: Vec<Mount>,
    /// Capabilities to add (without `CAP_`, or `ALL`).
    pub cap_add: Vec<String>,
    /// Capabilities to drop.
    pub cap_drop: Vec<String>,
    /// Privileged: all capabilities and devices, nothing masked, no seccomp.
    pub privileged: bool,
    /// no_new_privs.
    pub no_new_privileges: bool,
    /// Seccomp.
    pub seccomp: Seccomp,
    /// AppArmor profile name, if any.
    pub apparmor: Option<String>,
    /// Masked and read-only paths are left as they are (procMount Unmasked).
    pub unmasked_proc: bool,
    /// Limits.
    pub resources: Resources,
    /// oom_score_adj.
    pub oom_score_adj: i32,
    /// Resource limits: name (`RLIMIT_NOFILE`), soft, hard.
    pub rlimits: Vec<(String, u64, u64)>,
    /// Host devices: path on the host, path in the container, permissions (`rwm`).
    pub devices: Vec<(PathBuf, PathBuf, String)>,
    /// A terminal on stdin/stdout/stderr.
    pub tty: bool,
    /// Keep stdin open for attach.
    pub stdin: bool,
    /// Close stdin after the first attach ends.
    pub stdin_once: bool,
    /// CRI log file.
    pub log_path: PathBuf,
    /// Rotate the log at this size in bytes; 0 never.
    pub log_max_bytes: u64,
    /// Log files kept, the current one included.
    pub log_max_files: u32,
    /// Signal for stopping (`SIGTERM`).
    pub stop_signal: String,
    /// The container whose PID namespace this one joins, by identifier (an ephemeral container's target).
    #[serde(default)]
    pub pid_of: Option<String>,
    /// Host file mounted as termination log; read by the kubelet.
    pub labels: BTreeMap<String, String>,
}

/// A container's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Created, not started.
    Created,
    /// Running.
    Running,
    /// Ended.
    Exited,
}

/// What is known of a container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ContainerStatus {
    /// Identifier.
    pub id: String,
    /// Name in the pod.
    pub name: String,
    /// Restart count.
    pub attempt: u32,
    /// State.
    pub state: State,
    /// Host PID while running.
    pub pid: Option<i32>,
    /// Unix time in nanoseconds.
    pub created_at_ns: i64,
    /// Unix time in nanoseconds, 0 before the start.
    pub started_at_ns: i64,
    /// Unix time in nanoseconds, 0 before the end.
    pub finished_at_ns: i64,
    /// Exit status; 128 + signal for signals.
    pub exit_code: i32,
    /// Killed by the kernel for want of memory.
    pub oom_killed: bool,
    /// Labels of its spec.
    pub labels: BTreeMap<String, String>,
    /// Who its first process is, once that is found out in the image's files.
    #[serde(default)]
    pub user: Option<User>,
}

/// The identity a process was started with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// All groups, the primary one included.
    pub groups: Vec<u32>,
}

/// What is known of a sandbox.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SandboxStatus {
    /// The spec it was made from.
    pub spec: SandboxSpec,
    /// Whether the shim answers.
    pub ready: bool,
    /// Shim PID.
    pub shim_pid: i32,
    /// Path through which others enter its network namespace (`/proc/<pid>/ns/net` or a bind mount).
    pub netns: PathBuf,
    /// Unix time in nanoseconds.
    pub created_at_ns: i64,
    /// Its containers, ended ones included until removed.
    pub containers: Vec<ContainerStatus>,
}

/// Something that happened by itself.
#[derive(Clone, Debug)]
pub enum Event {
    /// A container ended.
    ContainerExited {
        /// Pod.
        pod_uid: String,
        /// Final status.
        status: ContainerStatus,
    },
    /// A shim is gone without being told to (its containers were killed with it).
    SandboxLost {
        /// Pod.
        pod_uid: String,
    },
}

/// A process to run inside a running container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExecSpec {
    /// Command and arguments.
    pub args: Vec<String>,
    /// A terminal.
    pub tty: bool,
    /// Whether stdin is given.
    pub stdin: bool,
    /// Whether stdout is wanted.
    pub stdout: bool,
    /// Whether stderr is wanted (never with a terminal).
    pub stderr: bool,
}

/// cgroup readings.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Usage {
    /// CPU time in nanoseconds.
    pub cpu_usage_ns: u64,
    /// Memory in use in bytes.
    pub memory_usage_bytes: u64,
    /// Memory in use less inactive file cache, in bytes.
    pub memory_working_set_bytes: u64,
    /// Resident set in bytes.
    pub memory_rss_bytes: u64,
    /// Processes.
    pub pids: u64,
    /// CPU time in user mode in nanoseconds.
    #[serde(default)]
    pub cpu_user_ns: u64,
    /// CPU time in the kernel in nanoseconds.
    #[serde(default)]
    pub cpu_system_ns: u64,
    /// Periods in which the CPU limit was enforced.
    #[serde(default)]
    pub cpu_periods: u64,
    /// Those in which processes had to wait.
    #[serde(default)]
    pub cpu_throttled_periods: u64,
    /// How long they waited in nanoseconds.
    #[serde(default)]
    pub cpu_throttled_ns: u64,
    /// The memory limit in bytes, `None` without one.
    #[serde(default)]
    pub memory_limit_bytes: Option<u64>,
    /// The most memory that was in use in bytes.
    #[serde(default)]
    pub memory_max_usage_bytes: u64,
    /// File cache in bytes.
    #[serde(default)]
    pub memory_cache_bytes: u64,
    /// Mapped files in bytes.
    #[serde(default)]
    pub memory_mapped_file_bytes: u64,
    /// File cache in use in bytes.
    #[serde(default)]
    pub memory_active_file_bytes: u64,
    /// File cache out of use in bytes.
    #[serde(default)]
    pub memory_inactive_file_bytes: u64,
    /// The kernel's memory in bytes.
    #[serde(default)]
    pub memory_kernel_bytes: u64,
    /// How often memory hit its limit.
    #[serde(default)]
    pub memory_failures: u64,
    /// Page faults.
    #[serde(default)]
    pub page_faults: u64,
    /// Page faults that had to read from a disk.
    #[serde(default)]
    pub major_page_faults: u64,
    /// Swap in use in bytes; `None` where the kernel does not count it.
    #[serde(default)]
    pub swap_usage_bytes: Option<u64>,
    /// The most swap that may be used in bytes; `None` without a limit.
    #[serde(default)]
    pub swap_limit_bytes: Option<u64>,
    /// The most processes there may be; `None` without a limit.
    #[serde(default)]
    pub pids_limit: Option<u64>,
    /// How often the kernel killed for want of memory.
    #[serde(default)]
    pub oom_kills: u64,
    /// What was read from and written to each disk.
    #[serde(default)]
    pub io: Vec<DiskIo>,
    /// Waiting for the CPU, where the kernel tells it.
    #[serde(default)]
    pub cpu_pressure: Option<Pressure>,
    /// Waiting for memory.
    #[serde(default)]
    pub memory_pressure: Option<Pressure>,
    /// Waiting for disks.
    #[serde(default)]
    pub io_pressure: Option<Pressure>,
}

/// What went to and from a disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DiskIo {
    /// Major and minor number.
    pub device: (u32, u32),
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

/// Pressure stall information of one resource (Documentation/accounting/psi.rst).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pressure {
    /// Some processes waited.
    pub some: Stall,
    /// All processes waited.
    pub full: Stall,
}

/// How long was waited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stall {
    /// In all, in microseconds.
    pub total_us: u64,
    /// Per cent of the last 10 seconds.
    pub avg10: f64,
    /// Per cent of the last minute.
    pub avg60: f64,
    /// Per cent of the last 5 minutes.
    pub avg300: f64,
}

impl Pressure {
    /// From the text of a pressure file.
    pub fn parse(text: &str) -> Self {
        let mut pressure = Self::default();
        for line in text.lines() {
            let mut fields = line.split(' ');
            let stall = match fields.next() {
                Some("some") => &mut pressure.some,
                Some("full") => &mut pressure.full,
                _ => continue,
            };
            for (name, value) in fields.filter_map(|f| f.split_once('=')) {
                match name {
                    "total" => stall.total_us = value.parse().unwrap_or_default(),
                    "avg10" => stall.avg10 = value.parse().unwrap_or_default(),
                    "avg60" => stall.avg60 = value.parse().unwrap_or_default(),
                    "avg300" => stall.avg300 = value.parse().unwrap_or_default(),
                    _ => {}
                }
            }
        }
        pressure
    }
}
