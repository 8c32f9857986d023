//! A test host: network, mount, PID, UTS and IPC namespaces of its own with fresh `/proc`, `/sys`, `/run` and `/srv`,
//! only a loopback link, and a data directory on disk. Its init lives as long as a pipe from this process: when
//! either ends, the kernel removes processes, mounts, links and tables. Only cgroups and files are left to sweep.

use crate::process::{Output, Spawned, children};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, Once};
use std::time::{Duration, Instant};

/// Where the host's own directory is seen inside it: short, for the sake of socket paths.
pub const INSIDE: &str = "/srv/host";
/// Where the binary is seen inside, readable for every user.
pub const KNARR: &str = "/srv/knarr";
/// A command may take this long unless told otherwise.
const PATIENCE: Duration = Duration::from_secs(60);

/// What init does. Host addresses of cgroups stay visible, everything else of the kernel's is made anew. The last
/// program ignores SIGCHLD, so that the kernel itself reaps orphans.
const INIT: &str = r#"
set -e
resolv=$(readlink -f /etc/resolv.conf)
mount --make-rprivate /
mount --rbind /sys/fs/cgroup "$BASE/cgroup"
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount --move "$BASE/cgroup" /sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=755 tmpfs /srv
mkdir /srv/host /run/lock
mount --bind "$BASE" /srv/host
touch /srv/knarr
mount --bind "$KNARR" /srv/knarr
mkdir -p "$(dirname "$resolv")"
[ -e "$resolv" ] || : > "$resolv"
mount --bind "$BASE/resolv.conf" "$resolv"
mount --bind "$BASE/boot_id" /proc/sys/kernel/random/boot_id
echo "$NAME" > /proc/sys/kernel/hostname
ip link set lo up
echo ready
exec env --ignore-signal=CHLD cat > /dev/null
"#;

/// A machine of its own, as far as the kernel can pretend.
pub struct TestHost {
    /// Its host name.
    pub name: String,
    /// Its directory as seen from outside; [`INSIDE`] from inside.
    pub dir: PathBuf,
    /// The cgroup under which everything of it has to be.
    pub cgroup: String,
    machine: Mutex<Machine>,
    logs: AtomicU32,
}

/// What ends when a test host is switched off.
struct Machine {
    unshare: Child,
    stdin: Option<ChildStdin>,
    init: u32,
}

impl Machine {
    /// Starts init over a host's directory.
    fn boot(name: &str, dir: &Path) -> Self {
        let boot_id = std::fs::read("/proc/sys/kernel/random/uuid").expect("the kernel has random numbers");
        std::fs::write(dir.join("boot_id"), boot_id).expect("writable");
        let mut unshare = Command::new("unshare")
            .args(["--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--"])
            .args(["sh", "-c", INIT])
            .env("BASE", dir)
            .env("KNARR", knarr())
            .env("NAME", name)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare (util-linux) can be run");
        let stdin = unshare.stdin.take();
        let mut first = String::new();
        let stdout = unshare.stdout.take().expect("it is a pipe");
        let _ = BufReader::new(stdout).read_line(&mut first);
        let init = children(unshare.id()).first().copied().unwrap_or_default();
        let this = Self { unshare, stdin, init };
        assert_eq!(first, "ready\n", "the test host {name} did not start; is this root?");
        assert!(init != 0, "the test host {name} has no init");
        this
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}

impl TestHost {
    /// Makes a host.
    pub fn new(name: &str) -> Self {
        static SWEPT: Once = Once::new();
        static COUNT: AtomicU32 = AtomicU32::new(0);
        SWEPT.call_once(sweep);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let tag = format!("{PREFIX}{}-{n}", std::process::id());
        let dir = hosts_dir().join(&tag);
        for folder in ["cgroup", "home", "logs", "files"] {
            std::fs::create_dir_all(dir.join(folder)).expect("the target directory is writable");
        }
        // An address of the documentation's range: whoever asks it from here gets an error at once.
        std::fs::write(dir.join("resolv.conf"), "nameserver 192.0.2.53\n").expect("writable");
        let machine = Mutex::new(Machine::boot(name, &dir));
        Self { name: name.to_owned(), dir, cgroup: tag, machine, logs: AtomicU32::new(0) }
    }

    /// Switches the host off at once and on again: only its directory is what it was.
    pub fn reboot(&self) {
        let mut machine = self.machine.lock().expect("not poisoned");
        // In place, so that the old machine is off before the new one boots.
        drop(machine.stdin.take());
        let _ = machine.unshare.kill();
        let _ = machine.unshare.wait();
        self.sweep_cgroups();
        *machine = Machine::boot(&self.name, &self.dir);
    }

    /// Joins two hosts by a cable: a link `name` at each end, with an address (and prefix) of its own.
    pub fn connect(&self, name: &str, address: &str, other: &TestHost, other_address: &str) {
        let init_of = |host: &TestHost| host.machine.lock().expect("not poisoned").init.to_string();
        let (here, there) = (init_of(self), init_of(other));
        // One to a host that is gone ends with that host's namespace, a moment later.
        self.run(&["ip", "link", "delete", name]);
        // Made inside this host and given away from there: the machine's own namespace never sees it.
        let mut command = Command::new("nsenter");
        command.args(["--target", &here, "--net", "--", "ip", "link", "add", name, "type", "veth"]);
        command.args(["peer", "name", name, "netns", &there]);
        let done = command.output().expect("nsenter (util-linux) can be run");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        for (host, address) in [(self, address), (other, other_address)] {
            host.run(&["ip", "address", "add", address, "dev", name]).ok();
            host.run(&["ip", "link", "set", name, "up"]).ok();
        }
    }

