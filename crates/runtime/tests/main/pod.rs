//! What the cases are made of: a runtime, a pod, busybox containers.

use super::host::BUSYBOX;
use knarr_base::Ctx;
use knarr_base::clock::timeout;
use knarr_runtime::spec::{
    ContainerSpec, ContainerStatus, Event, ExecSpec, Resources, RootFs, SandboxSpec, Seccomp, State,
};
use knarr_runtime::{Runtime, RuntimeError, RuntimeOptions, Session};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::AsyncReadExt;

/// In the names of everything these tests make on the host.
pub const MARK: &str = "knarr-rt-test";

/// First argument of this program when it plays the daemon that gets killed.
pub const DAEMON: &str = "play-the-daemon";

/// Nothing here takes this long.
pub const LIMIT: Duration = Duration::from_secs(20);

/// The busybox commands that the image has.
const COMMANDS: [&str; 28] = [
    "sh", "sleep", "cat", "echo", "ls", "mount", "id", "true", "false", "dd", "stty", "tty", "mknod", "head",
    "ps", "hostname", "ip", "touch", "mkdir", "unshare", "test", "seq", "env", "pwd", "readlink", "wc",
    "kill", "tr",
];

/// The surroundings of one case.
pub struct Test {
    pub ctx: Ctx,
    pub dir: tempfile::TempDir,
    pub cgroup: String,
    runtime: OnceLock<Arc<Runtime>>,
    next: AtomicU32,
}

impl Test {
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = tempfile::Builder::new().prefix(MARK).tempdir().unwrap();
        let bin = dir.path().join("layer/bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::copy(BUSYBOX, bin.join("busybox")).unwrap();
        for name in COMMANDS {
            std::os::unix::fs::symlink("busybox", bin.join(name)).unwrap();
        }
        let etc = dir.path().join("layer/etc");
        std::fs::create_dir_all(&etc).unwrap();
        std::fs::write(
            etc.join("passwd"),
            "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:Web:/srv/web:/bin/sh\n",
        )
        .unwrap();
        std::fs::write(etc.join("group"), "root:x:0:\nweb:x:34:\nlogs:x:50:web\n").unwrap();
        Self {
            ctx: Self::context(),
            dir,
            cgroup: format!("{MARK}-{}-{number}", std::process::id()),
            runtime: OnceLock::new(),
            next: AtomicU32::new(0),
        }
    }

    fn context() -> Ctx {
        static HANDLE: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
        let _guard = HANDLE.get_or_init(|| tokio::runtime::Runtime::new().unwrap()).enter();
        Ctx::system()
    }

    /// The path of something of this test.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn options(&self) -> RuntimeOptions {
        RuntimeOptions { state_dir: self.path("state"), cgroup_root: self.cgroup.clone(), shim_program: None }
    }

    /// The runtime, opened at first use.
    pub async fn runtime(&self) -> Arc<Runtime> {
        if let Some(runtime) = self.runtime.get() {
            return runtime.clone();
        }
        let runtime = Runtime::open(&self.ctx, self.options()).await.unwrap();
        self.runtime.get_or_init(|| runtime).clone()
    }

    /// Removes everything, and checks that nothing is in the way of that.
    pub async fn clean_up(&self) {
        let runtime = match self.runtime.get() {
            Some(runtime) => runtime.clone(),
            None => Runtime::open(&self.ctx, self.options()).await.unwrap(),
        };
        runtime.tear_down().await.unwrap();
        assert_eq!(runtime.sandboxes().len(), 0);
        assert_eq!(std::fs::read_dir(self.path("state/pods")).unwrap().count(), 0);
    }

    /// A pod with namespaces of its own.
    pub fn sandbox(&self, uid: &str) -> SandboxSpec {
        SandboxSpec {
            pod_uid: format!("{MARK}-{uid}"),
            namespace: "default".to_owned(),
            name: uid.to_owned(),
            attempt: 0,
            hostname: uid.to_owned(),
            domainname: None,
            host_network: false,
            host_pid: false,
            host_ipc: false,
            share_process_namespace: false,
            cgroup: format!("kubepods/besteffort/pod{uid}"),
            resources: Resources::default(),
            sysctls: Default::default(),
            labels: Default::default(),
            user_namespace: None,
            handler: None,
        }
    }

    /// A container that runs this shell script.
    pub fn container(&self, script: &str) -> ContainerSpec {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let at = |what: &str| self.path(&format!("c{number}/{what}"));
        ContainerSpec {
            id: format!("{number:064x}"),
            name: "main".to_owned(),
            attempt: 0,
            args: vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()],
            env: vec![],
            cwd: "/".to_owned(),
            user: String::new(),
            run_as_group: None,
            supplemental_groups: vec![],
            merge_image_groups: true,
            must_not_be_root: false,
            rootfs: RootFs {
                lower: vec![self.path("layer")],
                upper: at("upper"),
                work: at("work"),
                target: at("rootfs"),
            },
            read_only_rootfs: false,
            mounts: vec![],
            cap_add: vec![],
            cap_drop: vec![],
            privileged: false,
            no_new_privileges: false,
            seccomp: Seccomp::RuntimeDefault,
            apparmor: None,
            unmasked_proc: false,
            resources: Resources::default(),
            oom_score_adj: 500,
            rlimits: vec![],
            devices: vec![],
            tty: false,
            stdin: false,
            stdin_once: false,
            log_path: at("0.log"),
            log_max_bytes: 0,
            log_max_files: 0,
            stop_signal: "SIGTERM".to_owned(),
            pid_of: None,
            labels: [("io.kubernetes.container.name".to_owned(), "main".to_owned())].into(),
        }
    }

    /// A pod.
    pub async fn pod(&self, spec: SandboxSpec) -> Pod<'_> {
        let uid = spec.pod_uid.clone();
        let runtime = self.runtime().await;
        runtime.create_sandbox(spec).await.unwrap();
        Pod { test: self, runtime, uid }
    }

    /// The result of `future`, which must come within the limit.
    pub async fn soon<T>(&self, what: &str, future: impl Future<Output = T>) -> T {
        timeout(&*self.ctx.clock, LIMIT, future)
            .await
            .unwrap_or_else(|| panic!("{what} did not happen in time"))
    }

    /// Waits until `text` says what is wanted.
    pub async fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let waiting = async {
            while !holds() {
                self.ctx.clock.sleep(Duration::from_millis(5)).await;
            }
        };
        self.soon(what, waiting).await;
    }
}

