//! A bus of the test's own, on which systemd-logind answers: the lock, the delay, and who may tell of a shutdown.

use super::logind::{Logind, remove_logind_override};
use super::message::{self, Address, Arg, Kind, Message};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use std::io::{BufRead, BufReader, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const LOGIND: &str = ":1.7";

/// What the bus was asked, and what it answers.
#[derive(Default)]
struct Fake {
    /// InhibitDelayMaxUSec; `KillUnit` makes it what `after` is.
    delay: AtomicU64,
    after: AtomicU64,
    calls: Mutex<Vec<String>>,
    /// The other ends of locks.
    locks: Mutex<Vec<OwnedFd>>,
}

fn read(stream: &mut BufReader<UnixStream>) -> Option<Message> {
    let mut bytes = vec![0; 16];
    stream.read_exact(&mut bytes).ok()?;
    let length = message::length(&bytes).expect("a message").expect("the header is whole");
    bytes.resize(length, 0);
    stream.read_exact(&mut bytes[16..]).ok()?;
    Some(message::decode(&bytes).expect("a message"))
}

fn signal(stream: &mut impl Write, sender: &str, begun: bool) {
    let from = Address {
        path: "/org/freedesktop/login1",
        interface: "org.freedesktop.login1.Manager",
        member: "PrepareForShutdown",
        sender,
        ..Address::default()
    };
    // In two pieces: a reader must put them together.
    let bytes = message::encode(Kind::Signal, 99, from, &[Arg::Bool(begun)], 0);
    stream.write_all(&bytes[..20]).expect("it is read");
    stream.write_all(&bytes[20..]).expect("it is read");
}

/// Serves one client until it goes. A shutdown begins as soon as a lock was taken, once told by somebody else first.
fn serve(fake: &Fake, stream: UnixStream) {
    let mut out = stream.try_clone().expect("a socket can be shared");
    let mut stream = BufReader::new(stream);
    for (start, answer) in
        [("\0AUTH EXTERNAL ", "OK 1234\r\n"), ("NEGOTIATE_UNIX_FD", "AGREE_UNIX_FD\r\n"), ("BEGIN", "")]
    {
        let mut line = String::new();
        stream.read_line(&mut line).expect("a line");
        assert!(line.starts_with(start), "{line:?}");
        out.write_all(answer.as_bytes()).expect("it is read");
    }
    while let Some(call) = read(&mut stream) {
        fake.calls.lock().unwrap().push(call.member.clone());
        let to = Address { reply_to: call.serial, sender: LOGIND, ..Address::default() };
        let answer = |arguments: &[Arg<'_>]| message::encode(Kind::Return, 1, to, arguments, 0);
        let bytes = match call.member.as_str() {
            "Hello" => answer(&[Arg::Str(":1.9")]),
            "AddMatch" => answer(&[]),
            "GetNameOwner" => answer(&[Arg::Str(LOGIND)]),
            "Get" => answer(&[Arg::Variant64(fake.delay.load(Ordering::Relaxed))]),
            "KillUnit" => {
                fake.delay.store(fake.after.load(Ordering::Relaxed), Ordering::Relaxed);
                answer(&[])
            }
            "Inhibit" => {
                let (ours, theirs) = rustix::pipe::pipe().expect("a pipe");
                let bytes = message::encode(Kind::Return, 1, to, &[Arg::Fd(0)], 1);
                let fds = [theirs.as_fd()];
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
                // Before the client goes on, the other end is kept and its own copied end is the only one.
                fake.locks.lock().unwrap().push(ours);
                rustix::net::sendmsg(&out, &[IoSlice::new(&bytes)], &mut control, SendFlags::empty())
                    .expect("it is read");
                drop(theirs);
                signal(&mut out, ":1.66", true);
                signal(&mut out, LOGIND, true);
                continue;
            }
            other => panic!("nobody calls {other}"),
        };
        out.write_all(&bytes).expect("it is read");
    }
}

fn start(dir: &Path, delay: u64, after: u64) -> Arc<Fake> {
    let fake = Arc::new(Fake::default());
    fake.delay.store(delay, Ordering::Relaxed);
    fake.after.store(after, Ordering::Relaxed);
    let listener = UnixListener::bind(dir.join("bus")).expect("the socket can be made");
    let served = fake.clone();
    std::thread::spawn(move || serve(&served, listener.accept().expect("a client").0));
    fake
}

/// Whether nobody holds the lock any more: its other end is at its end.
fn is_released(lock: &OwnedFd) -> bool {
    use rustix::event::{PollFd, PollFlags, poll};
    let mut fds = [PollFd::new(lock, PollFlags::IN)];
    let none = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&none)).expect("it is open") == 1 && fds[0].revents().contains(PollFlags::HUP)
}

#[tokio::test]
async fn the_lock_is_held_until_it_is_dropped_and_only_logind_tells_of_shutdowns() {
    let dir = tempfile::tempdir().unwrap();
    let fake = start(dir.path(), 30_000_000, 0);
    let clock = knarr_base::Ctx::system().clock;
    let config = dir.path().join("conf");
    let mut logind = Logind::connect(&dir.path().join("bus"), &config, clock).await.unwrap();
    logind.ensure_delay(Duration::from_secs(30)).await.unwrap();
    assert!(!config.exists(), "long enough as it is");
    let lock = logind.inhibit().await.unwrap();
    assert!(!is_released(&fake.locks.lock().unwrap()[0]));
    assert!(logind.next().await.unwrap());
    let owners = fake.calls.lock().unwrap().iter().filter(|c| *c == "GetNameOwner").count();
    assert_eq!(owners, 2, "the first signal was somebody else's");
    drop(lock);
    assert!(is_released(&fake.locks.lock().unwrap()[0]));
}

#[tokio::test]
async fn a_delay_that_is_too_short_is_made_longer() {
    let dir = tempfile::tempdir().unwrap();
    let fake = start(dir.path(), 5_000_000, 40_000_000);
    let config = dir.path().join("conf");
    let clock = knarr_base::Ctx::system().clock;
    let mut logind = Logind::connect(&dir.path().join("bus"), &config, clock).await.unwrap();
    logind.ensure_delay(Duration::from_secs(40)).await.unwrap();
    let text = std::fs::read_to_string(config.join("99-knarr.conf")).unwrap();
    assert!(text.ends_with("[Login]\nInhibitDelayMaxSec=40\n"), "{text}");
    assert_eq!(*fake.calls.lock().unwrap(), ["Hello", "AddMatch", "Get", "KillUnit", "Get"]);
    assert!(remove_logind_override(&config).unwrap());
    assert!(!remove_logind_override(&config).unwrap());
    std::fs::write(config.join("99-knarr.conf"), "[Login]\n").unwrap();
    assert!(!remove_logind_override(&config).unwrap(), "somebody else's");

    let other = tempfile::tempdir().unwrap();
    start(other.path(), 5_000_000, 5_000_000);
    let clock = knarr_base::Ctx::system().clock;
    let mut logind = Logind::connect(&other.path().join("bus"), &config, clock).await.unwrap();
    let error = logind.ensure_delay(Duration::from_secs(40)).await.unwrap_err().to_string();
    assert_eq!(error, "logind's InhibitDelayMaxSec did not become 40 s");
}