    /// The kernel ends the namespace's processes; their cgroups empty a moment later.
    fn sweep_cgroups(&self) {
        let start = Instant::now();
        while !remove_cgroups(&self.cgroup) && start.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn enter(&self, program: &[&str]) -> Command {
        let init =
            self.machine.lock().map_or_else(|poisoned| poisoned.into_inner().init, |machine| machine.init);
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &init.to_string(), "--net", "--mount", "--pid", "--uts", "--ipc"])
            .args(["--", "env", "--chdir", INSIDE])
            .args(program)
            .env("HOME", format!("{INSIDE}/home"))
            .env("TMPDIR", format!("{INSIDE}/files"))
            .env_remove("KUBECONFIG")
            .env_remove("SUDO_UID")
            .env_remove("SUDO_GID");
        command
    }

    /// Runs a command to its end.
    pub fn run(&self, program: &[&str]) -> Output {
        self.run_with(program, b"", PATIENCE)
    }

    /// Runs a command to its end, with something to read and a limit of its own.
    pub fn run_with(&self, program: &[&str], input: &[u8], limit: Duration) -> Output {
        let limit = crate::wait::stretched(limit).as_secs().max(1).to_string();
        let mut limited = vec!["timeout", "--foreground", "--kill-after=5", &limit];
        limited.extend(program);
        let mut child = self
            .enter(&limited)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("nsenter (util-linux) can be run");
        let mut stdin = child.stdin.take().expect("it is a pipe");
        let input = input.to_owned();
        // Beside the reading, or two full pipes would wait for each other. A command may stop reading early.
        let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let output = child.wait_with_output().expect("the command is ours");
        writer.join().expect("writing does not panic");
        Output {
            command: program.join(" "),
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Starts a command that runs on; its output goes to a file.
    pub fn spawn(&self, program: &[&str]) -> Spawned {
        let n = self.logs.fetch_add(1, Ordering::Relaxed);
        let name = Path::new(program[0]).file_name().unwrap_or_default().to_string_lossy().into_owned();
        let log = self.dir.join("logs").join(format!("{n:03}-{name}.log"));
        let out = std::fs::File::create(&log).expect("writable");
        let err = out.try_clone().expect("a file can be shared");
        let child = self.enter(program).stdin(Stdio::null()).stdout(out).stderr(err).spawn();
        Spawned { command: program.join(" "), child: child.expect("nsenter can be run"), log }
    }

    /// Starts a command whose standard input the test writes.
    pub fn spawn_with_stdin(&self, program: &[&str]) -> (Spawned, ChildStdin) {
        let n = self.logs.fetch_add(1, Ordering::Relaxed);
        let log = self.dir.join("logs").join(format!("{n:03}-stdin.log"));
        let out = std::fs::File::create(&log).expect("writable");
        let err = out.try_clone().expect("a file can be shared");
        let spawned = self.enter(program).stdin(Stdio::piped()).stdout(out).stderr(err).spawn();
        let mut child = spawned.expect("nsenter can be run");
        let stdin = child.stdin.take().expect("it is a pipe");
        (Spawned { command: program.join(" "), child, log }, stdin)
    }

    /// Asks by HTTP from inside this host; the body, or what went wrong.
    pub fn http(&self, url: &str) -> Result<String, String> {
        self.run(&["curl", "-sS", "--fail-with-body", "--max-time", "5", url]).result()
    }

    /// Writes a file of the host's directory; its path inside.
    pub fn file(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        std::fs::write(self.dir.join("files").join(name), text).expect("writable");
        format!("{INSIDE}/files/{name}")
    }
}

impl Drop for TestHost {
    fn drop(&mut self) {
        if let Ok(mut machine) = self.machine.lock() {
            drop(machine.stdin.take());
            let _ = machine.unshare.kill();
            let _ = machine.unshare.wait();
        }
        self.sweep_cgroups();
        if std::env::var_os("KNARR_E2E_KEEP").is_some() {
            eprintln!("kept {}", self.dir.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

/// Names of hosts' directories and cgroups start with this, then the process whose they are.
const PREFIX: &str = "knarr-e2e-";

fn target_dir() -> PathBuf {
    let exe = std::env::current_exe().expect("this process has a program");
    exe.ancestors().nth(2).expect("cargo puts tests into <target>/<profile>/deps").to_owned()
}

fn hosts_dir() -> PathBuf {
    target_dir().join("e2e-hosts")
}

/// The binary under test.
pub fn knarr() -> PathBuf {
    let path = std::env::var_os("KNARR_BIN").map_or_else(|| target_dir().join("knarr"), PathBuf::from);
    assert!(path.exists(), "{} is missing; build it, or set KNARR_BIN", path.display());
    path
}

/// Removes what crashed runs left: their processes are gone with their namespaces.
fn sweep() {
    let left = |name: &str| {
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists())
    };
    for tag in crate::snapshot::cgroup_names() {
        if left(&tag) {
            remove_cgroups(&tag);
        }
    }
    for entry in std::fs::read_dir(hosts_dir()).into_iter().flatten().flatten() {
        if left(&entry.file_name().to_string_lossy()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Removes a cgroup and all below it in every hierarchy; whether none is left.
fn remove_cgroups(name: &str) -> bool {
    let mut clean = true;
    for root in crate::snapshot::hierarchies() {
        clean &= remove_tree(&root.join(name));
    }
    clean
}

fn remove_tree(dir: &Path) -> bool {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    match std::fs::remove_dir(dir) {
        Ok(()) => true,
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}
