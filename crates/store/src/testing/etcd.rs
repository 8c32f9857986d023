//! Real etcd clusters for tests: members of Debian's `etcd-server` on free ports of the loopback interface, in a
//! temporary directory, that can be killed, stopped and started again. They end with the [`EtcdCluster`], and with
//! the test's process however that ends.

use crate::etcd::EtcdOptions;
use std::fs::{self, File};
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{LazyLock, Mutex};

/// Which program to run instead of the `etcd` on the path, for trying other versions.
const PROGRAM: &str = "KNARR_TEST_ETCD";

/// A running cluster.
pub struct EtcdCluster {
    members: Vec<Member>,
    secure: bool,
    dir: tempfile::TempDir,
}

struct Member {
    client_port: u16,
    arguments: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
}

impl EtcdCluster {
    /// Starts `size` members; with TLS for clients when `secure`. Panics when they cannot be started: etcd is one of
    /// the packages that the tests need.
    pub fn start(size: usize, secure: bool) -> Self {
        let dir = tempfile::Builder::new().prefix("knarr-etcd-").tempdir().expect("a directory can be made");
        if secure {
            certificates(dir.path());
        }
        let ports = free_ports(2 * size);
        let peer = |member: usize| format!("http://127.0.0.1:{}", ports[size + member]);
        let cluster: Vec<String> = (0..size).map(|member| format!("m{member}={}", peer(member))).collect();
        let scheme = if secure { "https" } else { "http" };
        let members = (0..size).map(|member| {
            let client = format!("{scheme}://127.0.0.1:{}", ports[member]);
            let data = dir.path().join(format!("m{member}"));
            let mut arguments = vec![
                format!("--name=m{member}"),
                format!("--data-dir={}", data.display()),
                format!("--listen-client-urls={client}"),
                format!("--advertise-client-urls={client}"),
                format!("--listen-peer-urls={}", peer(member)),
                format!("--initial-advertise-peer-urls={}", peer(member)),
                format!("--initial-cluster={}", cluster.join(",")),
                "--initial-cluster-state=new".to_owned(),
                // Quick to notice a lost leader, and yet patient with a busy machine.
                "--heartbeat-interval=100".to_owned(),
                "--election-timeout=1000".to_owned(),
                "--logger=zap".to_owned(),
            ];
            if secure {
                let file = |name: &str| dir.path().join(name).display().to_string();
                arguments.push(format!("--cert-file={}", file("server.crt")));
                arguments.push(format!("--key-file={}", file("server.key")));
                arguments.push(format!("--trusted-ca-file={}", file("ca.crt")));
                arguments.push("--client-cert-auth=true".to_owned());
            }
            let log = dir.path().join(format!("m{member}.log"));
            Member { client_port: ports[member], arguments, log, child: None }
        });
        let mut this = Self { members: members.collect(), secure, dir };
        for member in 0..size {
            this.start_member(member);
        }
        this
    }

    /// How to connect to it.
    pub fn options(&self) -> EtcdOptions {
        let scheme = if self.secure { "https" } else { "http" };
        let servers =
            self.members.iter().map(|m| format!("{scheme}://127.0.0.1:{}", m.client_port)).collect();
        let file = |name: &str| self.secure.then(|| self.dir.path().join(name));
        EtcdOptions {
            ca_file: file("ca.crt"),
            cert_file: file("client.crt"),
            key_file: file("client.key"),
            ..EtcdOptions::new(servers)
        }
    }

    /// Starts a member that was killed; it keeps its data.
    pub fn start_member(&mut self, member: usize) {
        let member = &mut self.members[member];
        assert!(member.child.is_none(), "it runs already");
        let log = File::options().create(true).append(true).open(&member.log).expect("a log can be made");
        let program = std::env::var_os(PROGRAM).unwrap_or_else(|| "etcd".into());
        // setpriv has the kernel kill the member when this process is gone.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .args(&member.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log);
        let child = spawn_kept(command).expect("etcd can be started: install etcd-server and util-linux");
        member.child = Some(child);
    }

