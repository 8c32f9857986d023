//! A cluster on a test host, made by the built binary, and namespaces in it, one a case.

use crate::host::{INSIDE, KNARR, TestHost};
use crate::kubectl::{self, Kubectl};
use crate::process::{Output, Spawned};
use crate::wait::{seconds, wait_for};
use serde_json::Value;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Where a case may serve images without TLS.
pub const REGISTRY: &str = "127.0.0.1:5000";

/// What is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Nothing: the case starts what it needs.
    Bare,
    /// `knarr server`.
    Server,
    /// `knarr up`, with the busybox image imported.
    Up,
    /// `knarr up --demo`.
    Demo,
}

/// A test host with a cluster.
pub struct Cluster {
    /// Its host.
    pub host: TestHost,
    mode: Mode,
    process: Mutex<Option<Spawned>>,
    namespaces: AtomicU32,
}

/// Test hosts share the disk of the machine they run on: how full that is must not decide tests.
pub const THRESHOLDS: [&str; 4] =
    ["--eviction-hard", "memory.available<20Mi,nodefs.available<100Mi", "--image-gc-high-threshold", "100"];

impl Cluster {
    /// Makes a host and starts the cluster.
    pub fn new(name: &str, mode: Mode) -> Self {
        let host = TestHost::new(name);
        let this = Self { host, mode, process: Mutex::new(None), namespaces: AtomicU32::new(0) };
        if mode != Mode::Bare {
            this.start();
        }
        if matches!(mode, Mode::Up | Mode::Demo) {
            this.import_busybox();
        }
        this
    }

    /// The `knarr` command line for this host.
    pub fn knarr_command<'a>(&'a self, command: &[&'a str]) -> Vec<&'a str> {
        let mut line =
            vec![KNARR, command[0], "--data-dir", "/srv/host/data", "--cgroup-root", &self.host.cgroup];
        if !command.contains(&"--eviction-hard") {
            line.extend(THRESHOLDS);
        }
        line.extend(&command[1..]);
        line
    }

    /// Runs a `knarr` command to its end.
    pub fn knarr(&self, command: &[&str]) -> Output {
        self.host.run(&self.knarr_command(command))
    }

    /// Process number of the daemon as this side of the test host sees it.
    pub fn pid(&self) -> u32 {
        let process = self.process.lock().expect("not poisoned");
        process.as_ref().and_then(Spawned::pid).expect("the cluster runs")
    }

    /// Switches the machine off and on again, then starts the cluster.
    pub fn reboot(&self) {
        self.host.reboot();
        *self.process.lock().expect("not poisoned") = None;
        self.start();
    }

    /// Starts the cluster (again) and waits until it says that it is ready; what it said.
    pub fn start(&self) -> String {
        self.start_with(&[])
    }

    /// The same with more flags.
    pub fn start_with(&self, flags: &[&str]) -> String {
        let command: &[&str] = match self.mode {
            Mode::Server => &["server", "--node-ip", "192.0.2.1"],
            Mode::Demo => &["up", "--demo"],
            Mode::Up | Mode::Bare => &[
                "up",
                "--insecure-registry",
                REGISTRY,
                "--runtime-handler",
                "other=/srv/host/files/knarr-oci",
            ],
        };
        let command = [command, flags].concat();
        let mut spawned = self.host.spawn(&self.knarr_command(&command));
        let said = spawned.wait_for_text("Ready after", seconds(60));
        *self.process.lock().expect("not poisoned") = Some(spawned);
        said
    }

    /// Imports the busybox image.
    pub fn import_busybox(&self) {
        crate::image::write(&self.host.dir.join("files/busybox.tar"));
        self.knarr(&["image", "import", &format!("{INSIDE}/files/busybox.tar")]).ok();
    }

    /// Everything the cluster's process said so far.
    pub fn said(&self) -> String {
        self.process.lock().expect("not poisoned").as_ref().map(Spawned::said).unwrap_or_default()
    }

    /// Ends the cluster's process by a signal and waits for its end.
    pub fn signal(&self, signal: &str) {
        let mut process = self.process.lock().expect("not poisoned").take().expect("the cluster runs");
        process.signal(signal);
        process.wait_for_end(seconds(30));
    }

    /// The newest kubectl.
    pub fn kubectl(&self, arguments: &[&str]) -> Output {
        self.kubectl_of(kubectl::newest(), arguments)
    }

    /// A kubectl of some version.
    pub fn kubectl_of(&self, kubectl: &Kubectl, arguments: &[&str]) -> Output {
        self.kubectl_with(kubectl, arguments, b"", seconds(60))
    }

    /// A kubectl with something to read.
    pub fn kubectl_with(
        &self,
        kubectl: &Kubectl,
        arguments: &[&str],
        input: &[u8],
        limit: Duration,
    ) -> Output {
        let path = kubectl.path.to_string_lossy();
        let mut line = vec![&*path];
        line.extend(arguments);
        self.host.run_with(&line, input, limit)
    }

    /// Runs a command that the host has, with the kubeconfig in its environment.
    pub fn run(&self, program: &[&str], limit: Duration) -> Output {
        let config = format!("KUBECONFIG={INSIDE}/home/.kube/config");
        let mut line = vec!["env", &config];
        line.extend(program);
        self.host.run_with(&line, b"", limit)
    }

    /// An HTTPS request as the admin: `curl` with the kubeconfig's certificate. The status code and the body.
    pub fn raw(&self, arguments: &[&str], path: &str, input: &[u8]) -> (u16, String) {
        let files = self.credentials();
        let mut line = vec!["--cacert", &files[0], "--cert", &files[1], "--key", &files[2]];
        line.extend(arguments);
        self.curl(&line, path, input)
    }

    /// An HTTPS request without credentials but those in `arguments`.
    pub fn curl(&self, arguments: &[&str], path: &str, input: &[u8]) -> (u16, String) {
        let url = format!("https://127.0.0.1:6443{path}");
        let mut line = vec!["curl", "-sS", "--insecure", "--max-time", "20", "--write-out", "\n%{http_code}"];
        line.extend(arguments);
        line.push(&url);
        let text = self.host.run_with(&line, input, seconds(30)).ok();
        let (body, code) = text.rsplit_once('\n').expect("curl writes the code last");
        (code.parse().expect("a status code"), body.to_owned())
    }

    fn credentials(&self) -> [String; 3] {
        let names = ["ca.crt", "admin.crt", "admin.key"];
        if !self.host.dir.join("files").join(names[0]).exists() {
            let config = self.kubectl(&["config", "view", "--raw", "-o", "json"]).json();
            let of = |list: &str, inner: &str, key: &str| {
                config[list][0][inner][key].as_str().unwrap_or_default().to_owned()
            };
            for (name, encoded) in names.iter().zip([
                of("clusters", "cluster", "certificate-authority-data"),
                of("users", "user", "client-certificate-data"),
                of("users", "user", "client-key-data"),
            ]) {
                use base64::Engine;
                let pem = base64::engine::general_purpose::STANDARD.decode(encoded).expect("base64");
                self.host.file(name, pem);
            }
        }
        names.map(|name| format!("{INSIDE}/files/{name}"))
    }

    /// A namespace of its own for a case, with its default service account.
    pub fn namespace(&self) -> Namespace<'_> {
        let name = format!("case-{}", self.namespaces.fetch_add(1, Ordering::Relaxed));
        self.kubectl(&["create", "namespace", &name]).ok();
        let this = Namespace { cluster: self, name };
        if matches!(self.mode, Mode::Up | Mode::Demo) {
            wait_for("the default service account", seconds(20), || {
                this.kubectl(&["get", "serviceaccount", "default"]).result()
            });
        }
        this
    }
}

