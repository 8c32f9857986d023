//! The data directory: one `knarr` at a time, of a version that can read it.

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The layout of the data directory. Raised when an older `knarr` could not read what a newer one wrote.
const FORMAT: u32 = 1;

/// Where things are inside the data directory.
#[derive(Clone, Debug)]
pub struct Layout(pub PathBuf);

impl Layout {
    /// The store.
    pub fn store(&self) -> PathBuf {
        self.0.join("store")
    }
    /// Certificates and keys.
    pub fn pki(&self) -> PathBuf {
        self.0.join("pki")
    }
    /// What a machine that joined another's cluster knows of it.
    pub fn membership(&self) -> PathBuf {
        self.0.join("agent.json")
    }
    /// Shims.
    pub fn runtime(&self) -> PathBuf {
        self.0.join("runtime")
    }
    /// Images.
    pub fn images(&self) -> PathBuf {
        self.0.join("images")
    }
    /// Volumes and files of pods.
    pub fn kubelet(&self) -> PathBuf {
        self.0.join("kubelet")
    }
    /// Manifests of static pods.
    pub fn manifests(&self) -> PathBuf {
        self.0.join("manifests")
    }
    /// Logs of containers.
    pub fn logs(&self) -> PathBuf {
        self.0.join("logs")
    }
    /// State of the pod network.
    pub fn network(&self) -> PathBuf {
        self.0.join("network")
    }
    /// Output of a cluster that runs in the background.
    pub fn log_file(&self) -> PathBuf {
        self.0.join("knarr.log")
    }
    /// The running cluster's socket.
    pub fn socket(&self) -> PathBuf {
        self.0.join("knarr.sock")
    }
}

/// The exclusive right to a data directory; given up when dropped.
pub struct Lock {
    file: File,
}

/// Who holds the data directory, if anybody does.
pub fn holder(dir: &Path) -> Result<Option<i32>> {
    let path = dir.join("lock");
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(None),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut text = String::new();
            file.read_to_string(&mut text)?;
            Ok(Some(text.trim().parse().unwrap_or_default()))
        }
        Err(errno) => Err(errno).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// Makes the directory if need be, takes it, and checks that its layout is one this version reads.
pub fn open(dir: &Path) -> Result<Lock> {
    std::fs::create_dir_all(dir)
        .with_context(|| format!("cannot create the data directory {}", dir.display()))?;
    let path = dir.join("lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("cannot write to the data directory {}", dir.display()))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut text = String::new();
        let _ = file.read_to_string(&mut text);
        bail!(
            "another knarr (process {}) runs on the data directory {}; see it with 'knarr status', stop it with \
             'knarr down', or give this one another --data-dir",
            text.trim(),
            dir.display()
        );
    }
    check_format(dir)?;
    file.set_len(0)?;
    file.rewind()?;
    write!(file, "{}", std::process::id()).with_context(|| {
        format!(
            "cannot write to the data directory {}: is the disk full? See 'df -h {}'",
            dir.display(),
            dir.display()
        )
    })?;
    Ok(Lock { file })
}

/// [`open`] for a directory whose holder was just told to stop: waits a little for it to end.
pub fn wait(dir: &Path) -> Result<Lock> {
    const ATTEMPTS: u32 = 100;
    const PAUSE: std::time::Duration = std::time::Duration::from_millis(100);
    for _ in 0..ATTEMPTS {
        if holder(dir)?.is_none() {
            break;
        }
        #[allow(clippy::disallowed_methods)] // a command, not a part of a control plane
        std::thread::sleep(PAUSE);
    }
    open(dir)
}

/// Unmounts everything below the directory, deepest first; says how many there were.
pub fn unmount_below(dir: &Path) -> Result<usize> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").context("cannot read the mount table")?;
    let below = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    let mut below: Vec<PathBuf> = below.filter(|path| path.starts_with(dir) && path != dir).collect();
    below.sort();
    for path in below.iter().rev() {
        rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH)
            .with_context(|| format!("cannot unmount {}", path.display()))?;
    }
    Ok(below.len())
}

/// The mount table writes blanks and such as octal numbers.
fn unescape(text: &str) -> PathBuf {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\").into()
}

fn check_format(dir: &Path) -> Result<()> {
    let path = dir.join("format");
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            let found: u32 =
                text.trim().parse().with_context(|| format!("{} does not hold a number", path.display()))?;
            if found > FORMAT {
                bail!(
                    "the data directory {} was written by a newer knarr (format {found}, this one reads up to {FORMAT}); \
                     install that version, or start with another --data-dir",
                    dir.display()
                );
            }
            Ok(())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            std::fs::write(&path, format!("{FORMAT}\n"))
                .with_context(|| format!("cannot write {}; is the disk full?", path.display()))
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = self.file.set_len(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_held_once_and_newer_ones_are_refused() {
        let dir = std::env::temp_dir().join(format!("knarr-data-{}", std::process::id()));
        let first = open(&dir).expect("nobody holds it");
        assert_eq!(holder(&dir).expect("readable"), Some(std::process::id().cast_signed()));
        let refused = open(&dir).err().expect("it is held").to_string();
        assert!(refused.contains("another knarr"), "{refused}");
        drop(first);
        assert_eq!(holder(&dir).expect("readable"), None);
        std::fs::write(dir.join("format"), "99").expect("writable");
        let refused = open(&dir).err().expect("it is newer").to_string();
        assert!(refused.contains("newer knarr"), "{refused}");
        std::fs::remove_dir_all(&dir).expect("removable");
    }
}