    /// `kill -9` of a member.
    pub fn kill(&mut self, member: usize) {
        if let Some(mut child) = self.members[member].child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Stops a member where it stands (SIGSTOP).
    pub fn pause(&self, member: usize) {
        self.signal(member, "STOP");
    }

    /// Lets it go on (SIGCONT).
    pub fn resume(&self, member: usize) {
        self.signal(member, "CONT");
    }

    fn signal(&self, member: usize, signal: &str) {
        let child = self.members[member].child.as_ref().expect("the member runs");
        let sent = Command::new("sh").args(["-c", &format!("kill -{signal} {}", child.id())]).status();
        assert!(sent.is_ok_and(|status| status.success()), "the signal can be sent");
    }

    /// The number of the member that says it leads, going by what the others believe; `None` during an election.
    pub async fn leader(&self, ctx: &knarr_base::Ctx) -> Option<usize> {
        let options = self.options();
        crate::etcd::leader(ctx, &options).await
    }

    /// The end of the members' logs, for a failed test.
    pub fn logs(&self) -> String {
        let tail = |member: &Member| {
            let text = fs::read_to_string(&member.log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(20)..].join("\n")
        };
        self.members.iter().map(tail).collect::<Vec<_>>().join("\n---\n")
    }
}

impl Drop for EtcdCluster {
    fn drop(&mut self) {
        for member in 0..self.members.len() {
            self.kill(member);
        }
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
    }
}

type Order = (Command, Sender<io::Result<Child>>);

/// Starts a process from a thread that lasts as long as this process: the kernel's "parent died" means the thread.
pub fn spawn_kept(command: Command) -> io::Result<Child> {
    static KEEPER: LazyLock<Mutex<Sender<Order>>> = LazyLock::new(|| {
        let (orders, received) = channel::<Order>();
        std::thread::spawn(move || {
            while let Ok((mut command, answer)) = received.recv() {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    let (answer, answered) = channel();
    let keeper = KEEPER.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    keeper.send((command, answer)).map_err(io::Error::other)?;
    answered.recv().map_err(io::Error::other)?
}

/// Where [`free_ports`] looks: below what the kernel gives to outgoing connections, which could take the port of a
/// server that is not up yet or is just being restarted.
const PORTS: std::ops::Range<u16> = 10_240..30_000;

/// Ports that nobody listens on, all different, also from those of earlier calls.
pub fn free_ports(count: usize) -> Vec<u16> {
    // Processes that run at the same time begin in different places.
    static NEXT: LazyLock<AtomicU32> = LazyLock::new(|| AtomicU32::new(std::process::id().wrapping_mul(64)));
    let all = std::iter::repeat_with(|| {
        let next = NEXT.fetch_add(1, Ordering::Relaxed) % u32::from(PORTS.end - PORTS.start);
        PORTS.start + u16::try_from(next).expect("it is less than the range is long")
    });
    let tries = PORTS.len();
    let free: Vec<u16> =
        all.take(tries).filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).take(count).collect();
    assert_eq!(free.len(), count, "ports are free");
    free
}

/// A CA, a server's and a client's certificate of it.
fn certificates(dir: &Path) {
    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
    let write = |name: &str, text: String| fs::write(dir.join(name), text).expect("a file can be written");
    let key = || KeyPair::generate().expect("a key can be made");
    let ca_key = key();
    let mut ca = CertificateParams::new(Vec::new()).expect("no names are fine");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name.push(rcgen::DnType::CommonName, "etcd-ca");
    write("ca.crt", ca.self_signed(&ca_key).expect("a CA can be made").pem());
    let issuer = Issuer::new(ca, ca_key);
    for (name, usage) in [
        ("server", vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]),
        ("client", vec![ExtendedKeyUsagePurpose::ClientAuth]),
    ] {
        let own = key();
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("an address is a name");
        params.extended_key_usages = usage;
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let certificate = params.signed_by(&own, &issuer).expect("a certificate can be issued");
        write(&format!("{name}.crt"), certificate.pem());
        write(&format!("{name}.key"), own.serialize_pem());
    }
}