/// A pod of a test.
pub struct Pod<'a> {
    pub test: &'a Test,
    pub runtime: Arc<Runtime>,
    pub uid: String,
}

/// What a container came to.
pub struct Ended {
    pub status: ContainerStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Pod<'_> {
    /// Creates and starts a container; its id.
    pub async fn start(&self, spec: ContainerSpec) -> Result<String, RuntimeError> {
        let id = spec.id.clone();
        self.runtime.create_container(&self.uid, spec).await?;
        let status = self.runtime.start_container(&self.uid, &id).await?;
        assert_eq!(status.id, id);
        Ok(id)
    }

    /// Runs a container to its end.
    pub async fn run(&self, spec: ContainerSpec) -> Ended {
        let log = spec.log_path.clone();
        let mut events = self.runtime.events();
        let id = self.start(spec).await.unwrap();
        let status = self.exit(&mut events, &id).await;
        let (stdout, stderr) = (read_log(&log, "stdout"), read_log(&log, "stderr"));
        Ended { status, stdout, stderr }
    }

    /// The output of a shell script that succeeds.
    pub async fn output(&self, script: &str) -> String {
        let ended = self.run(self.test.container(script)).await;
        assert_eq!(ended.status.exit_code, 0, "{}{}", ended.stdout, ended.stderr);
        ended.stdout
    }

    /// Waits for the end of a container.
    pub async fn exit(
        &self,
        events: &mut tokio::sync::mpsc::UnboundedReceiver<Event>,
        id: &str,
    ) -> ContainerStatus {
        let waiting = async {
            loop {
                match events.recv().await.expect("events go on") {
                    Event::ContainerExited { pod_uid, status } if status.id == id => {
                        assert_eq!(pod_uid, self.uid);
                        assert_eq!(status.state, State::Exited);
                        return status;
                    }
                    Event::SandboxLost { pod_uid } => panic!("the shim of {pod_uid} died"),
                    _ => {}
                }
            }
        };
        self.test.soon("the end of the container", waiting).await
    }

    /// Runs a command in a container: exit code, standard output, standard error.
    pub async fn exec(&self, id: &str, args: &[&str]) -> (i32, String, String) {
        let session = self.runtime.exec(&self.uid, id, exec_spec(args)).await.unwrap();
        self.test.soon("the end of the exec", collect(session)).await
    }
}

/// A command without input and terminal.
pub fn exec_spec(args: &[&str]) -> ExecSpec {
    ExecSpec {
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        tty: false,
        stdin: false,
        stdout: true,
        stderr: true,
    }
}

/// Everything a session says.
pub async fn collect(mut session: Session) -> (i32, String, String) {
    let (mut stdout, mut stderr) = (String::new(), String::new());
    if let Some(stream) = &mut session.stdout {
        stream.read_to_string(&mut stdout).await.unwrap();
    }
    if let Some(stream) = &mut session.stderr {
        stream.read_to_string(&mut stderr).await.unwrap();
    }
    (session.exit.await.unwrap(), stdout, stderr)
}

/// The text that a stream wrote to a log in CRI format.
pub fn read_log(path: &Path, stream: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let mut out = String::new();
    for line in text.lines() {
        // The last line may be half written.
        let [_, of, tag, words] = line.splitn(4, ' ').collect::<Vec<_>>()[..] else { continue };
        if of == stream {
            out.push_str(words);
            if tag == "F" {
                out.push('\n');
            }
        }
    }
    out
}

/// Plays a daemon: starts a container that counts, says so, and waits to be killed.
pub async fn daemon(dir: &Path, cgroup: &str) {
    let test = Test::new();
    let options =
        RuntimeOptions { state_dir: dir.join("state"), cgroup_root: cgroup.to_owned(), shim_program: None };
    let runtime = Runtime::open(&test.ctx, options).await.unwrap();
    runtime.create_sandbox(test.sandbox("counting")).await.unwrap();
    let mut spec = test.container("i=0; while :; do i=$((i+1)); echo line $i; sleep 0.01; done");
    let at = |what: &str| dir.join("counting").join(what);
    spec.rootfs = RootFs { lower: vec![dir.join("layer")], upper: at("u"), work: at("w"), target: at("t") };
    spec.log_path = at("0.log");
    let (uid, id) = (test.sandbox("counting").pod_uid, spec.id.clone());
    runtime.create_container(&uid, spec).await.unwrap();
    runtime.start_container(&uid, &id).await.unwrap();
    // Its own layer is not needed, and nobody else will remove it.
    test.dir.close().unwrap();
    println!("ready");
    std::future::pending::<()>().await;
}
