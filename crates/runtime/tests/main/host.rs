//! What a test must not change on the host.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Fails with what is missing for the tests to run.
pub fn check() {
    assert!(rustix::process::geteuid().is_root(), "these tests make containers and need root");
    assert!(Path::new(BUSYBOX).exists(), "{BUSYBOX} is missing: apt-get install busybox-static");
}

/// A static busybox.
pub const BUSYBOX: &str = "/usr/bin/busybox";

/// Mounts, cgroups and processes of the host that have to do with Knarr.
#[derive(PartialEq, Eq)]
pub struct Snapshot {
    mounts: String,
    cgroups: BTreeSet<PathBuf>,
    processes: BTreeSet<String>,
}

impl Snapshot {
    /// As it is now.
    pub fn take() -> Self {
        let mut cgroups = BTreeSet::new();
        find_cgroups(Path::new("/sys/fs/cgroup"), 2, &mut cgroups);
        let processes = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let command = std::fs::read(entry.path().join("cmdline")).ok()?;
            // Only what these tests start; others are at work on the same machine.
            let text = String::from_utf8_lossy(&command).replace('\0', " ");
            text.contains(super::pod::MARK).then(|| format!("{name} {text}"))
        });
        Self {
            mounts: std::fs::read_to_string("/proc/self/mountinfo").unwrap(),
            cgroups,
            processes: processes.collect(),
        }
    }

    /// What is there now that was not there then.
    pub fn left_over(&self) -> Result<(), String> {
        let now = Self::take();
        let here = |text: &str| text.lines().filter(|l| l.contains(super::pod::MARK)).count();
        if here(&now.mounts) != here(&self.mounts) {
            return Err(format!("mounts: {}", now.mounts));
        }
        for (what, more) in [
            (
                "cgroups",
                now.cgroups.difference(&self.cgroups).map(|p| p.display().to_string()).collect::<Vec<_>>(),
            ),
            ("processes", now.processes.difference(&self.processes).cloned().collect()),
        ] {
            if !more.is_empty() {
                return Err(format!("{what}: {more:?}"));
            }
        }
        Ok(())
    }
}

fn find_cgroups(dir: &Path, depth: u32, found: &mut BTreeSet<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if entry.file_name().to_string_lossy().contains(super::pod::MARK) {
            found.insert(entry.path());
        } else if depth > 1 {
            find_cgroups(&entry.path(), depth - 1, found);
        }
    }
}
