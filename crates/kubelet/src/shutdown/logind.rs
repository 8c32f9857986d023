//! systemd-logind over the system bus (org.freedesktop.login1, "Inhibitor Locks"): a lock that delays shutdowns, how
//! long it may, and the signal that one has begun.

use super::bus::{Answer, BUS, Bus};
use super::message::{Address, Arg};
use knarr_base::clock::{Clock, timeout};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const LOGIND: &str = "org.freedesktop.login1";
const PATH: &str = "/org/freedesktop/login1";
const MANAGER: &str = "org.freedesktop.login1.Manager";
/// Nobody on this machine takes longer to answer, as D-Bus libraries have it.
const PATIENCE: Duration = Duration::from_secs(25);
/// logind reads its configuration a moment after it is told to: looked at so often, first after so long, then doubled.
const LOOKS: u32 = 5;
const FIRST_LOOK: Duration = Duration::from_millis(100);
/// Of upstream's name but for the program.
const OVERRIDE: &str = "99-knarr.conf";

/// logind.
pub(super) struct Logind {
    bus: Bus,
    clock: Arc<dyn Clock>,
    /// Where more of logind's configuration is looked for, `/etc/systemd/logind.conf.d`.
    config_dir: PathBuf,
}

impl Logind {
    /// Connects to it by the bus's socket, and listens for shutdowns.
    pub(super) async fn connect(socket: &Path, config_dir: &Path, clock: Arc<dyn Clock>) -> io::Result<Self> {
        let bus = timeout(&*clock, PATIENCE, Bus::connect(socket)).await.ok_or_else(late)??;
        let mut this = Self { bus, clock, config_dir: config_dir.to_owned() };
        let rule = format!(
            "type='signal',sender='{LOGIND}',interface='{MANAGER}',member='PrepareForShutdown',path='{PATH}'"
        );
        let to = Address {
            destination: BUS,
            path: "/org/freedesktop/DBus",
            interface: BUS,
            member: "AddMatch",
            ..Address::default()
        };
        this.call(to, &[Arg::Str(&rule)]).await?;
        Ok(this)
    }

    async fn call(&mut self, to: Address<'_>, arguments: &[Arg<'_>]) -> io::Result<Answer> {
        timeout(&*self.clock, PATIENCE, self.bus.call(to, arguments)).await.ok_or_else(late)?
    }

    /// How long a lock delays a shutdown at most.
    async fn delay(&mut self) -> io::Result<Duration> {
        let to = Address {
            destination: LOGIND,
            path: PATH,
            interface: "org.freedesktop.DBus.Properties",
            member: "Get",
            ..Address::default()
        };
        let arguments = [Arg::Str(MANAGER), Arg::Str("InhibitDelayMaxUSec")];
        let answer = self.call(to, &arguments).await?;
        answer.message.body.variant_u64().map(Duration::from_micros)
    }

    /// Has logind wait for as long as `wanted`, by a file of its configuration where it does not already.
    pub(super) async fn ensure_delay(&mut self, wanted: Duration) -> io::Result<()> {
        if self.delay().await? >= wanted {
            return Ok(());
        }
        std::fs::create_dir_all(&self.config_dir)?;
        let text = format!("{MARK}\n[Login]\nInhibitDelayMaxSec={}\n", wanted.as_secs());
        std::fs::write(self.config_dir.join(OVERRIDE), text)?;
        let to = Address {
            destination: "org.freedesktop.systemd1",
            path: "/org/freedesktop/systemd1",
            interface: "org.freedesktop.systemd1.Manager",
            member: "KillUnit",
            ..Address::default()
        };
        let hangup = rustix::process::Signal::HUP.as_raw();
        let arguments = [Arg::Str("systemd-logind.service"), Arg::Str("all"), Arg::I32(hangup)];
        self.call(to, &arguments).await?;
        let mut pause = FIRST_LOOK;
        for _ in 0..LOOKS {
            if self.delay().await? >= wanted {
                return Ok(());
            }
            self.clock.sleep(pause).await;
            pause *= 2;
        }
        Err(io::Error::other(format!("logind's InhibitDelayMaxSec did not become {} s", wanted.as_secs())))
    }

    /// Takes a lock: while it is open, a shutdown waits.
    pub(super) async fn inhibit(&mut self) -> io::Result<OwnedFd> {
        let to = Address {
            destination: LOGIND,
            path: PATH,
            interface: MANAGER,
            member: "Inhibit",
            ..Address::default()
        };
        let why = "Kubelet needs time to handle node shutdown";
        let arguments = [Arg::Str("shutdown"), Arg::Str("kubelet"), Arg::Str(why), Arg::Str("delay")];
        let answer = self.call(to, &arguments).await?;
        let index = answer.message.body.fd()?;
        answer.fds.into_iter().nth(index).ok_or_else(|| io::Error::other("logind sent no lock"))
    }

    /// Waits until a shutdown begins (`true`) or is called off.
    pub(super) async fn next(&mut self) -> io::Result<bool> {
        loop {
            let signal = self.bus.signal().await?;
            if (signal.interface.as_str(), signal.member.as_str(), signal.path.as_str())
                != (MANAGER, "PrepareForShutdown", PATH)
            {
                continue;
            }
            // Any process may send this machine's root a signal directly, past the rule: all pods are at stake.
            if signal.sender != self.owner().await? {
                tracing::warn!(sender = signal.sender, "a shutdown was told by somebody else than logind");
                continue;
            }
            return signal.body.bool();
        }
    }

    async fn owner(&mut self) -> io::Result<String> {
        let answer = timeout(&*self.clock, PATIENCE, self.bus.of_bus("GetNameOwner", &[Arg::Str(LOGIND)]));
        answer.await.ok_or_else(late)??.message.body.string()
    }
}

/// The first line of the file that is put into logind's configuration, by which it is known again.
pub(super) const MARK: &str = "# Knarr's: pods are given time to end when this machine is shut down";

/// Removes the file that was put into logind's configuration, if it is there and ours.
pub fn remove_logind_override(config_dir: &Path) -> io::Result<bool> {
    let path = config_dir.join(OVERRIDE);
    match std::fs::read_to_string(&path) {
        Ok(text) if text.starts_with(MARK) => std::fs::remove_file(path).map(|()| true),
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the system bus does not answer")
}