/// A namespace; deleted when dropped (without waiting).
pub struct Namespace<'a> {
    /// Its cluster.
    pub cluster: &'a Cluster,
    /// Its name.
    pub name: String,
}

impl Namespace<'_> {
    /// kubectl in this namespace.
    pub fn kubectl(&self, arguments: &[&str]) -> Output {
        self.kubectl_of(kubectl::newest(), arguments)
    }

    /// kubectl of some version in this namespace.
    pub fn kubectl_of(&self, kubectl: &Kubectl, arguments: &[&str]) -> Output {
        let mut line = vec!["--namespace", &self.name];
        line.extend(arguments);
        self.cluster.kubectl_of(kubectl, &line)
    }

    /// The command line of kubectl in this namespace, to be spawned.
    pub fn kubectl_line<'a>(&'a self, kubectl: &'a Kubectl, arguments: &[&'a str]) -> Vec<&'a str> {
        let path = kubectl.path.to_str().expect("a path in UTF-8");
        let mut line = vec![path, "--namespace", &self.name];
        line.extend(arguments);
        line
    }

    /// kubectl with something to read.
    pub fn kubectl_stdin(&self, arguments: &[&str], input: &str) -> Output {
        let mut line = vec!["--namespace", &self.name];
        line.extend(arguments);
        self.cluster.kubectl_with(kubectl::newest(), &line, input.as_bytes(), seconds(60))
    }

    /// `kubectl apply` of a manifest.
    #[track_caller]
    pub fn apply(&self, manifest: &str) -> String {
        self.kubectl_stdin(&["apply", "-f", "-"], manifest).ok()
    }

    /// An object.
    #[track_caller]
    pub fn get(&self, what: &str) -> Value {
        self.kubectl(&["get", what, "-o", "json"]).json()
    }

    /// Waits until an object is as wanted.
    pub fn wait_until(&self, what: &str, limit: Duration, wanted: impl Fn(&Value) -> bool) -> Value {
        wait_for(what, limit, || {
            let text = self.kubectl(&["get", what, "-o", "json"]).result()?;
            let object: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
            if wanted(&object) {
                Ok(object)
            } else {
                Err(format!("{} {}", object["metadata"]["name"], object["status"]))
            }
        })
    }

    /// Waits until an object is gone.
    pub fn wait_until_gone(&self, what: &str, limit: Duration) {
        wait_for(&format!("{what} is gone"), limit, || {
            let seen = self.kubectl(&["get", what]);
            if seen.stderr.contains("NotFound") { Ok(()) } else { Err(seen.to_string()) }
        });
    }

    /// Waits until a pod runs with all containers ready; the pod.
    pub fn wait_until_ready(&self, pod: &str) -> Value {
        self.wait_until(&format!("pod/{pod}"), seconds(45), |pod| {
            let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
            conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
        })
    }

    /// Runs a command in a pod; its output.
    pub fn exec(&self, pod: &str, command: &[&str]) -> Output {
        let mut line = vec!["exec", pod, "--"];
        line.extend(command);
        self.kubectl(&line)
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for what in [["get", "all", "-o", "wide"], ["get", "events", "-o", "wide"]] {
                let seen = self.kubectl(&what);
                eprintln!("{}{}", seen.stdout, seen.stderr);
            }
        }
        self.cluster.kubectl(&["delete", "namespace", &self.name, "--wait=false"]);
    }
}
