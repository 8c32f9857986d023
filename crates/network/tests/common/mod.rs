//! A host of its own for each test: the test runs again in a child with fresh network and mount namespaces, so that
//! nothing touches the machine. Pods are network namespaces in which closures run on threads.

pub mod api;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const MARK: &str = "KNARR_TEST_HOST";

/// Runs `body` in a child process that is a host of its own. `name` is the test's.
pub fn in_test_host(name: &str, body: impl FnOnce()) {
    in_host(name, &["unshare"], body);
}

/// [`in_test_host`] for a body that measures time: it goes before what else the machine has to do, which would be
/// measured with it.
pub fn in_measured_host(name: &str, body: impl FnOnce()) {
    in_host(name, &["nice", "-n", "-20", "unshare"], body);
}

fn in_host(name: &str, program: &[&str], body: impl FnOnce()) {
    if std::env::var_os(MARK).is_some() {
        run("mount", &["-t", "tmpfs", "none", "/run"]);
        run("ip", &["link", "set", "lo", "up"]);
        body();
        return;
    }
    let itself = std::env::current_exe().expect("a test knows its binary");
    let status = Command::new(program[0])
        .args(&program[1..])
        .args(["--net", "--mount", "--propagation", "private"])
        .arg(itself)
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(MARK, "1")
        .status()
        .expect("unshare runs");
    assert!(status.success(), "the test failed in its own host");
}

/// Runs a program and gives its output; it must succeed.
pub fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A network namespace; removed with the test's mount namespace.
pub fn namespace(name: &str) -> PathBuf {
    run("ip", &["netns", "add", name]);
    Path::new("/run/netns").join(name)
}

/// Runs `work` on a thread in the namespace.
pub fn within<T: Send + 'static>(netns: &Path, work: impl FnOnce() -> T + Send + 'static) -> T {
    knarr_network::netlink::inside(netns, work).expect("the namespace can be entered")
}

/// A TCP server in the namespace that tells each client `who` and the client's address. It ends with the process.
pub fn serve_tcp(netns: &Path, port: u16, who: &str) {
    let listener =
        within(netns, move || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect("port is free"));
    let who = who.to_owned();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let from = client.peer_addr().expect("a client has an address").ip();
            let _ = client.write_all(format!("{who} {from}").as_bytes());
        }
    });
}

/// The same over UDP.
pub fn serve_udp(netns: &Path, port: u16, who: &str) {
    let socket = within(netns, move || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).expect("port is free"));
    let who = who.to_owned();
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(format!("{who} {}", from.ip()).as_bytes(), from);
        }
    });
}

/// What a TCP server says, or the kind of the failure.
pub fn ask_tcp(to: SocketAddrV4) -> Result<String, std::io::ErrorKind> {
    let limit = Duration::from_secs(2);
    let mut stream = TcpStream::connect_timeout(&SocketAddr::V4(to), limit).map_err(|e| e.kind())?;
    stream.set_read_timeout(Some(limit)).expect("a limit can be set");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(|e| e.kind())?;
    Ok(answer)
}

/// [`ask_tcp`] from within a namespace.
pub fn ask_tcp_from(netns: &Path, to: SocketAddrV4) -> Result<String, std::io::ErrorKind> {
    within(netns, move || ask_tcp(to))
}

/// What a UDP server answers on an open socket.
pub fn ask_udp(socket: &UdpSocket, to: SocketAddrV4) -> Result<String, std::io::ErrorKind> {
    socket.set_read_timeout(Some(Duration::from_secs(2))).expect("a limit can be set");
    socket.send_to(b"?", to).map_err(|e| e.kind())?;
    let mut buffer = [0; 512];
    let (length, _) = socket.recv_from(&mut buffer).map_err(|e| e.kind())?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}
