//! The servers under test: `knarr server` as a process of its own, which can be killed, stopped and started again on
//! the same data.

use knarr_base::Ctx;
use knarr_client::{Client, Transport, kubeconfig};
use knarr_store::testing::etcd::{free_ports, spawn_kept};
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// How long a server may take to be ready, on a machine that is busy with other things.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// One server.
pub struct Server {
    dir: tempfile::TempDir,
    ports: Vec<u16>,
    etcd: Vec<String>,
    child: Option<Child>,
}

impl Server {
    /// Starts a server, on etcd where endpoints are given, with the certificates of another one if need be, and waits
    /// until it is ready.
    pub async fn start(ctx: &Ctx, etcd: &[String], like: Option<&Server>) -> Self {
        let dir = tempfile::Builder::new().prefix("knarr-lin-").tempdir().expect("a directory can be made");
        if let Some(like) = like {
            let (from, to) = (like.dir.path().join("pki"), dir.path().join("pki"));
            fs::create_dir_all(&to).expect("a directory can be made");
            for entry in fs::read_dir(from).expect("the other one has certificates") {
                let entry = entry.expect("a folder can be read");
                fs::copy(entry.path(), to.join(entry.file_name())).expect("a file can be copied");
            }
        }
        let mut this = Self { dir, ports: free_ports(3), etcd: etcd.to_vec(), child: None };
        this.revive(ctx).await;
        this
    }

    /// Starts the server if it does not run, and waits until it is ready.
    pub async fn revive(&mut self, ctx: &Ctx) {
        if self.child.is_none() {
            self.spawn();
        }
        let start = ctx.clock.instant();
        loop {
            assert!(ctx.clock.instant() - start < READY_LIMIT, "the server is not ready:\n{}", self.log());
            if let Some(client) = self.connect(ctx) {
                let ready = client.call(http::Method::GET, "/readyz", &serde_json::Value::Null);
                let limit = Duration::from_secs(2);
                if let Some(Ok(_)) = knarr_base::clock::timeout(&*ctx.clock, limit, ready).await {
                    return;
                }
            }
            let status = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            assert!(status.is_none(), "the server ended ({status:?}):\n{}", self.log());
            ctx.clock.sleep(Duration::from_millis(50)).await;
        }
    }

    fn spawn(&mut self) {
        let log = File::options().create(true).append(true).open(self.log_file()).expect("a log can be made");
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--", env!("CARGO_BIN_EXE_knarr"), "server"])
            .args(["--bind-address", "127.0.0.1", "--node-ip", "192.0.2.1", "--kubeconfig", "none"])
            .arg(format!("--data-dir={}", self.dir.path().display()))
            .arg(format!("--https-port={}", self.ports[0]))
            .arg(format!("--kubelet-port={}", self.ports[1]))
            .arg(format!("--dns-port={}", self.ports[2]))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log);
        if !self.etcd.is_empty() {
            command.arg(format!("--etcd-servers={}", self.etcd.join(",")));
        }
        self.child = Some(spawn_kept(command).expect("setpriv and knarr can be started"));
    }

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("server.log")
    }

    fn log(&self) -> String {
        let text = fs::read_to_string(self.log_file()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Where its administrator's kubeconfig is.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("admin.kubeconfig")
    }

    fn connect(&self, ctx: &Ctx) -> Option<Client> {
        let transport: Arc<dyn Transport> = Arc::new(kubeconfig::load(&self.kubeconfig()).ok()?);
        Some(Client::new(transport, "linearizability", ctx.clone()))
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGSTOP.
    pub fn pause(&self) {
        self.signal("STOP");
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, signal: &str) {
        let child = self.child.as_ref().expect("the server runs");
        let sent = Command::new("sh").args(["-c", &format!("kill -{signal} {}", child.id())]).status();
        assert!(sent.is_ok_and(|status| status.success()), "the signal can be sent");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}
