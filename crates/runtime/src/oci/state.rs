//! What is kept of a container between commands: `<root>/<id>/state.json`, a copy of its `config.json` (changes
//! of which must have no effect), the fifo that holds it until `start`, and the file for a late failure.

use super::config::{Config, State};
use crate::cgroup::{Cgroup, Hierarchies};
use crate::container::{Context, Failure};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The fifo that a created container waits at; it is there as long as the container is not started.
pub const FIFO: &str = "exec.fifo";

/// Where a container that was started writes why it failed.
pub const FAILURE: &str = "failure";

const RECORD: &str = "state.json";
const CONFIG: &str = "config.json";

/// `state.json`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Record {
    pub id: String,
    pub oci_version: String,
    pub bundle: String,
    pub rootfs: String,
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// The first process; 0 until there is one.
    #[serde(default)]
    pub pid: i32,
    /// Its start in clock ticks since boot, which tells it from a later process of the same number.
    #[serde(default)]
    pub start_ticks: u64,
    /// RFC 3339.
    #[serde(default)]
    pub created: String,
    /// Where the cgroup is.
    #[serde(default)]
    pub cgroup: Place,
}

/// A cgroup's place.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Place {
    /// Path under the mounts, or under the cgroup of whoever made the container.
    pub path: String,
    /// Relative to these cgroups, by hierarchy mount.
    #[serde(default)]
    pub bases: BTreeMap<PathBuf, String>,
}

impl Place {
    /// As a cgroup of this host.
    pub fn cgroup(&self) -> Result<Cgroup, Failure> {
        let hierarchies = Hierarchies::read().context(|| "read mount table")?;
        Ok(hierarchies.below(&self.bases).at(&self.path))
    }
}

/// A container on disk.
pub struct Container {
    pub dir: PathBuf,
    pub record: Record,
}

impl Container {
    /// Loads a container.
    pub fn load(root: &Path, id: &str) -> Result<Self, Failure> {
        check_id(id)?;
        let dir = root.join(id);
        let gone = || Failure::new("container does not exist");
        if !dir.is_dir() {
            return Err(gone());
        }
        let text = std::fs::read(dir.join(RECORD)).map_err(|_| gone())?;
        let record = serde_json::from_slice(&text)
            .map_err(|e| Failure::new(format!("state of container {id}: {e}")))?;
        Ok(Self { dir, record })
    }

    /// Makes the directory of a new one and keeps its configuration.
    pub fn make(root: &Path, record: Record, config: &[u8]) -> Result<Self, Failure> {
        check_id(&record.id)?;
        let what = || format!("state directory {}", root.display());
        std::fs::create_dir_all(root).context(what)?;
        let dir = root.join(&record.id);
        match rustix::fs::mkdir(&dir, Mode::from_raw_mode(0o711)) {
            Err(rustix::io::Errno::EXIST) => {
                return Err(Failure::new("container with given ID already exists"));
            }
            other => other.context(what)?,
        }
        let container = Self { dir, record };
        let write = || -> std::io::Result<()> {
            std::fs::write(container.dir.join(CONFIG), config)?;
            let mode = Mode::from_raw_mode(0o622);
            rustix::fs::mknodat(
                rustix::fs::CWD,
                container.dir.join(FIFO),
                rustix::fs::FileType::Fifo,
                mode,
                0,
            )?;
            Ok(())
        };
        write().context(what).inspect_err(|_| container.remove_files())?;
        container.save().inspect_err(|_| container.remove_files())?;
        Ok(container)
    }

    /// Writes the record.
    pub fn save(&self) -> Result<(), Failure> {
        let what = || format!("write state of container {}", self.record.id);
        let text = serde_json::to_vec(&self.record).map_err(|e| Failure::new(e.to_string()))?;
        let temporary = self.dir.join("state.json.new");
        std::fs::write(&temporary, text).context(what)?;
        std::fs::rename(&temporary, self.dir.join(RECORD)).context(what)
    }

    /// The configuration as it was at the creation.
    pub fn config(&self) -> Result<Config, Failure> {
        let text = std::fs::read(self.dir.join(CONFIG)).context(|| "read configuration of container")?;
        parse_config(&text)
    }

    /// Takes a lock that commands which change the container hold.
    pub fn lock(&self) -> Result<OwnedFd, Failure> {
        let what = || format!("lock container {}", self.record.id);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(&self.dir, flags, Mode::empty()).context(what)?;
        rustix::fs::flock(&dir, rustix::fs::FlockOperation::LockExclusive).context(what)?;
        Ok(dir)
    }

    /// `creating`, `created`, `running`, `paused` or `stopped`.
    pub fn status(&self) -> &'static str {
        if self.record.pid == 0 {
            // Nobody holds the lock any more that its creator took: it never came to be.
            return "creating";
        }
        if start_ticks(self.record.pid) != Some(self.record.start_ticks) {
            return "stopped";
        }
        if self.dir.join(FIFO).exists() {
            return "created";
        }
        match self.record.cgroup.cgroup() {
            Ok(cgroup) if cgroup.is_frozen() => "paused",
            _ => "running",
        }
    }

    /// Whether there is a first process.
    pub fn is_alive(&self) -> bool {
        self.record.pid != 0 && start_ticks(self.record.pid) == Some(self.record.start_ticks)
    }

    /// The state as hooks are told it.
    pub fn state<'a>(&'a self, status: &'a str) -> State<'a> {
        let pid = if status == "stopped" { 0 } else { self.record.pid };
        State {
            oci_version: &self.record.oci_version,
            id: &self.record.id,
            status,
            pid,
            bundle: &self.record.bundle,
            annotations: &self.record.annotations,
        }
    }

    /// Removes what is on disk.
    pub fn remove_files(&self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Reads a configuration.
pub fn parse_config(text: &[u8]) -> Result<Config, Failure> {
    serde_json::from_slice(text).map_err(|error| Failure::new(format!("invalid config.json: {error}")))
}

/// What runc takes as an id.
fn check_id(id: &str) -> Result<(), Failure> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'+' | b'-' | b'.');
    if id.is_empty() || id == "." || id == ".." || id.len() > 1024 || !id.bytes().all(good) {
        return Err(Failure::new(format!("invalid container ID format: {id:?}")));
    }
    Ok(())
}

/// When a process started; none when it is gone or a zombie.
pub fn start_ticks(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    if matches!(fields.next(), Some("Z" | "X")) {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_would_leave_the_state_directory_are_refused() {
        for (id, good) in [("web-1.2_3+x", true), ("", false), ("..", false), ("a/b", false), ("a b", false)]
        {
            assert_eq!(check_id(id).is_ok(), good, "{id:?}");
        }
    }

    #[test]
    fn a_process_is_known_by_its_number_and_start() {
        let own = std::process::id() as i32;
        assert!(start_ticks(own).is_some_and(|ticks| ticks > 0));
        assert_eq!(start_ticks(own), start_ticks(own));
        assert_eq!(start_ticks(i32::MAX), None);
    }
}
