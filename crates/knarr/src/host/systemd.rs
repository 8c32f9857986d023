//! What a service tells systemd (sd_notify(3), sd_watchdog_enabled(3)): that it is ready, that it stops, and, where the unit
//! has `WatchdogSec=`, that its tasks still get to run. Nothing happens elsewhere.

use knarr_base::Ctx;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// A shorter watchdog is a mistake, as upstream's kubelet has it.
const SHORTEST: Duration = Duration::from_secs(1);

/// The service manager that started this process, if there is one.
#[derive(Debug, Default)]
pub struct Systemd {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// It wants to hear something at least this often.
    watchdog: Option<Duration>,
}

impl Systemd {
    /// As the environment says.
    pub fn of_environment() -> Self {
        Self::new(|name| std::env::var(name).ok(), std::process::id())
    }

    fn new(variable: impl Fn(&str) -> Option<String>, own: u32) -> Self {
        let address = variable("NOTIFY_SOCKET").and_then(|name| match name.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name).ok(),
            None => SocketAddr::from_pathname(name).ok(),
        });
        let Some((address, socket)) = address.zip(UnixDatagram::unbound().ok()) else {
            return Self::default();
        };
        // What is meant for another process is none of ours.
        let ours = variable("WATCHDOG_PID").is_none_or(|pid| pid.parse() == Ok(own));
        let every =
            variable("WATCHDOG_USEC").filter(|_| ours).map(|text| text.parse().map(Duration::from_micros));
        let watchdog = match every {
            Some(Ok(every)) if every > SHORTEST => Some(every),
            Some(other) => {
                tracing::warn!(?other, "this watchdog's time cannot be kept; it hears nothing");
                None
            }
            None => None,
        };
        Self { socket: Some((socket, address)), watchdog }
    }

    fn tell(&self, what: &str) {
        let Some((socket, address)) = &self.socket else { return };
        if let Err(error) = socket.send_to_addr(what.as_bytes(), address) {
            tracing::warn!(%error, what, "systemd does not hear this");
        }
    }

    /// Everything runs. From now on the watchdog hears of it, for as long as tasks are run.
    pub fn ready(self, ctx: &Ctx) -> Ready {
        self.tell("READY=1");
        let this = std::sync::Arc::new(self);
        if let Some(every) = this.watchdog {
            let (this, clock) = (this.clone(), ctx.clock.clone());
            ctx.tasks.spawn_until_stopped("watchdog", async move {
                loop {
                    this.tell("WATCHDOG=1");
                    clock.sleep(every / 2).await;
                }
            });
        }
        Ready(this)
    }
}

/// A service that was ready.
pub struct Ready(std::sync::Arc<Systemd>);

impl Ready {
    /// It begins to stop.
    pub fn stopping(&self) {
        self.0.tell("STOPPING=1");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_base::ManualClock;
    use std::collections::HashMap;
    use std::sync::Arc;
    use std::time::SystemTime;

    fn heard(socket: &UnixDatagram) -> Vec<String> {
        let mut all = Vec::new();
        let mut bytes = [0; 64];
        while let Ok(count) = socket.recv(&mut bytes) {
            all.push(String::from_utf8_lossy(&bytes[..count]).into_owned());
        }
        all
    }

    #[tokio::test]
    async fn systemd_hears_what_its_unit_asks_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let path = path.display().to_string();
        let beat = "WATCHDOG=1";
        for (variables, beats) in [
            (vec![], 0),
            (vec![("WATCHDOG_USEC", "20000000")], 3),
            (vec![("WATCHDOG_USEC", "20000000"), ("WATCHDOG_PID", "7")], 3),
            // Of a parent, too short, and nonsense.
            (vec![("WATCHDOG_USEC", "20000000"), ("WATCHDOG_PID", "8")], 0),
            (vec![("WATCHDOG_USEC", "1000000")], 0),
            (vec![("WATCHDOG_USEC", "soon")], 0),
        ] {
            let mut environment: HashMap<&str, &str> = variables.iter().copied().collect();
            environment.insert("NOTIFY_SOCKET", &path);
            let clock = ManualClock::at(SystemTime::UNIX_EPOCH);
            let ctx = Ctx { clock: clock.clone(), ..Ctx::system() };
            let ready = Systemd::new(|name| environment.get(name).map(|v| (*v).to_owned()), 7).ready(&ctx);
            for _ in 0..2 {
                for _ in 0..20 {
                    tokio::task::yield_now().await;
                }
                clock.advance(Duration::from_secs(10));
            }
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            ctx.tasks.stop();
            ready.stopping();
            let expected = [vec!["READY=1"], vec![beat; beats], vec!["STOPPING=1"]].concat();
            assert_eq!(heard(&socket), expected, "{variables:?}");
        }
        // Nobody is told anything where nobody asks.
        let ctx = Ctx { clock: ManualClock::at(SystemTime::UNIX_EPOCH), ..Ctx::system() };
        Systemd::new(|_| None, 7).ready(&ctx).stopping();
        assert_eq!(heard(&socket), Vec::<String>::new());
    }

    #[test]
    fn names_that_begin_with_an_at_sign_are_no_files() {
        let name = format!("knarr-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        socket.set_nonblocking(true).unwrap();
        let at = format!("@{name}");
        let systemd = Systemd::new(|variable| (variable == "NOTIFY_SOCKET").then(|| at.clone()), 1);
        Arc::new(systemd).tell("READY=1");
        assert_eq!(heard(&socket), ["READY=1"]);
    }
}
